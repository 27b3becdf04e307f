"""The rules of FlytePropeller for a task that an agent serves, pure: no I/O, no clock, no gRPC, no randomness of its own.

The numbers are those of the project's list of rules. Read off Flyte 1.16.8: ``flyteplugins/go/tasks/plugins/webapi/connector``,
``flyteplugins/go/tasks/pluginmachinery/internal/webapi`` and ``flytepropeller/pkg/controller/nodes``. Where we do otherwise on
purpose, the docstring says "ours". Five have a module of their own: rules 1 to 3 :mod:`.routing`, 11 :mod:`.rendering`,
12 :mod:`.metadata`, 19 :mod:`.interface`, 23 :mod:`.pace`.

Attempts are counted from 1, times are in seconds.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flyteidl.core.errors_pb2 import ContainerError
from flyteidl.core.execution_pb2 import ExecutionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flyteidl.admin.agent_pb2 import Resource
    from flyteidl.core.errors_pb2 import ErrorDocument

DEFAULT_DEADLINE = 10.0
"""Seconds that propeller's default service has for a call; a named service has none unless it is configured."""

TASK_FAILED = "TaskFailedWithError"
"""The code of a failure that nobody named."""

TIMED_OUT = "TimeoutExpired"
"""The code of an attempt or a run that took too long."""

OUTPUTS_NOT_FOUND = "OutputsNotFound"
"""The code where outputs are declared and neither the reply nor the storage has them."""


class UnknownPhaseError(ValueError):
    """A phase or state that Flyte does not have: an error of that poll, not of the run (rule 14)."""


class SyncNotFinalError(ValueError):
    """A sync agent replied with a phase that is not final: there is nothing to poll (rule 10)."""


class Phase(enum.IntEnum):
    """flyteidl's TaskExecution.Phase, by its numbers."""

    UNDEFINED = 0
    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    ABORTED = 4
    FAILED = 5
    INITIALIZING = 6
    WAITING_FOR_RESOURCES = 7
    RETRYABLE_FAILED = 8

    @property
    def final(self) -> bool:
        """Whether nothing comes after it."""
        return self in _FINAL


class Step(enum.Enum):
    """What to do after a reply."""

    WAIT = "wait"
    READ_OUTPUTS = "read outputs"
    RETRY = "retry"
    FAIL = "fail"


_FINAL = frozenset({Phase.SUCCEEDED, Phase.ABORTED, Phase.FAILED, Phase.RETRYABLE_FAILED})
_PHASES: dict[int, Phase] = {int(phase): phase for phase in Phase if phase is not Phase.UNDEFINED}
_STATES: dict[int, Phase] = {
    0: Phase.RETRYABLE_FAILED,
    1: Phase.FAILED,
    2: Phase.INITIALIZING,
    3: Phase.RUNNING,
    4: Phase.SUCCEEDED,
}
_STEPS = {
    Phase.QUEUED: Step.WAIT,
    Phase.WAITING_FOR_RESOURCES: Step.WAIT,
    Phase.INITIALIZING: Step.WAIT,
    Phase.RUNNING: Step.WAIT,
    Phase.SUCCEEDED: Step.READ_OUTPUTS,
    Phase.FAILED: Step.FAIL,
    Phase.ABORTED: Step.FAIL,
    Phase.RETRYABLE_FAILED: Step.RETRY,
}


def resolve_phase(resource: Resource) -> Phase:
    """The phase of a reply; UNDEFINED falls back on the deprecated ``state``, whose zero is RETRYABLE_FAILED (rules 14, 15).

    Raises:
        UnknownPhaseError: a number that Flyte does not have.
    """
    number = resource.phase
    phase = _PHASES.get(number) if number else _STATES.get(resource.state)
    if phase is None:
        wrong = f"phase {number}" if number else f"state {resource.state}"
        raise UnknownPhaseError(f"the agent replied with {wrong}, which Flyte does not know")
    return phase


def next_step(phase: Phase) -> Step:
    """What follows on ``phase``: FAILED and ABORTED end the run even when retries are left (rule 14)."""
    step = _STEPS.get(phase)
    if step is None:
        raise UnknownPhaseError(f"nothing follows on {phase!r}")
    return step


def sync_step(phase: Phase) -> Step:
    """What follows on the reply of a sync agent (rule 10).

    Raises:
        SyncNotFinalError: the phase is not final.
    """
    if not phase.final:
        raise SyncNotFinalError(
            f"the sync agent replied with {phase.name}: a sync agent's do() has to return a final phase, for nobody polls it"
        )
    return next_step(phase)


