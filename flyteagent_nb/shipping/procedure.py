"""What is done with an agent to check it: the calls that FlytePropeller would make, and those that it makes on a bad day.

The jobs that are made are deleted again.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Any

from flyteidl.core.literals_pb2 import LiteralMap

from flyteagent_nb.findings import Finding
from flyteagent_nb.running import propeller
from flyteagent_nb.shipping import judging
from flyteagent_nb.shipping.driving import JobDriver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from flyteidl.admin.agent_pb2 import Resource

    from flyteagent_nb.config import Settings
    from flyteagent_nb.running.services import AgentService
    from flyteagent_nb.running.storage import RunStorage
    from flyteagent_nb.running.tasks import TaskCall
    from flyteagent_nb.shipping.driving import Reply

    Second = Callable[[], Awaitable[tuple[AgentService | None, str]]]
    """Gives a service that knows nothing of the first, and what it is in words; None and why there is none."""

AT_ONCE = 3
"""Creates that are sent at once."""

ERRORS = 6
"""So many gets may fail before the check goes on without an end; propeller gives up then."""

ASYNC_CHECKS = (
    "create", "get", "phases", "end", "log links", "outputs", "get after the end", "delete", "delete twice", "restart",
    "delete when finished", "delete an unknown job", "concurrent creates", "failures", "loop",
)  # fmt: skip
"""What is looked at of an async agent with a job, in the order of the findings."""

SYNC_CHECKS = ("execute", "end", "outputs", "log links", "concurrent calls", "failures", "loop")
"""The same of a sync agent."""

_RAISED = frozenset({"INTERNAL", "UNKNOWN"})
_CREATE = "mend create(); each create that fails uses one of the task's retries"
_PHASE = "return Resource(phase=TaskExecution.FAILED, message=...) where the job failed"
_RETURN = "return Resource(phase=TaskExecution.FAILED, message=...) where it fails"
_NO_MEMORY = "keep nothing in memory: put all that get() and delete() need into the resource meta"


class Procedure:
    """Drives one agent. A coroutine of the loop's; its findings come in the order in which propeller would meet what they are about."""

    def __init__(
        self, service: AgentService, call: TaskCall, failing: TaskCall | None, timeout: float, settings: Settings,
        storage: RunStorage, say: Callable[[str], object],
    ) -> None:  # fmt: skip
        """Nothing is sent yet.

        Args:
            service: the agent service.
            call: the task that is run; it ought to succeed.
            failing: a task that ought to fail, or None.
            timeout: seconds that a job has to come to its end.
            settings: the deadlines.
            storage: where output prefixes are.
            say: told what goes on, in words.
        """
        self.findings: list[Finding] = []
        self._service = service
        self._call = call
        self._failing_call = failing
        self._timeout = timeout
        self._settings = settings
        self._storage = storage
        self._say = say
        self._open: set[bytes] = set()  # jobs that may still run

    async def sync(self) -> None:
        """A sync agent: one call does it all."""
        driver = await self._driver(self._call)
        try:
            self._say("running the task")
            first = await driver.execute()
            self._add(judging.call("execute", "ExecuteTaskSync", [first], expected=_RETURN))
            if first.value is None:
                self._skip(SYNC_CHECKS[1:-2], "not tried: the call failed")
            else:
                phase = first.value.phase
                if phase and not propeller.resolve_phase(first.value).final:
                    told = f"{propeller.resolve_phase(first.value).name}, and nobody polls a sync agent"
                    self._add(Finding("bad", "end", told, "return a final phase from do(), or make it an async agent"))
                else:
                    self._add(judging.ending(first.value, first.seconds, ()))
                await self._outputs(driver, 1, first.value)
                self._add(judging.links([first.value]))
                self._say(f"running {AT_ONCE} at once")
                replies = await asyncio.gather(*(driver.execute() for _ in range(AT_ONCE)))
                found = judging.call(
                    "concurrent calls", "ExecuteTaskSync", replies, expected="calls come at once: share nothing"
                )
                self._add(found if found.sign == "bad" else found._replace(told=f"{AT_ONCE} at once; {found.told}"))
            errors = [first.error] if first.code in _RAISED else []
            self._add(judging.failures(errors, await self._failing_sync(), "ExecuteTaskSync"))
        finally:
            driver.forget()

    async def async_(self, second: Second | None) -> None:
        """An async agent: create, gets, deletes.

        Args:
            second: gives the service that stands for this one after a restart; None where that cannot be.
        """
        driver = await self._driver(self._call)
        try:
            self._say("creating a job")
            created = await self._create(driver)
            found = judging.call("create", "CreateTask", [created], expected=_CREATE)
            self._add(judging.meta(created.value) or found if created.value is not None else found)
            if created.value is None:
                self._skip(ASYNC_CHECKS[1:-2], "not tried: the create failed")
                await self._judge_failures(())
                return
            one = created.value
            began = time.monotonic()
            gets, last = await self._follow(driver, one)
            self._judge_gets(gets, last, time.monotonic() - began)
            if last is not None and _is_final(last):
                self._open.discard(one)
                if propeller.resolve_phase(last) is propeller.Phase.SUCCEEDED:
                    await self._outputs(driver, 1, last)
                else:
                    self._skip(["outputs"], "not tried: the job did not succeed")
                self._add(judging.again(last, await driver.get(one)))
            else:
                self._skip(["outputs", "get after the end"], "not tried: the job did not come to its end")
            other = await self._delete_twice(driver)
            await self._restart(driver, second, one, last)
            if one not in self._open:
                self._add(self._judge_delete("delete when finished", await driver.delete(one), "a job that is over"))
            else:
                self._skip(["delete when finished"], "not tried: the job did not come to its end")
            await self._delete_unknown(driver, one, other)
            await self._concurrently(driver, always_same=one == other)
            await self._judge_failures([g.error for g in gets if g.failed])
        finally:
            await self._clean_up(driver)

    async def _create(self, driver: JobDriver) -> Reply[bytes]:
        """A job, which may still run. A check that is stopped waits for the answer: the job would be left behind."""
        creating = asyncio.ensure_future(driver.create())
        try:
            await asyncio.shield(creating)
        finally:
            reply = await creating
            if reply.value is not None:
                self._open.add(reply.value)
        return reply

    async def _follow(self, driver: JobDriver, meta: bytes) -> tuple[list[Reply[Resource]], Resource | None]:
        """Get after get of the first job until its end; the replies, and the last that told something."""
        began, replies, failed = time.monotonic(), [], 0
        last: Resource | None = None
        delay = 0.0
        while True:
            await asyncio.sleep(delay)
            delay = min(1.0, delay * 1.6 + 0.02)
            reply = await driver.get(meta)
            replies.append(reply)
            if reply.value is not None:
                last, failed = reply.value, 0
                if _is_final(last):
                    return replies, last
                self._say(f"the job is {_phase_name(last)}")
            else:
                failed += 1
            if failed >= ERRORS or time.monotonic() - began > self._timeout:
                return replies, last

    def _judge_gets(self, gets: list[Reply[Resource]], last: Resource | None, seconds: float) -> None:
        answered = [get for get in gets if get.value is not None]
        late = [get for get in gets if get.code == "DEADLINE_EXCEEDED"]
        judged = late or answered or gets
        self._add(judging.call("get", "GetTask", judged, expected=_PHASE))
        values = [get.value for get in answered if get.value is not None]
        self._add(judging.phases([v.phase for v in values], [v.state for v in values]))
        try:
            self._add(judging.ending(last, seconds, [get.error for get in gets[-1:] if get.failed]))
        except propeller.UnknownPhaseError as error:
            self._add(Finding("bad", "end", str(error), "return one of TaskExecution's phases"))
        self._add(judging.links(values))

    async def _outputs(self, driver: JobDriver, job: int, last: Resource) -> None:
        if propeller.resolve_phase(last) is not propeller.Phase.SUCCEEDED:
            self._skip(["outputs"], "not tried: it did not succeed")
            return
        declared = driver.call.template.interface.outputs.variables
        found, problem = (last.outputs, "") if last.HasField("outputs") else (None, "")
        if found is None and declared:
            try:
                found, problem = await driver.outputs(job)
            except (ValueError, OSError) as error:
                problem = str(error)
        self._add(judging.outputs(declared, found, problem))

    async def _delete_twice(self, driver: JobDriver) -> bytes | None:
        """A second job, deleted at once and once more; its resource meta."""
        self._say("deleting a job twice")
        created = await self._create(driver)
        if created.value is None:
            self._skip(["delete", "delete twice"], f"not tried: the second create failed: {created.error}")
            return None
        first = await driver.delete(created.value)
        self._add(self._judge_delete("delete", first, "a job"))
        if not first.failed:
            self._open.discard(created.value)
        self._add(self._judge_delete("delete twice", await driver.delete(created.value), "a job that was deleted"))
        return created.value

    def _judge_delete(self, what: str, reply: Reply[bool], job: str) -> Finding:
        return judging.call(
            what, "DeleteTask", [reply],
            expected=f"propeller repeats a delete that fails: let delete() of {job} return where there is nothing left to stop",
        )  # fmt: skip

    async def _delete_unknown(self, driver: JobDriver, one: bytes, other: bytes | None) -> None:
        what = "delete an unknown job"
        meta = judging.unknown_meta(one, other) if other is not None else None
        if meta is None:
            self._skip([what], "not tried: the resource meta does not tell which part is the job's id")
            return
        reply = await driver.delete(meta)
        found = self._judge_delete(what, reply, "a job that the service does not know")
        self._add(found._replace(sign="warn") if reply.failed and reply.code != "DEADLINE_EXCEEDED" else found)

    async def _restart(self, driver: JobDriver, second: Second | None, one: bytes, last: Resource | None) -> None:
        """Another service gets the finished job, and another running one, by what the first gave out."""
        if second is None:
            told = f"not tried: the service '{self._service.name}' is not ours to start again"
            self._skip(["restart"], told, "check the agent's module: python -m flyteagent_nb check MODULE:TYPE")
            return
        self._say("starting a second service")
        service, how = await second()
        if service is None:
            self._skip(
                ["restart"], f"not tried: {how}", "let the class be made without arguments, or write it into a module"
            )
            return
        after = driver.on(service)
        reply = await after.get(one)
        if last is None or reply.failed:
            found = Finding("bad", "restart", f"a second service ({how}) cannot get the job: {reply.error}", _NO_MEMORY)
            if not reply.failed:
                found = Finding("ok", "restart", f"a second service ({how}) knows the job")
        else:
            found = judging.again(last, reply, "restart")
            if found.sign == "ok":
                found = found._replace(told=f"a second service ({how}) says: {found.told}")
            else:
                found = found._replace(told=f"a second service ({how}): {found.told}", mend=_NO_MEMORY)
        if found.sign == "ok":
            created = await self._create(driver)
            if created.value is not None:
                running, deleted = await after.get(created.value, driver.jobs), await after.delete(created.value)
                if not deleted.failed:
                    self._open.discard(created.value)
                wrong = running.error or deleted.error
                if wrong:
                    told = f"a second service ({how}) cannot {'get' if running.failed else 'delete'} a running job: {wrong}"
                    found = Finding("bad", "restart", told, _NO_MEMORY)
        self._add(found)

    async def _concurrently(self, driver: JobDriver, *, always_same: bool) -> None:
        self._say(f"creating {AT_ONCE} jobs at once")
        replies = await asyncio.gather(*(self._create(driver) for _ in range(AT_ONCE)))
        self._add(judging.concurrent(replies, always_same=always_same))

    async def _failing_sync(self) -> tuple[Reply[Any], Resource | None] | None:
        """What a task that ought to fail comes to; None where there is none."""
        if self._failing_call is None:
            return None
        self._say("running the task that ought to fail")
        driver = await self._driver(self._failing_call)
        try:
            reply = await driver.execute()
            return reply, reply.value
        finally:
            driver.forget()

    async def _judge_failures(self, errors: Sequence[str]) -> None:
        """Whether failures are phases: those that came, and one that is asked for."""
        trial: tuple[Reply[Any], Resource | None] | None = None
        if self._failing_call is not None and not errors:
            self._say("running the task that ought to fail")
            driver = await self._driver(self._failing_call)
            created = await self._create(driver)
            last = None
            if created.value is not None:
                gets, last = await self._follow(driver, created.value)
                if last is None or not _is_final(last):
                    errors = [get.error for get in gets if get.failed]
                else:
                    self._open.discard(created.value)
            trial = created, last
            driver.forget()
        self._add(judging.failures(errors, trial, "GetTask"))

    async def _clean_up(self, driver: JobDriver) -> None:
        """Delete the jobs that may still run, and tell of those that may still do."""
        left = [(meta, await driver.delete(meta)) for meta in tuple(self._open)]
        problems = [reply.error for _, reply in left if reply.failed]
        if problems:
            told = f"{len(problems)} of the check's own jobs could not be deleted, and may still run: {problems[0]}"
            self._add(Finding("warn", "left over", told, "look for them where the jobs run"))
        driver.forget()

    def _add(self, finding: Finding) -> None:
        self.findings.append(finding)

    def _skip(self, names: Sequence[str], why: str, mend: str = "") -> None:
        self.findings += [Finding("skip", name, why, mend) for name in names]

    async def _driver(self, call: TaskCall) -> JobDriver:
        inputs = call.inputs
        if inputs is None:
            inputs = await asyncio.to_thread(call.prepare) if call.prepare is not None else LiteralMap()
        return JobDriver(self._service, call, inputs, self._settings, self._storage, f"check-{secrets.token_hex(4)}")


def _phase_name(resource: Resource) -> str:
    try:
        return propeller.resolve_phase(resource).name
    except propeller.UnknownPhaseError:
        return "in a phase that Flyte does not know"


def _is_final(resource: Resource) -> bool:
    try:
        return propeller.resolve_phase(resource).final
    except propeller.UnknownPhaseError:
        return False
