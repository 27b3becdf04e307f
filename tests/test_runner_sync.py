"""Sync agents over the real channel: one call, which is the whole attempt."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pytest
from flyteidl.core.execution_pb2 import TaskExecution
from flytekit.extend.backend.base_connector import Resource
from scripted import DoAgent
from scripted_tasks import PATIENCE, scripted_task, until

import flyteagent_nb
from flyteagent_nb import tables
from flyteagent_nb.errors import FlyteAgentNBError, OutputError, RunFailedError, RunTimedOutError
from flyteagent_nb.running import attempt as attempt_module
from flyteagent_nb.running import runner as runner_module
from flyteagent_nb.running.journal import KEPT_IN_JOURNAL

if TYPE_CHECKING:
    from scripted_tasks import Agents

    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)


class ReturningAgent(DoAgent):
    """A sync agent that returns, or raises, one item of a list after the other, the last one for ever."""

    name = "Returning Agent"

    def __init__(self, *replies: Any) -> None:
        super().__init__("returning")
        self.replies = list(replies)
        self.prefixes: list[str] = []

    async def do(self, task_template: Any, output_prefix: str, inputs: Any = None, **kwargs: Any) -> Any:
        self.calls.append(("do", ""))
        self.prefixes.append(output_prefix)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, BaseException):
            raise reply
        return reply


def failed(run: Any) -> RunFailedError:
    with pytest.raises(RunFailedError) as raised:
        run.result(PATIENCE)
    return raised.value


@pytest.mark.parametrize("task_type", ["do", "do_plain"])
def test_one_call_does_it_all(workspace: Workspace, agents: Agents, task_type: str) -> None:
    task = scripted_task(task_type, outputs={"x": int}, message="done", links={"ui": "http://u"})
    task.script["outputs"] = {"x": 4}
    run = flyteagent_nb.submit(task)
    assert run.result(PATIENCE) == 4
    assert [change.phase for change in run.phases] == ["QUEUED", "RUNNING", "SUCCEEDED"]
    assert (run.message, run.log_links, run.outputs) == ("done", (("ui", "http://u"),), {"x": 4})
    assert run.snapshot.is_sync and run.service == "kernel"
    agent = agents.do if task_type == "do" else agents.plain_do
    assert agent.count("do") == 1
    assert workspace.runner.attempts(run) == ()


def test_submit_says_what_it_takes() -> None:
    with pytest.raises(FlyteAgentNBError, match="submit takes a flytekit task, not a function"):
        flyteagent_nb.submit(lambda: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("phase", ["FAILED", "ABORTED"])
def test_a_failure_is_final(workspace: Workspace, agents: Agents, phase: str) -> None:
    run = workspace.submit(scripted_task("do", phases=[phase], retries=3, message="bad prompt"), {})
    error = failed(run)
    assert (error.phase, error.code, error.attempts, error.agent_message) == (
        phase,
        "TaskFailedWithError",
        1,
        "bad prompt",
    )
    assert run.phase == phase and agents.do.count("do") == 1


def test_a_retryable_failure_uses_the_retries(workspace: Workspace, agents: Agents) -> None:
    error = failed(workspace.submit(scripted_task("do", phases=["RETRYABLE_FAILED"], retries=2), {}))
    assert (error.code, error.attempts) == ("RetriesExhausted|TaskFailedWithError", 3)
    assert agents.do.count("do") == 3


def test_a_call_that_raises_uses_a_retry(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task("do", raises={"do": "ValueError: busy"}, times={"do": 2}, retries=2), {})
    assert run.result(PATIENCE) is None
    assert run.attempt == 3


@pytest.mark.parametrize("phase", ["RUNNING", "QUEUED"])
def test_a_phase_that_is_not_final_has_nothing_to_poll(workspace: Workspace, agents: Agents, phase: str) -> None:
    error = failed(workspace.submit(scripted_task("do", phases=[phase], retries=2), {}))
    assert f"replied with {phase}" in error.message and "final phase" in error.message
    assert error.attempts == 1


def test_undefined_reads_as_the_zero_of_the_deprecated_state(workspace: Workspace, agents: Agents) -> None:
    error = failed(workspace.submit(scripted_task("do", phases=["UNDEFINED"], retries=1), {}))
    assert error.code == "RetriesExhausted|TaskFailedWithError" and error.attempts == 2


def test_a_call_that_hangs_ends_at_its_deadline(workspace: Workspace, agents: Agents) -> None:
    workspace.config.deadlines = {"ExecuteTaskSync": 0.2}
    error = failed(workspace.submit(scripted_task("do", hangs=["do"]), {}))
    assert "ExecuteTaskSync took more than its deadline, 0.2 s" in error.message
    assert not isinstance(error, RunTimedOutError)
    assert until(lambda: agents.do.cancelled) == ["do"]


def test_a_call_that_takes_longer_than_the_tasks_timeout(workspace: Workspace, agents: Agents) -> None:
    error = failed(workspace.submit(scripted_task("do", hangs=["do"], timeout=0.2, retries=1), {}))
    assert isinstance(error, RunTimedOutError) and error.code.endswith("TimeoutExpired")
    assert "timeout [0." in error.message
    assert agents.do.count("do") == error.attempts


def test_the_run_has_twice_the_timeout(workspace: Workspace, agents: Agents) -> None:
    error = failed(workspace.submit(scripted_task("do", hangs=["do"], timeout=0.15, retries=50), {}))
    assert isinstance(error, RunTimedOutError)
    assert error.code == "TimeoutExpired" and error.attempts <= 3


def test_a_call_ends_with_the_time_of_its_run(
    workspace: Workspace, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_module.propeller, "run_limit", lambda timeout: 0.2)
    workspace.config.deadline = 0.0
    error = failed(workspace.submit(scripted_task("do", hangs=["do"], timeout=3600, retries=2), {}))
    assert (error.code, error.attempts, error.agent_message) == (
        "TimeoutExpired",
        1,
        "task active timeout [0.2s] expired",
    )


def test_outputs_that_are_not_in_the_reply_are_looked_for(workspace: Workspace) -> None:
    agent = ReturningAgent(Resource(phase=TaskExecution.SUCCEEDED))
    workspace.catalog.register(agent)
    error = failed(workspace.submit(scripted_task("returning", outputs={"x": int}), {}))
    assert error.code == "RetriesExhausted|OutputsNotFound"
    assert f"{agent.prefixes[0]}/outputs.pb" in error.message


def test_each_attempt_has_an_output_prefix_of_its_own(workspace: Workspace) -> None:
    agent = ReturningAgent(Resource(phase=TaskExecution.RETRYABLE_FAILED), Resource(phase=TaskExecution.SUCCEEDED))
    workspace.catalog.register(agent)
    workspace.submit(scripted_task("returning", retries=1), {}).result(PATIENCE)
    first, second = agent.prefixes
    assert first != second


@pytest.mark.parametrize("reply", [None, "SUCCEEDED", {"phase": 3}, Resource(phase="done")])  # type: ignore[arg-type]
def test_a_do_that_returns_garbage(workspace: Workspace, agents: Agents, reply: Any) -> None:
    workspace.catalog.register(ReturningAgent(reply))
    error = failed(workspace.submit(scripted_task("returning"), {}))
    assert "ReturningAgent.do returned a" in error.message or "ReturningAgent.do returned None" in error.message
    assert workspace.submit(scripted_task("noop"), {}).result(PATIENCE) is None


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (Odd(), "Odd: <its message cannot be read: RuntimeError>"),
        (ValueError(""), "ValueError"),
        (ValueError("é\x00\n" * 50_000), "ValueError: é"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError("mine"), "CancelledError: mine"),
        (StopAsyncIteration("end"), "StopAsyncIteration"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_an_agent_raises_fails_its_run_alone(
    workspace: Workspace, agents: Agents, raised: BaseException, words: str
) -> None:
    workspace.catalog.register(ReturningAgent(raised))
    error = failed(workspace.submit(scripted_task("returning"), {}))
    assert words in error.message
    assert len(str(error)) < 40_000
    assert workspace.submit(scripted_task("noop"), {}).result(PATIENCE) is None


def test_fifty_megabytes_of_outputs(workspace: Workspace) -> None:
    class Large(DoAgent):
        name = "Large"

        async def do(self, task_template: Any, output_prefix: str, inputs: Any = None, **kwargs: Any) -> Resource:
            return Resource(phase=TaskExecution.SUCCEEDED, outputs={"s": "x" * 50_000_000})

    workspace.catalog.register(Large("large"))
    text = workspace.submit(scripted_task("large", outputs={"s": str}), {}).result(PATIENCE)
    assert len(text) == 50_000_000


def test_a_frame_that_panics_ends_the_run(workspace: Workspace) -> None:
    """What Rust calls a panic is no Exception in Python; Polars does so for the decimals of BigQuery's BIGNUMERIC."""
    table = pa.table({"a": pa.array([1], pa.decimal256(50, 2))})
    workspace.catalog.register(ReturningAgent(Resource(phase=TaskExecution.SUCCEEDED, outputs={"x": table})))
    run = workspace.submit(scripted_task("returning", outputs={"x": tables.declared(pl.DataFrame)}), {})
    with pytest.raises(OutputError, match=r"output 'x' of task 'job' does not become a DataFrame: operator does not"):
        run.result(PATIENCE)


