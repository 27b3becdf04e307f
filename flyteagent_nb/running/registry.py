"""Which service serves a task type, in FlytePropeller's order (rules 1 to 3). Pure; the calls are made elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Listing:
    """What a service's ListAgents said.

    Attributes:
        service: its name.
        agents: (name, is_sync, ((task type, version), ...)) each, in the service's own order.
    """

    service: str
    agents: tuple[tuple[str, bool, tuple[tuple[str, int], ...]], ...] = ()


@dataclass(frozen=True)
class Route:
    """Where a task type goes.

    Attributes:
        service: the service's name.
        is_sync: whether it is called with ExecuteTaskSync.
        reason: ``explicit``, ``listed``, ``supported`` or ``default``.
    """

    service: str
    is_sync: bool
    reason: str


def build_registry(
    default: Listing | None,
    named: Sequence[Listing],
    forced: Mapping[tuple[str, int], str],
    supported: Mapping[str, Sequence[str]],
) -> dict[tuple[str, int], Route]:
    """The routes by (task type, version), each source over the ones before it (rules 1 and 3).

    Ours: a forced route keeps the kind that its service lists, where propeller calls every such agent as async; and all
    versions of a task type are kept, where propeller keeps the last one listed.

    Args:
        default: of the default service, or None where it has none.
        named: of the named services, the last one winning.
        forced: service by (task type, version): ``agentForTaskTypes``.
        supported: task types by service: ``supportedTaskTypes``. They fill gaps only, at version 0.
    """
    registry: dict[tuple[str, int], Route] = {}
    kinds: dict[tuple[str, tuple[str, int]], bool] = {}
    for listing in ([default] if default else []) + list(named):
        for _, is_sync, categories in listing.agents:
            for category in categories:
                registry[category] = Route(listing.service, is_sync, "listed")
                kinds[listing.service, category] = is_sync
    for category, service in forced.items():
        registry[category] = Route(service, kinds.get((service, category), False), "explicit")
    known = {task_type for task_type, _ in registry}
    for service, task_types in supported.items():
        for task_type in task_types:
            if task_type not in known:
                registry.setdefault((task_type, 0), Route(service, False, "supported"))
    return registry


def look_up(
    registry: Mapping[tuple[str, int], Route], task_type: str, version: int, default_service: str | None
) -> Route | None:
    """The route of exactly this type and version, else the default service as an async agent, else None (rules 1 and 2)."""
    route = registry.get((task_type, version))
    if route is None and default_service is not None:
        return Route(default_service, False, "default")
    return route
