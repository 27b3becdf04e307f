"""A channel to an agent service, in plain text or with TLS; and over which of them a token may go."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from flyteagent_nb import wire
from flyteagent_nb.certificates import read_authorities, read_pair, system_authorities
from flyteagent_nb.errors import ServiceError

_RECONNECT = (
    # gRPC waits up to two minutes before it tries again; a run whose service is back must hear of it before its polls are given up.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3_000),
)

_SCHEME = re.compile(r"^(dns|ipv4|ipv6|passthrough):(///)?")  # another form of dns asks a server of its own
_HOST = re.compile(r"\[([^\]]+)\](?::\d+)?|([^:]+)(?::\d+)?|(.+)")  # [::1]:80, name:80 or an IPv6 address alone


@dataclass(frozen=True)
class TLS:
    """How a connection is encrypted: paths of files, all of them optional. Their contents are read when the channel is made.

    Attributes:
        authorities: the certificates (PEM) of the authorities that vouch for the service; empty for those that this system trusts.
        certificate: this client's own certificate (PEM), where the service asks for one.
        key: its private key (PEM).
    """

    authorities: str = ""
    certificate: str = ""
    key: str = ""


def open_channel(name: str, target: str, tls: TLS | None = None, service_config: str = "", host: str = "") -> Any:
    """A channel (grpc.aio) of the loop that this is called on; it connects with its first call.

    Args:
        name: the service's, for errors.
        target: its gRPC address.
        tls: how the connection is encrypted.
        service_config: gRPC's service configuration (JSON).
        host: whom the certificate has to be of, where ``target`` does not say it.

    Raises:
        ServiceError: a file of ``tls`` cannot be read, or has something else in it; the key is another certificate's.
    """
    options: list[tuple[str, Any]] = [
        *wire.OPTIONS,
        *_RECONNECT,
        *([("grpc.service_config", service_config)] if service_config else []),
    ]
    if host:
        options.append(("grpc.default_authority", host))
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    where = {"service": name, "address": target}
    roots = read_authorities(tls.authorities, **where) if tls.authorities else system_authorities()
    chain = key = None
    if tls.certificate or tls.key:
        chain, key = read_pair(tls.certificate, tls.key, **where)
    credentials = grpc.ssl_channel_credentials(root_certificates=roots, private_key=key, certificate_chain=chain)
    return grpc.aio.secure_channel(target, credentials, options=options)


class Unreadable:
    """Takes the place of an answer that cannot be read: grpc.aio would print a traceback, and hand out None.

    Attributes:
        told: what is wrong.
    """

    __slots__ = ("told",)

    def __init__(self, error: Exception) -> None:
        self.told = f"the service's answer cannot be read: {error}"


class Reading:
    """A channel for generated stubs, on which an answer that cannot be read is an :class:`Unreadable`."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def __getattr__(self, kind: str) -> Any:
        make = getattr(self._channel, kind)

        def method(path: str, *, response_deserializer: Any, **how: Any) -> Any:
            def read(data: bytes) -> Any:
                try:
                    return response_deserializer(data)
                except Exception as error:  # protobuf's implementations differ in what they raise
                    return Unreadable(error)

            return make(path, response_deserializer=read, **how)

        return method


def check_token(name: str, target: str) -> None:
    """Refuse to send a token in plain text to another machine.

    Raises:
        ServiceError: it would.
    """
    if not is_here(target):
        raise ServiceError(
            f"the token of '{name}' would go to {target} in plain text, to be read by whoever is on the way",
            service=name,
            address=target,
            hint="use TLS, or a tunnel that ends on this machine: ssh -L 8000:127.0.0.1:8000 HOST, then 127.0.0.1:8000",
        )


def is_here(target: str) -> bool:
    """Whether a gRPC address is a socket or the loopback of this machine, as it is written: no name but localhost is looked up."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    return all(_is_loopback(host.strip()) for host in _SCHEME.sub("", target).split(","))


def _is_loopback(host: str) -> bool:
    found = _HOST.fullmatch(host)
    name = found[found.lastindex or 0] if found else ""
    if name.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
