"""Processes that end with the kernel: each is started by a watcher that holds the other end of a pipe of ours."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flyteagent_nb.sandbox import watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Outcome = Literal["ready", "ended", "late", "stopped"]

BEAT = 0.1
"""Seconds between two looks at a process that starts."""

CLOSE = 10.0
"""Seconds after which a watcher that should end is ended."""

TAIL = 12
"""Lines of a log that an error tells."""

_READ = 32 * 1024
_COLOURS = re.compile(r"\x1b\[[\d;]*[A-Za-z]")


def never() -> bool:
    """Whether somebody asked to stop: nobody did."""
    return False


class WatchedProcess:
    """A process that ends, with its files, when :meth:`close` is called or this process is gone.

    Args:
        command: what is started.
        state: an empty folder for its log and its state, which goes in the end.
        cwd: the folder that it starts in.
        environment: all of its environment variables.
        remove: other folders that go in the end.

    Attributes:
        state: the folder.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        state: Path,
        cwd: Path,
        environment: Mapping[str, str],
        remove: Sequence[Path] = (),
    ) -> None:
        self.state = state
        self._remove = [str(path) for path in remove]
        self._owner = os.getpid()
        self._closed = False
        told = {
            "command": list(command),
            "state": str(state),
            "cwd": str(cwd),
            "environment": dict(environment),
            "remove": self._remove,
            "kernel": self._owner,
        }
        with open(os.open(state / "watcher", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as log:
            # A session of its own: neither the stop button nor the end of the kernel's process group reaches it.
            self._watcher = subprocess.Popen(
                [sys.executable, "-I", "-S", watcher.__file__],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=Path.home() if os.name == "nt" else "/",  # its folder can be removed
            )
        self._write(json.dumps(told).encode() + b"\n")

    @property
    def exit_code(self) -> int | None:
        """The exit code, or None while it runs. Negative where a signal ended it."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.state / "ended").read_text())
        code = self._watcher.poll()
        if code is None:
            return None
        return code or 1  # without its watcher it is as good as ended

    def tail(self, lines: int = TAIL) -> str:
        """Its last words: the end of what it wrote to stdout and stderr, without the colours of a terminal."""
        for name in ("log", "watcher"):
            with contextlib.suppress(OSError), (self.state / name).open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - _READ))
                text = _COLOURS.sub("", log.read().decode("utf-8", "replace")).replace("\r", "\n")
                found = [line.rstrip() for line in text.splitlines() if line.strip()]
                if found:
                    return "\n".join(found[-lines:])
        return ""

    def close(self, *, keep: bool = False) -> None:
        """End it and remove its folders, or with ``keep`` only that of its state. Idempotent; in a forked child it does nothing."""
        if self._closed or os.getpid() != self._owner:
            return
        self._closed = True
        self._write(watcher.KEEP if keep else b"s")
        assert self._watcher.stdin is not None
        with contextlib.suppress(OSError):
            self._watcher.stdin.close()
        try:
            self._watcher.wait(CLOSE)
        except subprocess.TimeoutExpired:
            self._watcher.kill()
            self._watcher.wait()
        if self.state.exists():  # somebody killed the watcher
            with contextlib.suppress(OSError, ValueError):
                pid = int((self.state / "pid").read_text())
                if not (self.state / "ended").exists():
                    watcher.kill_group(pid)
            for path in (*(() if keep else self._remove), str(self.state)):
                shutil.rmtree(path, ignore_errors=True)

    def _write(self, data: bytes) -> None:
        assert self._watcher.stdin is not None
        with contextlib.suppress(OSError):  # a watcher that is gone: exit_code tells
            self._watcher.stdin.write(data)
            self._watcher.stdin.flush()


def wait_until(
    process: WatchedProcess,
    ready: Callable[[], bool],
    *,
    seconds: float,
    stopped: Callable[[], bool] = never,
) -> Outcome:
    """Wait for ``ready()``.

    Args:
        process: what should become ready.
        ready: asked some times a second.
        seconds: how long at the most.
        stopped: whether somebody asked to stop.

    Returns:
        ``ready``; ``ended`` where the process ended before; ``late`` where the time is up; ``stopped`` where somebody asked for it.
    """
    deadline = time.monotonic() + seconds
    while True:
        if stopped():
            return "stopped"
        if process.exit_code is not None:
            return "ended"
        if ready():
            # What answers may be another's, that had the port first.
            return "ready" if process.exit_code is None else "ended"
        if time.monotonic() >= deadline:
            return "late"
        time.sleep(BEAT)


def free_ports(count: int) -> tuple[int, ...]:
    """Ports of the loopback address on which nobody listens."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):  # all open at once, so that no port comes twice
            listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            listener.bind(("127.0.0.1", 0))
            ports.append(int(listener.getsockname()[1]))
        return tuple(ports)


def in_use(port: int) -> bool:
    """Whether somebody has the port of the loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what has just ended is no listener
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
