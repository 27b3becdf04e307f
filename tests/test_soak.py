"""Five thousand short runs in one process: after the first thousand nothing grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scripted_tasks import scripted_task, until
from soak import size, soak

if TYPE_CHECKING:
    from scripted_tasks import Agents

    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)

RUNS, KEPT = 5_000, 200


@pytest.mark.slow
def test_five_thousand_short_runs(workspace: Workspace, agents: Agents) -> None:
    workspace.config.runs_kept = KEPT
    tasks = [
        scripted_task("noop"),
        scripted_task(prints={"create": "a line"}),
        scripted_task(raises={"create": "ValueError: no"}),
        scripted_task("do", phases=["FAILED"]),
        scripted_task("noop"),
    ]
    sizes = soak(workspace, tasks, RUNS)
    first, last = sizes[0], sizes[-1]
    # A run that is not forgotten keeps 13 KiB and more: 4,000 of them over 50 MiB.
    assert last.memory - first.memory < 20, sizes
    assert last.threads <= first.threads + 2 and last.files <= first.files + 4, sizes
    # What ended last goes when a tenth more has ended, on a worker.
    until(lambda: size(workspace, RUNS).rows <= 1.5 * KEPT)
    end = size(workspace, RUNS)
    # The file keeps the room of what went, and uses it again.
    assert end.journal <= first.journal * 1.5 + 1, (sizes, end)
    until(lambda: size(workspace, RUNS).folders <= 2 * KEPT)
