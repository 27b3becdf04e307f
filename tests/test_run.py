"""The handle of a run: waiting for it from anywhere, without ever ending it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import logging
import pickle
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from flyteidl.core.execution_pb2 import TaskExecution
from flytekit.extend.backend.base_connector import Resource
from scripted import DoAgent
from scripted_tasks import PATIENCE, scripted_task, until

import flyteagent_nb
from flyteagent_nb.errors import (
    AddressInUseError,
    FlyteAgentNBError,
    InputError,
    JournalError,
    RunFailedError,
    RunNotFoundError,
    RunTimedOutError,
    WaitTimeoutError,
    WrongThreadError,
)
from flyteagent_nb.running.kept import _Standing
from flyteagent_nb.running.run import Run, RunSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripted_tasks import Agents

    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)


class Control:
    """A runner for a handle that no runner drives."""

    def __init__(self) -> None:
        self.cancelled: list[Run] = []

    def cancel(self, run: Run) -> None:
        self.cancelled.append(run)

    def logs(self, run: Run) -> list[str]:
        return [f"lines of {run.id}"]

    def check_may_block(self) -> None:
        pass

    def check_may_await(self) -> None:
        pass


SNAPSHOT = RunSnapshot(id="ab12", name="job", task_type="t", submitted=time.time())


def held(workspace: Workspace, agents: Agents) -> Run:
    """A run that ends when ``agents.plain_do.released`` is set."""
    task = scripted_task("do_plain", outputs={"x": int}, hangs=["do"])
    task.script["outputs"] = {"x": 5}
    workspace.config.deadline = 0.0
    return workspace.submit(task, {})


# --- a wait that ends ---


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_wait_that_times_out_leaves_the_run_alone(workspace: Workspace, agents: Agents, timeout: float) -> None:
    run = held(workspace, agents)
    with pytest.raises(WaitTimeoutError, match=f"after {timeout:g} s; it goes on") as raised:
        run.result(timeout)
    assert isinstance(raised.value, TimeoutError) and raised.value.run_id == run.id
    assert f"%agent cancel {run.id}" in raised.value.hint
    assert not run.done and not run.snapshot.stopping
    with pytest.raises(WaitTimeoutError):
        run.exception(timeout)
    agents.plain_do.released.set()
    assert run.result(PATIENCE) == 5 and run.result() == 5 and run.result(0) == 5


def test_a_task_that_fails_with_a_timeout_is_no_wait_that_timed_out(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task("do", raises={"do": "TimeoutError: backend"}), {})
    with pytest.raises(RunFailedError, match="TimeoutError: backend"):
        run.result(PATIENCE)
    assert isinstance(run.exception(), RunFailedError)


def test_exception_is_none_where_all_is_well(workspace: Workspace, agents: Agents) -> None:
    assert workspace.submit(scripted_task("noop"), {}).exception(PATIENCE) is None


# --- awaiting ---


def test_awaiting_from_several_loops_and_threads_at_once(workspace: Workspace, agents: Agents) -> None:
    run = held(workspace, agents)
    found: list[int] = []
    waiting = threading.Barrier(9)

    async def wait_for_it() -> int:
        first = asyncio.ensure_future(_await(run))
        second = asyncio.ensure_future(_await(run))
        await asyncio.sleep(0)
        await asyncio.to_thread(waiting.wait, PATIENCE)
        return (await first) + (await second)

    def blocking() -> None:
        waiting.wait(PATIENCE)
        found.append(run.result(PATIENCE))

    threads = [threading.Thread(target=lambda: found.append(asyncio.run(wait_for_it()))) for _ in range(4)]
    threads += [threading.Thread(target=blocking) for _ in range(4)]
    for thread in threads:
        thread.start()
    waiting.wait(PATIENCE)
    agents.plain_do.released.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(found) == [5] * 4 + [10] * 4


async def _await(run: Run) -> Any:
    return await run


def test_awaiting_a_run_that_has_ended(workspace: Workspace, agents: Agents) -> None:
    good = workspace.submit(scripted_task("noop"), {})
    bad = workspace.submit(scripted_task("do", phases=["FAILED"], message="no"), {})
    good.exception(PATIENCE)
    bad.exception(PATIENCE)
    assert asyncio.run(_await(good)) is None
    with pytest.raises(RunFailedError, match="no"):
        asyncio.run(_await(bad))


def test_cancelling_an_awaiting_task_does_not_cancel_the_run(workspace: Workspace, agents: Agents) -> None:
    run = held(workspace, agents)

    async def give_up() -> None:
        waiting = asyncio.ensure_future(_await(run))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_await(run), 0.01)

    asyncio.run(give_up())
    assert not run.done and not run.snapshot.stopping
    agents.plain_do.released.set()
    assert run.result(PATIENCE) == 5


def test_a_wait_that_was_given_up_does_not_touch_its_closed_loop(
    workspace: Workspace, agents: Agents, caplog: pytest.LogCaptureFixture
) -> None:
    run = held(workspace, agents)
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(_await(run))
    loop.run_until_complete(asyncio.sleep(0))
    waiting.cancel()
    loop.run_until_complete(asyncio.gather(waiting, return_exceptions=True))
    loop.close()
    with caplog.at_level(logging.DEBUG):
        agents.plain_do.released.set()
        assert run.result(PATIENCE) == 5
    assert [r.message for r in caplog.records if r.name.startswith(("concurrent", "asyncio"))] == []


def test_waits_that_were_given_up_leave_nothing_at_the_run(workspace: Workspace, agents: Agents) -> None:
    """Who looks in on a long job once a second would else add to it each time; and each wait would keep its loop."""
    run = held(workspace, agents)

    async def looks_in() -> weakref.ref[asyncio.AbstractEventLoop]:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_await(run), 0.001)
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(looks_in())
    gc.collect()
    assert loop() is None and not run.done
    agents.plain_do.released.set()
    assert run.result(PATIENCE) == 5


def test_gathering_many(workspace: Workspace, agents: Agents) -> None:
    task = scripted_task("echo", inputs={"x": int}, outputs={"x": int})

    async def gather() -> list[int]:
        return await asyncio.gather(*(workspace.submit(task, {"x": n}) for n in range(200)))

    assert asyncio.run(gather()) == list(range(200))


def test_the_loop_of_an_awaiting_thread_wakes_while_it_waits(workspace: Workspace, agents: Agents) -> None:
    """Python handles a signal only when the main thread's loop comes round."""
    run = held(workspace, agents)

    async def rounds() -> int:
        waiting = asyncio.ensure_future(_await(run))
        loop = asyncio.get_running_loop()
        count = 0
        select = loop._selector.select  # type: ignore[attr-defined]

        def counted(timeout: float | None = None) -> Any:
            nonlocal count
            count += 1
            if count > 4:
                agents.plain_do.released.set()
            assert timeout is None or timeout < 1
            return select(timeout)

        loop._selector.select = counted  # type: ignore[attr-defined]
        await asyncio.wait_for(waiting, PATIENCE)
        return count

    assert asyncio.run(rounds()) > 4


