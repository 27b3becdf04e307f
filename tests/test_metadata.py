"""Rule 12: what an agent is told of the run."""

from __future__ import annotations

import pytest
from flyteidl.core.identifier_pb2 import TASK

from flyteagent_nb.running.metadata import attempt_metadata, execution_metadata


def test_rule12_all_that_propeller_fills() -> None:
    told = execution_metadata(
        run_id="r1",
        task_name="acme.jobs.Fit_2",
        project="p",
        domain="d",
        version="v7",
        attempt=2,
        attempts=3,
    )
    task = told.task_execution_id.task_id
    assert (task.resource_type, task.project, task.domain, task.name, task.version) == (
        TASK,
        "p",
        "d",
        "acme.jobs.Fit_2",
        "v7",
    )
    node = told.task_execution_id.node_execution_id
    assert (node.node_id, node.execution_id.project, node.execution_id.domain, node.execution_id.name) == (
        "n0",
        "p",
        "d",
        "r1",
    )
    assert told.task_execution_id.retry_attempt == 1
    assert told.namespace == "p-d"
    assert dict(told.labels) == {
        "project": "p",
        "domain": "d",
        "execution-id": "r1",
        "node-id": "n0",
        "task-name": "acme-jobs-fit-2",
        "interruptible": "false",
    }
    assert not told.annotations and not told.environment_variables
    assert told.k8s_service_account == told.identity.k8s_service_account == "default"
    assert told.max_attempts == 3


@pytest.mark.parametrize(
    ("task_name", "label"),
    [("a" * 80, "a" * 63), ("_x_", "x"), ("Ünï.code", "n-code")],
)
def test_rule12_labels_are_valid_in_kubernetes(task_name: str, label: str) -> None:
    told = execution_metadata(run_id="r", task_name=task_name, project="p", domain="d", version="v")
    assert told.labels["task-name"] == label


def test_rule12_the_first_attempt_is_retry_zero() -> None:
    told = execution_metadata(run_id="r", task_name="t", project="p", domain="d", version="v")
    assert told.task_execution_id.retry_attempt == 0


def test_rule12_flytekit_reads_it() -> None:
    from flytekit.models.task import TaskExecutionMetadata

    told = TaskExecutionMetadata.from_flyte_idl(
        execution_metadata(run_id="r", task_name="t", project="p", domain="d", version="v")
    )
    assert told.task_execution_id.task_id.name == "t"
    assert told.identity.k8s_service_account == "default"


def test_the_metadata_of_an_attempt_is_the_same_and_its_own() -> None:
    common = {"task_name": "t", "project": "p", "domain": "d", "version": "v", "attempts": 3}
    first, second = attempt_metadata("r1", 1, **common), attempt_metadata("r2", 3, **common)
    assert first == execution_metadata(run_id="r1", attempt=1, **common)  # type: ignore[arg-type]
    assert second == execution_metadata(run_id="r2", attempt=3, **common)  # type: ignore[arg-type]
