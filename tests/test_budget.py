"""Who may call, and who goes first."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from flyteagent_nb.running.budget import CallBudget

if TYPE_CHECKING:
    from collections.abc import Callable


class Caller:
    """A task that takes a slot and keeps it until it is told."""

    def __init__(self, slot: Callable[[], Any], order: list[str], name: str) -> None:
        self.done = asyncio.Event()
        self.inside = False
        self.task = asyncio.ensure_future(self._call(slot, order, name))

    async def _call(self, slot: Callable[[], Any], order: list[str], name: str) -> None:
        async with slot():
            order.append(name)
            self.inside = True
            await self.done.wait()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("slots", "creates"), [(1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (32, 24)])
def test_some_slots_are_never_a_creates(slots: int, creates: int) -> None:
    async def test() -> None:
        budget = CallBudget(slots)
        order: list[str] = []
        creating = [Caller(budget.create, order, "create") for _ in range(slots * 2)]
        await settle()
        assert order.count("create") == creates
        following = [Caller(budget.follow, order, "get") for _ in range(slots * 2)]
        await settle()
        assert order.count("get") == slots - creates
        for caller in (*creating, *following):
            caller.done.set()
        await asyncio.gather(*(caller.task for caller in (*creating, *following)))
        assert len(order) == 4 * slots

    asyncio.run(test())


def test_polls_go_before_creates_that_have_waited_longer() -> None:
    async def test() -> None:
        budget = CallBudget(1)
        order: list[str] = []
        first = Caller(budget.follow, order, "first")
        await settle()
        creates = [Caller(budget.create, order, "create") for _ in range(3)]
        await settle()
        gets = [Caller(budget.follow, order, "get") for _ in range(3)]
        await settle()
        for caller in (*creates, *gets, first):
            caller.done.set()
        await asyncio.gather(*(caller.task for caller in (first, *creates, *gets)))
        assert order == ["first", "get", "get", "get", "create", "create", "create"]

    asyncio.run(test())


@pytest.mark.parametrize("kind", ["follow", "create"])
@pytest.mark.parametrize("steps", range(8))
def test_a_waiter_that_leaves_takes_no_slot_along(kind: str, steps: int) -> None:
    """It leaves while it waits, just as it is served, and later: each step of the loop is one of these moments."""

    async def test() -> None:
        budget = CallBudget(2)
        order: list[str] = []
        holding = [Caller(budget.follow, order, "get") for _ in range(2)]
        await settle()
        leaving = Caller(getattr(budget, kind), order, "leaving")
        await settle()
        for caller in holding:
            caller.done.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        leaving.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving.task
        await asyncio.gather(*(caller.task for caller in holding))
        assert (budget._free, budget._creating) == (2, 0)

    asyncio.run(test())


def test_a_call_that_fails_gives_its_slot_back() -> None:
    async def test() -> None:
        budget = CallBudget(1)
        for slot in (budget.follow, budget.create, budget.execute):
            for _ in range(3):
                with pytest.raises(ValueError, match="no"):
                    async with slot():
                        raise ValueError("no")
        async with budget.follow(), budget.execute():
            pass
        assert (budget._free, budget._creating) == (1, 0)

    asyncio.run(test())
