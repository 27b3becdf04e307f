"""The runs on record, of this kernel and of others: found, followed again, settled.

What is found here is a ``Run`` like any other. One that another kernel began stands still until it is attached: then its job is followed to
the end by this kernel. Nothing here ever creates a job.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from flyteagent_nb.errors import (
    JournalError,
    OutputError,
    RunNotFoundError,
    ServiceNotFoundError,
    TaskTypeNotFoundError,
)
from flyteagent_nb.running import retention
from flyteagent_nb.running.run import MAY_RUN, PhaseChange, Run
from flyteagent_nb.running.sqlite_journal import SQLiteJournal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flytekit.core.base_task import PythonTask

    from flyteagent_nb.config import Settings
    from flyteagent_nb.running.journal import AttemptRecord, RunRecord
    from flyteagent_nb.running.routing import Resolved
    from flyteagent_nb.running.run import RunSnapshot
    from flyteagent_nb.running.runner import Runner

OUTPUT_SHOWN = 1024 * 1024
"""Bytes of a run's kept output that are read, from its end."""


def standing(record: RunRecord) -> RunSnapshot:
    """The snapshot of a run that is not followed here, with who has it in ``held``."""
    s = record.snapshot
    if s.done:
        return s
    if record.owner.alive:
        return s._replace(held=f"followed by {record.owner}")
    if is_unknown(record):
        return s._replace(phase="UNKNOWN", held=f"unknown: {_unknown(record)}")
    return s._replace(held=f"open: its kernel ended; %agent attach {s.id} follows it")


def is_unknown(record: RunRecord) -> bool:
    """Whether it cannot be told if there is a job: the kernel ended between an intent and its answer, or during a sync call."""
    return not record.snapshot.done and (not record.attempts or record.attempts[-1].resource_meta is None)


def is_given_up(attempts: Sequence[AttemptRecord]) -> bool:
    """Whether the last job of a run that has ended may still run: polls failed for too long, or it could not be deleted."""
    return bool(attempts) and attempts[-1].outcome == "unknown" and attempts[-1].resource_meta is not None


def _again(record: RunRecord) -> RunRecord:
    """A run that was given up, as one that goes on."""
    s = record.snapshot
    phases = (*s.phases, PhaseChange("RUNNING", time.time(), s.attempt))
    notes = tuple(note for note in s.notes if not note.startswith(MAY_RUN))
    snapshot = s._replace(
        phase="RUNNING", phases=phases, ended=None, seconds=None, message="", notes=notes, error=None, error_code=""
    )
    return dataclasses.replace(record, snapshot=snapshot)


def is_unread(record: RunRecord) -> bool:
    """Whether it failed only because its outputs did not become values of their Python types: they are there all the same."""
    s, attempts = record.snapshot, record.attempts
    succeeded = record.outputs is not None or bool(attempts and attempts[-1].outcome == "SUCCEEDED")
    return s.phase == "FAILED" and not s.error_code and succeeded


def _unknown(record: RunRecord) -> str:
    if record.snapshot.is_sync:
        return "its kernel ended during the call"
    if not record.attempts or record.attempts[-1].outcome != "intended":
        return "its kernel ended between two attempts"
    return "its kernel ended while a job was being created"


