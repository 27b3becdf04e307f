"""The record of what was asked of agent services: the intent before a create leaves, the resource meta right after it returns.

The runner writes through the protocol. In memory a journal lives as long as the process; ``sqlite_journal`` keeps it on disk, which lets a
later kernel find the jobs of this one. Nothing here imports flytekit or gRPC: what is on record can be told before they are loaded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from flyteagent_nb.errors import FlyteAgentNBError
from flyteagent_nb.running.clocks import machine_clock

KEPT_IN_JOURNAL = 64 * 1024
"""Bytes of literals that are kept in the journal itself; more are a file in the run's folder."""

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flyteagent_nb.running.run import RunSnapshot


class LostError(FlyteAgentNBError):
    """Another kernel has taken over a run: nothing may be written of it here, and no job created for it."""


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
        intended: when the create was about to leave, in seconds since the epoch.
        clock: the same by the machine's own clock, as ``machine_clock`` tells it; empty where that is not on record.
    """

    number: int
    service: str
    output_prefix: str
    resource_meta: bytes | None = field(default=None, repr=False)  # an agent may put a secret into it
    outcome: str = "intended"
    message: str = ""
    intended: float = field(default_factory=time.time)
    clock: str = field(default_factory=machine_clock)


@dataclass(frozen=True, slots=True)
class Sent:
    """What a run was made of: enough to follow its job without the object that started it.

    Attributes:
        template: the task's template, serialized.
        inputs: the literals, serialized, or None where they are too large to be kept.
        output_types: the Python type of each output and the name of their tuple, as ``type_records`` writes them.
    """

    template: bytes
    inputs: bytes | None
    output_types: Mapping[str, object]


@dataclass(frozen=True)
class Owner:
    """A kernel that follows runs, or did.

    Attributes:
        id: its own.
        host: the machine's name.
        pid: its process.
        kernel: the kernel's id, as Jupyter has it, or an empty string.
        alive: whether it still is there, as far as can be known from here.
    """

    id: str
    host: str
    pid: int
    kernel: str
    alive: bool

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class RunRecord:
    """A run on record.

    Attributes:
        snapshot: its last known state.
        sent: what it was made of.
        attempts: oldest first.
        outputs: the literals that it came to, serialized, or None.
        owner: who follows it, or did last.
        epoch: how often it changed hands; every write carries it.
        folder: the root of the folders that hold its files, and its captured output.
    """

    snapshot: RunSnapshot
    sent: Sent
    attempts: tuple[AttemptRecord, ...]
    outputs: bytes | None
    owner: Owner
    epoch: int
    folder: str


class Journal(Protocol):
    """What the runner tells of its steps. On the loop's thread, but for :meth:`attempts`."""

    def begin(self, snapshot: RunSnapshot, sent: Sent) -> None:
        """A run is about to make its first call."""

    def adopt(self, record: RunRecord) -> None:
        """A run of another kernel is followed here from now on; it is taken over already."""

    async def intend(self, run_id: str, attempt: AttemptRecord) -> None:
        """CreateTask is about to leave. Returns once that is on record."""

    async def created(self, run_id: str, resource_meta: bytes) -> None:
        """CreateTask returned. Returns once that is on record."""

    async def ended(self, run_id: str, outcome: str, message: str = "") -> None:
        """The attempt under way is over."""

    async def confirm(self, run_id: str) -> None:
        """The run's job is about to be deleted. Raises LostError where another kernel has the run now."""

    def changed(self, snapshot: RunSnapshot) -> None:
        """A run has a new state; the last one counts."""

    def finished(self, snapshot: RunSnapshot, outputs: bytes | None) -> None:
        """A run has ended."""

    def released(self, run_id: str) -> None:
        """A run is not followed any more, and has not ended: another kernel may take it over."""

    def attempts(self, run_id: str) -> tuple[AttemptRecord, ...]:
        """The attempts of a run, oldest first; empty where it is not known."""

    def forget(self, run_ids: Sequence[str]) -> None:
        """Drop runs from memory."""

    def on_lost(self, callback: Callable[[str], object]) -> None:
        """Call ``callback(run_id)`` where another kernel has taken over a run of this one. Any thread."""

    def close(self) -> None:
        """Write what is left. Idempotent; any thread but the loop's."""


class MemoryJournal:
    """A journal that lives as long as the process."""

    def __init__(self) -> None:
        self._attempts: dict[str, tuple[AttemptRecord, ...]] = {}

    def begin(self, snapshot: RunSnapshot, sent: Sent) -> None:
        """A run is about to make its first call."""

    def adopt(self, record: RunRecord) -> None:
        """A run of another kernel is followed here from now on."""
        self._attempts[record.snapshot.id] = record.attempts

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

    async def confirm(self, run_id: str) -> None:
        """The run's job is about to be deleted."""

    def changed(self, snapshot: RunSnapshot) -> None:
        """A run has a new state."""

    def finished(self, snapshot: RunSnapshot, outputs: bytes | None) -> None:
        """A run has ended."""

    def released(self, run_id: str) -> None:
        """A run is not followed any more."""

    def attempts(self, run_id: str) -> tuple[AttemptRecord, ...]:
        """The attempts of a run, oldest first; empty where it is not known."""
        return self._attempts.get(run_id, ())

    def forget(self, run_ids: Sequence[str]) -> None:
        """Drop runs."""
        for run_id in run_ids:
            self._attempts.pop(run_id, None)

    def on_lost(self, callback: Callable[[str], object]) -> None:
        """Nobody else knows of this journal."""

    def close(self) -> None:
        """Nothing is left to write."""
