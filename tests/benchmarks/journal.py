"""Print what the journal costs: python tests/benchmarks/journal.py [cost] [attach] [load]

The cost is that of a no-op async run, 1,000 of them at a time: the same runner with the journal on disk and with the one in memory, in
turns in one process, so that a noisy machine disturbs both alike.
"""

from __future__ import annotations

import gc
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROUNDS, RUNS, ON_RECORD = 9, 1_000, 10_000


def main() -> None:
    wanted = set(sys.argv[1:]) or {"cost", "attach", "load"}
    with tempfile.TemporaryDirectory(prefix="fa-journal-") as folder:
        os.environ["FLYTEAGENT_NB_DATA_FOLDER"] = folder
        if "load" in wanted:
            load(Path(folder) / "load")
        if wanted & {"cost", "attach"}:
            from flyteagent_nb import get_workspace

            workspace = get_workspace()
            workspace.wait()
            sys.path.insert(0, __file__.rpartition("/")[0])
            import agents

            agents.register()
            if "cost" in wanted:
                cost(workspace, agents)
            if "attach" in wanted:
                attach(workspace, agents)
            workspace.close()


def cost(workspace: Any, agents: Any) -> None:
    """Seconds and processor seconds of a run, with the journal on and off; the ratio is the median over the rounds."""
    from flyteagent_nb import submit
    from flyteagent_nb.running.journal import MemoryJournal

    runner, task = workspace.runner, agents.async_task()
    on, off = runner.journal, MemoryJournal()

    def some(journal: Any) -> tuple[float, float]:
        runner.journal = journal
        gc.collect()
        began, cpu = time.perf_counter(), time.process_time()
        runs = [submit(task, a=1) for _ in range(RUNS)]
        for run in runs:
            run.result()
        took = (time.perf_counter() - began) / RUNS, (time.process_time() - cpu) / RUNS
        on.flush()
        return took

    for journal in (on, off):
        some(journal)
    pairs = []
    for round_ in range(ROUNDS):
        order = (on, off) if round_ % 2 else (off, on)
        found = {id(journal): some(journal) for journal in order}
        pairs.append((found[id(on)], found[id(off)]))
    runner.journal = on
    for what, at in (("time", 0), ("processor", 1)):
        ratios = [with_[at] / without[at] for with_, without in pairs]
        with_, without = (min(pair[n][at] for pair in pairs) for n in (0, 1))
        print(
            f"no-op async run of {RUNS:,}, {what:<9}  journal on {with_ * 1e3:.3f} ms   off {without * 1e3:.3f} ms   "
            f"ratio {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})  (aim 1.10)",
            flush=True,
        )


def fill(folder: Path, count: int, *, ended: bool, owner: str = "") -> None:
    """Runs on record beside the one that is there, of an owner that is gone."""
    import sqlite3

    from flyteagent_nb.running.shelf import FILE

    connection = sqlite3.connect(folder / FILE)
    with connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<?) "
            "INSERT INTO run (id, name, task_type, submitted, ended, phase, state, template, inputs, types, outputs, folder, owner, epoch) "
            "SELECT printf('%010x', i), name, task_type, submitted-i, CASE WHEN ? THEN submitted END, phase, "
            "replace(state, id, printf('%010x', i)), template, inputs, types, outputs, folder, ?, epoch "
            "FROM n, (SELECT * FROM run LIMIT 1)",
            (count, ended, owner),
        )
        connection.execute(
            "INSERT INTO attempt (run, number, service, prefix, meta, outcome, message, intended, clock) "
            "SELECT run.id, 1, a.service, a.prefix, a.meta, 'created', '', a.intended, a.clock FROM run, "
            "(SELECT * FROM attempt LIMIT 1) AS a WHERE run.id NOT IN (SELECT run FROM attempt)"
        )
    connection.close()


def begun(folder: Path) -> str:
    """A run under way on record; its id."""
    import asyncio

    from flyteagent_nb.running.journal import AttemptRecord, Sent
    from flyteagent_nb.running.run import PhaseChange, RunSnapshot
    from flyteagent_nb.running.sqlite_journal import SQLiteJournal

    journal, now = SQLiteJournal(folder), time.time()
    s = RunSnapshot(
        "f" * 10, "bench", "bench_async", phases=(PhaseChange("QUEUED", now),), submitted=now, message="x" * 100
    )

    async def begin() -> None:
        journal.begin(s, Sent(b"t" * 500, b"i" * 100, {}))
        await journal.intend(s.id, AttemptRecord(1, "kernel", "/prefix"))
        await journal.created(s.id, b"meta" * 20)

    asyncio.run(begin())
    journal.close()
    return s.id


def load(folder: Path) -> None:
    """What %load_ext does before it returns, with 10,000 runs on record, ended or all of them open."""
    from flyteagent_nb.running.shelf import Shelf

    for words, ended in ((f"{ON_RECORD:,} on record, 1 open", True), (f"{ON_RECORD + 1:,} open", False)):
        place = folder / str(ended)
        begun(place)
        fill(place, ON_RECORD, ended=ended)
        taken = []
        for _ in range(20):
            began = time.perf_counter()
            _, count = Shelf(place).left_open(3)
            taken.append(time.perf_counter() - began)
        assert count == (1 if ended else ON_RECORD + 1)
        print(
            f"%load_ext's look at open runs, {words:<28} {statistics.median(taken) * 1e3:6.2f} ms  (aim: a few)",
            flush=True,
        )


def attach(workspace: Any, agents: Any) -> None:
    """From the call of attach to the run's outputs, and to the handle, with 10,000 runs on record."""
    from flyteagent_nb import submit

    task = agents.async_task(3600.0)
    shelf = workspace.runner.journal.shelf
    runs = [submit(task, a=1) for _ in range(20)]
    for run in runs:
        while run.phase != "RUNNING":
            time.sleep(0.001)
    workspace.runner.journal.flush()
    fill(shelf.folder, ON_RECORD, ended=True)
    workspace.close()  # as a kernel that ends
    workspace.wait()

    class Over(agents.TimedJob):  # type: ignore[misc]
        async def get(self, resource_meta: Any, **kwargs: Any) -> Any:
            return agents.Resource(phase=agents.TaskExecution.SUCCEEDED)

    agents.AgentRegistry.register(Over(), override=True)
    handles, ends = [], []
    random.shuffle(runs)
    for run in runs:
        began = time.perf_counter()
        attached = workspace.attach(workspace.kept.find(run.id).id)
        handles.append(time.perf_counter() - began)
        attached.result()
        ends.append(time.perf_counter() - began)
    print(
        f"attach with {ON_RECORD:,} runs on record: the handle {statistics.median(handles) * 1e3:.1f} ms (worst {max(handles) * 1e3:.1f}), "
        f"its outputs {statistics.median(ends) * 1e3:.1f} ms (worst {max(ends) * 1e3:.1f})  (aim 200 ms)",
        flush=True,
    )


if __name__ == "__main__":
    main()
