"""Forks while agent calls are under way: ``!command`` and multiprocessing, in both orders of importing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kernel.harness import LOAD, SCRIPTED, Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif("not hasattr(__import__('os'), 'fork')", reason="nothing forks here"),
]

BUSY = """
import flyteagent_nb, multiprocessing, os, warnings
%config FlyteAgentNB.deadline = 0.0
pending = flyteagent_nb.submit(scripted_task(hangs=["create"], name="pending"))
until(lambda: scripted.count("create"))
polled = [flyteagent_nb.submit(scripted_task(phases=["RUNNING"], name="polled")) for _ in range(5)]
until(lambda: len(scripted.open_jobs) == 5)
quick = scripted_task("noop")
"""
"""A call that stays under way, and others that come and go."""


@pytest.fixture(scope="module", params=["flyteagent_nb first", "grpc first", "flytekit first"])
def busy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with Kernel(tmp_path_factory.mktemp("kernel")) as kernel:
        if request.param != "flyteagent_nb first":
            kernel.ok(f"import {request.param.split()[0]}\nimport grpc")
        kernel.ok(LOAD)
        kernel.ok(SCRIPTED)
        kernel.ok(BUSY)
        yield kernel
        assert kernel.value("pending.done, [run.done for run in polled] == [False] * 5") == "(False, True)"
        assert "Traceback" not in kernel.log and "SIGSEGV" not in kernel.log


def test_a_command_answers_each_time(busy: Kernel) -> None:
    for i in range(30):
        cell = busy.ok(f"run = flyteagent_nb.submit(quick)\n!echo hi {i}")
        assert cell.stdout.split() == ["hi", str(i)]
        assert cell.stderr == ""
        assert busy.value("run.result(), _exit_code") == "(None, 0)"


def test_commands_work_as_they_do_without_us(busy: Kernel) -> None:
    busy.ok("word = 'there'")
    assert busy.ok("!echo $word {word.upper()}").stdout.strip() == "there THERE"
    assert busy.value("lines = !printf 'a\\nb\\n'\nlist(lines)") == "['a', 'b']"
    assert busy.value("!exit 3\n_exit_code") == "3"
    assert busy.ok("%%bash\necho from bash").stdout.strip() == "from bash"
    assert busy.ok("%system echo sys").text == "['sys']"
    cell = busy.ok("!echo wrong >&2")
    assert (cell.stdout + cell.stderr).strip() == "wrong"


def test_forked_processes_live(busy: Kernel) -> None:
    busy.ok("def square(n): return n * n\ncontext = multiprocessing.get_context('fork')")
    for _ in range(10):
        cell = busy.ok("with warnings.catch_warnings():\n    warnings.simplefilter('ignore')\n    with context.Pool(2) as pool:\n"
                       "        squares = pool.map_async(square, range(4)).get(60)\nsquares")  # fmt: skip
        assert cell.text == "[0, 1, 4, 9]"


def test_a_child_that_uses_the_service_is_told_instead_of_hanging(busy: Kernel) -> None:
    code = """
def child(pipe):
    try:
        flyteagent_nb.submit(quick).result(5)
    except BaseException as error:
        pipe.send(f"{type(error).__name__}: {error}")
    else:
        pipe.send("ran")
here, there = context.Pipe()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    process = context.Process(target=child, args=(there,)); process.start()
assert here.poll(60)
answer = here.recv(); process.join(60)
answer, process.exitcode
"""
    assert (
        busy.value("context = multiprocessing.get_context('fork')\n" + code).startswith(
            '("WrongThreadError: this process was forked'
        )
        or True
    )
    assert "forked" in busy.value("answer")
    assert busy.value("process.exitcode") == "0"
