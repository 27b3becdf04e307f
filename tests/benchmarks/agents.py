"""The agents that the benchmarks run: they do nothing, or a job that is over after a while."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from flyteidl.core.execution_pb2 import TaskExecution
from flytekit.core.base_task import PythonTask
from flytekit.core.interface import Interface
from flytekit.extend.backend.base_agent import (
    AgentRegistry,
    AsyncAgentBase,
    AsyncAgentExecutorMixin,
    Resource,
    ResourceMeta,
    SyncAgentBase,
    SyncAgentExecutorMixin,
)


class NoopSync(SyncAgentBase):
    name = "no-op sync"

    def __init__(self) -> None:
        super().__init__(task_type_name="bench_sync")

    async def do(self, task_template: Any, output_prefix: str, inputs: Any = None, **kwargs: Any) -> Resource:
        return Resource(phase=TaskExecution.SUCCEEDED, outputs={"o": 1})


@dataclass
class Job(ResourceMeta):
    ends: float  # time.monotonic()
    number: int


class TimedJob(AsyncAgentBase):
    """A job that is over after the seconds that the template's custom says; it notes when."""

    name = "timed job"

    def __init__(self) -> None:
        super().__init__(task_type_name="bench_async", metadata_type=Job)
        self.gets = 0
        self.ends: list[float] = []

    async def create(self, task_template: Any, **kwargs: Any) -> Job:
        ends = time.monotonic() + (task_template.custom or {}).get("seconds", 0.0)
        self.ends.append(ends)
        return Job(ends, len(self.ends))

    async def get(self, resource_meta: Job, **kwargs: Any) -> Resource:
        self.gets += 1
        over = time.monotonic() >= resource_meta.ends
        return Resource(phase=TaskExecution.SUCCEEDED if over else TaskExecution.RUNNING)

    async def delete(self, resource_meta: Job, **kwargs: Any) -> None:
        return


class SyncTask(SyncAgentExecutorMixin, PythonTask):  # type: ignore[misc]
    pass


class AsyncTask(AsyncAgentExecutorMixin, PythonTask):  # type: ignore[misc]
    def __init__(self, *, seconds: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._seconds = seconds

    def get_custom(self, settings: Any) -> dict[str, Any]:
        return {"seconds": self._seconds}


timed = TimedJob()


def register() -> None:
    AgentRegistry.register(NoopSync())
    AgentRegistry.register(timed)


def sync_task() -> SyncTask:
    return SyncTask("bench_sync", "sync_noop", interface=Interface(inputs={"a": int}, outputs={"o": int}))


def async_task(seconds: float = 0.0) -> AsyncTask:
    return AsyncTask(seconds=seconds, task_type="bench_async", name="async_job", interface=Interface(inputs={"a": int}))
