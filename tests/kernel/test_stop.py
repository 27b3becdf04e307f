"""The stop button: once deletes the job and ends the cell, twice ends the cell at once, and no moment is a bad one."""

from __future__ import annotations

import random
import socket
import sys
import time
from typing import TYPE_CHECKING

import pytest
from scripted_tasks import until

from kernel.harness import LOAD, Cell, Kernel

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.kernel

SOON = 15.0
"""Seconds in which a cell must end whose job takes a hundred and whose stop takes milliseconds; a busy machine may need some."""

TASKS = """
import asyncio, functools
import flyteagent_nb
from flytekit import eager, map_task, task, workflow
from flytekit.core.python_function_task import PythonFunctionTask
from flytekit.extend import TaskPlugins
from flytekit.extend.backend.base_connector import AsyncConnectorExecutorMixin

LONG = dict(phases=["RUNNING", "SUCCEEDED"], seconds=100.0)
slow = scripted_task(inputs={"a": int}, name="slow", **LONG)
hangs = scripted_task(name="hangs", hangs=["delete"], **LONG)
refuses = scripted_task(name="refuses", raises={"delete": "ValueError: not mine"}, **LONG)
creates = scripted_task(name="creates", sleeps={"create": 1.5}, **LONG)
does = scripted_task("do", name="does", hangs=["do"])

class Slow:
    pass

class SlowTask(AsyncConnectorExecutorMixin, PythonFunctionTask):
    def __init__(self, task_config, task_function, **kwargs):
        super().__init__(task_config=task_config, task_type="scripted", task_function=task_function, **kwargs)
    def get_custom(self, settings):
        return LONG

TaskPlugins.register_pythontask_plugin(Slow, SlowTask)

@task(task_config=Slow())
def each(a: int): ...

@task
def double(a: int) -> int:
    return 2 * a

@workflow
def flow(a: int):
    slow(a=double(a=a))

async def go():
    slow(a=1)

@task
async def idle():
    idle.began = True
    await asyncio.sleep(100)

@eager
async def eagerly(a: int):
    slow(a=a)

@eager
async def eagerly_inside(a: int):
    try:
        await eagerly(a=a)
    except Exception:
        print("eaten")

@eager
async def eagerly_in_a_thread(a: int):
    await asyncio.gather(asyncio.to_thread(slow, a=a))
"""


@pytest.fixture(scope="module", autouse=True)
def tasks(kernel: Kernel) -> None:
    kernel.ok(TASKS)
    # The first traceback that flytekit's rich shows imports pandas (inspect touches every lazy module), and an interrupt in there
    # leaves half of pandas in the kernel. That is not what is tested here.
    kernel.run("1 / 0")


@pytest.fixture(autouse=True)
def nothing_left(kernel: Kernel) -> None:
    kernel.ok("scripted.jobs.clear(); scripted.calls.clear()")


def stopped(kernel: Kernel, code: str, *, when: str = "scripted.open_jobs", times: int = 1) -> Cell:
    """Run a cell and press stop once ``when`` is true in the kernel; the cell must end soon, with an error."""
    sign = kernel.temporary / "now"
    sign.unlink(missing_ok=True)
    kernel.ok(
        "import pathlib, threading\n"
        f"def tell():\n    until(lambda: {when})\n    pathlib.Path({str(sign)!r}).touch()\n"
        "threading.Thread(target=tell, daemon=True).start()"
    )
    message = kernel.start(code)
    until(sign.exists)
    for i in range(times):
        if i:
            time.sleep(0.3)  # two presses, not one twice
        kernel.interrupt()
    cell = kernel.finish(message, limit=SOON)
    assert cell.status == "error", cell
    return cell


def open_jobs(kernel: Kernel) -> str:
    """The jobs that nobody deleted."""
    return kernel.value("scripted.open_jobs")


@pytest.mark.parametrize(
    "code",
    [
        "%%agent_task scripted\nphases: [RUNNING]",
        "%%agent_task -q\nscripted_task(name='here', **LONG)",
        "%agent run slow a=1",
        "run = None\n%agent run slow a=1 -r run",
        "slow(a=1)",
        "flow(a=1)",
        "def f():\n    try:\n        slow(a=1)\n    except Exception:\n        print('eaten')\nf()",
        "await asyncio.sleep(0)\nslow(a=1)",
        "await go()",
        "await eagerly(a=1)",
        "await eagerly_inside(a=1)",
        "await eagerly_in_a_thread(a=1)",
        "%time slow(a=1)",
    ],
)
def test_once_deletes_the_job_and_ends_the_cell(kernel: Kernel, code: str) -> None:
    cell = stopped(kernel, code)
    assert cell.ename == "TaskStopped", cell
    assert cell.error.startswith("TaskStopped: stopped by the user; run ") and "hint: %agent show " in cell.error
    assert "eaten" not in str(cell)
    assert open_jobs(kernel) == "[]"
    assert kernel.value("scripted.count('create'), scripted.count('delete')") == "(1, 1)"
    assert kernel.value("flyteagent_nb.get_workspace().runner.find('last').cancelled") == "True"


