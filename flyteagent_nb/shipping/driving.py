"""One task and one agent service, driven call by call as FlytePropeller would, each call timed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc.aio
from flyteidl.admin.agent_pb2 import (
    CreateRequestHeader,
    CreateTaskRequest,
    DeleteTaskRequest,
    ExecuteTaskSyncRequest,
    GetTaskRequest,
    TaskCategory,
)

from flyteagent_nb.running import propeller
from flyteagent_nb.running.metadata import execution_metadata
from flyteagent_nb.running.rendering import TemplateError, attempt_variables, render_template
from flyteagent_nb.running.services import SyncReplyError, deadline_on, whose_deadline
from flyteagent_nb.running.wording import status_words, words_and_frames

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from flyteidl.admin.agent_pb2 import Resource
    from flyteidl.core.literals_pb2 import LiteralMap

    from flyteagent_nb.config import Settings
    from flyteagent_nb.running.services import AgentService
    from flyteagent_nb.running.storage import RunStorage
    from flyteagent_nb.running.tasks import TaskCall

T = TypeVar("T")


@dataclass(frozen=True)
class Reply(Generic[T]):
    """What came of one call.

    Attributes:
        seconds: how long it took.
        deadline: how long it might take; None for no limit.
        value: the answer, or None.
        error: what was said instead, in one line; empty where it was answered.
        code: the gRPC status's name, or an empty string.
    """

    seconds: float
    deadline: float | None
    value: T | None = None
    error: str = ""
    code: str = ""

    @property
    def failed(self) -> bool:
        """Whether there is no answer."""
        return bool(self.error)


class JobDriver:
    """Makes the calls of one task. A coroutine of the loop's."""

    def __init__(
        self,
        service: AgentService,
        call: TaskCall,
        inputs: LiteralMap,
        settings: Settings,
        storage: RunStorage,
        run_id: str,
    ) -> None:
        """Nothing is sent yet.

        Args:
            service: where the calls go.
            call: the task.
            inputs: its inputs.
            settings: the deadlines.
            storage: where output prefixes are.
            run_id: stands for the execution in the metadata and the prefixes.
        """
        self.service = service
        self.call = call
        self.jobs = 0
        self._inputs = inputs
        self._settings = settings
        self._storage = storage
        self._run_id = run_id
        self._category = TaskCategory(name=call.template.type, version=call.template.task_type_version)

    def on(self, service: AgentService) -> JobDriver:
        """The same task on another service, for jobs that this one made."""
        return JobDriver(service, self.call, self._inputs, self._settings, self._storage, self._run_id)

    def prefix(self, job: int) -> str:
        """The output prefix of the job with that number, from 1."""
        return self._storage.prefix(self._run_id, job, self.service.outputs)

    async def create(self) -> Reply[bytes]:
        """CreateTask: the resource meta."""
        self.jobs += 1
        job = self.jobs
        try:
            template = await self._template(job)
        except TemplateError as error:
            return Reply(0.0, None, error=str(error), code="TEMPLATE")
        request = CreateTaskRequest(
            inputs=self._inputs,
            template=template,
            output_prefix=self.prefix(job),
            task_execution_metadata=self._metadata(job),
        )
        return await self._timed("CreateTask", lambda d: self.service.create(request, self._run_id, d))

    async def get(self, meta: bytes, job: int = 1) -> Reply[Resource]:
        """GetTask: the state of a job."""
        request = GetTaskRequest(
            task_type=self._category.name,
            task_category=self._category,
            resource_meta=meta,
            output_prefix=self.prefix(job),
        )
        return await self._timed("GetTask", lambda d: self.service.get(request, self._run_id, d))

    async def delete(self, meta: bytes) -> Reply[bool]:
        """DeleteTask."""
        request = DeleteTaskRequest(task_type=self._category.name, task_category=self._category, resource_meta=meta)

        async def delete(deadline: float | None) -> bool:
            await self.service.delete(request, self._run_id, deadline)
            return True

        return await self._timed("DeleteTask", delete)

    async def execute(self) -> Reply[Resource]:
        """ExecuteTaskSync: the result."""
        self.jobs += 1
        job = self.jobs
        try:
            template = await self._template(job)
        except TemplateError as error:
            return Reply(0.0, None, error=str(error), code="TEMPLATE")
        header = CreateRequestHeader(
            template=template, output_prefix=self.prefix(job), task_execution_metadata=self._metadata(job)
        )
        first, second = ExecuteTaskSyncRequest(header=header), ExecuteTaskSyncRequest(inputs=self._inputs)
        return await self._timed("ExecuteTaskSync", lambda d: self.service.execute(first, second, self._run_id, d))

    async def outputs(self, job: int) -> tuple[LiteralMap | None, str]:
        """What a job left as outputs.pb, or why it failed by its error.pb.

        Raises:
            ValueError: a file is there and is not what it should be.
            OSError: the store cannot be read.
        """
        prefix = self.prefix(job)
        document = await asyncio.to_thread(self._storage.read_error, prefix)
        if document is not None:
            return None, propeller.failure_of_document(document).message
        return await asyncio.to_thread(self._storage.read_outputs, prefix), ""

    def forget(self) -> None:
        """Remove the folders of all jobs."""
        self._storage.forget(self._run_id, self.jobs)

    async def _template(self, job: int) -> Any:
        template, prefix = self.call.template, self.prefix(job)
        if template.WhichOneof("target") in ("container", "k8s_pod"):
            namespace = f"{self._settings.project}-{self._settings.domain}"
            variables = attempt_variables(prefix, self._run_id, 1, namespace=namespace, inputs=self._inputs)
            template = render_template(template, variables)
            await asyncio.to_thread(self._storage.write_inputs, prefix, self._inputs)
        else:
            await asyncio.to_thread(self._storage.make, prefix)
        return template

    def _metadata(self, job: int) -> Any:
        return execution_metadata(
            run_id=f"{self._run_id}-{job}",
            task_name=self.call.name,
            project=self._settings.project,
            domain=self._settings.domain,
            version="notebook",
        )

    async def _timed(self, operation: str, call: Any) -> Reply[Any]:
        deadline = deadline_on(self.service, operation, self._settings.deadlines, self._settings.deadline)
        return await timed(operation, deadline, call(deadline), whose_deadline(self.service, operation))


async def timed(operation: str, deadline: float | None, call: Coroutine[Any, Any, T], whose: str = "") -> Reply[T]:
    """Await one call; ``whose`` as for :func:`status_words`."""
    began = time.perf_counter()
    try:
        value = await call
    except grpc.aio.AioRpcError as error:
        said = words_and_frames(status_words(error, operation, deadline, whose))[0]
        return Reply(time.perf_counter() - began, deadline, None, _line(said), error.code().name)
    except SyncReplyError as error:
        return Reply(time.perf_counter() - began, deadline, None, str(error), "NO_REPLY")
    return Reply(time.perf_counter() - began, deadline, value)


def _line(text: str) -> str:
    return " ".join(text.split())[:500] or "nothing was said"
