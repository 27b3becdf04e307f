"""``%agent sandbox`` in a real kernel: what a person writes and sees, and what is left however it ends."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from python_path import TESTS
from scripted_stand_in import running
from scripted_tasks import until

from kernel.harness import LOAD, Kernel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    NewKernel = Callable[..., Kernel]

pytestmark = pytest.mark.kernel

TOLD = "llmock 0.2.2, a stand-in for OpenAI"

VARIABLES = "import os; sorted(n for n in os.environ if 'OPENAI' in n or n == 'SCRIPTED_PORT')"

ASK = """
from flytekitplugins.openai import ChatGPTTask
ask = ChatGPTTask("ask", chatgpt_config={"model": "gpt-4o-mini"})
"""

SCRIPTED = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import flyteagent_nb
from flyteagent_nb.sandbox.sandboxes import Sandboxes
from scripted_stand_in import ScriptedStandIn
workspace = flyteagent_nb.get_workspace()
workspace.sandboxes = Sandboxes({{"openai": "scripted_stand_in:ScriptedStandIn"}})
"""
"""A cell: a scripted stand-in takes the place of OpenAI's."""


def folders(kernel: Kernel) -> list[Path]:
    """The folders of sandboxes in the kernel's temporary folder."""
    return [path for path in kernel.temporary.iterdir() if path.name.startswith("fa-sandbox-")]


def server_of(kernel: Kernel, sent: str = "") -> int:
    """The pid of the server that runs, or that the cell ``sent`` starts."""
    try:
        pids = until(lambda: [(f / "pid").read_text() for f in folders(kernel) if (f / "pid").exists()])
    except AssertionError:
        cell = kernel.finish(sent, limit=1) if sent else ""
        raise AssertionError(f"no server was started:\n{cell}\n{kernel.log}") from None
    return int(pids[0])


@pytest.fixture
def kernel(new_kernel: NewKernel) -> Kernel:
    kernel = new_kernel(OPENAI_API_KEY="the user's")
    kernel.ok(LOAD)
    return kernel


def test_from_start_to_stop(kernel: Kernel) -> None:
    pytest.importorskip("flytekitplugins.openai")  # it has no release that Python 3.13 can import
    cell = kernel.ok("%agent sandbox")
    assert {"text/plain", "text/html"} == set(cell.result)
    assert cell.text.count("○ stopped") == 3 and "llmock for OpenAI" in cell.text

    cell = kernel.ok("started = %agent sandbox openai\nstarted")
    for told in ("● running", "127.0.0.1:", "not OpenAI itself", "chatgpt, openai-batch", "it differs"):
        assert told in cell.text and told in cell.result["text/html"]
    assert cell.stdout == "" and kernel.value("started.status.version") == "'0.2.2'"
    assert kernel.value(VARIABLES) == "['OPENAI_API_KEY', 'OPENAI_BASE_URL', '_FSEC_FLYTE_OPENAI_API_KEY']"

    kernel.ok(ASK)
    kernel.ok("%agent run ask message='How high is the moon?' -o answer -r run")
    assert "How high is the moon?" in kernel.value("answer") and kernel.value("run.snapshot.stand_in") == repr(TOLD)
    cell = kernel.ok("ask(message='And the sun?')")  # a plain call
    assert "And the sun?" in cell.text
    for line in ("%agent show last", "run"):
        shown = kernel.ok(line).shown
        assert TOLD in shown["text/plain"] and TOLD in shown["text/html"]
    assert kernel.ok("%agent runs").text.count("chatgpt (stand-in)") == 2
    panel = kernel.ok("panel = %agent\npanel").shown
    assert "stand-in" in panel["text/plain"] and TOLD in panel["text/html"]
    assert "● running" in kernel.value("%agent sandbox openai status")

    assert "no tables" in kernel.fails("%agent sandbox openai --table prompts=answer").error

    assert "OpenAI again" in kernel.value("%agent sandbox openai stop")
    assert kernel.value(VARIABLES) == "['OPENAI_API_KEY']"
    assert kernel.value("os.environ['OPENAI_API_KEY']") == '"the user\'s"'
    assert "nothing" in kernel.value("%agent sandbox stop")
    assert folders(kernel) == []


@pytest.mark.slow
def test_a_failing_run_names_what_it_ran_on(kernel: Kernel) -> None:
    kernel.ok("%agent sandbox openai start")
    kernel.ok(
        "from flytekitplugins.openai import BatchEndpointTask\nbatch = BatchEndpointTask(name='batch', config={})"
    )
    error = kernel.fails("%agent run batch input_file_id='file-of-nobody'").error
    assert "Input file 'file-of-nobody' not found." in error
    assert error.splitlines()[-2] == f"it ran on {TOLD}: %agent sandbox tells what that does not do"


