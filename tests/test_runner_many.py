"""Many runs at once: all end, finished ones are forgotten, and polls go before creates."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import tracemalloc
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from scripted import JobMeta, PlainDoAgent, ScriptedAgent
from scripted_tasks import PATIENCE, scripted_task, until

from flyteagent_nb import submit
from flyteagent_nb.errors import RunNotFoundError
from flyteagent_nb.loop import WORKERS

if TYPE_CHECKING:
    from pathlib import Path

    from scripted_tasks import Agents

    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)


def test_a_thousand_sync_runs(workspace: Workspace, agents: Agents) -> None:
    task = scripted_task("echo", inputs={"x": int}, outputs={"x": int})
    runs = [workspace.submit(task, {"x": number}) for number in range(1000)]
    assert [run.result(PATIENCE) for run in runs] == list(range(1000))
    assert workspace.runner.active == 0
    assert len({run.id for run in runs}) == 1000


def test_hundreds_of_async_runs(workspace: Workspace, agents: Agents) -> None:
    task = scripted_task(phases=["RUNNING", "SUCCEEDED"], outputs={"x": int})
    task.script["outputs"] = {"x": 1}
    runs = [workspace.submit(task, {}) for _ in range(300)]
    assert {run.result(PATIENCE) for run in runs} == {1}
    assert len(agents.scripted.jobs) == 300 and agents.scripted.open_jobs == []


class CreatesRun(ScriptedAgent):
    """An agent whose ``create`` runs another task and awaits it."""

    name = "Creates a Run"

    async def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> JobMeta:
        await submit(scripted_task())
        return await super().create(task_template, inputs, **kwargs)


class GetsRun(ScriptedAgent):
    """One whose ``get`` does."""

    name = "Gets a Run"

    async def get(self, resource_meta: JobMeta, **kwargs: Any) -> Any:
        await submit(scripted_task())
        return await super().get(resource_meta, **kwargs)


class DoesRun(PlainDoAgent):
    """One whose ``do`` runs another task and waits for it, on a thread of the pool in which that one's ``do`` runs too."""

    name = "Does a Run"

    def do(self, task_template: Any, output_prefix: str, inputs: Any = None, **kwargs: Any) -> Any:
        submit(scripted_task("do_plain")).result(PATIENCE)
        return super().do(task_template, output_prefix, inputs, **kwargs)


@pytest.mark.parametrize(("agent", "runs"), [(CreatesRun("nests"), 60), (GetsRun("nests"), 60), (DoesRun("nests"), 60)])
def test_tasks_whose_agent_runs_tasks_do_not_wait_for_each_other(
    workspace: Workspace, agents: Agents, agent: Any, runs: int
) -> None:
    """So many that all slots, or all threads of sync calls, are those of the outer ones."""
    assert runs > max(WORKERS, workspace.config.calls_in_flight)
    workspace.catalog.register(agent)
    for run in [workspace.submit(scripted_task("nests"), {}) for _ in range(runs)]:
        run.result(PATIENCE)