def deadline(operation: str, timeouts: Mapping[str, float], default: float | None) -> float | None:
    """The seconds that a call may take: its own, else ``default``; None, or a zero in either place, is no deadline (rule 6).

    Args:
        operation: CreateTask, GetTask, DeleteTask, ExecuteTaskSync or ListAgents (propeller's newer section: ListConnectors).
        timeouts: seconds by operation.
        default: the service's own default.
    """
    seconds = timeouts.get(operation, default)
    if operation == "ListAgents" and operation not in timeouts:
        seconds = timeouts.get("ListConnectors", default)
    return seconds or None


# Failures


@dataclass(frozen=True)
class Failure:
    """Why an attempt or a run failed.

    Attributes:
        code: as propeller records it.
        message: what went wrong, as propeller words it.
        retryable: whether it uses a retry rather than ending the run.
        kind: ``USER``, ``SYSTEM`` or ``UNKNOWN``.
    """

    code: str
    message: str
    retryable: bool
    kind: str = "USER"


def failure_of(resource: Resource, phase: Phase) -> Failure:
    """The failure that a reply tells of (rule 16).

    ``agent_error.code`` names it; its kind and origin mean nothing to propeller. Ours: propeller reads the code of sync agents
    only, and drops the agent's message from an ABORTED reply.

    Raises:
        ValueError: ``phase`` is no failure.
    """
    if phase not in (Phase.FAILED, Phase.ABORTED, Phase.RETRYABLE_FAILED):
        raise ValueError(f"{phase.name} is no failure")
    message = resource.message
    if phase is Phase.ABORTED:
        text = "failed to run the job with aborted phase." + (f" {message}" if message else "")
    else:
        text = f"failed to run the job: {message}" if message else "failed to run the job."
    return Failure(resource.agent_error.code or TASK_FAILED, text, phase is Phase.RETRYABLE_FAILED)


def failure_of_document(document: ErrorDocument) -> Failure:
    """The failure that a job wrote as error.pb; RECOVERABLE uses a retry (rule 18)."""
    if not document.HasField("error"):
        return Failure("ErrorFileBadFormat", "error.pb holds no error", retryable=True, kind="SYSTEM")
    error = document.error
    kinds = ExecutionError.ErrorKind
    # A newer flyteidl may know more origins than ours.
    kind = str(kinds.Name(error.origin)) if error.origin in kinds.values() else "UNKNOWN"
    return Failure(error.code, error.message, bool(error.kind == ContainerError.RECOVERABLE), kind)


def outputs_not_found() -> Failure:
    """Outputs are declared, and there are none (rule 18)."""
    return Failure(OUTPUTS_NOT_FOUND, "Outputs not generated by task execution", retryable=True, kind="UNKNOWN")


def create_failed(message: str) -> Failure:
    """A create that failed, for whatever reason: it uses one of the user's retries (rule 20)."""
    return Failure(TASK_FAILED, message, retryable=True)


def attempt_timed_out(timeout: float) -> Failure:
    """An attempt that took longer than the task's timeout (rule 22)."""
    return Failure(TIMED_OUT, f"task execution timeout [{timeout:g}s] expired", retryable=True)


def run_timed_out(limit: float) -> Failure:
    """A run that took longer than :func:`run_limit` (rule 22). The code is ours; propeller gives none."""
    return Failure(TIMED_OUT, f"task active timeout [{limit:g}s] expired", retryable=False)


def polls_failed(message: str) -> Failure:
    """Too many polls failed, the last with ``message`` (rule 23)."""
    return Failure("AutoRefreshCacheFailed", message, retryable=False)


def exhausted(failure: Failure, attempt: int, attempts: int) -> Failure:
    """What a retryable failure becomes when no retry is left, also where there was none to begin with (rule 21).

    A failure that is not retryable comes back as it is.
    """
    if not failure.retryable:
        return failure
    message = f"[{attempt}/{attempts}] currentAttempt done. Last Error: {failure.kind}::{failure.message}"
    return Failure(f"RetriesExhausted|{failure.code}", message, retryable=False)


# Outputs, time limits


class OutputsSource(enum.Enum):
    """Where a succeeded job's outputs are."""

    NONE = "none"
    REPLY = "reply"
    STORAGE = "storage"


def outputs_source(declares_outputs: bool, resource: Resource) -> OutputsSource:
    """Where to read the outputs: nowhere if none are declared, from the reply if it has any, even empty ones (rules 17, 18)."""
    if not declares_outputs:
        return OutputsSource.NONE
    return OutputsSource.REPLY if resource.HasField("outputs") else OutputsSource.STORAGE


def run_limit(timeout: float | None) -> float | None:
    """The seconds that all attempts have together, twice the task's timeout; None where it has none (rule 22)."""
    return 2 * timeout if timeout and timeout > 0 else None
