"""The rules of FlytePropeller, a row a rule; the ids carry the rule's number."""

from __future__ import annotations

import subprocess
import sys

import pytest
from flyteidl.admin.agent_pb2 import DESCRIPTOR as AGENT
from flyteidl.admin.agent_pb2 import AgentError, Resource, State
from flyteidl.core.errors_pb2 import ContainerError, ErrorDocument
from flyteidl.core.execution_pb2 import ExecutionError, TaskExecution
from flyteidl.core.literals_pb2 import LiteralMap

from flyteagent_nb.running import propeller
from flyteagent_nb.running.propeller import (
    Failure,
    OutputsSource,
    Phase,
    Step,
    SyncNotFinalError,
    UnknownPhaseError,
    attempt_timed_out,
    create_failed,
    deadline,
    exhausted,
    failure_of,
    failure_of_document,
    next_step,
    outputs_not_found,
    outputs_source,
    polls_failed,
    resolve_phase,
    run_limit,
    run_timed_out,
    sync_step,
)

FINAL = {Phase.SUCCEEDED, Phase.ABORTED, Phase.FAILED, Phase.RETRYABLE_FAILED}


def test_rule14_phases_are_flyteidls() -> None:
    assert {phase.name: int(phase) for phase in Phase} == dict(TaskExecution.Phase.items())


def test_rule15_states_are_flyteidls() -> None:
    assert dict(State.items()) == {
        "RETRYABLE_FAILURE": 0,
        "PERMANENT_FAILURE": 1,
        "PENDING": 2,
        "RUNNING": 3,
        "SUCCEEDED": 4,
    }
    assert "state" in AGENT.message_types_by_name["Resource"].fields_by_name


@pytest.mark.parametrize("phase", [pytest.param(phase, id=f"rule14-{phase.name}") for phase in Phase])
def test_final(phase: Phase) -> None:
    assert phase.final == (phase in FINAL)


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        *(pytest.param(Resource(phase=int(p)), p, id=f"rule14-{p.name}") for p in Phase if p),
        pytest.param(Resource(phase=2, state=1), Phase.RUNNING, id="rule15-phase-wins-over-state"),
        pytest.param(Resource(), Phase.RETRYABLE_FAILED, id="rule15-empty-reply"),
        pytest.param(Resource(state=1), Phase.FAILED, id="rule15-permanent-failure"),
        pytest.param(Resource(state=2), Phase.INITIALIZING, id="rule15-pending"),
        pytest.param(Resource(state=3), Phase.RUNNING, id="rule15-running"),
        pytest.param(Resource(state=4), Phase.SUCCEEDED, id="rule15-succeeded"),
    ],
)
def test_resolve_phase(resource: Resource, expected: Phase) -> None:
    assert resolve_phase(resource) is expected


@pytest.mark.parametrize(
    ("resource", "named"),
    [
        pytest.param(Resource(phase=99), "phase 99", id="rule14-phase"),
        pytest.param(Resource(phase=99, state=4), "phase 99", id="rule14-phase-hides-state"),
        pytest.param(Resource(state=7), "state 7", id="rule14-state"),
    ],
)
def test_unknown_phase(resource: Resource, named: str) -> None:
    with pytest.raises(UnknownPhaseError, match=named):
        resolve_phase(resource)


@pytest.mark.parametrize(
    ("phase", "step"),
    [
        pytest.param(Phase.QUEUED, Step.WAIT, id="rule14-QUEUED"),
        pytest.param(Phase.WAITING_FOR_RESOURCES, Step.WAIT, id="rule14-WAITING_FOR_RESOURCES"),
        pytest.param(Phase.INITIALIZING, Step.WAIT, id="rule14-INITIALIZING"),
        pytest.param(Phase.RUNNING, Step.WAIT, id="rule14-RUNNING"),
        pytest.param(Phase.SUCCEEDED, Step.READ_OUTPUTS, id="rule14-SUCCEEDED"),
        pytest.param(Phase.FAILED, Step.FAIL, id="rule14-FAILED"),
        pytest.param(Phase.ABORTED, Step.FAIL, id="rule14-ABORTED"),
        pytest.param(Phase.RETRYABLE_FAILED, Step.RETRY, id="rule14-RETRYABLE_FAILED"),
    ],
)
def test_next_step(phase: Phase, step: Step) -> None:
    assert next_step(phase) is step
    if phase.final:
        assert sync_step(phase) is step
    else:
        with pytest.raises(SyncNotFinalError, match=phase.name):  # rule 10
            sync_step(phase)


