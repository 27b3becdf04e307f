"""Each correction over a real channel, and that flytekit's own servicer differs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from flyteidl.admin import agent_pb2 as pb
from flyteidl.core import literals_pb2
from flyteidl.core.execution_pb2 import TaskExecution
from flyteidl.service import agent_pb2_grpc as services
from flytekit import FlyteContextManager
from flytekit.extend.backend import connector_service
from flytekit.extend.backend.base_connector import (
    AsyncConnectorBase,
    ConnectorRegistry,
    Resource,
    ResourceMeta,
    SyncConnectorBase,
)
from flytekit.models.literals import LiteralMap
from prometheus_client import REGISTRY
from scripted import DoAgent, EchoAgent, JobMeta, PlainDoAgent, PlainScriptedAgent, ScriptedAgent, template

from flyteagent_nb import wire
from flyteagent_nb.loop import ForkGate, get_loop_thread
from flyteagent_nb.serving.capture import Capture
from flyteagent_nb.serving.catalog import Catalog
from flyteagent_nb.serving.output import OutputStore
from flyteagent_nb.serving.servicers import AgentServicers

RUN = ((wire.RUN_ID_KEY, "r-1"),)
INTERNAL, INVALID = grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT
META = b'{"job_id": "job-1"}'


@dataclass
class Answer:
    """How one call ended."""

    code: grpc.StatusCode
    details: str
    message: Any = None

    @property
    def is_ok(self) -> bool:
        return self.code is grpc.StatusCode.OK


@pytest.fixture
def catalog():
    registry, metadata = dict(ConnectorRegistry._REGISTRY), dict(ConnectorRegistry._METADATA)
    catalog = Catalog()
    catalog.take_over()
    yield catalog
    catalog.release()
    ConnectorRegistry._REGISTRY.clear()
    ConnectorRegistry._REGISTRY.update(registry)
    ConnectorRegistry._METADATA = metadata


class Client:
    """The calls of one server."""

    def __init__(self, channel: Any) -> None:
        self.asynchronous = services.AsyncAgentServiceStub(channel)
        self.synchronous = services.SyncAgentServiceStub(channel)
        self.metadata = services.AgentMetadataServiceStub(channel)

    async def create(self, task: Any, *, inputs: Any = None, **how: Any) -> Answer:
        request = pb.CreateTaskRequest(
            template=task, inputs=inputs or literals_pb2.LiteralMap(), output_prefix="/tmp/x"
        )
        return await unary(self.asynchronous.CreateTask, request, **how)

    async def created(self, task: Any, **how: Any) -> bytes:
        answer = await self.create(task, **how)
        assert answer.is_ok, answer
        return answer.message.resource_meta

    async def job(
        self, operation: str, task_type: str, meta: bytes = META, *, old_type: str = "", **how: Any
    ) -> Answer:
        request = getattr(pb, f"{operation}Request")(
            task_type=old_type or task_type, task_category={"name": task_type}, resource_meta=meta
        )
        return await unary(getattr(self.asynchronous, operation), request, **how)

    async def get(self, task_type: str, meta: bytes = META, **how: Any) -> Answer:
        return await self.job("GetTask", task_type, meta, **how)

    async def do(self, task: Any, *, inputs: Any = None, **how: Any) -> Answer:
        return await self.messages(
            header(task), pb.ExecuteTaskSyncRequest(inputs=inputs or literals_pb2.LiteralMap()), **how
        )

    async def messages(self, *messages: Any, metadata: Any = RUN, timeout: float = 20) -> Answer:
        call = self.synchronous.ExecuteTaskSync(metadata=metadata, timeout=timeout)
        answer = None
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the status tells
            for message in messages:
                await call.write(message)
            await call.done_writing()
            answer = await call.read()
        return Answer(await call.code(), await call.details(), answer)

    async def logs(self, task_type: str, meta: bytes = META) -> Answer:
        request = pb.GetTaskLogsRequest(task_category={"name": task_type}, resource_meta=meta)
        call = self.asynchronous.GetTaskLogs(request, metadata=RUN, timeout=20)
        answers = []
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for answer in call:
                answers.append(list(answer.body.results))
        return Answer(await call.code(), await call.details(), answers)


async def unary(method: Any, request: Any, *, metadata: Any = RUN, timeout: float = 20) -> Answer:
    try:
        return Answer(grpc.StatusCode.OK, "", await method(request, metadata=metadata, timeout=timeout))
    except grpc.aio.AioRpcError as error:
        return Answer(error.code(), error.details())


def header(task: Any) -> Any:
    return pb.ExecuteTaskSyncRequest(header=pb.CreateRequestHeader(template=task, output_prefix="/tmp/x"))


@pytest.fixture
def serve(catalog, monkeypatch):
    """Call it with a test's coroutine function and agents: it runs with our servicers and flytekit's over the same agents."""
    monkeypatch.setattr(
        logging.getLogger("flytekit"), "disabled", True
    )  # rich takes minutes for what flytekit's own log

    def run(test: Any, *agents: Any, **how: Any) -> Any:
        return get_loop_thread().run(asyncio.wait_for(serving(test, catalog, agents, **how), 60))

    return run


async def serving(test: Any, catalog: Any, agents: Any, *, gate=None, on_blocking=None, options=wire.OPTIONS) -> Any:
    for agent in agents:
        catalog.register(agent)
    store = OutputStore()
    capture = Capture(store.sink)
    servicers = AgentServicers(catalog, capture, gate, on_blocking)
    ours, theirs = (grpc.aio.server(options=wire.OPTIONS) for _ in range(2))
    servicers.add_to(ours)
    services.add_AsyncAgentServiceServicer_to_server(connector_service.AsyncConnectorService(), theirs)
    services.add_SyncAgentServiceServicer_to_server(connector_service.SyncConnectorService(), theirs)
    services.add_AgentMetadataServiceServicer_to_server(connector_service.ConnectorMetadataService(), theirs)
    capture.install()
    with tempfile.TemporaryDirectory(prefix="fa-") as folder:
        targets = [f"unix:{folder}/{name}" for name in ("ours", "theirs")]
        for server, target in zip((ours, theirs), targets, strict=True):
            server.add_insecure_port(target)
            await server.start()
        channels = [grpc.aio.insecure_channel(target, options=options) for target in targets]
        try:
            return await test(
                SimpleNamespace(
                    ours=Client(channels[0]),
                    theirs=Client(channels[1]),
                    store=store,
                    servicers=servicers,
                    catalog=catalog,
                )
            )
        finally:
            capture.remove()
            for channel in channels:
                await channel.close()
            await asyncio.gather(*(server.stop(None) for server in (ours, theirs)))
            servicers.invoker.close()


def log(*texts: str) -> pb.GetTaskLogsResponse:
    return pb.GetTaskLogsResponse(body=pb.GetTaskLogsResponseBody(results=texts))


class LogsAgent(ScriptedAgent):
    def get_metrics(self, resource_meta, **kwargs):
        return pb.GetTaskMetricsResponse(results=[])


class OneLog(LogsAgent):
    def get_logs(self, resource_meta, **kwargs):
        assert threading.current_thread().name.startswith("flyteagent_nb-ask")
        return log("1", "2")


class AwaitedLog(LogsAgent):
    async def get_logs(self, resource_meta, **kwargs):
        return log("1", "2")


class ListOfLogs(LogsAgent):
    async def get_logs(self, resource_meta, **kwargs):
        return [log("1"), log("2")]


class YieldedLogs(LogsAgent):
    def get_logs(self, resource_meta, **kwargs):
        for i in "12":
            assert threading.current_thread().name.startswith("flyteagent_nb-ask")
            yield log(i)


class StreamedLogs(LogsAgent):
    async def get_logs(self, resource_meta, **kwargs):
        for i in "12":
            await asyncio.sleep(0)
            yield log(i)


@pytest.mark.parametrize("kind", [OneLog, AwaitedLog, ListOfLogs, YieldedLogs, StreamedLogs])
def test_logs_stream(serve, kind):
    async def test(s):
        meta = await s.ours.created(template("scripted"))
        ours, theirs = await s.ours.logs("scripted", meta), await s.theirs.logs("scripted", meta)
        assert ours.is_ok
        assert [line for message in ours.message for line in message] == ["1", "2"]
        assert theirs.message == []
        metrics = await s.ours.job("GetTaskMetrics", "scripted", meta)
        assert metrics.is_ok

    serve(test, kind())


class EndlessLogs(LogsAgent):
    closed = None

    async def get_logs(self, resource_meta, **kwargs):
        self.closed = asyncio.Event()
        try:
            while True:
                yield log("line")
                await asyncio.sleep(0)
        finally:
            self.closed.set()


class BrokenLogs(LogsAgent):
    def get_logs(self, resource_meta, **kwargs):
        yield log("1")
        raise OSError("disk")


class WrongLogs(LogsAgent):
    def get_logs(self, resource_meta, **kwargs):
        return "1"


def test_logs_that_end_early(serve):
    async def test(s):
        meta = await s.ours.created(template("scripted"))
        call = s.ours.asynchronous.GetTaskLogs(
            pb.GetTaskLogsRequest(task_category={"name": "scripted"}, resource_meta=meta)
        )
        assert (await call.read()).body.results == ["line"]
        call.cancel()
        await asyncio.wait_for(s.catalog.current("scripted").agent.closed.wait(), 10)
        s.catalog.register(BrokenLogs())
        broken = await s.ours.logs("scripted", meta)
        assert (broken.code, broken.message) == (INTERNAL, [["1"]])
        assert broken.details.startswith("OSError: disk\n")
        s.catalog.register(WrongLogs())
        wrong = await s.ours.logs("scripted", meta)
        assert wrong.details == "WrongLogs.get_logs returned a value of type str instead of a GetTaskLogsResponse"

    serve(test, EndlessLogs())


def test_what_nobody_serves_is_not_found_with_the_nearest_name(serve):
    async def test(s):
        for client, code in ((s.ours, grpc.StatusCode.NOT_FOUND), (s.theirs, grpc.StatusCode.UNKNOWN)):
            answer = await unary(client.metadata.GetAgent, pb.GetAgentRequest(name="Scripted Agnt"))
            assert answer.code is code
            assert ("did you mean Scripted Agent?" in answer.details) is (client is s.ours)
            calls = [client.create(template("scriptd")), client.do(template("scriptd")), client.get("scriptd")]
            for answer in await asyncio.gather(*calls):
                assert answer.code is grpc.StatusCode.NOT_FOUND
                assert ("did you mean scripted?" in answer.details) is (client is s.ours)
        found = await unary(s.ours.metadata.GetAgent, pb.GetAgentRequest(name="Scripted Agent"))
        listed = await unary(s.ours.metadata.ListAgents, pb.ListAgentsRequest())
        assert found.message.agent in listed.message.agents

    serve(test, ScriptedAgent())


def test_what_an_agent_does_not_implement(serve):
    async def test(s):
        meta = await s.ours.created(template("scripted"))
        ours, theirs = (
            await s.ours.job("GetTaskMetrics", "scripted", meta),
            await s.theirs.job("GetTaskMetrics", "scripted", meta),
        )
        assert ours == Answer(
            grpc.StatusCode.UNIMPLEMENTED, "ScriptedAgent (agent 'Scripted Agent') does not implement get_metrics"
        )
        assert theirs.code is grpc.StatusCode.UNKNOWN
        ours, theirs = await s.ours.logs("scripted", meta), await s.theirs.logs("scripted", meta)
        assert ours == Answer(
            grpc.StatusCode.UNIMPLEMENTED, "ScriptedAgent (agent 'Scripted Agent') does not implement get_logs", []
        )
        assert theirs.code is grpc.StatusCode.UNKNOWN

    serve(test, ScriptedAgent())


def test_the_other_kind_of_call(serve):
    async def test(s):
        for client, code in ((s.ours, grpc.StatusCode.FAILED_PRECONDITION), (s.theirs, INTERNAL)):
            calls = [client.create(template("do")), client.get("do"), client.do(template("scripted"))]
            answers = await asyncio.gather(*calls)
            assert [a.code for a in answers] == [code] * 3
            if client is s.ours:
                assert [a.details.rpartition(": ")[2] for a in answers[::2]] == [
                    "call ExecuteTaskSync",
                    "call CreateTask",
                ]
                assert "sync agent" in answers[1].details

    serve(test, ScriptedAgent(), DoAgent())


@pytest.mark.parametrize("meta", [b"\xff\xfe", b"", b"[]", b'{"job": 1}'])
def test_a_resource_meta_that_does_not_decode(serve, meta):
    async def test(s):
        for operation in ("GetTask", "DeleteTask", "GetTaskMetrics"):
            ours, theirs = (
                await s.ours.job(operation, "scripted", meta),
                await s.theirs.job(operation, "scripted", meta),
            )
            assert ours.code is INVALID
            assert ours.details.startswith(f"ScriptedAgent cannot decode the resource meta ({len(meta)} bytes): ")
            assert theirs.code in (INTERNAL, grpc.StatusCode.UNKNOWN)

    serve(test, ScriptedAgent())


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [header(template("do"))],
        [pb.ExecuteTaskSyncRequest(inputs=literals_pb2.LiteralMap())],
        [header(template("do")), header(template("do"))],
        [pb.ExecuteTaskSyncRequest()],
    ],
    ids=["nothing", "header only", "inputs only", "two headers", "empty"],
)
def test_a_sync_call_without_its_two_messages(serve, messages):
    async def test(s):
        ours, theirs = await s.ours.messages(*messages), await s.theirs.messages(*messages)
        assert ours.code is INVALID
        assert "message of ExecuteTaskSync must be" in ours.details
        assert theirs.code is not INVALID

    serve(test, DoAgent())


def test_a_refusal_reaches_a_client_that_is_slow_to_write(serve):
    async def test(s):
        for turns in range(200):
            call = s.ours.synchronous.ExecuteTaskSync(metadata=RUN, timeout=20)
            await call.write(header(template("scripted")))
            for _ in range(turns % 20):
                await asyncio.sleep(0)
            await call.write(pb.ExecuteTaskSyncRequest(inputs=literals_pb2.LiteralMap()))
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.FAILED_PRECONDITION

    serve(test, ScriptedAgent())


def deep(n):
    if n:
        deep(n - 1)
    raise LookupError("table users not found")


class Raising(ScriptedAgent):
    error: Any = None

    async def create(self, task_template, **kwargs):
        try:
            deep(2)
        except LookupError as error:
            raise ValueError("bad query\nsecond line") from error

    def get(self, resource_meta, **kwargs):
        deep(200)

    async def delete(self, resource_meta, **kwargs):
        raise self.error


def test_an_agent_s_exception(serve):
    async def test(s):
        answer = await s.ours.create(template("scripted"))
        assert answer.code is INTERNAL
        line = Raising.create.__code__.co_firstlineno
        assert answer.details.splitlines() == [
            "ValueError: bad query",
            "second line",
            f"  {__file__}:{line + 4} in create",
            "caused by LookupError: table users not found",
        ]
        output = "\n".join(s.store.get("r-1").lines())
        assert "Traceback (most recent call last):" in output
        assert "flyteagent_nb/serving/" not in output.replace("\\", "/")  # it begins with the agent's own code
        assert "in deep" in output
        theirs = await s.theirs.create(template("scripted"))
        assert "connector_service.py" in theirs.details

        answer = await s.ours.get("scripted")
        lines = answer.details.splitlines()
        assert lines[0] == "LookupError: table users not found"
        assert len(lines) > 10
        assert set(lines[1:]) <= {f"  {__file__}:{deep.__code__.co_firstlineno + n} in deep" for n in (2, 3)}
        assert lines[-1].endswith(f":{deep.__code__.co_firstlineno + 3} in deep")

    serve(test, Raising())


@pytest.mark.parametrize("options", [wire.OPTIONS, ()], ids=["our client", "any client"])
@pytest.mark.parametrize("letter", ["x", "é", "\n", "%", "\udc80", "\0"])
def test_a_message_of_a_megabyte_arrives_with_its_head_and_the_last_frames(serve, letter, options):
    async def test(s):
        agent = s.catalog.current("scripted").agent
        agent.error = RuntimeError("the head: " + letter * 1_000_000)
        ours = await s.ours.job("DeleteTask", "scripted")
        assert ours.code is INTERNAL
        assert ours.details.startswith("RuntimeError: the head: ")
        assert ours.details.endswith(" in delete")
        assert len(ours.details) > 900
        assert len(ours.details.encode()) <= wire.DETAILS_LIMIT
        theirs = await s.theirs.job("DeleteTask", "scripted", timeout=2)
        assert "the head" not in theirs.details

    serve(test, Raising(), options=options)


@pytest.mark.parametrize("words", ["sbatch: error: invalid partition\n", b"sbatch: error: invalid partition\n"])
def test_what_a_program_said_leads_the_exception_that_tells_its_exit_status(serve, words):
    async def test(s):
        s.catalog.current("scripted").agent.error = subprocess.CalledProcessError(1, "sbatch", stderr=words)
        answer = await s.ours.job("DeleteTask", "scripted")
        lines = answer.details.splitlines()
        assert lines[0] == "sbatch: error: invalid partition" and lines[1].startswith("CalledProcessError: ")

    serve(test, Raising())


class Unreadable(Exception):
    def __str__(self):
        raise KeyError("no")


def test_exceptions_that_cannot_be_read(serve):
    async def test(s):
        s.catalog.current("scripted").agent.error = Unreadable()
        ours, theirs = await s.ours.job("DeleteTask", "scripted"), await s.theirs.job("DeleteTask", "scripted")
        assert ours.code is INTERNAL
        assert ours.details.splitlines()[0] == "Unreadable: <its message cannot be read: KeyError>"
        assert "Unreadable" in "\n".join(s.store.get("r-1").lines())
        assert "its message" not in theirs.details

    serve(test, Raising())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python has exception groups from 3.11 on")
def test_exception_groups_show_what_is_inside(serve):
    async def test(s):
        try:
            deep(0)
        except LookupError as error:
            group = ExceptionGroup("two failed", [ExceptionGroup("inner", [error]), OSError("disk")])  # noqa: F821
        s.catalog.current("scripted").agent.error = group
        ours = await s.ours.job("DeleteTask", "scripted")
        lines = ours.details.splitlines()
        assert lines[0] == "ExceptionGroup: two failed (2 sub-exceptions)"
        assert lines[-2:] == ["caused by LookupError: table users not found", "caused by OSError: disk"]
        assert any(line.endswith(" in deep") for line in lines)
        theirs = await s.theirs.job("DeleteTask", "scripted")
        assert "caused by" not in theirs.details

    serve(test, Raising())


def cyclic():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError("by itself"), cyclic()],
    ids=lambda e: type(e).__name__,
)
def test_what_ends_other_programs_ends_a_call(serve, error):
    async def test(s):
        s.catalog.current("scripted").agent.error = error
        answer = await s.ours.job("DeleteTask", "scripted")
        assert answer.code is INTERNAL
        assert answer.details.startswith(f"{type(error).__name__}: ")
        assert (await s.ours.create(template("do_plain", raises={"do": "ValueError: x"}))).code is not None

    serve(test, Raising())


def test_system_exit_in_a_thread(serve):
    async def test(s):
        answer = await s.ours.do(template("do_plain", raises={"do": "SystemExit: 3"}))
        assert answer.code is INTERNAL
        assert answer.details.startswith("SystemExit: 3\n")
        assert (await s.ours.do(template("do_plain"))).is_ok

    serve(test, PlainDoAgent())


def test_system_exit_ends_flytekit_s_own_service(tmp_path):
    code = f"""
        import asyncio, grpc
        from scripted import DoAgent, template
        from flytekit.extend.backend.base_connector import ConnectorRegistry
        from flytekit.extend.backend.connector_service import SyncConnectorService
        from flyteidl.service import agent_pb2_grpc as services
        from flyteidl.admin import agent_pb2 as pb

        async def main():
            ConnectorRegistry.register(DoAgent())
            server = grpc.aio.server()
            services.add_SyncAgentServiceServicer_to_server(SyncConnectorService(), server)
            server.add_insecure_port("unix:{tmp_path}/s")
            await server.start()
            async with grpc.aio.insecure_channel("unix:{tmp_path}/s") as channel:
                call = services.SyncAgentServiceStub(channel).ExecuteTaskSync()
                header = pb.CreateRequestHeader(template=template("do", raises={{"do": "SystemExit: 3"}}))
                await call.write(pb.ExecuteTaskSyncRequest(header=header))
                await call.write(pb.ExecuteTaskSyncRequest(inputs={{}}))
                await call.done_writing()
                await call.code()
            print("answered")

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=str(Path(__file__).parent),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "answered" not in done.stdout
    assert "SystemExit" in done.stderr or done.returncode == 3


