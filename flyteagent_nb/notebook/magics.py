"""``%%agent_task`` and ``%agent``: dispatch only. What they say is in the grammar, what they do is in the workspace."""

from __future__ import annotations

import ast
import asyncio
import linecache
import sys
from collections import ChainMap
from functools import partial
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, needs_local_scope, no_var_expand

from flyteagent_nb.errors import ArgumentError, CellError, TaskTypeNotFoundError
from flyteagent_nb.notebook.arguments import hides_output, parse_agent, parse_agent_task
from flyteagent_nb.notebook.manual import help_text
from flyteagent_nb.notebook.named_tasks import named_task
from flyteagent_nb.notebook.record_verbs import RecordVerbs
from flyteagent_nb.notebook.values import input_values
from flyteagent_nb.notebook.views import AgentList, DryRun, Lines, Pairs, Served, View, open_words
from flyteagent_nb.notebook.waiting import stop_guard, stopped_as
from flyteagent_nb.plugins import hint_of_type

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flyteagent_nb.notebook.arguments import AgentArguments, AgentTaskArguments, SubmitArguments
    from flyteagent_nb.notebook.ran_cells import RanCells
    from flyteagent_nb.notebook.showing import Showing
    from flyteagent_nb.running.run import Run
    from flyteagent_nb.workspace import Workspace


