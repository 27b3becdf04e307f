"""flytekit's three servicers, corrected where they break over a real channel.

What an agent is given, and flytekit's counters, are as in ``flytekit.extend.backend.connector_service``. What differs:
GetTaskLogs streams; what fails has a fitting status, its words within the wire's limit; an agent that was defined anew serves
the jobs of the old one; polls and deletes do not wait for code that blocks in a thread; what an agent prints is kept for the
run that the call's metadata names; values known as secret are masked in all that an agent says.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import re
import sys
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from flyteidl.admin import agent_pb2 as pb
from flyteidl.service import agent_pb2
from flyteidl.service import agent_pb2_grpc as services
from flytekit.core.context_manager import FlyteContextManager, flyte_context_Var
from flytekit.extend.backend import connector_service as counters
from flytekit.models.literals import LiteralMap
from flytekit.models.task import TaskExecutionMetadata, TaskTemplate

from flyteagent_nb import wire
from flyteagent_nb.masking import Masking
from flyteagent_nb.serving import latencies
from flyteagent_nb.serving.capture import Capture
from flyteagent_nb.serving.decoding import Malformed
from flyteagent_nb.serving.failures import CallError, describe, one_line
from flyteagent_nb.serving.invocation import AgentInvoker
from flyteagent_nb.serving.reasons import complete
from flyteagent_nb.serving.replies import checked_message, meta_bytes, resource_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from flytekit.core.context_manager import FlyteContext

    from flyteagent_nb.loop import ForkGate
    from flyteagent_nb.serving.catalog import AgentEntry, Catalog
    from flyteagent_nb.serving.invocation import OnBlocking
    from flyteagent_nb.serving.records import CallRecords

T = TypeVar("T")

LARGE = 64 * 1024
"""Bytes of inputs from which on they are converted off the loop: flytekit does it in Python, element by element."""

TYPES_COUNTED = 1_000
"""Task types that flytekit's counters tell apart, which are never forgotten; those of later callers count together."""

_LOGGER = logging.getLogger(__name__)
_RUN_ID = re.compile(r"[\w-]{0,64}", re.ASCII)
_COUNTED = frozenset({"create", "get", "delete", "do"})  # flytekit counts no others
_SAYING = frozenset({"get", "do", "get_metrics"})  # answers that are made anew for each call
_DATA = ("outputs",)  # what is no text of the agent's but the user's data
_HTTP = {
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
}


