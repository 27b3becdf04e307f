"""The attempt loop with async agents, over the real channel: the rules of FlytePropeller that involve I/O."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from typing import TYPE_CHECKING, Any

import pytest
from flyteidl.core.errors_pb2 import ContainerError, ErrorDocument
from flyteidl.core.execution_pb2 import TaskExecution
from flyteidl.core.literals_pb2 import LiteralMap
from flytekit.extend.backend.base_connector import Resource
from flytekit.models.task import Container, Resources
from scripted import JobMeta, ScriptedAgent
from scripted_tasks import PATIENCE, ScriptedTask, scripted_task, until

from flyteagent_nb.errors import OutputError, RunFailedError, RunTimedOutError, TaskTypeNotFoundError
from flyteagent_nb.running import attempt as attempt_module
from flyteagent_nb.running import runner as runner_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scripted_tasks import Agents

    from flyteagent_nb.running.pace import Pace
    from flyteagent_nb.running.run import Run
    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)


def phases(run: Run) -> list[str]:
    return [change.phase for change in run.phases]


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses after failed polls, without which a test of five of them takes a second and a half."""
    monkeypatch.setattr(attempt_module, "failure_backoff", lambda failures, jitter: 0.001)


def failed(run: Run) -> RunFailedError:
    with pytest.raises(RunFailedError) as raised:
        run.result(PATIENCE)
    assert run.done and run.phase == "FAILED" and run.outputs is None
    return raised.value


def outcomes(workspace: Workspace, run: Run) -> list[str]:
    return [attempt.outcome for attempt in workspace.runner.attempts(run)]


class ListedAgent(ScriptedAgent):
    """An agent whose gets return, or raise, one item of a list after the other, the last one for ever."""

    name = "Listed Agent"

    def __init__(self, *replies: Any) -> None:
        super().__init__("listed")
        self.replies = list(replies)

    async def get(self, resource_meta: JobMeta, **kwargs: Any) -> Resource:
        self.calls.append(("get", resource_meta.job_id))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, Resource) else Resource(phase=reply)


class RecordingAgent(ScriptedAgent):
    """An agent that keeps what its create was given, and lets a function write what a job would."""

    name = "Recording Agent"

    def __init__(self, write: Callable[[str], object] = lambda prefix: None) -> None:
        super().__init__("recording")
        self.given: list[dict[str, Any]] = []
        self._write = write

    async def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> JobMeta:
        self.given.append({"task_template": task_template, "inputs": inputs, **kwargs})
        await asyncio.to_thread(self._write, kwargs["output_prefix"])
        return await super().create(task_template, inputs, **kwargs)


# --- phases ---


@pytest.mark.parametrize("task_type", ["scripted", "scripted_plain"])
def test_a_job_goes_through_its_phases_in_order(workspace: Workspace, agents: Agents, task_type: str) -> None:
    seen = ["WAITING_FOR_RESOURCES", "INITIALIZING", "RUNNING", "SUCCEEDED"]
    task = scripted_task(task_type, phases=seen, message="so far", links={"console": "http://c"})
    run = workspace.submit(task, {})
    assert run.result(PATIENCE) is None
    assert phases(run) == ["QUEUED", *seen]
    times = [change.at for change in run.phases]
    assert times == sorted(times)
    assert (run.message, run.log_links, run.outputs) == ("so far", (("console", "http://c"),), {})
    assert (run.service, run.snapshot.agent, run.snapshot.is_sync) == (
        "kernel",
        {"scripted": "Scripted Agent", "scripted_plain": "Plain Scripted Agent"}[task_type],
        False,
    )
    agent = agents.scripted if task_type == "scripted" else agents.plain
    assert [method for method, _ in agent.calls] == ["create", "get", "get", "get", "get"]
    assert outcomes(workspace, run) == ["SUCCEEDED"]


def test_a_phase_that_stays_is_told_once(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task(phases=["RUNNING", "RUNNING", "QUEUED", "QUEUED", "SUCCEEDED"]), {})
    run.result(PATIENCE)
    assert phases(run) == ["QUEUED", "RUNNING", "QUEUED", "SUCCEEDED"]


