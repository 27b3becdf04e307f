"""Plain calls and workflows: flytekit's own local engine, with the agent service behind each agent task."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from kernel.harness import Kernel

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kernel

TASKS = """
import asyncio, functools, threading
import numpy as np
import flyteagent_nb
from flyteidl.core.execution_pb2 import TaskExecution
from flytekit import conditional, dynamic, eager, map_task, task, workflow
from flytekit.core.python_function_task import PythonFunctionTask
from flytekit.extend import TaskPlugins
from flytekit.extend.backend.base_connector import Resource, SyncConnectorBase, SyncConnectorExecutorMixin

class AddAgent(SyncConnectorBase):
    '''Adds its inputs and one; refuses 13, does not end of -1, and of -n once it was given 1000 + n.'''
    name = "Add"
    calls = []
    def __init__(self):
        super().__init__(task_type_name="add")
    async def do(self, task_template, output_prefix, inputs=None, **kwargs):
        numbers = [literal.scalar.primitive.integer for literal in inputs.literals.values()]
        self.calls.append(numbers)
        if 13 in numbers:
            raise ValueError("unlucky")
        while -1 in numbers or any(n < -1 and [1000 - n] not in self.calls for n in numbers):
            await asyncio.sleep(0.01)
        return Resource(phase=TaskExecution.SUCCEEDED, outputs={"o0": sum(numbers) + 1})

ConnectorRegistry.register(AddAgent())

class Add:
    pass

class AddTask(SyncConnectorExecutorMixin, PythonFunctionTask):
    def __init__(self, task_config, task_function, **kwargs):
        super().__init__(task_config=task_config, task_type="add", task_function=task_function, **kwargs)

TaskPlugins.register_pythontask_plugin(Add, AddTask)

@task(task_config=Add())
def inc(a: int) -> int: return

@task(task_config=Add())
def nothing(a: int): ...

@task(task_config=Add())
def add(b: int, a: int) -> int: return

@task(task_config=Add(), cache=True, cache_version="1")
def cached(a: int) -> int: return

@task(task_config=Add())
def names_of_ours(task: int, mapped: int, call: int) -> int: return

@workflow
def more_names_of_ours(workflow: int, call: int) -> int:
    return names_of_ours(task=workflow, mapped=1, call=call)

@task
async def asynchronous(task: int) -> int:
    return 2 * task

@eager
async def eager_name_of_ours(task: int) -> int:
    return await asynchronous(task=task)

@task
def double(a: int) -> int:
    return 2 * a

slow = scripted_task(inputs={"a": int}, outputs={"x": str}, phases=["RUNNING", "SUCCEEDED"], seconds=0.2, name="slow")
slow.script["outputs"] = {"x": "slow"}

@workflow
def chained(a: int) -> int:
    return double(a=inc(a=double(a=inc(a=a))))

@workflow
def nothing_of(a: int):
    nothing(a=a)

@workflow
def side_by_side(a: int) -> (int, int, str):
    return inc(a=a), inc(a=5), slow(a=a)

@workflow
def branching(a: int) -> int:
    b = inc(a=a)
    return conditional("size").if_(b > 5).then(inc(a=b)).else_().then(double(a=b))

@dynamic
def many(n: int) -> list[int]:
    return [inc(a=i) for i in range(n)]

@eager
async def eagerly(a: int) -> int:
    return inc(a=7 + inc(a=a))

@workflow
def outer(a: int) -> int:
    return chained(a=inc(a=a))

@workflow
def mapped(xs: list[int]) -> list[int]:
    return map_task(inc)(a=xs)

@workflow
def mapped_pairs(xs: list[int], ys: list[int]) -> list[int]:
    return map_task(add)(b=ys, a=xs)

numbers = [n for n in range(21) if n != 13]
runs_before = 0
def runs():
    return len(flyteagent_nb.get_workspace().runner.runs())
