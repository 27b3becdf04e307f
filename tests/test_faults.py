"""An agent service that is killed, stands still, fails now and then or never answers; a clock that jumps: runs go on, or say why not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from elsewhere_jobs import TASK_TYPE
from flytekit.core.base_task import TaskMetadata
from flytekit.core.interface import Interface
from scripted_tasks import PATIENCE, Agents, ScriptedTask, scripted_task, until

from flyteagent_nb.errors import RunFailedError
from flyteagent_nb.masking import MASK
from flyteagent_nb.running import attempt as attempt_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flyteagent_nb.running.run import Run
    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)


class Service:
    """A service in a process of its own, on one address, with jobs that outlive it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "jobs"
        self.folder.mkdir()
        self.target = f"unix:{folder}/s"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        script = os.path.join(os.path.dirname(__file__), "elsewhere_jobs.py")
        self._process = subprocess.Popen(
            [sys.executable, script, str(self.folder), self.target],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"{self.target}\n"

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def go(self, go: bool = True) -> None:
        (self.folder / "go").touch() if go else (self.folder / "go").unlink(missing_ok=True)

    def jobs(self) -> list[str]:
        return [name for name in os.listdir(self.folder) if name.startswith("job-")]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("e"))
    service.start()
    yield service
    service.kill()


@pytest.fixture
def service(workspace: Workspace, started: Service) -> Iterator[Service]:
    """The service, connected, with no jobs."""
    started.go(False)
    workspace.connections.connect("far", started.target)
    yield started
    for run in workspace.runner.runs():
        run.cancel()
    started.go()
    until(lambda: not workspace.runner.active)
    workspace.connections.disconnect("far")
    for job in started.jobs():
        (started.folder / job).unlink()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses after what failed."""
    monkeypatch.setattr(attempt_module, "failure_backoff", lambda failures, jitter: 0.01)


def job(retries: int = 0, timeout: float = 0, **script: Any) -> ScriptedTask:
    metadata = TaskMetadata(retries=retries, timeout=timedelta(seconds=timeout) if timeout else None)
    interface = Interface({"x": int}, {"y": int})
    return ScriptedTask(script, task_type=TASK_TYPE, name="far job", interface=interface, metadata=metadata)


def submitted(workspace: Workspace, task: ScriptedTask, count: int) -> list[Run]:
    return [workspace.submit(task, {"x": x}) for x in range(count)]


def undisturbed(workspace: Workspace) -> None:
    """A run of this kernel's own service comes to its end meanwhile."""
    echo = scripted_task("echo", inputs={"a": int}, outputs={"a": int})
    assert workspace.submit(echo, {"a": 7}).result(PATIENCE) == 7


# --- the service goes away and comes back ---


@pytest.mark.usefixtures("agents")
def test_a_service_that_is_killed_and_started_again(workspace: Workspace, service: Service) -> None:
    runs = submitted(workspace, job(), 12)
    until(lambda: all(run.message == "it goes on" for run in runs))
    service.kill()
    until(lambda: all("polls fail" in run.message for run in runs))
    assert "UNAVAILABLE" in runs[0].message and not any(run.done for run in runs)
    undisturbed(workspace)
    meanwhile = workspace.submit(job(retries=1), {"x": 1})
    with pytest.raises(RunFailedError, match="UNAVAILABLE") as caught:
        meanwhile.result(PATIENCE)
    assert caught.value.attempts == 2
    assert [note for note in meanwhile.snapshot.notes if "outcome unknown" in note] == list(meanwhile.snapshot.notes)
    service.go()
    service.start()
    assert [run.result(PATIENCE) for run in runs] == [2 * x for x in range(12)]
    assert all(run.snapshot.notes == () and run.attempt == 1 for run in runs)
    assert len(service.jobs()) == 12


@pytest.mark.usefixtures("agents")
def test_a_service_that_stands_still(workspace: Workspace, service: Service) -> None:
    workspace.config.deadlines = {"GetTask": 0.3, "CreateTask": 0.3}
    runs = submitted(workspace, job(), 5)
    until(lambda: all(run.message == "it goes on" for run in runs))
    service.send(signal.SIGSTOP)
    try:
        until(lambda: all("GetTask took more than its deadline" in run.message for run in runs))
        undisturbed(workspace)
        with pytest.raises(RunFailedError, match="CreateTask took more than its deadline"):
            workspace.submit(job(), {"x": 1}).result(PATIENCE)
    finally:
        service.send(signal.SIGCONT)
    service.go()
    assert [run.result(PATIENCE) for run in runs] == [2 * x for x in range(5)]