@pytest.mark.parametrize("phase", ["FAILED", "ABORTED"])
def test_failed_and_aborted_are_final_though_retries_are_left(workspace: Workspace, agents: Agents, phase: str) -> None:
    task = scripted_task(phases=["RUNNING", phase], retries=3, message="no such table")
    run = workspace.submit(task, {})
    with pytest.raises(RunFailedError, match="no such table") as raised:
        run.result(PATIENCE)
    assert (raised.value.phase, raised.value.code, raised.value.attempts) == (phase, "TaskFailedWithError", 1)
    assert raised.value.agent_message == "no such table"
    assert run.phase == phase and not run.cancelled and run.snapshot.attempts == 4
    assert (agents.scripted.count("create"), agents.scripted.count("delete")) == (1, 0)
    assert outcomes(workspace, run) == [phase]


def test_a_retryable_failure_uses_the_retries(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task(phases=["RETRYABLE_FAILED"], retries=2, message="spot node gone"), {})
    error = failed(run)
    assert (error.code, error.attempts) == ("RetriesExhausted|TaskFailedWithError", 3)
    assert run.snapshot.error_code == error.code
    assert "after 3 attempts: spot node gone" in error.message
    assert phases(run) == [
        "QUEUED",
        "RETRYABLE_FAILED",
        "QUEUED",
        "RETRYABLE_FAILED",
        "QUEUED",
        "RETRYABLE_FAILED",
        "FAILED",
    ]
    assert [change.attempt for change in run.phases] == [1, 1, 2, 2, 3, 3, 3]
    assert (agents.scripted.count("create"), agents.scripted.count("delete")) == (3, 0)


def test_a_later_attempt_may_succeed(workspace: Workspace) -> None:
    agent = ListedAgent(TaskExecution.RETRYABLE_FAILED, TaskExecution.SUCCEEDED)
    workspace.catalog.register(agent)
    run = workspace.submit(scripted_task("listed", retries=5), {})
    run.result(PATIENCE)
    assert (run.attempt, run.error, agent.count("create")) == (2, None, 2)
    records = workspace.runner.attempts(run)
    assert [(r.number, r.outcome) for r in records] == [(1, "RETRYABLE_FAILED"), (2, "SUCCEEDED")]
    assert len({r.output_prefix for r in records}) == 2 and len({r.resource_meta for r in records}) == 2


def test_retries_and_timeout_can_be_given_with_the_run(workspace: Workspace, agents: Agents) -> None:
    task = scripted_task(phases=["RETRYABLE_FAILED"], retries=5)
    assert failed(workspace.submit(task, {}, retries=1)).attempts == 2
    assert isinstance(failed(workspace.submit(scripted_task(phases=["RUNNING"]), {}, timeout=0.1)), RunTimedOutError)
    assert task.metadata.retries == 5


def test_undefined_reads_as_the_zero_of_the_deprecated_state(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task(phases=["UNDEFINED"], retries=1), {})
    assert failed(run).code == "RetriesExhausted|TaskFailedWithError"
    assert phases(run).count("RETRYABLE_FAILED") == 2


def test_a_phase_that_flyte_does_not_know_is_an_error_of_that_poll(workspace: Workspace) -> None:
    workspace.catalog.register(ListedAgent(77, TaskExecution.RUNNING, TaskExecution.SUCCEEDED))
    run = workspace.submit(scripted_task("listed"), {})
    messages: list[str] = []
    run.watch(lambda r: messages.append(r.message))
    run.result(PATIENCE)
    assert phases(run) == ["QUEUED", "RUNNING", "SUCCEEDED"]
    assert any("phase 77" in message for message in messages)


# --- create ---


def test_a_create_that_raises_uses_a_retry(workspace: Workspace, agents: Agents) -> None:
    task = scripted_task(raises={"create": "ValueError: quota"}, times={"create": 1}, retries=1)
    run = workspace.submit(task, {})
    run.result(PATIENCE)
    assert run.attempt == 2
    first, second = workspace.runner.attempts(run)
    assert (first.outcome, first.resource_meta, second.outcome) == ("FAILED", None, "SUCCEEDED")
    assert "ValueError: quota" in first.message
    assert run.snapshot.notes == ()


