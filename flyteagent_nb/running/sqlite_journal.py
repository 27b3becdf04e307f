"""The journal on disk: SQLite, one file for all kernels of a user, written by one thread in groups.

What a run waits for (the intent before a create, the resource meta after it) is committed together with whatever else has come up; the
rest is written a moment later. Nothing here runs on the event loop. Where the disk fails, runs go on in memory until it is back.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any, TypeVar

from flyteagent_nb.errors import JournalError
from flyteagent_nb.running.journal import LostError, MemoryJournal
from flyteagent_nb.running.journal_writer import OF_ONE, Writer
from flyteagent_nb.running.ownership import LEASE
from flyteagent_nb.running.records import state_of
from flyteagent_nb.running.shelf import Shelf

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from flyteagent_nb.running.journal import AttemptRecord, RunRecord, Sent
    from flyteagent_nb.running.run import RunSnapshot

T = TypeVar("T")

_log = logging.getLogger(__name__)

CONFIRM = 1.0
"""Seconds that a delete waits to hear whether the run still is this kernel's."""

FORGET_AT_ONCE = 1_000
"""Runs that are forgotten in one transaction, so that other kernels can write in between."""

_RUN = (
    "INSERT OR IGNORE INTO run (id, name, task_type, submitted, ended, phase, state, template, inputs, types, outputs, folder, owner, "
    "epoch) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_INTEND = (
    "INSERT INTO attempt (run, number, service, prefix, outcome, intended, clock, message) SELECT ?,?,?,?,?,?,?,'' "
    "WHERE EXISTS (SELECT 1 FROM run WHERE id=? AND owner=? AND epoch=?)"
)
_CREATED = "UPDATE attempt SET meta=?, outcome='created' WHERE run=? AND number=?"
_END = (
    "UPDATE attempt SET outcome=?, message=? WHERE run=? AND number=? "
    "AND EXISTS (SELECT 1 FROM run WHERE id=? AND owner=? AND epoch=?)"
)
_ATTEMPT = (
    "INSERT OR REPLACE INTO attempt (run, number, service, prefix, meta, outcome, message, intended, clock) SELECT ?,?,?,?,?,?,?,?,? "
    "WHERE EXISTS (SELECT 1 FROM run WHERE id=? AND owner=? AND epoch=?)"
)
_STATE = "UPDATE run SET phase=?, ended=?, state=?, outputs=coalesce(?, outputs) WHERE id=? AND owner=? AND epoch=?"
_MINE = "SELECT 1 FROM run WHERE id=? AND owner=? AND epoch=?"


