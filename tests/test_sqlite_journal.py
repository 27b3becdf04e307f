"""The journal on disk: what is on record when, several kernels, an earlier and a later version, and disks that fail."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import sqlite3
import stat
import subprocess
import sys
import time
import typing
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pytest
from journal_runs import SENT, snapshot, start
from python_path import TESTS, python_path
from scripted_tasks import until

from flyteagent_nb import tables
from flyteagent_nb.errors import JournalError, RunAbortedError, RunFailedError, RunNotFoundError
from flyteagent_nb.running import retention
from flyteagent_nb.running import shelf as shelf_module
from flyteagent_nb.running.journal import AttemptRecord, LostError, Sent
from flyteagent_nb.running.ownership import Claim, holds
from flyteagent_nb.running.records import snapshot_of, state_of
from flyteagent_nb.running.shelf import FILE, Shelf
from flyteagent_nb.running.sqlite_journal import SQLiteJournal
from flyteagent_nb.running.type_records import record_of, type_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., SQLiteJournal]]:
    made: list[SQLiteJournal] = []

    def make(folder: Path = tmp_path, **options: Any) -> SQLiteJournal:
        made.append(SQLiteJournal(folder, **options))
        return made[-1]

    yield make
    for journal in made:
        journal.close()


def test_what_the_benchmark_puts_on_record_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else would tell that the command beside a figure of the README ends in an error."""
    monkeypatch.syspath_prepend(os.path.join(os.path.dirname(__file__), "benchmarks"))
    benchmark = importlib.import_module("journal")
    benchmark.begun(tmp_path)
    benchmark.fill(tmp_path, 3, ended=False)
    assert len(Shelf(tmp_path).runs()) == 4


# --- what is on record when ---


def test_an_intent_and_a_resource_meta_are_on_record_when_they_return(make: Callable[..., SQLiteJournal]) -> None:
    journal, s = make(), snapshot()
    asyncio.run(start(journal, s, None))
    record = journal.shelf.record(s.id)
    assert [(a.number, a.outcome, a.resource_meta, a.output_prefix) for a in record.attempts] == [
        (1, "intended", None, "/prefix")
    ]
    assert record.sent == SENT and record.snapshot.name == "my_task" and record.owner.alive

    async def created() -> None:
        await journal.created(s.id, b"\x00meta")

    asyncio.run(created())
    assert [(a.outcome, a.resource_meta) for a in journal.shelf.record(s.id).attempts] == [("created", b"\x00meta")]


def test_the_last_state_and_the_outputs_are_written_a_moment_later(make: Callable[..., SQLiteJournal]) -> None:
    journal, s = make(), snapshot()
    asyncio.run(start(journal, s))
    for number in range(100):
        journal.changed(s._replace(phase="RUNNING", message=f"step {number}"))
    until(lambda: journal.shelf.record(s.id).snapshot.message == "step 99")
    journal.finished(s._replace(phase="SUCCEEDED", ended=time.time()), b"outputs")
    journal.flush()
    record = journal.shelf.record(s.id)
    assert record.snapshot.done and record.outputs == b"outputs"


def test_a_run_that_was_never_begun_is_not_written(make: Callable[..., SQLiteJournal], tmp_path: Path) -> None:
    journal = make()
    journal.changed(snapshot())
    journal.finished(snapshot(ended=1.0), None)
    journal.flush()
    assert not (tmp_path / FILE).exists() and journal.shelf.runs() == []


def test_a_snapshot_survives_as_it_is() -> None:
    error = RunFailedError(
        "failed", run_id="a", task="t", task_type="x", phase="FAILED", agent_message="no", log_links=[("l", "http://x")],
        frames=["f"], hint="h",
    )  # fmt: skip
    s = snapshot(error=error, notes=("one",), log_links=(("l", "http://x"),), custom_info={"a": 1}, attempt=2)
    read = snapshot_of(state_of(s))
    assert read._replace(error=None) == s._replace(error=None)
    assert type(read.error) is RunFailedError and str(read.error) == str(error) and read.error.frames == ("f",)
    aborted = RunAbortedError("stopped", run_id="a", task="t", task_type="x", phase="ABORTED")
    assert type(snapshot_of(state_of(s._replace(error=aborted))).error) is RunAbortedError
    assert snapshot_of('{"id":"a","name":"n","task_type":"t","of_a_later_version":1}').id == "a"


@pytest.mark.parametrize(
    "python_type",
    [
        int, str, list[int], dict[str, list[float]], int | None, type(None), Sent, pd.DataFrame,
        tables.declared(pl.DataFrame), tables.declared(pl.LazyFrame), list[tables.declared(pl.DataFrame)],
    ],
)  # fmt: skip
def test_a_type_is_found_again(python_type: Any) -> None:
    found = type_of(json.loads(json.dumps(record_of(python_type))))
    assert found == python_type or repr(found) == repr(python_type)


