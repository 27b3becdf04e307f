"""Print what is left of 100,000 short runs in one process: python tests/benchmarks/endurance.py [RUNS]

Memory, threads, open files, runs on record, the journal's size; one line for each tenth. All but the first should be alike.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

KEPT = 1_000


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory(prefix="fa-soak-") as folder:
        os.environ["FLYTEAGENT_NB_DATA_FOLDER"] = folder
        here = os.path.dirname(__file__)
        sys.path[:0] = [here, os.path.dirname(here)]
        import agents
        from soak import size, soak

        from flyteagent_nb import get_workspace

        workspace = get_workspace()
        workspace.config.runs_kept = KEPT
        workspace.wait()
        agents.register()
        tasks = [agents.async_task(), agents.sync_task()]

        def show(sizes: list[object]) -> None:
            for each in sizes:
                r, memory, threads, files, rows, journal, folders = each  # type: ignore[misc]
                print(
                    f"{r:>8,} runs: {memory:6.1f} MiB, {threads} threads, {files} files, {rows:,} on record in {journal:.1f} MiB, "
                    f"{folders:,} entries in the folder of runs",
                    flush=True,
                )

        began = time.perf_counter()
        inputs = {"a": 1}
        show(soak(workspace, tasks[:1], 1_000, inputs=inputs))
        done = 1_000
        while done < runs:
            some = min(runs // 10, runs - done)
            sizes = soak(workspace, tasks, some, inputs=inputs, every=some)
            done += some
            agents.timed.ends.clear()  # what the agent notes is not ours
            show([sizes[-1]._replace(runs=done)])
        show([size(workspace, done)])
        print(f"{(time.perf_counter() - began) / runs * 1e3:.2f} ms a run")
        workspace.close()


if __name__ == "__main__":
    main()
