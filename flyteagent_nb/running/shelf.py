"""The journal's file: where it lies, its tables, and what reads it. Nothing here writes but :func:`prepare`."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flyteagent_nb.errors import JournalError, RunNotFoundError
from flyteagent_nb.running.journal import AttemptRecord, Owner, RunRecord, Sent
from flyteagent_nb.running.ownership import LEASE, holds, this_host
from flyteagent_nb.running.records import snapshot_of

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = "journal.db"
VERSION = 1
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
CREATE INDEX run_open ON run (submitted) WHERE ended IS NULL;
CREATE TABLE attempt (
  run TEXT NOT NULL, number INTEGER NOT NULL, service TEXT NOT NULL, prefix TEXT NOT NULL, meta BLOB, outcome TEXT NOT NULL,
  message TEXT NOT NULL, intended REAL NOT NULL, PRIMARY KEY (run, number)
) WITHOUT ROWID;
"""

_MIGRATIONS: dict[int, str] = {}
"""From a version to the next: what must be run."""

_NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "afs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "fuse.sshfs",
    "fuse.gcsfuse",
    "fuse.s3fs",
)


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
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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


def is_remote(folder: Path) -> bool:
    """Whether the folder is on a network file system, as far as Linux tells."""
    if not sys.platform.startswith("linux"):
        return False
    place, kind = "", ""
    with contextlib.suppress(OSError):
        resolved = str(folder.resolve())
        for line in Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
            _, mount, fs, *_ = line.split(" ")
            mount = mount.replace("\\040", " ")
            if (resolved == mount or resolved.startswith(mount.rstrip("/") + "/")) and len(mount) >= len(place):
                place, kind = mount, fs
    return kind.startswith(_NETWORK)


class Shelf:
    """Reads the journal in a folder, on any thread; each call opens it anew.

    Where there is none, or it cannot be read, it is empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def exists(self) -> bool:
        """Whether there is a journal."""
        return (self.folder / FILE).exists()

    def open_runs(self, besides: str = "") -> list[RunRecord]:
        """The runs that have not ended and that nobody alive follows, newest first; not those of the owner ``besides``."""
        found = self._records("WHERE ended IS NULL AND owner <> ? ORDER BY submitted DESC", (besides,))
        return [record for record in found if not record.owner.alive]

    def runs(self, limit: int = -1) -> list[RunRecord]:
        """The runs of all kernels, newest first."""
        return list(self._records("ORDER BY submitted DESC LIMIT ?", (limit,)))

    def record(self, run_id: str) -> RunRecord:
        """One run.

        Raises:
            RunNotFoundError: it is not on record.
        """
        for record in self._records("WHERE id = ?", (run_id,)):
            return record
        raise RunNotFoundError(f"run {run_id} is not on record", run_id=run_id, hint="%agent runs --all lists them")

    def ids(self, prefix: str) -> list[tuple[str, str]]:
        """The (id, name) of the runs whose id begins with ``prefix``, newest first."""
        with self._reading() as connection:
            if connection is None:
                return []
            sql = "SELECT id, name FROM run WHERE substr(id, 1, ?) = ? ORDER BY submitted DESC LIMIT 10"
            return connection.execute(sql, (len(prefix), prefix)).fetchall()

    def endings(self, kept: int, before: float) -> list[tuple[str, str]]:
        """The (id, folder) of runs that have ended and are older than ``before`` or more than ``kept``, oldest first."""
        with self._reading() as connection:
            if connection is None:
                return []
            sql = (
                "SELECT id, folder FROM (SELECT id, folder, ended, submitted, row_number() OVER (ORDER BY submitted DESC) AS n "
                "FROM run WHERE ended IS NOT NULL) WHERE n > ? OR ended < ? ORDER BY submitted"
            )
            return connection.execute(sql, (kept, before)).fetchall()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        connection = None
        if self.exists:
            with contextlib.suppress(sqlite3.Error):
                connection = connect(self.folder / FILE, busy=2.0, read_only=True)
        try:
            if connection is not None and not 0 < connection.execute("PRAGMA user_version").fetchone()[0] <= VERSION:
                connection.close()
                connection = None
        except sqlite3.Error:  # damaged: whoever writes next puts it aside and says so
            assert connection is not None
            connection.close()
            connection = None
        try:
            yield connection
        finally:
            if connection is not None:
                connection.close()

    def _records(self, clause: str, values: tuple[object, ...]) -> list[RunRecord]:
        columns = "id, state, template, inputs, types, outputs, folder, owner, epoch, ended"
        with self._reading() as connection:
            if connection is None:
                return []
            try:
                rows = connection.execute(f"SELECT {columns} FROM run {clause}", values).fetchall()
                owners = self._owners(connection, {row[7] for row in rows})
                attempts: dict[str, list[AttemptRecord]] = {}
                sql = "SELECT run, number, service, prefix, meta, outcome, message, intended FROM attempt"
                if len(rows) < 100:
                    sql += f" WHERE run IN ({','.join('?' * len(rows))})"
                    found = connection.execute(sql + " ORDER BY number", [row[0] for row in rows])
                else:
                    found = connection.execute(sql + " ORDER BY run, number")
                for run_id, *values_ in found:
                    attempts.setdefault(run_id, []).append(AttemptRecord(*values_))
            except sqlite3.Error:
                return []
        return [
            RunRecord(
                snapshot=snapshot_of(state),
                sent=Sent(template, inputs, json.loads(types)),
                attempts=tuple(attempts.get(run_id, ())),
                outputs=outputs,
                owner=owners[owner],
                epoch=epoch,
                folder=folder,
            )
            for run_id, state, template, inputs, types, outputs, folder, owner, epoch, _ in rows
        ]

    def _owners(self, connection: sqlite3.Connection, ids: set[str]) -> dict[str, Owner]:
        found: dict[str, Owner] = {}
        for owner_id in ids:
            row = connection.execute("SELECT host, pid, kernel, seen FROM owner WHERE id=?", (owner_id,)).fetchone()
            if row is None:
                found[owner_id] = Owner(owner_id, "", 0, "", alive=False)
                continue
            host, pid, kernel, seen = row
            here = host == this_host()
            alive = holds(self.folder / "owners", owner_id) if here else time.time() - seen < LEASE
            found[owner_id] = Owner(owner_id, host.partition("/")[0], pid, kernel, alive)
        return found