def test_a_type_without_a_name_is_not_found() -> None:
    class Local:
        pass

    assert record_of(Local) is None and record_of(list[Local]) is None
    for record in (
        None,
        {"is": "no_such_module_at_all:X"},
        {"is": "os:no_such_name"},
        {"frame": "no_such_module_at_all:X"},
        {"frame": "os:no_such_name"},
        {"frame": 3},
        record_of(typing.Callable),
        {"is": "builtins:int", "of": []},
        {"of_a_later_version": "os:PathLike"},
    ):
        with pytest.raises(LookupError):
            type_of(record)


# --- files ---


def test_files_are_for_their_user_only(make: Callable[..., SQLiteJournal], tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    journal = make(folder)
    asyncio.run(start(journal, snapshot()))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert modes.pop("folder") == 0o700 and modes.pop("owners") == 0o700
    assert modes and set(modes.values()) == {0o600}


def test_nothing_is_made_before_the_first_run(make: Callable[..., SQLiteJournal], tmp_path: Path) -> None:
    make(tmp_path / "none").close()
    assert not (tmp_path / "none").exists()


def test_reading_needs_neither_flytekit_nor_grpc(make: Callable[..., SQLiteJournal], tmp_path: Path) -> None:
    asyncio.run(start(make(), snapshot()))
    code = (
        "import sys\nfrom pathlib import Path\nfrom flyteagent_nb.running.shelf import Shelf\n"
        f"print([r.snapshot.id for r in Shelf(Path({str(tmp_path)!r})).runs()], 'flytekit' in sys.modules, 'grpc' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "['aaaaaaaaaa'] False False\n"


# --- several kernels ---


def test_a_lock_is_held_by_the_process_and_let_go_at_its_end(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom flyteagent_nb.running.ownership import Claim\n"
        f"print(Claim(Path({str(tmp_path)!r})).id, flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        owner = child.stdout.readline().strip()
        assert holds(tmp_path, owner)
        child.kill()
    assert not holds(tmp_path, owner)


def test_ones_own_lock_survives_a_look_at_it(tmp_path: Path) -> None:
    claim = Claim(tmp_path)
    assert holds(tmp_path, claim.id)
    code = (
        "from pathlib import Path\nfrom flyteagent_nb.running.ownership import holds\n"
        f"print(holds(Path({str(tmp_path)!r}), {claim.id!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "True\n"
    claim.release()
    assert not holds(tmp_path, claim.id)


def test_a_living_owner_keeps_its_runs_and_a_dead_ones_are_taken_over(make: Callable[..., SQLiteJournal]) -> None:
    first, second, s = make(), make(), snapshot()
    asyncio.run(start(first, s))
    assert second.shelf.open_runs() == []
    with pytest.raises(JournalError, match=f"is followed by process {os.getpid()} on "):
        second.take(s.id)
    first.close()
    assert [r.snapshot.id for r in second.shelf.open_runs()] == [s.id]
    taken = second.take(s.id)
    assert taken.epoch == 1 and taken.owner.alive and taken.attempts[0].resource_meta == b"meta"
    with pytest.raises(JournalError, match="is followed by"):
        make().take(s.id)


def test_who_lost_a_run_writes_nothing_more_and_hears_of_it(make: Callable[..., SQLiteJournal]) -> None:
    first, second, s = make(), make(), snapshot()
    lost: list[str] = []
    first.on_lost(lost.append)
    asyncio.run(start(first, s))
    first._writer.claim.release()  # type: ignore[union-attr]  # as a lease that ran out: it lives, and is taken for dead
    second.adopt(second.take(s.id))
    second.changed(s._replace(message="the second's"))
    second.flush()
    first.changed(s._replace(message="the first's"))
    until(lambda: lost == [s.id])
    with pytest.raises(LostError, match="taken over by another kernel"):
        first._epochs[s.id] = 0
        asyncio.run(first.intend(s.id, AttemptRecord(2, "kernel", "/prefix-2")))
    record = second.shelf.record(s.id)
    assert record.snapshot.message == "the second's" and len(record.attempts) == 1


def test_two_take_over_at_once_and_one_gets_it(make: Callable[..., SQLiteJournal]) -> None:
    first, s = make(), snapshot()
    asyncio.run(start(first, s))
    first.close()
    one, two = make(), make()
    stale = two.shelf.record(s.id)
    one.take(s.id)
    two.shelf.record = lambda run_id: stale  # type: ignore[method-assign]  # it had looked just before
    with pytest.raises(JournalError, match="taken over by another kernel just now"):
        two.take(s.id)


def test_four_processes_write_at_once(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom journal_runs import start, snapshot\n"
        "from flyteagent_nb.running.sqlite_journal import SQLiteJournal\n"
        f"journal = SQLiteJournal(Path({str(tmp_path)!r}), warn=print)\n"
        "async def many():\n"
        "    await asyncio.gather(*(start(journal, snapshot(f'{sys.argv[1]}{n:09d}')) for n in range(200)))\n"
        "asyncio.run(many())\njournal.close()\n"
    )
    env = {**os.environ, "PYTHONPATH": python_path(TESTS)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(n)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for n in range(4)
    ]
    assert [child.communicate(timeout=100)[0] for child in children] == [b""] * 4
    assert len(Shelf(tmp_path).runs()) == 800


# --- retention ---


def test_what_is_old_or_too_much_is_forgotten_with_its_files(
    make: Callable[..., SQLiteJournal], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    journal, now = make(runs_folder=str(runs)), time.time()
    for n in range(6):
        s = snapshot(f"{n:010d}", submitted=now - 1000 + n)
        asyncio.run(start(journal, s))
        (runs / f"{s.id}-1").mkdir()
        (runs / f"{s.id}-1" / "inputs.pb").write_text("")
        (runs / f"{s.id}.log").write_text("")
        if n != 1:
            journal.finished(s._replace(phase="SUCCEEDED", ended=now - (10 * 86400 if n == 0 else 0)), None)
    journal.flush()
    assert retention.prune(journal, 10, 5.0, dry_run=True) == ["0000000000"]
    assert (
        retention.prune(journal, 3, 0.0, dry_run=True) == ["0000000000", "0000000002"]
        and len(journal.shelf.runs()) == 6
    )
    assert retention.prune(journal, 3, 5.0) == ["0000000000", "0000000002"]
    kept = {"0000000001", "0000000003", "0000000004", "0000000005"}  # the open one never goes
    assert {r.snapshot.id for r in journal.shelf.runs()} == kept
    assert {name[:10] for name in os.listdir(runs)} == kept


# --- trouble ---


def broken(make: Callable[..., SQLiteJournal], folder: Path) -> tuple[SQLiteJournal, list[str]]:
    """A journal on which a whole run is written, and what it warned of."""
    said: list[str] = []
    journal = make(folder, warn=said.append)

    async def run() -> None:
        for n in range(3):
            s = snapshot(f"{n:010d}")
            await start(journal, s)
            await journal.ended(s.id, "SUCCEEDED")
            journal.finished(s._replace(ended=time.time()), None)

    asyncio.run(run())
    assert [a.outcome for a in journal.attempts("0000000002")] == ["SUCCEEDED"]  # it goes on in memory
    return journal, said


def test_a_damaged_file_is_put_aside_and_runs_go_on(make: Callable[..., SQLiteJournal], tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"this is not a database" * 100)
    assert Shelf(tmp_path).runs() == [] and Shelf(tmp_path).open_runs() == []
    journal, said = broken(make, tmp_path)
    (aside,) = tmp_path.glob(f"{FILE}.damaged-*")
    assert aside.read_bytes().startswith(b"this is not a database")
    assert len(said) == 1 and "is damaged (file is not a database)" in said[0] and aside.name in said[0]
    assert "kept in memory" in said[0]
    with pytest.raises(JournalError, match="damaged"):
        journal.ask(lambda c: None)
    later = make()
    asyncio.run(start(later, snapshot()))
    assert later.trouble == "" and len(later.shelf.runs()) == 1


def test_a_journal_of_an_earlier_version_is_brought_up_to_this_one(
    make: Callable[..., SQLiteJournal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make()
    asyncio.run(start(first, snapshot()))
    first.close()
    now = shelf_module.VERSION
    monkeypatch.setattr(shelf_module, "VERSION", now + 2)
    monkeypatch.setattr(
        shelf_module,
        "_MIGRATIONS",
        {now: "ALTER TABLE run ADD COLUMN one TEXT", now + 1: "ALTER TABLE run ADD COLUMN two TEXT; SELECT 1"},
    )
    later = make()
    asyncio.run(start(later, snapshot("bbbbbbbbbb")))
    assert later.trouble == "" and {r.snapshot.id for r in later.shelf.runs()} == {"aaaaaaaaaa", "bbbbbbbbbb"}
    assert later.ask(lambda c: c.execute("SELECT one, two FROM run").fetchall()) == [(None, None)] * 2
    assert later.ask(lambda c: c.execute("PRAGMA user_version").fetchone()) == (now + 2,)


def test_a_journal_of_the_first_version_is_read_and_then_written(
    make: Callable[..., SQLiteJournal], tmp_path: Path
) -> None:
    """It knows of no machine's clock."""
    first = make()
    asyncio.run(start(first, snapshot()))
    first.close()
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("ALTER TABLE attempt DROP COLUMN clock")
        connection.execute("PRAGMA user_version=1")
    connection.close()
    later = make()
    assert [r.attempts[0].resource_meta for r in later.shelf.open_runs()] == [b"meta"]  # before anybody has written
    asyncio.run(start(later, snapshot("bbbbbbbbbb")))
    assert later.trouble == "" and later.take("aaaaaaaaaa").attempts[0].clock == ""
    assert later.shelf.record("bbbbbbbbbb").attempts[0].clock != ""
    assert later.ask(lambda c: c.execute("PRAGMA user_version").fetchone()) == (shelf_module.VERSION,)


def test_a_journal_of_a_later_version_is_left_as_it_is(make: Callable[..., SQLiteJournal], tmp_path: Path) -> None:
    asyncio.run(start(make(), snapshot()))
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    _, said = broken(make, tmp_path)
    assert len(said) == 1 and "of version 99, from a later flyteagent_nb" in said[0]
    with sqlite3.connect(tmp_path / FILE) as connection:
        assert connection.execute("SELECT count(*) FROM run").fetchone() == (1,)
    connection.close()
    assert Shelf(tmp_path).runs() == []


def test_a_folder_that_cannot_be_made(make: Callable[..., SQLiteJournal], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _, said = broken(make, tmp_path / "file" / "data")
    assert len(said) == 1 and "Not a directory" in said[0]


def test_a_full_disk(make: Callable[..., SQLiteJournal], tmp_path: Path) -> None:
    journal = make()
    said: list[str] = []
    journal._writer._warn = said.append
    asyncio.run(start(journal, snapshot()))
    journal.ask(lambda c: c.execute("PRAGMA max_page_count=12"))  # SQLite's own word for a disk that has no more

    async def run() -> None:
        for n in range(40):
            await start(journal, snapshot(f"{n:010d}", message="x" * 2000))

    asyncio.run(run())
    assert len(said) == 1 and "database or disk is full" in said[0]
    assert [r.snapshot.id for r in journal.shelf.runs()][-1] == "aaaaaaaaaa"  # what was there is there
    assert [a.resource_meta for a in journal.attempts("0000000039")] == [b"meta"]


def test_a_journal_that_may_only_be_read(make: Callable[..., SQLiteJournal], tmp_path: Path) -> None:
    asyncio.run(start(make(), snapshot()))
    journal = make()
    said: list[str] = []
    journal._writer._warn = said.append
    with contextlib.suppress(JournalError):  # it may be the first to meet it
        journal.ask(lambda c: c.execute("PRAGMA query_only=ON"))
    asyncio.run(start(journal, snapshot("bbbbbbbbbb")))
    assert len(said) == 1 and "readonly" in said[0]


def test_on_a_network_file_system_there_is_no_wal(
    make: Callable[..., SQLiteJournal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf_module, "is_remote", lambda folder: True)
    journal = make()
    asyncio.run(start(journal, snapshot()))
    assert journal.ask(lambda c: c.execute("PRAGMA journal_mode").fetchone()) == ("delete",)
    assert not (tmp_path / f"{FILE}-wal").exists() and len(journal.shelf.runs()) == 1


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "ceph"])
def test_what_is_a_network_file_system(tmp_path: Path, kind: str) -> None:
    (tmp_path / "mounts").write_text(
        f"overlay / overlay rw 0 0\nserver:/x {tmp_path}/far\\040off {kind} rw,vers=4 0 0\ntmpfs {tmp_path}/far\\040off/near tmpfs rw 0 0\n"
    )
    far, mounts = tmp_path / "far off", str(tmp_path / "mounts")
    assert shelf_module.is_remote(far, mounts) and shelf_module.is_remote(far / "data" / "deep", mounts)
    for near in (tmp_path, far / "near", tmp_path / "far off but no"):
        assert not shelf_module.is_remote(near, mounts)
    assert not shelf_module.is_remote(far, str(tmp_path / "nothing"))


def test_an_unknown_run_is_not_found(make: Callable[..., SQLiteJournal]) -> None:
    journal = make()
    with pytest.raises(RunNotFoundError):
        journal.shelf.record("nothing")
    asyncio.run(start(journal, snapshot()))
    with pytest.raises(RunNotFoundError, match="not on record"):
        journal.take("nothing")