def test_an_async_task_that_waits_for_no_run_ends_too(kernel: Kernel) -> None:
    cell = stopped(kernel, "await idle()", when="getattr(idle, 'began', False)")
    assert cell.error.startswith("TaskStopped: stopped by the user; what the task's function has begun may go on")
    assert kernel.value("1 + 1") == "2"


@pytest.mark.parametrize(
    "code",
    [
        "await asyncio.gather(go())",
        "await asyncio.gather(go(), go(), go())",
        "await asyncio.create_task(go())",
        "await asyncio.gather(eagerly(a=1), eagerly(a=2))",
        "await asyncio.wait_for(go(), 100)",
    ],
)
def test_in_a_task_of_an_async_cell_it_does_not_take_the_kernel_along(kernel: Kernel, code: str) -> None:
    cell = stopped(kernel, code)
    if sys.version_info >= (3, 11):  # 3.10 makes a new CancelledError of it
        own = "wait_for" in code and sys.version_info >= (3, 12)  # wait_for makes no task there: the cell's own waits
        assert cell.ename == ("TaskStopped" if own else "TaskCancelled"), cell
        assert "stopped by the user" in cell.error
    assert kernel.value("1 + 1") == "2"
    assert open_jobs(kernel) == "[]"
    assert kernel.value("scripted.count('create'), scripted.count('delete')") == "(1, 1)"


@pytest.mark.parametrize(
    "code",
    [
        "await asyncio.wait([asyncio.create_task(go()), asyncio.create_task(go())])",
        "await asyncio.gather(go(), go(), return_exceptions=True)",
        pytest.param(
            "async with asyncio.TaskGroup() as tasks:\n    tasks.create_task(go())\n    tasks.create_task(go())",
            marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="there is no TaskGroup"),
        ),
    ],
)
def test_what_takes_a_cancelled_task_for_one_that_is_done_does_not_let_the_cell_go_on(
    kernel: Kernel, code: str
) -> None:
    cell = stopped(kernel, f"{code}\nprint('went on')")
    assert "CancelledError" in str(cell) and "went on" not in cell.stdout
    assert cell.stderr.startswith("stopped by the user; run ") and "hint: %agent show " in cell.stderr
    assert kernel.value("scripted.open_jobs, scripted.count('create'), scripted.count('delete')") == "([], 1, 1)"


def test_a_map_task_is_stopped_whole(kernel: Kernel) -> None:
    cell = stopped(kernel, "map_task(each)(a=[1, 2, 3])", when="len(scripted.open_jobs) == 3")
    assert "3 runs cancelled" in cell.error
    assert open_jobs(kernel) == "[]"
    assert kernel.value("scripted.count('delete')") == "3"


@pytest.mark.parametrize(("code", "error"), [("run.result()", "KeyboardInterrupt"), ("await run", "CancelledError")])
def test_a_bare_wait_ends_and_leaves_the_run_going(kernel: Kernel, code: str, error: str) -> None:
    cell = stopped(kernel, f"run = flyteagent_nb.submit(slow, a=1)\n{code}")
    assert error in str(cell)
    run = kernel.value("run.id").strip("'")
    assert cell.stderr == f"note: run {run} of slow goes on; %agent cancel {run} stops it\n"
    assert kernel.value("run.done, run.snapshot.stopping, len(scripted.open_jobs)") == "(False, False, 1)"
    kernel.ok("run.cancel(); run.exception(30)")
    assert open_jobs(kernel) == "[]"


def test_following_the_output_ends_and_leaves_the_run_going(kernel: Kernel) -> None:
    kernel.ok("run = flyteagent_nb.submit(scripted_task(prints={'create': 'created'}, **LONG))")
    message = kernel.start("%agent logs last -f")
    kernel.wait_for_output(message, "created")
    kernel.interrupt()
    cell = kernel.finish(message, limit=SOON)
    assert cell.ename == "TaskStopped" and "it goes on" in cell.error
    assert kernel.value("run.done") == "False"
    kernel.ok("run.cancel(); run.exception(30)")


