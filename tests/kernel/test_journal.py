"""A kernel is killed and another one follows its jobs; two kernels share a list; unload and shutdown leave jobs on record."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest
from scripted_tasks import until

from kernel.harness import LOAD, Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    NewKernel = Callable[..., Kernel]

pytestmark = pytest.mark.kernel

AGENT = '''
import json, os, sys, threading, time
from dataclasses import dataclass
from pathlib import Path
import pandas as pd
from flyteidl.core.execution_pb2 import TaskExecution
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import LiteralMap
from flytekit.extend.backend.base_connector import AsyncConnectorBase, ConnectorRegistry, Resource, ResourceMeta, SyncConnectorBase

FOLDER = Path(os.environ["FA_JOBS"])

@dataclass
class CellMeta(ResourceMeta):
    job: str

class CellAgent(AsyncConnectorBase):
    """Jobs are files in a folder, which outlives the kernel; each ends when a file ``go`` lies beside them."""
    name = "Cell Agent"

    def __init__(self):
        super().__init__(task_type_name="cell_job", metadata_type=CellMeta)
        self.created = 0

    def create(self, task_template, inputs=None, **kwargs):
        self.created += 1
        custom = task_template.custom or {}
        print("creating", custom["makes"])
        job = f"job-{os.urandom(6).hex()}"
        (FOLDER / job).write_text(json.dumps({"makes": custom["makes"], "x": inputs.literals["x"].scalar.primitive.integer}))
        if custom.get("hangs"):
            threading.Event().wait()
        return CellMeta(job)

    def get(self, resource_meta, **kwargs):
        job = FOLDER / resource_meta.job
        if not job.exists():
            return Resource(phase=TaskExecution.ABORTED, message="it was deleted")
        told = json.loads(job.read_text())
        if not (FOLDER / "go").exists() and told["makes"] != "at once":
            return Resource(phase=TaskExecution.RUNNING, message="it goes on")
        x = told["x"]
        kind, value = {
            "numbers": (list[int], [x, x + 1]),
            "at once": (list[int], [x]),
            "table": (pd.DataFrame, pd.DataFrame({"a": [x, 2]})),
            "point": (Anyhow, Anyhow(x, "two")),
            "inner": (Anyhow, Anyhow(x, "two")),
        }[told["makes"]]
        literal = TypeEngine.to_literal(FlyteContextManager.current_context(), value, kind, TypeEngine.to_literal_type(kind))
        return Resource(phase=TaskExecution.SUCCEEDED, outputs=LiteralMap({"o0": literal}))

    def delete(self, resource_meta, **kwargs):
        (FOLDER / resource_meta.job).unlink(missing_ok=True)

@dataclass
class Anyhow:
    a: int
    b: str

class CellDo(SyncConnectorBase):
    name = "Cell Do"

    def __init__(self):
        super().__init__(task_type_name="cell_do")

    def do(self, **kwargs):
        (FOLDER / "did").write_text("")
        threading.Event().wait()

agent = CellAgent()
ConnectorRegistry.register(agent, override=True)
ConnectorRegistry.register(CellDo(), override=True)
'''
"""A cell that defines its agents."""

TASKS = """
from flytekit.core.base_task import PythonTask
from flytekit.core.interface import Interface
from flytekit import workflow

class CellTask(PythonTask):
    def __init__(self, makes, output, task_type="cell_job", **custom):
        super().__init__(task_type, f"makes_{makes.replace(' ', '_')}", interface=Interface({"x": int}, {"o0": output}))
        self.custom = {"makes": makes, **custom}

    def get_custom(self, settings):
        return self.custom

@dataclass
class Point:
    a: int
    b: str

def inner():
    @dataclass
    class Inner:
        a: int
        b: str
    return Inner

numbers = CellTask("numbers", list[int])
at_once = CellTask("at once", list[int])
table = CellTask("table", pd.DataFrame)
point = CellTask("point", Point)
of_inner = CellTask("inner", inner())
hanging = CellTask("numbers", list[int], hangs=True)
does = CellTask("numbers", list[int], task_type="cell_do")

