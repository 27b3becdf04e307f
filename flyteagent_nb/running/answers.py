"""What a thread's work came to, told to whoever waits for it: other threads, and coroutines of a loop."""

from __future__ import annotations

import concurrent.futures
import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable


class Answer:
    """What some work came to, for a thread or for a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop = loop
        self.on_loop: asyncio.Future[Any] | None = loop.create_future() if loop is not None else None
        self._future: concurrent.futures.Future[Any] | None = concurrent.futures.Future() if loop is None else None

    def set_result(self, value: Any) -> None:
        """Wake who waits: on a thread at once, on the loop from the loop's own thread. Only the first call counts."""
        future: Any = self._future if self._future is not None else self.on_loop
        if not future.done():
            future.set_exception(value) if isinstance(value, BaseException) else future.set_result(value)

    def result(self, timeout: float) -> Any:
        """Wait, on a thread."""
        assert self._future is not None
        return self._future.result(timeout)


def tell(answers: Iterable[tuple[Answer, Any]]) -> None:
    """Wake all who wait; those on a loop by one call for all of them."""
    on_loop: dict[asyncio.AbstractEventLoop, list[tuple[Answer, Any]]] = {}
    for answer, value in answers:
        if answer.loop is None:
            answer.set_result(value)
        else:
            on_loop.setdefault(answer.loop, []).append((answer, value))

    def wake(those: list[tuple[Answer, Any]]) -> None:
        for answer, value in those:
            answer.set_result(value)

    for loop, those in on_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop has ended, and who waited with it
            loop.call_soon_threadsafe(wake, those)