class Exhausted(ScriptedAgent):
    def get(self, resource_meta, **kwargs):
        return next(iter([]))


def test_stop_iteration_in_a_thread_is_an_answer(serve):
    async def test(s):
        answer = await s.ours.get("scripted")
        assert answer.code is INTERNAL
        assert answer.details.startswith("RuntimeError: get raised StopIteration\n")
        theirs = await s.theirs.get("scripted", timeout=0.5)
        if sys.version_info < (3, 12):  # a future does not take it, and the call never ends
            assert theirs.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert theirs.details != answer.details

    serve(test, Exhausted())


def test_a_connector_that_flytekit_does_not_find_from_inside(serve):
    class Delegating(ScriptedAgent):
        def get(self, resource_meta, **kwargs):
            return ConnectorRegistry.get_connector("other")

    async def test(s):
        for client in (s.ours, s.theirs):
            assert (await client.get("scripted")).code is grpc.StatusCode.NOT_FOUND
        lines = (await s.ours.get("scripted")).details.splitlines()
        assert "other_v0" in lines[0]
        assert [line for line in lines if ":" in line and "base_connector.py" in line] == []
        assert lines[-1].endswith(" in get")

    serve(test, Delegating())


def test_a_cancel_by_the_client_reaches_the_agent(serve):
    async def test(s):
        agent = s.catalog.current("do").agent
        answer = asyncio.create_task(s.ours.do(template("do", hangs=["do"])))
        await agent.until(lambda: agent.calls)
        answer.cancel()
        await agent.until(lambda: agent.cancelled)
        assert (await s.ours.do(template("do", hangs=["do"]), timeout=0.1)).code is grpc.StatusCode.DEADLINE_EXCEEDED
        await agent.until(lambda: len(agent.cancelled) == 2)
        assert s.store.get("r-1") is None

    serve(test, DoAgent())


