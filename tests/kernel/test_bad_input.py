"""Whatever a person or an agent gets wrong ends in one clear error of ours in the saved output, and the service lives on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from kernel.harness import Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.kernel

AGENTS = """
import asyncio, sys, time
from flyteidl.core.execution_pb2 import TaskExecution
from flytekit import task, workflow
from flytekit.extend.backend.base_connector import AsyncConnectorBase, Resource, SyncConnectorBase

class Bad(SyncConnectorBase):
    '''Does what the configuration says, with the worst manners.'''
    name = "Bad"
    def __init__(self):
        super().__init__(task_type_name="bad")
    async def do(self, task_template, output_prefix, inputs=None, **kwargs):
        return await manners[task_template.custom["does"]]()

class MyError(Exception):
    pass

async def raises():
    raise MyError("the warehouse said no:\\nline two, <b>bold</b>")

async def raises_big():
    raise MyError("ü" * 1_000_000)

async def raises_from():
    try:
        {}["key"]
    except KeyError as error:
        raise MyError("wrapped") from error

async def exits():
    sys.exit(3)

async def hangs():
    await asyncio.Event().wait()

async def none():
    return None

async def text():
    return "done"

async def wrong_name():
    return Resource(phase=TaskExecution.SUCCEEDED, outputs={"y": "1"})

async def wrong_type():
    return Resource(phase=TaskExecution.SUCCEEDED, outputs={"x": 5})

async def no_output():
    return Resource(phase=TaskExecution.SUCCEEDED)

async def not_final():
    return Resource(phase=TaskExecution.RUNNING)

async def no_value():
    return Resource(phase=TaskExecution.SUCCEEDED, outputs={"x": object()})

async def huge():
    return Resource(phase=TaskExecution.SUCCEEDED, outputs={"x": "x" * 50_000_000})

async def chatter():
    for i in range(1_000_000):
        print(i)
    return Resource(phase=TaskExecution.SUCCEEDED, outputs={"x": "said"})

manners = {f.__name__: f for f in (raises, raises_big, raises_from, exits, hangs, none, text, wrong_name, wrong_type, no_output, not_final,
                                   no_value, huge, chatter)}
ConnectorRegistry.register(Bad())
"""


OF_TWO = """
import dataclasses
from flytekit import map_task
from flytekit.core.python_function_task import PythonFunctionTask
from flytekit.extend import TaskPlugins
from flytekit.extend.backend.base_connector import SyncConnectorExecutorMixin

class OfBad:
    pass

@dataclasses.dataclass
class Point:
    x: int

class OfBadTask(SyncConnectorExecutorMixin, PythonFunctionTask):
    def __init__(self, task_config, task_function, **kwargs):
        super().__init__(task_config=task_config, task_type="bad", task_function=task_function, **kwargs)

TaskPlugins.register_pythontask_plugin(OfBad, OfBadTask)

@task(task_config=OfBad())
def of_two(a: int, b: str) -> int: return
"""
"""A cell: a function task of the bad agent, which can be mapped."""


@pytest.fixture(scope="module", autouse=True)
def bad(kernel: Kernel) -> None:
    kernel.ok(AGENTS)
    kernel.ok(OF_TWO)


@pytest.fixture(autouse=True)
def lives_on(kernel: Kernel) -> Iterator[None]:
    """After each of them the service answers, and nothing is under way."""
    yield
    assert kernel.value("scripted_task('echo', inputs={'a': int}, outputs={'a': int})(a=3)") == "3"
    assert (
        kernel.value("import flyteagent_nb; [r for r in flyteagent_nb.get_workspace().runner.runs() if not r.done]")
        == "[]"
    )


def one_error(kernel: Kernel, code: str, *, view: bool = False) -> str:
    """The error's text of a cell that shows that and nothing else, but for the ``view`` of a run that there was."""
    cell = kernel.fails(code)
    assert cell.kinds == ["display_data"] * view + ["error"], cell
    if view:
        assert cell.displays[0]["text/plain"].startswith("✗ Failed"), cell
    assert len(cell.error.splitlines()) <= 12 and len(cell.error) < 4000, cell
    assert not re.search(r"flyteagent_nb/\S+\.py", cell.error), cell  # no frames of ours
    first, *_ = cell.error.splitlines()
    assert first.startswith(f"{cell.ename}: ")
    return cell.error


