"""Who follows a run: a lock on a file that the kernel's process holds, and a lease where another host cannot see that lock.

The lock goes with the process, also on SIGKILL, and stays while a laptop sleeps. It is a POSIX record lock, which a forked child does not
inherit. Across hosts an owner says every few seconds that it is there; who has been silent for LEASE counts as gone.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
import uuid
from typing import TYPE_CHECKING

from flyteagent_nb.folders import private_folder

if TYPE_CHECKING:
    from pathlib import Path

LEASE = 90.0
"""Seconds of silence after which an owner on another host counts as gone."""

RENEW = 15.0
"""Seconds between two signs of life."""


def this_host() -> str:
    """The name of this machine, and what tells it from another of that name."""
    return f"{socket.gethostname()}/{_machine()}"


def _machine() -> str:
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()[:8]
    node = uuid.getnode()
    # With that bit it is a random number, another one in each process.
    return "" if node >> 40 & 1 else f"{node:x}"[-8:]


_held: set[str] = set()
"""The owners that this process is: to open and close its own lock's file would let the lock go."""


class Claim:
    """This process as an owner: it holds its lock until :meth:`release` or its end.

    Attributes:
        id: the owner's id, new with each claim.
        host: as :func:`this_host` tells it.
        pid: of this process.
    """

    def __init__(self, folder: Path) -> None:
        """Lock a new file in ``folder``, which is made.

        Raises:
            OSError: the file cannot be made or locked.
        """
        self.id = uuid.uuid4().hex
        self.host = this_host()
        self.pid = os.getpid()
        private_folder(folder)
        self._path = folder / f"{self.id}.lock"
        self._file = self._locked()
        _held.add(self.id)

    def hold(self) -> None:
        """Go on holding it: where somebody removed the file, or put its folder back, the one of that name is locked.

        Raises:
            OSError: it cannot be made or locked.
        """
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(self._path), os.fstat(self._file)):
                return
        private_folder(self._path.parent)
        before, self._file = self._file, self._locked()
        os.close(before)

    def _locked(self) -> int:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _lock(file):
                raise OSError(f"{self._path} is locked by somebody else")
        except OSError:
            os.close(file)
            raise
        return file

    def release(self) -> None:
        """Let go. Idempotent; a forked child's does nothing."""
        if self._file < 0 or os.getpid() != self.pid:
            return
        file, self._file = self._file, -1
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        os.close(file)
        _held.discard(self.id)


def is_alive(folder: Path, owner_id: str, host: str, seen: float) -> bool:
    """Whether an owner still is there, as far as can be known from here.

    Args:
        folder: that of the locks.
        owner_id: the owner's id.
        host: its host, as :func:`this_host` told it there; empty where nothing is known of it.
        seen: its last sign of life, in seconds since the epoch.
    """
    # A lock that is held tells all; that it is free, only on the host where it would be held.
    elsewhere = bool(host) and host != this_host()
    return holds(folder, owner_id, tidy=not elsewhere) or (elsewhere and time.time() - seen < LEASE)


def holds(folder: Path, owner_id: str, *, tidy: bool = True) -> bool:
    """Whether a process of this machine holds the lock of that owner.

    Args:
        folder: that of the locks.
        owner_id: the owner's id.
        tidy: remove a lock that nobody holds; not where its owner is on another host, which may see no lock of this one's.
    """
    if owner_id in _held:
        return True
    if not re.fullmatch("[0-9a-f]{32}", owner_id):  # nobody, or a damaged record
        return False
    path = folder / f"{owner_id}.lock"
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # it cannot be told: leave what it has alone
    try:
        free = _lock(file)
    except OSError:  # a file system without locks
        return True
    finally:
        os.close(file)
    if free and tidy:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return not free


def remove_free_locks(folder: Path, before: float) -> None:
    """Remove the locks of owners of this machine that ended without a word, older than ``before``: a new one may not be held yet."""
    with contextlib.suppress(OSError):
        for path in folder.glob("*.lock"):
            if path.stat().st_mtime < before:
                holds(folder, path.stem)


def _lock(file: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