class SQLiteJournal(MemoryJournal):
    """The journal in a folder.

    Attributes:
        shelf: what reads it; on any thread.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kernel: str = "",
        runs_folder: str = "",
        warn: Callable[[str], object] = _log.warning,
    ) -> None:
        """Nothing is opened before the first write.

        Args:
            folder: where the journal's file and the owners' locks are; made with mode 0700.
            kernel: this kernel's id, as Jupyter has it.
            runs_folder: where the files of this kernel's runs are.
            warn: told once where the disk fails, and when it is back.
        """
        super().__init__()
        self.shelf = Shelf(folder)
        self.runs_folder = runs_folder
        self._writer = Writer(folder, kernel, self, warn)
        self._epochs: dict[str, int] = {}  # of the runs that are on record here, or will be
        # Those of them that this kernel follows, with their newest state: what is needed to write them once more.
        self._followed: dict[str, tuple[RunSnapshot, Sent]] = {}
        # What the writer takes; under its lock.
        self._begun: dict[str, tuple[RunSnapshot, Sent]] = {}  # until they are written
        self._moved: set[str] = set()  # whose attempts have to be written into another file
        self._states: dict[str, tuple[RunSnapshot, int]] = {}  # with their epochs
        self._outputs: dict[str, bytes] = {}
        self._writing: tuple[dict[str, tuple[RunSnapshot, int]], dict[str, bytes]] = ({}, {})
        self._inserted: set[str] = set()  # of those begun, in the transaction under way
        self._lost: list[Callable[[str], object]] = []

    @property
    def trouble(self) -> str:
        """Why runs are kept in memory only now, or an empty string."""
        return self._writer.trouble

    # --- the runner's side ---

    def begin(self, snapshot: RunSnapshot, sent: Sent) -> None:
        """A run is about to make its first call."""
        run_id = snapshot.id
        if run_id in self._epochs:
            return
        with self._writer.lock:
            self._epochs[run_id] = 0
            self._begun[run_id] = self._followed[run_id] = snapshot, sent
        self._writer.nudge()

    def adopt(self, record: RunRecord) -> None:
        """A run is followed here from now on, or again; :meth:`take` has taken it over."""
        super().adopt(record)
        with self._writer.lock:
            self._epochs[record.snapshot.id] = record.epoch
            self._followed[record.snapshot.id] = record.snapshot, record.sent

    async def intend(self, run_id: str, attempt: AttemptRecord) -> None:
        """CreateTask is about to leave. Returns once that is on record, or where nothing can be written.

        Raises:
            LostError: another kernel has the run now.
        """
        await super().intend(run_id, attempt)
        if run_id in self._epochs:
            a = attempt
            row = (run_id, a.number, a.service, _storable(a.output_prefix), a.outcome, a.intended, a.clock)
            await self._writer.wait(lambda c: self._intend(c, row), run_id)

    async def created(self, run_id: str, resource_meta: bytes) -> None:
        """CreateTask returned. Returns once that is on record, or where nothing can be written."""
        await super().created(run_id, resource_meta)
        row = (resource_meta, run_id, self._attempts[run_id][-1].number)
        # Without a look at who owns the run: the job is there, and whoever has the run must know of it.
        await self._writer.wait(lambda c: c.execute(_CREATED, row), run_id)

    async def ended(self, run_id: str, outcome: str, message: str = "") -> None:
        """The attempt under way is over."""
        await super().ended(run_id, outcome, message)
        epoch = self._epochs.get(run_id)
        if epoch is not None:
            row = (outcome, _storable(message), run_id, self._attempts[run_id][-1].number, run_id)
            self._writer.put(lambda c: c.execute(_END, (*row, self._owner(), epoch)), run_id=run_id)

    async def confirm(self, run_id: str) -> None:
        """A job is about to be deleted. A journal that takes long does not hold that up.

        Raises:
            LostError: another kernel has the run now.
        """
        if run_id in self._epochs:
            await self._writer.wait(lambda c: self._check(c, run_id), run_id, CONFIRM)

    def changed(self, snapshot: RunSnapshot) -> None:
        """A run has a new state; the last one counts."""
        with self._writer.lock:
            if snapshot.id not in self._followed:
                return
            self._states[snapshot.id] = snapshot, self._epochs[snapshot.id]
            self._followed[snapshot.id] = snapshot, self._followed[snapshot.id][1]
        self._writer.nudge()

    def finished(self, snapshot: RunSnapshot, outputs: bytes | None) -> None:
        """A run has ended."""
        run_id = snapshot.id
        with self._writer.lock:
            if run_id not in self._followed:
                return
            if self._writer.trouble and run_id in self._begun:  # nobody will want to follow it
                self._drop(run_id)
                return
            del self._followed[run_id]
            self._states[run_id] = snapshot, self._epochs[run_id]
            if outputs is not None:
                self._outputs[run_id] = outputs
        self._writer.nudge()

    def released(self, run_id: str) -> None:
        """A run is not followed any more, and has not ended."""
        with self._writer.lock:
            self._followed.pop(run_id, None)
        if run_id in self._epochs and not self.trouble:
            self._attempts.pop(run_id, None)  # what is on record counts from here on

    def forget(self, run_ids: Sequence[str]) -> None:
        """Drop runs from memory; what is on record stays until it is pruned."""
        super().forget(run_ids)
        for run_id in run_ids:
            self._epochs.pop(run_id, None)

    def on_lost(self, callback: Callable[[str], object]) -> None:
        """Call ``callback(run_id)`` where another kernel has taken over a run of this one, on the writer's thread."""
        self._lost.append(callback)

    # --- whoever manages runs; any thread but the loop's ---

    def take(self, run_id: str) -> RunRecord:
        """Take over a run whose owner is gone, or that this kernel has given up.

        Raises:
            JournalError: its owner is alive, or the journal cannot be written.
            RunNotFoundError: there is no such run.
        """
        record = self.shelf.record(run_id)
        claim, name = self._writer.claim, record.snapshot.name
        if run_id in self._followed:
            raise JournalError(f"run {run_id} of {name} is followed by this kernel", hint=f"%agent show {run_id}")
        if record.owner.alive and (claim is None or record.owner.id != claim.id):
            raise JournalError(
                f"run {run_id} of {name} is followed by {record.owner}",
                hint="wait for it there, or shut that kernel down first; one that was killed on another machine counts as gone "
                f"{LEASE:.0f} s after its last sign of life",
            )

        def take(connection: sqlite3.Connection) -> None:
            row = (self._owner(), run_id, record.owner.id, record.epoch)
            taken = connection.execute("UPDATE run SET owner=?, epoch=epoch+1 WHERE id=? AND owner=? AND epoch=?", row)
            if taken.rowcount != 1:
                raise JournalError(
                    f"run {run_id} of {name} was taken over by another kernel just now",
                    hint="%agent runs --all tells by which",
                )

        self.ask(take)
        return self.shelf.record(run_id)

    def settle(self, run_id: str, number: int, outcome: str, message: str, meta: bytes | None) -> None:
        """Write what became of an attempt whose create had no answer; of a run that :meth:`take` gave."""
        row = (outcome, message, meta, run_id, number)
        sql = "UPDATE attempt SET outcome=?, message=?, meta=coalesce(?, meta) WHERE run=? AND number=?"
        self.ask(lambda c: c.execute(sql, row))

    def release_to_nobody(self, run_id: str) -> None:
        """Let go of a run that was taken, so that whoever wants it may attach it."""
        epoch = self._epochs[run_id]
        self.released(run_id)
        self.ask(lambda c: c.execute("UPDATE run SET owner='', epoch=epoch+1 WHERE id=? AND epoch=?", (run_id, epoch)))

    def remove(self, run_ids: Sequence[str]) -> None:
        """Take runs out of the file; their files are another's work."""
        for at in range(0, len(run_ids), FORGET_AT_ONCE):
            ids = [(run_id,) for run_id in run_ids[at : at + FORGET_AT_ONCE]]

            def remove(connection: sqlite3.Connection, ids: list[tuple[str]] = ids) -> None:
                connection.executemany("DELETE FROM run WHERE id=?", ids)
                connection.executemany("DELETE FROM attempt WHERE run=?", ids)

            self.ask(remove)
        gone = "DELETE FROM owner WHERE seen < ? AND id <> ? AND id NOT IN (SELECT owner FROM run)"
        self.ask(lambda c: c.execute(gone, (time.time() - LEASE, self._owner())))

    def ask(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something in the writer's next transaction, and wait for what it returns.

        Raises:
            JournalError: the journal cannot be written.
        """
        result: T = self._writer.ask(work)
        return result

    def flush(self) -> None:
        """Wait until everything that is known is written.

        Raises:
            JournalError: the journal cannot be written.
        """
        if self._epochs:
            self.ask(lambda c: None)

    def close(self) -> None:
        """Write what is left, and let the owner's lock go. Idempotent."""
        self._writer.close()

    # --- the writer's thread ---

    def has_more(self) -> bool:
        """Whether a run has begun, or has a new state."""
        return bool(self._states or self._begun)

    def following(self) -> int:
        """How many runs this kernel follows."""
        return len(self._followed)

    def write_first(self, connection: sqlite3.Connection, owner: str) -> None:
        """Write the runs that have begun, whose attempts may be among the work."""
        self._insert(connection, owner, {}, {})

    def write(self, connection: sqlite3.Connection, owner: str, *, look: bool) -> Callable[[], object]:
        """Write the newest states."""
        with self._writer.lock:
            followed = (
                [(r, owner, self._epochs.get(r)) for r in self._followed.keys() - self._begun.keys()] if look else []
            )
            self._writing = (states, outputs) = self._states, self._outputs
            self._states, self._outputs = {}, {}
        states = dict(states)
        self._insert(connection, owner, states, outputs)  # some may have begun since; a sync run may have ended
        rows = [
            (s.phase, s.ended, state, outputs.get(s.id), s.id, owner, epoch)
            for s, epoch in states.values()
            if (state := _state_of(s))
        ]
        written = connection.executemany(_STATE, rows).rowcount if rows else 0
        if written != len(rows):
            followed += [row[4:] for row in rows]
        self._write_attempts(connection, owner, self._moved)
        lost = [row[0] for row in followed if connection.execute(_MINE, row).fetchone() is None]
        return lambda: self._committed(lost)

    def write_missed(self, connection: sqlite3.Connection, owner: str, missed: set[str]) -> Callable[[], object]:
        """Write the runs that began while nothing could be written, and the attempts of all those under way."""
        self.write_first(connection, owner)
        self._write_attempts(connection, owner, missed)
        return self.write(connection, owner, look=True)

    def _write_attempts(self, connection: sqlite3.Connection, owner: str, run_ids: set[str]) -> None:
        """Write all attempts of runs that are on record already."""
        rows = [
            (
                run_id, a.number, a.service, _storable(a.output_prefix), a.resource_meta, a.outcome, _storable(a.message),
                a.intended, a.clock, run_id, owner, self._epochs.get(run_id),
            )
            for run_id in run_ids
            for a in self._attempts.get(run_id, ())
        ]  # fmt: skip
        connection.executemany(_ATTEMPT, rows)

    def not_written(self) -> None:
        """What was written last is not there."""
        with self._writer.lock:
            states, outputs = self._writing
            self._states, self._outputs = {**states, **self._states}, {**outputs, **self._outputs}
            self._writing = ({}, {})
            self._inserted.clear()

    def moved(self) -> None:
        """The journal is another file: what is followed begins anew in it, with its attempts; the rest is gone."""
        with self._writer.lock:
            for run_id in self._epochs.keys() - self._begun.keys():
                if run_id in self._followed:
                    self._begun[run_id] = self._followed[run_id]
                    self._moved.add(run_id)
                else:
                    self._drop(run_id)

    def _committed(self, lost: list[str]) -> None:
        with self._writer.lock:
            self._writing = ({}, {})
            for run_id in self._inserted:
                self._begun.pop(run_id, None)
            self._moved -= self._inserted
            self._inserted.clear()
            lost = [run_id for run_id in lost if run_id in self._followed]
            for run_id in lost:
                del self._followed[run_id]
        for run_id in lost:
            for callback in self._lost:
                callback(run_id)

    def _drop(self, run_id: str) -> None:
        self._followed.pop(run_id, None)
        self._moved.discard(run_id)
        self._writer.missed.discard(run_id)
        for kept in (self._epochs, self._begun, self._states, self._outputs):
            kept.pop(run_id, None)

    def _owner(self) -> str:
        claim = self._writer.claim
        assert claim is not None  # there is one as soon as there is a connection
        return claim.id

    def _insert(
        self,
        connection: sqlite3.Connection,
        owner: str,
        states: dict[str, tuple[RunSnapshot, int]],
        outputs: dict[str, bytes],
    ) -> None:
        """Write the runs that have begun, with their newest state, which is taken out of ``states``."""
        with self._writer.lock:
            begun = [(run_id, *each) for run_id, each in self._begun.items() if run_id not in self._inserted]
        for run_id, first, sent in begun:
            s, _ = states.pop(run_id, (first, 0))
            row = (
                run_id, _storable(s.name), s.task_type, s.submitted, s.ended, s.phase, _state_of(s), sent.template, sent.inputs,
                json.dumps(sent.output_types), outputs.get(run_id), _storable(self.runs_folder), owner,
                self._epochs.get(run_id, 0),
            )  # fmt: skip
            try:
                connection.execute(_RUN, row)
            except OF_ONE as error:
                _log.warning("run %s cannot be written to the journal: %s", run_id, error)
                with self._writer.lock:
                    self._drop(run_id)
            else:
                self._inserted.add(run_id)

    def _intend(self, connection: sqlite3.Connection, row: tuple[Any, ...]) -> None:
        run_id = row[0]
        epoch = self._epochs.get(run_id)
        if epoch is None:  # the journal is another file than the one it was begun in
            return
        if connection.execute(_INTEND, (*row, run_id, self._owner(), epoch)).rowcount != 1:
            raise _lost(run_id)

    def _check(self, connection: sqlite3.Connection, run_id: str) -> None:
        epoch = self._epochs.get(run_id)
        if epoch is not None and connection.execute(_MINE, (run_id, self._owner(), epoch)).fetchone() is None:
            raise _lost(run_id)


def _lost(run_id: str) -> LostError:
    return LostError(f"run {run_id} was taken over by another kernel", hint="%agent runs --all tells by which")


def _state_of(snapshot: RunSnapshot) -> str:
    """The snapshot as it is written; empty, with a word in the log, where it holds what cannot be."""
    try:
        return state_of(snapshot)
    except (ValueError, TypeError, RecursionError) as error:
        _log.warning("the state of run %s cannot be written: %s", snapshot.id, error)
        return ""


def _storable(text: str) -> str:
    """``text`` as SQLite takes it: bytes that were no UTF-8 (a file's name, an agent's words) are lost."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