@workflow
def flow(x: int) -> list[int]:
    return numbers(x=x)
"""

BEGIN = """
import flyteagent_nb
from scripted_tasks import until
workspace = flyteagent_nb.get_workspace()
runs = {name: flyteagent_nb.submit(task, x=x) for x, (name, task) in enumerate({
    "numbers": numbers, "table": table, "point": point, "again": point, "inner": of_inner, "task": of_inner, "cancel": numbers,
    "two": numbers, "all": numbers}.items())}
runs["done"] = flyteagent_nb.submit(at_once, x=40)
runs["job"] = flyteagent_nb.submit(hanging, x=50)
runs["gone"] = flyteagent_nb.submit(hanging, x=51)
runs["sync"] = flyteagent_nb.submit(does, x=60)
known = {run.id for run in runs.values()}
for call in (lambda: numbers(x=70), lambda: flow(x=80)):
    threading.Thread(target=call, daemon=True).start()
running = lambda run: run.phase == "RUNNING" and run.message == "it goes on"
until(lambda: len(workspace.runner.runs()) == len(runs) + 2 and runs["done"].done and (FOLDER / "did").exists())
for run in workspace.runner.runs():
    if run.id not in known:
        runs["called" if not runs.keys() & {"called"} else "flow"] = run
until(lambda: all(running(run) for name, run in runs.items() if name not in ("done", "job", "gone", "sync")))
until(lambda: len(list(FOLDER.glob("job-*"))) == 14)
workspace.runner.journal.flush()
until(lambda: (workspace.runner.storage.root / f"{runs['numbers'].id}.log").exists())
{name: run.id for name, run in runs.items()}
"""
"""Runs up to where each waits."""


def environment(folder: Path) -> dict[str, str]:
    jobs = folder / "jobs"
    jobs.mkdir(exist_ok=True)
    return {"FLYTEAGENT_NB_DATA_FOLDER": str(folder / "data"), "FA_JOBS": str(jobs)}


def jobs(folder: Path) -> dict[str, dict[str, object]]:
    return {path.name: json.loads(path.read_text()) for path in (folder / "jobs").glob("job-*")}


def go(folder: Path, go: bool = True) -> None:
    """Let the jobs end, or go on."""
    marker = folder / "jobs" / "go"
    marker.write_text("") if go else marker.unlink(missing_ok=True)


def on_path(kernel: Kernel) -> None:
    kernel.ok(f"import sys; sys.path.insert(0, {os.path.dirname(os.path.dirname(__file__))!r})")


def kill(kernel: Kernel) -> None:
    """What no handler sees."""
    os.kill(kernel.pid, signal.SIGKILL)
    until(lambda: not kernel.manager.is_alive())


class Story:
    """A kernel was killed with runs under way; its successor, and those runs."""

    def __init__(self, kernel: Kernel, folder: Path, ids: dict[str, str], said: str) -> None:
        self.kernel = kernel
        self.folder = folder
        self.ids = ids
        self.said = said


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story")
    with Kernel(tmp_path_factory.mktemp("kernel"), environment(folder)) as kernel:
        on_path(kernel)
        assert "still open" not in kernel.ok(LOAD).stdout
        kernel.ok("%config FlyteAgentNB.deadline = 0.0")
        kernel.ok(AGENT)
        kernel.ok(TASKS)
        ids = eval(kernel.ok(BEGIN).text)
        kill(kernel)
        kernel.restart()
        on_path(kernel)
        said = kernel.ok(LOAD).stdout
        yield Story(kernel, folder, ids, said)
        assert "Traceback" not in kernel.log, kernel.log


@pytest.fixture
def agents(story: Story) -> Story:
    """The story, with the agents' cell run again."""
    story.kernel.ok("'agent' in globals() or get_ipython().run_cell(" + repr(AGENT) + ").raise_error()")
    return story


# --- after a kernel was killed; the order of these tests is that of a person ---