# --- inside an agent ---


class NestingAgent(DoAgent):
    """An agent that runs another task."""

    name = "Nesting Agent"

    def __init__(self, workspace: Workspace, how: str) -> None:
        super().__init__("nesting")
        self.workspace = workspace
        self.how = how

    async def do(self, task_template: Any, output_prefix: str, inputs: Any = None, **kwargs: Any) -> Resource:
        inner = flyteagent_nb.submit(scripted_task("echo", inputs={"x": int}, outputs={"x": int}), x=3)
        value = await inner if self.how == "await" else inner.result()
        return Resource(phase=TaskExecution.SUCCEEDED, outputs={"x": value + 1})


class PlainNestingAgent(NestingAgent):
    name = "Plain Nesting Agent"

    def do(self, task_template: Any, output_prefix: str, inputs: Any = None, **kwargs: Any) -> Resource:  # type: ignore[override]
        inner = flyteagent_nb.submit(scripted_task("echo", inputs={"x": int}, outputs={"x": int}), x=3)
        return Resource(phase=TaskExecution.SUCCEEDED, outputs={"x": inner.result(PATIENCE) + 1})


def test_an_agent_may_await_a_run(workspace: Workspace, agents: Agents) -> None:
    workspace.catalog.register(NestingAgent(workspace, "await"))
    assert workspace.submit(scripted_task("nesting", outputs={"x": int}), {}).result(PATIENCE) == 4


def test_a_plain_agent_may_block_on_a_run(workspace: Workspace, agents: Agents) -> None:
    workspace.catalog.register(PlainNestingAgent(workspace, "block"))
    assert workspace.submit(scripted_task("nesting", outputs={"x": int}), {}).result(PATIENCE) == 4