def test_an_agent_that_answers_a_cancel_with_an_error_disturbs_nobody(serve, caplog):
    class Stubborn(DoAgent):
        async def do(self, **kwargs):
            self.calls.append(("do", ""))
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self._record(self.cancelled, "do")
                raise ValueError("cleaning up failed") from None

    async def test(s):
        answer = await s.ours.do(template("do"), timeout=0.1)
        assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED
        agent = s.catalog.current("do").agent
        await agent.until(lambda: agent.cancelled)
        assert "cleaning up failed" in "\n".join(s.store.get("r-1").lines())

    serve(test, Stubborn())
    assert not caplog.records


@dataclass
class OtherMeta(ResourceMeta):
    number: int


class Renamed(AsyncConnectorBase):
    """The same task type with another resource meta."""

    name = "Renamed Agent"

    def __init__(self):
        super().__init__(metadata_type=OtherMeta, task_type_name="scripted")

    async def create(self, **kwargs):
        return OtherMeta(1)

    async def get(self, resource_meta, **kwargs):
        return Resource(phase=TaskExecution.RUNNING, message=f"number {resource_meta.number}")

    async def delete(self, resource_meta, **kwargs):
        pass


class Mended(ScriptedAgent):
    async def get(self, resource_meta, **kwargs):
        return Resource(phase=TaskExecution.RUNNING, message=f"mended {resource_meta.job_id}")


