"""The owner, one per process: loop, agent service, router, runner, journal. It opens, connects and closes them.

Opening returns at once; the imports (seconds) and the start of the service go on in the background, and whoever needs them waits.
"""

from __future__ import annotations

import atexit
import collections
import concurrent.futures
import contextlib
import errno
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from flyteagent_nb import wire
from flyteagent_nb.config import FlyteAgentNB
from flyteagent_nb.errors import FlyteAgentNBError, JournalError, ServiceError, WrongThreadError, article
from flyteagent_nb.folders import private_folder
from flyteagent_nb.loop import get_loop_thread, guard_forks, prepare_fork
from flyteagent_nb.masking import Masking
from flyteagent_nb.sandbox.sandboxes import Sandboxes
from flyteagent_nb.serving.catalog import BrokenPlugin, Catalog
from flyteagent_nb.serving.loading import FlytekitLoading
from flyteagent_nb.serving.need import is_there
from flyteagent_nb.serving.secret_store import SecretStore

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from flytekit.core.base_task import PythonTask
    from flytekit.core.context_manager import FlyteContext
    from flytekit.models.literals import LiteralMap

    from flyteagent_nb.config import Settings
    from flyteagent_nb.loop import LoopThread
    from flyteagent_nb.running.connections import Connections
    from flyteagent_nb.running.journal import Journal, RunRecord
    from flyteagent_nb.running.kept import KeptRuns
    from flyteagent_nb.running.run import Run
    from flyteagent_nb.running.runner import Runner
    from flyteagent_nb.running.storage import RunStorage
    from flyteagent_nb.running.tasks import TaskCall
    from flyteagent_nb.serving.catalog import AgentEntry
    from flyteagent_nb.serving.host import Address, AgentHost

T = TypeVar("T")

CLOSE_WAIT = 2.0
"""Seconds that closing may take."""

EXIT_WAIT = 10.0
"""Seconds that the end of the process waits for a start that is under way: a plug-in's import may hang."""

BLOCKING_INSTALLED = 1.0
"""Seconds that an agent of an installed package may hold the loop before a person is told: what is no bother is not theirs to mend."""


