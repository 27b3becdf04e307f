"""What is forgotten of the runs on record: those that are too old or too many, with their files. On any thread but the loop's."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flyteagent_nb.running.ownership import remove_free_locks
from flyteagent_nb.running.shelf import is_remote

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from flyteagent_nb.running.sqlite_journal import SQLiteJournal

_DAY = 86_400.0

_OF_A_RUN = re.compile(r"([0-9a-f]{10})(?:-\d+|\.log)")
"""What a run leaves in the folder of runs: a folder for each attempt, and its captured output."""


def prune(
    journal: SQLiteJournal, runs_kept: int, days_kept: float, *, dry_run: bool = False, strays: bool = True
) -> list[str]:
    """Forget what has ended and is too old or too much, with its files; the ids, oldest first.

    Args:
        journal: where the runs are on record.
        runs_kept: how many may have ended.
        days_kept: how long ago; 0 for no limit.
        dry_run: only tell.
        strays: look also for files that no run on record knows, and that have not changed for ``days_kept`` days: their kernel ended
            in between.

    Raises:
        JournalError: the journal cannot be written.
    """
    shelf = journal.shelf
    if not shelf.exists:
        return []
    before = time.time() - days_kept * _DAY if days_kept else 0.0
    found = shelf.endings(runs_kept, before)
    ids = [run_id for run_id, _ in found]
    if dry_run:
        return ids
    if ids:
        journal.remove(ids)
        remove_files(found)
    if strays and before:
        _remove_strays(journal, before)
    if strays and not is_remote(shelf.folder):
        remove_free_locks(shelf.folder / "owners", time.time() - _DAY)
    return ids


def remove_files(runs: Iterable[tuple[str, str]]) -> None:
    """Remove what runs left, each an (id, folder of runs)."""
    by_folder: dict[str, set[str]] = {}
    for run_id, folder in runs:
        by_folder.setdefault(folder, set()).add(run_id)
    for folder, run_ids in by_folder.items():
        for entry, run_id in _entries(folder):
            if run_id in run_ids:
                _remove(entry)


def _remove_strays(journal: SQLiteJournal, before: float) -> None:
    old: list[tuple[os.DirEntry[str], str]] = []
    for entry, run_id in _entries(journal.runs_folder):
        with contextlib.suppress(OSError):
            if entry.stat(follow_symlinks=False).st_mtime < before:
                old.append((entry, run_id))
    known: Collection[str] = journal.shelf.known({run_id for _, run_id in old}) if old else ()
    for entry, run_id in old:
        if run_id not in known:
            _remove(entry)
    with contextlib.suppress(OSError):
        for path in Path(journal.runs_folder).glob("code-*"):  # functions that were pickled for runs long ago
            if path.stat().st_mtime < before:
                shutil.rmtree(path, ignore_errors=True)


def _entries(folder: str) -> Iterable[tuple[os.DirEntry[str], str]]:
    """What runs left in a folder, each with its run's id."""
    if not folder:
        return
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if found := _OF_A_RUN.fullmatch(entry.name):
                yield entry, found[1]


def _remove(entry: os.DirEntry[str]) -> None:
    with contextlib.suppress(OSError):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)
