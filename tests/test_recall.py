"""A run on record, read by a later kernel: the outputs are what they were in the one that began it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from flyteidl.core.literals_pb2 import LiteralMap
from scripted_tasks import PATIENCE, scripted_task, until

from flyteagent_nb import tables
from flyteagent_nb.agents.duckdb import DuckDBQuery
from flyteagent_nb.errors import OutputError, RunNotFoundError
from flyteagent_nb.running import attempt as attempt_module
from flyteagent_nb.running.journal import MemoryJournal
from flyteagent_nb.running.recall import call_of_record
from flyteagent_nb.running.type_records import TUPLE

if TYPE_CHECKING:
    from scripted_tasks import Agents

    from flyteagent_nb.running.journal import RunRecord
    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)


@dataclasses.dataclass
class Point:
    x: int


def ended(workspace: Workspace, task: Any, **inputs: Any) -> str:
    """The id of a run that has ended, and so has its kernel."""
    run = workspace.submit(task, inputs)
    run.result(PATIENCE)
    reopened(workspace)
    return run.id


def reopened(workspace: Workspace) -> None:
    workspace.config.data_folder = str(workspace.runner.storage.root.parent)
    workspace.close()
    workspace.wait(PATIENCE)


@pytest.mark.parametrize("size", [1, 70_000])  # in the journal, and in a file
@pytest.mark.parametrize("kernels", [1, 2])
def test_outputs_that_could_not_be_read_are_read_as_another_task_declares_them(
    workspace: Workspace, agents: Agents, size: int, kernels: int
) -> None:
    """The job has succeeded, and may have taken hours."""
    value = {"a": "a" * size}
    task = scripted_task(outputs={"x": Point})
    task.script["outputs"] = {"x": value}
    run = workspace.submit(task, {})
    error = run.exception(PATIENCE)
    assert isinstance(error, OutputError) and f"%agent attach {run.id} --task TASK reads them" in error.hint
    if kernels > 1:
        reopened(workspace)
        assert workspace.attach(run.id).phase == "FAILED"
    with pytest.raises(OutputError):
        workspace.attach(run.id, task)
    again = workspace.attach(run.id, scripted_task(outputs={"x": dict}))
    assert again.result(PATIENCE) == value
    assert again.phase == again.snapshot.phases[-1].phase == "SUCCEEDED" and again.error is None
    assert "its outputs could not be read then" in again.snapshot.notes[-1]


def on_record(workspace: Workspace, run_id: str) -> RunRecord:
    record: RunRecord = workspace.runner.journal.shelf.record(run_id)  # type: ignore[attr-defined]
    return record


@pytest.mark.parametrize("frame", [pl.DataFrame, pl.LazyFrame])
def test_a_frame_that_flytekit_has_no_handler_for(workspace: Workspace, frame: Any) -> None:
    task = DuckDBQuery(name="q", query_template="SELECT 3 AS n", output_structured_dataset_type=tables.declared(frame))
    run_id = ended(workspace, task)
    value = workspace.attach(run_id).result(PATIENCE)
    assert isinstance(value, frame) and value.lazy().collect().rows() == [(3,)]

    record = on_record(workspace, run_id)
    assert call_of_record(record)[1] == ()
    for lost in ({"frame": "no_such_module_at_all:X"}, {"is": "no_such_module_at_all:X"}):
        sent = dataclasses.replace(record.sent, output_types={"results": lost})
        (note,) = call_of_record(dataclasses.replace(record, sent=sent))[1]
        assert (
            "output 'results' is read as StructuredDataset, which is a guess: no_such_module_at_all:X is not there"
            in note
        )


@pytest.mark.parametrize("outputs", ["n", "zeta beta alpha omega delta"])
@pytest.mark.parametrize("given", [False, True])
def test_a_named_tuple(workspace: Workspace, agents: Agents, outputs: str, given: bool) -> None:
    fields = dict.fromkeys(outputs.split(), int)
    task = scripted_task("echo", inputs=fields, outputs=fields, output_tuple_name="Out")
    values = {name: number for number, name in enumerate(fields)}
    value = workspace.attach(ended(workspace, task, **values), task if given else None).result(PATIENCE)
    assert type(value).__name__ == "Out" and value._asdict() == values and list(value) == list(values.values())


@pytest.mark.parametrize("name", [None, "", "no name", "class", 3, ["Out"]])
def test_a_tuple_of_no_name(workspace: Workspace, agents: Agents, name: object) -> None:
    """What an earlier version wrote, and what is damaged."""
    task = scripted_task("echo", inputs={"b": int, "a": int}, outputs={"b": int, "a": int})
    record = on_record(workspace, ended(workspace, task, b=1, a=2))
    assert set(record.sent.output_types) == {"b", "a"}
    sent = dataclasses.replace(record.sent, output_types={**record.sent.output_types, TUPLE: name})
    outputs = LiteralMap.FromString(record.outputs or b"")
    _, value = call_of_record(dataclasses.replace(record, sent=sent))[0].convert(outputs)
    assert type(value).__name__ == "DefaultNamedTupleOutput" and tuple(value) == (1, 2)


def test_a_name_that_is_no_class_any_more(workspace: Workspace, agents: Agents) -> None:
    """A notebook has a variable, or IPython one of its own (In, Out), by the name that a class had."""
    task = scripted_task("echo", inputs={"n": int}, outputs={"n": int})
    record = on_record(workspace, ended(workspace, task, n=1))
    outputs = LiteralMap.FromString(record.outputs or b"")
    no_class = {"is": f"{__name__}:PATIENCE"}
    for kept in (no_class, {"union": [no_class, {"is": "builtins:None"}]}):
        call, (note,) = call_of_record(
            dataclasses.replace(record, sent=dataclasses.replace(record.sent, output_types={"n": kept}))
        )
        assert call.convert(outputs) == ({"n": 1}, 1)
        assert f"is read as int, which is a guess: {__name__}:PATIENCE is no class any more" in note


def test_an_id_that_is_not_on_record_is_told_as_such(workspace: Workspace, agents: Agents) -> None:
    ended(workspace, scripted_task("echo", inputs={"n": int}, outputs={"n": int}), n=1)
    assert workspace.runner.runs() == []
    with pytest.raises(RunNotFoundError, match="no run's id begins with 'x'") as raised:
        workspace.kept.find("x")
    assert raised.value.hint == "%agent runs --all lists them"


@pytest.mark.parametrize("kernels", [1, 2])
@pytest.mark.parametrize("cancelled", [False, True])
def test_a_run_that_was_given_up_is_followed_again(
    workspace: Workspace, agents: Agents, monkeypatch: pytest.MonkeyPatch, kernels: int, cancelled: bool
) -> None:
    """Its service was away for a minute; the job went on, or was not deleted."""
    monkeypatch.setattr(attempt_module, "failure_backoff", lambda failures, jitter: 0.001)
    workspace.config.poll_failure_limit = 0.0
    what = {"delete": "ConnectionError: away"} if cancelled else {"get": "ConnectionError: away"}
    phases = ["RUNNING"] if cancelled else ["SUCCEEDED"]
    run = workspace.submit(scripted_task(raises=what, times={"get": 5, "delete": 5}, phases=phases), {})
    if cancelled:
        until(lambda: run.phase == "RUNNING")
        run.cancel()
    error = run.exception(PATIENCE)
    assert error is not None and f"%agent attach {run.id} follows it again" in f"{error} {run.snapshot.notes}"
    if kernels > 1:
        reopened(workspace)
    again = workspace.attach(run.id)
    assert workspace.kept.find(run.id) is again is not run
    if cancelled:
        assert not again.done and again.snapshot.seconds is None
        workspace.runner.journal.flush()  # type: ignore[attr-defined]
        assert on_record(workspace, run.id).snapshot.phase == "RUNNING"
        assert run.id not in workspace.kept.prune(0, 0, dry_run=True)
        again.cancel()
    again.exception(PATIENCE)
    assert "may still run" not in " ".join(again.snapshot.notes)
    assert again.phase == ("ABORTED" if cancelled else "SUCCEEDED") and agents.scripted.count("create") == 1
    workspace.runner.journal.flush()  # type: ignore[attr-defined]
    record = on_record(workspace, run.id)
    assert record.snapshot.phase == again.phase == record.attempts[-1].outcome
    assert workspace.attach(run.id) is again


@pytest.mark.parametrize("cancelled", [False, True])
def test_without_a_journal_no_run_is_said_to_be_followed_again(
    workspace: Workspace, agents: Agents, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    monkeypatch.setattr(workspace.runner, "journal", MemoryJournal())
    monkeypatch.setattr(attempt_module, "failure_backoff", lambda failures, jitter: 0.001)
    workspace.config.poll_failure_limit = 0.0
    what = "delete" if cancelled else "get"
    run = workspace.submit(scripted_task(raises={what: "ConnectionError: away"}, phases=["RUNNING"]), {})
    if cancelled:
        until(lambda: run.phase == "RUNNING")
        run.cancel()
    error = run.exception(PATIENCE)
    assert "may still run" in f"{error} {run.snapshot.notes}" and "attach" not in f"{error} {run.snapshot.notes}"