def test_the_newest_agent_serves_a_job_and_an_earlier_one_where_it_cannot(serve):
    async def test(s):
        first = s.catalog.current("scripted").agent
        meta = await s.ours.created(template("scripted", message="first"))
        assert (await s.ours.get("scripted", meta)).message.resource.message == "first"
        s.catalog.register(Mended())
        assert (await s.ours.get("scripted", meta)).message.resource.message == "mended job-1"
        s.catalog.register(Renamed())
        new = await s.ours.created(template("scripted"))
        assert (await s.ours.get("scripted", new)).message.resource.message == "number 1"
        assert (await s.ours.get("scripted", meta)).message.resource.message == "mended job-1"
        assert (await s.theirs.get("scripted", meta)).code is INTERNAL
        s.catalog.register(DoAgent("scripted"))
        assert (await s.ours.get("scripted", meta)).message.resource.message == "mended job-1"
        assert (await s.ours.get("scripted", new)).message.resource.message == "number 1"
        assert (await s.theirs.get("scripted", meta)).code is INTERNAL
        s.catalog.remove("scripted", 0)
        assert (await s.ours.get("scripted", meta)).message.resource.message == "mended job-1"
        assert (await s.ours.create(template("scripted"))).code is grpc.StatusCode.NOT_FOUND
        assert (await s.theirs.get("scripted", meta)).code is grpc.StatusCode.NOT_FOUND
        garbage = await s.ours.get("scripted", b"?")
        assert garbage.code is INVALID
        assert garbage.details.startswith("Renamed cannot decode")
        assert first.count("get") == 1

    serve(test, ScriptedAgent())