"""


@pytest.fixture(scope="module", autouse=True)
def tasks(kernel: Kernel) -> None:
    kernel.ok(TASKS)


@pytest.mark.parametrize(
    ("call", "value", "runs"),
    [
        ("inc(a=1)", "2", 1),
        ("inc(4)", "5", 1),
        ("inc(a=np.int64(4)), inc(np.int64(4))", "(5, 5)", 2),
        ("map_task(inc)(a=[np.int64(1), 2])", "[2, 3]", 2),
        ("nothing(a=1), nothing_of(a=1)", "(None, None)", 2),  # what came back is nobody's
        ("slow(a=1)", "'slow'", 1),  # no executor mixin: the router knows its type
        ("double(a=2)", "4", 0),
        ("chained(a=1)", "10", 2),
        ("side_by_side(a=1)", "DefaultNamedTupleOutput(o0=2, o1=6, o2='slow')", 3),
        ("branching(a=1), branching(a=9)", "(4, 11)", 3),
        ("many(n=5)", "[1, 2, 3, 4, 5]", 5),
        ("outer(a=1)", "14", 3),
        ("map_task(inc)(a=numbers) == [n + 1 for n in numbers]", "True", 20),
        ("map_task(inc, concurrency=3)(a=[1, 2, 3, 4])", "[2, 3, 4, 5]", 4),
        ("map_task(inc, min_success_ratio=0.5)(a=[1, 13, 2])", "[2, None, 3]", 3),
        ("map_task(functools.partial(add, b=10))(a=[1, 2, 3])", "[12, 13, 14]", 3),
        ("map_task(double)(a=[1, 2])", "[2, 4]", 0),
        ("map_task(inc)(a=[])", "[]", 0),
        ("map_task(add)(b=[], a=[])", "[]", 0),
        ("map_task(inc, min_successes=3)(a=[1, 2])", "[2, 3]", 2),  # more than there are: all have to succeed
        ("map_task(inc, min_successes=3)(a=[])", "[]", 0),
        ("mapped(xs=[1, 2])", "[2, 3]", 2),
        ("names_of_ours(task=1, mapped=2, call=3), more_names_of_ours(workflow=1, call=2)", "(7, 5)", 2),
        ("map_task(names_of_ours)(task=[1], mapped=[2], call=[3])", "[7]", 1),
        ("names_of_ours.execute(task=1, mapped=2, call=3)", "7", 1),
        ("await asynchronous(task=1), await eager_name_of_ours(task=2)", "(2, 4)", 0),
        ("inc.execute(a=3)", "4", 1),
        ("flyteagent_nb.submit(inc, a=7).result()", "8", 1),
        ("flyteagent_nb.submit(inc, 7).result()", "8", 1),
        ("[r.result() for r in [flyteagent_nb.submit(inc, a=i) for i in range(5)]]", "[1, 2, 3, 4, 5]", 5),
        ("await flyteagent_nb.submit(inc, a=7)", "8", 1),
        ("await asyncio.gather(*(flyteagent_nb.submit(inc, a=i) for i in range(5)))", "[1, 2, 3, 4, 5]", 5),
    ],
)
def test_calls(kernel: Kernel, call: str, value: str, runs: int) -> None:
    kernel.ok("runs_before = runs()")
    assert kernel.value(call) == value
    assert kernel.value("runs() - runs_before") == str(runs)


def test_the_run_of_a_plain_call_has_its_values(kernel: Kernel) -> None:
    """The engine takes literals; whoever looks at the run sees what the call returned."""
    kernel.ok("inc(a=1)\nrun = %agent attach last")
    assert kernel.value("run.outputs, run.result(), run.outputs") == "({'o0': 2}, 2, {'o0': 2})"
    assert "o0: 2" in str(kernel.ok("run").shown["text/plain"])


@pytest.mark.parametrize(
    "run",
    [
        "threading.Thread(target=call)",
        "threading.Thread(target=lambda: asyncio.run(in_async()))",
    ],
)
def test_from_another_thread(kernel: Kernel, run: str) -> None:
    kernel.ok(
        "found = []\ndef call(): found.append((inc(a=1), chained(a=1), slow(a=1), map_task(inc)(a=[1, 2])))\nasync def in_async(): call()"
    )
    assert kernel.value(f"t = {run}; t.start(); t.join(30); found") == "[(2, 10, 'slow', [2, 3])]"


@pytest.mark.parametrize(
    ("call", "values"),
    [("inc(a=1)", "7, 2"), ("chained(a=1)", "14, 10"), ("map_task(inc)(a=[1])", "[7], [2]"), ("typed(a=1)", "7, 1")],
)
def test_a_mocked_task_runs_nothing(kernel: Kernel, call: str, values: str) -> None:
    mocked = "typed" if "typed" in call else "inc"
    kernel.ok("typed = scripted_task(inputs={'a': int}, outputs={'x': int}, phases=['SUCCEEDED'])")  # without a mixin
    kernel.ok("typed.script['outputs'] = {'x': 1}\nfrom flytekit.testing import task_mock\nruns_before = runs()")
    kernel.ok(
        f"with task_mock({mocked}) as mock:\n    mock.return_value = 7\n    found = {call}\nnew = runs() - runs_before"
    )
    assert kernel.value(f"new, found, {call}") == f"(0, {values})"


def test_from_an_async_cell(kernel: Kernel) -> None:
    kernel.ok("async def go(a): return inc(a=a), chained(a=a)")
    assert kernel.value("await go(1)") == "(2, 10)"
    assert kernel.value("await asyncio.gather(go(1), go(2))") == "[(2, 10), (3, 14)]"
    assert kernel.value("await asyncio.to_thread(chained, a=1)") == "10"


def test_an_eager_workflow_shows_its_runs_while_they_go_on(kernel: Kernel, tmp_path: Path) -> None:
    """flytekit blocks the cell for it, and calls its tasks on another thread."""
    assert kernel.ok("await eagerly(a=1)").text == "10"
    cell = kernel.fails("await eagerly(a=5)")
    assert [d["text/plain"].split(",")[0] for d in cell.displays] == ["eagerly: 1 succeeded"]
    kernel.ok(
        f"import pathlib\ngo = pathlib.Path({str(tmp_path / 'go')!r})\nAddAgent.calls.clear()\n"
        "threading.Thread(target=lambda: until(go.exists) and AddAgent.calls.append([1002]), daemon=True).start()"
    )
    message = kernel.start("await eagerly(a=-2)")
    kernel.wait_for_display(message, "eagerly: 1 running")
    (tmp_path / "go").touch()
    cell = kernel.finish(message)
    assert cell.text == "7" and [d["text/plain"].split(",")[0] for d in cell.displays] == ["eagerly: 2 succeeded"]


@pytest.mark.parametrize(("task", "value"), [("slow", "'slow'"), ("chained", "4 * a + 6")])
def test_many_calls_in_threads_of_one_async_cell(kernel: Kernel, task: str, value: str) -> None:
    """`asyncio.to_thread` shares flytekit's list of contexts between the threads; a call must not take another's for its own."""
    kernel.ok(f"found = await asyncio.gather(*(asyncio.to_thread({task}, a=a) for a in range(13)))")
    assert kernel.value(f"found == [{value} for a in range(13)] or found") == "True"


def test_from_several_threads_at_once(kernel: Kernel) -> None:
    kernel.ok(
        "import concurrent.futures\n"
        "with concurrent.futures.ThreadPoolExecutor(8) as pool:\n"
        "    found = list(pool.map(lambda a: (a, outer(a=a), slow(a=a)), [1, 2, 3, 4] * 4))"
    )
    assert kernel.value("found == [(a, 4 * a + 10, 'slow') for a in [1, 2, 3, 4] * 4]") == "True"


def test_a_cached_call_runs_once(kernel: Kernel) -> None:
    kernel.ok("import random\na = random.randint(10 ** 6, 10 ** 9)\nruns_before = runs()")
    assert kernel.value("cached(a=a) == a + 1, cached(a=a) == a + 1, runs() - runs_before") == "(True, True, 1)"


@pytest.mark.parametrize(
    ("call", "lengths"),
    [
        ("map_task(add)(a=[1, 2, 3], b=[1, 2])", "'b' has 2, 'a' has 3"),
        ("map_task(add)(a=[1], b=[1, 2])", "'b' has 2, 'a' has 1"),
        ("map_task(add, concurrency=1)(a=[], b=[1])", "'b' has 1, 'a' has 0"),
        ("mapped_pairs(xs=[1, 2], ys=[1])", "'b' has 1, 'a' has 2"),
    ],
)
def test_a_map_task_over_lists_of_different_lengths_starts_nothing(kernel: Kernel, call: str, lengths: str) -> None:
    kernel.ok("runs_before = runs()")
    cell = kernel.fails(call)
    assert cell.error.startswith(
        f"InputError: the inputs of map task 'add' are lists of different lengths: {lengths}\nhint: "
    )
    assert kernel.value("runs() - runs_before") == "0"


@pytest.mark.parametrize(
    ("call", "phases"),
    [
        ("map_task(inc, concurrency=1)(a=[13, 1, 2])", "['FAILED']"),
        ("map_task(inc)(a=[-1, 13, -1])", "['ABORTED', 'ABORTED', 'FAILED']"),
        ("map_task(inc, min_success_ratio=0.5, concurrency=1)(a=[13, 1, 13, 13, 1])", "['FAILED', 'FAILED', 'FAILED', 'SUCCEEDED']"),
        ("map_task(inc, concurrency=1, run_all_sub_nodes=True)(a=[13, 1])", "['FAILED', 'SUCCEEDED']"),
    ],
)  # fmt: skip
def test_a_map_task_that_cannot_succeed_any_more_ends(kernel: Kernel, call: str, phases: str) -> None:
    kernel.ok("runs_before = runs()")
    cell = kernel.fails(call)
    assert "unlucky" in cell.error and cell.displays[0]["text/plain"].startswith("map_task(inc): ")
    kernel.ok("new = flyteagent_nb.get_workspace().runner.runs()[: runs() - runs_before]")
    assert kernel.value("sorted(run.phase for run in new)") == phases


@pytest.mark.parametrize("call", ["map_task(inc)(a=[-1, 2**70])", "map_task(inc, concurrency=2)(a=[-1, 1, 2**70])"])
def test_an_element_that_cannot_be_sent_ends_the_others_of_its_map_task(kernel: Kernel, call: str) -> None:
    kernel.ok("runs_before = runs()")
    assert kernel.fails(call).error.startswith("InputError: input 'a' of task 'inc' takes an int, not int 11805")
    kernel.ok("new = flyteagent_nb.get_workspace().runner.runs()[: runs() - runs_before]")
    assert kernel.value("until(lambda: all(run.done for run in new)), new[-1].phase") == "(True, 'ABORTED')"


def test_a_map_task_starts_the_next_as_soon_as_one_has_ended(kernel: Kernel) -> None:
    assert kernel.value("map_task(inc, concurrency=2)(a=[-3, 1, 1003])") == "[-2, 2, 1004]"


@pytest.mark.parametrize(
    "call",
    [
        "inc(a=13)", "chained(a=13)", "many(n=14)", "map_task(inc)(a=[1, 13])", "map_task(inc, min_successes=3)(a=[1, 13])",
        "mapped(xs=[13])", "outer(a=12)",
    ],
)  # fmt: skip
def test_a_failing_call_is_our_few_lines(kernel: Kernel, call: str) -> None:
    cell = kernel.fails(call)
    assert cell.kinds == ["display_data", "error"] and cell.ename == "RunFailedError"
    assert re.search("✗ Failed|1 failed", cell.displays[0]["text/plain"])
    assert cell.error.startswith("RunFailedError: task 'inc' (add) failed: ValueError: unlucky\n")
    assert len(cell.error.splitlines()) == 3  # with the agent's own frame, and one hint
    assert cell.error.splitlines()[1].endswith(" in do")


def test_a_cell_that_fails_stops_those_behind_it(kernel: Kernel, tmp_path: Path) -> None:
    go = tmp_path / "go"
    first = kernel.start(f"import pathlib\nuntil(pathlib.Path({str(go)!r}).exists)\ninc(a=13)")
    second = kernel.start("print('never')")
    go.touch()  # now the second is on its way, too
    assert kernel.finish(first).status == "error"
    assert kernel.finish(second).status == "aborted"


def test_a_workflow_is_not_submitted_and_the_error_says_what_to_do(kernel: Kernel) -> None:
    assert "workflows are called" in kernel.fails("flyteagent_nb.submit(chained, a=1)").error
    assert "workflows are called" in kernel.fails("flyteagent_nb.submit(chained, 1)").error
    assert "workflows and other functions are called" in kernel.fails("%agent run chained a=1").error


def test_a_task_is_submitted_with_too_many_inputs(kernel: Kernel) -> None:
    assert "task 'inc' takes 1 input, and was given 2" in kernel.fails("flyteagent_nb.submit(inc, 1, 2)").error.replace(
        "__main__.", ""
    )


def test_a_wait_inside_an_agent_is_refused_instead_of_hanging(kernel: Kernel) -> None:
    kernel.ok(
        "class Nested(AddAgent):\n"
        "    name = 'Nested'\n"
        "    def __init__(self): SyncConnectorBase.__init__(self, task_type_name='nested')\n"
        "    async def do(self, task_template, output_prefix, inputs=None, **kwargs):\n"
        "        return Resource(phase=TaskExecution.SUCCEEDED, outputs={'x': str(inc(a=1))})\n"
        "ConnectorRegistry.register(Nested())\n"
        "nested = scripted_task('nested', outputs={'x': str})"
    )
    assert "would stop the thread that has to do the work" in kernel.fails("nested()").error
    kernel.ok("del nested")
    assert kernel.value("inc(a=1)") == "2"


TALKS = """
lines = {"create": "\\n".join(f"line {i}" for i in range(9))}
talks = scripted_task(name="talks", phases=["FAILED"], message="it <b>rained</b>", prints=lines,
                      links={"Console": "https://example.com/x"})