@magics_class
class AgentMagics(Magics):
    """The magics of flyteagent_nb."""

    shell: Any

    def __init__(self, shell: Any, workspace: Workspace, showing: Showing, cells: RanCells) -> None:
        super().__init__(shell)
        self._cells = cells
        self._workspace = workspace
        self._showing = showing

    @no_var_expand
    @line_cell_magic
    def agent_task(self, line: str, cell: str | None = None) -> Any:
        """Run the cell as a task of a Flyte agent."""
        __tracebackhide__ = _rich_traceback_omit = True  # an error in the user's own Python is not ours to explain
        try:
            arguments = parse_agent_task(_without_question(line))
        except ArgumentError:
            if cell is None:  # with the task on it the line reads as anything
                raise _no_cell() from None
            raise
        if arguments.help or line.rstrip().endswith("?"):
            return Lines(help_text("agent_task").splitlines())
        if cell is None:
            raise _no_cell()
        workspace = self._workspace
        workspace.wait()
        self._known_type(arguments)
        inputs = input_values(arguments.inputs, arguments.inputs_mapping, self.shell.user_ns)
        from flyteagent_nb.notebook.cells import task_of_cell

        task, inputs = task_of_cell(
            arguments,
            cell,
            namespace=self.shell.user_ns,
            inputs=inputs,
            compile_python=self._compile_python,
            versions=lambda name: (
                [e.version for e in workspace.catalog.entries() if e.task_type == name]
                or workspace.runner.router.versions(name)
            ),
            default_name=f"{arguments.task_type}_{self._cell_number()}",
        )
        if arguments.form:
            return self._form_of(task, inputs, arguments, code=arguments.code)
        value = self._execute(task, inputs, arguments, code=arguments.code)
        return None if hides_output(line) else value

    @needs_local_scope
    @no_var_expand
    @line_magic
    def agent(self, line: str, local_ns: Mapping[str, Any] | None = None) -> Any:
        """Show the agents of this notebook and their runs."""
        arguments = parse_agent(_without_question(line))
        if arguments.help or line.rstrip().endswith("?"):
            return Lines(help_text("agent", arguments.verb).splitlines())
        with stopped_as(f"%agent {arguments.verb or ''}".rstrip() + " was stopped by the user"):
            value = self._perform(arguments, ChainMap(dict(local_ns or {}), self.shell.user_ns))
        return None if hides_output(line) and _is_statement(self.shell) else value

    # --- the verbs ---

    def _perform(self, arguments: AgentArguments, names: Mapping[str, Any]) -> Any:
        """Perform a verb; ``names`` are the variables where its line stands, those of a function before the notebook's."""
        if arguments.verb == "doctor":  # of use most of all where the service does not start
            return self._doctor(arguments)
        if arguments.verb == "secret":  # a person need not wait to be asked
            return self._secret(arguments)
        self._workspace.wait()
        if arguments.verb is None:
            return self._showing.panel()
        from flyteagent_nb.notebook.service_verbs import ServiceVerbs  # it brings grpc, for which a load does not wait

        record, services = RecordVerbs(self._workspace, self.shell), ServiceVerbs(self._workspace)
        verbs: dict[str, Callable[[AgentArguments], Any]] = {
            "types": self._types,
            "run": partial(self._run, names=names),
            "form": partial(self._form, names=names),
            "runs": record.runs,
            "show": record.show,
            "logs": record.logs,
            "cancel": record.cancel,
            "attach": record.attach,
            "settle": record.settle,
            "connect": services.connect,
            "disconnect": services.disconnect,
            "route": services.route,
            "unroute": services.unroute,
            "serve": self._serve,
            "stop": self._stop,
            "sandbox": partial(self._sandbox, names=names),
            "check": self._check_agent,
            "export": self._export,
            "remove": self._remove,
            "nest": self._nest,
        }
        return verbs[arguments.verb](arguments)

    def _types(self, arguments: AgentArguments) -> View:
        from flyteagent_nb.notebook.requirements import notes_of
        from flyteagent_nb.notebook.service_verbs import ServiceVerbs

        routed = ServiceVerbs(self._workspace).table()
        if routed is not None:
            return routed
        entries = self._workspace.catalog.entries()
        return AgentList(entries, self._workspace.catalog.broken, notes_of(entries, self._workspace.secrets.names))

    def _doctor(self, arguments: AgentArguments) -> View:
        from flyteagent_nb.notebook.doctor import examine

        return examine(self._workspace, self._showing.page, arguments.task_type)

    def _secret(self, arguments: AgentArguments) -> View:
        from flyteagent_nb.notebook.secret_verb import run_secret

        return run_secret(arguments, self._workspace)

    def _run(self, arguments: AgentArguments, names: Mapping[str, Any]) -> Any:
        inputs = input_values(arguments.inputs, "", names)
        task = named_task(arguments.task, names)
        if not arguments.compare:
            return self._execute(task, inputs, arguments)
        from flyteagent_nb.notebook.comparing import compare

        return compare(task, inputs, arguments, self._workspace, self._showing)

    def _form(self, arguments: AgentArguments, names: Mapping[str, Any]) -> Any:
        inputs = input_values(arguments.inputs, "", names)
        return self._form_of(named_task(arguments.task, names), inputs, arguments, command=arguments.task)

    def _form_of(
        self, task: Any, inputs: Mapping[str, Any], arguments: SubmitArguments, *, command: str = "", code: str = ""
    ) -> Any:
        from flyteagent_nb.notebook.form import FormBlock

        return FormBlock(
            task,
            self._workspace,
            self._showing.page,
            self.shell.user_ns,
            values=inputs,
            command=command,
            service=arguments.service or None,
            retries=arguments.retries,
            timeout=None if arguments.timeout is None else arguments.timeout.total_seconds(),
            code=code,
        )

    def _serve(self, arguments: AgentArguments) -> View:
        address = self._workspace.serve(
            arguments.port,
            arguments.host,
            open=arguments.open,
            certificate=arguments.certificate,
            key=arguments.key,
        )
        if address.kind == "open":  # also where the result is bound, and not shown
            self._workspace.notice(f"warning: {open_words(address)}; %agent stop {address.target} closes it")
        return Served(address)

    def _stop(self, arguments: AgentArguments) -> View:
        stopped = self._workspace.stop_serving(arguments.address or None)
        return Pairs(
            [("stopped", address.target) for address in stopped]
            or [("stopped", "nothing: only the private socket is served")]
        )

    def _sandbox(self, arguments: AgentArguments, names: Mapping[str, Any]) -> View:
        from flyteagent_nb.notebook.sandbox_verb import run_sandbox

        return run_sandbox(arguments, self._workspace, self._showing, names)

    def _check_agent(self, arguments: AgentArguments) -> View:
        from flyteagent_nb.notebook.check_verb import run_check

        return run_check(arguments, self._workspace, self._showing, self.shell.user_ns, self._cells.all())

    def _export(self, arguments: AgentArguments) -> View:
        from flyteagent_nb.notebook.export_verb import run_export

        return run_export(arguments, self._workspace, self._showing, self.shell.user_ns, self._cells.all())

    def _remove(self, arguments: AgentArguments) -> View:
        removed = self._workspace.remove(arguments.task_type, arguments.version)
        return AgentList(removed, ())

    def _nest(self, arguments: AgentArguments) -> View:
        loop = asyncio.get_event_loop_policy().get_event_loop()
        if _nested(loop):
            return Pairs([("nested loops", "work already: the kernel's loop is patched")])
        import nest_asyncio

        nest_asyncio.apply(loop)
        return Pairs([("nested loops", "work now: asyncio.run and run_until_complete may be called in a cell")])

    # --- running ---

    def _execute(self, task: Any, inputs: Mapping[str, Any], arguments: SubmitArguments, *, code: str = "") -> Any:
        """Submit, wait unless told not to, bind and show."""
        self._check(task, arguments)
        workspace, namespace = self._workspace, self.shell.user_ns
        retries, timeout = arguments.retries, arguments.timeout
        seconds = None if timeout is None else timeout.total_seconds()
        if arguments.dry_run:
            call = workspace.call_of(task, inputs, retries=retries, timeout=seconds, code=code)
            return DryRun(
                call.template,
                call.inputs if call.inputs is not None or call.prepare is None else call.prepare(),
                workspace.masking.text,
            )
        service = arguments.service or None

        def submit() -> Run:
            if arguments.on:
                from flyteagent_nb.shipping.cluster import submit_to_cluster

                return submit_to_cluster(workspace, task, inputs, arguments.on)
            return workspace.submit(task, inputs, service=service, retries=retries, timeout=seconds, code=code)

        if arguments.background:
            run = submit()
            self._bind(arguments.run_name, run)
            return run
        with self._showing.wait(quiet=arguments.quiet, preview=bool(arguments.outputs)) as wait:
            with stop_guard(workspace.config.stop_grace, wait) as guard:
                run = submit()
                wait.started(run)
                self._bind(arguments.run_name, run)
                guard.wait([run])
            value = run.result()
        wait.show()
        names = arguments.outputs
        if not names:
            return value
        values = (value,) if len(names) == 1 else value
        namespace.update({name: each for name, each in zip(names, values, strict=True) if name != "_"})
        return None

    def _check(self, task: Any, arguments: SubmitArguments) -> None:
        """Tell what cannot come to a good end before anything is sent.

        Raises:
            ArgumentError: ``-o`` does not fit the task's outputs.
            TaskTypeNotFoundError: no agent runs this task, a plain function.
        """
        names, declared = arguments.outputs, list(task.python_interface.outputs)
        if names and not declared:
            raise ArgumentError(
                f"-o {','.join(names)}: task '{task.name}' has no outputs",
                hint="--returns name:type declares them in a cell of YAML or JSON, the function's annotation in Python",
            )
        if len(names) > 1 and len(names) != len(declared):
            count = f"{len(declared)} outputs" if len(declared) > 1 else "one output"
            raise ArgumentError(
                f"-o {','.join(names)} names {len(names)} variables, and task '{task.name}' has {count}: {', '.join(declared)}",
                hint="give each its name, _ for one to drop, or one name for all",
            )
        from flyteagent_nb.running.tasks import runs_on_agent

        workspace, kind = self._workspace, task.task_type
        served = any(e.task_type == kind for e in workspace.catalog.entries())
        if not (
            arguments.service
            or arguments.on
            or served
            or runs_on_agent(task)
            or workspace.serves(kind, task.task_type_version)
        ):
            raise TaskTypeNotFoundError(
                f"no agent runs task '{task.name}': it is a {kind}",
                task_type=kind,
                version=task.task_type_version,
                hint=hint_of_type(kind)
                or "what no agent runs is called as ever: my_task(x=1); %agent types lists what agents run",
            )

    def _bind(self, name: str, run: Run) -> None:
        if name:
            self.shell.user_ns[name] = run

    def _cell_number(self) -> int:
        """The number of the cell that runs: IPython 9 has counted on by then, before that it had not."""
        return len(self.shell.history_manager.input_hist_parsed) - 1

    def _compile_python(self, body: str) -> tuple[ast.Module, Callable[[], Any]]:
        """Compile the cell as IPython would; what is returned runs it in the user's namespace.

        Raises:
            SyntaxError: it is not Python.
        """
        shell = self.shell
        code = shell.transform_cell(body)
        name = shell.compile.cache(code, self._cell_number(), raw_code=body)
        tree = ast.parse(code, name)
        last = tree.body[-1] if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        before = ast.Module(tree.body[:-1] if last is not None else tree.body, type_ignores=[])
        statements = compile(before, name, "exec")
        expression = compile(ast.Expression(last.value), name, "eval") if last is not None else None

        def run() -> Any:
            __tracebackhide__ = _rich_traceback_omit = True
            self._cells.body_runs()
            exec(statements, shell.user_ns)  # the user's own cell, in the user's own namespace
            return eval(expression, shell.user_ns) if expression is not None else None

        return tree, run

    def _known_type(self, arguments: AgentTaskArguments) -> None:
        """Tell of a misspelt task type before the cell is read as the wrong language."""
        if arguments.task_type and not (arguments.service or arguments.on):
            entries = self._workspace.catalog.entries()
            here = any(e.task_type == arguments.task_type for e in entries)
            if not here and not self._workspace.runner.router.versions(arguments.task_type):
                self._workspace.catalog.current(arguments.task_type)


def _is_statement(shell: Any) -> bool:
    """Whether the magic stands alone on its line of the cell: what ``types = %agent types;`` is to keep is not hidden."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_globals is not shell.user_ns:
        frame = frame.f_back
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return line.lstrip().startswith("get_ipython().run_line_magic(")


def _no_cell() -> CellError:
    told = "%%agent_task is a cell magic: the task stands below its line"
    return CellError(told, hint="write two percent signs, and the task on the next line")


def _without_question(line: str) -> str:
    return line.rstrip().removesuffix("?")


def _nested(loop: Any) -> bool:
    return hasattr(loop, "_nest_patched") or getattr(asyncio.run, "__module__", "").startswith("nest_asyncio")
