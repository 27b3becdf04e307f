"""What the panel shows at one moment, and the figures in it. Pure, but for :func:`figures`."""

from __future__ import annotations

import collections
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flyteagent_nb.serving.latencies import latency

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flyteagent_nb.running.routing import Connection
    from flyteagent_nb.running.run import RunSnapshot
    from flyteagent_nb.serving.catalog import AgentEntry, BrokenPlugin
    from flyteagent_nb.serving.host import Address
    from flyteagent_nb.serving.latencies import Latency

ROWS = 200
"""Runs that a page shows one by one; the others are counted."""


@dataclass(frozen=True)
class Figure:
    """How one operation of a task type's agent has gone, since the kernel began.

    Attributes:
        task_type: the task type.
        operation: ``create``, ``get``, ``delete`` or ``do``.
        calls: how many calls have ended.
        failures: how many of them failed; a call that its caller gave up is none.
        latency: how long they took; None where a service that is not ours counted them.
    """

    task_type: str
    operation: str
    calls: int
    failures: int
    latency: Latency | None


def figures() -> tuple[Figure, ...]:
    """The figures in flytekit's own metrics, which our servicers keep up, and how long the calls took; none where flytekit's service is
    not imported.
    """
    metrics: Any = sys.modules.get("flytekit.extend.backend.connector_service")
    if metrics is None:
        return ()
    sums: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for metric in (metrics.request_latency, metrics.request_failure_count):
        for family in metric.collect():
            for sample in family.samples:  # named ..._count and ..._sum, and ..._total for each error code
                key = (sample.labels["task_type"], sample.labels["operation"])
                sums[key][sample.name.rpartition("_")[2]] += sample.value
    return tuple(
        Figure(*key, calls=int(s["count"]), failures=int(s["total"]), latency=latency(*key))
        for key, s in sorted(sums.items())
        if s["count"]
    )


@dataclass(frozen=True)
class PanelState:
    """All that the panel shows, at one moment.

    Attributes:
        service: ``closed``, ``starting``, ``serving`` or ``failed``.
        now: the moment, in seconds since the epoch.
        reason: why the service failed, or an empty string.
        addresses: where it listens.
        connections: the other services that are connected.
        agents: the agents.
        broken: the plug-ins that could not be imported.
        snapshots: the runs that are shown, newest first.
        phases: how many of all runs are in which phase.
        live: how many of all runs are under way.
        figures: the calls so far.
        rate: calls a second, lately; None where it is not known.
    """

    service: str
    now: float
    reason: str = ""
    addresses: Sequence[Address] = ()
    connections: Sequence[Connection] = ()
    agents: Sequence[AgentEntry] = ()
    broken: Sequence[BrokenPlugin] = ()
    snapshots: Sequence[RunSnapshot] = ()
    phases: Mapping[str, int] = field(default_factory=dict)
    live: int = 0
    figures: Sequence[Figure] = ()
    rate: float | None = None

    @property
    def total(self) -> int:
        """How many runs there are."""
        return sum(self.phases.values())
