"""A sound agent, whose jobs are files, and one for each fault that a check must find."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from flyteidl.core.execution_pb2 import TaskExecution, TaskLog
from flytekit.extend.backend.base_connector import AsyncConnectorBase, Resource, ResourceMeta, SyncConnectorBase

FOLDER = "SOUND_JOBS"
"""The variable that names the folder of the jobs: a service elsewhere, as it were."""


@dataclass
class JobMeta(ResourceMeta):
    job_id: str


class Sound(AsyncConnectorBase):
    """Does all that FlytePropeller asks for. A job tells its phases one by one, a get each; one of a task named bad fails."""

    name = "Sound"
    phases = (TaskExecution.QUEUED, TaskExecution.RUNNING, TaskExecution.SUCCEEDED)
    outputs: ClassVar[Any] = {"n": 3}
    link = ("console", "http://console/job")

    def __init__(self, task_type: str = "sound") -> None:
        super().__init__(metadata_type=JobMeta, task_type_name=task_type)

    def file(self, meta: JobMeta) -> Path:
        return Path(os.environ[FOLDER]) / meta.job_id

    async def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> JobMeta:
        meta = JobMeta(uuid.uuid4().hex)
        self.file(meta).write_text(f"{task_template.id.name},0")
        return meta

    async def get(self, resource_meta: JobMeta, **kwargs: Any) -> Resource:
        if not self.file(resource_meta).exists():
            return Resource(phase=TaskExecution.ABORTED, message="there is no such job")
        task, _, polls = self.file(resource_meta).read_text().rpartition(",")
        self.file(resource_meta).write_text(f"{task},{int(polls) + 1}")
        phase = self.phases[min(int(polls), len(self.phases) - 1)]
        if task.endswith("bad") and phase == TaskExecution.SUCCEEDED:
            return self.failed()
        return Resource(
            phase=phase,
            message="as it should be",
            log_links=[TaskLog(name=self.link[0], uri=self.link[1])],
            outputs=self.outputs if phase == TaskExecution.SUCCEEDED else None,
        )

    def failed(self) -> Resource:
        return Resource(phase=TaskExecution.FAILED, message="it rained")

    async def delete(self, resource_meta: JobMeta, **kwargs: Any) -> None:
        self.file(resource_meta).unlink(missing_ok=True)


class FailsToCreate(Sound):
    async def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> JobMeta:
        raise RuntimeError("no quota")


class CreatesSlowly(Sound):
    async def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> JobMeta:
        await asyncio.sleep(60)
        raise AssertionError


class AnswersLater(Sound):
    """The job is there before the service is told of it."""

    let = asyncio.Event()

    async def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> JobMeta:
        meta = await super().create(task_template, inputs, **kwargs)
        await self.let.wait()
        return meta


@dataclass
class EmptyMeta(ResourceMeta):
    def encode(self) -> bytes:
        return b""

    @classmethod
    def decode(cls, data: bytes) -> EmptyMeta:
        return cls()


class SaysNoMeta(Sound):
    def __init__(self) -> None:
        super().__init__()
        self._metadata_type = EmptyMeta

    async def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> Any:
        return EmptyMeta()

    async def get(self, resource_meta: Any, **kwargs: Any) -> Resource:
        return Resource(phase=TaskExecution.SUCCEEDED, outputs=self.outputs)

    async def delete(self, resource_meta: Any, **kwargs: Any) -> None:
        pass


class GoesBack(Sound):
    phases = (TaskExecution.RUNNING, TaskExecution.QUEUED, TaskExecution.SUCCEEDED)


class SaysNoPhase(Sound):
    phases = (TaskExecution.UNDEFINED, TaskExecution.SUCCEEDED)


class Fails(Sound):
    phases = (TaskExecution.FAILED,)


class NeverEnds(Sound):
    phases = (TaskExecution.RUNNING,)


class Raises(Sound):
    """Raises once, then goes on."""

    async def get(self, resource_meta: JobMeta, **kwargs: Any) -> Resource:
        if self.file(resource_meta).read_text().endswith(",1"):
            self.file(resource_meta).write_text("x,2")
            raise KeyError("state")
        return await super().get(resource_meta, **kwargs)


class WrongName(Sound):
    outputs: ClassVar[Any] = {"m": 3}


class WrongType(Sound):
    outputs: ClassVar[Any] = {"n": "three"}


class NoOutputs(Sound):
    outputs: ClassVar[Any] = None


class NoLink(Sound):
    link = ("console", "/jobs/1")


class ForgetsAfterwards(Sound):
    """A job can be got once when it is over."""

    async def get(self, resource_meta: JobMeta, **kwargs: Any) -> Resource:
        if self.file(resource_meta).read_text().endswith(",3"):
            raise LookupError("no such job")
        return await super().get(resource_meta, **kwargs)


class DeletesOnce(Sound):
    async def delete(self, resource_meta: JobMeta, **kwargs: Any) -> None:
        self.file(resource_meta).unlink()


class MindsTheFinished(Sound):
    async def delete(self, resource_meta: JobMeta, **kwargs: Any) -> None:
        if self.file(resource_meta).exists() and int(self.file(resource_meta).read_text().rpartition(",")[2]) > 2:
            raise RuntimeError("job is over")
        await super().delete(resource_meta, **kwargs)


class MindsTheUnknown(Sound):
    """Knows the jobs that it made, deleted ones too, and no others."""

    async def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> JobMeta:
        meta = await super().create(task_template, inputs, **kwargs)
        self.file(JobMeta(f"{meta.job_id}.known")).touch()
        return meta

    async def delete(self, resource_meta: JobMeta, **kwargs: Any) -> None:
        if not self.file(JobMeta(f"{resource_meta.job_id}.known")).exists():
            raise LookupError("never heard of it")
        await super().delete(resource_meta, **kwargs)


class Remembers(Sound):
    """Keeps its jobs in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._jobs: set[str] = set()

    async def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> JobMeta:
        meta = await super().create(task_template, inputs, **kwargs)
        self._jobs.add(meta.job_id)
        return meta

    async def get(self, resource_meta: JobMeta, **kwargs: Any) -> Resource:
        if resource_meta.job_id not in self._jobs:
            raise KeyError(resource_meta.job_id)
        return await super().get(resource_meta, **kwargs)


