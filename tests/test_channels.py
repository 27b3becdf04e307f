"""The client's side of TLS, over real connections; and where a token may go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from certificates import Authority
from flyteidl.admin.agent_pb2 import ExecuteTaskSyncRequest
from flytekit.extend.backend.base_connector import ConnectorRegistry
from grpc_health.v1 import health_pb2, health_pb2_grpc
from scripted import NoopAgent

from flyteagent_nb import wire
from flyteagent_nb.errors import ServiceError
from flyteagent_nb.loop import get_loop_thread
from flyteagent_nb.running.channels import TLS, is_here
from flyteagent_nb.running.services import AgentService
from flyteagent_nb.serving.catalog import Catalog
from flyteagent_nb.serving.host import AgentHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEADLINE = 20.0
SHORT = 5.0
"""Seconds for a call that can never be answered: gRPC itself tries on."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def hosting() -> Iterator[Callable[[Any], Any]]:
    """Call it with a coroutine function: it runs on the loop with a host, which is stopped after it."""
    registry, metadata = dict(ConnectorRegistry._REGISTRY), dict(ConnectorRegistry._METADATA)
    catalog = Catalog()
    catalog.take_over()
    catalog.register(NoopAgent())

    def run(test: Any) -> Any:
        async def main() -> Any:
            host = AgentHost(catalog, None)
            try:
                return await test(host)
            finally:
                await host.stop()

        return get_loop_thread().run(asyncio.wait_for(main(), 60))

    yield run
    catalog.release()
    ConnectorRegistry._REGISTRY.clear()
    ConnectorRegistry._REGISTRY.update(registry)
    ConnectorRegistry._METADATA = metadata


async def listed(service: AgentService, deadline: float = DEADLINE) -> list[str]:
    try:
        return [agent.name for agent in await service.list_agents(deadline)]
    finally:
        await service.close()


def test_a_service_with_tls_and_a_token(hosting: Callable[[Any], Any], authority: Authority) -> None:
    certificate, key = authority.issue("127.0.0.1")

    async def test(host: AgentHost) -> None:
        address = await host.serve(0, certificate=certificate, key=key)
        assert (address.kind, address.certificate) == ("token", certificate)
        tls = TLS(authorities=authority.file)
        assert "Noop Agent" in await listed(AgentService("s", address.target, token=address.token, tls=tls))
        for token in (None, "wrong"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await listed(AgentService("s", address.target, token=token, tls=tls))
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.aio.AioRpcError) as plain:  # nobody speaks plain text there
            await listed(AgentService("s", address.target, token=address.token), SHORT)
        assert plain.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

    hosting(test)


def test_tls_without_a_token(hosting: Callable[[Any], Any], authority: Authority) -> None:
    certificate, key = authority.issue("localhost")

    async def test(host: AgentHost) -> None:
        address = await host.serve(0, open=True, certificate=certificate, key=key)
        assert (address.kind, address.token) == ("open", None)
        service = AgentService("s", f"localhost:{address.port}", tls=TLS(authorities=authority.file))
        assert "Noop Agent" in await listed(service)

    hosting(test)