def test_blocking_inside_a_coroutine_of_an_agent_is_refused(workspace: Workspace, agents: Agents) -> None:
    workspace.catalog.register(NestingAgent(workspace, "block"))
    run = workspace.submit(scripted_task("nesting", outputs={"x": int}), {})
    with pytest.raises(RunFailedError, match="WrongThreadError: a blocking wait inside an agent") as raised:
        run.result(PATIENCE)
    assert "use `await run` there" in raised.value.agent_message


def test_the_error_of_a_run_is_none_of_who_asks_for_it(workspace: Workspace, agents: Agents) -> None:
    run = held(workspace, agents)

    async def on_the_loop() -> Any:
        return run.exception()

    with pytest.raises(WrongThreadError):
        workspace.runner.thread.run(on_the_loop(), PATIENCE)
    with pytest.raises(JournalError, match="not followed by this kernel"):
        Run.kept(run.snapshot, _Standing(workspace.kept)).exception()
    agents.plain_do.released.set()
    assert run.exception(PATIENCE) is None


def test_a_run_that_has_ended_may_be_read_anywhere(workspace: Workspace, agents: Agents) -> None:
    ended = workspace.submit(scripted_task("noop"), {})
    ended.result(PATIENCE)

    async def on_the_loop() -> Any:
        return ended.result()

    assert workspace.runner.thread.run(on_the_loop(), PATIENCE) is None


# --- errors ---


def depth(error: BaseException) -> int:
    count, at = 0, error.__traceback__
    while at is not None:
        count, at = count + 1, at.tb_next
    return count


def test_the_traceback_does_not_grow(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task("do", phases=["FAILED"], message="no"), {})
    depths = []
    for _ in range(100):
        with pytest.raises(RunFailedError) as raised:
            run.result(PATIENCE)
        depths.append(depth(raised.value))
        assert raised.value.original is run.error
    assert len(set(depths)) == 1

    async def waits() -> None:
        for _ in range(50):
            with pytest.raises(RunFailedError) as raised:
                await run
            assert depth(raised.value) < 12

    asyncio.run(waits())


