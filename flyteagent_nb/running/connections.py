"""The agent services that a person connects: one by one, or those of propeller's own configuration."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from flyteagent_nb import wire
from flyteagent_nb.errors import ArgumentError, ServiceError
from flyteagent_nb.folders import private_folder
from flyteagent_nb.running.services import AgentService

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flyteagent_nb.loop import LoopThread
    from flyteagent_nb.running.channels import TLS
    from flyteagent_nb.running.propeller_config import PropellerConfig, ServiceSettings
    from flyteagent_nb.running.routing import Connection, Resolved, Router

CONNECT_WAIT = 15.0
"""Seconds that a new service has to list its agents."""

DEFAULT = "default"
"""What the default service of a configuration is called."""

_BRACKETED = re.compile(r"\[[^\[\]]+\]")
_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "passthrough:")


class Connections:
    """Connects services to the router. On any thread but the loop's."""

    def __init__(self, thread: LoopThread, router: Router) -> None:
        self._thread = thread
        self._router = router

    def connect(
        self,
        name: str,
        address: str,
        *,
        tls: TLS | None = None,
        token: str | None = None,
        deadlines: Mapping[str, float] | None = None,
        outputs: str = "",
    ) -> Connection:
        """Connect a service and ask it for its agents.

        Args:
            name: what it is to be called.
            address: a gRPC address (``dns:///``, ``ipv4:``, ``unix:``, ``host:port``), or several with commas, which take turns.
            tls: how the connection is encrypted; None for plain text.
            token: what the service asks of its callers.
            deadlines: seconds by operation; ``""`` for every other one.
            outputs: the prefix for outputs that the service can reach.

        Raises:
            ArgumentError: the name, the address or the prefix does not do.
            ServiceError: it does not answer, speaks something else, or its certificate does not fit; nothing is connected then.
        """
        if name == wire.KERNEL_SERVICE:
            raise _own_name()
        service = self._service(name, address, tls=tls, token=token, deadlines=deadlines, outputs=outputs)
        before = next((each for each in self._router.connections() if each.name == name), None)
        trouble = self._thread.run(self._try(service, tls), timeout=2 * CONNECT_WAIT)
        if trouble:
            raise ServiceError(
                f"the agent service '{name}' at {address} {trouble[0]}", service=name, address=address, hint=trouble[1]
            )
        self._thread.run(self._router.add(service, default=bool(before and before.is_default)))
        self._thread.run(self._router.refresh())
        return self.find(name)

    def connect_all(self, config: PropellerConfig, tls: TLS | None, *, outputs: str = "") -> list[Connection]:
        """Connect what propeller's configuration names; a service that does not answer is connected all the same, as unreachable.

        Args:
            config: the configuration.
            tls: files for those that are not insecure; None for this system's authorities.
            outputs: the prefix for outputs that they can reach.

        Raises:
            ArgumentError: one is called as this notebook's own service.
        """
        if wire.KERNEL_SERVICE in config.services:
            raise _own_name()
        named = {**({DEFAULT: config.default} if config.default else {}), **config.services}
        services = [(self._configured(name, settings, tls, outputs), name) for name, settings in named.items()]
        for service, name in services:
            is_default = name == DEFAULT and config.default is not None
            supported = config.supported if is_default else ()
            self._thread.run(self._router.add(service, default=is_default, supported=supported))
        for task_type, name in config.routes.items():
            self.route(task_type, None, name)
        self._thread.run(self._router.refresh())
        return [self.find(name) for _, name in services]

    def disconnect(self, name: str) -> None:
        """Take a service away.

        Raises:
            ServiceNotFoundError: it is not connected.
        """
        self._thread.run(self._router.remove(name))

    def route(self, task_type: str, version: int | None, name: str | None) -> None:
        """Send a task type to a service, or take that away. The errors are those of :meth:`Router.route`."""

        async def route() -> None:
            self._router.route(task_type, version, name)

        self._thread.run(route())

    def find(self, name: str) -> Connection:
        """A connected service.

        Raises:
            ServiceNotFoundError: it is not connected.
        """
        self._router.check(name)
        return next(each for each in self._router.connections() if each.name == name)

    def table(self) -> dict[tuple[str, int], Resolved]:
        """Where each known task type goes; every service is asked before."""

        async def table() -> dict[tuple[str, int], Resolved]:
            await self._router.refresh()
            return self._router.table()

        return self._thread.run(table())

    async def _try(self, service: AgentService, tls: TLS | None) -> tuple[str, str] | None:
        """What is wrong with a new service, and the way out; None where it lists its agents."""
        import grpc

        try:
            await service.list_agents(deadline=CONNECT_WAIT)
        except grpc.aio.AioRpcError as error:
            await service.close()
            return trouble_of(error.code().name, error.details() or "", tls)
        return None

    def _configured(self, name: str, settings: ServiceSettings, tls: TLS | None, outputs: str) -> AgentService:
        from flyteagent_nb.running.channels import TLS

        deadlines = dict(settings.timeouts)
        if settings.default_timeout is not None:
            deadlines[""] = settings.default_timeout
        encryption = None if settings.insecure else tls or TLS()
        return self._service(
            name, settings.endpoint, tls=encryption, deadlines=deadlines, outputs=outputs,
            service_config=settings.service_config,
        )  # fmt: skip

    def _service(
        self,
        name: str,
        address: str,
        *,
        tls: TLS | None = None,
        token: str | None = None,
        deadlines: Mapping[str, float] | None = None,
        outputs: str = "",
        service_config: str = "",
    ) -> AgentService:
        target, outputs = target_of(address), prefix_of(outputs)

        async def make() -> AgentService:
            return AgentService(
                name, target, tls=tls, token=token, gate=self._thread.gate, deadlines=deadlines, outputs=outputs,
                service_config=service_config or wire.ROUND_ROBIN, host=_one_host(address),
            )  # fmt: skip

        return self._thread.run(make())


