"""Airflow's own operators and sensors in a real kernel, through the unmodified connector of flytekitplugins-airflow.

They need no database of Airflow's: a connection comes from a variable (AIRFLOW_CONN_*), and AIRFLOW_HOME is a folder of the test's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kernel.harness import Kernel
from scripted_tasks import until

from connectors.cells import START
from connectors.environments import VARIABLE, interpreter, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connector_services import Answers

PYTHON = interpreter("airflow")
MISSING = (
    why_not("airflow") or f"{VARIABLE} names no airflow: cd tests && python -m connectors.environments FOLDER makes it"
)

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(not PYTHON, reason=MISSING)]

OPERATORS = """
import os
from airflow.operators.bash import BashOperator
from airflow.operators.python import PythonOperator
from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.http.sensors.http import HttpSensor
from airflow.sensors.filesystem import FileSensor
from flytekitplugins.airflow import AirflowObj, AirflowTask

def operator_task(cls, task_id, **parameters):
    '''A task to run later; an operator that is made outside of a workflow runs at once.'''
    modules = {
        "BashOperator": "airflow.operators.bash",
        "FileSensor": "airflow.sensors.filesystem",
        "HttpOperator": "airflow.providers.http.operators.http",
        "HttpSensor": "airflow.providers.http.sensors.http",
    }
    return AirflowTask(task_id, AirflowObj(modules[cls], cls, {"task_id": task_id, **parameters}))
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("kernel")
    env = {
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW_CONN_FS_DEFAULT": "fs://",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    with Kernel(folder, env, PYTHON) as kernel:
        kernel.ok(START)
        kernel.ok(OPERATORS)
        # The first poll of all imports Google's providers, for a log link.
        kernel.ok("BashOperator(task_id='first', bash_command='true')")
        yield kernel
        assert "Traceback" not in kernel.log, kernel.log


def logs(kernel: Kernel) -> str:
    """What the agent printed and logged for the newest run."""
    return kernel.ok("print(logged(runs()[0]))").stdout


@pytest.fixture
def http(kernel: Kernel, web: Answers) -> Answers:
    """The service that Airflow's connection ``http_default`` leads to."""
    kernel.ok(f"os.environ['AIRFLOW_CONN_HTTP_DEFAULT'] = {web.url!r}")
    return web


def test_it_is_served_like_any_other(kernel: Kernel) -> None:
    row = next(line for line in kernel.value("%agent types").splitlines() if line.startswith("airflow "))
    assert row.split("  ")[0] == "airflow" and "async" in row and "flytekitplugins-airflow 1.16.31" in row


# --- BashOperator ---


@pytest.mark.parametrize(
    "call",
    [
        "BashOperator(task_id='say', bash_command={command!r})",
        "@workflow\ndef wf():\n    BashOperator(task_id='say', bash_command={command!r})\nwf()",
        "say = operator_task('BashOperator', 'say', bash_command={command!r})\n%agent run say",
        "%%agent_task\noperator_task('BashOperator', 'say', bash_command={command!r})",
    ],
    ids=["plain call", "workflow", "%agent run", "%%agent_task"],
)
def test_a_command_runs_and_what_it_prints_is_the_run_s(kernel: Kernel, tmp_path: Path, call: str) -> None:
    done = tmp_path / "done"
    cell = kernel.ok(call.format(command=f"echo to stdout; echo to stderr >&2; echo $((6 * 7)) >{done}"))
    assert done.read_text() == "42\n"
    assert cell.stdout == ""  # nothing of it in the cell
    assert "SubprocessHook: to stdout" in logs(kernel) and "SubprocessHook: to stderr" in logs(kernel)
    assert kernel.value("runs()[0].name, runs()[0].task_type, runs()[0].phase") == "('say', 'airflow', 'SUCCEEDED')"


@pytest.mark.parametrize(
    "call",
    [
        "BashOperator(task_id='say', bash_command={command!r})",
        "@workflow\ndef wf():\n    BashOperator(task_id='say', bash_command={command!r})\nwf()",
        "say = operator_task('BashOperator', 'say', bash_command={command!r})\n%agent run say",
    ],
    ids=["plain call", "workflow", "%agent run"],
)
def test_a_command_that_fails_fails_the_cell_with_airflow_s_words(kernel: Kernel, call: str) -> None:
    cell = kernel.fails(call.format(command="echo the disk is full >&2; exit 3"))
    assert cell.error.startswith(
        "RunFailedError: task 'say' (airflow) failed: "
        "AirflowException: Bash command failed. The command returned a non-zero exit code 3.\n"
    )
    assert "the disk is full" in logs(kernel)


def test_retries_of_the_task_try_again(kernel: Kernel, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    kernel.ok(
        f"say = operator_task('BashOperator', 'say', bash_command='test -e {mark} || {{ touch {mark}; exit 1; }}')\n"
        "%agent run say --retries 1"
    )
    assert kernel.value("runs()[0].phase, runs()[0].attempt") == "('SUCCEEDED', 2)"


def test_a_workflow_stops_at_the_operator_that_fails(kernel: Kernel, tmp_path: Path) -> None:
    kernel.ok(
        "@workflow\ndef wf():\n"
        f"    one = BashOperator(task_id='one', bash_command='touch {tmp_path / 'one'}')\n"
        "    two = BashOperator(task_id='two', bash_command='exit 4')\n"
        f"    three = BashOperator(task_id='three', bash_command='touch {tmp_path / 'three'}')\n"
        "    one >> two >> three"
    )
    assert "task 'two' (airflow) failed: AirflowException" in kernel.fails("wf()").error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one"]


# --- sensors ---


@pytest.mark.parametrize(
    "call",
    [
        "FileSensor(task_id='wait', filepath={path!r})",
        "@workflow\ndef wf():\n    FileSensor(task_id='wait', filepath={path!r})\nwf()",
        "wait = operator_task('FileSensor', 'wait', filepath={path!r})\n%agent run wait",
    ],
    ids=["plain call", "workflow", "%agent run"],
)
def test_a_file_sensor_waits_for_the_file(kernel: Kernel, tmp_path: Path, call: str) -> None:
    path = str(tmp_path / "report")
    kernel.ok(f"appear({path!r})\n{call.format(path=path)}")
    assert kernel.value("[change.phase for change in runs()[0].phases][-2:]") == "['RUNNING', 'SUCCEEDED']"
    assert f"Found File {path}" in logs(kernel)


def test_a_sensor_in_the_background_is_cancelled(kernel: Kernel, tmp_path: Path) -> None:
    kernel.ok(
        f"wait = operator_task('FileSensor', 'wait', filepath={str(tmp_path / 'never')!r})\n%agent run wait -b -r run"
    )
    until(lambda: kernel.value("run.phase") == "'RUNNING'")
    kernel.ok("run.cancel()")
    assert kernel.fails("run.result(30)").ename == "RunAbortedError"


def test_the_stop_button_ends_a_sensor(kernel: Kernel, tmp_path: Path) -> None:
    cell = kernel.start(
        "def tell():\n    until(lambda: runs()[0].phase == 'RUNNING')\n    print('it waits', flush=True)\n"
        "threading.Thread(target=tell, daemon=True).start()\n"
        f"FileSensor(task_id='wait', filepath={str(tmp_path / 'never')!r})"
    )
    kernel.wait_for_output(cell, "it waits")
    kernel.interrupt()
    assert kernel.finish(cell).ename == "TaskStopped"
    assert kernel.value("runs()[0].cancelled") == "True"


def test_a_task_s_timeout_ends_a_sensor(kernel: Kernel, tmp_path: Path) -> None:
    kernel.ok(f"wait = operator_task('FileSensor', 'wait', filepath={str(tmp_path / 'never')!r})")
    cell = kernel.fails("%agent run wait --timeout 1s")
    assert cell.ename == "RunTimedOutError" and "task execution timeout [1s] expired" in cell.error


def test_an_http_sensor_waits_for_the_page(kernel: Kernel, http: Answers) -> None:
    cell = kernel.start("HttpSensor(task_id='page', endpoint='/ready')")
    until(lambda: len(http.asked) >= 2)
    http.by_request["GET /ready"] = (200, "here")
    assert kernel.finish(cell).status == "ok"
    assert set(http.asked) == {"GET /ready"} and kernel.value("runs()[0].phase") == "'SUCCEEDED'"


@pytest.mark.parametrize(
    "call",
    [
        "HttpSensor(task_id='page', endpoint='/')",
        "page = operator_task('HttpSensor', 'page', endpoint='/')\n%agent run page",
    ],
    ids=["plain call", "%agent run"],
)
def test_a_page_that_fails_ends_an_http_sensor_with_its_status(kernel: Kernel, http: Answers, call: str) -> None:
    http.by_request["GET /"] = (503, "closed for today")
    kernel.ok("%config FlyteAgentNB.poll_failure_limit = 0.1")
    error = kernel.fails(call).error
    assert error.startswith("RunFailedError: task 'page' (airflow) failed: AirflowException: 503:Service Unavailable\n")
    assert len(http.asked) >= 5  # each was a poll
    assert "closed for today" in logs(kernel)


def test_a_connection_that_nobody_defined_is_named(kernel: Kernel, tmp_path: Path) -> None:
    kernel.ok("%config FlyteAgentNB.poll_failure_limit = 0.1")
    error = kernel.fails("FileSensor(task_id='wait', filepath='/', fs_conn_id='nowhere')").error
    assert "AirflowNotFoundException: The conn_id `nowhere` isn't defined" in error


def test_file_page_and_command_one_after_the_other(kernel: Kernel, http: Answers, tmp_path: Path) -> None:
    http.by_request["GET /ready"] = (200, "here")
    path, done = tmp_path / "report", tmp_path / "done"
    kernel.ok(
        "@workflow\ndef wf():\n"
        f"    file = FileSensor(task_id='file', filepath={str(path)!r})\n"
        "    page = HttpSensor(task_id='page', endpoint='/ready')\n"
        f"    command = BashOperator(task_id='command', bash_command='cp {path} {done}')\n"
        "    file >> page >> command"
    )
    for _ in range(2):  # and again: what the connector remembers of the first does not reach the notebook
        kernel.ok(f"appear({str(path)!r})\nwf()")
        assert done.exists()
        assert kernel.value("[run.name for run in runs()[:3]]") == "['command', 'page', 'file']"
        path.unlink()
        done.unlink()
    assert http.asked == ["GET /ready"] * 2


# --- a deferrable operator, which the connector follows by its trigger ---


def test_a_deferrable_operator(kernel: Kernel, http: Answers) -> None:
    http.by_request["GET /now"] = (200, "here")
    kernel.ok("HttpOperator(task_id='ask', endpoint='/now', method='GET')")
    assert http.asked == ["GET /now"]
    error = kernel.fails("HttpOperator(task_id='ask', endpoint='/gone', method='GET')").error
    assert error.startswith(
        "RunFailedError: task 'ask' (airflow) failed: Unexpected error in the operation: 404:Not Found\n"
    )


JOB = """
import asyncio
from airflow.models.baseoperator import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

ended, killed = threading.Event(), []

class Ended(BaseTrigger):
    def serialize(self):
        return "__main__.Ended", {}
    async def run(self):
        while not ended.is_set():
            await asyncio.sleep(0.01)
        yield TriggerEvent("all is well")

class Job(BaseOperator):
    def execute(self, context):
        self.defer(trigger=Ended(), method_name="tell")
    def tell(self, context, event):
        print("it ended:", event)
    def on_kill(self):
        killed.append(self)
"""
"""A deferrable operator of the notebook; ``on_kill`` is how Airflow has a job stopped."""


def test_an_operator_of_the_notebook_is_followed_by_its_trigger(kernel: Kernel) -> None:
    kernel.ok(JOB)
    kernel.ok("job = AirflowTask('job', AirflowObj('__main__', 'Job', {'task_id': 'job'}))\n%agent run job -b -r run")
    until(lambda: kernel.value("run.phase") == "'RUNNING'")
    kernel.ok("ended.set()\nrun.result(30)")
    assert "it ended: all is well" in logs(kernel)


# --- faults of flytekitplugins-airflow 1.16.31: a test that fails here tells that one is mended ---


def test_fault_a_lambda_is_dropped_without_a_word(kernel: Kernel, http: Answers) -> None:
    http.by_request["GET /"] = (200, "not yet")
    kernel.ok("HttpSensor(task_id='page', endpoint='/', response_check=lambda response: 'done' in response.text)")
    assert len(http.asked) == 1  # it has succeeded at once
    error = kernel.fails("PythonOperator(task_id='call', python_callable=lambda: 1)").error
    assert "AirflowException: missing keyword argument 'python_callable'" in error


def test_fault_a_function_of_the_notebook_goes_by_its_name_only(kernel: Kernel, http: Answers) -> None:
    kernel.ok("def is_done(response):\n    return 'done' in response.text")
    kernel.ok("page = operator_task('HttpSensor', 'page', endpoint='/', response_check=is_done)")
    assert '\\"py/function\\": \\"__main__.is_done\\"' in kernel.value("%agent run page --dry-run")


def test_fault_a_trigger_is_begun_anew_by_each_poll(kernel: Kernel, http: Answers) -> None:
    http.go.clear()
    kernel.ok("ask = operator_task('HttpOperator', 'ask', endpoint='/order', method='POST')\n%agent run ask -b -r run")
    until(lambda: len(http.asked) == 2)  # each poll waits 2 s
    assert http.asked == ["POST /order"] * 2
    assert kernel.value("run.phase") == "'RUNNING'"


def test_fault_a_sensor_s_own_timeout_counts_for_nothing(kernel: Kernel, tmp_path: Path) -> None:
    kernel.ok(
        f"wait = operator_task('FileSensor', 'wait', filepath={str(tmp_path / 'never')!r}, timeout=0.01, poke_interval=30)\n"
        "%agent run wait -b -r run"
    )
    # Three looks, far within its poke_interval and long after its timeout.
    until(lambda: kernel.value("logged(run).count('Poking') > 2") == "True")
    assert kernel.value("run.phase") == "'RUNNING'"


def test_fault_templates_are_not_rendered(kernel: Kernel) -> None:
    kernel.ok("BashOperator(task_id='say', bash_command='echo today is {{ ds }}')")
    assert "today is {{ ds }}" in logs(kernel)


def test_fault_a_command_runs_within_the_create_and_holds_the_loop(kernel: Kernel) -> None:
    kernel.ok("%config FlyteAgentNB.deadlines = {'CreateTask': 0.5}")
    error = kernel.fails("BashOperator(task_id='slow', bash_command='sleep 1')").error
    assert "CreateTask took more than its deadline, 0.5 s" in error
    assert "outcome unknown" in " ".join(kernel.value("runs()[0].snapshot.notes").split())


def test_fault_an_operator_in_a_dag_runs_at_once_and_joins_the_dag_itself(kernel: Kernel) -> None:
    kernel.ok("%config FlyteAgentNB.poll_failure_limit = 0.1")
    error = kernel.fails(
        "import datetime\nfrom airflow import DAG\n"
        "with DAG('d', schedule=None, start_date=datetime.datetime(2024, 1, 1)):\n"
        "    BashOperator(task_id='inside', bash_command='true')"
    ).error
    assert "DuplicateTaskIdFound: Task id 'inside' has already been added to the DAG" in error


def test_fault_cancelling_stops_nothing_outside(kernel: Kernel) -> None:
    kernel.ok(JOB)
    kernel.ok("job = AirflowTask('job', AirflowObj('__main__', 'Job', {'task_id': 'job'}))\n%agent run job -b -r run")
    until(lambda: kernel.value("run.phase") == "'RUNNING'")
    kernel.ok("run.cancel()")
    assert kernel.fails("run.result(30)").ename == "RunAbortedError"
    assert kernel.value("killed") == "[]"
