from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from flyteidl.admin import agent_pb2 as pb
from flyteidl.core import literals_pb2
from flyteidl.service import agent_pb2_grpc as services
from flytekit.extend.backend.base_connector import ConnectorRegistry
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from scripted import DoAgent, EchoAgent, NoopAgent, template

from flyteagent_nb import wire
from flyteagent_nb.errors import AddressInUseError, ServiceError, ServiceNotFoundError
from flyteagent_nb.loop import get_loop_thread
from flyteagent_nb.serving.capture import Capture
from flyteagent_nb.serving.catalog import Catalog
from flyteagent_nb.serving.host import STOP_GRACE, Address, AgentHost
from flyteagent_nb.serving.output import OutputStore

NAMES = {
    "flyteidl.service.AsyncAgentService",
    "flyteidl.service.SyncAgentService",
    "flyteidl.service.AgentMetadataService",
    "grpc.health.v1.Health",
}
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def catalog():
    registry, metadata = dict(ConnectorRegistry._REGISTRY), dict(ConnectorRegistry._METADATA)
    catalog = Catalog()
    catalog.take_over()
    for agent in (DoAgent(), EchoAgent(), NoopAgent()):
        catalog.register(agent)
    yield catalog
    catalog.release()
    ConnectorRegistry._REGISTRY.clear()
    ConnectorRegistry._REGISTRY.update(registry)
    ConnectorRegistry._METADATA = metadata


@pytest.fixture
def hosting(catalog):
    """Call it with a coroutine function: it runs on the loop with a host, which is stopped after it."""

    def run(test: Any) -> Any:
        async def main() -> Any:
            host = AgentHost(catalog, Capture(OutputStore().sink))
            try:
                return await test(host)
            finally:
                await host.stop()

        return get_loop_thread().run(asyncio.wait_for(main(), 60))

    return run


@contextlib.asynccontextmanager
async def client(address: Address, token: str | None = None) -> Any:
    """Stubs for an address, and ``how`` to call them: with the address's own token, or another."""
    async with grpc.aio.insecure_channel(address.target, options=wire.OPTIONS) as channel:
        token = address.token if token is None else token
        yield SimpleNamespace(
            asynchronous=services.AsyncAgentServiceStub(channel),
            synchronous=services.SyncAgentServiceStub(channel),
            metadata=services.AgentMetadataServiceStub(channel),
            health=health_pb2_grpc.HealthStub(channel),
            reflection=reflection_pb2_grpc.ServerReflectionStub(channel),
            how={"timeout": 20, "metadata": (wire.token_metadata(token),) if token else ()},
        )


async def do(stubs: Any, task: Any, inputs: Any = None) -> Any:
    call = stubs.synchronous.ExecuteTaskSync(**stubs.how)
    await call.write(pb.ExecuteTaskSyncRequest(header=pb.CreateRequestHeader(template=task)))
    await call.write(pb.ExecuteTaskSyncRequest(inputs=inputs or literals_pb2.LiteralMap()))
    await call.done_writing()
    return await call.read()


async def answers(address: Address) -> bool:
    async with client(address) as stubs:
        return (await do(stubs, template("noop"))).HasField("header")


def socket_path(address: Address) -> Path:
    return Path(address.target.removeprefix("unix:"))


needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="the platform has no Unix sockets")


@needs_unix
def test_the_private_address_is_a_socket_that_only_this_user_can_reach(hosting):
    async def test(host):
        assert host.addresses == ()
        address = await host.start()
        assert host.addresses == (address,)
        assert (address.kind, address.token, address.port) == ("private", None, None)
        path = socket_path(address)
        assert path.is_socket()
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert len(os.fsencode(path)) < 104
        assert await host.start() is address
        assert await answers(address)
        await host.stop()
        assert not path.parent.exists()
        assert host.addresses == ()
        again = await host.start()
        assert again.target != address.target
        assert await answers(again)

    hosting(test)


@needs_unix
@pytest.mark.parametrize("name", ["x" * 80, "with space", "per%20cent"])
def test_a_temporary_folder_that_makes_no_socket_path(hosting, monkeypatch, tmp_path, name):
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))

    async def test(host):
        address = await host.start()
        assert await answers(address)
        assert socket_path(address).parent.parent == Path("/tmp")

    hosting(test)
    assert not list((tmp_path / name).iterdir())


def test_without_unix_sockets_the_private_address_asks_for_a_token(hosting, monkeypatch):
    without = SimpleNamespace(**{name: value for name, value in vars(socket).items() if name != "AF_UNIX"})
    monkeypatch.setattr("flyteagent_nb.serving.host.socket", without)  # gRPC itself needs the true one

    async def test(host):
        address = await host.start()
        assert address.target == f"127.0.0.1:{address.port}"
        assert address.kind == "private"
        assert len(address.token) >= 32
        assert await answers(address)

    hosting(test)