def test_whom_a_client_does_not_trust(
    hosting: Callable[[Any], Any], authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Authority(tmp_path / "stranger")
    good, other_name = authority.issue("127.0.0.1"), authority.issue("elsewhere.example")
    old = authority.issue("127.0.0.1", days=-1)

    async def refused(host: AgentHost, pair: tuple[str, str], tls: TLS) -> None:
        address = await host.serve(0, certificate=pair[0], key=pair[1])
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await listed(AgentService("s", address.target, token=address.token, tls=tls), SHORT)
        assert raised.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

    async def test(host: AgentHost) -> None:
        await refused(host, stranger.issue("127.0.0.1"), TLS(authorities=authority.file))
        await refused(host, other_name, TLS(authorities=authority.file))
        await refused(host, old, TLS(authorities=authority.file))
        await refused(host, good, TLS())  # the system knows nothing of our authority, ...
        address = host.addresses[-1]
        monkeypatch.setenv("SSL_CERT_FILE", authority.file)  # ... until it does
        assert "Noop Agent" in await listed(AgentService("s", address.target, token=address.token, tls=TLS()))

    hosting(test)


def test_a_service_that_asks_for_a_certificate_of_the_client(authority: Authority) -> None:
    certificate, key = authority.issue("127.0.0.1")
    mine, my_key = authority.issue("client.example")

    def pem(path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    async def main() -> None:
        server = grpc.aio.server(options=wire.OPTIONS)

        class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
            async def Check(self, request: Any, context: Any) -> Any:
                return health_pb2.HealthCheckResponse(status=1)

        health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
        credentials = grpc.ssl_server_credentials(
            ((pem(key), pem(certificate)),), root_certificates=pem(authority.file), require_client_auth=True
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        try:
            for tls, answers in (
                (TLS(authority.file, mine, my_key), True),
                (TLS(authority.file), False),
            ):
                service = AgentService("s", f"127.0.0.1:{port}", tls=tls)
                check = health_pb2_grpc.HealthStub(service._channel).Check
                try:
                    reply = await check(health_pb2.HealthCheckRequest(), timeout=DEADLINE if answers else SHORT)
                    assert answers and reply.status == 1
                except grpc.aio.AioRpcError as error:
                    assert not answers and error.code() is not grpc.StatusCode.UNIMPLEMENTED
                await service.close()
        finally:
            await server.stop(None)

    get_loop_thread().run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("what", ["authorities", "pair", "half"])
def test_a_file_that_does_not_do_is_named(authority: Authority, tmp_path: Path, what: str) -> None:
    certificate, _ = authority.issue("client.example")
    _, key = authority.issue("other.example")
    tls = {
        "authorities": TLS(authorities=str(tmp_path / "missing.pem")),
        "pair": TLS(authority.file, certificate, key),
        "half": TLS(authority.file, certificate),
    }[what]

    async def make() -> None:
        AgentService("prod", "flyte.example:443", token="a-token-of-mine", tls=tls)

    with pytest.raises(ServiceError) as raised:
        get_loop_thread().run(make())
    named = {"authorities": "missing.pem", "pair": key, "half": "without its key"}[what]
    assert named in raised.value.message and raised.value.service == "prod"
    assert "a-token-of-mine" not in str(raised.value)


def test_a_bad_pair_opens_no_address(
    hosting: Callable[[Any], Any], authority: Authority, capfd: pytest.CaptureFixture[str]
) -> None:
    certificate, key = authority.issue("127.0.0.1")

    async def test(host: AgentHost) -> None:
        with pytest.raises(ServiceError, match=r"no TLS for 127\.0\.0\.1:0: .*\.key has no certificate"):
            await host.serve(0, certificate=key, key=certificate)
        with pytest.raises(ServiceError, match="given without its key"):
            await host.serve(0, certificate=certificate)
        assert host.addresses == ()

    hosting(test)
    assert capfd.readouterr() == ("", "")  # gRPC itself writes to the terminal


HERE = [
    "unix:/a/agent.sock",
    "unix:///a",
    "unix-abstract:a",
    "127.0.0.1:80",
    "127.3.3.3",
    "localhost:80",
    "LocalHost",
    "[::1]:80",
    "::1",
    "[::ffff:127.0.0.1]:80",
    "ipv4:127.0.0.1:80,127.0.0.2:80",
    "ipv6:[::1]:80",
    "dns:localhost:80",
    "dns:///localhost:80",
    "passthrough:///127.0.0.1:80",
]
ELSEWHERE = [
    "",
    "flyte.example:443",
    "10.0.0.1:80",
    "0.0.0.0:80",
    "[::]:80",
    "[2001:db8::1]:80",
    "127.0.0.1.example:80",
    "localhost.example:80",
    "127.0.0.1@example:80",
    "[::1]example:80",
    "ipv4:127.0.0.1:80,10.0.0.1:80",
    "dns:///flyte.example:80",
    "dns://10.0.0.1/localhost:80",
    "unixes:80",
    "vsock:2:80",
]


@pytest.mark.parametrize(("target", "here"), [*((t, True) for t in HERE), *((t, False) for t in ELSEWHERE)])
def test_a_token_goes_to_another_machine_over_tls_only(target: str, here: bool) -> None:
    assert is_here(target) is here

    async def make(tls: TLS | None) -> None:
        await AgentService("prod", target, token="a-token-of-mine", tls=tls).close()

    if here:
        get_loop_thread().run(make(None))
        return
    get_loop_thread().run(make(TLS()))
    with pytest.raises(ServiceError, match="in plain text") as raised:
        get_loop_thread().run(make(None))
    assert "TLS" in raised.value.hint and "a-token-of-mine" not in f"{raised.value} {vars(raised.value)}"


def test_without_a_token_plain_text_goes_anywhere() -> None:
    async def make() -> str:
        service = AgentService("prod", "flyte.example:80")
        await service.close()
        return repr(service)

    assert get_loop_thread().run(make()) == "<AgentService prod at flyte.example:80>"


@pytest.mark.slow
def test_the_word_of_a_service_that_refuses_at_once_is_not_lost(hosting: Callable[[Any], Any]) -> None:
    """It has ended the call while we are about to write: grpc.aio puts an error of its own in the answer's place now and then."""

    async def refused(service: AgentService) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.execute(ExecuteTaskSyncRequest(), ExecuteTaskSyncRequest(), "", DEADLINE)
        return f"{error.value.code().name}: {error.value.details()}"

    async def test(host: AgentHost) -> set[str]:
        address = await host.serve(0)
        service = AgentService("s", address.target, token="wrong")
        told: set[str] = set()
        for _ in range(150):
            told.update(await asyncio.gather(*(refused(service) for _ in range(20))))
        await service.close()
        return told

    (told,) = hosting(test)
    assert told.startswith("UNAUTHENTICATED: ")