def test_loading_says_what_is_open(story: Story) -> None:
    first, second = story.said.splitlines()
    assert "an agent service starts" in first
    assert re.match(
        r"14 runs of earlier kernels are still open: \w+ \(makes_numbers\), \w+ \(makes_\w+\), \w+ \(makes_\w+\) and 11 more\. "
        r"%agent attach --all goes on with them\.$",
        second,
    )


def test_the_list_tells_which_are_open_and_which_are_unknown(story: Story) -> None:
    text = story.kernel.value("%agent runs --all")
    rows = {line.split()[0]: line for line in text.splitlines() if line.split()}
    for name, run_id in story.ids.items():
        words = {"done": "succeeded", "job": "unknown", "gone": "unknown", "sync": "unknown"}.get(
            name, "open: its kernel ended"
        )
        assert words in rows[run_id].lower(), (name, rows[run_id])
    assert story.kernel.value("runs = %agent runs\nlen(runs)") == "0"
    assert story.kernel.value("runs = %agent runs --all --phase UNKNOWN -n 2\nlen(runs)") == "2"


def test_what_is_known_of_a_run_is_told(story: Story) -> None:
    told = story.kernel.value(f"%agent show {story.ids['numbers'][:7]}")
    assert "makes_numbers (cell_job)" in told and "Cell Agent on service kernel" in told
    assert "created on kernel, resource meta" in told and "job-" in told and "it goes on" in told
    assert story.kernel.value(f"%agent logs {story.ids['numbers']}").splitlines() == ["creating numbers"]
    told = story.kernel.value(f"%agent show {story.ids['job']}")
    assert "unknown: its kernel ended while a job was being created" in told


def test_what_no_kernel_follows_is_not_waited_for(story: Story) -> None:
    cell = story.kernel.fails(
        f"import flyteagent_nb\nrun = flyteagent_nb.get_workspace().kept.find('{story.ids['two']}')\nrun.result()"
    )
    assert cell.ename == "JournalError" and "%agent attach" in cell.error


def test_an_agent_of_a_cell_that_is_gone_is_named(story: Story) -> None:
    cell = story.kernel.fails(f"%agent attach {story.ids['numbers']}")
    assert cell.ename == "TaskTypeNotFoundError"
    assert "needs the agent 'Cell Agent' of task type 'cell_job', which this kernel does not have" in cell.error
    assert (
        f"run the cell that defines it again, or import its plug-in; then %agent attach {story.ids['numbers']}"
        in cell.error
    )
    listed = story.kernel.ok("runs = %agent attach --all\nlen(runs)")
    assert listed.text == "0" and listed.stderr.count("needs the agent 'Cell Agent'") == 11


def test_the_tab_key_offers_runs_on_record(story: Story) -> None:
    prefix = story.ids["two"][:6]
    for verb in ("attach", "settle", "show", "logs", "cancel"):
        assert f"%agent {verb} {story.ids['two']}" in story.kernel.completed(f"%agent {verb} {prefix}")
    assert story.ids["gone"] in " ".join(story.kernel.complete("%agent settle "))


def test_once_its_cell_was_run_again_a_run_is_followed(agents: Story) -> None:
    kernel, ids = agents.kernel, agents.ids
    kernel.ok(f"%agent attach {ids['numbers']} -r numbers_run")
    assert "it goes on" in str(kernel.ok("numbers_run").shown) and kernel.value("numbers_run.done") == "False"
    assert kernel.value(f"again = %agent attach {ids['numbers']}\nagain is numbers_run") == "True"
    go(agents.folder)
    assert kernel.value("await numbers_run") == "[0, 1]"
    assert kernel.value("type(numbers_run.outputs['o0'][0]).__name__, numbers_run.snapshot.notes") == "('int', ())"
    assert kernel.value("agent.created") == "0"
    assert kernel.value("numbers_run.logs()") == "['creating numbers']"


def test_a_data_frame_comes_back(agents: Story) -> None:
    go(agents.folder)
    assert (
        agents.kernel.value(
            f"run = %agent attach {agents.ids['table']}\nframe = await run\ntype(frame).__name__, list(frame.a)"
        )
        == "('DataFrame', [1, 2])"
    )


