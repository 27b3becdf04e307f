"""How a cell waits for its runs; what the stop button does meanwhile is tried in a kernel."""

from __future__ import annotations

import time
from typing import Any

from flyteagent_nb.notebook.waiting import StopGuard
from flyteagent_nb.running.run import Run, RunSnapshot


class Watched(Run):
    looks = 0

    @property
    def done(self) -> bool:
        Watched.looks += 1
        return super().done


def test_a_wait_for_many_runs_does_not_look_at_all_of_them_again_and_again() -> None:
    control: Any = None
    runs = [Watched(RunSnapshot(id=f"{i:010x}", name="n", task_type="t"), control) for i in range(300)]
    open_runs = iter(runs)

    def beat(waited: object) -> None:
        run = next(open_runs)
        run.finish(run.snapshot._replace(phase="SUCCEEDED", ended=time.time()), {}, None)

    StopGuard(5.0, beat).wait(runs)
    assert all(run.snapshot.done for run in runs) and Watched.looks <= 4 * len(runs)
