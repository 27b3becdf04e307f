"""``%agent check`` and ``%agent export`` in a kernel: agents of cells in another process, those that cannot go there, and Run All."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import IPython
import pytest
from python_path import TESTS
from scripted_tasks import until

from kernel.harness import LOAD, children

if TYPE_CHECKING:
    from pathlib import Path

    from kernel.harness import Kernel

pytestmark = pytest.mark.kernel

HEAD = f"""
import os, sys
os.environ["SOUND_JOBS"] = os.getcwd()
os.environ["PYTHONPATH"] = sys.path[0] = {str(TESTS)!r}
from flytekit.core.base_task import PythonTask
from flytekit.core.interface import Interface
from flytekit.extend.backend.base_connector import ConnectorRegistry
from sound import Sound
"""
MEMORY = """
MADE = {}

class Forgetful(Sound):
    name = "Forgetful"
    async def create(self, task_template, inputs=None, **kwargs):
        meta = await super().create(task_template, inputs, **kwargs)
        MADE[meta.job_id] = True
        return meta
    async def get(self, resource_meta, **kwargs):
        MADE[resource_meta.job_id]
        return await super().get(resource_meta, **kwargs)

ConnectorRegistry.register(Forgetful("forgetful"))
job = PythonTask("forgetful", "good", None, interface=Interface({"year": int}, {"n": int}))
"""
ENDLESS = """
class Endless(Sound):
    name = "Endless"
    phases = Sound.phases[1:2]

ConnectorRegistry.register(Endless("endless"))
job = PythonTask("endless", "good", None, interface=Interface({}, {"n": int}))
"""
CLOSURE = """
def made(secret):
    class Inner(Sound):
        name = "Inner"
        def failed(self):
            return secret
    return Inner("inner")

[ConnectorRegistry.register(each) for each in [made(1)]]
inner = PythonTask("inner", "good", None, interface=Interface({}, {"n": int}))
"""


def test_an_agent_of_a_cell_is_checked_in_another_process(kernel: Kernel) -> None:
    kernel.ok(LOAD)
    kernel.ok(HEAD)
    kernel.ok(MEMORY)
    cell = kernel.ok("report = %agent check forgetful --task job year=1\nreport")
    assert set(cell.result) == {"text/plain", "text/html"} and "✗ restart" in cell.text
    # A fresh object would have the memory of the notebook; another process has not.
    assert "a second service (in another process) cannot get the job: KeyError" in cell.text
    assert kernel.value("[f.what for f in report.bad], report.passed") == "(['restart'], False)"
    assert kernel.value("[name for name in os.listdir() if len(name) == 32]") == "[]"  # no job is left
    failed = kernel.fails("%agent check forgetful --task job year=1 --strict")
    assert failed.ename == "CheckError" and "restart: a second service" in failed.error
    assert kernel.complete("%agent check forg") == ["forgetful"]
    assert kernel.complete("%agent check forgetful --task j") == ["job"]
    assert kernel.complete("%agent check forgetful --task job y") == ["year="]


def test_the_stop_button_ends_both_and_leaves_nothing(kernel: Kernel) -> None:
    kernel.ok(LOAD)
    kernel.ok(HEAD)
    kernel.ok(ENDLESS)
    check = kernel.start("%agent check endless --task job")
    until(lambda: jobs_of(kernel))
    kernel.interrupt()
    cell = kernel.finish(check)
    assert (
        cell.ename == "TaskStopped"
        and "the check of endless was stopped; the jobs that it made are deleted" in cell.error
    )
    until(lambda: not jobs_of(kernel))
    until(lambda: not children(kernel.pid))  # the second service
    export = kernel.start("%agent export out/deep")
    until(lambda: list((kernel.temporary / "out").glob(".deep-*/deep/deep_agents.py")))
    kernel.interrupt()
    cell = kernel.finish(export)
    assert cell.ename == "TaskStopped" and "was stopped before anything was put there" in cell.error
    assert list((kernel.temporary / "out").iterdir()) == []
    # One that had just begun may be ended and not yet be taken note of: Python does so with the next one.
    until(lambda: all(line.split()[1].startswith("Z") for line in children(kernel.pid)))


BINDING = """
from flyteagent_nb.notebook import extension
from flyteagent_nb.shipping.cells import Cells

def binding(name):
    found = Cells(extension._cells.all()).binding(name)
    return found and found.source