def test_what_is_guessed_is_said_and_a_class_that_is_there_again_is_used(agents: Story) -> None:
    kernel, ids = agents.kernel, agents.ids
    go(agents.folder)
    kernel.ok("globals().pop('Point', None)")
    kernel.ok(f"run = %agent attach {ids['point']}\nvalue = await run")
    text = " ".join(kernel.value("type(value).__name__, value.a, value.b, run.snapshot.notes").split())
    assert (
        "2, 'two'" in text
        and "output 'o0' is read as" in text
        and "which is a guess: __main__:Point is not there" in text
    )
    assert f"%agent attach {ids['point']} --task TASK knows it" in text
    assert "which is a guess" in kernel.value(f"%agent show {ids['point']}")
    kernel.ok("@dataclass\nclass Point:\n    a: int\n    b: str")
    assert (
        kernel.value(f"run = %agent attach {ids['again']}\nvalue = await run\nvalue, run.snapshot.notes")
        == "(Point(a=3, b='two'), ())"
    )


def test_a_task_says_the_types(agents: Story) -> None:
    kernel, ids = agents.kernel, agents.ids
    go(agents.folder)
    text = kernel.value(f"run = %agent attach {ids['inner']}\nvalue = await run\nrun.snapshot.notes")
    assert "which is a guess: its type has no name" in text
    kernel.ok(TASKS)
    assert kernel.value(f"run = %agent attach {ids['task']} --task of_inner\nawait run").endswith("Inner(a=5, b='two')")
    # One that has ended is read again with another word on its types.
    assert kernel.value(f"run = %agent attach {ids['inner']} --task of_inner\nawait run").endswith(
        "Inner(a=4, b='two')"
    )
    for named in ("nothing_of_that_name", "CellTask"):
        cell = kernel.fails(f"%agent attach {ids['inner']} --task {named}")
        assert cell.ename == "ArgumentError"


def test_a_run_that_had_ended_gives_its_outputs(agents: Story) -> None:
    assert agents.kernel.value(f"run = %agent attach {agents.ids['done']}\nrun.result()") == "[40]"
    assert agents.kernel.value(f"run = %agent attach {agents.ids['done']}\nawait run") == "[40]"


def test_plain_calls_and_workflows_are_followed_too(agents: Story) -> None:
    go(agents.folder)
    found = {agents.kernel.value(f"run = %agent attach {agents.ids[name]}\nawait run") for name in ("called", "flow")}
    assert found == {"[70, 71]", "[80, 81]"}


def test_a_job_whose_kernel_is_gone_is_cancelled(agents: Story) -> None:
    before = {name for name, job in jobs(agents.folder).items() if job["x"] == 6}
    assert len(before) == 1
    go(agents.folder, False)
    agents.kernel.ok(f"%agent cancel {agents.ids['cancel']}")
    until(lambda: not before & set(jobs(agents.folder)))  # a busy machine may need longer than a cell waits for it
    agents.kernel.ok(f"flyteagent_nb.get_workspace().runner.find('{agents.ids['cancel']}').exception(30)")
    assert "aborted" in agents.kernel.value(f"%agent show {agents.ids['cancel']}").lower()


def test_an_unknown_run_is_not_followed_before_it_is_settled(agents: Story) -> None:
    kernel, ids = agents.kernel, agents.ids
    cell = kernel.fails(f"%agent attach {ids['job']}")
    assert cell.ename == "JournalError" and "whether run" in cell.error and "is unknown" in cell.error
    assert f"%agent settle {ids['job']} --job RESOURCE_META" in cell.error
    cell = kernel.fails(f"%agent cancel {ids['job']}")
    assert cell.ename == "JournalError"
    assert kernel.fails(f"%agent settle {ids['job']}").ename == "ArgumentError"
    (job,) = (name for name, job in jobs(agents.folder).items() if job["x"] == 50)
    kernel.ok("meta = json.dumps({'job': " + repr(job) + "})")
    told = kernel.value(f"get_ipython().run_line_magic('agent', 'settle {ids['job']} --job ' + repr(meta))")
    assert "created on kernel" in told and job in told
    go(agents.folder)
    assert kernel.value(f"run = %agent attach {ids['job']}\nawait run") == "[50, 51]"