def test_a_create_that_always_raises_says_what_and_where(workspace: Workspace, agents: Agents) -> None:
    error = failed(workspace.submit(scripted_task(raises={"create": "ValueError: quota"}, retries=1), {}))
    assert error.code == "RetriesExhausted|TaskFailedWithError"
    assert "after 2 attempts: ValueError: quota" in error.message
    assert any("scripted.py" in frame and frame.endswith("in create") for frame in error.frames)
    assert not any("flyteagent_nb/" in frame for frame in error.frames)


@pytest.mark.parametrize("kind", ["DefaultCredentialsError", "NoCredentialsError"])
def test_a_create_that_cannot_sign_in_tells_who_knows_more(workspace: Workspace, agents: Agents, kind: str) -> None:
    error = failed(workspace.submit(scripted_task(raises={"create": f"RuntimeError: {kind}: none found"}), {}))
    assert error.hint.startswith("%agent doctor scripted tells what it signs in with")


class HangsOnce(ScriptedAgent):
    name = "Hangs Once"

    def __init__(self) -> None:
        super().__init__("hangs_once")

    async def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> JobMeta:
        self.calls.append(("hang", ""))
        if self.count("hang") == 1:
            await asyncio.Event().wait()
        return await super().create(task_template, inputs, **kwargs)


def test_a_create_without_an_answer_is_on_record_as_unknown(workspace: Workspace) -> None:
    agent = HangsOnce()
    workspace.catalog.register(agent)
    workspace.config.deadlines = {"CreateTask": 0.3}
    run = workspace.submit(scripted_task("hangs_once", retries=1), {})
    until(lambda: len(workspace.runner.attempts(run)) == 1)
    workspace.config.deadlines = {}  # the run keeps what it was submitted with, or it would take ten seconds
    run.result(PATIENCE)
    assert outcomes(workspace, run) == ["unknown", "SUCCEEDED"]
    (note,) = run.snapshot.notes
    assert "attempt 1" in note and "outcome unknown" in note and "DEADLINE_EXCEEDED" in note
    assert agent.count("delete") == 0


def test_a_create_that_hangs_says_which_deadline(workspace: Workspace, agents: Agents) -> None:
    workspace.config.deadlines = {"CreateTask": 0.2}
    error = failed(workspace.submit(scripted_task(hangs=["create"]), {}))
    assert "CreateTask took more than its deadline, 0.2 s" in error.message
    assert "%config FlyteAgentNB.deadlines" in error.message
    assert until(lambda: agents.scripted.cancelled) == ["create"]


def test_a_deadline_by_operation_wins_over_the_general_one(workspace: Workspace, agents: Agents) -> None:
    workspace.config.deadline = 0.1
    workspace.config.deadlines = {"CreateTask": PATIENCE}
    workspace.submit(scripted_task(sleeps={"create": 0.4}), {}).result(PATIENCE)
    assert failed(workspace.submit(scripted_task("do", sleeps={"do": 20}), {})).code.endswith("TaskFailedWithError")
    workspace.config.deadlines = {}
    workspace.config.deadline = 0.0  # none at all
    workspace.submit(scripted_task(sleeps={"create": 0.2, "get": 0.2}), {}).result(PATIENCE)


def test_what_the_create_is_told(workspace: Workspace) -> None:
    agent = RecordingAgent()
    workspace.catalog.register(agent)
    workspace.config.project, workspace.config.domain = "proj", "dom"
    run = workspace.submit(
        scripted_task("recording", inputs={"a": int}, name="my.task", retries=2, color="red"), {"a": 4}
    )
    run.result(PATIENCE)
    (given,) = agent.given
    metadata = given["task_execution_metadata"]
    execution = metadata.task_execution_id
    assert (execution.task_id.project, execution.task_id.domain, execution.task_id.name) == ("proj", "dom", "my.task")
    assert execution.node_execution_id.execution_id.name == run.id
    assert (execution.retry_attempt, metadata.namespace, metadata.k8s_service_account) == (0, "proj-dom", "default")
    assert metadata.labels["execution-id"] == run.id
    assert given["inputs"].literals["a"].scalar.primitive.integer == 4
    assert given["task_template"].custom == {"color": "red"}
    assert given["output_prefix"] == workspace.runner.attempts(run)[0].output_prefix
    mode = stat.S_IMODE(os.stat(given["output_prefix"]).st_mode)
    assert mode == 0o700


