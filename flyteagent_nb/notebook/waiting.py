"""Wait for runs so that the stop button means stop: once deletes the jobs, twice leaves at once.

Start and wait stand under one guard, so there is no moment in which a stop would leave a job running unseen. Inside the guard an
interrupt is counted, not raised; it is acted on where the cell waits.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import logging
import queue
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import TaskStopped
from flyteagent_nb.loop import ContextExecutor, get_loop_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from flyteagent_nb.running.run import Run

_log = logging.getLogger("flyteagent_nb")

LOOK = 0.5
"""Seconds between two looks at the runs where nothing else has to be done meanwhile."""

BEAT = 0.05
"""Seconds between two beats of a cell that waits: clicks on the page are looked for as often."""


class TaskCancelled(TaskStopped, asyncio.CancelledError):
    """The same stop inside an asyncio task of the user's: to the event loop it is a cancel.

    A KeyboardInterrupt that leaves a task leaves the loop too, and takes the kernel with it. Whoever awaits the task gets this one.
    """


class StopGuard:
    """Counts interrupts, and waits.

    Attributes:
        stops: how often the stop button was pressed.
        behind: the guards of other threads that this one blocks for; None where it waits for runs itself.
        stopped: how the first of those ended after a stop.
    """

    def __init__(self, grace: float, beat: Callable[[Sequence[Run]], object] | None = None) -> None:
        self.stops = 0
        self.behind: set[StopGuard] | None = None
        self.stopped: TaskStopped | None = None
        self._beat = beat
        self._grace = grace
        # Not an Event: its lock is not re-entrant, and a signal's handler may run while this very thread holds it.
        self._wake: queue.SimpleQueue[Run | None] = queue.SimpleQueue()

    def interrupted(self, signum: int, frame: FrameType | None) -> None:
        """The signal's handler."""
        self.stops += 1
        self._wake.put(None)
        if self.behind is not None:
            waiting = tuple(self.behind)
            for guard in waiting:
                guard.interrupted(signum, frame)
            if not waiting:
                raise stop_class()("stopped by the user; what the task's function has begun may go on in its thread")

    def wait(self, runs: Sequence[Run], ended: Callable[[Run], Sequence[Run]] = lambda run: ()) -> None:
        """Block until every run has ended.

        Args:
            runs: what is waited for.
            ended: called with each run that has ended; those that it returns are waited for, too.

        Raises:
            TaskStopped: the stop button was pressed. The runs were cancelled; they have ended unless it was pressed twice or
                they took longer than the grace.
        """
        waited: list[Run] = []
        with ContextExecutor.lending():
            self._wait(waited, runs, ended)
        if self.stops:
            self._stop(waited)

    def _wait(self, waited: list[Run], runs: Sequence[Run], ended: Callable[[Run], Sequence[Run]]) -> None:
        left = 0
        while True:
            for run in runs:
                waited.append(run)
                left += 1
                run.on_done(functools.partial(self._wake.put, run))
            if not left:
                return
            if self.stops:
                self._stop(waited)
            woken = self._pause(LOOK if self._beat is None else BEAT)
            if self._beat is not None:
                try:
                    self._beat(waited)
                except Exception:  # what shows a run must not leave it running unseen: the wait goes on without
                    self._beat = None
                    _log.exception("the view of a wait failed")
            left -= woken is not None
            runs = () if woken is None else ended(woken)

    def _stop(self, runs: Sequence[Run]) -> None:
        for run in runs:
            run.cancel()
        until = time.monotonic() + self._grace
        while self.stops == 1 and not all(run.done for run in runs) and (left := until - time.monotonic()) > 0:
            self._pause(min(left, LOOK))
        raise self._stopped(runs, stop_class())

    def _pause(self, seconds: float) -> Run | None:
        """Wait for a run's end, an interrupt, or ``seconds``; the run that has ended, or None."""
        try:
            return self._wake.get(timeout=seconds)
        except queue.Empty:
            return None

    def _stopped(self, runs: Sequence[Run], stopped: type[TaskStopped]) -> TaskStopped:
        ids = [run.id for run in runs]
        open_runs = [run for run in runs if not run.done]
        which = f"run {ids[0]} of {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs"
        if open_runs:
            shown = open_runs[0].id
            return stopped(
                f"stopped by the user; {which}: the delete goes on in the background",
                run_ids=ids,
                hint=f"%agent show {shown} tells what came of it",
            )
        finished = [run for run in runs if run.phase == "SUCCEEDED"]
        if finished:
            return stopped(
                f"stopped by the user; {which}: it had succeeded by then"
                if len(runs) == 1
                else f"stopped by the user; {which}",
                run_ids=ids,
                hint=f"%agent show {finished[0].id} tells its outputs",
            )
        troubles = [run.error.message for run in runs if run.error is not None and ": " in run.error.message]
        return stopped(
            f"stopped by the user; {which} cancelled" + (f" ({troubles[0].split(': ', 1)[1]})" if troubles else ""),
            run_ids=ids,
            hint=f"%agent show {ids[0]} tells all of it" if len(runs) == 1 else "%agent runs lists them",
        )


@contextlib.contextmanager
def stop_guard(grace: float, beat: Callable[[Sequence[Run]], object] | None = None) -> Iterator[StopGuard]:
    """A guard around start and wait. On another thread than the main one signals do not arrive, and it only waits.

    Args:
        grace: seconds that a stop waits for the runs to end.
        beat: called some times a second with the runs that are waited for, on the main thread only.

    Raises:
        WrongThreadError: inside an agent's ``async def``, on the thread that would have to do the work.
    """
    get_loop_thread().check_may_block()
    if threading.current_thread() is not threading.main_thread():
        beat = None
    guard = StopGuard(grace, beat)
    if threading.current_thread() is not threading.main_thread():
        with _behind(guard):
            yield guard
        return
    if _spreading is not None and _spreading is asyncio._get_running_loop():
        raise TaskCancelled("stopped by the user, before it was started")
    before: Any = signal.signal(signal.SIGINT, guard.interrupted)
    try:
        yield guard
    except TaskCancelled as stop:
        _spread(stop)
        raise
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)
    if guard.stops:  # pressed between the last look and here: it must not get lost
        raise stop_class()("stopped by the user")