class KeptRuns:
    """The runs on record. On any thread but the loop's."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._earlier: dict[str, list[str]] = {}

    @property
    def _journal(self) -> SQLiteJournal | None:
        journal = self._runner.journal
        return journal if isinstance(journal, SQLiteJournal) else None

    # --- what there is ---

    def find(self, prefix: str) -> Run:
        """The run whose id begins with ``prefix``, of this kernel or any other; ``last`` is this kernel's newest, or the newest at all.

        Raises:
            RunNotFoundError: none does, or several.
        """
        try:
            return self._runner.find(prefix)
        except RunNotFoundError as error:
            here = error
        journal = self._journal
        if journal is None or len(here.candidates) > 1:
            raise here
        if prefix == "last":
            records = journal.shelf.runs(1)
            if not records:
                raise here
            return Run.kept(standing(records[0]), _Standing(self))
        found = journal.shelf.ids(prefix) if prefix else []
        if not found:
            if not journal.shelf.ids("", 1):
                raise here
            raise RunNotFoundError(
                f"no run's id begins with '{prefix}'", run_id=prefix, hint="%agent runs --all lists them"
            )
        if len(found) > 1:
            told = ", ".join(f"{run_id} ({name})" for run_id, name in found[:5])
            raise RunNotFoundError(
                f"{len(found)} runs begin with '{prefix}': {told}", run_id=prefix, hint="give more of the id"
            )
        return Run.kept(standing(journal.shelf.record(found[0][0])), _Standing(self))

    def runs(self, limit: int) -> list[Run]:
        """The runs of all kernels, newest first."""
        mine = {run.id: run for run in self._runner.runs()}
        journal = self._journal
        if journal is not None:
            for record in journal.shelf.runs(limit):
                mine.setdefault(record.snapshot.id, Run.kept(standing(record), _Standing(self)))
        return sorted(mine.values(), key=lambda run: -run.snapshot.submitted)[: limit if limit > 0 else None]

    def open(self) -> list[RunRecord]:
        """The runs that have not ended and that no kernel follows, newest first."""
        journal = self._journal
        followed = {run.id for run in self._runner.runs() if not run.done}
        return [r for r in journal.shelf.open_runs() if r.snapshot.id not in followed] if journal is not None else []

    def attempts(self, run: Run) -> tuple[AttemptRecord, ...]:
        """What is on record of a run's attempts."""
        attempts, journal = self._runner.attempts(run), self._journal
        if attempts or journal is None:
            return attempts
        try:
            return journal.shelf.record(run.id).attempts
        except RunNotFoundError:  # one that never got to a call
            return ()

    def logs(self, run_id: str) -> list[str]:
        """What was captured of a run, as far as it was kept."""
        journal = self._journal
        if journal is None:
            return []
        record = journal.shelf.record(run_id)
        try:
            with open(output_file(record.folder, run_id), "rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - OUTPUT_SHOWN))
                return file.read().decode("utf-8", errors="replace").splitlines()
        except OSError:
            return []

    def ids(self, limit: int) -> list[str]:
        """The ids of the runs on record, newest first; quick."""
        journal = self._journal
        return [run_id for run_id, _ in journal.shelf.ids("", limit)] if journal is not None else []

    def earlier(self, run_id: str) -> list[str]:
        """What was captured of an attached run before this kernel had it."""
        return self._earlier.get(run_id, [])

    def forget(self, run_id: str) -> None:
        """The run is not kept any more; any thread."""
        self._earlier.pop(run_id, None)

    # --- following again ---

    def attach(self, run_id: str, settings: Settings, task: PythonTask[Any] | None = None) -> Run:
        """Follow a run that another kernel began, or one of this kernel that is still known or was given up; nothing is created.

        Args:
            run_id: its whole id.
            settings: for the following.
            task: says the Python types of the outputs, instead of what is on record.

        Raises:
            JournalError: a living kernel follows it, or whether it has a job is unknown.
            TaskTypeNotFoundError: this kernel does not have its agent.
            ServiceNotFoundError: its agent service is not connected.
            RunNotFoundError: it is not on record.
            OutputError: it has ended, and its outputs do not become what ``task`` declares.
        """
        from flyteagent_nb.running.recall import call_of_record

        journal = self._journal
        for run in self._runner.runs():
            if run.id == run_id and not isinstance(run.error, JournalError):
                given_up = run.done and is_given_up(self._runner.attempts(run))
                if task is None and not (given_up and journal is not None):
                    return run
                if task is not None and not run.done:
                    return self._read_as(run, task)
                if journal is not None:
                    journal.flush()  # it may have ended just now
        if journal is None:
            raise JournalError("runs of other kernels are not on record here", hint="%config FlyteAgentNB.journal")
        record = journal.shelf.record(run_id)
        s = record.snapshot
        call, notes = call_of_record(record, task)
        if s.done and not is_given_up(record.attempts):
            try:
                return self._ended(record, call)
            except OutputError:
                if task is not None or s.phase == "SUCCEEDED":
                    raise
                return Run.kept(s, _Standing(self))  # it failed with that already
        if is_unknown(record):
            self._refuse(record)
        resolved = self._agent_of(record)
        taken = journal.take(run_id)
        if s.done:
            taken = _again(taken)
        journal.adopt(taken)
        if s.done:  # on record too: what has ended there is pruned, and no later kernel would be told of it
            journal.changed(taken.snapshot)
        try:
            if taken.owner.id != record.owner.id:
                self._earlier[run_id] = self.logs(run_id)
            run = self._runner.attach(taken, resolved, call, settings)
        except BaseException:
            journal.released(run_id)  # or nobody could attach it again
            raise
        self._runner.note(run, [note for note in notes if note not in s.notes])
        return run

    def _read_as(self, run: Run, task: PythonTask[Any]) -> Run:
        """A run that this kernel follows, with another task's word on its outputs."""
        journal = self._journal
        if journal is None:
            raise JournalError("what the run was made of is not on record here", hint="%config FlyteAgentNB.journal")
        journal.flush()  # it may have begun just now
        from flyteagent_nb.running.recall import call_of_record

        call, _ = call_of_record(journal.shelf.record(run.id), task)
        self._runner.read_as(run, call)
        return run

    def _ended(self, record: RunRecord, call: Any) -> Run:
        from flyteidl.core.literals_pb2 import LiteralMap
        from google.protobuf.message import DecodeError

        s = record.snapshot
        if s.phase != "SUCCEEDED":
            if not is_unread(record):
                return Run.kept(s, _Standing(self))
            s = s._replace(
                phase="SUCCEEDED", phases=(*s.phases[:-1], *(c._replace(phase="SUCCEEDED") for c in s.phases[-1:])),
                error=None, notes=(*s.notes, "the job succeeded, and its outputs could not be read then; they were now"),
            )  # fmt: skip
        stored: LiteralMap | None = None
        with contextlib.suppress(DecodeError, ValueError, OSError):  # a damaged record, or a damaged file
            if record.outputs is not None:
                stored = LiteralMap.FromString(record.outputs)
            elif record.attempts:
                stored = self._runner.storage.read_outputs(record.attempts[-1].output_prefix)
        if stored is None and record.snapshot.phase == "FAILED":
            return Run.kept(record.snapshot, _Standing(self))
        if stored is None:
            raise JournalError(
                f"the outputs of run {s.id} of {s.name} are not there any more",
                hint="run it again",
            )
        values, returned = call.convert(stored)
        return Run.ended(s, _Standing(self), values, returned)

    def _refuse(self, record: RunRecord) -> NoReturn:
        s = record.snapshot
        if s.is_sync:
            raise JournalError(
                f"run {s.id} of {s.name} cannot be followed: {_unknown(record)}, and a sync call leaves no job behind",
                hint=f"run it again; %agent settle {s.id} --gone takes it off the list",
            )
        if not record.attempts or record.attempts[-1].outcome != "intended":
            raise JournalError(
                f"run {s.id} of {s.name} has no job to follow: {_unknown(record)}",
                hint=f"run it again; %agent settle {s.id} --gone takes it off the list",
            )
        raise JournalError(
            f"whether run {s.id} of {s.name} has a job is unknown: {_unknown(record)}, and no answer is on record",
            hint=f"look for it at the service: %agent settle {s.id} --job RESOURCE_META if it is there, --gone if not",
        )

    def _agent_of(self, record: RunRecord) -> Resolved:
        """Who has the job; what is missing is told before the run is taken over."""
        s, runner = record.snapshot, self._runner
        service = record.attempts[-1].service
        try:
            return runner.thread.run(runner.router.resolve(s.task_type, s.version, service), timeout=30)
        except TaskTypeNotFoundError as error:
            raise TaskTypeNotFoundError(
                f"run {s.id} of {s.name} needs the agent '{s.agent}' of task type '{s.task_type}', which this kernel does not have",
                task_type=s.task_type,
                version=s.version,
                hint=f"run the cell that defines it again, or import its plug-in; then %agent attach {s.id}",
            ) from error
        except ServiceNotFoundError as error:
            raise ServiceNotFoundError(
                f"run {s.id} of {s.name} is on the agent service '{service}', which is not connected",
                service=service,
                hint=f"connect it, then %agent attach {s.id}",
            ) from error

    # --- forgetting and settling ---

    def prune(self, runs_kept: int, days_kept: float, *, dry_run: bool, strays: bool = True) -> list[str]:
        """Forget what has ended and is too old or too much; the ids, oldest first. The arguments are those of :func:`retention.prune`."""
        journal = self._journal
        if journal is None:
            return []
        return retention.prune(journal, runs_kept, days_kept, dry_run=dry_run, strays=strays)

    def settle(self, run_id: str, *, job: bytes | None) -> RunSnapshot:
        """Say what became of a create that has no answer on record.

        Args:
            run_id: its whole id.
            job: the resource meta of the job that it made, or None where it made none.

        Raises:
            JournalError: its state is known, or a living kernel follows it.
        """
        journal = self._journal
        if journal is None:
            raise JournalError("runs of other kernels are not on record here")
        record = journal.shelf.record(run_id)
        s = record.snapshot
        if not is_unknown(record):
            raise JournalError(
                f"run {s.id} of {s.name} is not unknown: " + (f"it is {s.phase}" if s.done else "its job is on record"),
                hint=f"%agent show {s.id}" if s.done else f"%agent attach {s.id} follows it",
            )
        if job is not None and not record.attempts:
            raise JournalError(f"run {s.id} of {s.name} has made no create, so no job", hint="use --gone")
        taken = journal.take(run_id)
        journal.adopt(taken)
        try:
            if job is not None:
                journal.settle(run_id, taken.attempts[-1].number, "created", "", job)
                journal.release_to_nobody(run_id)
                return standing(journal.shelf.record(run_id))
            if taken.attempts:
                journal.settle(run_id, taken.attempts[-1].number, "gone", "settled by hand: there is no job", None)
            now = time.time()
            settled = s._replace(
                phase="ABORTED", ended=now, seconds=max(0.0, now - s.submitted),
                notes=(*s.notes, f"settled by hand: {_unknown(record)}; there is no job"),
            )  # fmt: skip
            journal.finished(settled, None)
            journal.flush()
            return settled
        finally:
            journal.released(run_id)


class _Standing:
    """What a run that is not followed here asks of its runner."""

    def __init__(self, kept: KeptRuns) -> None:
        self._kept = kept

    def cancel(self, run: Run) -> None:
        s = run.snapshot
        if not s.done:
            raise JournalError(
                f"run {s.id} of {s.name} is not followed by this kernel",
                hint=f"%agent cancel {s.id} attaches and cancels it",
            )

    def logs(self, run: Run) -> list[str]:
        return self._kept.logs(run.id)

    def check_may_block(self) -> None:
        raise JournalError(
            "this run is not followed by this kernel, so waiting for it would not end",
            hint="run = %agent attach ID follows it",
        )

    check_may_await = check_may_block


def output_file(folder: str, run_id: str) -> Path:
    """Where the captured output of a run is kept."""
    return Path(folder) / f"{run_id}.log"
