"""The output of runs: bounded, as lines, quick to write to from any thread."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from itertools import groupby, islice
from operator import itemgetter

from flyteagent_nb.masking import Masking

HEAD_LINES = 1_000
"""The first lines of a run that are kept."""

TAIL_LINES = 10_000
"""The last lines of a run that are kept."""

TEXT_LIMIT = 1024 * 1024
"""Characters of a run that are kept; its first lines take a quarter of them at most."""

STORE_LIMIT = 128 * 1024 * 1024
"""Characters that are kept of all runs together."""

_OF_A_BUFFER = 2_000
"""Bytes of a buffer with hardly a line in it. Nobody forgets those of other kernels' runs, which print here too."""

_LOOK_EVERY = 64  # the whole is measured once in so many runs that print

LINE_LIMIT = 64 * 1024
"""Characters of one line that are kept."""

_PENDING_WRITES = 512
_PENDING_TEXT = 2048


class OutputBuffer:
    """The output of one run, as lines: its first HEAD_LINES and its last TAIL_LINES, TEXT_LIMIT characters of them.

    Writes come from any thread. Of a line that was drawn over with carriage returns, a progress bar, the last state is kept. Values known
    as secret are masked in whole lines, so that one that came in two writes is found too.
    """

    def __init__(self, masking: Masking | None = None) -> None:
        self._masking = masking or Masking()
        # Writes are queued as they come and made into lines by the hundred: list.append needs no lock of ours.
        self._pending: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._head: list[str] = []
        self._head_text = 0
        self._head_open = True
        self._tail: deque[str] = deque()
        self._tail_text = 0
        self._count = 0
        self._partial: dict[str, _Partial] = {}
        self._raised = ""

    def write(self, stream: str, text: str) -> None:
        """Add ``text``, which may be a part of a line or many lines, to what ``stream`` has written.

        A traceback that is the same as the one before is told in one line: polls of a job go on while they fail.
        """
        if stream == "traceback" and text:
            again, self._raised = text == self._raised, text
            text = f"{text.splitlines()[-1]} (again)\n" if again else text
        self._pending.append((stream, text))
        if len(self._pending) >= _PENDING_WRITES or len(text) > _PENDING_TEXT:
            with self._lock:
                self._fold()

    def flush(self) -> None:
        """End lines that have no end yet, so that :meth:`since` returns them; for a run that is over."""
        with self._lock:
            self._fold()
            for stream in list(self._partial):
                self._add([self._partial.pop(stream).state()])

    def lines(self) -> list[str]:
        """The lines that are kept, unfinished ones at the end; a line in square brackets stands for those dropped."""
        with self._lock:
            self._fold()
            return [*self._since(0), *self._unfinished()]

    def tail(self, n: int) -> list[str]:
        """The newest ``n`` lines, an unfinished one too."""
        with self._lock:
            self._fold()
            newest = self._unfinished()
            for lines in (self._tail, self._head):
                missing = n - len(newest)
                if missing > 0:
                    newest = [*islice(lines, max(0, len(lines) - missing), None), *newest]
            return newest[-n:]

    def since(self, n: int) -> tuple[list[str], int]:
        """The finished lines from number ``n`` on, and the number to go on with; begin with 0."""
        with self._lock:
            self._fold()
            return self._since(max(n, 0)), self._count

    @property
    def size(self) -> int:
        """Characters that are kept, about, and what it takes to keep them."""
        return self._head_text + self._tail_text + _OF_A_BUFFER

    def _unfinished(self) -> list[str]:
        return [self._masking.text(state) for line in self._partial.values() if (state := line.state())]

    def _since(self, n: int) -> list[str]:
        found = self._head[n:]
        start, kept = max(n, len(self._head)), self._count - len(self._tail)
        if start < kept:
            found.append(f"[… {kept - start:,} lines dropped …]")
        found += islice(self._tail, max(0, start - kept), None)
        return found

    def _fold(self) -> None:
        count = len(self._pending)
        writes = self._pending[:count]
        del self._pending[:count]
        for stream, group in groupby(writes, itemgetter(0)):
            whole = "".join(text for _, text in group)
            if not whole.isascii():  # half of a character: neither a page nor a file takes it
                whole = whole.encode("utf-8", "replace").decode()
            first, *rest = whole.split("\n")
            partial = self._partial.pop(stream, None) or _Partial()
            partial.add(first)
            if rest:
                last = rest.pop()
                self._add([partial.state(), *(_Partial(line).state() if _odd(line) else line for line in rest)])
                partial = _Partial(last)
            if partial:
                self._partial[stream] = partial

    def _add(self, lines: list[str]) -> None:
        self._count += len(lines)
        lines = self._masking.lines(lines)
        tail, size = self._tail, self._tail_text
        for line in lines:
            if self._head_open:
                if len(self._head) < HEAD_LINES and self._head_text + len(line) <= TEXT_LIMIT // 4:
                    self._head.append(line)
                    self._head_text += len(line)
                    continue
                self._head_open = False
            tail.append(line)
            size += len(line)
        limit = TEXT_LIMIT - self._head_text
        while len(tail) > TAIL_LINES or size > limit:
            size -= len(tail.popleft())
        self._tail_text = size


def _odd(line: str) -> bool:
    return "\r" in line or len(line) > LINE_LIMIT


class _Partial:
    """A line that may grow: bounded, and drawn over after each carriage return."""

    __slots__ = ("_cut", "_return", "_text")

    def __init__(self, text: str = "") -> None:
        self._text = ""
        self._cut = 0
        self._return = False  # the cursor stands at the line's start: the next text replaces it
        self.add(text)

    def __bool__(self) -> bool:
        return bool(self._text)

    def add(self, text: str) -> None:
        if not text:
            return
        *drawn, last = text.split("\r")
        if drawn:
            for state in (*drawn, last):
                self._put(state)
                self._return = True
            self._return = not last
        else:
            self._put(text)

    def _put(self, text: str) -> None:
        if not text:
            return
        if self._return:
            self._text, self._cut, self._return = "", 0, False
        room = LINE_LIMIT - len(self._text)
        self._text += text[:room]
        self._cut += max(0, len(text) - room)

    def state(self) -> str:
        if self._cut:
            return f"{self._text} [… {self._cut:,} characters dropped]"
        return "" if self._text.isspace() and self._return else self._text


class OutputStore:
    """The output of all runs: a buffer for each that printed, STORE_LIMIT characters in all; the oldest go first.

    :meth:`sink` is what a :class:`Capture` wants.
    """

    def __init__(self, masking: Masking | None = None) -> None:
        self._masking = masking
        self._buffers: dict[str, OutputBuffer] = {}
        self._made = itertools.count(1)

    def sink(self, run_id: str, stream: str, text: str) -> None:
        """Keep ``text``; on any thread."""
        buffer = self._buffers.get(run_id)
        if buffer is None:
            if next(self._made) % _LOOK_EVERY == 0:
                self._trim()
            # Atomic: one of two threads wins for both.
            buffer = self._buffers.setdefault(run_id, OutputBuffer(self._masking))
        buffer.write(stream, text)

    def get(self, run_id: str) -> OutputBuffer | None:
        """The run's output, or None where it printed nothing."""
        return self._buffers.get(run_id)

    def forget(self, run_id: str) -> None:
        """Drop the run's output, if there is any."""
        self._buffers.pop(run_id, None)

    def _trim(self) -> None:
        buffers = list(self._buffers.items())
        size = sum(buffer.size for _, buffer in buffers)
        for run_id, buffer in buffers:
            if size <= STORE_LIMIT:
                return
            size -= buffer.size
            self.forget(run_id)
