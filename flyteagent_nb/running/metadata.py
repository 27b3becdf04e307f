"""What an agent is told of the run that it works for (rule 12). Pure."""

from __future__ import annotations

import functools
import re
from typing import Any

from flyteidl.admin.agent_pb2 import TaskExecutionMetadata
from flyteidl.core.identifier_pb2 import (
    TASK,
    Identifier,
    NodeExecutionIdentifier,
    TaskExecutionIdentifier,
    WorkflowExecutionIdentifier,
)
from flyteidl.core.security_pb2 import Identity

NODE = "n0"
"""The node of the workflow that a run stands for."""

SERVICE_ACCOUNT = "default"
"""Kubernetes's, where nobody names another."""

_NOT_IN_LABELS = re.compile(r"[^-a-z0-9]+")


def execution_metadata(
    *,
    run_id: str,
    task_name: str,
    project: str,
    domain: str,
    version: str,
    attempt: int = 1,
    attempts: int = 1,
) -> TaskExecutionMetadata:
    """What an agent is told of the run (rule 12).

    ``retry_attempt`` counts from 0. Ours: ``max_attempts``, which propeller leaves at 0; and there are no annotations and
    environment variables, which an execution would bring, nor labels beside propeller's own.

    Args:
        run_id: the run, in the place of the workflow execution's name.
        task_name: the task's full name.
        project: of the task, and of its execution.
        domain: likewise.
        version: of the task.
        attempt: which attempt this is, from 1.
        attempts: how many there may be.
    """
    return TaskExecutionMetadata(
        task_execution_id=TaskExecutionIdentifier(
            task_id=Identifier(resource_type=TASK, project=project, domain=domain, name=task_name, version=version),
            node_execution_id=NodeExecutionIdentifier(
                node_id=NODE,
                execution_id=WorkflowExecutionIdentifier(project=project, domain=domain, name=run_id),
            ),
            retry_attempt=attempt - 1,
        ),
        namespace=f"{project}-{domain}",
        labels={
            "project": project,
            "domain": domain,
            "execution-id": run_id,
            "node-id": NODE,
            "task-name": _label(task_name),
            "interruptible": "false",
        },
        k8s_service_account=SERVICE_ACCOUNT,
        max_attempts=attempts,
        identity=Identity(k8s_service_account=SERVICE_ACCOUNT),
    )


@functools.lru_cache(maxsize=256)
def _of_task(**of_task: Any) -> TaskExecutionMetadata:
    return execution_metadata(run_id="", **of_task)


def attempt_metadata(run_id: str, attempt: int, **of_task: Any) -> TaskExecutionMetadata:
    """The same for one attempt of a run, in a tenth of the time; ``of_task`` is what all runs of the task have in common."""
    metadata = TaskExecutionMetadata()
    metadata.CopyFrom(_of_task(**of_task))
    execution = metadata.task_execution_id
    execution.node_execution_id.execution_id.name = metadata.labels["execution-id"] = run_id
    execution.retry_attempt = attempt - 1
    return metadata


def _label(value: str) -> str:
    return _NOT_IN_LABELS.sub("-", value.lower())[:63].strip("-")