@pytest.mark.parametrize("seconds", [0.0, 600.0])
def test_a_copy_of_large_outputs_that_fails_or_hangs_ends_the_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """A bucket without credentials, say: the copy is for a later attach alone."""
    go_on = threading.Event()

    def write(*_: object) -> None:
        go_on.wait(seconds)
        raise RuntimeError("no credentials")

    monkeypatch.setattr(workspace.runner.storage, "write_outputs", write)
    monkeypatch.setattr(runner_module, "COPY_WAIT", 0.1)
    workspace.catalog.register(ReturningAgent(Resource(phase=TaskExecution.SUCCEEDED, outputs={"x": "a" * 100_000})))
    assert len(workspace.submit(scripted_task("returning", outputs={"x": str}), {}).result(PATIENCE)) == 100_000
    go_on.set()


def test_a_store_that_fails_in_words_of_its_own_fails_the_run(
    workspace: Workspace, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoCredentialsError(Exception):
        pass

    def fail(*_: object) -> None:
        raise NoCredentialsError("Unable to locate credentials")

    for method in ("read_error", "write_inputs"):
        monkeypatch.setattr(workspace.runner.storage, method, fail)
    workspace.catalog.register(ReturningAgent(Resource(phase=TaskExecution.SUCCEEDED)))
    error = failed(workspace.submit(scripted_task("returning", outputs={"x": str}), {}))
    assert "NoCredentialsError: Unable to locate credentials" in str(error)
    large = workspace.submit(scripted_task(inputs={"x": str}), {"x": "y" * KEPT_IN_JOURNAL})
    assert "inputs.pb: NoCredentialsError: Unable to locate credentials" in str(failed(large))


def test_a_disk_that_refuses_inputs_is_told_once(
    workspace: Workspace, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        workspace.runner.storage, "make", lambda prefix: os.makedirs(f"{prefix}/inputs.pb", exist_ok=True)
    )
    run = workspace.submit(scripted_task(inputs={"x": str}), {"x": "y" * KEPT_IN_JOURNAL})
    error = run.exception(PATIENCE)
    assert type(error) is FlyteAgentNBError and "FLYTEAGENT_NB_RUN_FOLDER" in error.hint
    assert str(error).count("cannot be written") == str(error).count("hint: ") == 1 and run.phase == "FAILED"


def test_an_agent_that_prints_without_end(workspace: Workspace) -> None:
    class Chatty(DoAgent):
        name = "Chatty"

        def do(self, task_template: Any, output_prefix: str, inputs: Any = None, **kwargs: Any) -> Resource:  # type: ignore[override]
            for number in range(200_000):
                sys.stdout.write(f"line {number}\n")
            return Resource(phase=TaskExecution.SUCCEEDED)

    workspace.catalog.register(Chatty("chatty"))
    run = workspace.submit(scripted_task("chatty"), {})
    run.result(PATIENCE)
    lines = run.logs()
    assert lines[0] == "line 0" and lines[-1] == "line 199999"
    assert len(lines) < 12_000 and any("lines dropped" in line for line in lines)


def test_what_an_agent_prints_is_kept_for_its_run(workspace: Workspace, agents: Agents) -> None:
    first = workspace.submit(scripted_task("do", prints={"do": "one"}), {})
    second = workspace.submit(scripted_task("do_plain", prints={"do": "two"}, phases=["FAILED"]), {})
    first.result(PATIENCE)
    error = failed(second)
    assert (first.logs(), second.logs()) == (["one"], ["two"])
    assert "%agent logs" in error.hint


def test_outputs_that_do_not_fit_name_the_output(workspace: Workspace, agents: Agents) -> None:
    task = scripted_task("do", outputs={"total": int})
    task.script["outputs"] = {"totl": 1}
    run = workspace.submit(task, {})
    with pytest.raises(OutputError, match=r"output 'total' of task 'job'.*totl was: is that it\?") as raised:
        run.result(PATIENCE)
    assert raised.value.name == "total" and run.phase == "FAILED"
    assert run.snapshot.error_code == "OutputMismatch"
