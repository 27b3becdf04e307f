"""A run under way, as its runner and its attempt see it; on the loop's thread only."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flyteidl.core.literals_pb2 import LiteralMap

    from flyteagent_nb.config import Settings
    from flyteagent_nb.running.journal import RunRecord
    from flyteagent_nb.running.routing import Resolved
    from flyteagent_nb.running.run import Run
    from flyteagent_nb.running.tasks import TaskCall


@dataclass(slots=True, eq=False)
class Driven:
    """A run under way, as the runner sees it."""

    run: Run
    call: TaskCall
    settings: Settings
    service: str | None
    started: float
    nested: bool = False  # an agent's own code started it, and may wait for it
    cancelled: bool = False
    began: float | None = None  # when its first call left
    waiter: asyncio.Future[None] | None = None
    in_call: asyncio.Task[Any] | None = None
    record: RunRecord | None = None  # where it was attached
    resolved: Resolved | None = None  # who has its job, then
    outputs: LiteralMap | None = None  # what it came to, as literals
    creating: bool = False  # a create is under way, or its answer is not on record yet
    lost: bool = False  # another kernel follows it now
    task: asyncio.Task[None] | None = None
    recorded: bool = False

    def wake(self) -> None:
        """End its pause, where it is in one."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def pause(self, seconds: float) -> None:
        """Wait, or be woken by a cancel."""
        if self.cancelled:
            return
        loop = asyncio.get_running_loop()
        self.waiter = waiter = loop.create_future()
        timer = loop.call_later(seconds, self.wake)
        try:
            await waiter
        finally:
            timer.cancel()
            self.waiter = None
