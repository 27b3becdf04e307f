"""A run on record, read by a later kernel: the outputs are what they were in the one that began it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from scripted_tasks import PATIENCE

from flyteagent_nb import tables
from flyteagent_nb.agents.duckdb import DuckDBQuery
from flyteagent_nb.running.recall import call_of_record

if TYPE_CHECKING:
    from flyteagent_nb.running.journal import RunRecord
    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)


def ended(workspace: Workspace, task: Any, **inputs: Any) -> str:
    """The id of a run that has ended, and so has its kernel."""
    run = workspace.submit(task, inputs)
    run.result(PATIENCE)
    workspace.config.data_folder = str(workspace.runner.storage.root.parent)
    workspace.close()
    workspace.wait(PATIENCE)
    return run.id


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