def test_what_is_gone_is_settled(agents: Story) -> None:
    kernel, ids = agents.kernel, agents.ids
    for name in ("gone", "sync"):
        told = kernel.value(f"%agent settle {ids[name]} --gone")
        assert "aborted" in told.lower() and "settled by hand" in told
        cell = kernel.fails(f"%agent settle {ids[name]} --gone")
        assert cell.ename == "JournalError" and "it is ABORTED" in cell.error
        cell = kernel.fails(f"run = %agent attach {ids[name]}\nawait run")
        assert "was settled: there is no job" in cell.error
    cell = kernel.fails(f"%agent settle {ids['done']} --gone")
    assert "it is SUCCEEDED" in cell.error


def test_two_kernels_see_one_list_and_each_run_has_one_owner(agents: Story, new_kernel: NewKernel) -> None:
    kernel, ids = agents.kernel, agents.ids
    go(agents.folder, False)
    other = new_kernel(**environment(agents.folder))
    on_path(other)
    assert "2 runs of earlier kernels are still open" in other.ok(LOAD).stdout
    other.ok(AGENT)
    kernel.ok(f"two = %agent attach {ids['two']}")
    for which in (kernel, other):
        rows = {line.split()[0]: line for line in which.value("%agent runs --all").splitlines() if line.split()}
        assert set(ids.values()) <= rows.keys()
    assert f"followed by process {kernel.pid} on " in other.value(f"%agent show {ids['two']}")
    for verb in ("attach {}", "cancel {}"):
        cell = other.fails("%agent " + verb.format(ids["two"]))
        assert cell.ename == "JournalError" and f"is followed by process {kernel.pid} on " in cell.error
    assert "is not unknown" in other.fails(f"%agent settle {ids['two']} --gone").error
    cell = other.ok("runs = %agent attach --all\n[run.id for run in runs]")
    assert cell.text == f"['{ids['all']}']" and cell.stderr == ""
    go(agents.folder)
    assert other.value("await runs[0]") == "[8, 9]" and kernel.value("await two") == "[7, 8]"
    other.ok(
        "import flyteagent_nb\nflyteagent_nb.get_workspace().runner.journal.flush()"
    )  # an end is written a moment later
    assert kernel.value(f"run = %agent attach {ids['all']}\nawait run") == "[8, 9]"
    assert kernel.value("agent.created") == other.value("agent.created") == "0"


@pytest.mark.slow
def test_nothing_is_open_in_the_end(agents: Story, new_kernel: NewKernel) -> None:
    kernel = new_kernel(**environment(agents.folder))
    assert "open" not in kernel.ok(LOAD).stdout
    listed = "sorted(run.id for run in get_ipython().run_line_magic('agent', 'runs --all'))"
    assert kernel.value("pruned = %agent runs --prune\npruned.run_ids") == "[]"
    kernel.ok("%config FlyteAgentNB.runs_kept = 5")
    before = eval(kernel.value(listed))
    told = kernel.ok("would = %agent runs --prune\nwould")
    assert f"{len(before) - 5} runs, with inputs, outputs and logs" in told.text
    would = eval(kernel.value("would.run_ids"))
    assert eval(kernel.value(listed)) == before and len(set(would)) == len(before) - 5  # told, and not done
    runs = agents.folder / "data" / "runs"
    files = {path.name for path in runs.iterdir()}
    assert eval(kernel.value("gone = %agent runs --prune --yes\ngone.run_ids")) == would
    assert eval(kernel.value(listed)) == sorted(set(before) - set(would))
    assert {path.name for path in runs.iterdir()} == {name for name in files if name[:10] not in would} != files


# --- the ends of a kernel's work that it has time for ---

