"""``%agent secret`` in a real kernel: asked without echo, used by an agent of the kernel, saved nowhere."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from python_path import ROOT, python_path

from kernel.harness import LIMIT, LOAD, Cell, Kernel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.kernel

VALUE = "sk-nobody-may-see-this"

ASKING = """
from flytekit.core.base_task import PythonTask
from flytekit.core.interface import Interface
from flytekit.extend.backend.base_connector import ConnectorRegistry, Resource, SyncConnectorBase
from flytekit.extend.backend.utils import get_connector_secret
from flyteidl.core.execution_pb2 import TaskExecution

class Asking(SyncConnectorBase):
    name = "Asking"
    def __init__(self):
        super().__init__(task_type_name="asking")
    def do(self, task_template, output_prefix, inputs=None, **kwargs):
        key = get_connector_secret(secret_key="asking_key")
        print("the key is", key)
        if (task_template.custom or {}).get("how") == "fails":
            raise ValueError(f"401: {key} is no good")
        return Resource(phase=TaskExecution.SUCCEEDED, outputs={"n": len(key)})

class AskingTask(PythonTask):
    def __init__(self, how=""):
        super().__init__("asking", "asking_task", interface=Interface(None, {"n": int}))
        self.how = how
    def get_custom(self, settings):
        return {"how": self.how}

ConnectorRegistry.register(Asking())
task, fails = AskingTask(), AskingTask("fails")
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("secret")
    with Kernel(folder, {"FLYTEAGENT_NB_DATA_FOLDER": str(folder / "data")}) as kernel:
        kernel.ok(LOAD)
        kernel.ok(ASKING)
        yield kernel
        assert VALUE not in kernel.log


def ask(kernel: Kernel, code: str, reply: str) -> tuple[Cell, dict[str, Any]]:
    """Run a cell in a front end with a person, who types ``reply``; also what the kernel asked."""
    message = kernel.client.execute(code, allow_stdin=True)
    kernel._cells[message] = Cell()
    until = time.monotonic() + LIMIT
    while True:
        try:
            asked = kernel.client.get_stdin_msg(timeout=1)
            break
        except queue.Empty:
            assert time.monotonic() < until and kernel.manager.is_alive(), "nobody was asked"
    kernel.client.input(reply)
    return kernel.finish(message), dict(asked["content"])


def test_it_is_asked_for_without_echo_and_an_agent_gets_it(kernel: Kernel) -> None:
    cell = kernel.fails("%agent run task")
    assert "Unable to find secret" in cell.error and "hint: %agent secret ASKING_KEY asks for it" in cell.error
    assert "%agent secret ASKING_KEY" in kernel.ok("%agent doctor asking").text
    cell, asked = ask(kernel, "%agent secret asking_key", VALUE)
    assert asked == {"prompt": "ASKING_KEY: ", "password": True}
    assert cell.status == "ok" and "child" in cell.text and "os.environ['_FSEC_ASKING_KEY']" in cell.text
    assert VALUE not in str(cell)
    assert kernel.value("%agent run task") == str(len(VALUE))
    assert kernel.ok("%agent logs last").text == "the key is ***"
    assert kernel.ok("%agent doctor asking").text.startswith("all is well")
    assert kernel.completed("%agent secret A") == ["%agent secret ASKING_KEY"]


def test_what_is_shown_and_saved_does_not_have_it(kernel: Kernel) -> None:
    ask(kernel, "%agent secret asking_key", VALUE)
    cell = kernel.fails("%agent run fails")
    assert "401: *** is no good" in cell.error
    told = [
        cell,
        *(kernel.ok(line) for line in ("%agent show last", "%agent logs last", "%agent runs", "%agent secret")),
    ]
    assert "ASKING_KEY  given to this kernel" in told[-1].text and kernel.value("_") == told[-1].text
    assert kernel.value("names = %agent secret\nlist(names)") == "['ASKING_KEY']"
    assert VALUE not in "".join(map(str, told))
    here = "[n for n, v in {**os.environ, **{k: str(v) for k, v in globals().items()}}.items() if 'nobody' + '-may' in str(v)]"
    assert kernel.value(f"import os\n{here}") == "[]"
    folder = kernel.value("import flyteagent_nb; str(flyteagent_nb.get_workspace().config.data_path)").strip("'")
    kernel.ok("flyteagent_nb.get_workspace().runner.journal.flush()")
    for path in (ROOT / folder).rglob("*"):
        assert not path.is_file() or VALUE.encode() not in path.read_bytes(), path


