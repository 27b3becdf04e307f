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
import flyteagent_nb, multiprocessing.connection, warnings
%config FlyteAgentNB.deadline = 0.0
pending = flyteagent_nb.submit(scripted_task("do", hangs=["do"], name="pending"))
until(lambda: agents.do.count("do"))
polled = [flyteagent_nb.submit(scripted_task(phases=["RUNNING"], name="polled")) for _ in range(5)]
until(lambda: len(scripted.open_jobs) == 5)
quick = scripted_task("noop")
context = multiprocessing.get_context("fork")

def square(n):
    return n * n

def forked(function, *args):
    '''What a forked process makes of it, and how the process ended.'''
    def child():
        try:
            there.send(function(*args))
        except BaseException as error:
            there.send(f"{type(error).__name__}: {error}")
    here, there = context.Pipe()
    process = context.Process(target=child)
    process.start()
    multiprocessing.connection.wait([here, process.sentinel], 60)
    answer = here.recv() if here.poll() else None
    process.join(60)
    return answer, process.exitcode
"""
"""A call that stays under way, others that come and go, and a way to fork."""


@pytest.fixture(scope="module", params=["flyteagent_nb", pytest.param("grpc", marks=pytest.mark.slow)])
def first(request: pytest.FixtureRequest) -> str:
    """What was imported first. (flytekit imports grpc.)"""
    return str(request.param)


@pytest.fixture(scope="module")
def busy(first: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with Kernel(tmp_path_factory.mktemp("kernel")) as kernel:
        if first == "grpc":
            kernel.ok("import grpc.aio")
        kernel.ok(LOAD)
        kernel.ok(SCRIPTED)
        kernel.ok(BUSY)
        yield kernel
        assert kernel.value("[run.done for run in polled] == [False] * 5") == "True"
        assert "Traceback" not in kernel.log, kernel.log


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


def test_a_fork_beside_a_call_that_goes_on_lives_or_is_warned_of(busy: Kernel, first: str) -> None:
    assert busy.value("pending.done") == "False"
    cell = busy.ok(
        "with warnings.catch_warnings(record=True) as seen:\n    warnings.simplefilter('always')\n    found = forked(square, 3)\nfound"
    )
    told = busy.value("[str(w.message) for w in seen if 'forks while an agent call' in str(w.message)]")
    if first == "grpc":  # nothing can be done about it then but to say so, once
        assert "Load flyteagent_nb before anything imports grpc" in told
    else:
        assert (cell.text, told) == ("(9, 0)", "[]")


def test_forked_processes_live(busy: Kernel) -> None:
    busy.ok("pending.cancel(); pending.exception(30)")
    assert busy.value("[forked(square, n) for n in range(10)] == [(n * n, 0) for n in range(10)]") == "True"
    assert (
        busy.value("with context.Pool(2) as pool:\n    squares = pool.map_async(square, range(4)).get(30)\nsquares")
        == "[0, 1, 4, 9]"
    )


def test_a_child_that_uses_the_service_is_told_instead_of_hanging(busy: Kernel) -> None:
    for code in ("flyteagent_nb.submit(quick).result(5)", "quick()"):
        told = busy.value(f"answer, ended = forked(lambda: {code})\nanswer")
        assert "WrongThreadError: this process was forked from the kernel" in told, (code, told)
        assert busy.value("ended") == "0"