class AgentServicers:
    """The three servicers over one catalogue. Make and use it on the loop's thread.

    A call without wire.RUN_ID_KEY in its metadata comes from outside, a real propeller's for one: only such calls hold ``gate``,
    as our own client holds it by itself (and sends an empty id where there is no run).

    Attributes:
        invoker: calls the agents' methods; its ``stepping`` tells who holds the loop.
        masking: the values known as secret.
    """

    def __init__(
        self,
        catalog: Catalog,
        capture: Capture | None = None,
        gate: ForkGate | None = None,
        on_blocking: OnBlocking | None = None,
        masking: Masking | None = None,
    ) -> None:
        self.catalog = catalog
        self.masking = masking or Masking()
        self.invoker = AgentInvoker(asyncio.get_running_loop(), on_blocking)
        self._capture = capture or Capture(lambda run_id, stream, text: None)
        self._gate = gate
        self._counted: set[str] = set()

    def add_to(self, server: grpc.aio.Server) -> tuple[str, ...]:
        """Register the servicers with ``server``; returns the full names of the services."""
        services.add_AsyncAgentServiceServicer_to_server(_AsyncAgentService(self), server)
        services.add_SyncAgentServiceServicer_to_server(_SyncAgentService(self), server)
        services.add_AgentMetadataServiceServicer_to_server(_AgentMetadataService(self), server)
        return tuple(service.full_name for service in agent_pb2.DESCRIPTOR.services_by_name.values())

    async def answer(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        task_type: str,
        operation: str,
        work: Callable[[Any], Awaitable[T]],
        request: Any,
    ) -> T:
        """``await work(request)`` as the answer of one call, counted; what it raises becomes the call's status."""
        run_id = run_id_of(context)
        flyte_context_Var.set([base_context()])  # flytekit's contexts are a mutable list, which copied contexts share
        began = perf_counter()
        try:
            with self._capture.run(run_id or None) as call:
                if run_id is None and self._gate is not None:
                    async with self._gate.call():
                        answer = await work(request)
                else:
                    answer = await work(request)
        except BaseException as error:  # whatever an agent raises, SystemExit too, ends its call and never the loop
            failed: BaseException = error
        else:
            if operation in _COUNTED:
                self._took(task_type, operation, perf_counter() - began)
                counters.request_success_count.labels(self.label(task_type), operation).inc()
            if self.masking.active and operation in _SAYING:
                self.masking.message(answer, besides=_DATA)
            return answer
        if operation in _COUNTED:
            self._took(task_type, operation, perf_counter() - began)
        await self.fail(context, task_type, operation, run_id, failed, call)
        raise AssertionError("abort returned")

    def _took(self, task_type: str, operation: str, seconds: float) -> None:
        label = self.label(task_type)
        counters.request_latency.labels(label, operation).observe(seconds)
        latencies.observe(label, operation, seconds)

    async def fail(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        task_type: str,
        operation: str,
        run_id: str | None,
        error: BaseException,
        call: CallRecords,
    ) -> None:
        """End the call with the status of ``error``; a cancel by the client goes on as it came."""
        if isinstance(error, GeneratorExit) or (
            isinstance(error, asyncio.CancelledError) and _cancelled(context, error)
        ):
            raise error
        if self.masking.active:  # before anything of it is cut
            self.masking.error(error)
            call.errors, call.notes = self.masking.value(call.errors), self.masking.value(call.notes)
        failure = describe(error, task_type, call)
        if operation in _COUNTED:
            code = _HTTP.get(failure.code, HTTPStatus.INTERNAL_SERVER_ERROR)
            counters.request_failure_count.labels(self.label(task_type), operation, code).inc()
        if failure.traceback and run_id:
            self._capture.sink(run_id, "traceback", failure.traceback)
        elif failure.traceback:
            _LOGGER.info("%s of a %s task failed:\n%s", operation, task_type, self.masking.text(failure.traceback))
        await context.abort(failure.code, self.masking.text(failure.details))

    def label(self, task_type: str) -> str:
        """What the counters call a task type."""
        if task_type not in self._counted:
            if len(self._counted) >= TYPES_COUNTED:
                return "(others)"
            self._counted.add(task_type)
        return task_type

    def current(self, task_type: str, version: int) -> AgentEntry:
        """The agent of a task type, or NOT_FOUND."""
        try:
            return self.catalog.current(task_type, version)
        except LookupError as error:
            raise CallError(grpc.StatusCode.NOT_FOUND, str(error)) from None

    def job(self, request: Any) -> tuple[AgentEntry, Any]:
        """The agent that serves the job of a Get, Delete, Logs or Metrics request, and the job's resource meta.

        The newest agent of the task type; where that is a sync one now or cannot decode the resource meta, an earlier one.
        """
        category = request.task_category
        task_type, version = (category.name, category.version) if category.name else (request.task_type, 0)
        generations = self.catalog.generations(task_type, version) or (self.current(task_type, version),)
        undecoded: CallError | None = None
        for entry in generations:
            if entry.is_sync:
                continue
            try:
                return entry, entry.agent.metadata_type.decode(request.resource_meta)
            except (
                Exception
            ) as error:  # an agent's own decode may raise anything; an earlier generation may know better
                undecoded = undecoded or CallError(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"{type(entry.agent).__name__} cannot decode the resource meta ({len(request.resource_meta)} bytes): "
                    + one_line(error),
                )
        raise undecoded or CallError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"task type {task_type!r} is served by a sync agent, {generations[0].name!r}, which has no jobs",
        )

    async def inputs(self, message: Any, method: str) -> LiteralMap:
        """Inputs as flytekit's agents take them."""
        if message.ByteSize() > LARGE:
            return await self.invoker.in_thread(method, _read, LiteralMap, message)
        return _read(LiteralMap, message)


