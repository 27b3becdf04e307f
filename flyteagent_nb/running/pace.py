"""How often a job is polled, and when polling it is given up (rule 23). Pure; times are in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass

FEW = 16
"""So many runs are few: their first polls cost nothing worth saving."""

GROWTH = 0.6
"""The power of the number of runs with which the budget of polls grows past 100 runs."""


@dataclass(frozen=True)
class Pace:
    """How often jobs are polled and when polling is given up. Times are seconds.

    The interval starts at ``shortest`` and grows by ``growth`` a poll up to ``plateau``; from then on it is ``age_share`` of the
    job's age, up to ``longest``.

    Attributes:
        spread: how far an interval may be off, as a share of it.
        rate: calls a second, over all runs.
        failures: so many polls must have failed in a row before polling is given up.
        failure_seconds: and for so long; None is the caller's own limit.
    """

    name: str
    shortest: float
    growth: float
    plateau: float
    age_share: float
    longest: float
    spread: float
    rate: float
    failures: int
    failure_seconds: float | None = None


ADAPTIVE = Pace(
    "adaptive", shortest=0.005, growth=2.5, plateau=0.1, age_share=0.05, longest=5.0, spread=0.1, rate=200.0, failures=5
)
"""Ours: a job's end is seen within 5 % of its time or 0.1 s; 24 gets for a job of 2 s."""

PROPELLER = Pace(
    "propeller",
    shortest=30.0,
    growth=1.0,
    plateau=30.0,
    age_share=0.0,
    longest=30.0,
    spread=0.0,
    rate=10.0,
    failures=6,  # MaxSystemFailures is 5, and has to be exceeded.
    failure_seconds=0.0,
)
"""Propeller's own: a get right after the create, then one every 30 s."""


def poll_delay(pace: Pace, polls_done: int, age: float, jitter: float) -> float:
    """Seconds until the next get; the first comes right after the create.

    Args:
        pace: the pace.
        polls_done: gets made for this job so far.
        age: the job's age.
        jitter: a random number in [0, 1).
    """
    if polls_done <= 0:
        return 0.0
    # The exponent is bounded, or the power of a long job would overflow.
    ramp = min(pace.plateau, pace.shortest * pace.growth ** min(polls_done - 1, 32))
    return _spread(max(ramp, pace.age_share * age), jitter, pace.spread, pace.shortest, pace.longest)


def poll_floor(pace: Pace, polls_done: int, active: int, rate: float) -> float:
    """The seconds that two polls of a job are apart at least, so that many runs share a budget of calls.

    The first poll of one of a few runs is free, as a job may be over when its create returns. Up to 100 runs share ``rate`` calls a
    second; above that the budget grows with their number, though slower, as the end of ten thousand jobs would else be seen minutes
    late.

    Args:
        pace: the pace; propeller's keeps its own rate.
        polls_done: gets made for this job so far.
        active: runs under way.
        rate: calls a second over all runs.
    """
    if polls_done <= 0 and active <= FEW:
        return 0.0
    if pace is PROPELLER:
        return active / pace.rate
    return active / (rate * max(1.0, math.pow(active / 100, GROWTH)))


def failure_backoff(failures: int, jitter: float) -> float:
    """Seconds to wait after the ``failures``-th failed poll in a row: 0.1, doubling up to 5, and 10 % up or down (rule 23, ours).

    Propeller's pace has no backoff: a poll that failed is made again at its next interval.
    """
    return _spread(0.1 * 2.0 ** min(max(failures - 1, 0), 16), jitter, 0.1, 0.05, 5.0)


def _spread(seconds: float, jitter: float, share: float, shortest: float, longest: float) -> float:
    spread = min(seconds, longest) * (1 - share + 2 * share * jitter)
    return min(max(spread, shortest), longest)


def gives_up(pace: Pace, failures: int, seconds_failing: float, limit_seconds: float = 60.0) -> bool:
    """Whether polling is hopeless (rule 23).

    Args:
        pace: the pace.
        failures: polls that failed, in a row.
        seconds_failing: since the first of them.
        limit_seconds: how long polls must have failed, where the pace does not say.
    """
    limit = limit_seconds if pace.failure_seconds is None else pace.failure_seconds
    return failures >= pace.failures and seconds_failing >= limit