def test_where_the_delete_hangs_the_cell_ends_with_its_grace_and_says_so(kernel: Kernel) -> None:
    kernel.ok("%config FlyteAgentNB.stop_grace = 0.5")
    cell = stopped(kernel, "hangs()")
    kernel.ok("%config FlyteAgentNB.stop_grace = 5.0")
    assert cell.ename == "TaskStopped"
    assert "the delete goes on in the background" in cell.error and "tells what came of it" in cell.error
    assert (
        kernel.value(
            "scripted.count('delete') > 0, flyteagent_nb.get_workspace().runner.find('last').snapshot.stopping"
        )
        == "(True, True)"
    )


def test_twice_ends_the_cell_at_once(kernel: Kernel) -> None:
    kernel.ok("%config FlyteAgentNB.stop_grace = 300.0")
    cell = stopped(kernel, "hangs()", times=2)
    kernel.ok("%config FlyteAgentNB.stop_grace = 5.0")
    assert cell.ename == "TaskStopped" and "the delete goes on in the background" in cell.error


def test_a_delete_that_fails_is_told(kernel: Kernel) -> None:
    kernel.ok("%config FlyteAgentNB.stop_grace = 300.0")  # it is tried again and again
    cell = stopped(kernel, "refuses()")
    kernel.ok("%config FlyteAgentNB.stop_grace = 5.0")
    assert "its job could not be deleted and may still run" in cell.error and "ValueError: not mine" in cell.error


def test_a_create_under_way_ends_and_its_job_is_deleted(kernel: Kernel) -> None:
    cell = stopped(kernel, "creates()", when="scripted.count('create')")
    assert cell.ename == "TaskStopped"
    kernel.ok("until(lambda: scripted.count('delete'))")
    assert kernel.value("len(scripted.jobs), scripted.open_jobs") == "(1, [])"


READ = """
import threading
from flytekit.extend import TypeEngine, TypeTransformer
from flytekit.models.types import LiteralType, SimpleType

class Slowly:
    pass

class SlowlyTransformer(TypeTransformer):
    def __init__(self):
        super().__init__("Slowly", Slowly)
        self.reading, self.go = threading.Event(), threading.Event()
    def get_literal_type(self, t):
        return LiteralType(simple=SimpleType.STRING)
    def to_literal(self, ctx, python_val, python_type, expected):
        raise NotImplementedError
    def to_python_value(self, ctx, lv, expected_python_type):
        self.reading.set()
        self.go.wait()
        return Slowly()

slowly = SlowlyTransformer()
TypeEngine.register(slowly)
reads = scripted_task(outputs={"x": Slowly}, name="reads")
reads.script["outputs"] = {"x": "text"}
"""
"""A task whose output takes long to be read."""


def test_while_outputs_are_read(kernel: Kernel) -> None:
    kernel.ok(READ)
    cell = stopped(kernel, "%agent run reads -q", when="slowly.reading.is_set()")
    assert cell.ename == "TaskStopped"
    kernel.ok("slowly.go.set()")
    # The job had ended by itself: there was nothing to delete.
    assert kernel.value("scripted.open_jobs, scripted.count('create'), scripted.count('delete')") == "([], 1, 0)"
    assert kernel.value("flyteagent_nb.get_workspace().runner.find('last').phase") == "'ABORTED'"


def test_a_cancel_that_waits_for_a_delete_can_be_left(kernel: Kernel) -> None:
    kernel.ok(
        "%config FlyteAgentNB.stop_grace = 300.0\nrun = flyteagent_nb.submit(hangs)\nuntil(lambda: run.phase == 'RUNNING')"
    )
    cell = stopped(kernel, "%agent cancel last", when="scripted.count('delete')")
    kernel.ok("%config FlyteAgentNB.stop_grace = 5.0")
    assert cell.ename == "TaskStopped" and "the delete goes on in the background" in cell.error, cell
    assert kernel.value("run.done, run.snapshot.stopping") == "(False, True)"


def test_a_sync_call_is_cancelled(kernel: Kernel) -> None:
    cell = stopped(kernel, "does()", when="agents.do.count('do')")
    assert cell.ename == "TaskStopped" and "its call was ended" in cell.error
    kernel.ok("until(lambda: agents.do.cancelled == ['do'])")