class _AsyncAgentService(services.AsyncAgentServiceServicer):  # type: ignore[misc]
    def __init__(self, servicers: AgentServicers) -> None:
        self._servicers = servicers
        self._call = servicers.invoker.call

    async def CreateTask(self, request: Any, context: Any) -> Any:
        return await self._servicers.answer(context, request.template.type, "create", self._create, request)

    async def _create(self, request: Any) -> Any:
        template = _read(TaskTemplate, request.template)
        entry = self._servicers.current(template.type, template.task_type_version)
        if entry.is_sync:
            raise CallError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"task type {template.type!r} is served by a sync agent, {entry.name!r}: call ExecuteTaskSync",
            )
        counters.input_literal_size.labels(self._servicers.label(template.type)).observe(request.inputs.ByteSize())
        meta = await self._call(
            entry,
            "create",
            task_template=template,
            inputs=await self._servicers.inputs(request.inputs, "create"),
            output_prefix=request.output_prefix,
            task_execution_metadata=_read(TaskExecutionMetadata, request.task_execution_metadata),
        )
        return pb.CreateTaskResponse(resource_meta=meta_bytes(entry, meta))

    async def GetTask(self, request: Any, context: Any) -> Any:
        return await self._servicers.answer(context, _type_of(request), "get", self._get, request)

    async def _get(self, request: Any) -> Any:
        entry, meta = self._servicers.job(request)
        returned = await self._call(entry, "get", resource_meta=meta)
        resource = await resource_message(self._servicers.invoker, entry, "get", returned)
        complete(entry.task_type, resource)
        return pb.GetTaskResponse(resource=resource)

    async def DeleteTask(self, request: Any, context: Any) -> Any:
        return await self._servicers.answer(context, _type_of(request), "delete", self._delete, request)

    async def _delete(self, request: Any) -> Any:
        entry, meta = self._servicers.job(request)
        await self._call(entry, "delete", resource_meta=meta)
        return pb.DeleteTaskResponse()

    async def GetTaskMetrics(self, request: Any, context: Any) -> Any:
        return await self._servicers.answer(context, _type_of(request), "get_metrics", self._metrics, request)

    async def _metrics(self, request: Any) -> Any:
        entry, meta = self._servicers.job(request)
        try:
            returned = await self._call(entry, "get_metrics", resource_meta=meta)
        except NotImplementedError:
            raise _lacking(entry, "get_metrics") from None
        return checked_message(entry, "get_metrics", returned, pb.GetTaskMetricsResponse)

    async def GetTaskLogs(self, request: Any, context: Any) -> None:
        await self._servicers.answer(
            context, _type_of(request), "get_logs", functools.partial(self._logs, write=context.write), request
        )

    async def _logs(self, request: Any, write: Callable[[Any], Awaitable[None]]) -> None:
        entry, meta = self._servicers.job(request)
        items = self._servicers.invoker.each(entry, "get_logs", resource_meta=meta)
        try:
            async for item in items:
                reply = checked_message(entry, "get_logs", item, pb.GetTaskLogsResponse)
                self._servicers.masking.message(reply)
                await write(reply)
        except NotImplementedError:
            raise _lacking(entry, "get_logs") from None
        finally:
            await items.aclose()


