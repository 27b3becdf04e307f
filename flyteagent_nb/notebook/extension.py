"""``%load_ext`` and ``%unload_ext``: every hook that we put into IPython, put in and taken out again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import types
from typing import TYPE_CHECKING, Any

from flyteagent_nb import __version__
from flyteagent_nb.errors import FlyteAgentNBError, TaskStopped
from flyteagent_nb.loop import prepare_fork
from flyteagent_nb.notebook import render
from flyteagent_nb.notebook.completion import complete, files
from flyteagent_nb.notebook.local_execution import LocalExecution
from flyteagent_nb.notebook.magics import AgentMagics
from flyteagent_nb.notebook.manual import help_text
from flyteagent_nb.notebook.page import Block, Page
from flyteagent_nb.notebook.ran_cells import RanCells
from flyteagent_nb.notebook.showing import Showing
from flyteagent_nb.notebook.waiting import take_spread_stop, uninterrupted
from flyteagent_nb.running.run import Run
from flyteagent_nb.serving.cell_names import name_cells
from flyteagent_nb.wire import KERNEL_SERVICE
from flyteagent_nb.workspace import get_workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyteagent_nb.workspace import Workspace


_DEFINITIONS = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)

KEPT_OFFERED = 100
"""Runs on record that the Tab key offers: it shall answer at once, and nobody reads more."""

_ALONE = re.compile(r"%%agent_task(\s|$)")


class Extension:
    """Our hooks in one IPython shell."""

    def __init__(self, shell: Any, workspace: Workspace, cells: RanCells) -> None:
        self._shell = shell
        self._workspace = workspace
        self._cells = cells
        self._page = Page(shell)
        self._showing = Showing(workspace, self._page)
        self._local = LocalExecution(workspace, self._showing)
        self._put_back: list[Callable[[], object]] = []

    def load(self) -> None:
        """Put every hook in, and open the workspace in the background."""
        shell = self._shell
        fork_safe = prepare_fork()
        magics = AgentMagics(shell, self._workspace, self._showing, self._cells)
        AgentMagics.agent_task.__doc__ = help_text("agent_task")
        AgentMagics.agent.__doc__ = help_text("agent")
        shell.register_magics(magics)
        self._put_back.append(lambda: self._forget_magics(magics))
        self._show_errors()
        self._show_runs()
        self._complete()
        self._take_empty_cells()
        shell.configurables.append(self._workspace.config)
        self._put_back.append(lambda: shell.configurables.remove(self._workspace.config))
        shell.events.register("post_run_cell", self._after_cell)
        self._put_back.append(lambda: shell.events.unregister("post_run_cell", self._after_cell))
        if not fork_safe:
            self._system_by_subprocess()
        self._put_back.append(self._local.remove)
        self._workspace.kernel_id = _kernel_id(shell)
        self._workspace.on_wait = self._showing.starting
        self._put_back.append(lambda: setattr(self._workspace, "on_wait", None))
        self._workspace.open(on_flytekit=self._local.install)

    def unload(self) -> int:
        """Take every hook out and close the workspace.

        Returns:
            How many runs were still under way.
        """
        try:
            return self._workspace.close()
        finally:
            while self._put_back:
                self._put_back.pop()()

    def _forget_magics(self, magics: AgentMagics) -> None:
        self._shell.configurables.remove(magics)  # where Magics puts itself
        found = self._shell.magics_manager
        for kind, name in (("line", "agent"), ("line", "agent_task"), ("cell", "agent_task")):
            found.magics[kind].pop(name, None)
        found.registry.pop(AgentMagics.__name__, None)

    def _show_errors(self) -> None:
        """Show our errors as our few lines, whoever has replaced the shell's traceback (flytekit brings rich's).

        IPython has one slot for this: what was in it is asked for everything else, and put back at the end.
        """
        shell = self._shell
        before_types, before = shell.custom_exceptions, shell.CustomTB

        def show(
            shell: Any, kind: type[BaseException], error: BaseException, traceback: Any, tb_offset: Any = None
        ) -> Any:
            if not isinstance(error, (FlyteAgentNBError, TaskStopped)):
                return before(kind, error, traceback, tb_offset=tb_offset)
            self._showing.failed(error)
            mask = self._workspace.masking.text
            lines = [render.for_terminal(name_cells(mask(line))) for line in error._render_traceback_()]
            type(shell)._showtraceback(shell, kind, error, lines)
            return lines

        shell.set_custom_exc((FlyteAgentNBError, TaskStopped, *before_types), show)
        ours = shell.CustomTB

        def put_back() -> None:
            if shell.CustomTB is ours:
                shell.custom_exceptions, shell.CustomTB = before_types, before

        self._put_back.append(put_back)

    def _show_runs(self) -> None:
        """Let runs, panels and forms that are displayed show themselves, and follow them while they go on."""
        formatter = self._shell.display_formatter.ipython_display_formatter
        for shown, show in ((Run, self._showing.show), (Block, self._page.show)):
            formatter.for_type(shown, show)
        self._put_back.append(lambda: [formatter.pop(shown, None) for shown in (Run, Block)])
        self._shell.events.register("pre_run_cell", self._page.before_cell)
        self._put_back.append(lambda: self._shell.events.unregister("pre_run_cell", self._page.before_cell))
        self._put_back.append(self._page.close)

    def _complete(self) -> None:
        from IPython.core.completer import SimpleCompletion, context_matcher

        known = Session(self._shell, self._workspace)

        @context_matcher()  # type: ignore[untyped-decorator]
        def flyteagent_nb_matcher(context: Any) -> Any:
            nothing: dict[str, Any] = {"completions": []}
            lines = context.full_text.splitlines() or [""]
            line = lines[context.cursor_line] if context.cursor_line < len(lines) else ""
            for mark, magic in (("%%agent_task", "agent_task"), ("%agent", "agent")):
                at = line.find(mark + " ")
                if at < 0 or (magic == "agent_task" and (at or context.cursor_line)):
                    continue
                begin = at + len(mark) + 1
                cursor = context.cursor_position - begin
                if cursor < 0:
                    return nothing
                found = complete(magic, line[begin:], cursor, known)
                typed = line[begin + found.start : context.cursor_position]
                # With nothing to offer IPython would offer its files, and Python's names: what is typed stands for nothing.
                texts = found.matches or (files(typed) if found.files else []) or [typed]
                return {
                    "completions": [SimpleCompletion(text, type="magic") for text in texts],
                    "matched_fragment": typed,
                    "suppress": True,
                }
            return nothing

        matchers = self._shell.Completer.custom_matchers
        matchers.append(flyteagent_nb_matcher)
        self._put_back.append(lambda: matchers.remove(flyteagent_nb_matcher))

    def _take_empty_cells(self) -> None:
        """Let ``%%agent_task --help`` stand alone: IPython itself refuses a cell magic without a body, and gives bad advice."""

        def add_body(lines: list[str]) -> list[str]:
            if lines and _ALONE.match(lines[0]) and not "".join(lines[1:]).strip():
                return [lines[0].rstrip("\n") + "\n", "\n"]
            return lines

        add_body.has_side_effects = True  # type: ignore[attr-defined]  # so a terminal still waits for the body
        transforms = self._shell.input_transformers_cleanup
        transforms.append(add_body)
        self._put_back.append(lambda: transforms.remove(add_body))

    def _after_cell(self, result: Any) -> None:
        """Say what came up meanwhile, where a person looks, and from the main thread."""
        self._page.after_cell()
        self._cells.after_cell(result)
        error = result.error_in_exec
        if isinstance(error, RuntimeError) and not isinstance(error, FlyteAgentNBError) and "event loop" in str(error):
            self._workspace.notice(
                "hint: %agent nest lets code in a cell run an event loop of its own, inside the kernel's"
            )
        stop = take_spread_stop()
        if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)) and not isinstance(error, TaskStopped):
            if stop is not None:
                self._workspace.notice(str(stop))
            self._tell_open_runs()
        if isinstance(error, TaskStopped) and (blocked := self._workspace.blocked_by()):
            agent, operation, seconds = blocked
            self._workspace.notice(
                f"warning: agent '{agent}' has kept the event loop busy for {render.seconds(seconds)} in its `async def {operation}`: "
                "nothing else, this stop too, gets through to an agent of this kernel until it returns or the kernel is restarted"
            )
        _tell_notices(self._workspace)

    def _tell_open_runs(self) -> None:
        """Say which runs go on although the cell was stopped: it awaited them, and a wait that ends does not end its run."""
        if self._workspace.state != "serving":
            return
        runs = [run for run in self._workspace.runner.runs() if not run.done]
        if len(runs) == 1:
            self._workspace.notice(
                f"note: run {runs[0].id} of {runs[0].name} goes on; %agent cancel {runs[0].id} stops it"
            )
        elif runs:
            self._workspace.notice(
                f"note: {len(runs)} runs go on; %agent runs lists them, %agent cancel --all stops them"
            )

    def _system_by_subprocess(self) -> None:
        """Let ``!command`` go through subprocess, which runs no fork handlers: grpc was imported before us, with its own on."""
        shell = self._shell
        had = "system" in shell.__dict__
        before = shell.__dict__.get("system")

        def system(command: str) -> None:
            text = shell.var_expand(command, depth=1)
            with subprocess.Popen(
                text,
                shell=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as process:
                assert process.stdout is not None
                try:
                    for line in process.stdout:
                        sys.stdout.write(line)
                except KeyboardInterrupt:
                    process.terminate()
                    sys.stdout.write("^C\n")
            shell.user_ns["_exit_code"] = process.returncode

        shell.system = system

        def put_back() -> None:
            if had:
                shell.system = before
            else:
                del shell.system

        self._put_back.append(put_back)


def _tell_notices(workspace: Workspace) -> None:
    for line in workspace.take_notices():
        sys.stderr.write(render.for_terminal(line) + "\n")


class Session:
    """What is known by name, for completion. Nothing here waits."""

    def __init__(self, shell: Any, workspace: Workspace) -> None:
        self._shell = shell
        self._workspace = workspace

    def task_types(self) -> list[str]:
        """The task types of all services."""
        own = self.own_types()
        if self._workspace.state != "serving":
            return own
        return list(dict.fromkeys([*own, *(task_type for task_type, _ in self._workspace.runner.router.table())]))

    def own_types(self) -> list[str]:
        """The task types of this kernel's own agents."""
        return [entry.task_type for entry in self._workspace.catalog.entries()]

    def routes(self) -> list[str]:
        """The explicit routes."""
        if self._workspace.state != "serving":
            return []
        routes = self._workspace.runner.router.routes()
        return [name if version is None else f"{name}@{version}" for name, version in routes]

    def run_ids(self) -> list[str]:
        """The ids of the runs, newest first."""
        if self._workspace.state != "serving":
            return []
        here = [run.id for run in self._workspace.runner.runs()]
        return [*here, *self._workspace.kept.ids(KEPT_OFFERED)]

    def variables(self) -> list[str]:
        """The user's variables, but for modules, classes and functions, which are no values of a task."""
        hidden = self._shell.user_ns_hidden
        return [
            name
            for name, value in self._shell.user_ns.items()
            if not name.startswith("_") and name not in hidden and not isinstance(value, _DEFINITIONS)
        ]

    def tasks(self) -> list[str]:
        """The user's variables that hold tasks."""
        if "flytekit" not in sys.modules:
            return []
        from flytekit.core.base_task import PythonTask

        return [name for name in self.variables() if isinstance(self._shell.user_ns[name], PythonTask)]

    def secrets(self) -> list[str]:
        """The secrets that were given, and those that agents miss."""
        from flyteagent_nb.notebook.requirements import missing_secrets

        return missing_secrets(self._workspace)

    def services(self) -> list[str]:
        """The agent services."""
        if self._workspace.state != "serving":
            return [KERNEL_SERVICE]
        return [each.name for each in self._workspace.runner.router.connections()]

    def addresses(self) -> list[str]:
        """The addresses that ``serve`` opened."""
        return [address.target for address in self._workspace.addresses() if address.kind != "private"]

    def config_fields(self, task_type: str) -> list[str]:
        """The configuration keys of a task type."""
        if "flytekit" not in sys.modules or not task_type:
            return []
        from flyteagent_nb.notebook.task_classes import config_fields

        return config_fields(task_type)

    def inputs(self, task: str) -> list[str]:
        """The inputs of the task that a variable holds."""
        interface = getattr(self._shell.user_ns.get(task), "python_interface", None)
        return list(interface.inputs) if interface is not None else []