def test_rule14_nothing_follows_on_undefined() -> None:
    with pytest.raises(UnknownPhaseError):
        next_step(Phase.UNDEFINED)


@pytest.mark.parametrize(
    ("operation", "timeouts", "default", "expected"),
    [
        pytest.param("GetTask", {"GetTask": 3.0}, 10.0, 3.0, id="rule6-own"),
        pytest.param("GetTask", {"CreateTask": 3.0}, 10.0, 10.0, id="rule6-default"),
        pytest.param("GetTask", {}, None, None, id="rule6-none"),
        pytest.param("GetTask", {"GetTask": 0.0}, 10.0, None, id="rule6-own-zero-is-none"),
        pytest.param("GetTask", {}, 0.0, None, id="rule6-default-zero-is-none"),
        pytest.param("ListAgents", {"ListConnectors": 4.0}, 10.0, 4.0, id="rule6-newer-name-of-listing"),
        pytest.param(
            "ListAgents", {"ListAgents": 2.0, "ListConnectors": 4.0}, 10.0, 2.0, id="rule6-both-names-of-listing"
        ),
        pytest.param("GetTask", {"ListConnectors": 4.0}, 10.0, 10.0, id="rule6-newer-name-is-for-listing"),
    ],
)
def test_deadline(operation: str, timeouts: dict[str, float], default: float | None, expected: float | None) -> None:
    assert deadline(operation, timeouts, default) == expected


def test_rule6_the_default_service_has_ten_seconds() -> None:
    assert propeller.DEFAULT_DEADLINE == 10.0


@pytest.mark.parametrize(
    ("resource", "phase", "expected"),
    [
        pytest.param(
            Resource(message="boom"),
            Phase.FAILED,
            Failure("TaskFailedWithError", "failed to run the job: boom", False, "USER"),
            id="rule16-nobody-names-it",
        ),
        pytest.param(
            Resource(message="boom", agent_error=AgentError(code="Quota", kind=AgentError.RECOVERABLE)),
            Phase.FAILED,
            Failure("Quota", "failed to run the job: boom", False),
            id="rule16-code-names-it-and-kind-means-nothing",
        ),
        pytest.param(
            Resource(agent_error=AgentError()),
            Phase.RETRYABLE_FAILED,
            Failure("TaskFailedWithError", "failed to run the job.", True),
            id="rule16-empty-code",
        ),
        pytest.param(
            Resource(),
            Phase.ABORTED,
            Failure("TaskFailedWithError", "failed to run the job with aborted phase.", False),
            id="rule16-aborted",
        ),
        pytest.param(
            Resource(message="by bob"),
            Phase.ABORTED,
            Failure("TaskFailedWithError", "failed to run the job with aborted phase. by bob", False),
            id="rule16-aborted-keeps-the-message",
        ),
    ],
)
def test_failure_of(resource: Resource, phase: Phase, expected: Failure) -> None:
    assert failure_of(resource, phase) == expected


@pytest.mark.parametrize("phase", [Phase.SUCCEEDED, Phase.RUNNING])
def test_rule16_no_failure_in_what_did_not_fail(phase: Phase) -> None:
    with pytest.raises(ValueError, match=phase.name):
        failure_of(Resource(), phase)