class Workspace:
    """The agent service of this process and the local propeller that drives it.

    Attributes:
        config: the settings.
        catalog: the agents of this process.
        kernel_id: this kernel's id, as Jupyter has it, where there is one.
        sandboxes: the stand-ins for services that run for this process.
        masking: the values known as secret.
        secrets: the secrets that a person gave.
        doing: what its start is at, in words.
        on_wait: called on the main thread where it must wait for the start, with what ends then.
    """

    def __init__(self) -> None:
        self.config = FlyteAgentNB.instance()
        self.catalog = Catalog()
        self.sandboxes = Sandboxes()
        self.masking = Masking()
        self.secrets = SecretStore(self.masking, lambda variable: variable in self.sandboxes.variables())
        self.doing = ""
        self.on_wait: Callable[[concurrent.futures.Future[None]], object] | None = None
        self._lock = threading.Lock()
        # Held while it is opened or closed: what one puts in place, the other must not take away.
        self._changing = threading.Lock()
        self._opened: concurrent.futures.Future[None] | None = None
        self._opener: threading.Thread | None = None
        self._thread: LoopThread | None = None
        self._loading: FlytekitLoading | None = None
        self._on_flytekit: list[Callable[[], object]] = []
        self._has_flytekit = False  # whether those have been called
        self._notices: collections.deque[str] = collections.deque()
        self._host: AgentHost | None = None
        self._runner: Runner | None = None
        self._capture: Any = None
        self._store: Any = None
        self._keeper: Any = None
        self._kept: KeptRuns | None = None
        self._retaining = threading.Lock()
        self._to_retain: Settings | None = None
        self._swept = False  # of files that no run knows; once in a process
        self._connections: Connections | None = None
        self.kernel_id = ""
        self.catalog.subscribe(self._catalog_changed)

    # --- opening and closing ---

    @property
    def state(self) -> str:
        """``closed``, ``starting``, ``serving`` or ``failed``."""
        opened = self._opened
        if opened is None:
            return "closed"
        if not opened.done():
            return "starting"
        return "failed" if opened.exception() else "serving"

    def open(self, on_flytekit: Callable[[], object] | None = None) -> None:
        """Open in the background; returns at once. Idempotent.

        Args:
            on_flytekit: called once flytekit has been imported, on the thread that did it, before others can use it; at once where
                that is over, as a ``submit`` may have opened it long ago.
        """
        opened: concurrent.futures.Future[None] = concurrent.futures.Future()
        with self._changing:
            with self._lock:
                if on_flytekit is not None:
                    self._on_flytekit.append(on_flytekit)
                is_open, has_flytekit = self._opened is not None, self._has_flytekit
                if not is_open:
                    self._opened = opened
            if not is_open:
                atexit.register(self._at_exit)
                try:
                    self._begin(opened)
                except BaseException as error:  # who waits, and who closes it, must not wait for good
                    opened.set_exception(_not_started(error))
                    raise
        if is_open and on_flytekit is not None and has_flytekit:
            on_flytekit()

    def _begin(self, opened: concurrent.futures.Future[None]) -> None:
        self.masking.learn()
        fork_safe = prepare_fork()
        thread = self._thread = get_loop_thread()
        if not fork_safe:
            guard_forks(thread)
        self._loading = FlytekitLoading(self._flytekit_loaded, self.catalog.record_broken, self._do)
        self._loading.install()
        self._opener = threading.Thread(target=self._open, args=(opened,), name="flyteagent_nb-open", daemon=True)
        self._opener.start()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the agent service serves; opens it where nobody did.

        Raises:
            ServiceError: it does not start, or was closed meanwhile; it is not opened from inside an agent.
            TimeoutError: it takes longer than ``timeout`` seconds.
            WrongThreadError: before it serves, on the loop's thread or on the one that starts it, which imports the plug-ins.
        """
        from flyteagent_nb.serving.capture import in_agent_code

        opened = self._opened
        if threading.current_thread() is self._opener and (opened is None or not opened.done()):
            raise WrongThreadError(
                "the agent service of this kernel starts while this is imported, and cannot be waited for here",
                hint="do it in a function that is called later",
            )
        if opened is None:
            if in_agent_code():  # of a service that was closed under it: to open another one is not an agent's business
                raise _closed()
            if self._thread is not None and self._thread.is_current:
                self._thread.check_may_block()
            self.open()
            opened = self._opened
            if opened is None:
                raise _closed()
        if not opened.done() and self._thread is not None:
            self._thread.check_may_block()
            on_main = threading.current_thread() is threading.main_thread()
            if self.on_wait is not None and on_main and timeout is None:
                self.on_wait(opened)
        opened.result(timeout)

    def close(self) -> int:
        """Close service, channels and files, and put flytekit back as it was. Remote jobs are left running. Idempotent.

        Returns:
            How many runs were still under way.

        Raises:
            WrongThreadError: on the loop's thread, which it would have to wait for.
        """
        thread = self._thread
        is_ours = thread is not None and not thread.forked
        if thread is not None and is_ours:
            thread.check_may_block()
        # A forked child's may be held by nobody that there is.
        with self._changing if is_ours else contextlib.nullcontext():
            return self._close_all()

    def _at_exit(self) -> None:
        opened, thread = self._opened, self._thread
        if opened is not None and thread is not None and not thread.forked:
            concurrent.futures.wait([opened], timeout=EXIT_WAIT)
            if not opened.done():
                self.sandboxes.close()
                return
        self.close()

    def _close_all(self) -> int:
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is None:
            self.sandboxes.close()
            return 0
        atexit.unregister(self._at_exit)
        thread = self._thread
        left = 0
        try:
            if thread is not None and not thread.forked:  # all of it is the parent's, its files too
                concurrent.futures.wait([opened], timeout=None)  # a half-open service cannot be closed
                closing = thread.submit(self._close(self._runner, self._host))
                try:
                    left = closing.result(2 * CLOSE_WAIT)
                except concurrent.futures.TimeoutError:  # it goes on: cancelled, it would leave servers and runs behind
                    left = self._closes_late()
        finally:
            if self._capture is not None:
                self._capture.remove()
            if thread is not None and not thread.forked and self._runner is not None:
                if self._keeper is not None:
                    self._keeper.close()
                self._runner.journal.close()
                self._runner.storage.close()  # here, as at exit Python lets no loop start a thread any more
            self._host = self._runner = self._capture = self._keeper = self._kept = self._connections = None
            if self._loading is not None:
                self._loading.remove()
            self.catalog.release()
            self.secrets.remove()
            with self._lock:
                self._on_flytekit.clear()
                self._has_flytekit = False
            self.sandboxes.close()
        return left

    def _open(self, opened: concurrent.futures.Future[None]) -> None:
        try:
            self._do("importing flytekit")
            import flytekit  # noqa: F401 - first, so that the catalogue has taken over before anything uses it

            self._do("starting the server")
            get_loop_thread().run(self._start())
            self._register_own()
        except Exception as error:  # whatever it is, whoever waits for the service must hear of it
            opened.set_exception(_not_started(error))
        else:
            opened.set_result(None)
            self._retain(self.config.freeze())

    def _do(self, doing: str) -> None:
        self.doing = doing

    def _register_own(self) -> None:
        """Register the agents that come along, but for a type that somebody else serves already."""
        try:
            from flyteagent_nb.agents.duckdb import TASK_TYPE, DuckDBAgent
        except ImportError as error:
            if error.name and not is_there(error.name):  # an extra that nobody asked for is no fault
                return
            self.catalog.record_broken(
                BrokenPlugin("duckdb", "flyteagent_nb.agents.duckdb", "flyteagent_nb", str(error))
            )
            return
        if all(entry.task_type != TASK_TYPE for entry in self.catalog.entries()):
            self.catalog.register(DuckDBAgent())

    async def _start(self) -> None:
        from flyteagent_nb.running.budget import CallBudgets
        from flyteagent_nb.running.connections import Connections
        from flyteagent_nb.running.kept import KeptRuns
        from flyteagent_nb.running.routing import Router
        from flyteagent_nb.running.runner import Runner
        from flyteagent_nb.running.services import AgentService
        from flyteagent_nb.serving.capture import Capture
        from flyteagent_nb.serving.host import AgentHost
        from flyteagent_nb.serving.keeping import OutputKeeper
        from flyteagent_nb.serving.output import OutputStore

        thread = get_loop_thread()
        settings = self.config.freeze()
        self._store = OutputStore(self.masking)
        journal, storage = self._record(settings)
        sink, forget = self._store.sink, self._store.forget
        if not storage.is_own:
            self._keeper = keeper = OutputKeeper(self._store, storage.root)
            sink, forget = keeper.sink, keeper.forget
        self._capture = Capture(sink)
        self._capture.install()
        self._host = AgentHost(self.catalog, self._capture, thread.gate, self._blocking, self.masking)
        address = await self._host.start(tcp=settings.tcp)
        router = Router(self._in_notebook, self.masking.text)
        await router.add(AgentService(wire.KERNEL_SERVICE, address.target, token=address.token, gate=thread.gate))
        self._runner = Runner(
            thread,
            router,
            journal,
            storage,
            captured=self.captured,
            forgotten=lambda run_id: self._forget(run_id, forget),
            retain=self._retain,
            budgets=CallBudgets(settings.calls_in_flight),
            masking=self.masking,
        )
        self._kept = KeptRuns(self._runner)
        self._connections = Connections(thread, router)

    def _forget(self, run_id: str, output: Callable[[str], object]) -> None:
        output(run_id)
        if self._kept is not None:
            self._kept.forget(run_id)

    def _retain(self, settings: Settings) -> None:
        """Prune what is on record; where somebody is at it, he does it once more."""
        self._to_retain = settings
        while self._to_retain is not None and self._retaining.acquire(blocking=False):
            wanted, self._to_retain = self._to_retain, None
            kept = self._kept
            try:
                if kept is not None and wanted is not None:
                    kept.prune(wanted.runs_kept, wanted.days_kept, dry_run=False, strays=not self._swept)
                    self._swept = True
            except JournalError:
                pass  # it cannot be written, which was told; what is too much goes another time
            finally:
                self._retaining.release()

    def _in_notebook(self, task_type: str, version: int) -> bool:
        return any(
            entry.in_notebook and (entry.task_type, entry.version) == (task_type, version)
            for entry in self.catalog.entries()
        )

    def _record(self, settings: Settings) -> tuple[Journal, RunStorage]:
        """Where runs are recorded and their files lie: on disk, or in memory and a temporary folder where that fails or is asked."""
        from flyteagent_nb.running.journal import MemoryJournal
        from flyteagent_nb.running.shelf import is_remote
        from flyteagent_nb.running.sqlite_journal import SQLiteJournal
        from flyteagent_nb.running.storage import RunStorage

        if not settings.journal:
            return MemoryJournal(), RunStorage(settings.run_folder)
        folder = self.config.data_path
        remote = folder is not None and is_remote(folder)
        try:
            if folder is None:
                raise FileNotFoundError(errno.ENOENT, "there is no home folder")
            private_folder(folder)
            storage = RunStorage(
                settings.run_folder or str(folder / "runs"), quick=not settings.run_folder and not remote
            )
        except OSError as error:
            if settings.run_folder:  # asked for, so it must not be another one
                raise
            self.notice(
                f"warning: the folder {folder or 'of the journal'} cannot be used: {error.strerror or error}. Runs are kept in memory "
                "until the kernel ends. FLYTEAGENT_NB_DATA_FOLDER takes another folder."
            )
            return MemoryJournal(), RunStorage()
        if remote:
            self.notice(
                f"note: the journal in {folder} is on a network file system, so it is written without WAL, more slowly; "
                "FLYTEAGENT_NB_DATA_FOLDER takes a local folder"
            )
        return SQLiteJournal(folder, kernel=self.kernel_id, runs_folder=str(storage.root), warn=self.notice), storage

    def _closes_late(self) -> int:
        """Say why closing takes long; how many runs are under way."""
        blocked = self.blocked_by()
        self.notice(
            f"warning: agent '{blocked[0]}' has kept the event loop busy for {blocked[2]:.1f} s in its `async def {blocked[1]}`; the "
            "agent service closes once that returns"
            if blocked is not None
            else "warning: the agent service takes long to close; it goes on in the background"
        )
        return self._runner.active if self._runner is not None else 0

    async def _close(self, runner: Runner | None, host: AgentHost | None) -> int:
        # Both are given, as whoever waits for this may let go of them before it begins.
        left = 0
        if runner is not None:
            left = await runner.close(grace=CLOSE_WAIT / 2, delete=self.config.on_close == "delete")
            await runner.router.close()
        if host is not None:
            await host.stop()
        return left

    def _flytekit_loaded(self) -> None:
        self.catalog.take_over()
        self.secrets.install()
        with self._lock:  # whoever opens it from now on calls his own
            self._has_flytekit = True
            callbacks = tuple(self._on_flytekit)
        for callback in callbacks:
            callback()

    def _catalog_changed(self) -> None:
        if self._runner is not None:
            self._runner.router.invalidate(wire.KERNEL_SERVICE)

    # --- running ---

    @property
    def runner(self) -> Runner:
        """The local propeller; waits until it is there."""
        self.wait()
        return _still_there(self._runner)

    @property
    def kept(self) -> KeptRuns:
        """The runs on record, of other kernels too; waits until the service is there."""
        self.wait()
        return _still_there(self._kept)

    def attach(self, run_id: str, task: PythonTask[Any] | None = None) -> Run:
        """Follow a run that another kernel began. The arguments and errors are those of :meth:`KeptRuns.attach`."""
        return self.kept.attach(run_id, self.config.freeze(), task)

    def prune(self, *, dry_run: bool) -> list[str]:
        """Forget the runs on record that are too old or too many; their ids, oldest first."""
        return self.kept.prune(self.config.runs_kept, self.config.days_kept, dry_run=dry_run)

    @property
    def connections(self) -> Connections:
        """The agent services that are connected beside this kernel's own; waits until that is there."""
        self.wait()
        return _still_there(self._connections)

    def left_open(self, limit: int = 3) -> tuple[list[RunRecord], int]:
        """The newest of the runs that kernels which are gone have left open, and how many there are. Quick, before anything is loaded."""
        from flyteagent_nb.running.shelf import Shelf

        folder = self.config.data_path
        return Shelf(folder).left_open(limit) if self.config.journal and folder is not None else ([], 0)

    def submit(
        self,
        task: PythonTask[Any],
        inputs: Mapping[str, Any],
        *,
        service: str | None = None,
        retries: int | None = None,
        timeout: float | None = None,
        code: str = "",
    ) -> Run:
        """Start a run of ``task``; returns at once.

        Args:
            task: a flytekit task whose type an agent serves.
            inputs: Python values by name.
            service: the agent service that must run it.
            retries: instead of the task's own.
            timeout: seconds of one attempt, instead of the task's own.
            code: how the agent gets at a notebook's function, instead of the setting.

        Raises:
            InputError: inputs that do not fit the interface.
            CodeLocationError: a function of the notebook, and no word of how the agent gets at it.
            ServiceError: the agent service does not start.
        """
        from flyteagent_nb.serving.capture import in_agent_code

        call = self.call_of(task, inputs, retries=retries, timeout=timeout, code=code)
        return self.runner.submit(call, self.config.freeze(), service, nested=in_agent_code())

    def call_of(
        self,
        task: PythonTask[Any],
        inputs: Mapping[str, Any],
        *,
        retries: int | None = None,
        timeout: float | None = None,
        code: str = "",
    ) -> TaskCall:
        """What :meth:`submit` would send: template and literals. The arguments and errors are the same."""
        from flyteagent_nb.running import tasks
        from flyteagent_nb.running.contexts import current_context

        runner = self.runner
        self.masking.learn(self.sandboxes.variables())
        call = tasks.call_of(
            task,
            inputs,
            context=current_context(),
            code=code or self.config.code,
            code_folder=runner.storage.root,
        )
        if retries is not None:
            call.template.metadata.retries.retries = retries
        if timeout is not None:
            call.template.metadata.timeout.FromMilliseconds(round(timeout * 1000))
        return replace(call, stand_in=self.sandboxes.stand_in_for(call.template.type))

    def submit_literals(self, task: PythonTask[Any], inputs: LiteralMap, context: FlyteContext) -> Run:
        """Start a run of ``task`` with literals, as flytekit's local engine has them; the outputs stay literals."""
        from flyteagent_nb.running import tasks
        from flyteagent_nb.serving.capture import in_agent_code

        runner = self.runner
        self.masking.learn(self.sandboxes.variables())
        call = tasks.call_of_literals(
            task, inputs, context=context, code=self.config.code, code_folder=runner.storage.root
        )
        call = replace(call, stand_in=self.sandboxes.stand_in_for(call.template.type))
        return runner.submit(call, self.config.freeze(), nested=in_agent_code())

    def serves(self, task_type: str, version: int) -> bool:
        """Whether an agent is known to serve the type. Never waits."""
        runner = self._runner
        if runner is not None and runner.router.lists(task_type, version):
            return True
        # A cell may call a task right after it registered the agent, before the router has asked the service again.
        key = (task_type, version)
        return self._opened is not None and any((e.task_type, e.version) == key for e in self.catalog.entries())

    def captured(self, run_id: str) -> list[str]:
        """What the agent printed and logged for a run, as lines."""
        buffer = self._store.get(run_id) if self._store is not None else None
        earlier = self._kept.earlier(run_id) if self._kept is not None else []
        return earlier if buffer is None else [*earlier, *buffer.lines()]

    def captured_tail(self, run_id: str, lines: int) -> list[str]:
        """The newest lines of :meth:`captured`."""
        buffer = self._store.get(run_id) if self._store is not None else None
        return [] if buffer is None else buffer.tail(lines)

    def captured_since(self, run_id: str, position: int) -> tuple[list[str], int]:
        """The lines since ``position``, and the next position."""
        buffer = self._store.get(run_id) if self._store is not None else None
        lines, following = ([], position) if buffer is None else buffer.since(position)
        return [*self._kept.earlier(run_id), *lines] if not position and self._kept is not None else lines, following

    # --- serving ---

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        thread = self._thread  # the one that it was opened on: a forked child would get another
        assert thread is not None
        return thread.run(work)

    @property
    def host(self) -> AgentHost:
        """The agent service; waits until it is there."""
        self.wait()
        return _still_there(self._host)

    def addresses(self) -> tuple[Address, ...]:
        """Where the agent service listens; empty while it does not."""
        return self._host.addresses if self._host is not None else ()

    def serve(
        self, port: int, host: str = "127.0.0.1", *, open: bool = False, certificate: str = "", key: str = ""
    ) -> Address:
        """Serve on a TCP address too, with a token unless ``open``, and with TLS where certificate and key are given.

        Raises:
            AddressInUseError: somebody else listens there.
            ServiceError: nobody can listen there; certificate and key do not do.
        """
        return self._on_loop(self.host.serve(port, host, open=open, certificate=certificate, key=key))

    def second_host(self, catalog: Catalog, on_blocking: Callable[[AgentEntry, str, float], None]) -> AgentHost:
        """A second agent service of this process, not started; its coroutines belong on the loop's thread. What agents print is kept.

        Args:
            catalog: its agents.
            on_blocking: told of each agent class and method that held the loop for long.
        """
        from flyteagent_nb.serving.host import AgentHost

        self.wait()
        assert self._thread is not None
        return AgentHost(catalog, self._capture, self._thread.gate, on_blocking, self.masking)

    def on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop's thread and wait for it."""
        self.wait()
        return self._on_loop(work)

    def stop_serving(self, target: str | None = None) -> list[Address]:
        """Stop serving on an address, or on all but the private one.

        Returns:
            The addresses that were closed.

        Raises:
            ServiceNotFoundError: nothing is served there.
        """
        served = self.host
        before = served.addresses
        targets = [target] if target else [a.target for a in before if a.kind != "private"]
        for each in targets:
            self._on_loop(served.stop(each))
        return [a for a in before if a not in served.addresses]

    def remove(self, task_type: str, version: int | None = None) -> tuple[AgentEntry, ...]:
        """Take the agents of a task type away. Jobs under way are still followed.

        Raises:
            TaskTypeNotFoundError: there is none.
        """
        self.wait()
        return self.catalog.remove(task_type, version)

    # --- what a person should hear ---

    def notice(self, text: str) -> None:
        """Keep a line for the person, to be shown by the next cell that ends. Any thread."""
        self._notices.append(self.masking.text(text))

    def take_notices(self) -> list[str]:
        """The lines that have come up since the last call."""
        taken: list[str] = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._notices.popleft())
        return taken

    def blocked_by(self) -> tuple[str, str, float] | None:
        """What has kept the loop busy for more than a second: agent, operation, seconds. None where it answers."""
        stepping = self._host.stepping if self._host is not None else None
        if stepping is None:
            return None
        seconds = time.perf_counter() - stepping[2]
        return (stepping[0], stepping[1], seconds) if seconds > 1.0 else None

    def _blocking(self, entry: AgentEntry, operation: str, seconds: float) -> None:
        if not entry.in_notebook and seconds < BLOCKING_INSTALLED:
            return
        self.notice(
            f"warning: agent '{entry.name}' ({entry.source}) blocked the event loop for {seconds:.1f} s in its `async def "
            f"{operation}`, and every other call with it; await instead, or make it a plain `def`, which runs in a thread"
        )


