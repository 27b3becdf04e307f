"""The journal where the disk fails, hangs and comes back, and where its file is not the one that it was."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from journal_runs import SENT, snapshot, start
from scripted_tasks import PATIENCE, until

from flyteagent_nb.errors import JournalError
from flyteagent_nb.running import journal_writer, ownership
from flyteagent_nb.running.journal import AttemptRecord, LostError
from flyteagent_nb.running.ownership import Claim, is_alive
from flyteagent_nb.running.shelf import FILE, Shelf
from flyteagent_nb.running.sqlite_journal import SQLiteJournal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

A, B, C = "a" * 10, "b" * 10, "c" * 10


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., SQLiteJournal]]:
    made: list[SQLiteJournal] = []

    def make(folder: Path = tmp_path, **options: Any) -> SQLiteJournal:
        made.append(SQLiteJournal(folder, **options))
        return made[-1]

    yield make
    for journal in made:
        journal.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience in hundredths of a second."""
    monkeypatch.setattr(journal_writer, "BUSY", 0.05)
    monkeypatch.setattr(journal_writer, "AGAIN", 0.05)
    monkeypatch.setattr(journal_writer, "AGAIN_MOST", 0.05)
    monkeypatch.setattr(journal_writer, "RENEW", 0.05)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The journal's file, held by another process for so long that it counts as failed."""
    connection = sqlite3.connect(folder / FILE, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


def metas(journal: SQLiteJournal, run_id: str) -> list[bytes | None]:
    return [attempt.resource_meta for attempt in journal.shelf.record(run_id).attempts]


# --- a disk that fails, and is back ---


def test_what_was_missed_is_written_when_the_disk_is_back(
    make: Callable[..., SQLiteJournal], tmp_path: Path, quick: None
) -> None:
    said: list[str] = []
    journal = make(warn=said.append)
    asyncio.run(start(journal, snapshot(A)))

    async def meanwhile() -> None:
        await journal.ended(A, "RETRYABLE_FAILED", "no quota")
        until(lambda: journal.trouble)
        await journal.intend(A, AttemptRecord(2, "kernel", "/prefix-2"))
        await journal.created(A, b"second")
        await start(journal, snapshot(B))
        await start(journal, snapshot(C))
        journal.changed(snapshot(B, phase="RUNNING", message="half"))
        journal.finished(snapshot(C, ended=time.time()), b"outputs")

    with locked(tmp_path):
        asyncio.run(meanwhile())
        with pytest.raises(JournalError, match="database is locked"):
            journal.ask(lambda c: None)
    until(lambda: not journal.trouble)
    journal.flush()
    assert metas(journal, A) == [b"meta", b"second"] and metas(journal, B) == [b"meta"]
    first, _ = journal.shelf.record(A).attempts
    assert (first.outcome, first.message) == ("RETRYABLE_FAILED", "no quota")
    assert journal.shelf.record(B).snapshot.message == "half"
    assert {r.snapshot.id for r in journal.shelf.runs()} == {A, B}  # nobody will want to follow the third
    assert len(said) == 2 and "database is locked" in said[0] and "is written again" in said[1]


def test_a_state_that_could_not_be_written_is_written_later(
    make: Callable[..., SQLiteJournal], tmp_path: Path, quick: None
) -> None:
    journal = make(warn=lambda text: None)
    asyncio.run(start(journal, snapshot(A)))
    with locked(tmp_path):
        journal.finished(snapshot(A, phase="SUCCEEDED", ended=time.time()), b"outputs")
        until(lambda: journal.trouble)
    until(lambda: not journal.trouble)
    journal.flush()
    record = journal.shelf.record(A)
    assert record.snapshot.done and record.outputs == b"outputs"


def test_what_was_missed_is_written_at_the_end_at_the_latest(
    make: Callable[..., SQLiteJournal], tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_writer, "AGAIN", PATIENCE)
    journal = make(warn=lambda text: None)
    asyncio.run(start(journal, snapshot(A)))
    with locked(tmp_path):
        asyncio.run(start(journal, snapshot(B)))
    journal.released(B)
    journal.close()
    assert metas(make(), B) == [b"meta"]


def test_in_trouble_the_runs_are_still_this_kernels(
    make: Callable[..., SQLiteJournal], tmp_path: Path, quick: None
) -> None:
    journal = make(warn=lambda text: None)
    asyncio.run(start(journal, snapshot(A)))
    with locked(tmp_path):
        asyncio.run(start(journal, snapshot(B)))
        assert journal.trouble and journal.shelf.left_open(3) == ([], 0)
    journal.close()
    assert [r.snapshot.id for r in Shelf(tmp_path).left_open(1)[0]] and Shelf(tmp_path).left_open(1)[1] >= 1


def test_a_disk_that_hangs_holds_nobody_up(
    make: Callable[..., SQLiteJournal], quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_writer, "STUCK", 0.2)
    said: list[str] = []
    journal = make(warn=said.append)
    asyncio.run(start(journal, snapshot(A)))
    back = threading.Event()
    journal._writer.put(lambda connection: back.wait(PATIENCE))
    asyncio.run(asyncio.wait_for(start(journal, snapshot(B)), PATIENCE))
    with pytest.raises(JournalError, match="has not answered"):
        journal.ask(lambda c: None)
    monkeypatch.setattr(journal_writer, "STUCK", PATIENCE)  # a busy machine must not look like a disk that hangs again
    back.set()
    until(lambda: not journal.trouble)
    until(lambda: metas(journal, B) == [b"meta"])
    assert len(said) == 2 and "has not answered" in said[0]


def test_a_disk_that_stays_as_it_is_is_told_once(
    make: Callable[..., SQLiteJournal], tmp_path: Path, quick: None
) -> None:
    said: list[str] = []
    journal = make(warn=said.append)
    asyncio.run(start(journal, snapshot(A)))
    with locked(tmp_path):
        asyncio.run(start(journal, snapshot(B)))
        due = journal._writer._due
        until(lambda: journal._writer._due > due + 0.3)  # it was tried again, more than once
        assert len(said) == 1 and "Runs go on" in said[0]
    until(lambda: len(said) == 2)  # it is told right behind the end of the trouble
    assert not journal.trouble and metas(journal, B) == [b"meta"]


def test_who_asks_a_disk_that_hangs_is_told(
    make: Callable[..., SQLiteJournal], quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_writer, "STUCK", 0.2)
    journal, back = make(warn=lambda text: None), threading.Event()
    journal._writer.put(lambda connection: back.wait(PATIENCE))
    with pytest.raises(JournalError, match="has not answered"):
        journal.ask(lambda c: None)
    back.set()


def test_runs_begin_where_the_system_has_no_thread_for_the_writer(
    make: Callable[..., SQLiteJournal], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    journal = make()
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", none_left)
        journal.begin(snapshot(A), SENT)
        journal.changed(snapshot(A, phase="RUNNING"))
    journal.begin(snapshot(B), SENT)
    journal.flush()
    assert journal.shelf.record(A).snapshot.phase == "RUNNING" and journal.shelf.record(B)


# --- what is one run's own trouble ---


def test_what_cannot_be_written_of_one_run_is_not_the_others_trouble(make: Callable[..., SQLiteJournal]) -> None:
    said: list[str] = []
    journal = make(warn=said.append)

    async def runs() -> None:
        await start(journal, snapshot(A))
        await journal.intend(A, AttemptRecord(1, "kernel", "/prefix"))  # the same attempt again
        await journal.ended(A, "FAILED", "a word that is no UTF-8: \udc80")
        journal.changed(snapshot(A, custom_info={"no": {1: 2}, (): 3}))
        await start(journal, snapshot(B, name="\udc80"))

    asyncio.run(asyncio.wait_for(runs(), PATIENCE))
    journal.flush()
    assert metas(journal, A) == [b"meta"] and metas(journal, B) == [b"meta"]
    assert journal.shelf.record(A).attempts[0].message == "a word that is no UTF-8: ?"
    assert said == [] and journal.trouble == ""


# --- a file that is not the one that it was ---


def test_a_file_that_was_removed_is_begun_anew_and_runs_go_on(
    make: Callable[..., SQLiteJournal], tmp_path: Path, quick: None
) -> None:
    said: list[str] = []
    lost: list[str] = []
    journal = make(warn=said.append)
    journal.on_lost(lost.append)
    asyncio.run(start(journal, snapshot(A)))
    journal.changed(snapshot(A, message="it goes on"))
    asyncio.run(start(journal, snapshot(C)))
    journal.finished(snapshot(C, ended=time.time()), None)
    journal.flush()
    for path in tmp_path.glob(f"{FILE}*"):
        path.rename(path.with_name(f"aside-{path.name}"))
    until(lambda: said)
    journal.flush()  # it is said just before
    assert metas(journal, A) == [b"meta"] and journal.shelf.record(A).snapshot.message == "it goes on"
    asyncio.run(start(journal, snapshot(B)))
    asyncio.run(journal.intend(A, AttemptRecord(2, "kernel", "/prefix-2")))
    journal.changed(snapshot(A, message="and on"))
    journal.flush()
    assert {r.snapshot.id: r.snapshot.message for r in journal.shelf.runs()} == {A: "and on", B: ""}
    assert metas(journal, A) == [b"meta", None] and journal.shelf.record(A).owner.alive
    assert lost == [] and len(said) == 1 and "begun anew" in said[0]


def test_a_folder_that_was_removed_is_made_anew_and_its_owner_still_is_one(
    make: Callable[..., SQLiteJournal], tmp_path: Path
) -> None:
    """An attached run, too; and what comes right after the folder has gone."""
    folder = tmp_path / "data"
    first = make(folder)
    asyncio.run(start(first, snapshot(A)))
    first.close()
    said: list[str] = []
    journal = make(folder, warn=said.append)
    journal.adopt(journal.take(A))
    shutil.rmtree(folder)
    asyncio.run(start(journal, snapshot(B)))
    assert metas(journal, A) == metas(journal, B) == [b"meta"] and journal.shelf.record(A).epoch == 1
    code = (
        "from pathlib import Path\nfrom flyteagent_nb.running.shelf import Shelf\n"
        f"shelf = Shelf(Path({str(folder)!r}))\nprint([r.owner.alive for r in shelf.runs()], shelf.open_runs())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[True, True] []\n"
    journal.finished(snapshot(A, ended=time.time()), None)
    journal.flush()
    assert journal.shelf.record(A).snapshot.done and len(said) == 1


def test_a_folder_that_was_moved_and_put_back_has_its_owner_again(tmp_path: Path) -> None:
    folder, aside = tmp_path / "owners", tmp_path / "aside"
    claim = Claim(folder)
    folder.rename(aside)
    claim.hold()
    shutil.rmtree(folder)
    aside.rename(folder)
    claim.hold()
    assert os.path.samestat(os.stat(folder / f"{claim.id}.lock"), os.fstat(claim._file))
    claim.release()
    assert not list(folder.iterdir())


def test_a_good_journal_is_not_put_aside_for_what_another_had(
    make: Callable[..., SQLiteJournal], tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        journal_writer, "RENEW", 60.0
    )  # else it may find the other file before it is told of the damage
    journal = make(warn=lambda text: None)
    asyncio.run(start(journal, snapshot(A)))
    later = make()

    def damaged(connection: sqlite3.Connection) -> None:
        (tmp_path / FILE).rename(tmp_path / "aside.db")  # the other was quicker
        asyncio.run(start(later, snapshot(B)))
        raise sqlite3.DatabaseError("database disk image is malformed")

    with pytest.raises(JournalError, match="malformed"):
        journal.ask(damaged)
    assert list(tmp_path.glob(f"{FILE}.damaged-*")) == [] and metas(later, B) == [b"meta"]
    until(lambda: not journal.trouble)
    asyncio.run(start(journal, snapshot(C)))
    assert metas(later, C) == [b"meta"]


# --- several threads ---


def test_no_state_and_no_output_is_lost_between_the_threads(
    make: Callable[..., SQLiteJournal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_writer, "LAZY", 0.0)
    journal = make()
    ids = [f"{n:010d}" for n in range(1500)]
    for run_id in ids:
        s = snapshot(run_id)
        journal.begin(s, SENT)
        journal.changed(s._replace(phase="RUNNING"))
        journal.finished(s._replace(phase="SUCCEEDED", ended=time.time()), run_id.encode())
    journal.flush()
    records = {r.snapshot.id: r for r in journal.shelf.runs()}
    assert {r.snapshot.phase for r in records.values()} == {"SUCCEEDED"}
    assert [records[run_id].outputs for run_id in ids] == [run_id.encode() for run_id in ids]


def test_a_close_is_never_missed(make: Callable[..., SQLiteJournal], tmp_path: Path) -> None:
    for n in range(40):
        journal = make(tmp_path / str(n % 4))
        s = snapshot(f"{n:010d}")
        journal.begin(s, SENT)
        journal.changed(s._replace(message="last"))
        began = time.monotonic()
        journal.close()
        assert time.monotonic() - began < 1.5
        record = journal.shelf.record(s.id)
        assert record.snapshot.message == "last" and not record.owner.alive
        with pytest.raises(JournalError, match="closed"):
            journal.ask(lambda c: None)


# --- whose run it is ---


def test_an_owner_that_is_idle_hears_that_it_has_lost_a_run(make: Callable[..., SQLiteJournal], quick: None) -> None:
    first, second, s = make(), make(), snapshot(A)
    lost: list[str] = []
    first.on_lost(lost.append)
    asyncio.run(start(first, s))
    asyncio.run(start(first, snapshot(B)))
    first._writer.claim.release()  # type: ignore[union-attr]  # as a lease that ran out
    second.adopt(second.take(s.id))
    until(lambda: lost)
    assert lost == [A]
    with pytest.raises(LostError):
        asyncio.run(first.confirm(A))
    asyncio.run(first.confirm(B))
    asyncio.run(second.confirm(A))
    asyncio.run(second.confirm("never"))


def test_what_came_back_from_a_create_is_written_though_the_run_was_lost(
    make: Callable[..., SQLiteJournal], quick: None
) -> None:
    first, second, s = make(), make(), snapshot(A)
    lost: list[str] = []
    first.on_lost(lost.append)
    asyncio.run(start(first, s, None))
    first._writer.claim.release()  # type: ignore[union-attr]
    second.take(s.id)
    until(lambda: lost)
    asyncio.run(first.created(A, b"late"))
    assert metas(second, A) == [b"late"]


def test_a_run_that_is_followed_here_is_not_taken_over_once_more(make: Callable[..., SQLiteJournal]) -> None:
    journal = make()
    asyncio.run(start(journal, snapshot(A)))
    with pytest.raises(JournalError, match="is followed by this kernel"):
        journal.take(A)
    journal.released(A)
    assert journal.take(A).epoch == 1


def test_a_forked_child_is_told(make: Callable[..., SQLiteJournal]) -> None:
    journal = make()
    asyncio.run(start(journal, snapshot(A)))

    def child(there: Any) -> None:
        try:
            journal.settle(A, 1, "gone", "", None)
        except JournalError as error:
            there.send(str(error))
        journal.close()

    here, there = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(there,))
    process.start()
    assert here.poll(PATIENCE) and "forked" in here.recv()
    process.join(PATIENCE)
    asyncio.run(start(journal, snapshot(B)))
    assert metas(journal, B) == [b"meta"] and journal.shelf.record(A).owner.alive


# --- other hosts ---


def test_who_is_alive_on_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, gone = time.time(), "0" * 32
    assert not is_alive(tmp_path, gone, ownership.this_host(), now)  # its lock is free, and would be held here
    assert is_alive(tmp_path, gone, "elsewhere/1", now) and not is_alive(tmp_path, gone, "elsewhere/1", now - 91)
    assert not is_alive(tmp_path, "", "", now)
    claim = Claim(tmp_path)
    monkeypatch.setattr(ownership, "_held", set())
    monkeypatch.setattr(ownership, "_lock", lambda file: False)
    assert is_alive(
        tmp_path, claim.id, "elsewhere/1", now - 10_000
    )  # a clock that is off does not matter where the lock is seen
    monkeypatch.setattr(ownership, "_lock", lambda file: True)  # a network file system that keeps locks to each host
    assert is_alive(tmp_path, claim.id, "elsewhere/1", now) and os.listdir(tmp_path) == [f"{claim.id}.lock"]
    monkeypatch.undo()
    claim.release()


def test_an_owner_with_a_strange_name_reaches_no_file_of_others(tmp_path: Path) -> None:
    (tmp_path / "owners").mkdir()
    other = tmp_path / "other.lock"
    other.write_text("")
    assert not is_alive(tmp_path / "owners", "../other", "", 0.0) and other.exists()


def test_a_lease_across_hosts(make: Callable[..., SQLiteJournal], quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "this_host", lambda: "here/1")
    first, lost = make(), list[str]()
    first.on_lost(lost.append)
    asyncio.run(start(first, snapshot(A)))
    # From here on it is another machine that looks, which sees no lock of the first one's.
    monkeypatch.setattr(ownership, "this_host", lambda: "there/2")
    monkeypatch.setattr(ownership, "holds", lambda *args, **options: False)
    second = make()
    record = second.shelf.record(A)
    assert record.owner.alive and str(record.owner) == f"process {os.getpid()} on here"
    with pytest.raises(JournalError, match="90 s after its last sign of life"):
        second.take(A)
    seen = first.ask(lambda c: c.execute("SELECT seen FROM owner").fetchone()[0])
    monkeypatch.setattr(time, "time", lambda: seen + 91 + ownership.LEASE)  # it has been silent
    monkeypatch.setattr(ownership, "LEASE", -1e9)
    assert [r.snapshot.id for r in second.shelf.left_open(3)[0]] == [A]
    second.adopt(second.take(A))
    until(lambda: lost == [A])
