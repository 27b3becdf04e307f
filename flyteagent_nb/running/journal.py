"""The record of what was asked of agent services: the intent before a create leaves, the resource meta right after it returns.

The runner writes through the protocol; this one is kept in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class AttemptRecord:
    """One attempt of a run.

    Attributes:
        number: from 1.
        service: the service's name.
        output_prefix: where its outputs go.
        resource_meta: what create returned, or None.
        outcome: ``intended``, ``created``, ``unknown`` (a create that ended without an answer), or the final phase's name.
        message: the last error or message of the attempt.
    """

    number: int
    service: str
    output_prefix: str
    resource_meta: bytes | None = None
    outcome: str = "intended"
    message: str = ""


class Journal(Protocol):
    """What the runner tells of its steps. A method returns once the step is on record."""

    async def intend(self, run_id: str, attempt: AttemptRecord) -> None:
        """CreateTask is about to leave."""

    async def created(self, run_id: str, resource_meta: bytes) -> None:
        """CreateTask returned."""

    async def ended(self, run_id: str, outcome: str, message: str = "") -> None:
        """The attempt under way is over."""

    def attempts(self, run_id: str) -> tuple[AttemptRecord, ...]:
        """The attempts of a run, oldest first; empty where it is not known."""

    def forget(self, run_id: str) -> None:
        """Drop a run."""


class MemoryJournal:
    """A journal that lives as long as the process."""

    def __init__(self) -> None:
        self._attempts: dict[str, tuple[AttemptRecord, ...]] = {}

    async def intend(self, run_id: str, attempt: AttemptRecord) -> None:
        """CreateTask is about to leave."""
        self._attempts[run_id] = (*self._attempts.get(run_id, ()), attempt)

    async def created(self, run_id: str, resource_meta: bytes) -> None:
        """CreateTask returned."""
        attempt = self._attempts[run_id][-1]
        attempt.resource_meta = resource_meta
        attempt.outcome = "created"

    async def ended(self, run_id: str, outcome: str, message: str = "") -> None:
        """The attempt under way is over."""
        attempt = self._attempts[run_id][-1]
        attempt.outcome = outcome
        attempt.message = message

    def attempts(self, run_id: str) -> tuple[AttemptRecord, ...]:
        """The attempts of a run, oldest first; empty where it is not known."""
        return self._attempts.get(run_id, ())

    def forget(self, run_id: str) -> None:
        """Drop a run."""
        self._attempts.pop(run_id, None)