@needs_unix
def test_a_file_system_that_has_no_sockets(hosting, monkeypatch, tmp_path):
    monkeypatch.setattr("flyteagent_nb.serving.host._make_folder", lambda: str(tmp_path / "missing"))

    async def test(host):
        address = await host.start()
        assert (address.kind, address.target) == ("private", f"127.0.0.1:{address.port}")
        assert await answers(address)

    hosting(test)


async def all_calls(stubs: Any) -> list[Any]:
    """One call of each service and shape; their status codes."""
    calls = [
        stubs.asynchronous.CreateTask(pb.CreateTaskRequest(template=template("noop")), **stubs.how),
        stubs.asynchronous.GetTaskLogs(pb.GetTaskLogsRequest(task_type="noop"), **stubs.how),
        stubs.synchronous.ExecuteTaskSync(iter([]), **stubs.how),
        stubs.metadata.ListAgents(pb.ListAgentsRequest(), **stubs.how),
        stubs.health.Check(health_pb2.HealthCheckRequest(), **stubs.how),
        # None writes: grpc.aio loses the status of a call that has ended before.
        stubs.reflection.ServerReflectionInfo(iter([]), **stubs.how),
    ]

    async def code(call: Any) -> Any:
        if isinstance(call, (grpc.aio.UnaryStreamCall, grpc.aio.StreamStreamCall)):
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for _ in call:  # the status comes after the messages
                    pass
        return await call.code()

    return await asyncio.gather(*map(code, calls))


@pytest.mark.parametrize("how", ["start", "serve"])
def test_nothing_is_answered_without_the_token(hosting, caplog, capfd, how):
    async def test(host):
        address = await (host.start(tcp=True) if how == "start" else host.serve(0))
        for wrong in ("", "wrong", address.token[:-1], address.token + "x"):
            async with client(address, wrong) as stubs:
                assert set(await all_calls(stubs)) == {grpc.StatusCode.UNAUTHENTICATED}
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await stubs.metadata.ListAgents(pb.ListAgentsRequest(), **stubs.how)
                assert address.token not in str(error.value)
        async with client(address) as stubs:
            assert grpc.StatusCode.UNAUTHENTICATED not in await all_calls(stubs)
        assert address.token not in f"{address!r} {address} {host.addresses} {vars(host)} {[address.token]!r}"
        return address.token

    token = hosting(test)
    assert token not in caplog.text + "".join(capfd.readouterr())


def test_an_open_address_and_one_with_a_token_and_the_private_one_side_by_side(hosting):
    async def test(host):
        private, token, everybody = await host.start(), await host.serve(0), await host.serve(0, open=True)
        assert [a.kind for a in host.addresses] == ["private", "token", "open"]
        assert everybody.token is None
        assert token.token
        assert len({a.port for a in host.addresses}) == 3
        for address in host.addresses:
            assert await answers(address)
        for name in (token.target, str(everybody.port)):
            await host.stop(name)
        assert host.addresses == (private,)
        assert await answers(private)
        again = await host.serve(everybody.port)
        assert (again.port, again.kind) == (everybody.port, "token")
        assert again.since > everybody.since
        assert await answers(again)

    hosting(test)


def test_an_unknown_address_is_not_stopped(hosting):
    async def test(host):
        address = await host.serve(0)
        wrong = f"127.0.0.1:{address.port}0"
        with pytest.raises(ServiceNotFoundError) as error:
            await host.stop(wrong)
        assert error.value.service == wrong
        assert error.value.suggestion == address.target
        with pytest.raises(ServiceNotFoundError):
            await host.stop("None")
        assert host.addresses == (address,)

    hosting(test)


def test_a_taken_port(hosting, capfd):
    async def test(host):
        address = await host.serve(0)
        with pytest.raises(AddressInUseError) as error:
            await host.serve(address.port)
        assert error.value.address == address.target
        assert "another port" in error.value.hint
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as foreign:
            with pytest.raises(AddressInUseError):
                await host.serve(foreign.getsockname()[1])
        assert host.addresses == (address,)
        assert await answers(address)

    hosting(test)
    assert capfd.readouterr().err == ""  # nothing of gRPC's own


@pytest.mark.parametrize(("host_name", "port"), [("192.0.2.1", 0), ("no-such-host.invalid", 0), ("127.0.0.1", 70_000)])
def test_an_address_that_nobody_can_have(hosting, host_name, port):
    async def test(host):
        with pytest.raises(ServiceError) as error:
            await host.serve(port, host_name)
        assert not isinstance(error.value, AddressInUseError)
        assert str(error.value).startswith(f"cannot listen on {host_name}:{port}: ")
        assert host.addresses == ()

    hosting(test)


def has_ipv6() -> bool:
    try:
        with contextlib.closing(socket.socket(socket.AF_INET6)) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_an_ipv6_host(hosting):
    async def test(host):
        address = await host.serve(0, "::1")
        assert address.target == f"[::1]:{address.port}"
        assert await answers(address)
        with pytest.raises(AddressInUseError):
            await host.serve(address.port, "::1")
        await host.stop(address.target)

    hosting(test)


