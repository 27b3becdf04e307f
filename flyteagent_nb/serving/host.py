"""AgentHost: the agent service of this process, a gRPC server for each address over the same servicers.

An address is a server of its own because a port that is added to a started server never answers, and because only some ask for
a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from flyteagent_nb import wire
from flyteagent_nb.certificates import read_pair
from flyteagent_nb.errors import AddressInUseError, ServiceError, ServiceNotFoundError, closest
from flyteagent_nb.masking import Masking
from flyteagent_nb.serving.decoding import Decoding
from flyteagent_nb.serving.servicers import AgentServicers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flyteagent_nb.loop import ForkGate
    from flyteagent_nb.serving.capture import Capture
    from flyteagent_nb.serving.catalog import Catalog
    from flyteagent_nb.serving.invocation import OnBlocking

STOP_GRACE = 0.5
"""Seconds that calls in flight have when a server stops."""

SOCKET_PATH_LIMIT = 104
"""A Unix socket's path is shorter than this, in bytes: 104 on macOS, 108 on Linux, with the closing zero."""


@dataclass(frozen=True)
class Address:
    """Where the agent service listens.

    Attributes:
        target: as gRPC takes it, ``unix:/…/agent.sock`` or ``127.0.0.1:8000``.
        token: what a call must bring (wire.token_metadata), or None.
        kind: ``private`` for this kernel alone, ``token`` for who has the token, ``open`` for everybody.
        since: ``time.time()`` of its start.
        port: the TCP port, or None for a Unix socket.
        certificate: the file of the certificate that it shows, or an empty string where it does not speak TLS.
    """

    target: str
    token: str | None = field(repr=False)
    kind: Literal["private", "token", "open"]
    since: float
    port: int | None
    certificate: str = ""


@dataclass(frozen=True)
class _Listener:
    address: Address
    server: grpc.aio.Server
    health: health.aio.HealthServicer
    remove_folder: Callable[[], object] | None = None


class AgentHost:
    """The servers of this process's agent service. Its methods belong on the loop's thread, its attributes may be read anywhere.

    Args:
        catalog: the agents.
        capture: where what they print goes by run, or None to leave it alone.
        gate: what a call from outside must hold where a fork could kill it (see ForkGate), or None.
        on_blocking: told once of each agent class and method that held the loop for long: (entry, method, seconds).
        masking: the values known as secret, to which the tokens of this host are added.

    Attributes:
        addresses: where it listens, in the order of their starts.
    """

    def __init__(
        self,
        catalog: Catalog,
        capture: Capture | None,
        gate: ForkGate | None = None,
        on_blocking: OnBlocking | None = None,
        masking: Masking | None = None,
    ) -> None:
        self.addresses: tuple[Address, ...] = ()
        self._catalog = catalog
        self._capture = capture
        self._gate = gate
        self._on_blocking = on_blocking
        self._masking = masking or Masking()
        self._servicers: AgentServicers | None = None
        self._listeners: dict[str, _Listener] = {}
        self._starting = asyncio.Lock()

    @property
    def stepping(self) -> tuple[str, str, float] | None:
        """Which agent holds the loop now: its name, the method, the ``perf_counter`` since when; else None."""
        servicers = self._servicers
        return servicers.invoker.stepping if servicers else None

    async def start(self, *, tcp: bool = False) -> Address:
        """Listen for this kernel alone: on a Unix socket in a folder that only this user can enter; without such sockets, or with
        ``tcp``, on loopback with a token. Where it listens already, that address.
        """
        async with self._starting:
            for address in self.addresses:
                if address.kind == "private":
                    return address
            if not tcp and hasattr(socket, "AF_UNIX"):
                folder = _make_folder()
                remove = weakref.finalize(self, _remove_folder, folder, os.getpid())
                try:
                    return await self._listen(f"unix:{folder}/agent.sock", "private", token=None, remove_folder=remove)
                except ServiceError:  # a file system that has no sockets
                    remove()
            return await self._listen("127.0.0.1:0", "private", token=self._new_token())

    async def serve(
        self, port: int, host: str = "127.0.0.1", *, open: bool = False, certificate: str = "", key: str = ""
    ) -> Address:
        """Listen on a TCP port, 0 for a free one, with a token; without one where ``open``.

        Args:
            port: the port.
            host: the address.
            open: whether nobody is asked for a token.
            certificate: the file of a certificate (PEM, those that vouch for it below), for TLS.
            key: the file of its private key (PEM).

        Raises:
            AddressInUseError: somebody else has the port.
            ServiceError: the address is not one of this machine's, or may not be listened on; certificate and key do not do.
        """
        host = host.strip("[]")
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        credentials = None
        if certificate or key:
            chain, secret_key = await asyncio.to_thread(
                read_pair, certificate, key, service=wire.KERNEL_SERVICE, address=target
            )
            credentials = grpc.ssl_server_credentials(((secret_key, chain),))
        async with self._starting:
            await _check_free(host, port, target)
            return await self._listen(
                target,
                "open" if open else "token",
                token=None if open else self._new_token(),
                certificate=certificate,
                credentials=credentials,
            )

    async def stop(self, target: str | None = None) -> None:
        """Stop listening: everywhere, or at one address (``8000``, ``127.0.0.1:8000``, a target).

        Health says so first; calls in flight have STOP_GRACE seconds.

        Raises:
            ServiceNotFoundError: it does not listen there.
        """
        async with self._starting:
            found = list(self._listeners.values()) if target is None else [self._find(target)]
            for listener in found:
                del self._listeners[listener.address.target]
            self._publish()
            # A caller that waits no longer leaves no server half stopped.
            await asyncio.shield(asyncio.gather(*(_stop(listener) for listener in found)))
            if not self._listeners and self._servicers is not None:
                self._servicers.invoker.close()
                self._servicers = None

    async def _listen(
        self,
        target: str,
        kind: Literal["private", "token", "open"],
        *,
        token: str | None,
        remove_folder: Callable[[], object] | None = None,
        certificate: str = "",
        credentials: grpc.ServerCredentials | None = None,
    ) -> Address:
        if self._servicers is None:
            self._servicers = AgentServicers(self._catalog, self._capture, self._gate, self._on_blocking, self._masking)
        interceptors = [*([_TokenCheck(token)] if token else []), Decoding()]
        server = grpc.aio.server(options=wire.OPTIONS, interceptors=interceptors)
        names = (*self._servicers.add_to(server), health.SERVICE_NAME)
        health_servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
        for name in names:
            await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        try:
            port = (
                server.add_insecure_port(target) if credentials is None else server.add_secure_port(target, credentials)
            )
        except RuntimeError as error:
            raise _refused(target, error) from error
        if not port:  # grpcio before 1.60 says it so
            raise _refused(target, RuntimeError("gRPC refused"))
        await server.start()
        if target.startswith("unix:"):
            # Its folder keeps others out; so does this where somebody opens that.
            os.chmod(target.removeprefix("unix:"), 0o600)
        else:
            target = f"{target.rpartition(':')[0]}:{port}"
        tcp_port = None if target.startswith("unix:") else port
        address = Address(target, token, kind, time.time(), tcp_port, certificate)
        self._listeners[target] = _Listener(address, server, health_servicer, remove_folder)
        self._publish()
        return address

    def _new_token(self) -> wire.Token:
        token = wire.Token(secrets.token_urlsafe())
        self._masking.add(token)  # where an agent prints it, or an error quotes it
        return token

    def _publish(self) -> None:
        self.addresses = tuple(listener.address for listener in self._listeners.values())

    def _find(self, target: str) -> _Listener:
        wanted = target.strip()
        for listener in self._listeners.values():
            if wanted in (listener.address.target, str(listener.address.port)):
                return listener
        known = [a.target for a in self.addresses] + [str(a.port) for a in self.addresses if a.port]
        raise ServiceNotFoundError(
            f"this kernel's agent service does not listen at {wanted!r}",
            service=wanted,
            suggestion=closest(wanted, known),
        )


