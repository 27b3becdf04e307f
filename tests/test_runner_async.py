"""The attempt loop with async agents, over the real channel: PROPELLER.md's rules that involve I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from scripted_tasks import PATIENCE, scripted_task, until

from flyteagent_nb.errors import RunFailedError, RunTimedOutError

if TYPE_CHECKING:
    from scripted_tasks import Agents

    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)


def phases(run: Any) -> list[str]:
    return [change.phase for change in run.phases]


@pytest.mark.parametrize("task_type", ["scripted", "scripted_plain"])
def test_a_job_goes_through_its_phases_in_order(workspace: Workspace, agents: Agents, task_type: str) -> None:
    seen = ["WAITING_FOR_RESOURCES", "INITIALIZING", "RUNNING", "SUCCEEDED"]
    task = scripted_task(task_type, outputs={"x": int, "s": str}, phases=seen)
    task.script["outputs"] = {"x": 3, "s": "a"}
    run = workspace.submit(task, {})
    result = run.result(PATIENCE)
    assert phases(run) == ["QUEUED", *seen]
    assert result == (3, "a")