_holder: contextvars.ContextVar[StopGuard | None] = contextvars.ContextVar("flyteagent_nb_holder", default=None)
"""The guard of the main thread that blocks until the code here, on another thread, has ended."""


@contextlib.contextmanager
def holding(grace: float) -> Iterator[None]:
    """Around a call in which flytekit blocks this thread until another one has run an ``async def``: a stop reaches the runs there.

    Args:
        grace: seconds that a stop waits for the runs to end.

    Raises:
        TaskStopped: the stop button was pressed.
    """
    if threading.current_thread() is not threading.main_thread():
        holder = _holder.get()
        try:
            yield
        except concurrent.futures.CancelledError:  # an Exception, which the task's function would catch
            if holder is None or not holder.stops:
                raise
            raise _stopped_behind(holder) from None
        return
    with stop_guard(grace) as guard:
        guard.behind = set()
        token = _holder.set(guard)
        try:
            yield
        except (concurrent.futures.CancelledError, TaskStopped):
            if guard.stopped is None:
                raise
            raise _stopped_behind(guard) from None
        finally:
            _holder.reset(token)


def _stopped_behind(holder: StopGuard) -> TaskStopped:
    """A stop's error anew: what an event loop hands on of it is a bare cancel."""
    was = holder.stopped
    if was is None:
        return stop_class()("stopped by the user")
    return stop_class()(was.message, run_ids=was.run_ids, hint=was.hint)


@contextlib.contextmanager
def _behind(guard: StopGuard) -> Iterator[None]:
    """Let stops reach a guard of another thread than the main one, where that one blocks for it."""
    holder = _holder.get()
    if holder is None or holder.behind is None:
        yield
        return
    holder.behind.add(guard)
    try:
        if holder.stops:
            raise TaskCancelled("stopped by the user, before it was started")
        yield
        if guard.stops:  # as below
            raise TaskCancelled("stopped by the user")
    except TaskStopped as error:
        holder.stopped = holder.stopped or error
        raise
    finally:
        holder.behind.discard(guard)


_spreading: asyncio.AbstractEventLoop | None = None
"""The loop whose waiting tasks a stop is reaching; the main thread's."""


_spread_stop: TaskCancelled | None = None
"""The last stop that reached a whole cell from one of its tasks."""


def _spread(stop: TaskCancelled) -> None:
    """Let a stop in one task of a cell reach those that are about to start (of a ``gather``), and the cell itself.

    Now, and not once this task has ended: what waits for it may take a cancelled task for one that is done, and the cell would go on.
    """
    global _spreading, _spread_stop
    _spreading, _spread_stop = asyncio.get_running_loop(), stop
    _spreading.call_soon(_spread_no_more)
    for each in asyncio.all_tasks(_spreading):
        if getattr(each.get_coro(), "__name__", "") == "run_cell_async":  # IPython's, of a kernel and of a terminal
            each.cancel()


def _spread_no_more() -> None:
    global _spreading
    _spreading = None


def take_spread_stop() -> TaskCancelled | None:
    """The stop that reached a cell from one of its tasks since the last call, or None: a cancel of the cell itself has no words."""
    global _spread_stop
    stop, _spread_stop = _spread_stop, None
    return stop


def keep_interrupts(initialize: Callable[[], object]) -> Callable[[], None]:
    """flytekit's ``initialize`` of its context, less the handler of SIGINT that it leaves on the main thread.

    That one calls ``exit(1)``, which is a NameError in IPython, or the end of the kernel in a cell with ``await``. flytekit makes its
    context anew where it was first imported on another thread, so in the middle of whatever cell uses it first.
    """

    def without_handler() -> None:
        if threading.current_thread() is not threading.main_thread():
            initialize()
            return
        before: Any = signal.getsignal(signal.SIGINT)
        try:
            initialize()
        finally:
            signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)

    if threading.current_thread() is threading.main_thread():
        there: Any = signal.getsignal(signal.SIGINT)
        if getattr(there, "__module__", "").startswith("flytekit."):
            signal.signal(signal.SIGINT, signal.default_int_handler)
    return without_handler


@contextlib.contextmanager
def stopped_as(message: str) -> Iterator[None]:
    """Let the stop button, which interrupts what runs inside, say this, without a traceback.

    Raises:
        TaskStopped: the stop button was pressed.
    """
    try:
        yield
    except TaskStopped:  # it has words already
        raise
    except KeyboardInterrupt:
        raise stop_class()(message) from None


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold the stop button off: what is left half done inside could not be mended by who pressed it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: Any = signal.signal(signal.SIGINT, lambda signum, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)


def stop_class() -> type[TaskStopped]:
    """The class of a stop that is raised here: who will meet it first, a cell or an event loop?"""
    if threading.current_thread() is not threading.main_thread() and _holder.get() is not None:
        return TaskCancelled  # sooner or later a loop of flytekit's, which would end of the other
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        place = (frame.f_globals.get("__name__"), frame.f_code.co_name)
        if place == ("IPython.core.interactiveshell", "run_code"):
            return TaskStopped
        if place == ("asyncio.events", "_run"):
            return TaskCancelled
        frame = frame.f_back
    return TaskStopped if asyncio._get_running_loop() is None else TaskCancelled