breaks = scripted_task(name="breaks", raises={"get": "ValueError: gone"}, prints={"create": "submitted"}, phases=["RUNNING"])
stays = scripted_task(name="stays", phases=["RUNNING"])
def stopped_soon():
    import _thread, threading
    threading.Thread(target=lambda: until(lambda: scripted.open_jobs) and _thread.interrupt_main(), daemon=True).start()
    stays()
"""


def test_a_run_that_fails_at_once_is_seen_above_its_error(kernel: Kernel) -> None:
    kernel.ok(TALKS)
    cell = kernel.fails("talks()")
    assert cell.kinds == ["display_data", "error"]
    view, error = cell.displays[0]["text/html"], cell.error
    assert "line 8" in view and "line 4" not in view  # the newest of what the agent printed
    assert 'href="https://example.com/x"' in view and "✗ Failed" in view
    assert "rained" in error and "rained" not in view + cell.displays[0]["text/plain"]  # told once

    kernel.ok("%config FlyteAgentNB.poll_failure_limit = 0.0")
    try:
        view = kernel.fails("breaks()").displays[0]["text/html"]
    finally:
        kernel.ok("%config FlyteAgentNB.poll_failure_limit = 60.0")
    assert "submitted" in view and "Traceback" not in view


def test_what_code_catches_is_not_shown(kernel: Kernel) -> None:
    kernel.ok(TALKS)
    assert (
        kernel.ok("for i in range(3):\n    try:\n        talks()\n    except Exception as e:\n        error = e").kinds
        == []
    )
    assert kernel.fails("%agent show no_such_run").kinds == ["error"]  # it ends a cell, and no wait
    kernel.ok("try:\n    talks()\nexcept Exception as e:\n    error = e")
    assert kernel.fails("raise error").kinds == ["display_data", "error"]
    assert kernel.fails("raise error").kinds == ["error"]  # it has been seen


def test_a_run_that_is_stopped_at_once_is_seen_too(kernel: Kernel) -> None:
    kernel.ok(f"scripted.jobs.clear()\n{TALKS}")
    cell = kernel.fails("stopped_soon()")
    assert cell.ename == "TaskStopped" and cell.kinds == ["display_data", "error"]
    assert cell.displays[0]["text/plain"].startswith("■ Aborted  stays")