def test_the_task_category_wins_over_the_old_field(serve):
    async def test(s):
        meta = await s.ours.created(template("scripted"))
        assert (await s.ours.get("scripted", meta, old_type="nothing")).is_ok
        request = pb.GetTaskRequest(task_type="scripted", resource_meta=meta)
        assert (await unary(s.ours.asynchronous.GetTask, request)).is_ok
        request = pb.GetTaskRequest(
            task_type="scripted", task_category={"name": "scripted", "version": 1}, resource_meta=meta
        )
        assert (await unary(s.ours.asynchronous.GetTask, request)).code is grpc.StatusCode.NOT_FOUND

    serve(test, ScriptedAgent())


class Returning(AsyncConnectorBase):
    """Returns what it is given."""

    name = "Returning Agent"

    def __init__(self, create=None, get=None, plain=False):
        super().__init__(metadata_type=JobMeta, task_type_name="returning")
        self._create, self._get = create or JobMeta("1"), get

    def create(self, **kwargs):
        return self._create

    async def get(self, resource_meta, **kwargs):
        return self._get() if callable(self._get) else self._get

    async def delete(self, resource_meta, **kwargs):
        pass


def resource(**fields):
    return Resource(**{"phase": TaskExecution.SUCCEEDED, **fields})


class NoTransformer:
    __slots__ = ()

    def __reduce__(self):
        raise TypeError("cannot pickle")


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (Returning(create=7), "Returning.create returned a value of type int instead of a ResourceMeta"),
        (Returning(create="job-1"), "Returning.create returned a value of type str instead of a ResourceMeta"),
        (Returning(create=JobMeta(object())), "Returning.create returned a JobMeta that does not encode: TypeError: "),
        (
            Returning(create=SimpleNamespace(encode=lambda: "text")),
            "Returning.create returned a SimpleNamespace whose encode returns a value of type str instead of bytes",
        ),
        (Returning(), "Returning.get returned None instead of a Resource"),
        (Returning(get=TaskExecution.SUCCEEDED), "Returning.get returned a value of type int instead of a Resource"),
        (Returning(get=resource(phase=None)), "Returning.get returned a Resource whose phase is None"),
        (
            Returning(get=resource(phase="DONE")),
            "Returning.get returned a Resource whose phase is 'DONE', none of TaskExecution's: QUEUED, RUNNING, SUCCEEDED, ",
        ),
        (
            Returning(get=resource(outputs={"good": 1, "bad": NoTransformer()})),
            "Returning.get returned an output 'bad', a value of type NoTransformer, that flytekit cannot turn into a literal: ",
        ),
        (
            Returning(get=resource(outputs=[1])),
            "Returning.get returned outputs that are a value of type list instead of a dict or a LiteralMap",
        ),
        (
            Returning(get=resource(custom_info={"at": object()})),
            "Returning.get returned a custom_info that is not JSON: TypeError: Object of type object is not JSON serializable",
        ),
        (
            Returning(get=resource(message=7)),
            "Returning.get returned a message that is a value of type int instead of a str",
        ),
        (
            Returning(get=resource(log_links=["http://x"])),
            "Returning.get returned a Resource that flytekit cannot convert: TypeError: ",
        ),
    ],
    ids=lambda x: x.partition(":")[0][:60] if isinstance(x, str) else "",
)
def test_what_an_agent_returns_wrongly(serve, agent, words):
    async def test(s):
        async def call(client):
            answer = await client.create(template("returning"))
            return await client.get("returning") if answer.is_ok else answer

        ours, theirs = await call(s.ours), await call(s.theirs)
        assert ours.code is INTERNAL
        assert ours.details.startswith(words)
        assert words not in theirs.details

    serve(test, agent)