def _kernel_id(shell: Any) -> str:
    """The id that Jupyter has for this kernel, from the name of its connection file; empty in a terminal."""
    kernel = getattr(shell, "kernel", None)
    name = os.path.basename(str(getattr(getattr(kernel, "parent", None), "connection_file", "") or ""))
    return name.removeprefix("kernel-").removesuffix(".json")


_extension: Extension | None = None
_cells: RanCells | None = None  # it stays when the extension is loaded again


def load(shell: Any) -> None:
    """Load into ``shell``; returns at once."""
    global _extension, _cells
    if _extension is not None:
        return
    if _cells is None or _cells.shell is not shell:
        _cells = RanCells(shell)
    with uninterrupted():
        _extension = Extension(shell, get_workspace(), _cells)
        _extension.load()
    sys.stdout.write(
        f"flyteagent_nb {__version__}: an agent service starts in this kernel. %agent shows it, %%agent_task runs a task.\n"
    )
    newest, count = get_workspace().left_open()
    if count:
        sys.stdout.write(render.left_open_text([record.snapshot for record in newest], count) + "\n")


def unload(shell: Any) -> None:
    """Take everything out of ``shell``."""
    global _extension
    if _extension is None:
        return
    workspace = get_workspace()
    if workspace.state == "starting":  # the stop button may end this wait, and nothing has changed then
        with contextlib.suppress(FlyteAgentNBError):
            workspace.wait()
    with uninterrupted():
        extension, _extension = _extension, None
        left = extension.unload()
    _tell_notices(workspace)
    if left:
        sys.stdout.write(f"flyteagent_nb: {left} run{'s were' if left > 1 else ' was'} under way; remote jobs go on.\n")
