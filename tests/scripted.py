"""Agents whose behaviour a test scripts. They are flytekit's own classes, and they run over the real channel.

A script is the template's ``custom``, so that a test needs no reference to the agent::

    {"phases": ["QUEUED", "RUNNING", "SUCCEEDED"],  # each get moves one on, the last stays; ["SUCCEEDED"] by default
     "seconds": 0.5,                # or by time: the first phase until then, the last one after it
     "outputs": {"x": "1"},         # with the last phase
     "message": "done",
     "links": {"console": "http://…"},
     "raises": {"get": "ValueError: no"},  # a builtin exception, from that method
     "times": {"get": 2},           # only the first so many times (per job; over all jobs for create and do)
     "sleeps": {"create": 0.2},     # seconds, awaited
     "blocks": {"create": 0.2},     # seconds, with time.sleep
     "hangs": ["create"],           # until it is cancelled; in a plain function until agent.released is set
     "prints": {"create": "text"}}

What happened stands in ``agent.calls`` and in the counts.
"""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import itertools
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flyteidl.core import tasks_pb2
from flyteidl.core.execution_pb2 import TaskExecution, TaskLog
from flytekit.extend.backend.base_connector import AsyncConnectorBase, Resource, ResourceMeta, SyncConnectorBase
from google.protobuf import json_format, struct_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from flytekit.models.literals import LiteralMap

FINAL = frozenset({"SUCCEEDED", "FAILED", "RETRYABLE_FAILED", "ABORTED"})


def template(task_type: str, *, version: int = 0, **script: Any) -> Any:
    """A task template as a message, its ``custom`` the script."""
    custom = json_format.ParseDict(script, struct_pb2.Struct())
    return tasks_pb2.TaskTemplate(type=task_type, task_type_version=version, custom=custom)


@dataclass
class JobMeta(ResourceMeta):
    job_id: str


@dataclass
class Job:
    script: dict[str, Any]
    created: float = field(default_factory=time.monotonic)
    gets: int = 0
    deletes: int = 0
    final: bool = False


class Script:
    """What the scripted agents share: the calls they record, and the steps of a script.

    Attributes:
        calls: (method, job id or "") as they began.
        cancelled: the methods in which a cancel arrived.
        threads: the thread that each method last ran on, by method.
        released: set it, and plain functions that hang go on.
    """

    calls: list[tuple[str, str]]
    cancelled: list[str]
    threads: dict[str, int]
    released: threading.Event

    def _reset(self) -> None:
        self.calls = []
        self.cancelled = []
        self.threads = {}
        self.released = threading.Event()
        self._changed = threading.Condition()
        self._times: dict[tuple[str, str], int] = {}

    def count(self, method: str) -> int:
        """How often ``method`` was called."""
        return sum(1 for called, _ in self.calls if called == method)

    async def until(self, condition: Callable[[], object], timeout: float = 30) -> None:
        """Wait until ``condition`` holds; it is looked at after each thing that is recorded."""

        def wait() -> None:
            with self._changed:
                assert self._changed.wait_for(condition, timeout), f"it never came; calls: {self.calls}"

        with concurrent.futures.ThreadPoolExecutor(1) as pool:  # the loop's own may be what the test has filled
            await asyncio.get_running_loop().run_in_executor(pool, wait)

    def _record(self, record: list[Any], what: Any) -> None:
        with self._changed:
            record.append(what)
            self._changed.notify_all()

    def _begin(self, method: str, script: dict[str, Any], job_id: str = "") -> None:
        self.threads[method] = threading.get_ident()
        self._record(self.calls, (method, job_id))
        if method in script.get("prints", {}):
            sys.stdout.write(f"{script['prints'][method]}\n")
        time.sleep(script.get("blocks", {}).get(method, 0))
        if method in script.get("raises", {}):
            key = (method, job_id)
            self._times[key] = self._times.get(key, 0) + 1
            if self._times[key] <= script.get("times", {}).get(method, float("inf")):
                kind, _, message = script["raises"][method].partition(": ")
                raise getattr(builtins, kind)(message)

    async def _wait(self, method: str, script: dict[str, Any]) -> None:
        try:
            await asyncio.sleep(script.get("sleeps", {}).get(method, 0))
            if method in script.get("hangs", []):
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self._record(self.cancelled, method)
            raise


class PlainScript(Script):
    """The same for plain functions: they sleep and hang as such do."""

    async def _wait(self, method: str, script: dict[str, Any]) -> None:
        time.sleep(script.get("sleeps", {}).get(method, 0))  # noqa: ASYNC251 - it never runs on a loop
        if method in script.get("hangs", []):
            self.released.wait()


