"""The client of one agent service: its channel, the deadline of each call, and the calls."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from flyteidl.admin.agent_pb2 import (
    CreateTaskRequest,
    DeleteTaskRequest,
    ExecuteTaskSyncRequest,
    GetTaskLogsRequest,
    GetTaskRequest,
    ListAgentsRequest,
)
from flyteidl.service.agent_pb2_grpc import AgentMetadataServiceStub, AsyncAgentServiceStub, SyncAgentServiceStub

from flyteagent_nb import wire
from flyteagent_nb.running import propeller
from flyteagent_nb.running.channels import TLS, Reading, Unreadable, check_token, open_channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping

    from flyteidl.admin.agent_pb2 import Agent, Resource

    from flyteagent_nb.loop import ForkGate


LOST = "Internal error from Core"
"""What grpc.aio says in place of the status that a service has answered with, where it is about to write yet (grpc/grpc issue 36066)."""

STATUS_WAIT = 0.5
"""Seconds that the status of a sync call has behind its one message; propeller does not wait for it."""


class SyncReplyError(ValueError):
    """A sync call that ended well and brought nothing to work with."""


class AgentService:
    """One agent service. Every method is a coroutine of the loop that it was made on.

    All calls raise ``grpc.aio.AioRpcError`` where the service answers with an error or not at all, with DATA_LOSS where its answer cannot
    be read.

    Attributes:
        name: what the user calls it; the kernel's own is ``kernel``.
        target: its gRPC address.
        deadlines: seconds by operation, where they are its own.
        outputs: the prefix for outputs that it can reach, or an empty string.
    """

    def __init__(
        self,
        name: str,
        target: str,
        *,
        token: str | None = None,
        gate: ForkGate | None = None,
        tls: TLS | None = None,
        deadlines: Mapping[str, float] | None = None,
        outputs: str = "",
        service_config: str = "",
        host: str = "",
    ) -> None:
        """Nothing is asked of the service yet.

        Args:
            name: what the user calls it.
            target: its gRPC address.
            token: what it asks of every call, sent as ``authorization: Bearer TOKEN``.
            gate: what a call must hold where a fork could kill it.
            tls: how the connection is encrypted; None for plain text.
            deadlines: seconds by operation, where they are this service's own; ``""`` for every other operation. 0 for no limit.
            service_config: gRPC's service configuration (JSON), such as how several addresses take turns.
            outputs: the prefix for outputs that the service can reach (``s3://bucket/runs``); empty for a folder of this machine.
            host: whom its certificate has to be of, where ``target`` does not say it.

        Raises:
            ServiceError: a token would go to another machine in plain text; or a file of ``tls`` does not do.
        """
        if token and tls is None:
            check_token(name, target)
        self.name = name
        self.target = target
        self.deadlines = dict(deadlines or {})
        self.outputs = outputs.rstrip("/")
        self._gate = gate
        self._token = (wire.token_metadata(token),) if token else ()
        self._channel = open_channel(name, target, tls, service_config, host)
        reading = Reading(self._channel)
        self._async = AsyncAgentServiceStub(reading)
        self._sync = SyncAgentServiceStub(reading)
        self._metadata = AgentMetadataServiceStub(reading)

    def __repr__(self) -> str:
        return f"<AgentService {self.name} at {self.target}>"

    async def create(self, request: CreateTaskRequest, run_id: str, deadline: float | None) -> bytes:
        """CreateTask: the resource meta of the job."""
        reply = await self._unary(self._async.CreateTask, request, run_id, deadline)
        return bytes(reply.resource_meta)

    async def get(self, request: GetTaskRequest, run_id: str, deadline: float | None) -> Resource:
        """GetTask: the state of the job."""
        return (await self._unary(self._async.GetTask, request, run_id, deadline)).resource

    async def delete(self, request: DeleteTaskRequest, run_id: str, deadline: float | None) -> None:
        """DeleteTask: stop the job."""
        await self._unary(self._async.DeleteTask, request, run_id, deadline)

    async def list_agents(self, deadline: float | None) -> tuple[Agent, ...]:
        """ListAgents: what the service serves."""
        return tuple((await self._unary(self._metadata.ListAgents, ListAgentsRequest(), "", deadline)).agents)

    async def execute(
        self, header: ExecuteTaskSyncRequest, inputs: ExecuteTaskSyncRequest, run_id: str, deadline: float | None
    ) -> Resource:
        """ExecuteTaskSync: header, inputs, half-close, one message. Cancelling the caller cancels the call.

        Raises:
            SyncReplyError: the one message has no header.
        """
        async with self._gate.call() if self._gate else contextlib.nullcontext():
            call = self._sync.ExecuteTaskSync(
                _both(header, inputs), timeout=deadline, metadata=self._call_metadata(run_id)
            )
            answered: list[grpc.aio.AioRpcError] = []
            call.add_done_callback(lambda call: _keep_status(call, answered))
            try:
                reply = await call.read()
                if reply is grpc.aio.EOF:
                    await _raise_status(call)
                # The status comes right behind the message; a call that is dropped before it counts as cancelled. A service may as well
                # send more, or keep the stream open.
                drop = asyncio.get_running_loop().call_later(STATUS_WAIT, call.cancel)
                try:
                    await call.code()
                finally:
                    drop.cancel()
            except grpc.aio.AioRpcError as error:
                if error.details() == LOST and answered:
                    raise answered[0] from None
                raise
            finally:
                if not call.done():
                    call.cancel()
        _check(reply)
        if not reply.HasField("header"):
            raise SyncReplyError("the service answered without a header, so without a result")
        return reply.header.resource

    async def logs(self, request: GetTaskLogsRequest, run_id: str, deadline: float | None) -> AsyncIterator[str]:
        """GetTaskLogs: the job's own log lines, as the service streams them."""
        async with self._gate.call() if self._gate else contextlib.nullcontext():
            call = self._async.GetTaskLogs(request, timeout=deadline, metadata=self._call_metadata(run_id))
            async for reply in call:
                _check(reply)
                structured = [line.message for line in reply.body.structured_lines]
                for line in structured or reply.body.results:  # the older field, for callers who know no other
                    yield line

    async def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        await self._channel.close()

    async def _unary(self, method: Any, request: Any, run_id: str, deadline: float | None) -> Any:
        if self._gate is None:
            return _check(await method(request, timeout=deadline, metadata=self._call_metadata(run_id)))
        async with self._gate.call():
            return _check(await method(request, timeout=deadline, metadata=self._call_metadata(run_id)))

    def _call_metadata(self, run_id: str) -> tuple[tuple[str, str], ...]:
        return ((wire.RUN_ID_KEY, run_id), *self._token)  # empty where there is no run: it marks the call as ours


def _check(reply: Any) -> Any:
    """``reply``, where it could be read."""
    if isinstance(reply, Unreadable):
        metadata = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.DATA_LOSS, metadata, metadata, reply.told)
    return reply