UNDER_WAY = """
import flyteagent_nb
from scripted_tasks import until
workspace = flyteagent_nb.get_workspace()
runs = [flyteagent_nb.submit(numbers, x=x) for x in range(3)]
until(lambda: all(run.message == "it goes on" for run in runs))
[run.id for run in runs]
"""


def begun(kernel: Kernel) -> list[str]:
    on_path(kernel)
    kernel.ok(LOAD)
    kernel.ok(AGENT)
    kernel.ok(TASKS)
    return list(eval(kernel.value(UNDER_WAY)))


@pytest.mark.slow
def test_unloaded_and_loaded_again_in_one_kernel(new_kernel: NewKernel, tmp_path: Path) -> None:
    kernel = new_kernel(**environment(tmp_path))
    ids = begun(kernel)
    began = time.monotonic()
    assert "3 runs were under way" in kernel.ok("%unload_ext flyteagent_nb").stdout
    assert time.monotonic() - began < 2
    assert len(jobs(tmp_path)) == 3
    assert "left running" in kernel.value("runs[0].exception(30)")
    cell = kernel.ok(LOAD)
    assert "3 runs of earlier kernels are still open" in cell.stdout
    kernel.ok(AGENT.replace("self.created = 0", "self.created = 0; agent = self"))
    go(tmp_path)
    assert (
        kernel.value("runs = %agent attach --all\n[await run for run in reversed(runs)]") == "[[0, 1], [1, 2], [2, 3]]"
    )
    assert kernel.value("agent.created") == "0"
    assert kernel.value("sorted(run.id for run in runs)") == str(sorted(ids))


CLOCK = "import atexit, os, time; atexit.register(lambda: open(os.environ['FA_JOBS'] + '/{}', 'w').write(str(time.monotonic())))"


@pytest.mark.slow
@pytest.mark.parametrize("on_close", ["leave", "delete"])
def test_a_shutdown_in_the_middle_of_runs(new_kernel: NewKernel, tmp_path: Path, on_close: str) -> None:
    kernel = new_kernel(**environment(tmp_path), FLYTEAGENT_NB_ON_CLOSE=on_close)
    kernel.ok(CLOCK.format("after"))  # what is registered first comes last
    begun(kernel)
    kernel.ok(CLOCK.format("before"))
    kernel.client.shutdown()
    until(lambda: not kernel.manager.is_alive())
    before, after = (float((tmp_path / "jobs" / name).read_text()) for name in ("before", "after"))
    assert len(jobs(tmp_path)) == (3 if on_close == "leave" else 0)
    later = new_kernel(**environment(tmp_path))
    on_path(later)
    said = later.ok(LOAD).stdout
    assert ("3 runs of earlier kernels are still open" in said) == (on_close == "leave")
    assert later.value("runs = %agent runs --all\nsorted({run.phase for run in runs})") == (
        "['RUNNING']" if on_close == "leave" else "['ABORTED']"
    )
    assert "Traceback" not in kernel.log, kernel.log
    assert after - before < 2


@pytest.mark.slow
def test_a_create_under_way_at_the_shutdown_is_on_record(new_kernel: NewKernel, tmp_path: Path) -> None:
    kernel = new_kernel(**environment(tmp_path))
    on_path(kernel)
    kernel.ok(LOAD)
    kernel.ok(
        AGENT.replace(
            '        if custom.get("hangs"):\n            threading.Event().wait()\n', "        time.sleep(0.4)\n"
        )
    )
    kernel.ok(TASKS)
    kernel.ok(
        "import flyteagent_nb\nfrom scripted_tasks import until\nruns = [flyteagent_nb.submit(numbers, x=x) for x in range(3)]\n"
        "until(lambda: agent.created == 3)"
    )
    kernel.client.shutdown()
    until(lambda: not kernel.manager.is_alive())
    after = new_kernel(**environment(tmp_path))
    on_path(after)
    after.ok(LOAD)
    after.ok(AGENT)
    go(tmp_path)
    assert len(jobs(tmp_path)) == 3
    assert after.value("runs = %agent attach --all\nsorted([await run for run in runs])") == "[[0, 1], [1, 2], [2, 3]]"
