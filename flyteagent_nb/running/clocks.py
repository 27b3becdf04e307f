"""How long ago something was that another process noted: by the machine's own clock where it still runs, else by the wall clock.

The wall clock may have been wrong then, or be wrong now; a job whose time is up is deleted, so its age must not hang on that alone.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
import uuid
from typing import NamedTuple

PLAIN = 60.0
"""Seconds by which a wall clock is plainly off; two machines may differ by a few."""


class Age(NamedTuple):
    """How long ago something was.

    Attributes:
        seconds: never negative.
        off: by how many seconds the wall clock would have it longer ago; 0 where that is not plain.
    """

    seconds: float
    off: float


def machine_clock() -> str:
    """This moment by a clock that nobody sets, and which clock that is: of this machine since its start, else of this process."""
    which = _boot()
    # Linux counts the time that a laptop sleeps; a job elsewhere does not sleep with it.
    seconds = time.clock_gettime(time.CLOCK_BOOTTIME) if which else time.monotonic()
    return f"{which or _PROCESS}:{seconds:.3f}"


def age(at: float, clock: str) -> Age:
    """How long ago a moment was.

    Args:
        at: the moment, in seconds since the epoch by the wall clock of then.
        clock: the moment as :func:`machine_clock` told it then; anything else counts for nothing.
    """
    by_wall = time.time() - at
    which, _, then = clock.partition(":")
    here, _, now = machine_clock().partition(":")
    seconds = max(0.0, by_wall)
    if which == here:
        with contextlib.suppress(ValueError):
            passed = float(now) - float(then)
            if math.isfinite(passed) and passed >= 0:
                seconds = passed
    off = by_wall - seconds
    return Age(seconds, off if abs(off) >= PLAIN else 0.0)


@functools.cache
def _boot() -> str:
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return ""
    with (
        contextlib.suppress(OSError),
        open("/proc/sys/kernel/random/boot_id", encoding="ascii", errors="replace") as file,
    ):
        return file.read().strip()
    return ""


_PROCESS = uuid.uuid4().hex