class _SyncAgentService(services.SyncAgentServiceServicer):  # type: ignore[misc]
    def __init__(self, servicers: AgentServicers) -> None:
        self._servicers = servicers

    async def ExecuteTaskSync(self, request_iterator: AsyncIterator[Any], context: Any) -> None:
        first = await context.read()
        if type(first) is Malformed:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, first.told)
        if first is grpc.aio.EOF or first.WhichOneof("part") != "header":
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the first message of ExecuteTaskSync must be a header"
            )
        task_type = first.header.template.type
        answer = await self._servicers.answer(
            context, task_type, "do", functools.partial(self._do, read=context.read), first.header
        )
        await context.write(answer)

    async def _do(self, header: Any, read: Callable[[], Awaitable[Any]]) -> Any:
        # Before all else: a client whose write meets a call that has ended sees INTERNAL, and never the status.
        second = await read()
        if type(second) is Malformed:
            raise CallError(grpc.StatusCode.INVALID_ARGUMENT, second.told)
        if second is grpc.aio.EOF or second.WhichOneof("part") != "inputs":
            raise CallError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "the second message of ExecuteTaskSync must be the inputs, also where there are none",
            )
        template = _read(TaskTemplate, header.template)
        entry = self._servicers.current(template.type, template.task_type_version)
        if not entry.is_sync:
            raise CallError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"task type {template.type!r} is served by an async agent, {entry.name!r}: call CreateTask",
            )
        returned = await self._servicers.invoker.call(
            entry,
            "do",
            task_template=template,
            inputs=await self._servicers.inputs(second.inputs, "do"),
            output_prefix=header.output_prefix,
        )
        resource = await resource_message(self._servicers.invoker, entry, "do", returned)
        complete(entry.task_type, resource)
        return pb.ExecuteTaskSyncResponse(header=pb.ExecuteTaskSyncResponseHeader(resource=resource))


class _AgentMetadataService(services.AgentMetadataServiceServicer):  # type: ignore[misc]
    def __init__(self, servicers: AgentServicers) -> None:
        self._servicers = servicers

    async def GetAgent(self, request: Any, context: Any) -> Any:
        return await self._servicers.answer(context, "", "GetAgent", self._agent, request)

    async def _agent(self, request: Any) -> Any:
        try:
            return pb.GetAgentResponse(agent=self._servicers.catalog.by_name(request.name))
        except LookupError as error:
            raise CallError(grpc.StatusCode.NOT_FOUND, str(error)) from None

    async def ListAgents(self, request: Any, context: Any) -> Any:
        return await self._servicers.answer(context, "", "ListAgents", self._agents, request)

    async def _agents(self, request: Any) -> Any:
        return pb.ListAgentsResponse(agents=self._servicers.catalog.metadata())


def _read(model: Any, message: Any) -> Any:
    """A message as flytekit's model of it, or INVALID_ARGUMENT: flytekit raises what comes up where a message makes no sense."""
    try:
        return model.from_flyte_idl(message)
    except Exception as error:  # as above
        raise CallError(
            grpc.StatusCode.INVALID_ARGUMENT, f"the {message.DESCRIPTOR.name} cannot be read: {one_line(error)}"
        ) from None


def run_id_of(context: Any) -> str | None:
    """The run that a call belongs to; None for a call that did not come from our own client.

    A file is called by it, so what could lead out of a folder is no run's id, whoever sends it.
    """
    for key, value in context.invocation_metadata():
        if key == wire.RUN_ID_KEY:
            return value if isinstance(value, str) and _RUN_ID.fullmatch(value) else None
    return None


@functools.cache
def base_context() -> FlyteContext:
    """flytekit's default context, which every call begins with.

    Made once: it reads flytekit's configuration and makes a folder. Not for the thread called MainThread, where flytekit would
    put in its own handler of SIGINT.
    """

    def make() -> FlyteContext:
        FlyteContextManager.initialize()
        return flyte_context_Var.get()[0]

    return contextvars.copy_context().run(make)


def _cancelled(context: Any, error: asyncio.CancelledError) -> bool:
    """Whether the call was cancelled, and it is not that the agent raised a CancelledError of its own."""
    if sys.version_info < (3, 11):  # where a task does not tell; gRPC cancels it without a word, an agent may give one
        return bool(context.cancelled() or not error.args)
    task = asyncio.current_task()
    return bool(context.cancelled() or (task is not None and task.cancelling()))


def _type_of(request: Any) -> str:
    return str(request.task_category.name or request.task_type)


def _lacking(entry: AgentEntry, method: str) -> CallError:
    return CallError(
        grpc.StatusCode.UNIMPLEMENTED,
        f"{type(entry.agent).__name__} (agent {entry.name!r}) does not implement {method}",
    )