def _not_started(error: BaseException) -> ServiceError:
    failure = ServiceError(
        f"the agent service of this kernel did not start: {type(error).__name__}: {error}",
        service=wire.KERNEL_SERVICE,
        hint="%reload_ext flyteagent_nb tries again",
    )
    failure.__cause__ = error
    return failure


def _still_there(part: T | None) -> T:
    """What is there while the service serves; another thread may have closed it since somebody waited for it."""
    if part is None:
        raise _closed()
    return part


def _closed() -> ServiceError:
    return ServiceError(
        "the agent service of this kernel was closed meanwhile",
        service=wire.KERNEL_SERVICE,
        hint="%load_ext flyteagent_nb opens it again",
    )


_workspace: Workspace | None = None
_workspace_lock = threading.Lock()


def get_workspace() -> Workspace:
    """The workspace of this process; made on the first call."""
    global _workspace
    with _workspace_lock:
        if _workspace is None:
            _workspace = Workspace()
        return _workspace


def submit(task: PythonTask[Any], /, *args: Any, **inputs: Any) -> Run:
    """Start a run of ``task`` by its agent and return its handle at once; thousands are fine.

    Outside a notebook it opens the agent service of the process first.

    Args:
        task: a flytekit task whose type an agent serves.
        args: inputs by position, as in a call of the task.
        inputs: its inputs as Python values, by name.

    Returns:
        The run: ``await run`` or ``run.result()`` gives what calling the task would return.

    Raises:
        InputError: inputs that do not fit the task's interface.
        CodeLocationError: a function of the notebook, and no word of how its agent gets at it.
        FlyteAgentNBError: ``task`` is not a task that an agent could run.
    """
    workspace = get_workspace()
    workspace.wait()
    from flytekit.core.base_task import PythonTask

    if not isinstance(task, PythonTask):
        raise FlyteAgentNBError(
            f"submit takes a flytekit task, not {article(type(task).__name__)}",
            hint="workflows are called: my_workflow(x=1) runs each agent task in it through the agent service",
        )
    if args:
        from flyteagent_nb.running.task_inputs import check_call

        inputs = check_call(task, args, inputs)
    return workspace.submit(task, inputs)