@pytest.mark.parametrize(
    ("code", "told"),
    [
        # the line
        ("%%agent_task scriptd\n{}", "did you mean scripted?"),
        ("%%agent_task zzz\n{}", "no agent here serves the task type 'zzz'\nhint: %agent types lists what there is; "),
        (
            "job = scripted_task()\n%agent check job",
            "job is a task, and %agent check takes a task type\nhint: write %agent check scripted --task job",
        ),
        ("%%agent_task scripted --retrie 3\n{}", "did you mean --retries?"),
        ("%%agent_task scripted --retries many\n{}", "--retries: many is not a whole number"),
        ("%%agent_task scripted n=3\n{}", "an input is written -i n=3"),
        ("%%agent_task scripted -i n=3 -i n=4\n{}", "given twice"),
        ("%%agent_task scripted -i n=nobody\n{}", "there is no variable nobody"),
        ("%%agent_task scripted -i n=[1,\n{}", "is not closed"),
        ("%%agent_task scripted -i n=None\n{}", "cannot be told from None"),
        ("%%agent_task scripted -i n=[]\n{}", "it is empty"),
        ("%%agent_task scripted -i n=(1,2)\n{}", "cannot be told from a tuple\nhint: make it a list"),
        ("%%agent_task scripted --inputs {'a b': 1}\n{}", "'a b' cannot be the name of an input"),
        (
            "%%agent_task scripted --returns x:tuple\n{}",
            "--returns x:tuple: Flyte has no type for it\nhint: write list[int]",
        ),
        (
            "%%agent_task scripted --returns x:list\n{}",
            "--returns x:list: Flyte has no type for it\nhint: write list[int]",
        ),
        ("%%agent_task scripted --returns x:agents\n{}", "'agents' is not a type but an Agents"),
        ("%%agent_task scripted -o a -b\n{}", "-b does not wait"),
        ("%%agent_task scripted --returns x:strr\n{}", "did you mean str?"),
        ("%%agent_task scripted --service elsewhere\n{}", "no agent service is called 'elsewhere'"),
        ("%%agent_task -c a=1\njob", "-c does not go with Python"),
        ("%%agent_task --name x\njob", "--name does not go with Python"),
        ("%%agent_task --returns x:str\njob", "--returns does not go with Python"),
        ("%%agent_task scripted --config job\n{}", "--config goes with SQL"),
        ("%%agent_task --lang yaml\na: 1", "needs its task type"),
        ("%agent_task scripted", "write two percent signs"),
        ("%agent_task scripted SELECT 1", "write two percent signs, and the task on the next line"),
        # the body
        ("%%agent_task", "the cell is empty"),
        (
            "%%agent_task scripted",
            "the cell is empty\nhint: write the settings of the task into it, or {} where it has none",
        ),
        ("%%agent_task scripted\n\n   \n", "the cell is empty"),
        ('%%agent_task scripted\n{"a": 1,\n "b": }', "the cell is not JSON: line 3, column 7"),
        ("%%agent_task scripted\na: 1\nb: [1,", "the cell is not YAML: line "),
        ("%%agent_task scripted\n- 1", "the cell is a list"),
        ("%%agent_task scripted\nSELECT 1", "the cell is a str"),
        ("%%agent_task scripted\nwhen: 2024-01-01", "put quotes around dates"),
        ("%%agent_task scripted\na: 1\non: 3", "line 3: the key `on` is a truth value to YAML"),
        (
            "%%agent_task scripted -c job=12345678901234567890\na: 1",
            "would be sent as another one: 12345678901234567890",
        ),
        ("%%agent_task scripted\na: " + "[" * 3000 + "]" * 3000, "nested more than 30 levels deep"),
        (
            "%%agent_task scripted --lang shell\necho",
            "no installed plug-in has a task with a shell script for 'scripted'",
        ),
        ("%%agent_task\nSELECT name FROM t", "the cell is not Python: line 2"),
        ("%%agent_task\nx = 1\ndef f(:\n    pass", "the cell is not Python: line 3"),
        (
            "%%agent_task\nawait nothing",
            "no `await` at its top level: line 2\nhint: await it in a cell before",
        ),
        ("%%agent_task\nx = 1\nasync with x:\n    pass", "no `await` at its top level: line 3"),
        ("%%agent_task\ndef f():\n    await x", "the cell is not Python: line 3: 'await' outside async function"),
        (
            "%%agent_task scripted\nscripted_task(inputs={'a': int}, name='b')",
            "the cell is Python, and the configuration of",
        ),
        ("%%agent_task\nx = 1", "the cell defines no task"),
        (
            "%%agent_task\n@task\ndef plain(a: int) -> int:\n    return a",
            "no agent runs task 'plain': it is a python-task",
        ),
        ("%%agent_task noop\njob = scripted_task()", "the cell is a str"),
        ("%%agent_task noop --lang python\nscripted_task(name='other')", "is a scripted, not a noop"),
        # the inputs
        ("%%agent_task -i b=3\nscripted_task(inputs={'a': int})", "has no input 'b'"),
        ("%%agent_task\nscripted_task(inputs={'a': int})", "misses input 'a'"),
        ("%%agent_task -i a='x'\nscripted_task(inputs={'a': int})", "not str 'x'"),
        ("%%agent_task -i a=[1,2]\nscripted_task(inputs={'a': dict})", "not list [1, 2]"),
        # the same in a plain call
        ("scripted_task(inputs={'a': int})(a='x')", "input 'a' of task 'job' takes an int, not str 'x'"),
        ("scripted_task(inputs={'a': int})('x')", "input 'a' of task 'job' takes an int, not str 'x'"),
        ("scripted_task(inputs={'all': int})(al=3)", "did you mean all?"),
        ("scripted_task(inputs={'a': int})(1, 2)", "takes 1 input, and was given 2"),
        ("scripted_task(inputs={'a': int})()", "misses input 'a'"),
        ("scripted_task(inputs={'a': int, 'b': int})(1, a=2, b=3)", "input 'a' of task 'job' is given twice"),
        ("map_task(of_two)(a=[1])", "misses input 'b'"),
        ("map_task(of_two)(a=['x'], b=['y'])", "input 'a' of map task 'of_two' takes a List[int], not list ['x']"),
        ("map_task(of_two)(c=['x'])", "map task 'of_two' has no input 'c'"),
        # a transformer that raises an error of Python's
        (
            "scripted_task(inputs={'a': list[Point]})([Point(1), 3])",
            "input 'a' of task 'job' takes a list[__main__.Point]",
        ),
        ("%agent run jbo", "there is no variable jbo\nhint: did you mean job? run the cell"),
        (
            "%agent run my_flows.daily.fit n=1",
            "there is no variable my_flows\nhint: run the cell that defines it first, or import it: from my_flows.daily import fit",
        ),
        ("import json\n%agent run json", "json is not a task but a module\nhint: there is no task in it"),
        (
            "import types\nflows = types.ModuleType('flows')\nflows.job = job\n%agent run flows",
            "hint: its tasks are flows.job",
        ),
        ("%agent run job(a=1)", "write job name=value here, or call it in a cell: job(a=1)"),
        ("%agent show $run.id", "no $name and no {name} is filled in on this line"),
        ("%%agent_task scripted\n# nothing", "the cell is empty"),
    ],
)
def test_bad_cells(kernel: Kernel, code: str, told: str) -> None:
    kernel.ok("job = scripted_task()")
    created = kernel.value("len(scripted.calls)")
    assert told in one_error(kernel, code)
    assert kernel.value("len(scripted.calls)") == created


