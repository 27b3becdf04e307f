"""What is forgotten of the runs on record, with all that they left."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from journal_runs import snapshot, start
from scripted_tasks import PATIENCE, Agents, scripted_task, until

from flyteagent_nb.running import retention
from flyteagent_nb.running.ownership import Claim
from flyteagent_nb.running.sqlite_journal import SQLiteJournal

if TYPE_CHECKING:
    from pathlib import Path

    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)

DAY = 86_400.0


def old(path: Path, days: float) -> Path:
    path.mkdir() if path.suffix != ".log" else path.write_text("")
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def test_files_that_nobody_knows_go_when_they_are_old(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    journal = SQLiteJournal(tmp_path, runs_folder=str(runs))
    asyncio.run(start(journal, snapshot("a" * 10)))  # it is open
    journal.flush()
    kept = [
        old(runs / f"{'a' * 10}-1", 20),
        old(runs / f"{'b' * 10}-1", 1),
        old(runs / "mine", 20),
        old(runs / "mine-1", 20),
    ]
    gone = [old(runs / f"{'c' * 10}-1", 20), old(runs / f"{'c' * 10}-12", 20), old(runs / f"{'c' * 10}.log", 20)]
    gone.append(old(runs / "code-abc", 20))
    assert retention.prune(journal, 10, 0.0) == [] and all(path.exists() for path in gone)
    assert retention.prune(journal, 10, 10.0, dry_run=True) == [] and all(path.exists() for path in gone)
    assert retention.prune(journal, 10, 10.0) == []
    assert [path.exists() for path in gone] == [False] * 4 and all(path.exists() for path in kept)
    journal.close()


def test_owners_that_are_gone_are_forgotten_with_their_locks(tmp_path: Path) -> None:
    for n in range(5):
        earlier = SQLiteJournal(tmp_path)
        asyncio.run(start(earlier, snapshot(f"{n:010d}")))
        if n:
            earlier.finished(snapshot(f"{n:010d}", ended=time.time() - n), None)
        earlier.close()
    free = tmp_path / "owners" / f"{'0' * 32}.lock"
    free.write_text("")
    held = Claim(tmp_path / "owners")
    for path in (tmp_path / "owners").iterdir():
        os.utime(path, (1.0, 1.0))
    journal = SQLiteJournal(tmp_path)
    journal.ask(lambda c: c.execute("UPDATE owner SET seen=1"))
    assert len(retention.prune(journal, 1, 0.0)) == 3
    (owners,) = journal.ask(lambda c: c.execute("SELECT count(*) FROM owner").fetchone())
    assert owners == 3  # of the open run, of the one that is kept, and this one
    assert not free.exists() and (tmp_path / "owners" / f"{held.id}.lock").exists()
    journal.close()
    held.release()


def test_thousands_go_at_once(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    journal = SQLiteJournal(tmp_path, runs_folder=str(runs))
    asyncio.run(start(journal, snapshot("a" * 10)))

    def many(connection) -> None:  # type: ignore[no-untyped-def]
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<20000) INSERT INTO run SELECT printf('%010x',i), name, "
            "task_type, submitted-i, submitted, phase, state, template, inputs, types, outputs, folder, owner, epoch FROM run, n"
        )

    journal.ask(many)
    for n in range(2000):
        (runs / f"{20000 - n:010x}-1").mkdir()
    assert len(retention.prune(journal, 10_000, 90.0)) == 10_000
    assert os.listdir(runs) == [] and len(journal.shelf.ids("", 20_000)) == 10_001
    journal.close()


def test_a_kernel_that_makes_many_runs_prunes_as_it_goes(workspace: Workspace, agents: Agents) -> None:
    workspace.config.runs_kept = 10
    root = workspace.runner.storage.root
    for _ in range(8):
        runs = [workspace.submit(scripted_task(prints={"create": "text"}), {}) for _ in range(10)]
        for run in runs:
            run.result(PATIENCE)
    shelf = workspace.runner.journal.shelf  # type: ignore[attr-defined]
    until(
        lambda: len(shelf.runs()) <= 25
    )  # the last ones may not have been written as ended when the last look was taken
    until(lambda: len({name[:10] for name in os.listdir(root)}) <= 25)
    assert runs[-1].id in {record.snapshot.id for record in shelf.runs()}