def test_each_attempt_is_told_its_number_and_a_prefix_of_its_own(workspace: Workspace) -> None:
    agent = RecordingAgent()
    workspace.catalog.register(agent)
    failed(workspace.submit(scripted_task("recording", phases=["RETRYABLE_FAILED"], retries=2), {}))
    assert [g["task_execution_metadata"].task_execution_id.retry_attempt for g in agent.given] == [0, 1, 2]
    assert len({g["output_prefix"] for g in agent.given}) == 3


# --- a container ---


class ContainerJob(ScriptedTask):
    def get_container(self, settings: Any) -> Container:
        args = [
            "--in",
            "{{.input}}",
            "{{ .inputPrefix }}",
            "{{$outputPrefix}}",
            "{{.Inputs.a}}",
            "{{.perRetryUniqueKey}}",
        ]
        return Container("img", ["{{.input}}"], [*args, "{{.rawOutputDataPrefix}}"], Resources([], []), {}, {})


def test_the_args_of_a_container_are_rendered_and_its_inputs_are_there(workspace: Workspace) -> None:
    read: list[bytes] = []

    def look(prefix: str) -> None:
        with open(f"{prefix}/inputs.pb", "rb") as file:
            read.append(file.read())

    agent = RecordingAgent(look)
    workspace.catalog.register(agent)
    plain = scripted_task("recording", inputs={"a": int}, retries=1, phases=["RETRYABLE_FAILED"])
    task = ContainerJob(
        plain.script, task_type="recording", name="boxed", interface=plain.python_interface, metadata=plain.metadata
    )
    run = workspace.submit(task, {"a": 7})
    failed(run)
    for number, given in enumerate(agent.given, start=1):
        prefix = given["output_prefix"]
        container = given["task_template"].container
        assert container.args[:5] == ["--in", f"{prefix}/inputs.pb", prefix, prefix, "7"]
        assert container.args[5:] == [f"f{run.id}_n0_{number - 1}", f"{prefix}/raw"]
        assert container.command == ["{{.input}}"]
        assert prefix.endswith(f"{run.id}-{number}")
    for data in read:
        assert LiteralMap.FromString(data).literals["a"].scalar.primitive.integer == 7
    assert len(read) == 2


def test_a_template_variable_without_a_value_fails_the_create(workspace: Workspace) -> None:
    agent = RecordingAgent()
    workspace.catalog.register(agent)
    task = ContainerJob(
        {}, task_type="recording", name="boxed", interface=scripted_task(inputs={"b": int}).python_interface
    )
    error = failed(workspace.submit(task, {"b": 1}))
    assert error.code == "RetriesExhausted|TaskFailedWithError" and "a" in error.agent_message
    assert agent.given == []


# --- outputs ---


def write(name: str, data: bytes) -> Callable[[str], None]:
    def to(prefix: str) -> None:
        with open(f"{prefix}/{name}", "wb") as file:
            file.write(data)

    return to


def one_output(value: int) -> LiteralMap:
    outputs = LiteralMap()
    outputs.literals["x"].scalar.primitive.integer = value
    return outputs


def error_document(kind: int, code: str = "USER:BadRow") -> bytes:
    error = ContainerError(code=code, message="row 7 is bad", kind=kind)
    return bytes(ErrorDocument(error=error).SerializeToString())


def test_outputs_in_the_reply_win_over_those_in_the_storage(workspace: Workspace) -> None:
    workspace.catalog.register(RecordingAgent(write("outputs.pb", one_output(1).SerializeToString())))
    task = scripted_task("recording", outputs={"x": int})
    task.script["outputs"] = {"x": 2}
    assert workspace.submit(task, {}).result(PATIENCE) == 2