def test_a_proxy_in_the_environment_does_not_matter(hosting, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://192.0.2.1:3128")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)

    async def test(host):
        assert await answers(await host.serve(0))

    hosting(test)


@pytest.mark.slow
def test_a_hundred_megabytes_pass_both_ways(hosting):
    text = "x" * 100_000_000
    primitive = literals_pb2.Primitive(string_value=text)
    inputs = literals_pb2.LiteralMap(
        literals={"text": literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=primitive))}
    )

    async def test(host):
        async with client(await host.start()) as stubs:
            answer = await do(stubs, template("echo"), inputs)
            assert answer.header.resource.outputs.literals["text"].scalar.primitive.string_value == text

    hosting(test)


def test_reflection_and_health_know_the_services(hosting):
    async def test(host):
        async with client(await host.serve(0)) as stubs:
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            async for answer in stubs.reflection.ServerReflectionInfo(iter([request]), **stubs.how):
                found = {service.name for service in answer.list_services_response.service}
            assert found == NAMES | {"grpc.reflection.v1alpha.ServerReflection"}
            for name in (*NAMES, ""):
                assert (
                    await stubs.health.Check(health_pb2.HealthCheckRequest(service=name), **stubs.how)
                ).status == SERVING

    hosting(test)


def test_a_stop_says_so_first_and_lets_calls_in_flight_end(hosting, catalog):
    agent = catalog.current("do").agent

    async def test(host):
        address = await host.serve(0)
        async with client(address) as stubs:
            watch = stubs.health.Watch(health_pb2.HealthCheckRequest(), **stubs.how)
            assert (await watch.read()).status == SERVING
            short = asyncio.create_task(do(stubs, template("do", sleeps={"do": STOP_GRACE / 5})))
            long = asyncio.create_task(do(stubs, template("do", hangs=["do"])))
            await agent.until(lambda: agent.count("do") == 2)
            began = asyncio.get_running_loop().time()
            stop = asyncio.create_task(host.stop(str(address.port)))
            assert (await watch.read()).status == NOT_SERVING
            assert (await short).HasField("header")
            assert not stop.done()
            await stop
            assert STOP_GRACE * 0.9 < asyncio.get_running_loop().time() - began < STOP_GRACE * 4
            with contextlib.suppress(grpc.aio.AioRpcError):
                assert await long is grpc.aio.EOF
            await agent.until(lambda: agent.cancelled)
            watch.cancel()

    hosting(test)


def test_two_starts_and_two_stops_at_once(hosting):
    async def test(host):
        first, second = await asyncio.gather(host.start(), host.start())
        assert first is second
        await asyncio.gather(host.stop(), host.stop())
        assert host.addresses == ()

    hosting(test)


def test_a_stop_that_nobody_waits_for_goes_on(hosting):
    async def test(host):
        address = await host.start()
        stop = asyncio.create_task(host.stop())
        while host.addresses:  # noqa: ASYNC110 - one turn of the loop
            await asyncio.sleep(0)
        stop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stop
        with contextlib.suppress(grpc.aio.AioRpcError):
            async with client(address) as stubs:
                await do(stubs, template("noop"))
                raise AssertionError("it answers")
        return socket_path(address)

    path = hosting(test)
    get_loop_thread().run(asyncio.wait_for(gone(path), 10))


async def gone(path: Path) -> None:
    while path.parent.exists():  # noqa: ASYNC110 - nothing else tells
        await asyncio.sleep(0.01)


def test_who_holds_the_loop_is_passed_on(hosting, catalog):
    seen = []

    class Looking(NoopAgent):
        async def do(self, **kwargs):
            seen.append(host_of[0].stepping)
            return await super().do(**kwargs)

    host_of = []

    async def test(host):
        host_of.append(host)
        assert host.stepping is None
        catalog.register(Looking())
        assert await answers(await host.start())
        assert seen[0][:2] == ("Noop Agent", "do")
        assert host.stepping is None

    hosting(test)


@needs_unix
def test_a_process_that_ends_without_a_stop_leaves_no_folder_and_a_forked_child_keeps_it(tmp_path):
    code = """
        import os, sys
        from flyteagent_nb.loop import get_loop_thread, prepare_fork
        prepare_fork()
        from flyteagent_nb.serving.catalog import Catalog
        from flyteagent_nb.serving.host import AgentHost
        host = AgentHost(Catalog(), None)
        address = get_loop_thread().run(host.start())
        folder = os.path.dirname(address.target.removeprefix("unix:"))
        child = os.fork()
        if not child:
            sys.exit(0)
        os.waitpid(child, 0)
        print(os.path.exists(folder), folder, flush=True)
    """
    # Python 3.12 and later warn of any fork beside threads.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    existed, folder = done.stdout.split()
    assert existed == "True"
    assert not os.path.exists(folder)
    assert (done.returncode, done.stderr) == (0, "")
