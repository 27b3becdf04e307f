"""What a user holds: ``Run``, the handle of one execution of a task, and ``RunSnapshot``, its frozen state.

Only the loop's thread publishes snapshots, each by one assignment; every other thread reads them. The handle reaches the runner
through a protocol and imports nothing else of its wing.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import time
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

from flyteagent_nb.errors import FlyteAgentNBError, JournalError, RunAbortedError, WaitTimeoutError, WrongThreadError
from flyteagent_nb.loop import ContextExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

HEARTBEAT = 0.05
"""Seconds between two rounds of the loop while a cell awaits runs: a signal is only seen when the loop wakes."""

SECRET_IN_META = (
    "the agent put a value known as secret into the job's resource meta: the journal keeps it as it is, because the agent needs it to "
    "follow the job; it is not shown"
)
"""The note of a run whose resource meta is not for the eye."""

MAY_RUN = "the job may still run"
"""How the note of a run begins that was given up."""

log = logging.getLogger("flyteagent_nb")


class PhaseChange(NamedTuple):
    """A phase and when the runner saw it (seconds since the epoch)."""

    phase: str
    at: float
    attempt: int = 1


class RunSnapshot(NamedTuple):
    """The state of a run at one moment. (A named tuple: it is replaced several times a run, which a dataclass makes dear.)

    Attributes:
        id: the run's id, 10 hexadecimal digits.
        name: the task's name.
        task_type: the task's type.
        version: the version of the task type.
        service: the agent service that has it, or an empty string until it is known.
        agent: the agent's name, as the service lists it.
        is_sync: whether one call does it all.
        phase: Flyte's name of the phase: QUEUED, WAITING_FOR_RESOURCES, INITIALIZING, RUNNING, SUCCEEDED, FAILED, ABORTED.
        phases: the phases it went through.
        message: the agent's last message.
        log_links: (name, address) pairs.
        custom_info: what the agent tells of the job, or None.
        attempt: the attempt under way, from 1.
        attempts: how many there may be.
        submitted: seconds since the epoch.
        ended: seconds since the epoch, or None.
        seconds: how long it took, by a monotonic clock, or None while it runs.
        stopping: whether a cancel was asked for.
        notes: what a person should know about earlier attempts or about a job that may live on.
        error: why it failed, or None.
        error_code: the code that FlytePropeller would record, or an empty string.
        held: who has it where this kernel does not follow it, or an empty string.
        stand_in: what stands in for the service that the agent talks to, in words, or an empty string.
    """

    id: str
    name: str
    task_type: str
    version: int = 0
    service: str = ""
    agent: str = ""
    is_sync: bool = False
    phase: str = "QUEUED"
    phases: tuple[PhaseChange, ...] = ()
    message: str = ""
    log_links: tuple[tuple[str, str], ...] = ()
    custom_info: Mapping[str, Any] | None = None
    attempt: int = 1
    attempts: int = 1
    submitted: float = 0.0
    ended: float | None = None
    seconds: float | None = None
    stopping: bool = False
    notes: tuple[str, ...] = ()
    error: FlyteAgentNBError | None = None
    error_code: str = ""
    held: str = ""
    stand_in: str = ""

    @property
    def done(self) -> bool:
        """Whether the run has ended."""
        return self.ended is not None

    @property
    def elapsed(self) -> float:
        """Seconds since it was submitted, until it ended."""
        return self.seconds if self.seconds is not None else max(0.0, time.time() - self.submitted)


class _Heartbeat:
    """Wakes a loop every HEARTBEAT seconds while a run is awaited on it: one timer, however many runs."""

    def __init__(self) -> None:
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._waiting += 1
        if self._timer is None:
            self._beat()

    def __exit__(self, *_: object) -> None:
        self._waiting -= 1
        if not self._waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        # The loop is not kept: it is the weak key under which this one is found.
        self._timer = asyncio.get_running_loop().call_later(HEARTBEAT, self._beat)


_heartbeats: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Heartbeat] = weakref.WeakKeyDictionary()


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


class RunControl(Protocol):
    """What a handle asks of its runner. Every method may be called on any thread."""

    def cancel(self, run: Run) -> None:
        """Stop the job and end the run."""

    def logs(self, run: Run) -> list[str]:
        """The lines that the agent printed and logged for the run, or its job's own log."""

    def check_may_block(self) -> None:
        """Raise WrongThreadError where a blocking wait would wait for itself, or for ever."""

    def check_may_await(self) -> None:
        """Raise WrongThreadError where an awaited run would never end: in a forked child."""