class Shares(Sound):
    """One job for all that comes within the same tenth of a second; the others are as they should be."""

    busy = False

    async def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> JobMeta:
        if not self.busy:
            type(self).busy = True
            self._shared = asyncio.ensure_future(self._later(task_template))
        return await asyncio.shield(self._shared)

    async def _later(self, task_template: Any) -> JobMeta:
        await asyncio.sleep(0.1)
        type(self).busy = False
        return await super().create(task_template)


class Blocks(Sound):
    async def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> JobMeta:
        if not list(self.file(JobMeta("x")).parent.iterdir()):
            time.sleep(1.1)  # noqa: ASYNC251 - the fault, of the first one
        return await super().create(task_template, inputs, **kwargs)


class FailsByRaising(Sound):
    def failed(self) -> Resource:
        raise RuntimeError("it rained")


class FailsSilently(Sound):
    def failed(self) -> Resource:
        return Resource(phase=TaskExecution.FAILED)


class FailsNever(Sound):
    def failed(self) -> Resource:
        return Resource(phase=TaskExecution.SUCCEEDED, outputs=self.outputs)


class SoundDo(SyncConnectorBase):
    """A sync agent that does all that FlytePropeller asks for."""

    name = "Sound Do"
    phase = TaskExecution.SUCCEEDED
    outputs: ClassVar[Any] = {"n": 3}

    def __init__(self, task_type: str = "sound_do") -> None:
        super().__init__(task_type_name=task_type)

    async def do(self, task_template: Any, output_prefix: str, inputs: Any = None, **kwargs: Any) -> Resource:
        if task_template.id.name.endswith("bad"):
            return Resource(phase=TaskExecution.FAILED, message="it rained")
        return Resource(phase=self.phase, outputs=self.outputs)


class DoesNotEnd(SoundDo):
    phase = TaskExecution.RUNNING


class DoesTheWrong(SoundDo):
    outputs: ClassVar[Any] = {"n": "three"}


class DoesRaise(SoundDo):
    async def do(self, task_template: Any, output_prefix: str, inputs: Any = None, **kwargs: Any) -> Resource:
        raise RuntimeError("it rained")
