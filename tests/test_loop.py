"""The loop's thread: the bridge into it, and forks."""

from __future__ import annotations

import asyncio
import contextvars
import os
import queue
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

import pytest
from python_path import ROOT, TESTS, python_path
from scripted_tasks import PATIENCE, until

from flyteagent_nb.errors import WrongThreadError
from flyteagent_nb.loop import ContextExecutor, ForkGate, LoopThread, get_loop_thread

if TYPE_CHECKING:
    import concurrent.futures
    from pathlib import Path

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")


async def give(value: int) -> int:
    return value


async def ident() -> int:
    return threading.get_ident()


def test_there_is_one_thread() -> None:
    thread = get_loop_thread()
    assert thread is get_loop_thread() and not thread.is_current and not thread.forked
    assert thread.run(ident(), PATIENCE) == thread.run(ident(), PATIENCE) != threading.get_ident()


def test_one_thread_also_where_many_ask_first() -> None:
    found: list[LoopThread] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait(PATIENCE)
        found.append(get_loop_thread())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(found) == 8 and len(set(found)) == 1


def test_work_returns_raises_and_times_out() -> None:
    thread = get_loop_thread()
    assert thread.run(give(3), PATIENCE) == 3
    assert thread.submit(give(4)).result(PATIENCE) == 4

    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        thread.run(fail(), PATIENCE)
    cancelled = threading.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        thread.run(endless(), 0.01)
    assert cancelled.wait(PATIENCE)


def test_a_blocking_wait_on_the_loops_own_thread_is_refused() -> None:
    thread = get_loop_thread()

    async def inside() -> int:
        thread.run(give(1))
        return 0

    with pytest.raises(WrongThreadError, match="would stop the thread that has to do the work"):
        thread.run(inside(), PATIENCE)

    async def check() -> None:
        thread.check_alive()
        with pytest.raises(WrongThreadError):
            thread.check_may_block()

    thread.run(check(), PATIENCE)


def test_a_callback_runs_on_the_loop() -> None:
    called: list[int] = []
    thread = get_loop_thread()
    thread.call_soon(called.append, 1)
    thread.run(give(0), PATIENCE)
    assert called == [1]


def test_pool_threads_have_the_context_of_who_submits() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    with ContextExecutor(1, "test") as pool:
        assert pool.submit(variable.get).result(PATIENCE) == "none"
        variable.set("mine")
        assert pool.submit(variable.get).result(PATIENCE) == "mine"
        pool.submit(variable.set, "theirs").result(PATIENCE)
    assert variable.get() == "mine"

    async def through_the_loop() -> str:
        variable.set("loop")
        return await asyncio.get_running_loop().run_in_executor(None, variable.get)

    assert get_loop_thread().run(through_the_loop(), PATIENCE) == "loop"


def test_a_pool_has_so_many_threads_and_uses_them_again() -> None:
    with ContextExecutor(3, "test") as pool:
        together = threading.Barrier(3)
        assert len({pool.submit(threading.get_ident).result(PATIENCE) for _ in range(20)}) == 1
        first = [pool.submit(together.wait, PATIENCE) for _ in range(3)]  # all three at once, or none gets on
        for future in first:
            future.result(PATIENCE)
        numbers = list(pool.map(lambda n: n * 2, range(500)))
        assert numbers == [n * 2 for n in range(500)]
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("test-")]
        assert len(threads) == 3 and all(thread.daemon for thread in threads)
    assert not any(thread.is_alive() for thread in threads)


def test_a_pool_lends_a_thread_for_a_wait_and_takes_it_back() -> None:
    with ContextExecutor(1, "lent") as pool:

        def outer(depth: int) -> int:
            if not depth:
                return 0
            with ContextExecutor.lending():
                return 1 + pool.submit(outer, depth - 1).result(PATIENCE)

        def threads() -> int:
            return sum(thread.name.startswith("lent-") for thread in threading.enumerate())

        for _ in range(3):
            assert pool.submit(outer, 5).result(PATIENCE) == 5
            pool.submit(int).result(PATIENCE)
        until(lambda: [pool.submit(int).result(PATIENCE), threads()] == [0, 1])


def test_a_busy_thread_is_not_taken_for_an_idle_one_after_a_burst() -> None:
    with ContextExecutor(1, "test") as pool:
        burst = threading.Event()
        for future in [pool.submit(burst.wait, PATIENCE) for _ in range(3)]:
            burst.set()
            future.result(PATIENCE)
        inner: queue.SimpleQueue[concurrent.futures.Future[int]] = queue.SimpleQueue()
        waiting = threading.Event()

        def outer() -> int:
            with ContextExecutor.lending():
                waiting.set()
                return inner.get(timeout=PATIENCE).result(PATIENCE)

        future = pool.submit(outer)
        assert waiting.wait(PATIENCE)
        inner.put(pool.submit(int, "5"))  # while the one thread waits for what it comes to
        assert future.result(PATIENCE) == 5