def test_a_child_does_not_inherit_it(kernel: Kernel) -> None:
    ask(kernel, "%agent secret asking_key", VALUE)
    assert "nobody-may" not in kernel.ok("!env").stdout
    child = (
        "subprocess.run([sys.executable, '-c', 'import os; print(os.environ)'], capture_output=True, text=True).stdout"
    )
    child = f"import subprocess, sys; {child}"
    assert "nobody-may" not in kernel.value(child)


def test_forgetting(kernel: Kernel) -> None:
    ask(kernel, "%agent secret asking_key", VALUE)
    assert "ASKING_KEY" in kernel.ok("%agent secret asking_key --forget").text
    assert "Unable to find secret" in kernel.fails("%agent run task").error
    assert "no secret ASKING_KEY" in kernel.fails("%agent secret asking_key --forget").error
    assert "no secrets" in kernel.ok("%agent secret").text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%agent secret K sk-oops-in-the-cell", "takes one name"),
        ("%agent secret K=sk-oops-in-the-cell", "no name of a secret"),
        ("%agent secret --forget", "needs the NAME"),
    ],
)
def test_a_line_that_does_not_do_is_not_repeated(kernel: Kernel, line: str, words: str) -> None:
    error = kernel.fails(line).error
    assert words in error and "sk-oops" not in error


def test_nothing_typed(kernel: Kernel) -> None:
    cell, _ = ask(kernel, "%agent secret empty", "  ")
    assert cell.status == "error" and "nothing was typed for EMPTY" in cell.error


def test_where_nobody_can_be_asked(kernel: Kernel) -> None:
    cell = kernel.fails("%agent secret asking_key")  # as nbclient and papermill run it
    assert "nobody can be asked for ASKING_KEY" in cell.error and "_FSEC_ASKING_KEY before the kernel" in cell.error
    assert cell.kinds == ["error"]


def test_a_short_value_is_not_masked_and_it_says_so(kernel: Kernel) -> None:
    cell, _ = ask(kernel, "%agent secret short", "abc")
    assert "masked" in cell.text and "no: it is so short" in cell.text
    kernel.ok("%agent secret short --forget")


def test_a_key_of_many_lines_may_be_pasted_into_the_one_line_of_a_front_end(kernel: Kernel) -> None:
    kernel.ok(
        "from cryptography.hazmat.primitives import serialization as s\n"
        "from cryptography.hazmat.primitives.asymmetric import rsa\n"
        "pem = rsa.generate_private_key(65537, 2048).private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode()"
    )
    pem = json.loads(kernel.ok("import json; print(json.dumps(pem))").stdout)
    ask(kernel, "%agent secret SNOWFLAKE_PRIVATE_KEY", pem.replace("\n", ""))
    kernel.ok("key = __import__('flytekit').current_context().secrets.get(key='snowflake_private_key')")
    got = "s.load_pem_private_key(key.encode(), None).key_size"
    assert kernel.value(got) == "2048"
    kernel.ok("%agent secret SNOWFLAKE_PRIVATE_KEY --forget")


@pytest.mark.slow
def test_unloading_forgets_and_leaves_flytekit_as_it_was(new_kernel: Callable[..., Kernel]) -> None:
    kernel = new_kernel()
    kernel.ok("from flytekit.core.context_manager import SecretsManager\nbefore = SecretsManager.get")
    kernel.ok(LOAD)
    ask(kernel, "%agent secret key", VALUE)
    kernel.ok("%agent types")
    assert kernel.value("SecretsManager.get is before") == "False"
    kernel.ok("%unload_ext flyteagent_nb")
    assert kernel.value("SecretsManager.get is before") == "True"
    kernel.ok("%load_ext flyteagent_nb")
    assert "no secrets" in kernel.ok("%agent secret").text


@pytest.mark.slow
def test_without_a_terminal_that_could_hide_it(tmp_path: Path) -> None:
    """IPython without a kernel and a terminal: Python's getpass would show what is typed."""
    script = tmp_path / "script.ipy"
    script.write_text(f"{LOAD}\n%agent secret key\n")
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", str(script)],
        input=f"{VALUE}\n",
        capture_output=True,
        text=True,
        timeout=LIMIT,
        start_new_session=True,  # no terminal of its own
        env={**os.environ, "PYTHONPATH": python_path(ROOT)},
        cwd=tmp_path,
    )
    shown = done.stdout + done.stderr
    assert "nobody can be asked for KEY: there is no terminal" in shown and VALUE not in shown
