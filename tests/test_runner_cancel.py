"""Stopping runs: what becomes of the job, whenever the cancel comes."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from scripted import JobMeta, ScriptedAgent
from scripted_tasks import PATIENCE, scripted_task, until

from flyteagent_nb.errors import RunAbortedError, RunFailedError
from flyteagent_nb.running import attempt as attempt_module
from flyteagent_nb.running.budget import SYNC_FACTOR

if TYPE_CHECKING:
    from scripted_tasks import Agents

    from flyteagent_nb.running.run import Run
    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt_module, "failure_backoff", lambda failures, jitter: 0.001)


def aborted(run: Run) -> RunAbortedError:
    with pytest.raises(RunAbortedError) as raised:
        run.result(PATIENCE)
    assert run.phase == "ABORTED" and run.cancelled and run.done
    assert run.phases[-1].phase == "ABORTED"
    return raised.value


def outcomes(workspace: Workspace, run: Run) -> list[str]:
    return [attempt.outcome for attempt in workspace.runner.attempts(run)]


@pytest.mark.parametrize("task_type", ["scripted", "scripted_plain"])
def test_a_running_job_is_deleted(workspace: Workspace, agents: Agents, task_type: str) -> None:
    agent = agents.scripted if task_type == "scripted" else agents.plain
    run = workspace.submit(scripted_task(task_type, phases=["RUNNING"], retries=3), {})
    until(lambda: run.phase == "RUNNING")
    run.cancel()
    error = aborted(run)
    assert (agent.count("delete"), agent.open_jobs) == (1, [])
    assert outcomes(workspace, run) == ["ABORTED"] and run.snapshot.stopping
    assert (error.run_id, error.phase, error.attempts) == (run.id, "ABORTED", 1)
    gets = agent.count("get")
    workspace.submit(scripted_task("noop"), {}).result(PATIENCE)
    assert agent.count("get") == gets and agent.count("create") == 1


def test_cancelling_twice_deletes_once(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task(phases=["RUNNING"]), {})
    until(lambda: run.phase == "RUNNING")
    for _ in range(5):
        run.cancel()
    aborted(run)
    run.cancel()
    workspace.submit(scripted_task("noop"), {}).result(PATIENCE)
    assert agents.scripted.count("delete") == 1


def test_cancelling_from_many_threads(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task(phases=["RUNNING"]), {})
    until(lambda: run.phase == "RUNNING")
    threads = [threading.Thread(target=run.cancel) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    aborted(run)
    assert agents.scripted.count("delete") == 1


def test_a_create_in_flight_ends_and_its_job_is_deleted(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task("scripted_plain", hangs=["create"]), {})
    until(lambda: agents.plain.count("create"))
    run.cancel()
    until(lambda: run.snapshot.stopping)
    assert not run.done and agents.plain.jobs == {}
    agents.plain.released.set()
    aborted(run)
    assert list(agents.plain.jobs) == ["job-1"] and agents.plain.jobs["job-1"].deletes == 1
    assert agents.plain.count("get") == 0
    assert outcomes(workspace, run) == ["ABORTED"]


def test_a_create_in_flight_that_fails_leaves_nothing(workspace: Workspace, agents: Agents) -> None:
    gate = threading.Event()

    class Failing(ScriptedAgent):
        name = "Failing"

        def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> JobMeta:  # type: ignore[override]
            self.calls.append(("create", ""))
            gate.wait(PATIENCE)
            raise ValueError("quota")

    agent = Failing("failing")
    workspace.catalog.register(agent)
    run = workspace.submit(scripted_task("failing", retries=5), {})
    until(lambda: agent.count("create"))
    run.cancel()
    until(lambda: run.snapshot.stopping)
    gate.set()
    assert "its create failed: ValueError: quota" in aborted(run).message
    assert (agent.count("create"), agent.count("delete")) == (1, 0)
    assert outcomes(workspace, run) == ["FAILED"]


def test_a_create_without_an_answer_is_told_after_a_cancel(workspace: Workspace, agents: Agents) -> None:
    workspace.config.deadlines = {"CreateTask": 0.5}
    run = workspace.submit(scripted_task(hangs=["create"], retries=3), {})
    until(lambda: agents.scripted.count("create"))
    run.cancel()
    aborted(run)
    assert outcomes(workspace, run) == ["unknown"]
    assert "may have made a job" in run.snapshot.notes[0]
    assert agents.scripted.count("create") == 1


def test_a_get_that_hangs_does_not_hold_up_the_cancel(workspace: Workspace, agents: Agents) -> None:
    workspace.config.deadlines = {"GetTask": 3600.0}
    run = workspace.submit(scripted_task(hangs=["get"]), {})
    until(lambda: agents.scripted.count("get"))
    run.cancel()
    aborted(run)
    assert agents.scripted.open_jobs == []
    assert until(lambda: agents.scripted.cancelled) == ["get"]


def test_a_store_that_hangs_does_not_hold_up_the_cancel(
    workspace: Workspace, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, answered = threading.Event(), threading.Event()

    def read(prefix: str) -> None:
        reading.set()
        answered.wait(PATIENCE)

    monkeypatch.setattr(workspace.runner.storage, "read_outputs", read)
    run = workspace.submit(scripted_task(outputs={"x": int}), {})
    assert reading.wait(PATIENCE)
    run.cancel()
    try:
        assert "its job had ended; its outputs were not read" in aborted(run).message
    finally:
        answered.set()
    assert (outcomes(workspace, run), agents.scripted.count("delete")) == (["SUCCEEDED"], 0)


def test_a_plain_get_that_hangs_does_not_either(workspace: Workspace, agents: Agents) -> None:
    workspace.config.deadlines = {"GetTask": 3600.0}
    run = workspace.submit(scripted_task("scripted_plain", hangs=["get"]), {})
    until(lambda: agents.plain.count("get"))
    run.cancel()
    aborted(run)
    assert agents.plain.open_jobs == [] and not agents.plain.released.is_set()


def test_a_long_pause_between_polls_is_cut_short(
    workspace: Workspace, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_module, "poll_delay", lambda *_: 3600.0)
    run = workspace.submit(scripted_task(), {})
    until(lambda: outcomes(workspace, run) == ["created"])
    run.cancel()
    aborted(run)
    assert (agents.scripted.count("get"), agents.scripted.count("delete")) == (0, 1)


def test_a_sync_call_is_cancelled_at_the_agent(workspace: Workspace, agents: Agents) -> None:
    workspace.config.deadline = 0.0
    run = workspace.submit(scripted_task("do", hangs=["do"], retries=3), {})
    until(lambda: agents.do.count("do"))
    run.cancel()
    assert "a `do` that runs in a thread may finish" in aborted(run).message
    assert until(lambda: agents.do.cancelled) == ["do"]
    assert agents.do.count("do") == 1


def test_a_plain_do_runs_on_and_the_run_ends(workspace: Workspace, agents: Agents) -> None:
    workspace.config.deadline = 0.0
    run = workspace.submit(scripted_task("do_plain", hangs=["do"]), {})
    until(lambda: agents.plain_do.count("do"))
    run.cancel()
    aborted(run)
    assert not agents.plain_do.released.is_set()
    assert workspace.submit(scripted_task("do_plain"), {}).result(PATIENCE) is None


@pytest.mark.parametrize("task_type", ["scripted", "do", "scriptd"])
def test_a_cancel_right_after_the_submit_starts_nothing(workspace: Workspace, agents: Agents, task_type: str) -> None:
    started = threading.Event()
    # While the loop is held up, submit and cancel reach it together.
    workspace.runner.thread.call_soon(started.wait, PATIENCE)
    run = workspace.submit(scripted_task(task_type), {})
    run.cancel()
    started.set()
    aborted(run)
    assert agents.scripted.calls == agents.do.calls == []


def test_a_cancel_right_after_the_submit_converts_nothing(workspace: Workspace, agents: Agents) -> None:
    converted: list[str] = []
    started = threading.Event()
    call = workspace.call_of(scripted_task(inputs={"rows": list[int]}), {"rows": [1]})
    call = dataclasses.replace(call, prepare=lambda: converted.append("inputs"))
    workspace.runner.thread.call_soon(started.wait, PATIENCE)
    run = workspace.runner.submit(call, workspace.config.freeze())
    run.cancel()
    started.set()
    aborted(run)
    assert converted == []


@pytest.mark.parametrize("task_type", ["scripted", "do"])
def test_a_cancel_while_inputs_are_converted(workspace: Workspace, agents: Agents, task_type: str) -> None:
    converting, release = threading.Event(), threading.Event()

    call = workspace.call_of(scripted_task(task_type, inputs={"rows": list[int]}), {"rows": [1, 2]})
    prepare = call.prepare
    assert prepare is not None

    def slow() -> Any:
        converting.set()
        release.wait(PATIENCE)
        return prepare()

    run = workspace.runner.submit(dataclasses.replace(call, prepare=slow), workspace.config.freeze())
    assert converting.wait(PATIENCE)
    run.cancel()
    aborted(run)
    release.set()
    assert agents.scripted.calls == agents.do.calls == []


def test_a_cancel_while_waiting_for_a_slot_is_prompt(workspace: Workspace, agents: Agents) -> None:
    workspace.config.calls_in_flight = 2  # one create at a time
    first = workspace.submit(scripted_task("scripted_plain", hangs=["create"]), {})
    until(lambda: agents.plain.count("create"))
    second = workspace.submit(scripted_task(), {})
    until(lambda: second.snapshot.agent)
    second.cancel()
    aborted(second)
    assert not first.done and agents.scripted.calls == []
    assert workspace.runner.attempts(second) == ()  # no create left, so there is nothing to tell
    agents.plain.released.set()
    first.result(PATIENCE)
    third = workspace.submit(scripted_task(), {})
    third.result(PATIENCE)  # its slot was not lost


def test_a_sync_run_that_waits_for_a_slot_never_calls(workspace: Workspace, agents: Agents) -> None:
    workspace.config.calls_in_flight = 1
    workspace.config.deadline = 0.0
    first = [workspace.submit(scripted_task("do_plain", hangs=["do"]), {}) for _ in range(SYNC_FACTOR)]
    until(lambda: agents.plain_do.count("do") == SYNC_FACTOR)
    second = workspace.submit(scripted_task("do"), {})
    until(lambda: second.snapshot.agent)
    second.cancel()
    aborted(second)
    agents.plain_do.released.set()
    for run in first:
        run.result(PATIENCE)
    workspace.submit(scripted_task("noop"), {}).result(PATIENCE)
    assert agents.do.calls == []


def test_creates_that_hang_do_not_hold_up_a_cancel(workspace: Workspace, agents: Agents) -> None:
    workspace.config.calls_in_flight = 4
    workspace.config.deadline = 0.0
    running = workspace.submit(scripted_task(phases=["RUNNING"]), {})
    until(lambda: running.phase == "RUNNING")
    hanging = [workspace.submit(scripted_task("scripted_plain", hangs=["create"]), {}) for _ in range(8)]
    until(lambda: agents.plain.count("create") == 3)  # one of four slots is kept free
    running.cancel()
    aborted(running)
    assert agents.scripted.open_jobs == []
    agents.plain.released.set()
    for run in hanging:
        run.result(PATIENCE)


def test_a_cancel_after_the_end_changes_nothing(workspace: Workspace, agents: Agents) -> None:
    good = workspace.submit(scripted_task(), {})
    bad = workspace.submit(scripted_task(phases=["FAILED"]), {})
    good.result(PATIENCE)
    with pytest.raises(RunFailedError):
        bad.result(PATIENCE)
    before = good.snapshot, bad.snapshot
    good.cancel()
    bad.cancel()
    workspace.submit(scripted_task("noop"), {}).result(PATIENCE)
    assert (good.snapshot, bad.snapshot) == before
    assert good.result() is None and not bad.cancelled
    assert agents.scripted.count("delete") == 0


@pytest.mark.usefixtures("no_backoff")
def test_a_delete_that_fails_is_sent_again(workspace: Workspace, agents: Agents) -> None:
    task = scripted_task(phases=["RUNNING"], raises={"delete": "ConnectionError: no"}, times={"delete": 3})
    run = workspace.submit(task, {})
    until(lambda: run.phase == "RUNNING")
    run.cancel()
    aborted(run)
    assert agents.scripted.count("delete") == 4 and agents.scripted.open_jobs == []
    assert run.snapshot.notes == () and outcomes(workspace, run) == ["ABORTED"]


@pytest.mark.usefixtures("no_backoff")
def test_a_delete_that_always_fails_is_told(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task(phases=["RUNNING"], raises={"delete": "PermissionError: not yours"}), {})
    until(lambda: run.phase == "RUNNING")
    run.cancel()
    error = aborted(run)
    assert "could not be deleted and may still run" in error.message and "not yours" in error.message
    assert f"%agent show {run.id}" in error.hint
    assert agents.scripted.count("delete") == attempt_module.DELETE_TRIES
    assert outcomes(workspace, run) == ["unknown"]
    assert "could not be deleted" in run.snapshot.notes[0]
    assert workspace.runner.attempts(run)[0].resource_meta == b'{"job_id": "job-1"}'


@pytest.mark.usefixtures("no_backoff")
def test_a_delete_that_hangs_has_its_deadline(workspace: Workspace, agents: Agents) -> None:
    workspace.config.deadlines = {"DeleteTask": 0.05}
    run = workspace.submit(scripted_task(phases=["RUNNING"], hangs=["delete"]), {})
    until(lambda: run.phase == "RUNNING")
    run.cancel()
    assert "DEADLINE_EXCEEDED" in aborted(run).message
    assert agents.scripted.count("delete") == attempt_module.DELETE_TRIES


@pytest.mark.usefixtures("no_backoff")
def test_a_job_that_times_out_and_cannot_be_deleted_is_told(workspace: Workspace, agents: Agents) -> None:
    task = scripted_task(phases=["RUNNING"], raises={"delete": "PermissionError: not yours"}, timeout=0.1)
    run = workspace.submit(task, {})
    with pytest.raises(RunFailedError):
        run.result(PATIENCE)
    assert "the job could not be deleted" in run.snapshot.notes[0]


def test_a_job_whose_agent_was_removed_is_still_deleted(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task(phases=["RUNNING"]), {})
    until(lambda: run.phase == "RUNNING")
    workspace.remove("scripted")
    run.cancel()
    aborted(run)
    assert agents.scripted.open_jobs == []


def test_a_cancel_while_outputs_are_converted(workspace: Workspace, agents: Agents) -> None:
    """The job is over, so nothing is deleted; the run says that it was cancelled."""
    converting, release = threading.Event(), threading.Event()

    task = scripted_task(outputs={"x": int})
    task.script["outputs"] = {"x": 1}
    call = workspace.call_of(task, {})
    convert = call.convert

    def slow(literals: Any) -> Any:
        converting.set()
        release.wait(PATIENCE)
        return convert(literals)

    late = dataclasses.replace(call, convert=slow, converts_at_once=False)
    run = workspace.runner.submit(late, workspace.config.freeze())
    assert converting.wait(PATIENCE)
    run.cancel()
    aborted(run)
    release.set()
    assert agents.scripted.count("delete") == 0


def test_many_cancels_at_any_moment_leave_no_job(workspace: Workspace, agents: Agents) -> None:
    """A sweep over the moments of a short run: whichever way it ends, its job is over or deleted."""
    runs = []
    for number in range(120):
        task = scripted_task(phases=["RUNNING", "RUNNING", "SUCCEEDED"], sleeps={"create": 0.003, "get": 0.002})
        run = workspace.submit(task, {})
        runs.append(run)
        threading.Timer(number * 0.0004, run.cancel).start()
    for run in runs:
        assert run.exception(PATIENCE) is None or run.cancelled
    assert agents.scripted.open_jobs == []
    assert {run.phase for run in runs} <= {"SUCCEEDED", "ABORTED"}
    assert all(agents.scripted.jobs[job].deletes <= 1 for job in agents.scripted.jobs)


def test_closing_the_workspace_ends_the_waits_and_leaves_the_jobs(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task(phases=["RUNNING"]), {})
    sync = workspace.submit(scripted_task("do", hangs=["do"]), {})
    until(lambda: run.phase == "RUNNING" and agents.do.count("do"))
    root = workspace.runner.storage.root
    began = time.monotonic()
    assert workspace.close() == 2
    assert time.monotonic() - began < PATIENCE
    assert "left running" in aborted(run).message
    aborted(sync)
    assert agents.scripted.count("delete") == 0 and list(root.glob(f"{run.id}-*"))
    assert workspace.state == "closed" and workspace.close() == 0
    workspace.wait(PATIENCE)
    workspace.catalog.register(agents.noop)
    assert workspace.submit(scripted_task("noop"), {}).result(PATIENCE) is None


def test_runs_that_were_about_to_start_when_the_workspace_closed_end_too(workspace: Workspace, agents: Agents) -> None:
    async def close() -> list[Run]:
        runner, task = workspace.runner, scripted_task()
        first = workspace.submit(task, {})
        await asyncio.sleep(0)  # its task is there, and has not had its first step
        await runner.close(0.1)
        return [first, workspace.submit(task, {})]

    for run in workspace.runner.thread.run(close(), PATIENCE):
        assert "left running" in aborted(run).message
    workspace.close()
    assert agents.scripted.calls == []
    workspace.wait(PATIENCE)
