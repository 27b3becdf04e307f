"""Who follows a run: a lock on a file that the kernel's process holds, and a lease where another host cannot see that lock.

The lock goes with the process, also on SIGKILL, and stays while a laptop sleeps. It is a POSIX record lock, which a forked child does not
inherit. Across hosts an owner says every few seconds that it is there; who has been silent for LEASE counts as gone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from typing import TYPE_CHECKING

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
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
            return file.read().strip()[:8]
    return f"{uuid.getnode():x}"[-8:]


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
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / f"{self.id}.lock"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if not _lock(self._file):
            raise OSError(f"{self._path} is locked by somebody else")
        _held.add(self.id)

    def release(self) -> None:
        """Let go. Idempotent; a forked child's does nothing."""
        if self._file < 0 or os.getpid() != self.pid:
            return
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        os.close(self._file)
        self._file = -1
        _held.discard(self.id)


def holds(folder: Path, owner_id: str) -> bool:
    """Whether a process of this machine holds the lock of that owner."""
    if owner_id in _held:
        return True
    try:
        file = os.open(folder / f"{owner_id}.lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # it cannot be told: leave what it has alone
    try:
        free = _lock(file)
    finally:
        os.close(file)
    if free:
        with contextlib.suppress(OSError):
            os.unlink(folder / f"{owner_id}.lock")
    return not free


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
