"""Loading and unloading: at once, in any order of imports, again and again, and without a trace."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from python_path import ROOT, with_plugins

from kernel.harness import LOAD, SCRIPTED, Kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    NewKernel = Callable[..., Kernel]

pytestmark = pytest.mark.kernel

UNLOAD = "%unload_ext flyteagent_nb"

HOOKS = """
import builtins, importlib.metadata, logging, signal, sys
import flytekit
from flytekit.core.array_node_map_task import ArrayNodeMapTask
from flytekit.core.base_task import PythonTask, Task
from flytekit.core.context_manager import FlyteContextManager
from flytekit.core.workflow import WorkflowBase
from flytekit.extend.backend.base_connector import (
    AsyncConnectorExecutorMixin, ConnectorRegistry, SyncConnectorExecutorMixin
)

def stream(it):
    return it, type(it), it.write.__qualname__, sorted(vars(it))  # IPython gives it a new write for each cell

def hooks():
    '''Every place where a hook could be, and what is there.'''
    ip = get_ipython()
    found = {
        "line magics": dict(ip.magics_manager.magics["line"]),
        "cell magics": dict(ip.magics_manager.magics["cell"]),
        "magic classes": set(ip.magics_manager.registry),
        "custom exceptions": ip.custom_exceptions,
        "custom traceback": ip.CustomTB,
        "matchers": list(ip.Completer.custom_matchers),
        "events": {name: list(callbacks) for name, callbacks in ip.events.callbacks.items()},
        "ipython_display": set(ip.display_formatter.ipython_display_formatter.type_printers),
        "transformers": list(ip.input_transformers_cleanup),
        "configurables": list(ip.configurables),
        "system": ip.__dict__.get("system"),
        "stdout": stream(sys.stdout),
        "stderr": stream(sys.stderr),
        "logging": logging.Logger.callHandlers,
        "import": (builtins.__import__, list(sys.meta_path), importlib.metadata.EntryPoints.select),
        "register": ConnectorRegistry.__dict__["register"],
        "sigint": signal.getsignal(signal.SIGINT),
    }
    for owner in (Task, PythonTask, WorkflowBase, ArrayNodeMapTask, FlyteContextManager, AsyncConnectorExecutorMixin,
                  SyncConnectorExecutorMixin):
        found[owner.__name__] = dict(vars(owner))
    return found

def changed(before):
    now = hooks()
    return sorted(name for name in before if now[name] != before[name])
"""

WEBHOOK = """
import http.server, threading
from flytekit.extras.webhook import WebhookTask

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"hello")
    def log_message(self, *a): pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