@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
@pytest.mark.parametrize(
    "error",
    [
        RunTimedOutError("late", run_id="1", task="t", task_type="x", phase="FAILED", frames=["f:1 in g"], hint="wait"),
        AddressInUseError("taken", service="s", address="a:1"),
        InputError("no", task="t", name="x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_reach_another_process(error: FlyteAgentNBError, again: Callable[[Any], Any]) -> None:
    """One that cannot be unpickled breaks the pool of processes whose work raised it."""
    there = again(error)
    assert type(there) is type(error) and vars(there) == vars(error)
    assert (str(there), there.args) == (str(error), error.args)


def test_a_failed_run_keeps_nothing_of_who_waited(workspace: Workspace, agents: Agents) -> None:
    """It is kept for the next ten thousand runs, and a table of the caller's would be with it."""

    class Table:
        pass

    run = workspace.submit(scripted_task("do", phases=["FAILED"]), {})

    def waits(how: str) -> weakref.ref[Table]:
        table = Table()

        async def awaits() -> None:
            await run

        with contextlib.suppress(RunFailedError):
            if how == "await":
                asyncio.run(awaits())
            else:
                getattr(run, how)(PATIENCE)
        return weakref.ref(table)

    kept = [waits(how) for how in ("result", "exception", "await")]
    gc.collect()
    assert [reference() for reference in kept] == [None] * 3


def test_a_failure_shows_few_lines(workspace: Workspace, agents: Agents) -> None:
    message = "\n".join(f"line {number}" for number in range(100))
    run = workspace.submit(scripted_task("do", phases=["FAILED"], message=message, links={"ui": "http://u"}), {})
    error = run.exception(PATIENCE)
    assert isinstance(error, RunFailedError)
    lines = str(error).splitlines()
    assert lines[0] == "task 'job' (do) failed: line 0" and lines[11] == "line 11"
    assert lines[12:] == [
        "[88 more lines: %agent show]",
        "log: ui: http://u",
        f"hint: %agent show {run.id} tells all of it",
    ]
    assert error.agent_message == message


# --- watching ---


def test_a_watcher_sees_every_snapshot_on_the_loops_thread(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task(phases=["QUEUED"]), {})
    until(lambda: agents.scripted.count("get"))
    seen: list[tuple[str, bool, int]] = []
    run.watch(lambda r: seen.append((r.phase, r.done, threading.get_ident())))
    run.cancel()
    run.exception(PATIENCE)
    assert [(phase, done) for phase, done, _ in seen][-1] == ("ABORTED", True)
    assert [done for _, done, _ in seen].count(True) == 1
    assert len({ident for _, _, ident in seen}) == 1 and seen[0][2] != threading.get_ident()


def test_a_watcher_that_raises_does_no_harm(
    workspace: Workspace, agents: Agents, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def broken(run: Run) -> None:
        raise ValueError("a bug of the view")

    release = threading.Event()
    workspace.runner.thread.call_soon(release.wait, PATIENCE)
    run = workspace.submit(scripted_task(phases=["RUNNING", "SUCCEEDED"]), {})
    run.watch(broken)
    run.watch(lambda r: seen.append(r.phase))
    release.set()
    assert run.result(PATIENCE) is None
    assert "RUNNING" in seen and seen[-1] == "SUCCEEDED"
    assert any("a watcher of run" in record.message for record in caplog.records)


def test_watching_from_many_threads_loses_nobody() -> None:
    run = Run(SNAPSHOT, Control())
    seen: list[int] = []
    start = threading.Barrier(16)

    def watch(number: int) -> None:
        start.wait(PATIENCE)
        for step in range(50):
            run.watch(lambda _, n=number * 50 + step: seen.append(n))  # type: ignore[misc]

    threads = [threading.Thread(target=watch, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    run.publish(SNAPSHOT)
    assert sorted(seen) == list(range(800))


def test_on_done_comes_once_also_afterwards() -> None:
    run = Run(SNAPSHOT, Control())
    called: list[str] = []
    run.on_done(lambda: called.append("before"))
    run.finish(SNAPSHOT._replace(ended=1.0, phase="SUCCEEDED"), {"x": 1}, 1)
    run.on_done(lambda: called.append("after"))
    assert called == ["before", "after"]


# --- what a handle tells ---


def test_what_it_tells() -> None:
    control = Control()
    run = Run(SNAPSHOT, control)
    assert repr(run) == "<Run ab12 job (t) QUEUED>"
    assert (run.outputs, run.error, run.done, run.cancelled, run.attempt) == (None, None, False, False, 1)
    assert run.logs() == ["lines of ab12"]
    run.cancel()
    assert control.cancelled == [run]
    run.finish(SNAPSHOT._replace(ended=2.0, seconds=1.5, phase="SUCCEEDED"), {"x": 1}, 1)
    assert (run.done, run.snapshot.elapsed, run.outputs, run.result()) == (True, 1.5, {"x": 1}, 1)
    outputs = run.outputs
    assert outputs is not None
    outputs["x"] = 2
    assert run.outputs == {"x": 1}  # a copy each time


def test_a_copy_is_the_run_itself_and_it_is_not_pickled(workspace: Workspace, agents: Agents) -> None:
    run = workspace.submit(scripted_task(phases=["RUNNING", "FAILED"]), {})
    copies = [copy.copy(run), copy.deepcopy({"runs": [run]})["runs"][0]]
    for each in copies:
        with pytest.raises(RunFailedError):
            each.result(PATIENCE)
    with pytest.raises(TypeError, match=f"run {run.id} of job belongs to this kernel, and cannot be pickled: .*attach"):
        pickle.dumps([run])


def test_a_handle_that_nobody_holds_goes() -> None:
    run = Run(SNAPSHOT, Control())
    reference = weakref.ref(run)
    del run
    gc.collect()
    assert reference() is None


def test_finding_a_run(workspace: Workspace, agents: Agents) -> None:
    first = workspace.submit(scripted_task("noop", name="one"), {})
    second = workspace.submit(scripted_task("noop", name="two"), {})
    first.result(PATIENCE)
    second.result(PATIENCE)
    runner = workspace.runner
    assert runner.find("last") is second and runner.find(first.id) is first and runner.find(first.id[:9]) is first
    assert runner.runs()[:2] == [second, first]
    for wrong in ("", "zz", first.id + "0"):
        with pytest.raises(RunNotFoundError, match=f"no run's id begins with '{wrong}'"):
            runner.find(wrong)
    runs = [workspace.submit(scripted_task("noop"), {}) for _ in range(40)]
    initials = [run.id[0] for run in runs]
    twice = next(each for each in initials if initials.count(each) > 1)
    with pytest.raises(RunNotFoundError, match=f"runs begin with '{twice}': .*") as raised:
        runner.find(twice)
    assert raised.value.hint == "give more of the id"