def test_outputs_that_a_job_wrote_are_read(workspace: Workspace) -> None:
    workspace.catalog.register(RecordingAgent(write("outputs.pb", one_output(5).SerializeToString())))
    run = workspace.submit(scripted_task("recording", outputs={"x": int}), {})
    assert run.result(PATIENCE) == 5
    assert run.outputs == {"x": 5}


def test_empty_outputs_in_the_reply_are_outputs(workspace: Workspace) -> None:
    workspace.catalog.register(RecordingAgent(write("outputs.pb", one_output(1).SerializeToString())))
    task = scripted_task("recording", outputs={"x": int})
    task.script["outputs"] = {}
    run = workspace.submit(task, {})
    with pytest.raises(OutputError, match=r"'x'.*nothing was"):
        run.result(PATIENCE)
    assert run.snapshot.error_code == "OutputMismatch"


def test_no_outputs_anywhere_is_retryable(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task(outputs={"x": int}, retries=1), {})
    error = failed(run)
    assert (error.code, error.attempts) == ("RetriesExhausted|OutputsNotFound", 2)
    assert "outputs.pb" in error.message
    assert agents.scripted.count("delete") == 0


def test_a_task_without_outputs_succeeds_whatever_came_back(workspace: Workspace) -> None:
    workspace.catalog.register(RecordingAgent(write("error.pb", error_document(ContainerError.NON_RECOVERABLE))))
    task = scripted_task("recording")
    task.script["outputs"] = {"y": 2}
    run = workspace.submit(task, {})
    assert run.result(PATIENCE) is None and run.outputs == {}


@pytest.mark.parametrize(
    ("kind", "attempts", "code"),
    [
        (ContainerError.NON_RECOVERABLE, 1, "USER:BadRow"),
        (ContainerError.RECOVERABLE, 3, "RetriesExhausted|USER:BadRow"),
    ],
)
def test_an_error_document_comes_first(workspace: Workspace, kind: int, attempts: int, code: str) -> None:
    def both(prefix: str) -> None:
        write("outputs.pb", one_output(5).SerializeToString())(prefix)
        write("error.pb", error_document(kind))(prefix)

    workspace.catalog.register(RecordingAgent(both))
    error = failed(workspace.submit(scripted_task("recording", outputs={"x": int}, retries=2), {}))
    assert (error.attempts, error.code, error.agent_message) == (attempts, code, "row 7 is bad")


@pytest.mark.parametrize("name", ["outputs.pb", "error.pb"])
def test_a_document_that_is_no_protobuf_is_named(workspace: Workspace, name: str) -> None:
    workspace.catalog.register(RecordingAgent(write(name, b"\xff\xff\xff not protobuf")))
    error = failed(workspace.submit(scripted_task("recording", outputs={"x": int}, retries=2), {}))
    assert f"{name} is not a" in error.message and error.attempts == 1


def test_an_outputs_file_that_cannot_be_read_is_named(workspace: Workspace) -> None:
    workspace.catalog.register(RecordingAgent(lambda prefix: os.mkdir(f"{prefix}/outputs.pb")))
    assert "outputs.pb" in failed(workspace.submit(scripted_task("recording", outputs={"x": int}), {})).message


def test_outputs_in_the_storage_are_checked_too(workspace: Workspace) -> None:
    workspace.catalog.register(RecordingAgent(write("outputs.pb", one_output(5).SerializeToString())))
    run = workspace.submit(scripted_task("recording", outputs={"x": str}), {})
    with pytest.raises(OutputError, match="output 'x' of task 'job' is declared as string and came as integer") as e:
        run.result(PATIENCE)
    assert (e.value.task, e.value.name) == ("job", "x")


# --- time ---


