"""The journal on disk: SQLite, one file for all kernels of a user, written by one thread in groups.

What a run waits for (the intent before a create, the resource meta after it) is committed together with whatever else has come up; the
rest is written a moment later. Nothing here runs on the event loop. Where the disk fails, runs go on in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import sqlite3
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flyteagent_nb.errors import FlyteAgentNBError, JournalError
from flyteagent_nb.running.journal import LostError, MemoryJournal
from flyteagent_nb.running.ownership import LEASE, RENEW, Claim
from flyteagent_nb.running.records import state_of
from flyteagent_nb.running.shelf import FILE, Shelf, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from flyteagent_nb.running.journal import AttemptRecord, RunRecord, Sent
    from flyteagent_nb.running.run import RunSnapshot

T = TypeVar("T")

LAZY = 0.05
"""Seconds that a change may wait to be written together with others; an intent does not wait."""

BUSY = 10.0
"""Seconds that a write waits for another kernel's."""

logger = logging.getLogger(__name__)


class SQLiteJournal(MemoryJournal):
    """The journal in a folder.

    Attributes:
        shelf: what reads it; on any thread.
        trouble: why runs are kept in memory only, or an empty string.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kernel: str = "",
        runs_folder: str = "",
        warn: Callable[[str], object] = logger.warning,
    ) -> None:
        """Nothing is opened before the first write.

        Args:
            folder: where the journal's file and the owners' locks are; made with mode 0700.
            kernel: this kernel's id, as Jupyter has it.
            runs_folder: where the files of this kernel's runs are.
            warn: told once where the disk fails.
        """
        super().__init__()
        self.shelf = Shelf(folder)
        self.trouble = ""
        self._folder = folder
        self._kernel = kernel
        self._runs_folder = runs_folder
        self._warn = warn
        self._claim: Claim | None = None
        self._connection: sqlite3.Connection | None = None
        self._epochs: dict[str, int] = {}  # of the runs that are followed here, and written
        self._states: dict[str, RunSnapshot] = {}
        self._outputs: dict[str, bytes] = {}
        self._work: list[tuple[Callable[[sqlite3.Connection], Any], _Answer | None]] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._urgent = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._lost: list[Callable[[str], object]] = []

    # --- the runner's side ---

    def begin(self, snapshot: RunSnapshot, sent: Sent) -> None:
        """A run is about to make its first call."""
        if snapshot.id in self._epochs or self.trouble:
            return
        self._epochs[snapshot.id] = 0
        self._put(lambda c: self._insert(c, snapshot, sent))

    def adopt(self, record: RunRecord) -> None:
        """A run of another kernel is followed here from now on; :meth:`take` has taken it over."""
        super().adopt(record)
        self._epochs[record.snapshot.id] = record.epoch

    async def intend(self, run_id: str, attempt: AttemptRecord) -> None:
        """CreateTask is about to leave. Returns once that is on record.

        Raises:
            LostError: another kernel has the run now.
        """
        await super().intend(run_id, attempt)
        if run_id in self._epochs:
            row = (run_id, attempt.number, attempt.service, attempt.output_prefix, attempt.outcome, attempt.intended)
            await self._wait(lambda c: self._intend(c, row))

    async def created(self, run_id: str, resource_meta: bytes) -> None:
        """CreateTask returned. Returns once that is on record."""
        await super().created(run_id, resource_meta)
        if run_id in self._epochs:
            row = (resource_meta, run_id, self._attempts[run_id][-1].number)
            # Without a look at who owns the run: the job is there, and whoever has the run must know of it.
            await self._wait(
                lambda c: c.execute("UPDATE attempt SET meta=?, outcome='created' WHERE run=? AND number=?", row)
            )

    async def ended(self, run_id: str, outcome: str, message: str = "") -> None:
        """The attempt under way is over."""
        await super().ended(run_id, outcome, message)
        epoch = self._epochs.get(run_id)
        if epoch is not None and self._claim is not None:
            row = (outcome, message, run_id, self._attempts[run_id][-1].number, run_id, self._claim.id, epoch)
            self._put(lambda c: c.execute(_END, row))

    def changed(self, snapshot: RunSnapshot) -> None:
        """A run has a new state; the last one counts."""
        if snapshot.id in self._epochs:
            self._states[snapshot.id] = snapshot
            self._wake.set()

    def finished(self, snapshot: RunSnapshot, outputs: bytes | None) -> None:
        """A run has ended."""
        if outputs is not None and snapshot.id in self._epochs:
            self._outputs[snapshot.id] = outputs
        self.changed(snapshot)

    def released(self, run_id: str) -> None:
        """A run is not followed any more, and has not ended."""
        self._epochs.pop(run_id, None)

    def forget(self, run_ids: Sequence[str]) -> None:
        """Drop runs."""
        super().forget(run_ids)
        ids = [run_id for run_id in run_ids if self._epochs.pop(run_id, None) is not None]
        if ids:
            self._put(lambda c: _forget(c, ids))

    def on_lost(self, callback: Callable[[str], object]) -> None:
        """Call ``callback(run_id)`` where another kernel has taken over a run of this one, on the writer's thread."""
        self._lost.append(callback)

    # --- whoever manages runs; any thread but the loop's ---

    def take(self, run_id: str) -> RunRecord:
        """Take over a run whose owner is gone.

        Raises:
            JournalError: its owner is alive, or the journal is not there.
            KeyError: there is no such run.
        """
        record = self.shelf.record(run_id)
        if record.owner.alive and (self._claim is None or record.owner.id != self._claim.id):
            raise JournalError(
                f"run {run_id} of {record.snapshot.name} is followed by {record.owner}",
                hint="wait for it there, or shut that kernel down first",
            )

        def take(connection: sqlite3.Connection) -> RunRecord:
            assert self._claim is not None
            row = (self._claim.id, run_id, record.owner.id, record.epoch)
            taken = connection.execute("UPDATE run SET owner=?, epoch=epoch+1 WHERE id=? AND owner=? AND epoch=?", row)
            if taken.rowcount != 1:
                raise JournalError(
                    f"run {run_id} of {record.snapshot.name} was taken over by another kernel just now",
                    hint="%agent runs --all tells by which",
                )
            return record

        self.ask(take)
        return self.shelf.record(run_id)

    def settle(self, run_id: str, number: int, outcome: str, message: str, meta: bytes | None) -> None:
        """Write what became of an attempt whose create had no answer; of a run that :meth:`take` gave."""
        row = (outcome, message, meta, run_id, number)
        self.ask(
            lambda c: c.execute(
                "UPDATE attempt SET outcome=?, message=?, meta=coalesce(?, meta) WHERE run=? AND number=?", row
            )
        )

    def release_to_nobody(self, run_id: str) -> None:
        """Let go of a run that was taken, so that whoever wants it may attach it."""
        epoch = self._epochs.pop(run_id, None)
        self.ask(lambda c: c.execute("UPDATE run SET owner='', epoch=epoch+1 WHERE id=? AND epoch=?", (run_id, epoch)))

    def prune(self, runs_kept: int, days_kept: float, *, dry_run: bool = False) -> list[str]:
        """Forget what has ended and is too old or too much, with its files; the ids, oldest first."""
        if not self.shelf.exists:
            return []
        before = time.time() - days_kept * 86400 if days_kept else 0.0
        found = self.shelf.endings(runs_kept, before)
        ids = [run_id for run_id, _ in found]
        if ids and not dry_run:
            self.ask(lambda c: _forget(c, ids))
            for run_id, folder in found:
                remove_files(folder, run_id)
        if not dry_run and before:
            _remove_code(Path(self._runs_folder), before)
        return ids

    def ask(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something in the writer's next transaction, and wait for what it returns.

        Raises:
            JournalError: the journal is not there.
        """
        answer = _Answer()
        self._put(work, answer)
        result: T = answer.result(timeout=2 * BUSY)
        if self.trouble:
            raise JournalError(self.trouble, hint="runs are kept in memory until the kernel ends")
        return result

    def flush(self) -> None:
        """Wait until everything that is known is written."""
        if self._thread is not None and not self.trouble:
            with contextlib.suppress(JournalError):
                self.ask(lambda c: None)

    def close(self) -> None:
        """Write what is left, and let the owner's lock go. Idempotent."""
        if self._thread is not None and not self._closed:
            self._closed = True
            self._wake.set()
            self._urgent.set()
            self._thread.join(timeout=2.0)

    # --- handing over ---

    def _put(self, work: Callable[[sqlite3.Connection], Any], answer: _Answer | None = None) -> None:
        if self.trouble or self._closed:
            if answer is not None:
                answer.set_result(None)
            return
        with self._lock:
            self._work.append((work, answer))
            if self._thread is None:
                self._thread = threading.Thread(target=self._main, name="flyteagent_nb-journal", daemon=True)
                self._thread.start()
        self._wake.set()
        if answer is not None:
            self._urgent.set()

    async def _wait(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        answer = _Answer(asyncio.get_running_loop())
        self._put(work, answer)
        # The write goes on when whoever waits is cancelled; what is on record must not depend on it.
        await asyncio.shield(answer.on_loop) if answer.on_loop is not None else None

    # --- the writer's thread ---

    def _main(self) -> None:
        seen = 0.0
        while not self.trouble:
            self._wake.wait(RENEW)
            closing = self._closed
            self._wake.clear()
            if not closing:
                self._urgent.wait(LAZY)
            self._urgent.clear()
            with self._lock:
                work, self._work = self._work, []
                states, self._states = self._states, {}
                outputs, self._outputs = self._outputs, {}
            sign = time.time() - seen > RENEW
            if work or states or sign:
                self._group(work, states, outputs, sign)
                seen = time.time() if sign else seen
            if closing and not self._work and not self._states:
                break
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        if self._claim is not None:
            self._claim.release()

    def _group(
        self,
        work: Sequence[tuple[Callable[[sqlite3.Connection], Any], _Answer | None]],
        states: dict[str, RunSnapshot],
        outputs: dict[str, bytes],
        sign: bool,
    ) -> None:
        """Write in one transaction; then tell those who wait, all at once."""
        answers: list[tuple[_Answer, Any]] = []
        lost: list[str] = []
        try:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                for each, answer in work:
                    try:
                        value = each(connection)
                    except (
                        FlyteAgentNBError
                    ) as error:  # one that waits is refused; the others have nothing to do with it
                        value = error
                    if answer is not None:
                        answers.append((answer, value))
                lost = self._write_states(connection, states, outputs)
                if sign and self._claim is not None:
                    connection.execute("UPDATE owner SET seen=? WHERE id=?", (time.time(), self._claim.id))
            except BaseException:
                connection.execute("ROLLBACK") if connection.in_transaction else None
                raise
            connection.execute("COMMIT")
        except (sqlite3.Error, OSError, JournalError) as error:
            self._give_up(error)
            answers = [(answer, None) for _, answer in work if answer is not None]
        _tell(answers)
        for run_id in lost:
            self._epochs.pop(run_id, None)
            for callback in self._lost:
                callback(run_id)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = prepare(self._folder, BUSY)
            self._claim = claim = Claim(self._folder / "owners")
            now = time.time()
            self._connection.execute(
                "INSERT INTO owner (id, host, pid, kernel, started, seen) VALUES (?,?,?,?,?,?)",
                (claim.id, claim.host, claim.pid, self._kernel, now, now),
            )
        return self._connection

    def _insert(self, connection: sqlite3.Connection, s: RunSnapshot, sent: Sent) -> None:
        assert self._claim is not None
        connection.execute(
            "INSERT OR IGNORE INTO run (id, name, task_type, submitted, ended, phase, state, template, inputs, types, "
            "folder, owner, epoch) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,0)",
            (
                s.id, s.name, s.task_type, s.submitted, s.ended, s.phase, state_of(s),
                sent.template, sent.inputs, json.dumps(sent.output_types), self._runs_folder, self._claim.id,
            ),
        )  # fmt: skip

    def _intend(self, connection: sqlite3.Connection, row: tuple[Any, ...]) -> None:
        assert self._claim is not None
        run_id = row[0]
        owner = (run_id, self._claim.id, self._epochs.get(run_id, -1))
        done = connection.execute(
            "INSERT INTO attempt (run, number, service, prefix, outcome, intended, message) SELECT ?,?,?,?,?,?,'' "
            "WHERE EXISTS (SELECT 1 FROM run WHERE id=? AND owner=? AND epoch=?)",
            (*row, *owner),
        )
        if done.rowcount != 1:
            raise LostError(f"run {run_id} was taken over by another kernel", hint="%agent runs --all tells by which")

    def _write_states(
        self, connection: sqlite3.Connection, states: dict[str, RunSnapshot], outputs: dict[str, bytes]
    ) -> list[str]:
        """Write the newest states; the runs that are not this kernel's any more."""
        if not states or self._claim is None:
            return []
        owner = self._claim.id
        rows = [
            (s.phase, s.ended, state_of(s), outputs.get(s.id), s.id, owner, self._epochs.get(s.id, -1))
            for s in states.values()
        ]
        done = connection.executemany(
            "UPDATE run SET phase=?, ended=?, state=?, outputs=coalesce(?, outputs) WHERE id=? AND owner=? AND epoch=?",
            rows,
        )
        if done.rowcount == len(rows):
            return []
        mine = "SELECT 1 FROM run WHERE id=? AND owner=? AND epoch=?"
        return [row[4] for row in rows if row[6] >= 0 and connection.execute(mine, row[4:]).fetchone() is None]

    def _give_up(self, error: Exception) -> None:
        """Go on in memory; a damaged file is kept aside."""
        said = str(error) or type(error).__name__
        what = f"the journal in {self._folder} cannot be written: {said}"
        if isinstance(error, JournalError):
            what = error.message
        elif isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            with contextlib.suppress(OSError):
                aside = self._folder / f"{FILE}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
                for end in ("-wal", "-shm", ""):
                    with contextlib.suppress(FileNotFoundError):
                        os.rename(self._folder / f"{FILE}{end}", f"{aside}{end}")
                what = f"the journal in {self._folder} is damaged ({said}) and was put aside as {aside.name}"
        self.trouble = what
        self._epochs.clear()
        with self._lock:
            left, self._work = self._work, []
        _tell([(answer, None) for _, answer in left if answer is not None])
        self._warn(f"warning: {what}. Runs go on, and are kept in memory until the kernel ends.")


_END = (
    "UPDATE attempt SET outcome=?, message=? WHERE run=? AND number=? "
    "AND EXISTS (SELECT 1 FROM run WHERE id=? AND owner=? AND epoch=?)"
)


class _Answer:
    """What a writer's transaction came to, for a thread or for the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop = loop
        self.on_loop: asyncio.Future[Any] | None = loop.create_future() if loop is not None else None
        self._future: Future[Any] | None = Future() if loop is None else None

    def set_result(self, value: Any) -> None:
        """Wake who waits: on a thread at once, on the loop from the loop's own thread."""
        if self._future is not None:
            self._future.set_exception(value) if isinstance(value, BaseException) else self._future.set_result(value)
        elif self.on_loop is not None and not self.on_loop.done():
            self.on_loop.set_exception(value) if isinstance(value, BaseException) else self.on_loop.set_result(value)

    def result(self, timeout: float) -> Any:
        """Wait, on a thread."""
        assert self._future is not None
        return self._future.result(timeout)


def _tell(answers: Iterable[tuple[_Answer, Any]]) -> None:
    """Wake all who wait; those on a loop by one call for all of them."""
    on_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Answer, Any]]] = {}
    for answer, value in answers:
        if answer.loop is None:
            answer.set_result(value)
        else:
            on_loop.setdefault(answer.loop, []).append((answer, value))

    def wake(those: list[tuple[_Answer, Any]]) -> None:
        for answer, value in those:
            answer.set_result(value)

    for loop, those in on_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop has ended, and who waited with it
            loop.call_soon_threadsafe(wake, those)


def _forget(connection: sqlite3.Connection, run_ids: Sequence[str]) -> None:
    for run_id in run_ids:
        connection.execute("DELETE FROM run WHERE id=?", (run_id,))
        connection.execute("DELETE FROM attempt WHERE run=?", (run_id,))
    connection.execute(
        "DELETE FROM owner WHERE seen < ? AND NOT EXISTS (SELECT 1 FROM run WHERE run.owner = owner.id)",
        (time.time() - LEASE,),
    )


def _remove_code(folder: Path, before: float) -> None:
    """Remove functions that were pickled for runs long ago."""
    with contextlib.suppress(OSError):
        for path in folder.glob("code-*"):
            if path.stat().st_mtime < before:
                shutil.rmtree(path, ignore_errors=True)


def remove_files(folder: str, run_id: str) -> None:
    """Remove what a run left in the folder of runs."""
    with contextlib.suppress(OSError):
        for path in Path(folder).glob(f"{run_id}[-.]*"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
