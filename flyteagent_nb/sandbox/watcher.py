"""The watcher: a small process that starts a server for the kernel, and ends it and its files when the kernel is gone, however it went.

Run as a script, with the standard library alone. Its stdin is a pipe from the kernel: one line of JSON, then nothing until one byte more or
the end of the pipe says that it is over. A kernel that is killed closes the pipe too; where a forked child of the kernel still holds it,
the kernel's place as the parent tells.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

GRACE = 2.0
"""Seconds that the server has to end by itself."""

BEAT = 0.1
"""Seconds between two looks at the server and at the kernel."""

KEEP = b"k"
"""The byte that says: it is over, and the folders in ``remove`` stay."""

_asked: list[int] = []


def main() -> None:
    """Start what stdin says, and stay until the kernel has gone or says stop."""
    if sys.platform != "win32":
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the stop button is for the kernel
    os.umask(0o077)  # what it and the server write is this user's alone
    signal.signal(signal.SIGTERM, lambda signum, _: _asked.append(signum))
    line = _line()
    if not line:
        return
    told = json.loads(line)
    state = Path(told["state"])
    over, said = threading.Event(), bytearray()
    threading.Thread(target=_wait_for_the_end, args=(over, said), daemon=True).start()
    try:
        server = _start(told, state)
        while not (over.wait(BEAT) or _asked or _orphaned(told["kernel"])):
            if server is not None and server.poll() is not None:
                _write(state / "ended", str(server.returncode))
                kill_group(server.pid)  # at once: later the number may be another's
                server = None
        if server is not None:
            _end(server)
    finally:
        for path in ([] if said == KEEP else told["remove"]) + [told["state"]]:
            _remove(path)


def _line() -> bytes:
    """The first line of stdin, byte by byte: what follows is for :func:`_wait_for_the_end`."""
    read = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        read += byte
    return bytes(read)


def _wait_for_the_end(over: threading.Event, said: bytearray) -> None:
    with contextlib.suppress(OSError):
        said += os.read(0, 1)
    over.set()


def _orphaned(kernel: int) -> bool:
    return os.name == "posix" and os.getppid() != kernel


def _start(told: dict[str, object], state: Path) -> subprocess.Popen[bytes] | None:
    with (state / "log").open("ab") as log:
        try:
            server = subprocess.Popen(
                told["command"],  # type: ignore[call-overload]
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=told["cwd"],
                env=told["environment"],
                start_new_session=True,
            )
        except OSError as error:
            log.write(f"{error}\n".encode())
            log.flush()
            _write(state / "ended", "127")
            return None
    _write(state / "pid", str(server.pid))
    return server  # type: ignore[no-any-return]


def _write(path: Path, text: str) -> None:
    """Whoever finds the file finds all of it."""
    half = path.with_suffix(".half")
    half.write_text(text)
    half.replace(path)


def _end(server: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        kill_group(server.pid)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(GRACE)
        kill_group(server.pid)
    server.wait()


def kill_group(pid: int) -> None:
    """Kill what is left of a process and its children."""
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(pid)], capture_output=True, check=False)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _remove(path: str) -> None:
    """Remove a folder; files that a killed process still had open may take a moment where they cannot go at once."""
    for _ in range(20):
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path):
            return
        time.sleep(BEAT)


if __name__ == "__main__":
    main()
