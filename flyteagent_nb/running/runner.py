"""The attempt loop: create, get, outputs or delete, retry. What FlytePropeller does with an agent, from inside the kernel.

The runner owns the asyncio task of each run; whoever waits for a run only waits. Stopping is a message to the runner: a create in
flight ends within its deadline, then its job is deleted. On the loop's thread only, but for ``submit``, ``cancel`` and what reads.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import functools
import random
import secrets
import sys
import time
from typing import TYPE_CHECKING, Any, TypeVar

from flyteagent_nb import wire
from flyteagent_nb.errors import FlyteAgentNBError, JournalError, OutputError, RunAbortedError, RunNotFoundError
from flyteagent_nb.loop import ContextExecutor
from flyteagent_nb.running.attempt import Attempt, Cancelled, Ended
from flyteagent_nb.running.budget import CallBudgets
from flyteagent_nb.running.driven import Driven
from flyteagent_nb.running.job_logs import job_log
from flyteagent_nb.running.journal import KEPT_IN_JOURNAL, LostError, MemoryJournal, Sent
from flyteagent_nb.running.run import PhaseChange, Run, RunSnapshot
from flyteagent_nb.running.type_records import records_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from flyteidl.core.literals_pb2 import LiteralMap

    from flyteagent_nb.config import Settings
    from flyteagent_nb.loop import LoopThread
    from flyteagent_nb.masking import Masking
    from flyteagent_nb.running.journal import AttemptRecord, Journal, RunRecord
    from flyteagent_nb.running.propeller import Failure
    from flyteagent_nb.running.routing import Resolved, Router
    from flyteagent_nb.running.storage import RunStorage
    from flyteagent_nb.running.tasks import TaskCall

T = TypeVar("T")

CONVERTERS = 4
"""Threads that turn values into literals and back."""

RETAIN_SHARE = 0.1
"""What is on record is pruned when so large a share of the runs that may be kept has ended since the last time."""

RETAIN_EVERY = 86_400.0
"""And when so many seconds have passed since, and a run ends."""

COPY_WAIT = 10.0
"""Seconds that the end of a run waits for the copy of its outputs that a later attach would read."""


def _lost(s: RunSnapshot) -> JournalError:
    return JournalError(
        f"run {s.id} of task '{s.name}' is followed by another kernel now; its job was left alone",
        hint="%agent runs --all tells by which",
    )


def _left(s: RunSnapshot) -> Cancelled:
    return Cancelled(
        "the workspace was closed; the job, if any, was left running",
        hint=""
        if s.is_sync
        else f"after %load_ext flyteagent_nb, %agent attach {s.id} follows it, %agent cancel {s.id} stops it",
    )


class Runner:
    """Runs tasks through agent services, as FlytePropeller would.

    Attributes:
        active: how many runs are under way.
        masking: the values known as secret: no state, error or record of a run has one.
    """

    def __init__(
        self,
        thread: LoopThread,
        router: Router,
        journal: Journal,
        storage: RunStorage,
        *,
        captured: Callable[[str], list[str]],
        forgotten: Callable[[str], None],
        budgets: CallBudgets,
        masking: Masking,
        retain: Callable[[Settings], object] = lambda settings: None,
    ) -> None:
        """Make it on any thread.

        Args:
            thread: the loop's.
            router: knows the services.
            journal: is told of each step.
            storage: has the runs' folders.
            captured: the lines that a run's agent printed.
            forgotten: told of each run that is dropped from memory.
            budgets: the calls under way at once.
            masking: the values known as secret.
            retain: called on a worker now and then, to forget what is old or too much on record.
        """
        self.thread = thread
        self.router = router
        self.journal = journal
        self.storage = storage
        self.budgets = budgets
        self.masking = masking
        self._captured = captured
        self._forgotten = forgotten
        self._retain = retain
        self._ended = 0  # since the last time
        self._retained = time.monotonic()
        self._runs: collections.OrderedDict[str, Run] = collections.OrderedDict()
        self._driven: dict[str, Driven] = {}
        self._finished: collections.deque[Run] = collections.deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._pool = ContextExecutor(CONVERTERS, "flyteagent_nb-types")
        journal.on_lost(lambda run_id: thread.call_soon(self._lose, run_id))

    # --- any thread ---

    @property
    def active(self) -> int:
        """How many runs are under way."""
        return len(self._driven)

    @property
    def on_record(self) -> bool:
        """Whether runs are kept where attaching finds them again, though they have ended."""
        return type(self.journal) is not MemoryJournal

    def submit(self, call: TaskCall, settings: Settings, service: str | None = None, *, nested: bool = False) -> Run:
        """Start a run and return its handle at once.

        Args:
            call: the task and its inputs.
            settings: frozen here, for the whole run.
            service: the agent service that must run it, or None for the router's choice.
            nested: an agent's own code starts it.
        """
        now = time.time()
        metadata = call.template.metadata
        snapshot = RunSnapshot(
            id=secrets.token_hex(5),
            name=call.name,
            task_type=call.template.type,
            version=call.template.task_type_version,
            phases=(PhaseChange("QUEUED", now),),
            attempts=metadata.retries.retries + 1,
            submitted=now,
            stand_in=call.stand_in,
        )
        run = Run(snapshot, self)
        driven = Driven(run, call, settings, service, time.monotonic(), nested)
        self._runs[run.id] = run
        self._driven[run.id] = driven
        self.thread.call_soon(self._start, driven)
        return run

    def attach(self, record: RunRecord, resolved: Resolved, call: TaskCall, settings: Settings) -> Run:
        """Follow a run of another kernel, or one that was given up, which :meth:`SQLiteJournal.take` took over; returns its handle at once.

        Nothing is created: its job is followed to the end, and not tried again.
        """
        known = self._runs.get(record.snapshot.id)
        if known is not None and not known.done:
            return known
        run = Run(record.snapshot._replace(stopping=False), self)
        started = time.monotonic() - max(0.0, time.time() - record.snapshot.submitted)
        driven = Driven(run, call, settings, record.attempts[-1].service, started, record=record, resolved=resolved)
        self._runs[run.id] = run
        self._driven[run.id] = driven
        self.thread.call_soon(self._start, driven)
        return run

    def adopt(self, run: Run) -> None:
        """Keep a run that somebody else drives among the runs, so that it is listed and found."""
        self._runs[run.id] = run
        run.on_done(lambda: self._finished.append(run))

    def cancel(self, run: Run) -> None:
        """Stop the job and end the run; returns at once."""
        self.thread.call_soon(self._cancel, run.id)

    def captured(self, run: Run) -> list[str]:
        """The lines that the agent printed and logged for the run in this kernel."""
        return self._captured(run.id)

    def logs(self, run: Run) -> list[str]:
        """The same; of a run on another service the job's own log, which that is asked for.

        Raises:
            ServiceError: it does not hand the log out.
            WrongThreadError: another service would have to be asked, on the loop's own thread.
        """
        service = self.router.connected(run.service)
        if service is None or run.service == wire.KERNEL_SERVICE:
            return self.captured(run)
        metas = [record.resource_meta for record in self.attempts(run) if record.resource_meta is not None]
        return self.thread.run(job_log(service, run.snapshot, metas[-1], self.masking)) if metas else []

    def note(self, run: Run, notes: Sequence[str]) -> None:
        """Add what a person should know to a run under way."""

        def add() -> None:
            driven = self._driven.get(run.id)
            if driven is not None and notes:
                self.publish(driven, notes=(*run.snapshot.notes, *notes))

        self.thread.call_soon(add)

    def read_as(self, run: Run, call: TaskCall) -> None:
        """Read the outputs of a run under way as another call does; returns at once."""

        def replace() -> None:
            driven = self._driven.get(run.id)
            if driven is not None:
                driven.call = dataclasses.replace(
                    driven.call,
                    convert=call.convert,
                    converts_at_once=call.converts_at_once,
                    output_types=call.output_types,
                    tuple_name=call.tuple_name,
                )

        self.thread.call_soon(replace)

    def check_may_block(self) -> None:
        """Raise WrongThreadError on the loop's own thread, and in a forked child."""
        self.thread.check_may_block()

    def check_may_await(self) -> None:
        """Raise WrongThreadError in a forked child."""
        self.thread.check_alive()

    def runs(self) -> list[Run]:
        """The runs that are kept, newest first."""
        return list(reversed(tuple(self._runs.values())))

    def find(self, prefix: str) -> Run:
        """The run whose id begins with ``prefix``, or the newest for ``last``.

        Raises:
            RunNotFoundError: none does, or several.
        """
        runs = self.runs()
        if prefix == "last" and runs:
            return runs[0]
        found = [run for run in runs if prefix and run.id.startswith(prefix)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise RunNotFoundError(
                "there is no run yet" if not runs else f"no run's id begins with '{prefix}'",
                run_id=prefix,
                hint="%agent runs lists them" if runs else "",
            )
        ids = ", ".join(f"{run.id} ({run.name})" for run in found[:5])
        raise RunNotFoundError(
            f"{len(found)} runs begin with '{prefix}': {ids}",
            run_id=prefix,
            candidates=[run.id for run in found],
            hint="give more of the id",
        )

    def attempts(self, run: Run) -> tuple[AttemptRecord, ...]:
        """What the journal has of a run's attempts."""
        return self.journal.attempts(run.id)

    # --- the loop's thread ---

    async def close(self, grace: float, *, delete: bool = False) -> int:
        """End every run's task within ``grace`` seconds; their jobs are left running, or deleted where that is asked and in time.

        Returns:
            How many runs were still under way.
        """
        self._closed = True
        open_runs = len(self._driven)
        until = time.monotonic() + grace
        if delete and self._tasks:
            for run_id in tuple(self._driven):
                self._cancel(run_id)
            await asyncio.wait(tuple(self._tasks), timeout=grace)
        tasks = tuple(self._tasks)
        creating = [driven for driven in self._driven.values() if driven.creating]
        for task in self._tasks.difference(driven.task for driven in creating if driven.task is not None):
            task.cancel()
        # A create under way may have made a job, of which only its answer tells.
        while any(driven.creating for driven in creating) and time.monotonic() < until:  # noqa: ASYNC110 - for a second at most
            await asyncio.sleep(0.005)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        self._pool.shutdown(wait=False, cancel_futures=True)
        return open_runs

    def _start(self, driven: Driven) -> None:
        if driven.settings.calls_in_flight != self.budgets.slots:  # what is under way goes back to the old ones
            self.budgets = CallBudgets(driven.settings.calls_in_flight)
        driven.task = task = asyncio.get_running_loop().create_task(self._drive(driven))
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._over, driven))
        if self._closed:  # it was submitted just before
            task.cancel()

    def _over(self, driven: Driven, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() and not driven.run.done:  # before its first step, so nothing of it has run
            phase, error = self._left_alone(driven)
            self.journal.released(driven.run.id)
            self._finish(driven, phase, None, error, "")

    def _cancel(self, run_id: str) -> None:
        driven = self._driven.get(run_id)
        if driven is None or driven.cancelled:
            return
        driven.cancelled = True
        self.publish(driven, stopping=True)
        driven.wake()
        if driven.in_call is not None:  # a sync call, or a wait before the create: nothing is left behind
            driven.in_call.cancel()

    def _lose(self, run_id: str) -> None:
        """Another kernel has the run now: follow it no more, and leave its job alone."""
        driven = self._driven.get(run_id)
        if driven is None or driven.lost:
            return
        driven.lost = True
        if driven.task is not None:
            driven.task.cancel()

    async def _drive(self, driven: Driven) -> None:
        outputs: tuple[dict[str, Any], Any] | None = None
        error: FlyteAgentNBError | None = None
        phase, code = "FAILED", ""
        left_alone = False
        try:
            outputs = await (self._attempts(driven) if driven.record is None else self._attached(driven, driven.record))
            phase = "SUCCEEDED"
        except Cancelled as stop:
            phase, error = "ABORTED", self._aborted(driven, stop)
        except Ended as end:
            phase, error, code = end.phase, end.error, end.code
        except LostError:  # one of the next kind
            left_alone, phase, error = True, "UNKNOWN", _lost(driven.run.snapshot)
        except FlyteAgentNBError as ours:
            error = ours.with_traceback(None)  # its frames have the inputs
        except asyncio.CancelledError:  # the job is left as it is
            left_alone = True
            phase, error = self._left_alone(driven)
        except GeneratorExit:  # nobody runs this loop any more
            raise
        except BaseException as bug:  # whatever it is, whoever waits must wake; the cause is kept
            error = FlyteAgentNBError(f"the runner failed on task '{driven.call.name}': {type(bug).__name__}: {bug}")
            error.__cause__ = bug
            attempts = self.journal.attempts(driven.run.id)
            if attempts and attempts[-1].outcome in ("intended", "created"):
                notes = (*driven.run.snapshot.notes, f"attempt {attempts[-1].number}: its job, if any, may still run")
                self.publish(driven, notes=notes)
        if left_alone and not driven.run.snapshot.is_sync:
            self.journal.released(driven.run.id)
        elif driven.outputs is not None and driven.outputs.ByteSize() > KEPT_IN_JOURNAL:
            await self._write_outputs(driven)
        self._finish(driven, phase, outputs, error, code)

    async def _attached(self, driven: Driven, record: RunRecord) -> tuple[dict[str, Any], Any]:
        """The last attempt of a run that was attached, to its end."""
        last = record.attempts[-1]
        assert driven.call.inputs is not None and driven.resolved is not None
        attempt = Attempt(self, driven, last.number, driven.call.inputs)
        result = await attempt.follow(last, driven.resolved)
        if isinstance(result, tuple):
            return await self._converted(driven, result[0])
        attempt.check_run_limit(result)
        raise attempt.exhausted(result) if last.number == driven.run.snapshot.attempts else attempt.not_again(result)

    async def _converted(self, driven: Driven, literals: LiteralMap) -> tuple[dict[str, Any], Any]:
        driven.outputs = literals
        call = driven.call
        try:
            if call.converts_at_once:
                return call.convert(literals)
            converted: tuple[dict[str, Any], Any] = await self._on_worker(
                driven, functools.partial(call.convert, literals)
            )
        except OutputError as error:
            if self.on_record:
                error.hint += f"; %agent attach {driven.run.id} --task TASK reads them as TASK declares them"
            raise
        return converted

    async def _write_outputs(self, driven: Driven) -> None:
        """Keep the outputs where their run is attached later; this kernel has the values all the same, and does not wait for long."""
        outputs, attempts = driven.outputs, self.journal.attempts(driven.run.id)
        if outputs is not None and attempts:
            # A full disk, a bucket that takes nothing from here, a kernel that ends meanwhile.
            with contextlib.suppress(Exception, asyncio.CancelledError):
                writing = asyncio.to_thread(self.storage.write_outputs, attempts[-1].output_prefix, outputs)
                await asyncio.wait_for(writing, COPY_WAIT)

    async def _attempts(self, driven: Driven) -> tuple[dict[str, Any], Any]:
        """Attempt after attempt, until one succeeds or no retry is left."""
        call = driven.call
        inputs = call.inputs
        if inputs is None:
            assert call.prepare is not None
            inputs = await self._on_worker(driven, call.prepare)
        failure: Failure | None = None
        for number in range(1, driven.run.snapshot.attempts + 1):
            if driven.cancelled:
                raise Cancelled("")
            if number > 1:
                self.publish(driven, attempt=number, phase="QUEUED", message=failure.message if failure else "")
            attempt = Attempt(self, driven, number, inputs)
            result = await attempt.run()
            if isinstance(result, tuple):
                return await self._converted(driven, result[0])
            failure = result
            attempt.check_run_limit(failure)
        assert failure is not None
        raise attempt.exhausted(failure)

    async def _on_worker(self, driven: Driven, work: Callable[[], Any]) -> Any:
        """Run ``work`` on a converting thread; a cancel ends the wait."""

        async def convert() -> Any:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)

        return await self.interruptible(driven, convert())

    async def interruptible(self, driven: Driven, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work``; a cancel of the run cancels it.

        Raises:
            Cancelled: the run was cancelled meanwhile, or before.
        """
        is_late = driven.cancelled
        if is_late:
            work.close()
            raise Cancelled("")
        # The run's own task, not one of its own for the work: a cancel reaches whatever it awaits, and none is made for nothing.
        driven.in_call = task = asyncio.current_task()
        try:
            return await work
        except asyncio.CancelledError:
            if not driven.cancelled:
                raise
            if task is not None and sys.version_info >= (3, 11):
                task.uncancel()
            raise Cancelled("") from None
        finally:
            driven.in_call = None

    def record(self, driven: Driven, inputs: LiteralMap) -> None:
        """Put a run on record, which is about to make its first call."""
        call = driven.call
        if driven.recorded:
            return
        driven.recorded = True
        kept = self._masked(inputs).SerializeToString() if inputs.ByteSize() <= KEPT_IN_JOURNAL else None
        types = records_of(call.output_types, call.tuple_name)
        self.journal.begin(driven.run.snapshot, Sent(self._masked(call.template).SerializeToString(), kept, types))

    def _masked(self, message: Any) -> Any:
        """A message as the journal keeps it, without values known as secret."""
        if not self.masking.active:
            return message
        masked = type(message)()
        masked.CopyFrom(message)
        self.masking.message(masked, data=True)
        return masked

    def publish(self, driven: Driven, **changes: Any) -> None:
        """Show a state, and put it on record where it is another than before; a new phase is added to the phases."""
        snapshot = driven.run.snapshot
        if self.masking.active:
            changes = {name: self.masking.value(value) for name, value in changes.items()}
        phase = changes.get("phase", snapshot.phase)
        attempt = changes.get("attempt", snapshot.attempt)
        if phase != snapshot.phase or attempt != snapshot.attempt:
            changes["phases"] = (*snapshot.phases, PhaseChange(phase, time.time(), attempt))
        changed = snapshot._replace(**changes)
        driven.run.publish(changed)  # whoever watches looks again: what the job prints is no part of the state
        if changed == snapshot:  # as after most polls
            return
        if driven.recorded or driven.record is not None:
            self.journal.changed(changed)

    def jitter(self) -> float:
        """A number in [0, 1), so that runs that began together do not poll together."""
        return random.random()

    def _left_alone(self, driven: Driven) -> tuple[str, FlyteAgentNBError]:
        """How a run ends whose task was cancelled: another kernel has it, or the runner closes."""
        if driven.lost:
            return "UNKNOWN", _lost(driven.run.snapshot)
        return "ABORTED", self._aborted(driven, _left(driven.run.snapshot))

    def _aborted(self, driven: Driven, stop: Cancelled) -> RunAbortedError:
        s = driven.run.snapshot
        return RunAbortedError(
            f"run {s.id} of task '{s.name}' was cancelled" + (f": {stop}" if str(stop) else ""),
            run_id=s.id,
            task=s.name,
            task_type=s.task_type,
            phase="ABORTED",
            log_links=s.log_links,
            attempts=s.attempt,
            hint=stop.hint,
        )

    def _finish(
        self,
        driven: Driven,
        phase: str,
        outputs: tuple[dict[str, Any], Any] | None,
        error: FlyteAgentNBError | None,
        code: str,
    ) -> None:
        run = driven.run
        snapshot = run.snapshot
        self.masking.error(error)
        now = time.time()
        values, returned = outputs if outputs is not None else (None, None)
        phases = snapshot.phases
        if phases[-1].phase != phase:
            phases = (*phases, PhaseChange(phase, now, snapshot.attempt))
        self._driven.pop(run.id, None)
        notes, kept = snapshot.notes, None
        if driven.outputs is not None:
            masked = self._masked(driven.outputs)
            kept = masked.SerializeToString()
            if masked is not driven.outputs and masked != driven.outputs:
                notes = (*notes, "an output holds a value known as secret: the journal has stars in its place")
        last = snapshot._replace(
            notes=notes,
            phase=phase,
            phases=phases,
            ended=now,
            seconds=time.monotonic() - driven.started,
            error=error,
            error_code=code,
        )
        self.journal.finished(last, kept if kept is not None and len(kept) <= KEPT_IN_JOURNAL else None)
        run.finish(last, values, returned)
        self._finished.append(run)
        self._forget_old(driven.settings.runs_kept)
        self._ended += 1
        if self._ended >= RETAIN_SHARE * driven.settings.runs_kept or time.monotonic() - self._retained > RETAIN_EVERY:
            self._ended, self._retained = 0, time.monotonic()
            with contextlib.suppress(RuntimeError):  # as below
                self._pool.submit(self._retain, driven.settings)

    def _forget_old(self, kept: int) -> None:
        while len(self._finished) > kept:
            run = self._finished.popleft()
            if self._runs.get(run.id) is not run:  # lost to another kernel, or given up, and attached again since
                continue
            del self._runs[run.id]
            self.journal.forget([run.id])
            self._forgotten(run.id)
            # A pool that is shut down: the workspace closes, and its folder goes.
            with contextlib.suppress(RuntimeError):
                self._pool.submit(self.storage.forget, run.id, run.attempt)