class Narrow(Returning):
    def create(self, task_template, inputs=None):
        return JobMeta("1")

    async def get(self, meta):
        raise AssertionError("it cannot be entered")


class Entered(Returning):
    def create(self, **kwargs):
        return len(7)

    async def get(self, resource_meta, **kwargs):
        return len(7)


def test_a_method_that_does_not_take_its_arguments_is_told_of_them(serve):
    told = ": it is called by keyword, with {}; **kwargs takes what it has no use for"

    async def test(s):
        create, get = await s.ours.create(template("returning")), await s.ours.get("returning")
        assert create.details.startswith("TypeError: Narrow.create() got an unexpected keyword argument ")
        assert told.format("task_template, inputs, output_prefix, task_execution_metadata") in create.details
        assert told.format("resource_meta") in get.details and "Narrow.get()" in get.details

    serve(test, Narrow())

    async def entered(s):
        for answer in (await s.ours.create(template("returning")), await s.ours.get("returning")):
            assert answer.details.startswith("TypeError: object of type 'int' has no len()\n")

    serve(entered, Entered())


def integers(n):
    literal = literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(integer=7)))
    collection = literals_pb2.LiteralCollection(literals=[literal] * n)
    return literals_pb2.LiteralMap(literals={"x": literals_pb2.Literal(collection=collection)})


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("outputs", "on_loop"),
    [
        (None, True),
        ({"x": 1, "y": "text", "z": None}, True),
        (LiteralMap.from_flyte_idl(integers(0)), False),
        (LiteralMap.from_flyte_idl(integers(1000)), False),
        ({"x": Point(1)}, False),
    ],
    ids=["none", "scalars", "empty list", "list", "dataclass"],
)
def test_outputs_are_as_flytekit_has_them_and_long_conversions_are_off_the_loop(serve, outputs, on_loop):
    threads = []

    class Recording(Resource):
        async def to_flyte_idl(self):
            threads.append(threading.get_ident())
            return await super().to_flyte_idl()

    async def test(s):
        ours, theirs = await s.ours.get("returning"), await s.theirs.get("returning")
        assert ours.is_ok, ours
        assert ours.message == theirs.message
        assert [thread == threading.get_ident() for thread in threads] == [on_loop, True]

    serve(test, Returning(get=lambda: Recording(phase=TaskExecution.SUCCEEDED, outputs=outputs)))


