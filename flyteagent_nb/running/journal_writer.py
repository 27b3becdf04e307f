"""The thread that writes the journal: what has come up goes into one transaction. Where the disk fails it says so, and tries again.

Nobody who waits for a write is left waiting: where it cannot be made, runs go on in memory, and are written when the disk is back.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import sqlite3
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from flyteagent_nb.errors import FlyteAgentNBError, JournalError
from flyteagent_nb.running.answers import Answer, tell
from flyteagent_nb.running.ownership import RENEW, Claim
from flyteagent_nb.running.shelf import FILE, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LAZY = 0.05
"""Seconds that a change may wait to be written together with others; an intent does not wait."""

GATHER = 0.005
"""Seconds that an intent does wait where there are more than FEW runs: a transaction for each would cost more than their calls."""

FEW = 16

BUSY = 10.0
"""Seconds that a write waits for another kernel's."""

STUCK = 2 * BUSY
"""Seconds after which a disk that has not answered counts as failed."""

AGAIN = 30.0
"""Seconds until a disk that failed is tried again; twice as long after each time, up to AGAIN_MOST."""

AGAIN_MOST = 600.0

_SEEN = (
    "INSERT INTO owner (id, host, pid, kernel, started, seen) VALUES (?,?,?,?,?,?) "
    "ON CONFLICT (id) DO UPDATE SET seen=excluded.seen"
)


