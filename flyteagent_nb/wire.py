"""What both ends of the channel must agree on: metadata keys, limits, channel options."""

from __future__ import annotations

KERNEL_SERVICE = "kernel"
"""The name of the kernel's own agent service."""

RUN_ID_KEY = "flyteagent-run-id"
"""Call metadata: the run a call belongs to. The agent service keeps what the agent prints for that run."""

TOKEN_KEY = "authorization"
"""Call metadata: ``Bearer <token>``, on an address that asks for one."""

DETAILS_LIMIT = 6 * 1024
"""Bytes of a gRPC status's details, UTF-8: the wire cuts a status off at 8 KiB with everything that belongs to it."""

KNOWN_FAULT = "known fault of "
"""How the line of a status or of a reply's message begins that tells of a known fault; it stays when the rest is cut."""

IN_PRODUCTION = "in production: "
"""How the line of a succeeded job's message begins that tells what would go wrong on a cluster; the runner makes a note of it."""

OPTIONS: tuple[tuple[str, int], ...] = (
    # Propeller's messages have no limit worth naming, gRPC's own is 4 MiB.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Loopback and an organisation's own services: a proxy from the environment would only break them.
    ("grpc.enable_http_proxy", 0),
    # Without this a second server binds a taken port and steals every other call, silently.
    ("grpc.so_reuseport", 0),
    # The run id and a token are all the metadata there is; errors carry their own limit (DETAILS_LIMIT).
    ("grpc.max_metadata_size", 64 * 1024),
    # A service that comes back is seen as soon as it is asked for its agents again; gRPC's own pause grows to two minutes.
    ("grpc.max_reconnect_backoff_ms", 5_000),
)
"""The options of every channel and server of ours."""


class Token(str):
    """A token that does not show itself: a cell that ends with it, a traceback or a log has no more than that it is one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<a token; print() shows it>"


def token_metadata(token: str) -> tuple[str, str]:
    """The metadata entry that carries ``token``."""
    return (TOKEN_KEY, f"Bearer {token}")


def cut(text: str, limit: int = DETAILS_LIMIT) -> str:
    """``text`` with at most ``limit`` bytes in UTF-8, its head kept and the cut marked."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return encoded.decode("utf-8")
    mark = " […]"
    return encoded[: limit - len(mark.encode())].decode("utf-8", "ignore") + mark


ROUND_ROBIN = '{"loadBalancingConfig": [{"round_robin": {}}]}'
"""The service configuration of gRPC that FlytePropeller uses by default: all addresses behind a name take turns."""