WORKFLOWS = """
one = scripted_task('echo', inputs={'year': int, 'label': str}, outputs={'year': int, 'label': str}, name='one')
solo = scripted_task('echo', inputs={'a': int}, outputs={'a': int}, name='solo')

def flow(body, **inputs):
    def wf(a: int = 1, b: str = "x"):
        exec(body)
    return workflow(wf)(**inputs)
"""
"""A cell: tasks, and a way to call a workflow of one line."""


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            "one(yaer=1, label='x')",
            "task 'one' in workflow 'wf' has no input 'yaer'\nhint: did you mean year? its inputs are",
        ),
        (
            "one(year=a)",
            "task 'one' in workflow 'wf' misses input 'label'\nhint: its inputs are: year: int, label: str",
        ),
        ("one(a, b, 3)", "task 'one' in workflow 'wf' takes 2 inputs, and was given 3"),
        ("one(a, b, year=3)", "input 'year' of task 'one' in workflow 'wf' is given twice: by position and by name"),
        ("solo(a='x')", "input 'a' of task 'solo' in workflow 'wf' takes an int, not str 'x'"),
        ("solo(a=__import__('numpy').int64(1))", "takes an int, not int64 "),  # a cluster would refuse it
        ("solo(a=one(year=a, label=b))", "given all 2 outputs of another task\nhint: take one of them: .year, .label"),
        ("map_task(of_two)(a=[1])", "misses input 'b'"),
        ("map_task(of_two)(a=['x'], b=['y'])", "input 'a' of map task 'of_two' in workflow 'wf' takes a List[int]"),
        # What flytekit's engine does not look at, and a cluster does.
        (
            "solo(a=b)",
            "input 'a' of task 'solo' is declared as integer and came as string\nhint: it is another task's output",
        ),
        ("solo(a=one(year=a, label=b).label)", "input 'a' of task 'solo' is declared as integer and came as string"),
    ],
)
def test_bad_calls_in_a_workflow(kernel: Kernel, body: str, told: str) -> None:
    kernel.ok(WORKFLOWS)
    assert told in one_error(kernel, f"flow({body!r})")