OF_ONE = (
    ValueError,
    TypeError,
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
"""What tells of a value that cannot be written, and not of the disk."""

_log = logging.getLogger(__name__)


class Book(Protocol):
    """Whose journal it is: what it has to write beside the work that is put. Called on the writer's thread, in a transaction."""

    def has_more(self) -> bool:
        """Whether something has come up."""

    def following(self) -> int:
        """How many runs this kernel follows."""

    def write_first(self, connection: sqlite3.Connection, owner: str) -> None:
        """Write what the work that was put may stand on."""

    def write(self, connection: sqlite3.Connection, owner: str, *, look: bool) -> Callable[[], object]:
        """Write what has come up; what is returned is called once it is committed.

        Args:
            connection: of the journal.
            owner: who writes.
            look: also look whether runs are still this owner's.
        """

    def write_missed(self, connection: sqlite3.Connection, owner: str, missed: set[str]) -> Callable[[], object]:
        """Write all that is known of runs for which something could not be written."""

    def not_written(self) -> None:
        """What :meth:`write` wrote last is not there: it has to be written again."""

    def moved(self) -> None:
        """The journal is another file than before: what is followed here must be written anew."""


@dataclass(frozen=True, slots=True)
class _Work:
    do: Callable[[sqlite3.Connection], Any]
    answer: Answer | None
    run_id: str


class Writer:
    """Writes a journal, on a thread of its own that starts with the first work.

    Attributes:
        trouble: why nothing is written now, or an empty string.
        lock: held where work, trouble and what the book collects must agree.
        claim: this process as an owner, once something was written; held until :meth:`close`, in trouble too.
        missed: the runs for which something could not be written.
    """

    def __init__(self, folder: Path, kernel: str, book: Book, warn: Callable[[str], object]) -> None:
        self.trouble = ""
        self.lock = threading.Lock()
        self.claim: Claim | None = None
        self.missed: set[str] = set()
        self._folder = folder
        self._kernel = kernel
        self._book = book
        self._warn = warn
        self._connection: sqlite3.Connection | None = None
        self._file = 0  # the inode of the file that is open
        self._work: list[_Work] = []
        self._in_hand: list[_Work] = []
        self._final = False  # the trouble does not pass
        self._pause = AGAIN
        self._due = 0.0
        self._wake = threading.Event()
        self._urgent = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    # --- handing over; any thread ---

    def put(
        self, do: Callable[[sqlite3.Connection], Any], answer: Answer | None = None, run_id: str = ""
    ) -> JournalError | None:
        """Hand over work for the next transaction; why not, where that cannot be.

        Args:
            do: what is to be done.
            answer: told what it came to.
            run_id: the run that it is about; all that is known of it is written when the trouble is over.
        """
        with self.lock:
            refused = self._refused()
            if refused is not None:
                if run_id:
                    self.missed.add(run_id)
                return refused
            self._work.append(_Work(do, answer, run_id))
            self._start()
        if not self._wake.is_set():
            self._wake.set()
        if answer is not None:
            self._urgent.set()
        return None

    def nudge(self) -> None:
        """The book has more; it may wait a moment."""
        if self._thread is None:
            with self.lock:
                if self._refused() is not None and not self.trouble:
                    return
                self._start()
        if not self.trouble and not self._wake.is_set():
            self._wake.set()

    def ask(self, do: Callable[[sqlite3.Connection], Any]) -> Any:
        """Do something in the next transaction, and wait for what it returns; not on the loop's thread.

        Raises:
            JournalError: nothing can be written.
        """
        answer = Answer()
        refused = self.put(do, answer)
        if refused is not None:
            raise refused
        try:
            return answer.result(STUCK)
        except concurrent.futures.TimeoutError:
            self.abandon()  # which answers
            return answer.result(STUCK)

    async def wait(self, do: Callable[[sqlite3.Connection], Any], run_id: str, limit: float | None = None) -> None:
        """Do something in the next transaction, and wait until it is committed; in trouble return at once.

        The write goes on when whoever waits is cancelled; what is on record must not depend on it. After ``limit`` seconds the wait ends;
        where none is given, a disk that has not answered for STUCK seconds is trouble.
        """
        loop = asyncio.get_running_loop()
        answer = Answer(loop)
        if self.put(do, answer, run_id) is not None or answer.on_loop is None:
            return
        timer = loop.call_later(limit or STUCK, answer.set_result if limit else self.abandon, None)
        try:
            await answer.on_loop
        finally:
            timer.cancel()

    def abandon(self, _: object = None) -> None:
        """The disk does not answer: go on in memory. The writer's thread joins in when it is back."""
        self._fail(OSError(f"it has not answered for {STUCK:.0f} s"), [])

    def close(self) -> None:
        """Write what is left, and let the owner's lock go. Idempotent."""
        with self.lock:
            closed, self._closed = self._closed, True
        if closed or os.getpid() != self._pid:
            return
        self._wake.set()
        self._urgent.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)
            if self._thread.is_alive():
                return  # the disk does not answer: the lock goes with the thread
        if self.claim is not None:
            self.claim.release()

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._main, name="flyteagent_nb-journal", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more threads now: tried again with the next work
                return
            self._thread = thread

    def _refused(self) -> JournalError | None:
        if os.getpid() != self._pid:
            return JournalError("this process was forked from the kernel, and the journal stayed behind")
        if self._closed:
            return JournalError("the journal was closed", hint="%load_ext flyteagent_nb opens it again")
        if self.trouble:
            return JournalError(self.trouble, hint="runs are kept in memory" + (_UNTIL if self._final else _MEANWHILE))
        return None

    # --- the writer's thread ---

    def _main(self) -> None:
        signed = float("-inf")
        while True:
            self._wake.wait(max(0.01, min(RENEW, self._due - time.monotonic())) if self.trouble else RENEW)
            self._wake.clear()
            closing = self._closed  # read after the clear: a close in between sets it again
            if not closing and self._urgent.wait(LAZY) and self._book.following() > FEW:
                time.sleep(GATHER)
            self._urgent.clear()
            if self.trouble:
                if not self._final and (closing or time.monotonic() >= self._due):
                    self._try_again()
                if closing or self._final:
                    break
                continue
            # By a clock that nobody sets. Who follows nothing may be silent.
            sign = time.monotonic() - signed >= RENEW and bool(self._work or self._book.following())
            if self._work or sign or self._book.has_more():
                if self._group(sign) and sign:
                    signed = time.monotonic()
            if closing and (self.trouble or not (self._work or self._book.has_more())):
                break
        self._disconnect()
        # In trouble that does not pass the lock is held all the same: what is followed here is nobody else's.
        if self._closed and self.claim is not None:
            self.claim.release()

    def _group(self, sign: bool) -> bool:
        """Write in one transaction; then tell those who wait, all at once."""
        with self.lock:
            work, self._work = self._work, []
            self._in_hand = work
        answers: list[tuple[Answer, Any]] = []
        try:
            connection, owner = self._open(sign)
            with _transaction(connection):
                self._book.write_first(connection, owner.id)
                for each in work:
                    value: Any
                    try:
                        value = each.do(connection)
                    except FlyteAgentNBError as error:
                        value = error
                    except OF_ONE as error:  # what it writes cannot be written; the others have nothing to do with that
                        _log.warning("a write to the journal was refused: %s", error)
                        value = None
                    if each.answer is not None:
                        answers.append((each.answer, value))
                committed = self._book.write(connection, owner.id, look=sign)
                if sign:
                    self._sign(connection, owner)
        except Exception as error:  # whatever it is, whoever waits must wake, and the thread go on
            self._book.not_written()
            self._fail(error, work)
            return False
        self._in_hand = []
        tell(answers)
        committed()
        return True

    def _try_again(self) -> None:
        """Write all that was missed, and go on as before; or wait longer."""
        missed: set[str] = set()
        before = self.trouble
        try:
            connection, owner = self._open()
            with _transaction(connection):
                # From here on work is handed over again, so what is read from memory below is not too old.
                with self.lock:
                    missed, self.missed = self.missed, missed
                    self.trouble = ""
                committed = self._book.write_missed(connection, owner.id, missed)
                self._sign(connection, owner)
        except Exception as error:  # as above
            with self.lock:
                self.missed |= missed
            self._book.not_written()
            self._fail(error, [], before)
            return
        committed()
        self._warn(f"note: the journal in {self._folder} is written again, with the runs that are under way.")

    def _open(self, sign: bool = False) -> tuple[sqlite3.Connection, Claim]:
        path = self._folder / FILE
        is_other = self._connection is not None and _identity(path) != self._file
        if is_other:
            self._disconnect()  # another kernel put it aside, or somebody removed it
        if self._connection is not None and not sign and self.claim is not None:
            return self._connection, self.claim
        if self._connection is None:
            self._connection = prepare(self._folder, BUSY)
            before, self._file = self._file, _identity(path)
            # The next file may be given the number of the one that has gone.
            if is_other or before not in (0, self._file):
                self._book.moved()
                self._warn(
                    f"note: {path} was removed or put aside, and is begun anew with the runs that are under way here; "
                    "earlier ones are not on record any more."
                )
            if self.claim is None:
                self.claim = Claim(self._folder / "owners")
            else:
                self.claim.hold()
            self._sign(self._connection, self.claim)
        assert self.claim is not None
        if sign:
            self.claim.hold()
        return self._connection, self.claim

    def _sign(self, connection: sqlite3.Connection, owner: Claim) -> None:
        """A sign of life, for other hosts."""
        now = time.time()
        connection.execute(_SEEN, (owner.id, owner.host, owner.pid, self._kernel, now, now))

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _fail(self, error: Exception, work: list[_Work], before: str = "") -> None:
        """Go on in memory; a damaged file is kept aside. Once is enough to be told."""
        damaged = type(error) is sqlite3.DatabaseError  # the others of its family tell of a statement, or of the disk
        what = f"the journal in {self._folder} cannot be written: {error or type(error).__name__}"
        if isinstance(error, JournalError):
            what = error.message
        elif damaged:
            aside = self._put_aside()
            what = f"the journal in {self._folder} is damaged ({error})" + (
                f" and was put aside as {aside}" if aside else ""
            )
        with self.lock:
            told = bool(self.trouble)
            if not told:
                self.trouble = what
                self._final = isinstance(error, JournalError)
            # A disk that hangs: what the thread has in hand may still be written. To write it again does no harm.
            left = {id(each): each for each in (*work, *self._work, *(self._in_hand if not work else ()))}.values()
            self._work, self._in_hand = [], []
            self.missed.update(each.run_id for each in left if each.run_id)
            self._due = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, AGAIN_MOST)
        if threading.current_thread() is self._thread:
            self._disconnect()
        try:
            if not told and what != before:
                end = _UNTIL if self._final else _MEANWHILE
                self._warn(f"warning: {what}. Runs go on, and are kept in memory{end}.")
        finally:
            refused = self._refused()
            tell((each.answer, None if each.answer.loop else refused) for each in left if each.answer is not None)

    def _put_aside(self) -> str:
        """Rename the damaged file, unless another kernel has done so; its new name."""
        path = self._folder / FILE
        self._disconnect()
        if self._file not in (0, _identity(path)):
            return ""
        aside = self._folder / f"{FILE}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
        with contextlib.suppress(OSError):
            for end in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{path}{end}", f"{aside}{end}")
            return aside.name
        return ""


_UNTIL = " until the kernel ends"
_MEANWHILE = " until it can be written again"


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def _identity(path: Path) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0