hook = WebhookTask(name="hook", url=f"http://127.0.0.1:{server.server_port}/", method="GET", show_data=True)
"""


def told(kernel: Kernel, expression: str) -> Any:
    """The value of an expression that JSON can carry."""
    return json.loads(kernel.ok(f"import json; print(json.dumps({expression}))").stdout)


def test_it_loads_at_once_and_the_next_cell_may_register_and_call(new_kernel: NewKernel) -> None:
    kernel = new_kernel(PYTHONPATH=with_plugins(ROOT))
    # In one cell: what `%load_ext` began goes on while the cell does.
    cell = kernel.ok(f"{LOAD}\nimport flyteagent_nb\nflyteagent_nb.get_workspace().state")
    assert cell.text == "'starting'"
    assert cell.stdout.count("\n") == 1 and cell.stdout.startswith("flyteagent_nb ")
    assert cell.kinds == ["stream", "execute_result"] and not cell.stderr
    # While flytekit is imported in the background: parts of it, an agent, a plain task and a call.
    assert not kernel.ok(SCRIPTED).outputs
    kernel.ok(
        "from flytekit import task\nimport pandas as pd\n"
        "@task\ndef double(a: int) -> int:\n    return 2 * a\n"
        "@task\ndef frame(a: int) -> pd.DataFrame:\n    return pd.DataFrame({'a': [a]})"
    )
    assert kernel.value("scripted_task('echo', inputs={'x': str}, outputs={'x': str})(x='hi')") == "'hi'"
    assert kernel.value("double(a=2), len(frame(a=1))") == "(4, 1)"
    assert "Traceback" not in kernel.log


@pytest.mark.slow
def test_an_agent_may_be_registered_in_the_very_cell_that_loads(new_kernel: NewKernel) -> None:
    kernel = new_kernel()
    assert kernel.value(f"{LOAD}\n{SCRIPTED}\nscripted_task('noop')()\nruns = %agent runs\nlen(runs)") == "1"


def test_it_may_be_loaded_while_something_else_opens_it(new_kernel: NewKernel) -> None:
    kernel = new_kernel()
    cell = kernel.ok(f"import flyteagent_nb\nspace = flyteagent_nb.get_workspace()\nspace.open()\n{LOAD}\nspace.state")
    assert cell.text == "'starting'"
    kernel.ok(SCRIPTED)
    assert kernel.value("scripted_task('noop')()\nruns = %agent runs\nlen(runs)") == "1"


def test_loading_twice_says_so_and_changes_nothing(kernel: Kernel) -> None:
    cell = kernel.ok(LOAD)
    assert "already loaded" in cell.stdout
    assert kernel.value("scripted_task('noop')()") == ""


def test_unloading_puts_everything_back_and_loading_works_again(new_kernel: NewKernel) -> None:
    kernel = new_kernel(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
    kernel.ok(HOOKS)  # flytekit is imported first here
    kernel.ok("%reload_ext storemagic")  # IPython loads the magics for extensions with the first of them
    kernel.ok("def mine(shell, kind, error, tb, tb_offset=None):\n    print('mine:', error)")
    kernel.ok("get_ipython().set_custom_exc((ZeroDivisionError,), mine)\nclean = hooks()")
    kernel.ok(WEBHOOK)
    for before in ("", "import flyteagent_nb\nassert flyteagent_nb.submit(hook).result()['status_code'] == 200"):
        kernel.ok(before)
        kernel.ok(LOAD)
        assert kernel.value("hook()['status_code']") == "200"
        assert "mine: division" in kernel.run("1/0").stdout  # what had IPython's one slot is still asked
        loaded = set(told(kernel, "changed(clean)"))
        assert loaded >= {
            "line magics", "cell magics", "magic classes", "custom exceptions", "custom traceback", "matchers", "events",
            "transformers", "configurables", "stdout", "stderr", "logging", "register",
            "Task", "ArrayNodeMapTask", "FlyteContextManager", "AsyncConnectorExecutorMixin", "SyncConnectorExecutorMixin",
        }  # fmt: skip
        assert kernel.ok(UNLOAD).outputs == []
        assert told(kernel, "changed(clean)") == []
    kernel.ok(LOAD)
    assert kernel.ok("%reload_ext flyteagent_nb").stdout.count("flyteagent_nb ") == 1
    assert kernel.value("hook()['status_code']") == "200"


PRESSED = """
import os, signal

sandboxes, pressed = flyteagent_nb.get_workspace().sandboxes, False
close = sandboxes.close

def press():
    global pressed
    if not pressed:
        pressed = True
        os.kill(os.getpid(), signal.SIGINT)
    flyteagent_nb.get_workspace().notice("warning: agent 'A\\x1b[2J'")
    close()

sandboxes.close = press
"""
"""A cell: the stop button is pressed in the middle of the next unload, which comes to its end all the same."""


def test_unloading_with_runs_under_way_says_so_and_leaves_their_jobs(new_kernel: NewKernel) -> None:
    kernel = new_kernel()
    kernel.ok(LOAD)
    kernel.ok(SCRIPTED)
    kernel.ok(
        "import flyteagent_nb\nrun = flyteagent_nb.submit(scripted_task(phases=['RUNNING']))\nuntil(lambda: scripted.open_jobs)"
    )
    kernel.ok(PRESSED)
    cell = kernel.ok(UNLOAD)
    assert "1 run was under way" in cell.stdout and "warning: agent 'A\ufffd[2J'" in cell.stderr
    assert (
        kernel.value("pressed, scripted.open_jobs, scripted.count('delete'), run.done") == "(True, ['job-1'], 0, True)"
    )
    told = kernel.value("str(run.error)")
    assert "the job, if any, was left running" in told and "%agent attach" in told and "%agent cancel" in told
    kernel.ok(LOAD)
    assert kernel.value("scripted_task('noop')()") == ""


@pytest.mark.slow
@pytest.mark.parametrize("first", ["import grpc.aio", "import pandas"])
def test_it_loads_whatever_was_imported_before(new_kernel: NewKernel, first: str) -> None:
    kernel = new_kernel()
    kernel.ok(first)
    assert kernel.ok(LOAD).kinds == ["stream"]
    assert not kernel.ok(SCRIPTED).outputs
    assert kernel.value("scripted_task('echo', inputs={'a': int}, outputs={'a': int})(a=3)") == "3"
    assert kernel.ok("!echo hi").stdout.strip() == "hi"
    kernel.ok(UNLOAD)
    assert kernel.ok("!echo hi").stdout.strip() == "hi"