def test_a_workflow_with_a_mistake_never_runs_a_part_of_itself(kernel: Kernel) -> None:
    """flytekit takes a workflow for compiled once it has tried, so a second call would run the tasks before the mistake."""
    kernel.ok(WORKFLOWS + "@workflow\ndef half():\n    solo(a=1)\n    one(yaer=1, label='x')")
    kernel.ok("before = flyteagent_nb.get_workspace().runner.runs()")
    for _ in range(2):
        assert "task 'one' in workflow 'half' has no input 'yaer'" in one_error(kernel, "half()")
    assert kernel.value("flyteagent_nb.get_workspace().runner.runs() == before") == "True"


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("outer(aa=1)", "workflow 'outer' has no input 'aa'\nhint: did you mean a? its inputs are: a: int"),
        ("outer('x')", "input 'a' of workflow 'outer' takes an int, not str 'x'"),
        ("outer(1, 2)", "workflow 'outer' takes 1 input, and was given 2"),
        ("outer(1, a=2)", "input 'a' of workflow 'outer' is given twice"),
        ("outer()", "workflow 'outer' misses input 'a'"),
    ],
)
def test_bad_calls_of_a_workflow(kernel: Kernel, call: str, told: str) -> None:
    kernel.ok(WORKFLOWS + "@workflow\ndef outer(a: int) -> int:\n    return solo(a=a)")
    assert told in one_error(kernel, call)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("unfit()", "output 'x' of task 'unfit' does not become a DataFrame: "),
        ("framed()", "output 'o0' of workflow 'framed' does not become a DataFrame: "),
        ("pair()", "output 'o1' of task 'pair' does not become a Point: Field \"x\" of type int is missing"),
        ("pointed()", "output 'o0' of workflow 'pointed' does not become a Point: Field \"x\" of type int is missing"),
        ("lettered()", "output 'o0' of workflow 'lettered' does not become an int: Cannot convert literal scalar: primitive: string"),
    ],
)  # fmt: skip
def test_an_output_that_its_type_cannot_take_is_one_line_of_a_call_too(kernel: Kernel, code: str, told: str) -> None:
    kernel.ok(
        "import pandas as pd\n"
        "unfit = scripted_task(outputs={'x': pd.DataFrame}, name='unfit')\nunfit.script['outputs'] = {'x': {'a': [1]}}\n"
        "pair = scripted_task(outputs={'o0': str, 'o1': Point}, name='pair')\npair.script['outputs'] = {'o0': '', 'o1': {'y': 1}}\n"
        "@workflow\ndef framed() -> pd.DataFrame:\n    return unfit()\n"
        "@workflow\ndef pointed() -> Point:\n    return pair().o1\n"
        "four = scripted_task(outputs={'x': str}, name='four')\nfour.script['outputs'] = {'x': 'four'}\n"
        "@workflow\ndef lettered() -> int:\n    return four()"
    )
    error = one_error(kernel, code)
    assert error.startswith(f"OutputError: {told}") and len(error.splitlines()) == 2


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("raises", "MyError: the warehouse said no:\nline two, <b>bold</b>"),
        ("raises_big", "MyError: üüü"),
        ("raises_from", "MyError: wrapped"),
        ("exits", "SystemExit: 3"),
        ("none", "None"),
        ("text", "str"),
        ("wrong_name", "is declared and was not returned; returned: y"),
        ("wrong_type", "is declared as string and came as integer"),
        ("no_output", "Outputs not generated"),
        ("not_final", "RUNNING"),
        ("no_value", "is declared as string and came as blob"),
        ("unheard", "KeyError: 'unheard'"),
    ],
)
def test_bad_agents(kernel: Kernel, does: str, told: str) -> None:
    error = one_error(kernel, f"%%agent_task bad --returns x:str\ndoes: {does}", view=True)
    assert told in error
    assert told in one_error(kernel, f"%%agent_task bad --returns x:str -q\ndoes: {does}")