@pytest.mark.parametrize(
    "raised", [ValueError("no"), SystemExit(3), KeyboardInterrupt()], ids=lambda e: type(e).__name__
)
def test_what_the_work_raises_is_the_futures(raised: BaseException) -> None:
    def work() -> None:
        raise raised

    with ContextExecutor(1, "test") as pool:
        with pytest.raises(type(raised)):
            pool.submit(work).result(PATIENCE)
        assert pool.submit(lambda: 5).result(PATIENCE) == 5


def test_work_that_is_dropped_at_the_end_is_cancelled() -> None:
    pool, release = ContextExecutor(1, "test"), threading.Event()
    running = pool.submit(release.wait, PATIENCE)
    until(running.running)
    waiting = [pool.submit(int) for _ in range(5)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    with pytest.raises(RuntimeError, match="the threads of test have been let go"):
        pool.submit(int)
    release.set()
    assert running.result(PATIENCE) is True
    pool.shutdown()


def test_a_pool_outlives_a_system_that_has_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with a limit of processes. What was refused is not done later, when there are threads again."""

    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    done: list[str] = []
    with ContextExecutor(2, "test") as pool:
        with monkeypatch.context() as limited:
            limited.setattr(threading.Thread, "start", none_left)
            for _ in range(3):
                with pytest.raises(RuntimeError, match="can't start"):
                    pool.submit(done.append, "refused")
        busy = threading.Event()
        first = pool.submit(busy.wait, PATIENCE)
        with monkeypatch.context() as limited:
            limited.setattr(threading.Thread, "start", none_left)
            waiting = pool.submit(done.append, "by the one that there is")
        busy.set()
        waiting.result(PATIENCE)
        assert first.result(PATIENCE)
        together = threading.Barrier(2)
        for future in [pool.submit(together.wait, PATIENCE) for _ in range(2)]:
            future.result(PATIENCE)
    assert done == ["by the one that there is"]


# --- the gate ---


def test_the_gate_waits_for_calls_in_flight_and_holds_new_ones() -> None:
    thread = get_loop_thread()

    async def make() -> tuple[ForkGate, asyncio.Event]:
        return ForkGate(), asyncio.Event()

    gate, leave = thread.run(make(), PATIENCE)
    entered: list[str] = []

    async def call(name: str, wait: bool) -> None:
        async with gate.call():
            entered.append(name)
            if wait:
                await leave.wait()

    first = thread.submit(call("first", True))
    until(lambda: entered == ["first"])
    forking = threading.Thread(target=gate.before_fork, args=(thread.loop,))
    forking.start()
    until(lambda: not gate._opened.is_set())
    second = thread.submit(call("second", False))
    thread.run(give(0), PATIENCE)
    assert forking.is_alive() and entered == ["first"]
    thread.call_soon(leave.set)
    forking.join(PATIENCE)
    assert not forking.is_alive() and gate.in_flight == 0
    first.result(PATIENCE)
    thread.run(give(0), PATIENCE)
    assert entered == ["first"]  # still closed
    gate.after_fork(thread.loop)
    second.result(PATIENCE)
    assert entered == ["first", "second"] and gate.in_flight == 0


def test_a_gate_that_closes_again_at_once_holds_who_waited() -> None:
    async def test() -> None:
        gate = ForkGate()
        gate._close()

        async def call() -> None:
            async with gate.call():
                assert gate._opened.is_set()

        waiting = asyncio.ensure_future(call())
        await asyncio.sleep(0)
        gate._open()
        gate._close()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done() and gate.in_flight == 0
        gate._open()
        await waiting

    asyncio.run(test())


def test_a_call_that_outlasts_the_wait_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = get_loop_thread()
    monkeypatch.setattr("flyteagent_nb.loop.FORK_WAIT", 0.05)

    async def make() -> tuple[ForkGate, asyncio.Event]:
        return ForkGate(), asyncio.Event()

    gate, leave = thread.run(make(), PATIENCE)

    async def call() -> None:
        async with gate.call():
            await leave.wait()

    first = thread.submit(call())
    until(lambda: gate.in_flight)
    with pytest.warns(RuntimeWarning, match="forks while an agent call is in flight"):
        gate.before_fork(thread.loop)
    gate.after_fork(thread.loop)
    gate.before_fork(thread.loop)  # a second warning would be an error here
    gate.after_fork(thread.loop)
    thread.call_soon(leave.set)
    first.result(PATIENCE)
    gate.before_fork(thread.loop)
    gate.after_fork(thread.loop)
    thread.run(call(), PATIENCE)


# --- forks, in processes of their own ---


def python(script: str, folder: Path, **environment: str) -> str:
    """What a script prints that has the scripted agents at hand."""
    path = folder / "script.py"
    path.write_text(textwrap.dedent(script))
    inherited = {k: v for k, v in os.environ.items() if k != "GRPC_ENABLE_FORK_SUPPORT"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(path)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**inherited, **environment, "PYTHONPATH": python_path(ROOT, TESTS)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


FORKED = """
import os, signal, sys, time
{first}
from flyteagent_nb import get_workspace
from flyteagent_nb.errors import FlyteAgentNBError, WrongThreadError
workspace = get_workspace()
workspace.wait()
from scripted_tasks import Agents, scripted_task, until
agents = Agents()
for agent in (agents.scripted, agents.noop, agents.do):
    workspace.catalog.register(agent)

def fork(work):
    # The exit code of a child that does `work`; a child that hangs is killed and has none.
    child = os.fork()
    if not child:
        code = 1
        try:
            code = work() or 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hung"
"""


@needs_fork
def test_a_forked_child_gets_an_error_and_takes_nothing_along(tmp_path: Path) -> None:
    script = FORKED.format(first="") + textwrap.dedent(
        """
        import asyncio
        running = workspace.submit(scripted_task(phases=["RUNNING"]), {})
        until(lambda: running.phase == "RUNNING")
        root = workspace.runner.storage.root
        address = workspace.addresses()[0].target.removeprefix("unix:")

        def says(work):
            def check():
                try:
                    work()
                except WrongThreadError as error:
                    return 0 if "forked from the kernel" in str(error) and "spawn" in str(error) else 3
                return 2
            return check

        async def wait_for(run):
            await run

        def leave():
            workspace.close()
            return 0

        print("submit", fork(says(lambda: workspace.submit(scripted_task("noop"), {}))))
        print("result", fork(says(lambda: running.result())))
        print("timeout", fork(says(lambda: running.result(60))))
        print("await", fork(says(lambda: asyncio.run(wait_for(running)))))
        print("cancel", fork(says(lambda: running.cancel())))
        print("serve", fork(says(lambda: workspace.serve(0))))
        print("close", fork(leave))
        print("there", root.exists(), os.path.exists(address), workspace.state, running.phase)
        print("after", workspace.submit(scripted_task("noop"), {}).result(30), agents.scripted.count("delete"))

        child = os.fork()
        if not child:
            sys.exit(0)  # with all of Python's own end: atexit, finalizers
        os.waitpid(child, 0)
        print("exit", root.exists(), os.path.exists(address))
        print("last", workspace.submit(scripted_task("noop"), {}).result(30))
        """
    )
    printed = dict(line.split(" ", 1) for line in python(script, tmp_path).splitlines())
    assert printed == {
        "submit": "0",
        "result": "0",
        "timeout": "0",
        "await": "0",
        "cancel": "0",
        "serve": "0",
        "close": "0",
        "there": "True True serving RUNNING",
        "after": "None 0",
        "exit": "True True",
        "last": "None",
    }


@pytest.mark.slow
@needs_fork
@pytest.mark.parametrize("order", ["ours first", "grpc first"])
def test_children_live_though_calls_are_in_flight(tmp_path: Path, order: str) -> None:
    """With grpc imported first its fork support is on, which kills such children: the gate keeps them apart."""
    # Hooks run in the reverse order of their registration: this one comes after ours.
    first = "import grpc\nin_flight = []\nos.register_at_fork(before=lambda: in_flight.append(thread.gate.in_flight))"
    script = FORKED.format(first=first if order == "grpc first" else "") + textwrap.dedent(
        """
        import threading
        thread = workspace.runner.thread
        print("gate", thread.gate is not None)
        if thread.gate is not None:
            until(lambda: thread.gate.in_flight == 0)
        stop = threading.Event()
        task = scripted_task("do", sleeps={"do": 0.01})

        def busy():
            while not stop.is_set():
                workspace.submit(task, {}).result(30)

        callers = [threading.Thread(target=busy) for _ in range(4)]
        for caller in callers:
            caller.start()
        until(lambda: agents.do.count("do") > 10)
        print("children", [fork(lambda: 0) for _ in range(20)])
        before = agents.do.count("do")
        until(lambda: agents.do.count("do") > before + 10)  # the gate is open again
        stop.set()
        for caller in callers:
            caller.join(30)
        print("alive", all(not caller.is_alive() for caller in callers))
        if thread.gate is not None:
            print("in flight", in_flight)
        """
    )
    printed = python(script, tmp_path)
    assert f"gate {order == 'grpc first'}" in printed
    assert f"children {[0] * 20}" in printed and "alive True" in printed
    if order == "grpc first":
        assert f"in flight {[0] * 20}" in printed