"""


def test_a_body_that_is_sent_to_an_agent_defines_nothing(kernel: Kernel) -> None:
    kernel.ok(BINDING)
    kernel.ok("limit = 4")
    kernel.ok("%%agent_task scripted -b\nlimit: int = 3")  # YAML to the magic, Python by its looks
    kernel.ok("%%timeit -n 1 -r 1\nlimit = 5")
    assert kernel.value("binding('limit')") == "'limit = 4'"
    kernel.ok("%%agent_task --dry-run\nlimit = 6\nscripted_task(name='t')")
    assert kernel.value("binding('limit')") == "'limit = 6'"
    kernel.ok("%reload_ext flyteagent_nb")
    assert kernel.value("binding('limit')") == "'limit = 6'"


@pytest.mark.parametrize(
    ("cell", "taken"),
    [
        ("conf = 1/0", "conf = 1"),
        ("conf = 2\nconf = 1/0\nconf = 3", "conf = 2"),
        pytest.param(
            "conf = 2; other = 1/0",
            "conf = 2",
            marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="Python keeps no columns"),
        ),
        ("conf = (\n    2 +\n    1/0)", "conf = 1"),
        ("def fails():\n    return 1/0\n\nconf = 2\nfails()\nconf = 3", "conf = 2"),
        ("conf = 2\ndef dup(a, a):\n    pass\nconf = 3", "conf = 2"),
        ("conf = 2\nreturn\nconf = 3", "conf = 2"),
        ("with open('/nowhere') as f:\n    conf = 2", "conf = 1"),
        ("if True:\n    conf = 2\n    conf = 1/0", "if True:\n    conf = 2\n    conf = 1/0"),
        ("for n in (1, 0):\n    1/n\n    conf = n", "for n in (1, 0):\n    1/n\n    conf = n"),
        ("import asyncio\nawait asyncio.sleep(0)\nconf = 2\nawait asyncio.sleep('x')\nconf = 3", "conf = 2"),
        pytest.param(
            "%%time\nconf = 2\n1/0\nconf = 3",
            "conf = 2",
            marks=pytest.mark.skipif(IPython.version_info < (9,), reason="IPython's %%time kept the error to itself"),
        ),
        ("%%time\nconf = 2\n1/0\nconf = ", "conf = 1"),
        ("%%prun\nconf = 2\n1/0\nconf = 3", "conf = 2"),
        ("%%capture\nconf = 2\n1/0\nconf = 3", "conf = 2"),
        ("%%agent_task\nconf = 2\n1/0\nconf = 3", "conf = 2"),
        ("%%agent_task\nconf = 2", "conf = 2"),  # it defines no task, which is told when it has run
        ("%%agent_task --no-such-option\nconf = 2", "conf = 1"),
    ],
)
def test_of_a_cell_that_raised_what_ran_counts(kernel: Kernel, cell: str, taken: str) -> None:
    kernel.ok(BINDING)
    kernel.ok("conf = 1")
    kernel.run(cell)
    assert kernel.value("binding('conf')") == repr(taken)
    kernel.ok("%%capture\nconf = 4")
    assert kernel.value("binding('conf')") == "'conf = 4'"


def jobs_of(kernel: Kernel) -> list[str]:
    return [path.name for path in kernel.temporary.iterdir() if len(path.name) == 32]


def test_an_agent_that_cannot_leave_the_kernel(kernel: Kernel, tmp_path: Path) -> None:
    kernel.ok(LOAD)
    kernel.ok(HEAD)
    kernel.ok(CLOSURE)
    text = kernel.ok("%agent check inner --task inner").text
    assert "✗ elsewhere" in text and "the class Inner is made inside made()" in text
    assert (
        "not tried: it cannot be taken out of this kernel, and a fresh Inner() fails" in text or "fresh object" in text
    )
    text = kernel.ok("%agent export out").text
    assert "✗ elsewhere" in text and "no cell says how it was called" in text
    assert "is not empty, and no earlier export" in kernel.fails("%agent export .").error


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("check", "needs TYPE"),
        ("check sensr", "did you mean sensor?"),
        ("check sensor --task nothing", "there is no variable nothing"),
        ("check sensor --service nowhere", "no agent service is called 'nowhere'"),
        ("check sensor zz=1", "the inputs need --task"),
        ("export", "needs DIR"),
        ("export out --types sensor --image 'a b'", "a b is no name of an image"),
        ("export out --types sensor --namespace A_B", "A_B is no name of a namespace"),
    ],
)
def test_lines_that_do_not_do(kernel: Kernel, line: str, told: str) -> None:
    kernel.ok(LOAD)
    assert told in kernel.fails(f"%agent {line}").error