def test_an_attempt_that_takes_too_long_is_deleted_and_tried_again(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task(phases=["RUNNING"], timeout=0.2, retries=1), {})
    error = failed(run)
    assert isinstance(error, RunTimedOutError) and isinstance(error, TimeoutError)
    assert error.code in ("RetriesExhausted|TimeoutExpired", "TimeoutExpired")
    assert agents.scripted.count("create") == agents.scripted.count("delete") == error.attempts
    assert set(outcomes(workspace, run)) == {"FAILED"}
    assert agents.scripted.open_jobs == []


def test_a_run_has_twice_its_timeout_for_all_attempts(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task(phases=["RUNNING"], timeout=0.2, retries=50), {})
    error = failed(run)
    assert isinstance(error, RunTimedOutError)
    assert error.code == "TimeoutExpired"
    assert error.attempts <= 3
    assert agents.scripted.open_jobs == []


def test_an_attempt_ends_with_the_time_of_its_run(
    workspace: Workspace, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its own time is not up, as the earlier attempts may have used most of the run's."""
    monkeypatch.setattr(attempt_module.propeller, "run_limit", lambda timeout: 0.2)
    error = failed(workspace.submit(scripted_task(phases=["RUNNING"], timeout=3600, retries=2), {}))
    assert isinstance(error, RunTimedOutError)
    assert (error.code, error.attempts, error.agent_message) == (
        "TimeoutExpired",
        1,
        "task active timeout [0.2s] expired",
    )
    assert agents.scripted.count("delete") == 1


def test_waiting_for_a_slot_is_not_the_jobs_time(workspace: Workspace, agents: Agents) -> None:
    workspace.config.calls_in_flight = 2  # one create at a time
    blocking = workspace.submit(scripted_task("scripted_plain", hangs=["create"]), {})
    until(lambda: agents.plain.count("create"))
    waiting = workspace.submit(scripted_task(timeout=0.3), {})
    until(lambda: waiting.snapshot.agent and waiting.snapshot.elapsed > 0.7)
    agents.plain.released.set()
    waiting.result(PATIENCE)
    assert blocking.result(PATIENCE) is None and waiting.attempt == 1


# --- polls ---


@pytest.mark.usefixtures("no_backoff")
def test_polls_that_fail_now_and_then_do_no_harm(workspace: Workspace) -> None:
    running = TaskExecution.RUNNING
    no = ConnectionError("no")
    agent = ListedAgent(no, running, no, no, running, TaskExecution.SUCCEEDED)
    workspace.catalog.register(agent)
    workspace.config.poll_failure_limit = 0.0
    run = workspace.submit(scripted_task("listed"), {})
    run.result(PATIENCE)
    assert agent.count("get") == 6 and run.snapshot.notes == ()


@pytest.mark.usefixtures("no_backoff")
def test_polls_that_always_fail_are_given_up(workspace: Workspace, agents: Agents) -> None:
    workspace.config.poll_failure_limit = 0.0
    run = workspace.submit(scripted_task(raises={"get": "ConnectionError: gone away"}, retries=3), {})
    error = failed(run)
    assert agents.scripted.count("get") == 5  # at least five, however short the limit
    assert "ConnectionError: gone away" in error.message
    assert (error.code, error.attempts) == ("AutoRefreshCacheFailed", 1)
    (note,) = run.snapshot.notes
    assert "may still run" in note
    assert outcomes(workspace, run) == ["unknown"]
    assert agents.scripted.count("delete") == 0


@pytest.mark.usefixtures("no_backoff")
def test_polls_are_not_given_up_before_the_limit(workspace: Workspace, agents: Agents) -> None:
    workspace.config.poll_failure_limit = 3600.0
    run = workspace.submit(scripted_task(raises={"get": "ConnectionError: no"}, times={"get": 6}), {})
    run.result(PATIENCE)
    assert agents.scripted.count("get") == 7


@pytest.mark.usefixtures("no_backoff")
def test_a_get_that_hangs_is_a_failed_poll(workspace: Workspace, agents: Agents) -> None:
    workspace.config.deadlines = {"GetTask": 0.05}
    workspace.config.poll_failure_limit = 0.0
    error = failed(workspace.submit(scripted_task(hangs=["get"]), {}))
    assert "GetTask took more than its deadline, 0.05 s" in error.message
    assert agents.scripted.count("get") == 5


def test_a_failing_poll_is_shown_while_it_lasts(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task(raises={"get": "ConnectionError: no route"}), {})
    until(lambda: "no route" in run.message)
    assert run.message.startswith("ConnectionError: no route (polls fail, ") and not run.done


def test_propellers_pace_changes_the_delays_alone(
    workspace: Workspace, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int, float]] = []
    original = attempt_module.poll_delay

    def poll_delay(pace: Pace, polls_done: int, age: float, jitter: float) -> float:
        delay = original(pace, polls_done, age, jitter)
        asked.append((pace.name, polls_done, delay))
        return min(delay, 0.01)  # nobody waits for half a minute here

    monkeypatch.setattr(attempt_module, "poll_delay", poll_delay)
    monkeypatch.setattr(attempt_module, "poll_floor", lambda *_: 0.0)
    task = scripted_task(phases=["RUNNING", "RUNNING", "SUCCEEDED"])
    workspace.config.pace = "propeller"
    slow = workspace.submit(task, {})
    slow.result(PATIENCE)
    assert {pace for pace, _, _ in asked} == {"propeller"}
    assert [round(delay) for _, polls, delay in asked if polls] == [30, 30]
    asked.clear()
    workspace.config.pace = "adaptive"
    quick = workspace.submit(task, {})
    quick.result(PATIENCE)
    assert {pace for pace, _, _ in asked} == {"adaptive"}
    assert all(delay < 1 for _, _, delay in asked)
    assert phases(slow) == phases(quick)


