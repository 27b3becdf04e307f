"""Wait for runs so that the stop button means stop: once deletes the jobs, twice leaves at once.

Start and wait stand under one guard, so there is no moment in which a stop would leave a job running unseen. Inside the guard an
interrupt is counted, not raised; it is acted on where the cell waits.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import TaskStopped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from flyteagent_nb.running.run import Run

LOOK = 0.5
"""Seconds between two looks at whether the loop still answers."""


class StopGuard:
    """Counts interrupts, and waits.

    Attributes:
        stops: how often the stop button was pressed.
    """

    def __init__(self, grace: float) -> None:
        self.stops = 0
        self._grace = grace
        self._wake = threading.Event()

    def interrupted(self, signum: int, frame: FrameType | None) -> None:
        """The signal's handler."""
        self.stops += 1
        self._wake.set()

    def wait(self, runs: Sequence[Run]) -> None:
        """Block until every run has ended.

        Raises:
            TaskStopped: the stop button was pressed. The runs were cancelled; they have ended unless it was pressed twice or
                they took longer than the grace.
        """
        for run in runs:
            run.on_done(self._wake.set)
        while not all(run.done for run in runs):
            if self.stops:
                self._stop(runs)
            self._wake.wait(LOOK)  # set by a run's end and by the signal's handler
            self._wake.clear()
        if self.stops:
            self._stop(runs)

    def _stop(self, runs: Sequence[Run]) -> None:
        for run in runs:
            run.cancel()
        until = time.monotonic() + self._grace
        while self.stops == 1 and not all(run.done for run in runs) and (left := until - time.monotonic()) > 0:
            self._wake.wait(min(left, LOOK))
            self._wake.clear()
        raise self._stopped(runs)

    def _stopped(self, runs: Sequence[Run]) -> TaskStopped:
        ids = [run.id for run in runs]
        open_runs = [run for run in runs if not run.done]
        which = f"run {ids[0]} of {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs"
        if open_runs:
            shown = open_runs[0].id
            return TaskStopped(
                f"stopped by the user; {which}: the delete goes on in the background",
                run_ids=ids,
                hint=f"%agent show {shown} tells what came of it",
            )
        finished = [run for run in runs if run.phase == "SUCCEEDED"]
        if finished:
            return TaskStopped(
                f"stopped by the user; {which}: it had succeeded by then"
                if len(runs) == 1
                else f"stopped by the user; {which}",
                run_ids=ids,
                hint=f"%agent show {finished[0].id} tells its outputs",
            )
        troubles = [run.error.message for run in runs if run.error is not None and ": " in run.error.message]
        return TaskStopped(
            f"stopped by the user; {which} cancelled" + (f" ({troubles[0].split(': ', 1)[1]})" if troubles else ""),
            run_ids=ids,
            hint=f"%agent show {ids[0]} tells all of it" if len(runs) == 1 else "%agent runs lists them",
        )


@contextlib.contextmanager
def stop_guard(grace: float) -> Iterator[StopGuard]:
    """A guard around start and wait. On another thread than the main one signals do not arrive, and it only waits.

    Args:
        grace: seconds that a stop waits for the runs to end.
    """
    guard = StopGuard(grace)
    if threading.current_thread() is not threading.main_thread():
        yield guard
        return
    before: Any = signal.signal(signal.SIGINT, guard.interrupted)
    try:
        yield guard
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)
    if guard.stops:  # pressed between the last look and here: it must not get lost
        raise KeyboardInterrupt