async def _both(
    header: ExecuteTaskSyncRequest, inputs: ExecuteTaskSyncRequest
) -> AsyncIterator[ExecuteTaskSyncRequest]:
    yield header
    yield inputs


def _keep_status(call: Any, answered: list[grpc.aio.AioRpcError]) -> None:
    """Keep the error that a call has just ended with: a write that fails behind it takes its place."""
    code = _now(call.code())
    if code is not grpc.StatusCode.OK:
        initial, trailing = (
            _now(each()) or grpc.aio.Metadata() for each in (call.initial_metadata, call.trailing_metadata)
        )
        answered.append(grpc.aio.AioRpcError(code, initial, trailing, _now(call.details())))


def _now(awaited: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine comes to without a wait, or None."""
    try:
        awaited.send(None)
    except StopIteration as end:
        return end.value
    awaited.close()
    return None


async def _raise_status(call: Any) -> None:
    code = await call.code()
    details = await call.details()
    if code is grpc.StatusCode.OK:
        raise SyncReplyError("the service ended the call without an answer")
    raise grpc.aio.AioRpcError(code, await call.initial_metadata(), await call.trailing_metadata(), details)


def deadline_on(service: AgentService, operation: str, deadlines: Mapping[str, float], default: float) -> float | None:
    """Seconds a call of ``operation`` to a service may take: its own deadline, else the settings'; None for no limit."""
    own = service.deadlines.get(operation, service.deadlines.get(""))
    return deadline_of(operation, deadlines, default) if own is None else own or None


def whose_deadline(service: AgentService, operation: str) -> str:
    """The service's name where a call's deadline is its own, an empty string where it is the settings'."""
    return service.name if operation in service.deadlines or "" in service.deadlines else ""


def deadline_of(operation: str, deadlines: Mapping[str, float], default: float) -> float | None:
    """Seconds a call of ``operation`` may take; None for no limit."""
    return propeller.deadline(operation, deadlines, default or None) or None
