"""What runs print, on disk: all of it, once, whoever prints and whenever it is written."""

from __future__ import annotations

import resource
import shutil
import stat
import threading
import weakref
from typing import TYPE_CHECKING

import pytest
from scripted_tasks import PATIENCE, until

from flyteagent_nb.serving import keeping
from flyteagent_nb.serving.keeping import OutputKeeper
from flyteagent_nb.serving.output import OutputStore

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "EVERY", 0.0)


def lines(folder: Path, run_id: str) -> list[str]:
    path = folder / f"{run_id}.log"
    return path.read_text().splitlines() if path.exists() else []


def test_what_many_threads_print_while_it_is_written_is_all_there_once(tmp_path: Path, quick: None) -> None:
    keeper = OutputKeeper(OutputStore(), tmp_path)

    def prints(number: int) -> None:
        for line in range(150):
            for run in range(20):
                keeper.sink(f"{run:010d}", "stdout", f"{number} {line}\n")

    threads = [threading.Thread(target=prints, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    keeper.close()
    expected = sorted(f"{number} {line}" for number in range(4) for line in range(150))
    for run in range(20):
        assert sorted(lines(tmp_path, f"{run:010d}")) == expected
    assert stat.S_IMODE((tmp_path / f"{0:010d}.log").stat().st_mode) == 0o600


def test_more_runs_than_anybody_looks_at_are_written_once(tmp_path: Path, quick: None) -> None:
    keeper = OutputKeeper(OutputStore(), tmp_path)
    for text in ("first\n", "second\n"):
        for run in range(2500):
            keeper.sink(f"{run:010d}", "stdout", text)
        until(lambda text=text: lines(tmp_path, f"{2499:010d}")[-1:] == [text.strip()])
    keeper.close()
    assert {tuple(lines(tmp_path, f"{run:010d}")) for run in range(2500)} == {("first", "second")}


def test_an_unfinished_line_is_written_at_the_end(tmp_path: Path, quick: None) -> None:
    keeper = OutputKeeper(OutputStore(), tmp_path)
    keeper.sink("a" * 10, "stdout", "one\ntwo")
    until(lambda: lines(tmp_path, "a" * 10) == ["one"])
    keeper.close()
    assert lines(tmp_path, "a" * 10) == ["one", "two"]


def test_a_run_that_the_store_had_dropped_goes_on(tmp_path: Path, quick: None) -> None:
    store = OutputStore()
    keeper = OutputKeeper(store, tmp_path)
    keeper.sink("a" * 10, "stdout", "one\ntwo\n")
    until(lambda: len(lines(tmp_path, "a" * 10)) == 2)
    kept = store.get("a" * 10)
    assert kept is not None
    buffer = weakref.ref(kept)
    del kept
    store.forget("a" * 10)  # as it does with the oldest, where all together are too much
    until(lambda: buffer() is None)  # or they would be too much all the same
    keeper.sink("a" * 10, "stdout", "three\n")
    until(lambda: lines(tmp_path, "a" * 10) == ["one", "two", "three"])
    keeper.close()


def test_a_file_has_its_limit(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "FILE_LIMIT", 100)
    keeper = OutputKeeper(OutputStore(), tmp_path)
    for number in range(60):
        keeper.sink("a" * 10, "stdout", f"line {number}\n")
    until(lambda: "not kept" in "".join(lines(tmp_path, "a" * 10)))
    keeper.sink("a" * 10, "stdout", "more\n")
    keeper.close()
    assert (tmp_path / f"{'a' * 10}.log").stat().st_size < 200


def test_a_folder_that_is_gone_is_made_anew_with_all_that_is_known(tmp_path: Path, quick: None) -> None:
    folder = tmp_path / "runs"
    keeper = OutputKeeper(OutputStore(), folder)
    keeper.sink("a" * 10, "stdout", "one\n")
    until(lambda: lines(folder, "a" * 10) == ["one"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    shutil.rmtree(folder)
    keeper.sink("a" * 10, "stdout", "two\n")
    until(lambda: lines(folder, "a" * 10) == ["one", "two"])
    keeper.close()


def test_no_thread_to_write_fails_nobody(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    keeper = OutputKeeper(OutputStore(), tmp_path)
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", none_left)
        keeper.sink("a" * 10, "stdout", "one\n")
    keeper.sink("a" * 10, "stdout", "two\n")
    keeper.close()
    assert lines(tmp_path, "a" * 10) == ["one", "two"]


def test_what_cannot_be_written_is_written_later(tmp_path: Path, quick: None) -> None:
    """Nothing fails meanwhile, and nothing is there twice."""
    keeper = OutputKeeper(OutputStore(), tmp_path)
    keeper.sink("a" * 10, "stdout", "one\n")
    until(lambda: lines(tmp_path, "a" * 10) == ["one"])
    file = tmp_path / f"{'a' * 10}.log"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, limit[1]))  # as a disk with four bytes left
    try:
        keeper.sink("a" * 10, "stdout", "two is longer\n")
        until(lambda: not keeper._dirty)
        keeper.sink("b" * 10, "stdout", "and another\n")
        until(lambda: (tmp_path / f"{'b' * 10}.log").exists())  # the first was tried by then
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert file.read_text() == "one\n"
    keeper.sink("a" * 10, "stdout", "three\n")
    until(lambda: lines(tmp_path, "a" * 10) == ["one", "two is longer", "three"])
    keeper.close()
