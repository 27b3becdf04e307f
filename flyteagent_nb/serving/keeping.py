"""What runs print, kept on disk a moment later, for a kernel that comes after this one. One thread; a disk that fails is tried again."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import TYPE_CHECKING

from flyteagent_nb.folders import private_folder

if TYPE_CHECKING:
    from pathlib import Path

    from flyteagent_nb.serving.output import OutputBuffer, OutputStore

EVERY = 0.5
"""Seconds between two writes."""

FILE_LIMIT = 4 * 1024 * 1024
"""Bytes that are kept of one run."""


class OutputKeeper:
    """Appends the captured output of runs to ``RUN_ID.log`` in a folder."""

    def __init__(self, store: OutputStore, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._dirty: set[str] = set()
        # The buffer, which the store may drop to hold its limit, its next line, and the bytes written.
        self._places: dict[str, tuple[weakref.ref[OutputBuffer], int, int]] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def sink(self, run_id: str, stream: str, text: str) -> None:
        """Keep ``text`` in the store, and write it soon; on any thread."""
        self._store.sink(run_id, stream, text)
        if run_id in self._dirty:
            return  # what is in the store by now is written with the rest
        with self._lock:  # or it would be put into a set that the thread is done with
            if self._closed:
                return
            if self._thread is None:
                thread = threading.Thread(target=self._main, name="flyteagent_nb-output", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system has no more threads now: as with a disk that fails
                    return
                self._thread = thread
            self._dirty.add(run_id)
        self._wake.set()

    def close(self) -> None:
        """Write what is left. Idempotent."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def _main(self) -> None:
        pause = threading.Event()
        while True:
            self._wake.wait()
            self._wake.clear()
            if not self._closed:
                pause.wait(EVERY)
            closing = self._closed
            with self._lock:
                dirty, self._dirty = self._dirty, set()
            if closing:  # a line that nobody ended was not written so far
                dirty |= self._places.keys()
            for run_id in dirty:
                # What is in memory stays, and is tried again with the next line: nobody must fail for the sake of a copy.
                with contextlib.suppress(OSError):
                    try:
                        self._write(run_id, closing)
                    except FileNotFoundError:  # somebody removed the folder
                        private_folder(self._folder)
                        self._places.clear()
                        self._write(run_id, closing)
            if closing:
                return

    def _write(self, run_id: str, closing: bool) -> None:
        buffer = self._store.get(run_id)
        if buffer is None:
            return
        before, line, size = self._places.get(run_id, (None, 0, 0))
        line = line if before is not None and before() is buffer else 0  # the store had dropped what came first
        if size >= FILE_LIMIT:
            return
        if closing:
            buffer.flush()
        lines, following = buffer.since(line)
        if not lines:
            return
        data = "".join(f"{each}\n" for each in lines).encode("utf-8", errors="replace")
        if size + len(data) > FILE_LIMIT:
            data = data[: FILE_LIMIT - size] + "\n[… the rest was not kept …]\n".encode()
            size = FILE_LIMIT
        descriptor = os.open(self._folder / f"{run_id}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        end = os.fstat(descriptor).st_size  # an earlier kernel may have written some
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
        except OSError:  # a full disk: what is half written would be there twice
            os.ftruncate(descriptor, end)
            raise
        finally:
            os.close(descriptor)
        self._places[run_id] = (weakref.ref(buffer), following, size + len(data))

    def forget(self, run_id: str) -> None:
        """The run is not kept any more, nor is its output in the store."""
        self._store.forget(run_id)
        with self._lock:
            self._dirty.discard(run_id)
        self._places.pop(run_id, None)