def test_an_agent_that_hangs_ends_with_its_deadline(kernel: Kernel) -> None:
    kernel.ok("%config FlyteAgentNB.deadline = 0.5")
    try:
        shown = one_error(kernel, "%%agent_task bad\ndoes: hangs", view=True)
        assert (
            "ExecuteTaskSync took more than its deadline, 0.5 s" in shown and "%config FlyteAgentNB.deadlines" in shown
        )
        shown = one_error(kernel, "%%agent_task scripted\nhangs: [create]", view=True)
        assert "CreateTask took more than its deadline" in shown
    finally:
        kernel.ok("%config FlyteAgentNB.deadline = 10.0")


def test_a_get_that_keeps_failing_ends_the_run_with_its_last_error(kernel: Kernel) -> None:
    kernel.ok("%config FlyteAgentNB.poll_failure_limit = 0.0")
    try:
        assert "ValueError: gone" in one_error(
            kernel, "%%agent_task scripted -q -r run\nraises: {get: 'ValueError: gone'}"
        )
        assert "may still run" in kernel.value("run.snapshot.notes")
    finally:
        kernel.ok("%config FlyteAgentNB.poll_failure_limit = 60.0")


def test_fifty_megabytes_come_back(kernel: Kernel) -> None:
    cell = kernel.ok("%%agent_task bad --returns x:str -o big\ndoes: huge")
    assert cell.kinds == ["display_data"]
    assert kernel.value("len(big)") == "50000000"
    kernel.ok("del big")


def test_a_million_lines_stay_out_of_the_cell_and_are_cut(kernel: Kernel) -> None:
    kernel.ok("%config FlyteAgentNB.deadlines = {'ExecuteTaskSync': 0.0}")  # a busy machine takes its time
    cell = kernel.ok("%%agent_task bad --returns x:str -o said -r run\ndoes: chatter")
    kernel.ok("%config FlyteAgentNB.deadlines = {}")
    assert cell.kinds[0] == "display_data" and "0\n1\n2" not in str(cell)
    assert kernel.value("run.logs()[0], run.logs()[-1], len(run.logs()) < 20_000") == "('0', '999999', True)"
    assert len(kernel.ok("%agent logs last").text) < 2_000_000


def test_a_failure_in_a_workflow_is_the_same_few_lines(kernel: Kernel) -> None:
    kernel.ok(
        "boom = scripted_task('scripted', inputs={'a': int}, outputs={'x': str}, name='boom', phases=['FAILED'], message='it rained')\n"
        "@task\ndef double(a: int) -> int:\n    return 2 * a\n"
        "@workflow\ndef inner(a: int) -> str:\n    return boom(a=double(a=a))\n"
        "@workflow\ndef outer(a: int) -> str:\n    return inner(a=a)"
    )
    assert "task 'boom' (scripted) failed: it rained" in one_error(kernel, "boom(a=1)", view=True)
    for call in ("inner(a=1)", "outer(a=1)", "import asyncio\nawait asyncio.sleep(0)\nouter(a=1)"):
        cell = kernel.fails(call)
        assert cell.kinds == ["display_data", "error"]
        assert "task 'boom' (scripted) failed: it rained" in cell.error and len(cell.error.splitlines()) <= 2
        first, row = cell.displays[0]["text/plain"].splitlines()  # the workflow, and its one task of an agent
        assert "1 failed" in first and "✗ Failed" in row and "boom" in row
    # What a person's own code can catch and look at.
    caught = kernel.ok(
        "try:\n    outer(a=1)\nexcept Exception as error:\n    caught = error\ntype(caught).__name__, caught.run_id == caught.run_id"
    )
    assert caught.text == "('RunFailedError', True)"
