"""How long ago something was that another process noted; and what that makes of the timeout of a run that is attached."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from scripted_tasks import PATIENCE, Agents, scripted_task, until

from flyteagent_nb.errors import RunTimedOutError
from flyteagent_nb.running.clocks import age, machine_clock

if TYPE_CHECKING:
    from flyteagent_nb.running.run import Run
    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)

DAY = 86_400.0


def ago(seconds: float) -> str:
    which, _, now = machine_clock().partition(":")
    return f"{which}:{float(now) - seconds:.3f}"


def test_the_machines_own_clock_counts_where_it_still_runs() -> None:
    for wrong in (0.0, -30 * DAY, 30 * DAY):
        known = age(time.time() - 500 + wrong, ago(500))
        assert 499.9 < known.seconds < 530  # what is on record has milliseconds
        assert known.off == pytest.approx(-wrong, abs=30) if wrong else known.off == 0.0


@pytest.mark.parametrize(
    "clock",
    ["", "another-start:5.0", "garbage", f"{ago(0).partition(':')[0]}:soon", ago(-1e6)],
    ids=["none", "another", "garbage", "no number", "to come"],  # the same in each worker of the tests
)
def test_else_the_wall_clock_counts_and_nothing_is_negative(clock: str) -> None:
    known = age(time.time() - 500, clock)
    assert 500 <= known.seconds < 530 and known.off == 0.0
    known = age(time.time() + DAY, clock)
    assert known.seconds == 0.0 and known.off == pytest.approx(-DAY, abs=30)


def test_processes_of_one_machine_have_one_clock() -> None:
    if sys.platform != "linux":  # there another process has another clock, and the wall's counts
        return
    code = "from flyteagent_nb.running.clocks import machine_clock; print(machine_clock())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert 0.0 <= age(time.time() - DAY, told.strip()).seconds < 60


# --- a run that is attached ---


def left(workspace: Workspace, agents: Agents, *, phases: list[str], seconds: float, off: float, known: bool) -> str:
    """The id of a run with a timeout of a minute, whose kernel has ended; its create is on record as of ``off`` seconds ago."""
    run = workspace.submit(scripted_task(phases=phases, seconds=seconds, timeout=60.0), {})
    until(lambda: run.phase == "RUNNING")
    workspace.config.data_folder = str(workspace.runner.storage.root.parent)
    workspace.close()
    workspace.wait(PATIENCE)
    workspace.catalog.register(agents.scripted)
    row = (time.time() - off, None if known else "", run.id)
    journal = workspace.runner.journal
    journal.ask(  # type: ignore[attr-defined]
        lambda c: c.execute("UPDATE attempt SET intended=?, clock=coalesce(?, clock) WHERE run=?", row)
    )
    return run.id


def attached(workspace: Workspace, run_id: str) -> Run:
    run = workspace.attach(run_id)
    run.exception(PATIENCE)
    return run


def test_a_job_that_ended_in_its_time_is_not_late_because_nobody_looked(workspace: Workspace, agents: Agents) -> None:
    run_id = left(workspace, agents, phases=["RUNNING", "SUCCEEDED"], seconds=60, off=DAY, known=False)
    for job in agents.scripted.jobs.values():
        job.script["seconds"] = 0
    run = attached(workspace, run_id)
    assert run.phase == "SUCCEEDED" and agents.scripted.count("delete") == 0


def test_a_job_that_still_runs_when_its_time_is_up_is_deleted(workspace: Workspace, agents: Agents) -> None:
    run_id = left(workspace, agents, phases=["RUNNING"], seconds=1e9, off=DAY, known=False)
    run = attached(workspace, run_id)
    assert isinstance(run.error, RunTimedOutError) and agents.scripted.count("delete") == 1


@pytest.mark.parametrize(("off", "known"), [(DAY, True), (-DAY, True), (-DAY, False)])
def test_a_clock_that_was_wrong_ends_no_run(workspace: Workspace, agents: Agents, off: float, known: bool) -> None:
    run_id = left(workspace, agents, phases=["RUNNING", "SUCCEEDED"], seconds=1e9, off=off, known=known)
    run = workspace.attach(run_id)
    until(lambda: agents.scripted.count("get") > 3)
    assert not run.done and "the wall clock was set, or is off, by 1 day, 0:00:0" in " ".join(run.snapshot.notes)
    run.cancel()
    run.exception(PATIENCE)
    assert agents.scripted.open_jobs == []