def test_polls_and_deletes_are_answered_while_every_thread_runs_a_blocking_create_or_do(serve):
    async def test(s):
        jobs, do = s.catalog.current("scripted_plain").agent, s.catalog.current("do_plain").agent
        meta = await s.ours.created(template("scripted_plain"))
        for client in (s.ours, s.theirs):
            blocked = [asyncio.create_task(client.do(template("do_plain", hangs=["do"]))) for _ in range(40)]
            await do.until(lambda: do.count("do") >= 32)
            get = await client.get("scripted_plain", meta, timeout=10 if client is s.ours else 0.3)
            assert get.is_ok is (client is s.ours)
            if client is s.ours:
                assert (await client.job("DeleteTask", "scripted_plain", meta)).is_ok
            do.released.set()
            assert all(answer.is_ok for answer in await asyncio.gather(*blocked))
            do._reset()
        assert jobs.threads["create"] != threading.get_ident()

    serve(test, PlainScriptedAgent(), PlainDoAgent())


class Later:
    def __init__(self, function: Any) -> None:
        self._function = function

    def __await__(self) -> Any:
        return self._function().__await__()


class Awaiting(DoAgent):
    """A plain function that returns what is to be awaited, as a decorator may leave it."""

    def do(self, task_template, **kwargs):
        self.threads["called"] = threading.get_ident()
        later = Later(functools.partial(super().do, task_template, **kwargs))
        return later if task_template.custom["message"] == "later" else super().do(task_template, **kwargs)


def test_a_plain_method_that_returns_an_awaitable_is_awaited(serve):
    async def test(s):
        agent = s.catalog.current("do").agent
        for message in ("later", "coroutine"):
            answer = await s.ours.do(template("do", message=message))
            assert answer.message.header.resource.message == message
            assert agent.threads["do"] == threading.get_ident() != agent.threads["called"]
        assert (await s.theirs.do(template("do", message="later"))).code is INTERNAL

    serve(test, Awaiting())


class Leaking(SyncConnectorBase):
    """Pushes a flytekit context and never pops it."""

    name = "Leaking Agent"

    def __init__(self):
        super().__init__(task_type_name="leaking")

    def do(self, **kwargs):
        context = FlyteContextManager.current_context()
        FlyteContextManager.push_context(context.new_builder().build())
        return Resource(phase=TaskExecution.SUCCEEDED, message=str(FlyteContextManager.size()))


def test_each_call_has_a_flyte_context_of_its_own(serve):
    async def test(s):
        sizes = {}
        for name, client in (("ours", s.ours), ("theirs", s.theirs)):
            answers = [await client.do(template("leaking")) for _ in range(3)]
            sizes[name] = [int(a.message.header.resource.message) for a in answers]
        assert sizes["ours"] == [2, 2, 2]
        assert sizes["theirs"][2] == sizes["theirs"][0] + 2

    serve(test, Leaking())


def test_code_that_holds_the_loop_is_seen_and_reported_once(serve):
    reports, seen, stop = [], [], threading.Event()

    async def test(s):
        def watch():
            while not stop.is_set():
                if (stepping := s.servicers.invoker.stepping) is not None and stepping not in seen:
                    seen.append(stepping)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for _ in range(2):
                began = time.perf_counter()
                await s.ours.do(template("do", blocks={"do": 0.3}))
            await s.ours.do(template("do", sleeps={"do": 0.3}))
            await s.ours.do(template("do_plain", blocks={"do": 0.3}))
            await s.ours.create(template("scripted", blocks={"create": 0.3}))
        finally:
            stop.set()
            watcher.join()
        assert [(entry.name, method) for entry, method, _ in reports] == [
            ("Do Agent", "do"),
            ("Scripted Agent", "create"),
        ]
        assert 0.3 <= reports[0][2] < 1
        assert [s for s in seen if s[:2] == ("Do Agent", "do") and began <= s[2] < began + 0.3]
        assert "Plain Do Agent" not in {name for name, _, _ in seen}
        assert s.servicers.invoker.stepping is None

    serve(
        test,
        DoAgent(),
        PlainDoAgent(),
        ScriptedAgent(),
        on_blocking=lambda entry, method, s: reports.append((entry, method, s)),
    )