def test_propellers_pace_has_no_backoff(workspace: Workspace, agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    backoffs: list[int] = []
    monkeypatch.setattr(attempt_module, "poll_delay", lambda *_: 0.001)
    monkeypatch.setattr(attempt_module, "poll_floor", lambda *_: 0.0)
    monkeypatch.setattr(attempt_module, "failure_backoff", lambda n, _: backoffs.append(n) or 0.001)
    workspace.config.pace = "propeller"
    error = failed(workspace.submit(scripted_task(raises={"get": "ConnectionError: no"}), {}))
    assert error.code == "AutoRefreshCacheFailed"
    assert agents.scripted.count("get") == 6  # MaxSystemFailures is 5, and has to be exceeded
    assert backoffs == []


def test_propellers_pace_end_to_end(workspace: Workspace, agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting, through the runner, to the waits between the gets: interval, rate over all runs, and failure limit."""
    waits: list[float] = []

    async def pause(driven: Any, seconds: float) -> None:
        waits.append(seconds)  # nobody waits for half a minute here

    monkeypatch.setattr(runner_module.Driven, "pause", pause)
    workspace.config.pace = "propeller"
    workspace.submit(scripted_task(phases=["QUEUED", "RUNNING", "SUCCEEDED"]), {}).result(PATIENCE)
    assert waits == [0.0, 30.0, 30.0]
    waits.clear()
    # 10 calls a second over all runs: six hundred of them are asked once a minute each.
    monkeypatch.setattr(runner_module.Runner, "active", property(lambda self: 600))
    workspace.submit(scripted_task(phases=["RUNNING", "SUCCEEDED"]), {}).result(PATIENCE)
    assert waits == [pytest.approx(60, abs=6.1)] * 2
    monkeypatch.undo()
    waits.clear()
    monkeypatch.setattr(runner_module.Driven, "pause", pause)
    # What gives it up is the sixth failure, however little time has passed.
    error = failed(workspace.submit(scripted_task(raises={"get": "ConnectionError: no"}), {}))
    assert error.code == "AutoRefreshCacheFailed" and waits == [0.0] + [30.0] * 5


# --- no agent, and an agent that changes ---


def test_a_task_type_that_nobody_serves(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task("scriptd"), {})
    with pytest.raises(TaskTypeNotFoundError, match="did you mean scripted") as raised:
        run.result(PATIENCE)
    assert run.phase == "FAILED" and raised.value.suggestion == "scripted"


def test_a_version_that_nobody_serves(workspace: Workspace, agents: Agents) -> None:
    with pytest.raises(TaskTypeNotFoundError, match=r"in version 3\n.*served in version 0"):
        workspace.submit(scripted_task(version=3), {}).result(PATIENCE)


def test_mending_get_mends_the_running_job(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task(raises={"get": "ConnectionError: a bug"}), {})
    until(lambda: agents.scripted.count("get") >= 2)

    class Mended(ScriptedAgent):
        async def get(self, resource_meta: JobMeta, **kwargs: Any) -> Resource:
            return Resource(phase=TaskExecution.SUCCEEDED, message="mended")

    workspace.catalog.register(Mended(jobs=agents.scripted.jobs))
    run.result(PATIENCE)
    assert run.message == "mended" and agents.scripted.count("create") == 1


def test_a_job_is_followed_though_its_agent_is_removed(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task(phases=["RUNNING"] * 4 + ["SUCCEEDED"]), {})
    until(lambda: agents.scripted.count("get") >= 1)
    workspace.remove("scripted")
    run.result(PATIENCE)
    assert run.phase == "SUCCEEDED"
    with pytest.raises(TaskTypeNotFoundError):
        workspace.submit(scripted_task(), {}).result(PATIENCE)


# --- garbage ---


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Resource(phase=TaskExecution.SUCCEEDED, outputs={"x": threading.Lock()}), "x"),
        (Resource(phase=TaskExecution.SUCCEEDED, outputs=["x"]), "list"),  # type: ignore[arg-type]
        (Resource(phase=TaskExecution.RUNNING, custom_info={"a": object()}), "custom_info"),
        (Resource(phase="running"), "Resource"),  # type: ignore[arg-type]
        (Resource(phase=None), "phase"),  # type: ignore[arg-type]
    ],
)
def test_a_get_that_returns_garbage(workspace: Workspace, agents: Agents, reply: Resource, words: str) -> None:
    workspace.catalog.register(ListedAgent(reply))
    workspace.config.poll_failure_limit = 0.0
    error = failed(workspace.submit(scripted_task("listed", outputs={"x": int}), {}))
    assert "ListedAgent.get" in error.message and words in error.message
    assert workspace.submit(scripted_task("noop"), {}).result(PATIENCE) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_custom_info_that_json_cannot_say(workspace: Workspace, value: float) -> None:
    info = {"loss": value, "epoch": 3}
    workspace.catalog.register(
        ListedAgent(Resource(phase=TaskExecution.RUNNING, custom_info=info), TaskExecution.SUCCEEDED)
    )
    run = workspace.submit(scripted_task("listed"), {})
    run.result(PATIENCE)
    assert run.phase == "SUCCEEDED"


@pytest.mark.parametrize("returned", [None, "job-1", {"job_id": "1"}, 7])
def test_a_create_that_returns_garbage(workspace: Workspace, returned: Any) -> None:
    class Garbage(ScriptedAgent):
        name = "Garbage"

        async def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> Any:
            return returned

    workspace.catalog.register(Garbage("garbage"))
    error = failed(workspace.submit(scripted_task("garbage"), {}))
    assert "Garbage.create returned" in error.message and "ResourceMeta" in error.message


def test_custom_info_and_links_are_kept_when_a_later_reply_has_none(workspace: Workspace) -> None:
    from flyteidl.core.execution_pb2 import TaskLog

    first = Resource(
        phase=TaskExecution.RUNNING, custom_info={"rows": 3}, log_links=[TaskLog(name="ui", uri="http://u")]
    )
    workspace.catalog.register(ListedAgent(first, TaskExecution.SUCCEEDED))
    run = workspace.submit(scripted_task("listed"), {})
    run.result(PATIENCE)
    assert run.custom_info == {"rows": 3} and run.log_links == (("ui", "http://u"),)


def test_the_folder_of_a_run_stays_under_the_workspaces_own(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task(), {})
    run.result(PATIENCE)
    root: Path = workspace.runner.storage.root
    assert workspace.runner.attempts(run)[0].output_prefix == f"{root}/{run.id}-1"
    assert stat.S_IMODE(os.stat(root).st_mode) == 0o700