def _now(coroutine: Any) -> Any:
    """What a coroutine returns that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


def _resource(script: dict[str, Any], phase: str) -> Resource:
    return Resource(
        phase=getattr(TaskExecution, phase),
        message=script.get("message"),
        log_links=[TaskLog(name=name, uri=uri) for name, uri in script.get("links", {}).items()] or None,
        outputs=script.get("outputs") if phase in FINAL else None,
    )


class ScriptedAgent(Script, AsyncConnectorBase):
    """An async agent that goes through its script.

    Attributes:
        jobs: by job id. Give it to a second agent, and that one knows the jobs of the first.
    """

    name = "Scripted Agent"

    def __init__(self, task_type: str = "scripted", version: int = 0, jobs: dict[str, Job] | None = None) -> None:
        super().__init__(metadata_type=JobMeta, task_type_name=task_type, task_type_version=version)
        self._reset()
        self.jobs: dict[str, Job] = {} if jobs is None else jobs
        self._ids = itertools.count(len(self.jobs) + 1)

    @property
    def open_jobs(self) -> list[str]:
        """The jobs that were created, and neither were seen in a final phase nor deleted."""
        return [job_id for job_id, job in self.jobs.items() if not job.final and not job.deletes]

    async def create(self, task_template: Any, inputs: LiteralMap | None = None, **kwargs: Any) -> JobMeta:
        script = task_template.custom or {}
        self._begin("create", script)
        await self._wait("create", script)
        job_id = f"job-{next(self._ids)}"
        self.jobs[job_id] = Job(script)
        return JobMeta(job_id)

    async def get(self, resource_meta: JobMeta, **kwargs: Any) -> Resource:
        job = self.jobs[resource_meta.job_id]
        self._begin("get", job.script, resource_meta.job_id)
        await self._wait("get", job.script)
        phases = job.script.get("phases", ["SUCCEEDED"])
        if "seconds" in job.script:
            phase = phases[-1] if time.monotonic() - job.created >= job.script["seconds"] else phases[0]
        else:
            phase = phases[min(job.gets, len(phases) - 1)]
        job.gets += 1
        job.final = job.final or phase in FINAL
        return _resource(job.script, phase)

    async def delete(self, resource_meta: JobMeta, **kwargs: Any) -> None:
        job = self.jobs[resource_meta.job_id]
        self._begin("delete", job.script, resource_meta.job_id)
        await self._wait("delete", job.script)
        job.deletes += 1


class PlainScriptedAgent(PlainScript, ScriptedAgent):
    """The same with plain functions, as many agents of the field are."""

    name = "Plain Scripted Agent"

    def __init__(self, task_type: str = "scripted_plain", version: int = 0, jobs: dict[str, Job] | None = None) -> None:
        super().__init__(task_type, version, jobs)

    def create(self, task_template: Any, inputs: LiteralMap | None = None, **kwargs: Any) -> JobMeta:  # type: ignore[override]
        return _now(super().create(task_template, inputs, **kwargs))

    def get(self, resource_meta: JobMeta, **kwargs: Any) -> Resource:  # type: ignore[override]
        return _now(super().get(resource_meta, **kwargs))

    def delete(self, resource_meta: JobMeta, **kwargs: Any) -> None:  # type: ignore[override]
        return _now(super().delete(resource_meta, **kwargs))


class DoAgent(Script, SyncConnectorBase):
    """A sync agent with ``async def do``; the phase is the script's last."""

    name = "Do Agent"

    def __init__(self, task_type: str = "do", version: int = 0) -> None:
        super().__init__(task_type_name=task_type, task_type_version=version)
        self._reset()

    async def do(
        self, task_template: Any, output_prefix: str, inputs: LiteralMap | None = None, **kwargs: Any
    ) -> Resource:
        script = task_template.custom or {}
        self._begin("do", script)
        await self._wait("do", script)
        return _resource(script, script.get("phases", ["SUCCEEDED"])[-1])


class PlainDoAgent(PlainScript, DoAgent):
    """A sync agent with a plain ``def do``."""

    name = "Plain Do Agent"

    def __init__(self, task_type: str = "do_plain", version: int = 0) -> None:
        super().__init__(task_type, version)

    def do(  # type: ignore[override]
        self, task_template: Any, output_prefix: str, inputs: LiteralMap | None = None, **kwargs: Any
    ) -> Resource:
        return _now(super().do(task_template, output_prefix, inputs, **kwargs))


class EchoAgent(SyncConnectorBase):
    """A sync agent whose outputs are its inputs."""

    name = "Echo Agent"

    def __init__(self, task_type: str = "echo", version: int = 0) -> None:
        super().__init__(task_type_name=task_type, task_type_version=version)

    async def do(
        self, task_template: Any, output_prefix: str, inputs: LiteralMap | None = None, **kwargs: Any
    ) -> Resource:
        return Resource(phase=TaskExecution.SUCCEEDED, outputs=inputs)


class NoopAgent(SyncConnectorBase):
    """A sync agent that does nothing."""

    name = "Noop Agent"

    def __init__(self, task_type: str = "noop", version: int = 0) -> None:
        super().__init__(task_type_name=task_type, task_type_version=version)

    async def do(
        self, task_template: Any, output_prefix: str, inputs: LiteralMap | None = None, **kwargs: Any
    ) -> Resource:
        return Resource(phase=TaskExecution.SUCCEEDED)
