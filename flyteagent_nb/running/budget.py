"""How many calls are under way at once, and who goes first: polls and deletes before creates."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SYNC_FACTOR = 8
"""A sync call may wait on an API for seconds and costs nothing meanwhile: so many more of them may be under way."""


class CallBudget:
    """Slots for calls of agent services, over all runs. On the loop's thread only."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._sync = asyncio.Semaphore(slots * SYNC_FACTOR)
        self._first: collections.deque[asyncio.Future[None]] = collections.deque()
        self._second: collections.deque[asyncio.Future[None]] = collections.deque()

    @contextlib.asynccontextmanager
    async def follow(self) -> AsyncIterator[None]:
        """A slot for a get or a delete: the next one that comes free."""
        await self._take(self._first)
        try:
            yield
        finally:
            self._give()

    @contextlib.asynccontextmanager
    async def create(self) -> AsyncIterator[None]:
        """A slot for a create: when nobody waits to follow a job."""
        await self._take(self._second)
        try:
            yield
        finally:
            self._give()

    @contextlib.asynccontextmanager
    async def execute(self) -> AsyncIterator[None]:
        """A slot for a sync call."""
        async with self._sync:
            yield

    async def _take(self, queue: collections.deque[asyncio.Future[None]]) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give()  # the slot came just as the waiter left
            raise

    def _give(self) -> None:
        for queue in (self._first, self._second):
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._free += 1
