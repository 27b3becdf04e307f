"""How many calls are under way at once, and who goes first: polls and deletes before creates."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SYNC_FACTOR = 8
"""A sync call may wait on an API for seconds and costs nothing meanwhile: so many more of them may be under way."""

KEPT_FREE = 4
"""One slot in so many is never a create's: creates that hang hold up neither polls nor a cancel."""


class CallBudgets:
    """The slots of each agent service: one that hangs keeps its own, and holds up no other's runs. On the loop's thread only.

    Attributes:
        slots: how many each has.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._by_service: dict[str, CallBudget] = {}

    def of(self, service: str) -> CallBudget:
        """The slots of a service."""
        budget = self._by_service.get(service)
        if budget is None:
            budget = self._by_service[service] = CallBudget(self.slots)
        return budget


class CallBudget:
    """Slots for calls of one agent service, over all runs. On the loop's thread only.

    Attributes:
        slots: how many there are.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._free = slots
        self._creating = 0
        self._most_creating = max(1, slots - max(1, slots // KEPT_FREE))
        self._sync = asyncio.Semaphore(slots * SYNC_FACTOR)
        self._first: collections.deque[asyncio.Future[None]] = collections.deque()
        self._second: collections.deque[asyncio.Future[None]] = collections.deque()

    @contextlib.asynccontextmanager
    async def follow(self, nested: bool = False) -> AsyncIterator[None]:
        """A slot for a get or a delete: the next one that comes free; ``nested`` as for a create."""
        if nested:
            yield
            return
        if self._free:
            self._free -= 1
        else:
            await self._wait(self._first, self._give)
        try:
            yield
        finally:
            self._give()

    @contextlib.asynccontextmanager
    async def create(self, nested: bool = False) -> AsyncIterator[None]:
        """A slot for a create: when nobody waits to follow a job.

        Args:
            nested: an agent's own code waits for it and holds a slot itself: it takes none, or all might wait for each other.
        """
        if nested:
            yield
            return
        if self._free and self._creating < self._most_creating:
            self._free -= 1
            self._creating += 1
        else:
            await self._wait(self._second, self._give_created)
        try:
            yield
        finally:
            self._give_created()

    def execute(self, nested: bool = False) -> contextlib.AbstractAsyncContextManager[None]:
        """A slot for a sync call; ``nested`` as for a create."""
        return contextlib.nullcontext() if nested else self._sync

    async def _wait(self, queue: collections.deque[asyncio.Future[None]], give_back: Callable[[], None]) -> None:
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                give_back()  # the slot came just as the waiter left
            raise

    def _give_created(self) -> None:
        self._creating -= 1
        self._give()

    def _give(self) -> None:
        if _serve(self._first):
            return
        if self._creating < self._most_creating and _serve(self._second):
            self._creating += 1
            return
        self._free += 1


def _serve(queue: collections.deque[asyncio.Future[None]]) -> bool:
    while queue:
        turn = queue.popleft()
        if not turn.done():
            turn.set_result(None)
            return True
    return False
