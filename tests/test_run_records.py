"""Rows of the journal that make no sense: they are shown with what does, and harm nobody else."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import time
from typing import TYPE_CHECKING, Any

import pytest
from flyteidl.core.tasks_pb2 import TaskTemplate
from journal_runs import snapshot, start

from flyteagent_nb.errors import JournalError, RunFailedError, RunNotFoundError
from flyteagent_nb.notebook.run_views import details
from flyteagent_nb.notebook.views import RunList
from flyteagent_nb.running.kept import standing
from flyteagent_nb.running.recall import call_of_record
from flyteagent_nb.running.records import snapshot_of, state_of
from flyteagent_nb.running.run import PhaseChange, Run
from flyteagent_nb.running.shelf import FILE, Shelf
from flyteagent_nb.running.sqlite_journal import SQLiteJournal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GOOD, BAD = "a" * 10, "b" * 10


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    journal = SQLiteJournal(tmp_path)
    for run_id in (GOOD, BAD):
        asyncio.run(start(journal, snapshot(run_id, message="hello")))
    journal.ask(
        lambda c: c.execute("UPDATE run SET template=?, inputs=?", (TaskTemplate(type="x").SerializeToString(), b""))
    )
    journal.close()
    yield journal.shelf


def damage(shelf: Shelf, table: str, column: str, value: object) -> None:
    connection = sqlite3.connect(shelf.folder / FILE)
    with connection:
        connection.execute(f"UPDATE {table} SET {column}=? WHERE {'id' if table == 'run' else 'run'}=?", (value, BAD))
    connection.close()


STATES: list[Any] = [
    "", "garbage", "{", "[]", "null", "1", '"x"', "[" * 100_000, b"\xff\x00", 7, "{}",
    *(json.dumps({**json.loads(state_of(snapshot(BAD))), name: value}) for name, value in (
        ("id", 5), ("name", None), ("phases", "abc"), ("phases", [[]]), ("phases", [["RUNNING", "now"]]), ("message", {"a": 1}),
        ("submitted", 1e300), ("submitted", float("nan")), ("submitted", -1), ("submitted", True), ("ended", "yesterday"),
        ("seconds", float("inf")), ("attempt", 2**70), ("attempts", 1.5), ("log_links", [["one"]]), ("log_links", 3),
        ("custom_info", [1]), ("notes", "abc"), ("notes", [1]), ("error", "no"), ("stopping", "yes"), ("version", None),
    )),
]  # fmt: skip


@pytest.mark.parametrize("state", STATES, ids=lambda state: repr(state)[:40])
def test_a_state_that_makes_no_sense(shelf: Shelf, state: Any) -> None:
    damage(shelf, "run", "state", state)
    records = {record.snapshot.id: record for record in shelf.runs()}
    assert set(records) == {GOOD, BAD} and records[GOOD].snapshot.message == "hello"
    bad = records[BAD]
    assert bad.snapshot.name == "my_task" and "cannot be read" in bad.snapshot.notes[0]
    assert bad.attempts[0].resource_meta == b"meta"  # its job is still known
    runs = RunList(Run.kept(standing(record), None) for record in records.values())  # type: ignore[arg-type]
    assert BAD in runs.text() and BAD in runs.html()
    assert shelf.left_open(3)[1] == 2 and len(shelf.open_runs()) == 2
    assert dict(details(standing(bad), bad.attempts, []))


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("run", "template", b"\xff\xff\xff"), ("run", "template", "text"), ("run", "inputs", b"\xff\xff\xff"), ("run", "types", "{"),
        ("run", "types", "[1]"), ("run", "types", b"\xff"), ("run", "outputs", b"\xff"), ("run", "epoch", "x"), ("run", "owner", "../.."),
        ("run", "owner", b"\xff"), ("run", "folder", b"\xff"), ("run", "submitted", "never"), ("run", "ended", "x"),
        ("run", "name", b"\xff"), ("run", "phase", 5), ("run", "id", b"\xff\x00"), ("run", "id", None),
        ("attempt", "number", "one"), ("attempt", "meta", "text"), ("attempt", "outcome", b"\xff"), ("attempt", "intended", "soon"),
        ("attempt", "intended", float("inf")), ("attempt", "prefix", 5), ("attempt", "service", b"\xff"), ("attempt", "message", 1.5),
    ],
)  # fmt: skip
def test_a_column_that_makes_no_sense(shelf: Shelf, table: str, column: str, value: object) -> None:
    damage(shelf, table, column, value)
    records = shelf.runs()
    assert len(records) == 2
    for record in records:
        Run.kept(standing(record), None)  # type: ignore[arg-type]
        assert details(standing(record), record.attempts, [])
        try:
            call_of_record(record)
        except JournalError as error:
            assert column in ("template", "inputs") and "cannot be read" in str(error)
    shelf.left_open(3)
    shelf.ids("")
    shelf.endings(0, time.time() + 1)
    assert shelf.record(GOOD).snapshot.message == "hello"


def test_a_run_whose_kernel_ended_goes_on_and_its_phases_add_up(shelf: Shelf) -> None:
    began = time.time() - 7.0
    phases = (PhaseChange("QUEUED", began), PhaseChange("RUNNING", began + 1.0))
    damage(shelf, "run", "state", state_of(snapshot(BAD, submitted=began, phases=phases, phase="RUNNING")))
    s = standing(shelf.record(BAD))
    assert s.held.startswith("open: ") and 7.0 <= s.elapsed < 60.0
    so_far = dict(details(s, (), []))["so far"]
    assert re.fullmatch(r"(\S+) s \(queued 1.0 s, running (\S+) s\)", so_far)
    whole, queued, running = map(float, re.findall(r"[\d.]+", so_far))
    assert abs(whole - queued - running) < 0.2


def test_a_table_that_is_not_there(shelf: Shelf) -> None:
    connection = sqlite3.connect(shelf.folder / FILE)
    connection.executescript("DROP TABLE attempt; DROP TABLE owner")
    connection.close()
    assert shelf.runs() == shelf.open_runs() == [] and shelf.left_open(3) == ([], 0)
    with pytest.raises(JournalError, match="cannot be read: no such table"):
        shelf.record(GOOD)


def test_an_id_that_is_no_text(shelf: Shelf) -> None:
    with pytest.raises((RunNotFoundError, JournalError)):
        shelf.record("\udc80")
    assert shelf.ids("\udc80") == []


def test_an_error_of_another_version_keeps_its_words() -> None:
    state = json.loads(state_of(snapshot(BAD)))
    state["error"] = {
        "kind": "RunFailedError",
        "message": "no quota",
        "hint": "ask",
        "facts": {"new": 1, "log_links": 3},
    }
    assert str(snapshot_of(json.dumps(state)).error) == "no quota\nhint: ask"
    state["error"]["kind"] = "SystemExit"
    assert str(snapshot_of(json.dumps(state)).error) == "no quota\nhint: ask"


def test_an_error_tells_what_stood_in() -> None:
    error = RunFailedError("failed", run_id=BAD, task="t", task_type="x", phase="FAILED", stand_in="a stand-in")
    assert "it ran on a stand-in" in str(snapshot_of(state_of(snapshot(BAD, error=error))).error)
