"""How long calls took: flytekit's own counters keep the sum of them alone. One for the process, as they are."""

from __future__ import annotations

import collections
import statistics
from typing import NamedTuple

KEPT = 100
"""The latest calls of an operation, which its median is of."""


class Latency(NamedTuple):
    """How long the calls of one operation took, in seconds.

    Attributes:
        median: of the latest KEPT calls.
        slowest: of all.
    """

    median: float
    slowest: float


class _Taken:
    """The times of one operation of a task type's agent."""

    def __init__(self) -> None:
        self.latest: collections.deque[float] = collections.deque(maxlen=KEPT)
        self.slowest = 0.0


_taken: collections.defaultdict[tuple[str, str], _Taken] = collections.defaultdict(_Taken)


def observe(task_type: str, operation: str, seconds: float) -> None:
    """A call has ended; on the loop's thread."""
    taken = _taken[task_type, operation]
    taken.latest.append(seconds)
    taken.slowest = max(taken.slowest, seconds)


def latency(task_type: str, operation: str) -> Latency | None:
    """How long the calls of an operation took, or None where there was none. Any thread."""
    taken = _taken.get((task_type, operation))
    if taken is None:
        return None
    latest = taken.latest.copy()  # at once, as the loop's thread goes on to add to it
    return Latency(statistics.median(latest), taken.slowest) if latest else None