class Run:
    """One execution of a task by an agent: ``await run``, ``run.result()``, ``run.cancel()``.

    It is made by :func:`flyteagent_nb.submit` and the magics. Ending a wait never ends the run: use :meth:`cancel`.
    """

    __slots__ = (
        "__weakref__",
        "_awaiting",
        "_control",
        "_future",
        "_outputs",
        "_read",
        "_returned",
        "_snapshot",
        "_watchers",
    )

    def __init__(self, snapshot: RunSnapshot, control: RunControl) -> None:
        self._snapshot = snapshot
        self._control = control
        self._outputs: dict[str, Any] | None = None
        self._returned: Any = None
        self._read: Callable[[], tuple[dict[str, Any], Any]] | None = None
        self._watchers: list[Callable[[Run], object]] = []
        self._awaiting: list[asyncio.Future[None]] = []
        self._future: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._future.set_running_or_notify_cancel()  # so that cancelling a wait cannot cancel it

    @classmethod
    def kept(cls, snapshot: RunSnapshot, control: RunControl) -> Run:
        """A run on record, which this kernel does not follow."""
        run = cls(snapshot, control)
        if snapshot.done and snapshot.phase != "SUCCEEDED":
            run._future.set_result(None)
        return run

    @classmethod
    def ended(cls, snapshot: RunSnapshot, control: RunControl, outputs: dict[str, Any], returned: Any) -> Run:
        """A run on record that has succeeded, with what it came to."""
        run = cls(snapshot, control)
        run.finish(snapshot, outputs, returned)
        return run

    def __repr__(self) -> str:
        s = self._snapshot
        return f"<Run {s.id} {s.name} ({s.task_type}) {s.phase}>"

    def __copy__(self) -> Run:
        """Itself: a copy would never hear of its end, and then give no outputs and no error."""
        return self

    def __deepcopy__(self, memo: object) -> Run:
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"run {self.id} of {self.name} belongs to this kernel, and cannot be pickled: take its result, or its id, "
            "with which %agent attach finds it again"
        )

    @property
    def snapshot(self) -> RunSnapshot:
        """Its state now, frozen."""
        return self._snapshot

    @property
    def id(self) -> str:
        """The run's id; any unique prefix of it names it in the magics."""
        return self._snapshot.id

    @property
    def name(self) -> str:
        """The task's name."""
        return self._snapshot.name

    @property
    def task_type(self) -> str:
        """The task's type."""
        return self._snapshot.task_type

    @property
    def service(self) -> str:
        """The agent service that has the run, or an empty string until it is known."""
        return self._snapshot.service

    @property
    def phase(self) -> str:
        """Flyte's name of its phase."""
        return self._snapshot.phase

    @property
    def phases(self) -> tuple[PhaseChange, ...]:
        """The phases it went through, with their times."""
        return self._snapshot.phases

    @property
    def message(self) -> str:
        """The agent's last message."""
        return self._snapshot.message

    @property
    def log_links(self) -> tuple[tuple[str, str], ...]:
        """(name, address) pairs."""
        return self._snapshot.log_links

    @property
    def custom_info(self) -> Mapping[str, Any] | None:
        """What the agent tells of the job."""
        return self._snapshot.custom_info

    @property
    def attempt(self) -> int:
        """The attempt under way, from 1."""
        return self._snapshot.attempt

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._snapshot.done

    @property
    def error(self) -> FlyteAgentNBError | None:
        """Why it failed, or None."""
        return self._snapshot.error

    @property
    def outputs(self) -> dict[str, Any] | None:
        """Its outputs by name, as Python values, or None where it has not succeeded."""
        self._convert()
        return None if self._outputs is None else dict(self._outputs)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end and return what calling the task would return.

        Args:
            timeout: seconds to wait; None waits for ever. The run goes on when the wait ends.

        Raises:
            RunFailedError: the task failed, timed out or was cancelled.
            WaitTimeoutError: ``timeout`` passed first.
            WrongThreadError: on the thread of the agent service, inside an agent's ``async def``.
        """
        if not self._future.done():
            self._control.check_may_block()
            try:
                with ContextExecutor.lending():
                    self._future.result(timeout)
            except concurrent.futures.TimeoutError:
                if not self._future.done():
                    raise WaitTimeoutError(
                        f"run {self.id} of {self.name} is {self.phase} after {timeout:g} s; it goes on",
                        run_id=self.id,
                        seconds=timeout or 0.0,
                        hint=f"run.result() waits on, %agent cancel {self.id} stops it",
                    ) from None
        return self._value()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        if not self._future.done():
            self._control.check_may_await()
            loop = asyncio.get_running_loop()
            # Not asyncio.wrap_future, which leaves something behind at the future for each wait that is given up.
            turn: asyncio.Future[None] = loop.create_future()
            self._awaiting.append(turn)
            try:
                if not self._future.done():  # or it ended just before the append, and woke those that it found
                    with _heartbeats.setdefault(loop, _Heartbeat()):
                        await turn
            finally:
                self._awaiting.remove(turn)
        return self._value()

    def _value(self) -> Any:
        error = self._snapshot.error
        if error is None and self._snapshot.phase == "ABORTED":  # settled by hand
            error = JournalError(f"run {self.id} of {self.name} was settled: there is no job", hint="run it again")
        if error is not None:
            raise error.again()  # the run keeps its error, and would keep the callers' frames with it
        self._convert()
        return self._returned

    def read_by(self, read: Callable[[], tuple[dict[str, Any], Any]]) -> None:
        """Let ``read()`` make values of its outputs when somebody asks: flytekit's engine took its literals, and few look at them again."""
        self._read = read

    def _convert(self) -> None:
        read = self._read  # two threads may ask at once: then each makes the values
        if read is not None:
            self._outputs, self._returned = read()
            self._read = None

    def cancel(self) -> None:
        """Stop the job and end the run; returns at once. A run that has ended stays as it is."""
        self._control.cancel(self)

    def logs(self) -> list[str]:
        """The lines that the agent printed and logged for this run.

        They are kept for agents of this kernel. Another service is asked for the job's own log, which not every agent keeps.

        Raises:
            ServiceError: another service has the log and does not hand it out.
        """
        return self._control.logs(self)

    def exception(self, timeout: float | None = None) -> FlyteAgentNBError | None:
        """Wait as :meth:`result` does, and return the error, or None."""
        try:
            self.result(timeout)
        except (WaitTimeoutError, WrongThreadError):  # nothing that the run came to
            raise
        except FlyteAgentNBError as error:
            if not self._future.done():  # as here: nobody follows it
                raise
            return self._snapshot.error or error.with_traceback(None)
        return None

    @property
    def cancelled(self) -> bool:
        """Whether it ended because it was cancelled."""
        return isinstance(self._snapshot.error, RunAbortedError)

    def watch(self, callback: Callable[[Run], object]) -> None:
        """Call ``callback(run)`` after each new snapshot, on the loop's thread: it must only enqueue. What it raises is logged."""
        self._watchers.append(callback)

    # --- the runner's side, on the loop's thread only ---

    def publish(self, snapshot: RunSnapshot) -> None:
        """Show a new state."""
        self._snapshot = snapshot
        for callback in tuple(self._watchers):
            try:
                callback(self)
            except Exception:  # whoever watches has nothing to do with how the run ends
                log.exception("a watcher of run %s failed", self.id)

    def finish(self, snapshot: RunSnapshot, outputs: dict[str, Any] | None, returned: Any) -> None:
        """Show the last state and wake whoever waits."""
        self._outputs = outputs
        self._returned = returned
        self.publish(snapshot)
        self._future.set_result(None)
        for turn in tuple(self._awaiting):
            with contextlib.suppress(RuntimeError):  # a loop that was closed, and who waited with it
                turn.get_loop().call_soon_threadsafe(_wake, turn)

    def on_done(self, callback: Callable[[], object]) -> None:
        """Call ``callback()`` once it has ended, on the loop's thread; at once where it has."""
        self._future.add_done_callback(lambda _: callback())
