"""Many short runs in a row, and what is left of them: memory, threads, files, the journal. The tests make some, a benchmark many."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from flyteagent_nb.workspace import Workspace


class Size(NamedTuple):
    """What the process and its journal have.

    Attributes:
        runs: how many runs were made until then.
        memory: MiB that are resident.
        threads: how many.
        files: how many are open.
        rows: runs in the journal.
        journal: MiB of the journal's file, without its log of writes.
        folders: entries in the folder of runs.
    """

    runs: int
    memory: float
    threads: int
    files: int
    rows: int
    journal: float
    folders: int


def size(workspace: Workspace, runs: int) -> Size:
    """Now."""
    workspace.runner.journal.flush()  # type: ignore[attr-defined]
    shelf = workspace.runner.journal.shelf  # type: ignore[attr-defined]
    gc.collect()
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return Size(
        runs,
        int(found[1]) / 1024,
        len(os.listdir("/proc/self/task")),
        len(os.listdir("/proc/self/fd")),
        len(shelf.ids("", -1)),
        (shelf.folder / "journal.db").stat().st_size / 2**20,
        len(os.listdir(workspace.runner.storage.root)),
    )


def soak(
    workspace: Workspace,
    tasks: list[Any],
    runs: int,
    *,
    inputs: dict[str, Any] | None = None,
    at_once: int = 100,
    every: int = 1_000,
) -> list[Size]:
    """Make runs of the tasks in turn, ``at_once`` together, and measure after each ``every``."""
    sizes = []
    for made in range(at_once, runs + at_once, at_once):
        started = [workspace.submit(tasks[i % len(tasks)], inputs or {}) for i in range(at_once)]
        for run in started:
            run.exception(120)
        if made % every == 0:
            sizes.append(size(workspace, made))
    return sizes