def test_a_cell_that_does_not_wait_is_interrupted_as_ever(kernel: Kernel) -> None:
    cell = stopped(
        kernel, "slow(a=1) if False else None\nimport time\nhere = True\ntime.sleep(100)", when="'here' in globals()"
    )
    assert "KeyboardInterrupt" in str(cell) and "goes on" not in cell.stderr
    assert kernel.value("1 + 1") == "2"


def test_no_moment_leaves_a_job_behind(kernel: Kernel) -> None:
    seed = random.randrange(1000)
    moments = random.Random(seed)
    codes = ["slow(a=1)", "%agent run slow a=1", "await go()", "flow(a=1)", "%%agent_task scripted\nphases: [RUNNING]"]
    ended = 0
    for i in range(20):
        message = kernel.start(codes[i % len(codes)])
        time.sleep(moments.random() * 0.04)
        for _ in range(3):  # what is pressed before the cell began is dropped by the kernel
            kernel.interrupt()
            try:
                cell = kernel.finish(message, limit=1.5)
            except TimeoutError:
                continue
            assert cell.status == "error", (seed, i, cell)
            ended += 1
            break
        # A cell that has not ended was dropped too: ipykernel forgets a message that it is interrupted in. Else this would not answer.
        while (cell := kernel.run("1 + 1")).status == "aborted":  # it waited behind a cell that ended in an error
            pass
        assert cell.text == "2", (seed, i)
        kernel.ok("until(lambda: not scripted.open_jobs)")
    assert ended >= 10, (seed, ended)
    assert kernel.value("scripted_task('echo', inputs={'a': int}, outputs={'a': int})(a=3)") == "3"


FORGET = "from flytekit.core.context_manager import FlyteContextManager, flyte_context_Var\nflyte_context_Var.set([])\n"
"""flytekit makes its context anew in the cell that uses it first, and with it a handler of SIGINT that calls exit(1)."""


@pytest.mark.parametrize("code", ["%agent run slow a=1", "slow(a=1)", "await asyncio.sleep(0)\nslow(a=1)"])
def test_it_works_in_the_cell_that_uses_flytekit_first(kernel: Kernel, code: str) -> None:
    assert stopped(kernel, FORGET + code).ename == "TaskStopped"
    assert open_jobs(kernel) == "[]"
    assert kernel.value(
        FORGET + "FlyteContextManager.current_context()\nimport signal; signal.getsignal(signal.SIGINT).__name__"
    ) == ("'default_int_handler'")


def test_a_bare_await_in_the_cell_that_uses_flytekit_first_does_not_end_the_kernel(kernel: Kernel) -> None:
    cell = stopped(kernel, FORGET + "run = flyteagent_nb.submit(slow, a=1)\nawait run")
    assert "CancelledError" in str(cell)
    assert kernel.value("run.done") == "False"
    kernel.ok("run.cancel(); run.exception(30)")


def test_while_the_service_starts_it_ends_the_cell_alone(new_kernel: Callable[[], Kernel]) -> None:
    kernel = new_kernel()
    kernel.ok(LOAD)
    message = kernel.start("print('GO', flush=True)\n%agent")
    kernel.wait_for_output(message, "GO")
    kernel.interrupt()
    # Nothing where the machine was fast enough, and Python's own where it was too slow to be at our line.
    assert kernel.finish(message).ename in ("", "KeyboardInterrupt", "TaskStopped")
    assert "serving" in str(kernel.ok("%agent")).lower()


def test_a_verb_that_waits_for_a_service_is_stopped_in_one_line(kernel: Kernel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(SOON)
        message = kernel.start(f"%agent connect silent 127.0.0.1:{silent.getsockname()[1]}")
        with silent.accept()[0]:  # it asks
            kernel.interrupt()
            cell = kernel.finish(message)
    assert cell.error == "TaskStopped: %agent connect was stopped by the user"
    assert "silent" not in str(kernel.ok("%agent types"))


def test_an_agent_that_blocks_the_loop_is_named(kernel: Kernel) -> None:
    kernel.ok("%config FlyteAgentNB.stop_grace = 0.5")
    kernel.ok("stuck = scripted_task(name='stuck', blocks={'create': 4.0})")
    cell = stopped(kernel, "%agent run stuck -q", when="flyteagent_nb.get_workspace().blocked_by()")
    kernel.ok("%config FlyteAgentNB.stop_grace = 5.0")
    assert cell.ename == "TaskStopped" and "goes on in the background" in str(cell)
    assert "has kept the event loop busy" in cell.stderr and "create" in cell.stderr
    kernel.ok("flyteagent_nb.get_workspace().runner.find('last').exception(60)")
    assert open_jobs(kernel) == "[]"