def _own_name() -> ArgumentError:
    return ArgumentError(f"{wire.KERNEL_SERVICE} is this notebook's own service", hint="take another name")


def target_of(address: str) -> str:
    """A gRPC target for what a person writes; several addresses become one target, whose hosts are looked up now.

    Raises:
        ArgumentError: it has no port, or a host is not known.
    """
    if "," not in address:
        if address.startswith(_SCHEMES):
            return address
        host, _, port = address.rpartition(":")
        if "//" in address or not host or not _is_port(port) or (":" in host and not _BRACKETED.fullmatch(host)):
            raise ArgumentError(
                f"{address} is no gRPC address",
                hint="write HOST:PORT, [::1]:PORT, dns:///HOST:PORT, ipv4:1.2.3.4:PORT or unix:/path/to/socket"
                + (f"; without {address.split('://')[0]}://" if "://" in address else ""),
            )
        return address
    parts = _parts(address)
    try:
        return "ipv4:" + ",".join(_numbers(part, socket.AF_INET) for part in parts)
    except ArgumentError as unknown:
        try:
            return "ipv6:" + ",".join(_numbers(part, socket.AF_INET6) for part in parts)
        except ArgumentError:  # one target has addresses of one kind
            raise unknown from None


def prefix_of(outputs: str) -> str:
    """The prefix for outputs that a person means: one in a store, or a folder's path, which is made where it is not there.

    Raises:
        ArgumentError: there is no such store, it names no bucket, or the folder cannot be made.
    """
    store, sign, place = outputs.partition("://")
    if sign:
        import fsspec

        if store not in fsspec.available_protocols() or not place.strip("/"):
            what = (
                f"{outputs} names no bucket" if store in fsspec.available_protocols() else f"no store is called {store}"
            )
            raise ArgumentError(what, hint="outputs go to s3://bucket/runs, gs://bucket/runs or a folder's path")
        return outputs
    if not outputs:
        return ""
    if re.match(r"\w\w+:", outputs):
        raise ArgumentError(f"{outputs} is no folder's path", hint="a store is written s3://bucket/runs")
    try:
        return str(private_folder(Path(outputs).expanduser().absolute()))
    except OSError as error:
        raise ArgumentError(f"the folder {outputs} cannot be made: {error.strerror or error}") from None