def _document(**fields: object) -> ErrorDocument:
    return ErrorDocument(error=ContainerError(**fields))


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param(
            _document(code="C", message="m", kind=ContainerError.RECOVERABLE, origin=ExecutionError.USER),
            Failure("C", "m", True, "USER"),
            id="rule18-recoverable",
        ),
        pytest.param(
            _document(code="C", message="m", kind=ContainerError.NON_RECOVERABLE, origin=ExecutionError.SYSTEM),
            Failure("C", "m", False, "SYSTEM"),
            id="rule18-non-recoverable",
        ),
        pytest.param(_document(code="C"), Failure("C", "", False, "UNKNOWN"), id="rule18-zero-values"),
        pytest.param(_document(code="C", origin=17), Failure("C", "", False, "UNKNOWN"), id="rule18-a-newer-origin"),
        pytest.param(
            ErrorDocument(),
            Failure("ErrorFileBadFormat", "error.pb holds no error", True, "SYSTEM"),
            id="rule18-holds-no-error",
        ),
    ],
)
def test_failure_of_document(document: ErrorDocument, expected: Failure) -> None:
    assert failure_of_document(document) == expected


@pytest.mark.parametrize(
    ("failure", "code", "retryable"),
    [
        pytest.param(outputs_not_found(), propeller.OUTPUTS_NOT_FOUND, True, id="rule18-outputs-not-found"),
        pytest.param(create_failed("m"), propeller.TASK_FAILED, True, id="rule20-create-failed"),
        pytest.param(attempt_timed_out(90.0), "TimeoutExpired", True, id="rule22-attempt"),
        pytest.param(run_timed_out(180.0), "TimeoutExpired", False, id="rule22-run"),
        pytest.param(polls_failed("m"), "AutoRefreshCacheFailed", False, id="rule23-polls-failed"),
    ],
)
def test_failures_that_no_agent_told(failure: Failure, code: str, retryable: bool) -> None:
    assert (failure.code, failure.retryable) == (code, retryable)
    assert failure.message


@pytest.mark.parametrize(
    ("declares", "resource", "expected"),
    [
        pytest.param(False, Resource(outputs=LiteralMap()), OutputsSource.NONE, id="rule17-none-declared"),
        pytest.param(False, Resource(), OutputsSource.NONE, id="rule17-none-declared-none-returned"),
        pytest.param(True, Resource(outputs=LiteralMap()), OutputsSource.REPLY, id="rule17-presence-not-truth"),
        pytest.param(True, Resource(), OutputsSource.STORAGE, id="rule18-not-in-the-reply"),
    ],
)
def test_outputs_source(declares: bool, resource: Resource, expected: OutputsSource) -> None:
    assert outputs_source(declares, resource) is expected


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        pytest.param(
            Failure("C", "m", True),
            Failure("RetriesExhausted|C", "[3/3] currentAttempt done. Last Error: USER::m", False),
            id="rule21-retryable",
        ),
        pytest.param(
            outputs_not_found(),
            Failure(
                "RetriesExhausted|OutputsNotFound",
                "[3/3] currentAttempt done. Last Error: UNKNOWN::Outputs not generated by task execution",
                False,
            ),
            id="rule21-outputs-not-found",
        ),
        pytest.param(Failure("C", "m", False), Failure("C", "m", False), id="rule21-permanent-is-not-wrapped"),
    ],
)
def test_exhausted(failure: Failure, expected: Failure) -> None:
    assert exhausted(failure, 3, 3) == expected


@pytest.mark.parametrize(
    ("timeout", "expected"),
    [
        pytest.param(30.0, 60.0, id="rule22-twice"),
        pytest.param(None, None, id="rule22-none"),
        pytest.param(0.0, None, id="rule22-zero-is-none"),
    ],
)
def test_run_limit(timeout: float | None, expected: float | None) -> None:
    assert run_limit(timeout) == expected


def test_the_rules_are_pure() -> None:
    # Enough of a guard that nothing slow or stateful slips in: a fresh interpreter imports the rules, and them alone.
    script = (
        "import sys; before = set(sys.modules); "
        "from flyteagent_nb.running import interface, metadata, pace, propeller, rendering; "
        "print(*sorted({'grpc', 'asyncio', 'flytekit', 'random', 'msgpack', 'socket'} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
