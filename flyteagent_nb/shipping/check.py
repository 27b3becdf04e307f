"""The conformance check: an agent is driven over the wire as FlytePropeller would, and what would go wrong is told, with what to do."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import grpc.aio

from flyteagent_nb import wire
from flyteagent_nb.errors import ArgumentError
from flyteagent_nb.findings import Finding
from flyteagent_nb.running.services import AgentService
from flyteagent_nb.shipping import judging
from flyteagent_nb.shipping.cells import Cells
from flyteagent_nb.shipping.driving import timed
from flyteagent_nb.shipping.module import ELSEWHERE, make_module
from flyteagent_nb.shipping.procedure import ASYNC_CHECKS, SYNC_CHECKS, Procedure
from flyteagent_nb.shipping.second import MODULE, NotStartedError, OneAgent, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from flyteagent_nb.config import Settings
    from flyteagent_nb.running.tasks import TaskCall
    from flyteagent_nb.serving.catalog import AgentEntry
    from flyteagent_nb.shipping.cells import Cell
    from flyteagent_nb.shipping.module import AgentModule
    from flyteagent_nb.workspace import Workspace

END = 60.0
"""Seconds that a job has to come to its end, if nothing else is said."""


@dataclass(frozen=True)
class Subject:
    """What is checked, and with what.

    Attributes:
        task_type: the task type.
        version: its version.
        service: the agent service that has it; empty for this process's own agent, else whichever it is routed to.
        call: the task that is run; None looks at what can be told without a job.
        failing: a task that ought to fail, or None.
        timeout: seconds that a job has to come to its end.
        cells: the notebook's cells, where the agent may be defined in one.
        namespace: the notebook's variables.
        modules: what the second process imports, where the agent is in a module.
    """

    task_type: str
    version: int = 0
    service: str = ""
    call: TaskCall | None = None
    failing: TaskCall | None = None
    timeout: float = END
    cells: Sequence[Cell] = ()
    namespace: Mapping[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] = ()


def check(workspace: Workspace, subject: Subject, say: Callable[[str], object] = lambda text: None) -> list[Finding]:
    """Check an agent; blocks. Jobs that it made are deleted again.

    Args:
        workspace: the open workspace.
        subject: what is checked.
        say: told what goes on, in words.

    Returns:
        The findings, a row each, in the order in which propeller would come to it.

    Raises:
        ArgumentError: the task is of another type.
        TaskTypeNotFoundError: nobody serves the task type.
        ServiceNotFoundError: there is no such service.
    """
    for call in (subject.call, subject.failing):
        if call is not None and (call.template.type, call.template.task_type_version) != (
            subject.task_type,
            subject.version,
        ):
            raise ArgumentError(
                f"task '{call.name}' is a {call.template.type} (version {call.template.task_type_version}), and "
                f"{subject.task_type} (version {subject.version}) is to be checked",
                hint="give a task of that type; TYPE@1 checks version 1",
            )
    return workspace.on_loop(Check(workspace, subject, say).run())


class Check:
    """One check. Its coroutine is the loop's."""

    def __init__(self, workspace: Workspace, subject: Subject, say: Callable[[str], object]) -> None:
        self._workspace = workspace
        self._subject = subject
        self._say = say
        self._settings: Settings = workspace.config.freeze()
        self._findings: list[Finding] = []
        self._held: list[tuple[str, float]] = []
        self._elsewhere: Finding | None = None

    async def run(self) -> list[Finding]:
        """The findings."""
        subject = self._subject
        entry = self._entry()
        module = await asyncio.to_thread(self._module, entry) if entry is not None else None
        async with contextlib.AsyncExitStack() as stack:
            listing = await self._resolved(entry)
            is_sync = await self._listed(listing)
            if subject.call is None:
                names = ", ".join(SYNC_CHECKS if is_sync else ASYNC_CHECKS)
                self._findings.append(Finding("skip", JOBS, f"not tried: {names}", _NO_TASK))
            else:
                service = listing if entry is None else await self._host(entry, stack)
                await self._drive(service, entry, module, is_sync, stack)
        if self._elsewhere is not None:
            self._findings.append(self._elsewhere)
        elif module is not None and module.findings:
            self._findings += module.findings
        else:
            self._findings.append(Finding("ok", ELSEWHERE, _elsewhere(entry, listing.name)))
        return [_masked(finding, self._workspace.masking.text) for finding in self._findings]

    # --- the services ---

    def _module(self, entry: AgentEntry) -> AgentModule:
        masking = self._workspace.masking
        return make_module(
            [entry],
            Cells(self._subject.cells),
            self._subject.namespace,
            is_secret=lambda text: masking.text(text) != text,
        )

    def _entry(self) -> AgentEntry | None:
        """This process's own agent, where that is meant."""
        subject = self._subject
        if subject.service not in ("", wire.KERNEL_SERVICE):
            return None
        key = (subject.task_type, subject.version)
        found = next((e for e in self._workspace.catalog.entries() if (e.task_type, e.version) == key), None)
        elsewhere = not subject.service and self._workspace.runner.router.lists(*key)
        return found or (None if elsewhere else self._workspace.catalog.current(*key))

    async def _resolved(self, entry: AgentEntry | None) -> AgentService:
        subject, service = self._subject, wire.KERNEL_SERVICE if entry is not None else self._subject.service or None
        return (await self._workspace.runner.router.resolve(subject.task_type, subject.version, service)).service

    async def _listed(self, service: AgentService) -> bool:
        """Judge the listing; whether it says that the agent is sync."""
        key, deadline = (self._subject.task_type, self._subject.version), self._settings.deadline or None
        reply = await timed("ListAgents", deadline, service.list_agents(deadline))
        if reply.value is None:
            self._findings.append(
                judging.call("listed", "ListAgents", [reply], expected="look into the service's logs")
            )
            return False
        self._findings.append(judging.listing(reply.value, *key))
        return any(a.is_sync for a in reply.value if key in [(c.name, c.version) for c in a.supported_task_categories])

    async def _drive(
        self, service: AgentService, entry: AgentEntry | None, module: AgentModule | None, is_sync: bool,
        stack: contextlib.AsyncExitStack,
    ) -> None:  # fmt: skip
        """Run the procedure, and look meanwhile whether somebody holds the loop."""
        subject = self._subject
        assert subject.call is not None
        procedure = Procedure(
            service, subject.call, subject.failing, subject.timeout, self._settings, self._workspace.runner.storage, self._say
        )  # fmt: skip
        async with self._probing(service, entry):
            if is_sync:
                await procedure.sync()
            elif entry is None:
                await procedure.async_(None)
            else:
                starting = asyncio.ensure_future(self._second(entry, module, stack))
                try:
                    await procedure.async_(lambda: starting)
                finally:
                    starting.cancel()
        self._findings += [*procedure.findings, judging.blocking(self._held)]

    async def _host(self, entry: AgentEntry, stack: contextlib.AsyncExitStack) -> AgentService:
        """A service of our own over the agent, whose loop we can see being held."""
        host = self._workspace.second_host(
            OneAgent(entry), lambda _, method, seconds: self._held.append((method, seconds))
        )
        stack.push_async_callback(host.stop)
        address = await host.start()
        return await self._connect(address.target, address.token, stack)

    async def _connect(self, target: str, token: str | None, stack: contextlib.AsyncExitStack) -> AgentService:
        service = AgentService("checked", target, token=token)
        stack.push_async_callback(service.close)
        return service

    async def _second(
        self, entry: AgentEntry, module: AgentModule | None, stack: contextlib.AsyncExitStack
    ) -> tuple[AgentService | None, str]:
        """A service that knows nothing of the first, and what it is in words; None and why not."""
        service, told = await self._in_a_process(entry, module, stack)
        if service is not None:
            return service, told
        try:
            fresh = type(entry.agent)()
        except Exception as error:  # a user's constructor: whatever it raises, there is no second object
            return None, f"{told}, and a fresh {type(entry.agent).__name__}() fails: {type(error).__name__}: {error}"
        service = await self._host(replace(entry, agent=fresh), stack)
        return service, f"as a fresh object in this process, as {told}"

    async def _in_a_process(
        self, entry: AgentEntry, module: AgentModule | None, stack: contextlib.AsyncExitStack
    ) -> tuple[AgentService | None, str]:
        """The agent in a process of its own; None and why not."""
        if module is None or (entry.in_notebook and not module.complete):
            return None, "it cannot be taken out of this kernel"
        process = ServiceProcess()
        stack.push_async_callback(asyncio.to_thread, process.close)
        source = module.source if entry.in_notebook else ""
        names = self._subject.modules or ((MODULE,) if source else (entry.source.partition(":")[0],))
        try:
            address, token = await asyncio.to_thread(process.start, names, source, self._workspace.secrets.variables())
            service = await self._connect(address, token, stack)
            agents = await service.list_agents(_LIST_DEADLINE)
        except grpc.aio.AioRpcError as error:
            return None, f"its process does not list its agents: {error.details()}"
        except NotStartedError as error:
            reason = f"its module does not import in another process: {error}"
            if source:
                mend = "%agent export writes the module: look into it, and mend the cells"
                self._elsewhere = Finding("bad", ELSEWHERE, reason, mend)
            return None, reason
        key = (entry.task_type, entry.version)
        if any((c.name, c.version) == key for a in agents for c in a.supported_task_categories):
            return service, "in another process"
        return None, f"the module {names[0]} does not register it"

    @contextlib.asynccontextmanager
    async def _probing(self, service: AgentService, entry: AgentEntry | None) -> AsyncIterator[None]:
        """Look whether somebody holds the loop: our own host tells by itself; another service is asked for its listing meanwhile."""
        if entry is not None:
            yield
            return

        async def probe() -> None:
            while True:
                reply = await timed("ListAgents", None, service.list_agents(None))
                if reply.seconds > 1 and not reply.failed:
                    self._held.append(("...", reply.seconds))
                await asyncio.sleep(0.05)

        task = asyncio.ensure_future(probe())
        try:
            yield
        finally:
            task.cancel()


JOBS = "jobs"
"""The finding where no task was given."""

_NO_TASK = "--task TASK gives a task to run"


_LIST_DEADLINE = 30.0
"""Seconds that the second service has to list its agents: it has just started."""


def _elsewhere(entry: AgentEntry | None, service: str) -> str:
    if entry is None:
        return f"it runs on the service '{service}' already"
    if entry.in_notebook:
        return "all that its class needs is in the cells: %agent export takes it along"
    return f"it is in {entry.package}"


def _masked(finding: Finding, mask: Callable[[str], str]) -> Finding:
    return finding._replace(told=mask(finding.told), mend=mask(finding.mend))
