"""flytekit's own connectors, `webhook` and `sensor`, in a real kernel, against a real server and real files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from kernel.harness import Kernel
from scripted_tasks import until

from connectors.cells import START

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connector_services import Answers

pytestmark = pytest.mark.kernel

TASKS = """
from datetime import datetime, timedelta
from flytekit.extras.webhook import WebhookTask
from flytekit.sensor.base_sensor import BaseSensor
from flytekit.sensor.file_sensor import FileSensor

wait_for = FileSensor(name="wait_for")

class Third(BaseSensor):
    looks = 0
    def __init__(self, name, **kwargs):
        super().__init__(name=name, **kwargs)
    async def poke(self) -> bool:
        Third.looks += 1
        print("look", Third.looks)
        return Third.looks == 3

class Broken(Third):
    async def poke(self, x: int) -> bool:
        raise ValueError("not today")

class Dated(Third):
    async def poke(self, at: datetime) -> bool:
        return True
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with Kernel(tmp_path_factory.mktemp("kernel"), {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}) as kernel:
        kernel.ok(START)
        kernel.ok(TASKS)
        yield kernel
        assert "Traceback" not in kernel.log, kernel.log


# --- webhook ---


def webhook(web: Answers, path: str = "/", *more: str, **options: object) -> str:
    """A cell's text that makes such a task; ``more`` are arguments as text."""
    given = ["name='hook'", f"url={web.url + path!r}", *more, *(f"{name}={value!r}" for name, value in options.items())]
    return f"WebhookTask({', '.join(given)})"


def test_a_post_sends_its_inputs_in_address_headers_and_body(kernel: Kernel, web: Answers) -> None:
    web.by_request["POST /"] = (200, {"taken": True})
    task = webhook(
        web,
        "/{inputs.place}",
        "dynamic_inputs=dict(place=str, who=str, n=int)",
        headers={"X-Who": "{inputs.who}"},
        data={"n": "{inputs.n}", "deep": {"who": ["{inputs.who}"]}, "plain": True},
        show_data=True,
        show_url=True,
    )
    told = json.loads(kernel.ok(f"import json\nprint(json.dumps({task}(place='a b', who='ann', n=3)))").stdout)
    body = {"n": 3, "deep": {"who": ["ann"]}, "plain": True}
    assert told == {
        "status_code": 200,
        "response_data": '{"taken": true}',
        "input_data": body,
        "url": f"{web.url}/a b",
    }
    (headers, sent), request = web.received[0], web.asked[0]
    assert request == "POST /a%20b" and headers["X-Who"] == "ann" and json.loads(sent) == body


def test_a_get_sends_its_data_in_the_address_and_shows_only_what_it_is_asked_for(kernel: Kernel, web: Answers) -> None:
    web.by_request["GET /"] = (200, "yes")
    kernel.ok("answer = " + webhook(web, method="GET", data={"q": "a b"}) + "()")
    assert kernel.value("answer") == """{'status_code': 200, 'response_data': '"yes"'}"""
    assert web.asked == ["GET /?q=a+b"]


@pytest.mark.parametrize("status", [201, 404, 500])
def test_another_status_than_200_fails_with_the_service_s_words(kernel: Kernel, web: Answers, status: int) -> None:
    web.by_request["POST /"] = (status, {"reason": "full moon"})
    error = kernel.fails(webhook(web) + "()").error
    assert error.startswith(
        f"RunFailedError: task 'hook' (webhook) failed: Webhook failed with status code {status}, "
        'response: {"reason": "full moon"}\n'
    )
    assert ("known fault" in error) == (status == 201)
    assert len(web.asked) == 1


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("WebhookTask(name='hook', url='nonsense')()", "Request URL is missing an 'http://' or 'https://' protocol."),
        ("WebhookTask(name='hook', url='http://127.0.0.1/{inputs.no}')()", "Could not find the key no in {}."),
    ],
)
def test_what_never_goes_out_says_why(kernel: Kernel, task: str, words: str) -> None:
    assert kernel.fails(task).error.startswith(f"RunFailedError: task 'hook' (webhook) failed: {words}\n")