@pytest.mark.usefixtures("agents")
def test_polls_that_hang_at_one_service_take_no_slot_of_another(workspace: Workspace, service: Service) -> None:
    workspace.config.calls_in_flight = 2
    workspace.config.deadlines = {"GetTask": 0.0}
    runs = submitted(workspace, job(), 4)
    until(lambda: all(run.message == "it goes on" for run in runs))
    service.send(signal.SIGSTOP)
    try:
        until(lambda: not workspace.runner.budgets.of("far")._free)
        here = workspace.submit(scripted_task(phases=["RUNNING", "SUCCEEDED"]), {})
        assert here.result(PATIENCE) is None
    finally:
        service.send(signal.SIGCONT)
    service.go()
    assert [run.result(PATIENCE) for run in runs] == [2 * x for x in range(4)]


def test_a_cancel_while_the_service_is_away(
    workspace: Workspace, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The delete is repeated, and gets through when the service is back."""
    monkeypatch.setattr(attempt_module, "DELETE_TRIES", 50)  # a busy machine takes long to start it
    run = workspace.submit(job(), {"x": 1})
    until(lambda: run.message == "it goes on")
    service.kill()
    until(lambda: "polls fail" in run.message)
    run.cancel()
    until(lambda: run.snapshot.stopping)
    service.start()
    run.exception(PATIENCE)
    assert run.phase == "ABORTED" and run.snapshot.notes == () and service.jobs() == []


# --- the service fails now and then ---


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN", "RESOURCE_EXHAUSTED"])
def test_every_other_call_fails(workspace: Workspace, service: Service, code: str) -> None:
    fails = dict.fromkeys(("CreateTask", "GetTask", "DeleteTask"), code)
    runs = submitted(workspace, job(retries=1, fails=fails), 4)
    until(lambda: all(run.message.startswith("it goes on") for run in runs))
    runs[3].cancel()
    runs[3].exception(PATIENCE)
    service.go()
    assert [run.result(PATIENCE) for run in runs[:3]] == [0, 2, 4]
    assert all(run.attempt == 2 for run in runs)
    # Only where there was no answer may there be a job.
    notes = {note for run in runs for note in run.snapshot.notes}
    assert all(f"outcome unknown: the create ended without an answer ({code})" in note for note in notes)
    assert bool(notes) == (code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"))
    assert len(service.jobs()) == 3 and runs[3].phase == "ABORTED"


@pytest.mark.usefixtures("quick", "agents")
@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL"])
def test_every_call_fails(workspace: Workspace, service: Service, code: str) -> None:
    workspace.config.poll_failure_limit = 0.0
    run = workspace.submit(job(fails={"GetTask": code}, every=1), {"x": 1})
    with pytest.raises(RunFailedError, match=f"GetTask says {code}"):
        run.result(PATIENCE)
    assert "may still run" in run.snapshot.notes[0] and len(service.jobs()) == 1
    undisturbed(workspace)
    run = workspace.submit(job(fails={"CreateTask": code}, every=1, retries=2), {"x": 1})
    with pytest.raises(RunFailedError, match=f"CreateTask says {code}") as caught:
        run.result(PATIENCE)
    assert (caught.value.attempts, caught.value.code.partition("|")[0]) == (3, "RetriesExhausted")
    run = workspace.submit(job(fails={"DeleteTask": code}, every=1), {"x": 1})
    until(lambda: run.message == "it goes on")
    run.cancel()
    error = run.exception(PATIENCE)
    assert error is not None and f"may still run: {code}: DeleteTask says {code}" in error.message


@pytest.mark.usefixtures("quick", "agents")
def test_a_service_that_hangs_now_and_then(workspace: Workspace, service: Service) -> None:
    workspace.config.deadlines = {"CreateTask": 0.5, "GetTask": 0.3, "DeleteTask": 0.5}
    hangs = dict.fromkeys(("CreateTask", "GetTask", "DeleteTask"), "HANG")
    runs = submitted(workspace, job(retries=1, fails=hangs), 3)
    undisturbed(workspace)
    until(lambda: all(run.message.startswith("it goes on") for run in runs))
    runs[2].cancel()
    runs[2].exception(PATIENCE)
    service.go()
    assert [run.result(PATIENCE) for run in runs[:2]] == [0, 2]
    assert runs[2].phase == "ABORTED" and len(service.jobs()) == 2


def test_what_another_service_says_of_a_secret_is_masked(workspace: Workspace, service: Service) -> None:
    """Our own agents' words are masked before they leave; a service elsewhere knows no secrets of ours."""
    assert workspace.secrets.put("FAR_KEY", "it goes on")
    try:
        run = workspace.submit(job(), {"x": 1})
        until(lambda: run.message)
        workspace.runner.journal.flush()  # type: ignore[attr-defined]
        on_record = workspace.runner.journal.shelf.record(run.id).snapshot  # type: ignore[attr-defined]
        assert run.message == on_record.message == MASK
    finally:
        workspace.secrets.forget("FAR_KEY")
    assert service.jobs()


# --- time ---


class Clock:
    """The module ``time`` with a wall clock that is off. gRPC's own is that of the system, so ours alone has it."""

    def __init__(self) -> None:
        self.off = 0.0

    def time(self) -> float:
        return time.time() + self.off

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def test_a_clock_that_jumps_disturbs_no_run(
    workspace: Workspace, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is set a year ahead, then back a year: what a person reads of time may be odd, and nothing ends early or never."""
    clock = Clock()
    ours = [
        m for name, m in sys.modules.items() if name.startswith("flyteagent_nb.") and getattr(m, "time", None) is time
    ]
    assert {"flyteagent_nb.running.runner", "flyteagent_nb.running.attempt"} <= {m.__name__ for m in ours}
    for module in ours:
        monkeypatch.setattr(module, "time", clock)
    task = scripted_task(phases=["RUNNING", "SUCCEEDED"], seconds=0.4, timeout=60.0)
    runs = [workspace.submit(task, {}) for _ in range(3)]
    until(lambda: all(run.phase == "RUNNING" for run in runs))
    for jump in (365 * 86_400.0, -365 * 86_400.0):
        clock.off = jump
        runs += [workspace.submit(task, {}) for _ in range(2)]
        assert all(run.snapshot.elapsed >= 0 for run in runs)
        until(lambda begun=tuple(runs): all(run.phase != "QUEUED" for run in begun))
    for run in runs:
        assert run.result(PATIENCE) is None and run.attempt == 1
        assert 0 < (run.snapshot.seconds or -1) < PATIENCE
    late = workspace.submit(scripted_task(phases=["RUNNING"], timeout=0.3), {})
    until(lambda: late.phase == "RUNNING")
    clock.off = 0.0
    assert "timeout [0.3s] expired" in str(late.exception(PATIENCE)) and agents.scripted.count("delete") == 1


# --- another kernel's runs ---


@contextlib.contextmanager
def held(workspace: Workspace) -> Iterator[None]:
    """The event loop stands still meanwhile."""
    here, release = threading.Event(), threading.Event()

    def hold() -> None:
        here.set()
        release.wait(PATIENCE)

    workspace.runner.thread.call_soon(hold)
    assert here.wait(PATIENCE)
    try:
        yield
    finally:
        release.set()


def test_a_cancel_that_comes_before_an_attached_run_begins_deletes_its_job(
    workspace: Workspace, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = workspace.submit(scripted_task(phases=["RUNNING"]), {})
    until(lambda: run.phase == "RUNNING")
    workspace.config.data_folder = str(workspace.runner.storage.root.parent)
    workspace.close()
    workspace.wait(PATIENCE)
    workspace.catalog.register(agents.scripted)
    runner = workspace.runner
    # What `%agent cancel ID` does; on a machine that is busy the loop sees both at once.
    real = runner.attach

    def attach(*args: Any) -> Run:
        with held(workspace):
            attached = real(*args)
            attached.cancel()
        return attached

    monkeypatch.setattr(runner, "attach", attach)
    attached = workspace.attach(run.id)
    attached.exception(PATIENCE)
    assert attached.phase == "ABORTED"
    assert agents.scripted.open_jobs == [] and agents.scripted.count("delete") == 1


def test_a_cancel_of_a_run_that_another_kernel_has_taken_deletes_nothing(workspace: Workspace, agents: Agents) -> None:
    """As after a lease that ran out: it has not looked since."""
    run = workspace.submit(scripted_task(phases=["RUNNING"]), {})
    until(lambda: agents.scripted.count("get") > 3)
    workspace.runner.journal.flush()  # type: ignore[attr-defined]  # or a state that is still to be written finds out
    taken = "UPDATE run SET owner='another', epoch=epoch+1 WHERE id=?"
    workspace.runner.journal.ask(lambda c: c.execute(taken, (run.id,)))  # type: ignore[attr-defined]
    run.cancel()
    run.exception(PATIENCE)
    assert run.phase == "UNKNOWN" and "is followed by another kernel now; its job was left alone" in str(run.error)
    assert agents.scripted.count("delete") == 0 and len(agents.scripted.open_jobs) == 1