def test_runs_from_many_threads(workspace: Workspace, agents: Agents) -> None:
    task = scripted_task("echo", inputs={"x": int}, outputs={"x": int})
    found: list[int] = []

    def some(first: int) -> None:
        for number in range(first, first + 20):
            found.append(workspace.submit(task, {"x": number}).result(PATIENCE))

    threads = [threading.Thread(target=some, args=(first,)) for first in range(0, 200, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(found) == list(range(200))


def test_cancelling_hundreds_leaves_no_job(workspace: Workspace, agents: Agents) -> None:
    runs = [workspace.submit(scripted_task(phases=["RUNNING"]), {}) for _ in range(200)]
    until(lambda: agents.scripted.count("create") > 100)
    for run in runs:
        run.cancel()
    for run in runs:
        assert run.exception(PATIENCE) is not None
    assert all(run.cancelled for run in runs)
    assert agents.scripted.open_jobs == []


# --- what is kept ---


def test_finished_runs_are_forgotten_with_their_folders(workspace: Workspace, agents: Agents) -> None:
    runner = workspace.runner
    workspace.config.runs_kept = 5
    running = workspace.submit(scripted_task(phases=["RUNNING"]), {})
    until(lambda: running.phase == "RUNNING")
    prefixes = []
    for _ in range(30):
        run = workspace.submit(scripted_task(prints={"create": "text"}, phases=["RETRYABLE_FAILED"], retries=1), {})
        run.exception(PATIENCE)
        prefixes += [attempt.output_prefix for attempt in runner.attempts(run)]
    root: Path = runner.storage.root
    until(lambda: len(runner.runs()) == 6)
    kept = {run.id for run in runner.runs()}
    assert run.id in kept and running.id in kept  # the newest, and the one that runs
    until(lambda: {name[:10] for name in os.listdir(root)} == kept)
    assert len(prefixes) == 60 and sum(os.path.exists(prefix) for prefix in prefixes) == 10
    first = prefixes[0].rpartition("/")[2].partition("-")[0]
    assert workspace.captured(first) == [] and runner.journal.attempts(first) == ()
    with pytest.raises(RunNotFoundError):
        runner.find(first)
    assert run.logs() == ["text", "text"]


def test_the_handle_of_a_forgotten_run_still_tells(workspace: Workspace, agents: Agents) -> None:
    workspace.config.runs_kept = 1
    task = scripted_task("echo", inputs={"x": int}, outputs={"x": int})
    first = workspace.submit(task, {"x": 1})
    first.result(PATIENCE)
    for number in range(5):
        workspace.submit(task, {"x": number}).result(PATIENCE)
    until(lambda: len(workspace.runner.runs()) == 1)
    assert (first.result(), first.outputs, first.logs(), first.done) == (1, {"x": 1}, [], True)
    first.cancel()


@pytest.mark.slow
def test_the_memory_of_finished_runs_is_bounded(workspace: Workspace, agents: Agents) -> None:
    workspace.config.runs_kept = 20
    task = scripted_task("echo", inputs={"x": str}, outputs={"x": str})

    def many() -> None:
        for _ in range(10):
            runs = [workspace.submit(task, {"x": f"{number:05d}" * 2000}) for number in range(20)]
            for run in runs:
                run.result(PATIENCE)
        until(lambda: len(workspace.runner.runs()) == 20)

    def traced() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    many()
    tracemalloc.start()
    try:
        many()  # what is kept of these is traced, and replaced by what is kept of the next
        before = traced()
        many()
        until(lambda: traced() - before < 2_000_000)  # 200 runs of 10,000 characters in and out are over 4 MB
    finally:
        tracemalloc.stop()


def test_a_forgotten_run_that_nobody_holds_goes(workspace: Workspace, agents: Agents) -> None:
    workspace.config.runs_kept = 1
    gone = []
    for _ in range(5):
        run = workspace.submit(scripted_task("noop"), {})
        run.result(PATIENCE)
        gone.append(weakref.ref(run))
    del run
    until(lambda: len(workspace.runner.runs()) == 1)

    def is_gone() -> bool:
        gc.collect()
        return all(reference() is None for reference in gone[:-1])

    until(is_gone)


def test_no_task_of_the_loop_is_left(workspace: Workspace, agents: Agents) -> None:
    async def tasks() -> int:
        return sum("Runner" in repr(task.get_coro()) for task in asyncio.all_tasks())

    runs = [workspace.submit(scripted_task(phases=["RUNNING", "SUCCEEDED"]), {}) for _ in range(20)]
    for run in runs:
        run.result(PATIENCE)
    thread = workspace.runner.thread
    until(lambda: thread.run(tasks(), PATIENCE) == 0)


# --- who goes first ---


def test_gets_go_before_creates_that_wait(workspace: Workspace, agents: Agents) -> None:
    """Two slots, one of them for creates. While one create is held, fifty others wait; the job that runs is followed."""
    workspace.config.calls_in_flight = 2
    workspace.config.deadline = 0.0
    order: list[str] = []

    class Noting(ScriptedAgent):
        name = "Noting"

        async def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> JobMeta:
            order.append("create")
            return await super().create(task_template, inputs, **kwargs)

        async def get(self, resource_meta: JobMeta, **kwargs: Any) -> Any:
            order.append("get")
            return await super().get(resource_meta, **kwargs)

    workspace.catalog.register(Noting("noting"))
    followed = workspace.submit(scripted_task("noting", phases=["RUNNING"] * 5 + ["SUCCEEDED"]), {})
    until(lambda: "get" in order)
    holding = workspace.submit(scripted_task("scripted_plain", hangs=["create"]), {})
    until(lambda: agents.plain.count("create"))
    waiting = [workspace.submit(scripted_task("noting"), {}) for _ in range(50)]
    followed.result(PATIENCE)
    assert order.count("create") == 1 and order.count("get") == 6
    agents.plain.released.set()
    for run in (holding, *waiting):
        run.result(PATIENCE)
    assert order.count("create") == 51


def test_sync_calls_that_block_every_thread_hold_up_no_create(workspace: Workspace, agents: Agents) -> None:
    workspace.config.deadline = 0.0
    blocked = [workspace.submit(scripted_task("do_plain", hangs=["do"]), {}) for _ in range(WORKERS + 1)]
    until(lambda: agents.plain_do.count("do") == WORKERS)
    assert workspace.submit(scripted_task("scripted_plain"), {}).result(PATIENCE) is None
    agents.plain_do.released.set()
    for run in blocked:
        run.result(PATIENCE)


def test_no_more_calls_at_once_than_the_setting_says(workspace: Workspace, agents: Agents) -> None:
    inside = most = 0

    class Counting(ScriptedAgent):
        name = "Counting"

        async def _counted(self, work: Any) -> Any:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            try:
                await asyncio.sleep(0.005)
                return await work
            finally:
                inside -= 1

        async def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> JobMeta:
            made: JobMeta = await self._counted(super().create(task_template, inputs, **kwargs))
            return made

        async def get(self, resource_meta: JobMeta, **kwargs: Any) -> Any:
            return await self._counted(super().get(resource_meta, **kwargs))

    workspace.catalog.register(Counting("counting"))
    workspace.config.calls_in_flight = 6
    runs = [workspace.submit(scripted_task("counting"), {}) for _ in range(100)]
    for run in runs:
        run.result(PATIENCE)
    assert 1 < most <= 6