def test_a_service_that_is_not_there(kernel: Kernel, web: Answers) -> None:
    kernel.ok("import socket\nnobody = socket.socket()\nnobody.bind(('127.0.0.1', 0))")  # bound, and not listening
    cell = "WebhookTask(name='hook', url=f'http://127.0.0.1:{nobody.getsockname()[1]}/')()"
    assert "All connection attempts failed" in kernel.fails(cell).error


def test_its_timeout_ends_it(kernel: Kernel, web: Answers) -> None:
    web.go.clear()
    kernel.ok("began = __import__('time').monotonic()")
    error = kernel.fails(webhook(web, "/", "timeout=timedelta(seconds=0.2)") + "()").error
    assert error.startswith("RunFailedError: task 'hook' (webhook) failed:")
    assert web.asked == ["POST /"]
    assert kernel.value("__import__('time').monotonic() - began < 5") == "True"  # and not the deadline of 10 s


def test_the_deadline_of_the_call_ends_a_longer_timeout(kernel: Kernel, web: Answers) -> None:
    web.go.clear()
    kernel.ok("%config FlyteAgentNB.deadlines = {'ExecuteTaskSync': 0.5}")
    error = kernel.fails(webhook(web, timeout=60) + "()").error
    assert "ExecuteTaskSync took more than its deadline, 0.5 s" in error


def test_a_workflow_calls_a_webhook_once_a_file_is_there(kernel: Kernel, web: Answers, tmp_path: Path) -> None:
    web.by_request["POST /"] = (200, "seen")
    kernel.ok(
        f"hook = {webhook(web)}\n"
        "@workflow\ndef told(path: str) -> dict:\n"
        "    there = wait_for(path=path)\n    info = hook()\n    there >> info\n    return info"
    )
    path = str(tmp_path / "report")
    assert "'status_code': 200" in kernel.value(f"appear({path!r})\ntold(path={path!r})")
    assert kernel.value("[(run.name, run.phase) for run in runs()[:2]]") == (
        "[('hook', 'SUCCEEDED'), ('wait_for', 'SUCCEEDED')]"
    )


# --- sensor ---


def test_a_file_sensor_waits_for_the_file(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "report"
    kernel.ok(f"%agent run wait_for path={str(path)!r} -b -r run")
    until(lambda: kernel.value("run.phase") == "'RUNNING'")
    path.touch()
    assert kernel.value("run.result(30), run.phase") == "(None, 'SUCCEEDED')"


def test_a_plain_call_waits_too(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "report"
    kernel.ok(f"appear({str(path)!r})\nwait_for(path={str(path)!r})")
    assert (
        path.exists()
        and kernel.value("[change.phase for change in runs()[0].phases][-2:]") == "['RUNNING', 'SUCCEEDED']"
    )


def test_cancel(kernel: Kernel, tmp_path: Path) -> None:
    kernel.ok(f"%agent run wait_for path={str(tmp_path / 'never')!r} -b -r run")
    until(lambda: kernel.value("run.phase") == "'RUNNING'")
    kernel.ok("run.cancel()")
    assert "was cancelled" in kernel.fails("run.result(30)").error
    assert kernel.value("run.cancelled") == "True"


@pytest.mark.parametrize("timeout", ["1", "timedelta(seconds=1)"])
def test_a_sensor_s_own_timeout_ends_it(kernel: Kernel, tmp_path: Path, timeout: str) -> None:
    cell = kernel.fails(f"FileSensor(name='short', timeout={timeout})(path={str(tmp_path / 'never')!r})")
    assert cell.ename == "RunTimedOutError"
    assert "task 'short' (sensor) failed: task execution timeout [1s] expired" in cell.error


def test_a_sensor_of_the_notebook(kernel: Kernel) -> None:
    kernel.ok("Third.looks = 0\nThird('third')()")
    assert kernel.value("runs()[0].logs()") == "['look 1', 'look 2', 'look 3']"


def test_a_sensor_that_raises_ends_with_its_own_words(kernel: Kernel) -> None:
    kernel.ok("%config FlyteAgentNB.poll_failure_limit = 0.1")
    error = kernel.fails("Broken('broken')(x=1)").error
    assert error.startswith("RunFailedError: task 'broken' (sensor) failed: ValueError: not today\n")


def test_an_input_that_json_cannot_carry_is_refused_at_once(kernel: Kernel) -> None:
    error = kernel.fails("Dated('dated')(at=datetime.now())").error
    assert "Object of type datetime is not JSON serializable" in error