def test_a_call_that_imports_its_libraries_is_not_reported(serve, monkeypatch):
    reports = []

    class Importing(DoAgent):
        async def do(self, **kwargs):
            for number in range(30):
                monkeypatch.setitem(sys.modules, f"imported_{number}", asyncio)
            return await super().do(**kwargs)

    async def test(s):
        assert (await s.ours.do(template("do", blocks={"do": 0.3}))).is_ok
        assert reports == []

    serve(test, Importing(), on_blocking=lambda *report: reports.append(report))


def test_a_report_that_fails_does_not_fail_the_call(serve):
    def report(entry, method, seconds):
        raise ValueError("no")

    async def test(s):
        assert (await s.ours.do(template("do", blocks={"do": 0.3}))).is_ok

    serve(test, DoAgent(), on_blocking=report)


@pytest.mark.parametrize(("agent", "plain"), [(DoAgent, "do"), (PlainDoAgent, "do_plain")])
def test_what_an_agent_prints_belongs_to_the_run_of_the_call(serve, agent, plain):
    async def test(s):
        task = template(plain, prints={"do": "from the agent"})
        await s.ours.do(task, metadata=((wire.RUN_ID_KEY, "r-7"),))
        assert s.store.get("r-7").lines() == ["from the agent"]
        await s.ours.do(task, metadata=())
        await s.ours.do(task, metadata=((wire.RUN_ID_KEY, ""),))
        await s.theirs.do(task, metadata=((wire.RUN_ID_KEY, "r-8"),))
        assert s.store.get("r-8") is None
        assert s.store.get("") is None
        assert s.store.get("r-7").lines() == ["from the agent"]

    serve(test, agent())


@pytest.mark.parametrize("told", ["/tmp/x", "../x", "a/../../x", "x.y", "x" * 65])
def test_what_leads_out_of_a_folder_is_no_run(serve, told):
    """What is printed is kept in a file that is called by the run."""

    async def test(s):
        await s.ours.do(template("do", prints={"do": "from the agent"}), metadata=((wire.RUN_ID_KEY, told),))
        assert s.store.get(told) is None

    serve(test, DoAgent())


def test_only_calls_from_outside_hold_the_gate(serve):
    gate = ForkGate()

    class Asking(DoAgent):
        async def do(self, **kwargs):
            return Resource(phase=TaskExecution.SUCCEEDED, message=str(gate.in_flight))

    async def test(s):
        seen = [
            (await s.ours.do(template("do"), metadata=metadata)).message.header.resource.message
            for metadata in (RUN, ((wire.RUN_ID_KEY, ""),), ())
        ]
        assert seen == ["0", "0", "1"]
        assert gate.in_flight == 0
        gate._close()
        waiting = asyncio.create_task(s.ours.do(template("do"), metadata=()))
        assert (await s.ours.do(template("do"))).is_ok
        assert not waiting.done()
        gate._open()
        assert (await waiting).is_ok
        gate._close()
        assert (await s.ours.do(template("do"), metadata=(), timeout=0.1)).code is grpc.StatusCode.DEADLINE_EXCEEDED
        gate._open()

    serve(test, Asking(), gate=gate)


def samples():
    found = {}
    for family in REGISTRY.collect():
        for sample in family.samples:
            if family.name.startswith("flyte_connector") and sample.name.endswith(("_total", "_count")):
                found[(sample.name.removeprefix("flyte_connector_"), *sorted(sample.labels.values()))] = sample.value
    return found


def test_flytekit_s_counters_are_kept(serve):
    async def test(s):
        changes = []
        for client in (s.ours, s.theirs):
            before = samples()
            meta = await client.created(template("scripted", raises={"get": "ValueError: x"}, times={"get": 1}))
            await client.get("scripted", meta)
            await client.get("scripted", meta)
            await client.job("DeleteTask", "scripted", meta)
            await client.get("nothing")
            await client.do(template("do"))
            await client.do(template("do", raises={"do": "ValueError: x"}))
            changes.append(
                {key: value - before.get(key, 0) for key, value in samples().items() if value != before.get(key, 0)}
            )
        assert changes[0] == changes[1]
        assert changes[0]["requests_success_total", "create", "scripted"] == 1
        assert changes[0]["requests_failure_total", str(HTTPStatus.NOT_FOUND), "get", "nothing"] == 1
        assert changes[0]["request_latency_seconds_count", "get", "scripted"] == 2

    serve(test, ScriptedAgent(), DoAgent())


def test_inputs_of_ten_thousand_elements_are_converted_off_the_loop(serve, monkeypatch):
    threads = []
    convert = LiteralMap.from_flyte_idl.__func__

    def recorded(cls, message):
        threads.append(threading.get_ident())
        return convert(cls, message)

    monkeypatch.setattr(LiteralMap, "from_flyte_idl", classmethod(recorded))

    async def test(s):
        answer = await s.ours.do(template("echo"), inputs=integers(10_000))
        assert answer.message.header.resource.outputs == integers(10_000)
        assert threading.get_ident() not in threads
        await s.ours.do(template("echo"), inputs=integers(10))
        assert threading.get_ident() == threads[-1]

    serve(test, EchoAgent())
