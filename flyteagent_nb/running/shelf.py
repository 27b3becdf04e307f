"""The journal's file: where it lies, its tables, and what reads it. Nothing here writes but :func:`prepare`."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flyteagent_nb.errors import JournalError, RunNotFoundError
from flyteagent_nb.folders import private_folder
from flyteagent_nb.running.journal import Owner
from flyteagent_nb.running.ownership import is_alive
from flyteagent_nb.running.records import ATTEMPT_COLUMNS, COLUMNS, attempt_of, run_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flyteagent_nb.running.journal import AttemptRecord, RunRecord

FILE = "journal.db"
VERSION = 2
_APPLICATION = 0x666C6E62  # "flnb", so that `file` and others can tell what it is

_SCHEMA = """
CREATE TABLE owner (
  id TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, kernel TEXT NOT NULL, started REAL NOT NULL, seen REAL NOT NULL
);
CREATE TABLE run (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, task_type TEXT NOT NULL, submitted REAL NOT NULL, ended REAL, phase TEXT NOT NULL,
  state TEXT NOT NULL, template BLOB NOT NULL, inputs BLOB, types TEXT NOT NULL, outputs BLOB, folder TEXT NOT NULL,
  owner TEXT NOT NULL, epoch INTEGER NOT NULL
);
CREATE INDEX run_submitted ON run (submitted);
CREATE INDEX run_open ON run (submitted, owner) WHERE ended IS NULL;
CREATE INDEX run_ended ON run (submitted, ended) WHERE ended IS NOT NULL;
CREATE TABLE attempt (
  run TEXT NOT NULL, number INTEGER NOT NULL, service TEXT NOT NULL, prefix TEXT NOT NULL, meta BLOB, outcome TEXT NOT NULL,
  message TEXT NOT NULL, intended REAL NOT NULL, clock TEXT NOT NULL DEFAULT '', PRIMARY KEY (run, number)
) WITHOUT ROWID;
"""

_MIGRATIONS = {1: "ALTER TABLE attempt ADD COLUMN clock TEXT NOT NULL DEFAULT ''"}
"""From a version to the next: what must be run."""

_NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "virtiofs",
    "fuse.",
    "vboxsf",
    "afs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "wekafs",
)
"""How the types of file systems begin that others may have mounted too, or that have no shared memory for WAL."""


def connect(path: Path, *, busy: float, read_only: bool = False) -> sqlite3.Connection:
    """A connection that any thread may use, one at a time; transactions are begun by hand."""
    target = f"{path.absolute().as_uri()}?mode=ro" if read_only else str(path)
    return sqlite3.connect(target, timeout=busy, isolation_level=None, check_same_thread=False, uri=read_only)


def prepare(folder: Path, busy: float) -> sqlite3.Connection:
    """Open the journal in ``folder`` for writing; make it, or bring an earlier version up to this one.

    Raises:
        JournalError: a later version of this package made it; it is left as it is.
        sqlite3.Error, OSError: it cannot be opened.
    """
    private_folder(folder)
    path = folder / FILE
    with contextlib.suppress(FileExistsError):  # SQLite would make it readable by others
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    connection = connect(path, busy=busy)
    try:
        _check_version(connection, path)
        # WAL survives a killed process, not a power cut; its shared memory does not work across a network.
        connection.execute(f"PRAGMA journal_mode={'DELETE' if is_remote(folder) else 'WAL'}")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("BEGIN IMMEDIATE")  # two kernels may both find it empty
        version = _check_version(connection, path)
        if version == 0:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={_APPLICATION}")
        while 0 < version < VERSION:
            for statement in _MIGRATIONS[version].split(";"):
                connection.execute(statement)
            version += 1
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_version(connection: sqlite3.Connection, path: Path) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise JournalError(
            f"the journal {path} is of version {version}, from a later flyteagent_nb; this one knows {VERSION}",
            hint="upgrade flyteagent_nb, or set FLYTEAGENT_NB_DATA_FOLDER to another folder",
        )
    return version


def is_remote(folder: Path, mounts: str = "/proc/self/mounts") -> bool:
    """Whether the folder is on a network file system, as far as Linux tells.

    Args:
        folder: it may not exist.
        mounts: the file that tells what is mounted where.
    """
    if not sys.platform.startswith("linux"):
        return False
    place, kind = "", ""
    with contextlib.suppress(OSError):
        resolved = str(folder.resolve())
        for line in Path(mounts).read_text(encoding="utf-8", errors="replace").splitlines():
            _, mount, fs, *_ = line.split(" ")
            mount = mount.replace("\\040", " ")
            if (resolved == mount or resolved.startswith(mount.rstrip("/") + "/")) and len(mount) >= len(place):
                place, kind = mount, fs
    return kind.startswith(_NETWORK)


class Shelf:
    """Reads the journal in a folder, on any thread; each call opens it anew.

    Where there is none, or it is damaged, it is empty. A record that cannot be read is shown with what can be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def exists(self) -> bool:
        """Whether there is a journal."""
        return os.path.exists(self.folder / FILE)

    def left_open(self, limit: int) -> tuple[list[RunRecord], int]:
        """The newest ``limit`` runs that have not ended and that nobody alive follows, newest first; and how many there are."""
        found: list[RunRecord] = []
        count = 0
        with self._reading() as connection:
            if connection is None:
                return found, count
            counted = connection.execute(
                "SELECT owner, count(*) FROM run WHERE ended IS NULL GROUP BY owner"
            ).fetchall()
            owners = self._owners(connection, {owner for owner, _ in counted})
            gone = {owner_id for owner_id, owner in owners.items() if not owner.alive}
            ids: list[str] = []
            if gone:
                newest = connection.execute("SELECT id, owner FROM run WHERE ended IS NULL ORDER BY submitted DESC")
                ids = [run_id for run_id, _ in itertools.islice((row for row in newest if row[1] in gone), limit)]
            found = [record for run_id in ids for record in self._records(connection, "WHERE id = ?", (run_id,))]
            count = sum(each for owner, each in counted if owner in gone)
        return found, count

    def open_runs(self) -> list[RunRecord]:
        """The runs that have not ended and that nobody alive follows, newest first."""
        with self._reading() as connection:
            if connection is not None:
                found = self._records(connection, "WHERE ended IS NULL ORDER BY submitted DESC", ())
                return [record for record in found if not record.owner.alive]
        return []

    def runs(self, limit: int = -1) -> list[RunRecord]:
        """The runs of all kernels, newest first."""
        with self._reading() as connection:
            if connection is not None:
                return self._records(connection, "ORDER BY submitted DESC LIMIT ?", (limit,))
        return []

    def record(self, run_id: str) -> RunRecord:
        """One run.

        Raises:
            JournalError: the journal cannot be read now.
            RunNotFoundError: it is not on record.
        """
        with self._reading(must=True) as connection:
            if connection is not None:
                for record in self._records(connection, "WHERE id = ?", (run_id,)):
                    return record
        raise RunNotFoundError(f"run {run_id} is not on record", run_id=run_id, hint="%agent runs --all lists them")

    def ids(self, prefix: str, limit: int = 10) -> list[tuple[str, str]]:
        """The (id, name) of the runs whose id begins with ``prefix``, newest first."""
        with self._reading() as connection:
            if connection is not None:
                sql = "SELECT id, name FROM run WHERE id >= ? AND id < ? ORDER BY submitted DESC LIMIT ?"
                found = connection.execute(sql, (prefix, prefix + "\U0010ffff", limit)).fetchall()
                return [(str(run_id), str(name)) for run_id, name in found]
        return []

    def endings(self, kept: int, before: float) -> list[tuple[str, str]]:
        """The (id, folder) of runs that have ended and are older than ``before`` or more than ``kept``, oldest first."""
        with self._reading() as connection:
            if connection is not None:
                # The index tells which; the rows are read of those alone.
                sql = (
                    "SELECT id, folder FROM run WHERE rowid IN (SELECT rowid FROM run WHERE ended IS NOT NULL ORDER BY submitted DESC "
                    "LIMIT -1 OFFSET ?) OR rowid IN (SELECT rowid FROM run WHERE ended IS NOT NULL AND ended < ?) ORDER BY submitted"
                )
                return connection.execute(sql, (kept, before)).fetchall()
        return []

    def known(self, run_ids: Iterable[str]) -> set[str]:
        """Those of the runs that are on record; all of them, where that cannot be told."""
        wanted = set(run_ids)
        with self._reading() as connection:
            if connection is not None:
                return {row[0] for row in connection.execute("SELECT id FROM run") if row[0] in wanted}
        return wanted

    @contextlib.contextmanager
    def _reading(self, *, must: bool = False) -> Iterator[sqlite3.Connection | None]:
        """A connection in a transaction, so that all that is read fits together; None where there is no journal that we can read.

        What fails inside ends it, quietly unless ``must``: where it is damaged, whoever writes next puts it aside and says so.
        """
        path = self.folder / FILE
        connection = None
        try:
            if self.exists:
                connection = connect(path, busy=2.0, read_only=True)
                connection.execute("BEGIN")
                if not _check_version(connection, path):
                    connection.close()
                    connection = None
        except (sqlite3.Error, OSError, JournalError) as error:
            if connection is not None:
                connection.close()
                connection = None
            if must:
                raise _unreadable(path, error) from error
        try:
            yield connection
        except (sqlite3.Error, OSError, UnicodeError) as error:
            if must:
                raise _unreadable(path, error) from error
        finally:
            if connection is not None:
                connection.close()

    def _records(self, connection: sqlite3.Connection, clause: str, values: tuple[object, ...]) -> list[RunRecord]:
        rows = connection.execute(f"SELECT {_columns(connection, 'run', COLUMNS)} FROM run {clause}", values).fetchall()
        owners = self._owners(connection, {row[COLUMNS.index("owner")] for row in rows})
        attempts: dict[object, list[AttemptRecord]] = {}
        columns = _columns(connection, "attempt", ATTEMPT_COLUMNS)
        sql = f"SELECT run, {columns} FROM attempt WHERE run IN (SELECT id FROM run {clause}) ORDER BY number"
        for run_id, *fields in connection.execute(sql, values):
            attempts.setdefault(run_id, []).append(attempt_of(fields))
        return [run_of(row, attempts.get(row[0], ()), owners) for row in rows]

    def _owners(self, connection: sqlite3.Connection, ids: set[object]) -> dict[object, Owner]:
        found: dict[object, Owner] = {}
        for owner_id in ids:
            row = connection.execute("SELECT host, pid, kernel, seen FROM owner WHERE id=?", (owner_id,)).fetchone()
            host, pid, kernel, seen = row or ("", 0, "", 0.0)
            seen = seen if isinstance(seen, float) else 0.0
            alive = is_alive(self.folder / "owners", str(owner_id), str(host), seen)
            found[owner_id] = Owner(str(owner_id), str(host).partition("/")[0], pid, str(kernel), alive)
        return found


def _columns(connection: sqlite3.Connection, table: str, names: Iterable[str]) -> str:
    """The columns to read: a journal of an earlier version lacks some until its first writer brings it up to this one."""
    there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    return ", ".join(name if name in there else f"'' AS {name}" for name in names)


def _unreadable(path: Path, error: Exception) -> JournalError:
    return error if isinstance(error, JournalError) else JournalError(f"the journal {path} cannot be read: {error}")