class _TokenCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets only calls with the token through, whatever the service."""

    def __init__(self, token: str) -> None:
        key, value = wire.token_metadata(token)
        self._key = key
        self._value = value.encode()
        # One shape of handler refuses every shape of call, before a message is read.
        self._refusal = grpc.stream_stream_rpc_method_handler(_refuse)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        for key, value in details.invocation_metadata:
            if key == self._key and hmac.compare_digest(
                value if isinstance(value, bytes) else value.encode(), self._value
            ):
                return await continuation(details)
        return self._refusal


async def _refuse(requests: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this address asks for its token")


async def _stop(listener: _Listener) -> None:
    try:
        await listener.health.enter_graceful_shutdown()
        await listener.server.stop(STOP_GRACE)
    finally:
        if listener.remove_folder is not None:
            listener.remove_folder()


def _make_folder() -> str:
    """A new folder, mode 0700, whose path leaves room for a socket's name and reads the same as a gRPC target."""
    folder = tempfile.mkdtemp(prefix="fa-")
    if len(os.fsencode(f"{folder}/agent.sock")) < SOCKET_PATH_LIMIT and re.fullmatch(r"[\w./+-]+", folder, re.ASCII):
        return folder
    os.rmdir(folder)
    return tempfile.mkdtemp(prefix="fa-", dir="/tmp")


def _remove_folder(folder: str, pid: int) -> None:
    if os.getpid() == pid:  # a forked child ends with the parent's finalizers
        shutil.rmtree(folder, ignore_errors=True)


async def _check_free(host: str, port: int, target: str) -> None:
    """Raise where nobody can listen at ``target``: gRPC itself would write to the terminal, and not say why."""
    if not 0 <= port <= 65_535:  # the system's resolver would wrap it around
        raise _refused(target, ValueError(f"there is no port {port}"))
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise _refused(target, error) from error
    errors = []
    for family, kind, protocol, _, address in found:
        try:
            with contextlib.closing(socket.socket(family, kind, protocol)) as probe:
                if os.name == "posix":  # as gRPC does it: connections that are closing do not count
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _refused(target, error) from error
            errors.append(error)
    if len(errors) == len(found):
        raise _refused(target, errors[0]) from errors[0]


def _refused(target: str, error: Exception) -> ServiceError:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        hint = "take another port, or 0 for a free one"
        return AddressInUseError(f"{target} is taken", service=wire.KERNEL_SERVICE, address=target, hint=hint)
    reason = getattr(error, "strerror", None) or error
    return ServiceError(f"cannot listen on {target}: {reason}", service=wire.KERNEL_SERVICE, address=target)