def _one_host(address: str) -> str:
    """The one host of several addresses, whose certificate each of them shows; empty where there is one address, which says it."""
    if "," not in address:
        return ""
    hosts = {part.rpartition(":")[0] for part in _parts(address)}
    return hosts.pop() if len(hosts) == 1 else ""


def _parts(address: str) -> list[str]:
    bare = re.sub("^ipv[46]:", "", address)
    return [part.strip().removeprefix("dns:///") for part in bare.split(",")]


def _is_port(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) < 65536  # gRPC takes a larger one modulo 65536


def _numbers(address: str, family: socket.AddressFamily) -> str:
    host, _, port = address.rpartition(":")
    if not host or not _is_port(port):
        raise ArgumentError(f"{address} is no HOST:PORT", hint="several addresses are written a:8000,b:8000")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), family, socket.SOCK_STREAM)
    except OSError as error:
        raise ArgumentError(
            f"the host {host} is not known: {error.strerror or error}",
            hint="several addresses are all of IPv4, or all of IPv6",
        ) from None
    number = found[0][4][0]
    return f"[{number}]:{port}" if family == socket.AF_INET6 else f"{number}:{port}"


def trouble_of(code: str, details: str, tls: TLS | None = None) -> tuple[str, str]:
    """A gRPC error of a first call, in words, and the way out; ``tls`` is what was tried."""
    low = details.lower()
    if tls is None:
        closed = "--tls where it wants TLS; otherwise it is no gRPC service"
    elif tls.certificate:
        closed = "it may not trust the certificate of --cert; its logs tell"
    else:
        closed = "it may ask its callers for a certificate: --cert FILE --key FILE; its logs tell"
    signs: Sequence[tuple[tuple[str, ...], str, str]] = (
        (("certificate has expired",), "has a certificate that has expired", "it is to be renewed there; or this machine's clock is off"),
        (("certificate_verify_failed", "certificate verify failed"), "has a certificate that does not fit",
         "--ca FILE names the authority that signed it; the name in the certificate must be the address's"),
        (("hostname verification", "peer name"), "has the certificate of another name", "write the address as its certificate does"),
        (("wrong_version_number", "wrong version number", "ssl_error_ssl", "ssl handshake", "tls handshake"),
         "does not do with this encryption", "leave --tls out for plain text; or it asks for a client certificate: --cert and --key"),
        (("http1.x", "http/1.1", "parsing http/2", "expected settings", "http status code", "trying to connect an http"),
         "speaks something else than gRPC", "is it another port of the same service? HTTP consoles often are beside it"),
        (("connection refused", "no such file"), "is not there: nobody listens", "start it, or mend the address"),
        (("name resolution", "dns resolution", "domain name not found", "could not resolve"), "has a host that is not known",
         "mend the address"),
        (("socket closed", "connection reset", "eof", "end of tcp stream", "broken pipe"),
         "closes the connection at once", closed),
    )  # fmt: skip
    for words, told, hint in signs:
        if any(word in low for word in words):
            return f"{told} ({code}: {details.splitlines()[0][:300]})", hint
    known = {
        "UNIMPLEMENTED": (
            "is a gRPC service without agents",
            "is it another service's port? One of Flyte 2's connectors speaks another interface",
        ),
        "UNAUTHENTICATED": (
            "asks for a token",
            "--token-file FILE; where it is another notebook's, its `served.token`",
        ),
        "PERMISSION_DENIED": ("does not let this caller in", "--token-file FILE, or a client certificate"),
        "DEADLINE_EXCEEDED": (
            f"does not answer within {CONNECT_WAIT:g} s",
            "mend the address, or wait until it serves; where somebody listens there, it may be no gRPC service",
        ),
        "UNAVAILABLE": ("does not answer", "start it, or mend the address"),
    }
    told, hint = known.get(code, ("does not list its agents", "look into its logs"))
    return f"{told} ({code}: {(details.splitlines() or [''])[0][:300]})", hint
