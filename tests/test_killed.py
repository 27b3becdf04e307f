"""A kernel's process is killed at each point of a run: every job is on record, or its run is shown as unknown; nothing is created again."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from flytekit.extend.backend.base_connector import ConnectorRegistry
from fuzzing import TIMES
from killed import POINTS, FolderAgent
from scripted_tasks import PATIENCE

from flyteagent_nb.errors import JournalError
from flyteagent_nb.workspace import get_workspace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flyteagent_nb.running.journal import RunRecord
    from flyteagent_nb.workspace import Workspace

RANDOM = tuple(f"random {number}" for number in range(math.ceil(20 * TIMES)))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the journal of all the killed processes, and their jobs."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "jobs").mkdir()
    script = os.path.join(os.path.dirname(__file__), "killed.py")
    done = subprocess.run(
        [sys.executable, script, str(folder), *POINTS, *RANDOM],
        env={**os.environ, "FLYTEAGENT_NB_DATA_FOLDER": str(folder / "data")},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.stdout.splitlines() == [f"{point}:-9" for point in (*POINTS, *RANDOM)], done.stderr
    return folder


@pytest.fixture(scope="module")
def later(killed: Path) -> Iterator[tuple[Workspace, FolderAgent]]:
    """The workspace of a later process, on their journal."""
    workspace = get_workspace()
    workspace.config.data_folder = str(killed / "data")
    assert workspace.left_open()[1] >= len(POINTS) - 3
    agent = FolderAgent(killed / "jobs")
    ConnectorRegistry.register(agent, override=True)
    workspace.wait(PATIENCE)
    yield workspace, agent
    workspace.close()
    workspace.config.data_folder = ""


WHAT_COMES = {
    "before the intent": ["UNKNOWN"],
    "after the intent": ["UNKNOWN"],
    "in create, before the job": ["UNKNOWN"],
    "in create, after the job": ["UNKNOWN"],
    "after create": ["UNKNOWN"],
    "in delete, after the job is gone": ["ABORTED"],
}
"""The phases of the point's runs in the end; where nothing stands here, it succeeded."""


@pytest.mark.timeout(300)  # thirty processes are killed before the first one
@pytest.mark.parametrize("point", [*POINTS, *RANDOM])
def test_every_job_is_on_record_or_its_run_is_unknown(
    later: tuple[Workspace, FolderAgent], killed: Path, point: str
) -> None:
    workspace, agent = later
    shelf = workspace.runner.journal.shelf  # type: ignore[attr-defined]
    records = {r.snapshot.id: r for r in shelf.runs() if r.snapshot.name == point}
    jobs = {str(path): json.loads(path.read_text()) for path in (killed / "jobs").iterdir()}
    known = {record.snapshot.id for record in shelf.runs()}
    assert [job for job in jobs.values() if job["run"] not in known] == []
    for path, job in jobs.items():
        if job["run"] in records:
            assert path in metas(records[job["run"]]) or workspace.kept.find(job["run"]).phase == "UNKNOWN"
    for record in records.values():
        s = record.snapshot
        if s.done:
            continue
        if workspace.kept.find(s.id).phase == "UNKNOWN":
            with pytest.raises(JournalError, match=r"unknown|no job"):
                workspace.attach(s.id)
            continue
        (path,) = metas(record)
        run = workspace.attach(s.id)
        if path in jobs:
            assert run.result(PATIENCE) == 2 * jobs[path]["x"]
        else:  # the delete had got through
            run.cancel()
            run.exception(PATIENCE)
    assert agent.created == 0
    if point in POINTS:
        phases = [workspace.kept.find(run_id).phase for run_id in records]
        may_be_early = point == "before the intent"  # the run itself may not be on record yet, and has no job
        assert phases == WHAT_COMES.get(point, ["SUCCEEDED"]) or (may_be_early and not phases)


def metas(record: RunRecord) -> list[str]:
    """The jobs that the journal knows of a run."""
    return [json.loads(a.resource_meta)["job"] for a in record.attempts if a.resource_meta is not None]