def test_the_stop_button_ends_a_start_cleanly(kernel: Kernel) -> None:
    kernel.ok(SCRIPTED + "ScriptedStandIn.words = ('silent', 'child')")
    sent = kernel.start("%agent sandbox openai")
    pid = server_of(kernel, sent)
    kernel.interrupt()
    cell = kernel.finish(sent)
    assert cell.status == "error" and cell.ename == "TaskStopped"
    assert "the Scripted sandbox was not started" in cell.error
    assert not running(pid) and folders(kernel) == []
    assert kernel.value(VARIABLES) == "['OPENAI_API_KEY']"
    kernel.ok("ScriptedStandIn.words = ()")
    assert "● running" in kernel.value("%agent sandbox openai")  # and it can be started after it


@pytest.mark.slow
def test_the_stop_button_in_a_cell_that_awaits(kernel: Kernel) -> None:
    kernel.ok(SCRIPTED + "ScriptedStandIn.words = ('silent',)")
    sent = kernel.start("import asyncio\nawait asyncio.sleep(0)\n%agent sandbox openai")
    pid = server_of(kernel, sent)
    kernel.interrupt()
    cell = kernel.finish(sent)
    assert cell.status == "error"
    assert not running(pid) and folders(kernel) == []
    assert kernel.value("1 + 1") == "2"


@pytest.mark.slow
def test_a_start_that_fails_says_why(kernel: Kernel) -> None:
    kernel.ok(SCRIPTED + "ScriptedStandIn.words = ('dies',)")
    error = kernel.fails("%agent sandbox openai").error
    assert "no such luck" in error and "Traceback" not in error
    assert folders(kernel) == []


def test_tables_are_made_of_variables_and_files(kernel: Kernel) -> None:
    kernel.ok(SCRIPTED + "rows = [1, 2, 3]\nopen('orders.csv', 'w').close()")
    assert "no such name" in kernel.fails("%agent sandbox openai --table refused=rows").error
    assert "○ stopped" in kernel.value("%agent sandbox openai status")  # nothing was started for it
    text = kernel.value(
        "%agent sandbox openai --table shop.orders=rows --table more='orders.csv' --table bare=orders.csv"
    )
    assert "shop.orders, 3 rows" in text and "more, 10 rows" in text and "bare, 10 rows" in text
    for line, told in (
        ("--table t=nothing", "there is no variable nothing"),
        ("--table t=nofile.csv", "there is no file nofile.csv in "),
        ("--table t=nofile.jsonl.gz", "there is no file nofile.jsonl.gz in "),
        ("--table t=rows.csv", "rows has no attribute csv"),
        ("--table t", "t has no value"),
        ("stop --table t=rows", "--table needs a sandbox"),
    ):
        assert told in kernel.fails(f"%agent sandbox openai {line}").error
    assert kernel.completed("%agent sandbox openai --table t=row") == ["%agent sandbox openai --table t=rows"]
    assert kernel.completed("%agent sandbox op") == ["%agent sandbox openai"]
    offered = kernel.completed("%agent sandbox openai st")
    assert sorted(offered) == [f"%agent sandbox openai {word}" for word in ("start", "status", "stop")]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["unload", "restart", "exit", "kill"])
def test_the_end_of_the_extension_or_the_kernel_ends_it(kernel: Kernel, how: str) -> None:
    kernel.ok(SCRIPTED + "ScriptedStandIn.words = ('child',)")
    kernel.ok("%agent sandbox openai")
    pid = server_of(kernel)
    assert running(pid)
    if how == "unload":
        kernel.ok("%unload_ext flyteagent_nb")
        assert kernel.value(VARIABLES) == "['OPENAI_API_KEY']"
    elif how == "restart":
        kernel.restart()
    elif how == "exit":
        kernel.start("exit()")
        until(lambda: not kernel.manager.is_alive())
    else:
        os.kill(kernel.pid, signal.SIGKILL)
    until(lambda: not running(pid) and folders(kernel) == [])


@pytest.mark.slow
def test_two_kernels_at_once_have_a_sandbox_each(kernel: Kernel, new_kernel: NewKernel) -> None:
    other = new_kernel()
    other.ok(LOAD)
    for each in (kernel, other):
        each.ok("%agent sandbox openai")
        each.ok(ASK)
    one, two = (each.value("import os; os.environ['OPENAI_BASE_URL']") for each in (kernel, other))
    assert one != two
    kernel.ok("%agent sandbox openai stop")
    assert "still" in other.value("ask(message='still there?')")
