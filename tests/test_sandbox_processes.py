"""Processes that end with the kernel, however that ends, and the wait until they are ready."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scripted_stand_in import SERVER, ask, running
from scripted_tasks import until

from flyteagent_nb.sandbox.processes import WatchedProcess, free_ports, in_use, never, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    Make = type["Started"]

posix = pytest.mark.skipif(os.name != "posix", reason="signals")


class Started:
    """A server of :data:`SERVER` under a watcher."""

    def __init__(self, folder: Path, *words: str) -> None:
        (self.port,) = free_ports(1)
        self.state, self.data = folder / "state", folder / "data"
        self.state.mkdir()
        self.data.mkdir()
        command = [sys.executable, "-c", SERVER, str(self.port), *words]
        self.process = WatchedProcess(
            command, state=self.state, cwd=folder, environment=dict(os.environ), remove=[self.data]
        )

    def ready(self) -> bool:
        return ask(self.port)

    @property
    def pid(self) -> int:
        return int(until(lambda: (self.state / "pid").exists() and (self.state / "pid").read_text()))

    def child(self) -> int:
        """The child's pid, which it tells in its log."""
        told = until(lambda: [line for line in self.process.tail().splitlines() if line.startswith("child ")])
        return int(told[0].split()[1])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[type[Started]]:
    made: list[Started] = []

    class Made(Started):
        def __init__(self, *words: str) -> None:
            folder = tmp_path / str(len(made))
            folder.mkdir()
            super().__init__(folder, *words)
            made.append(self)

    yield Made  # type: ignore[misc]
    for each in made:
        each.process.close()


def test_a_server_becomes_ready_and_ends_with_its_folders(start: type[Started]) -> None:
    server = start()
    assert wait_until(server.process, server.ready, seconds=30) == "ready"
    pid = server.pid
    assert running(pid) and server.process.exit_code is None
    server.process.close()
    assert not running(pid) and not server.state.exists() and not server.data.exists()
    assert not server.ready()
    server.process.close()


def test_folders_may_be_kept(start: type[Started]) -> None:
    server = start()
    server.process.close(keep=True)
    assert server.data.exists() and not server.state.exists()


def test_one_that_dies_at_its_start_is_noticed_with_its_last_words(start: type[Started]) -> None:
    server = start("dies")
    assert wait_until(server.process, server.ready, seconds=30) == "ended"
    assert server.process.exit_code == 1
    assert server.process.tail().splitlines()[-1] == "no such luck"
    assert server.process.tail(1) == "no such luck"
    assert server.state.exists()


def test_one_that_cannot_be_started_is_noticed(tmp_path: Path) -> None:
    process = WatchedProcess([str(tmp_path / "nothing")], state=tmp_path, cwd=tmp_path, environment={})
    assert wait_until(process, never, seconds=30) == "ended"
    assert process.exit_code == 127 and "nothing" in process.tail()
    process.close()
    assert not tmp_path.exists()


def test_one_that_never_answers_is_late(start: type[Started]) -> None:
    server = start("silent")
    assert wait_until(server.process, server.ready, seconds=0.3) == "late"
    assert server.process.exit_code is None


def test_a_wait_can_be_stopped(start: type[Started]) -> None:
    server = start("silent")
    looks: list[int] = []
    assert wait_until(server.process, never, seconds=30, stopped=lambda: looks.append(1) or len(looks) > 2) == "stopped"


def test_what_answers_in_its_place_is_not_it(start: type[Started]) -> None:
    server = start()
    assert wait_until(server.process, server.ready, seconds=30) == "ready"

    def another_answers() -> bool:
        ask(server.port, b"q")
        return bool(until(lambda: server.process.exit_code is not None))

    assert wait_until(server.process, another_answers, seconds=30) == "ended"


def test_an_end_later_on_is_noticed(start: type[Started]) -> None:
    server = start()
    assert wait_until(server.process, server.ready, seconds=30) == "ready"
    ask(server.port, b"q")
    assert until(lambda: server.process.exit_code is not None) and server.process.exit_code == 1
    assert server.process.tail(1) == "asked to quit"


@posix
@pytest.mark.parametrize("words", [("child",), ("child", "deaf"), ("child", "silent")])
def test_its_children_end_with_it(start: type[Started], words: tuple[str, ...]) -> None:
    server = start(*words)
    child, pid = server.child(), server.pid
    assert running(child)
    server.process.close()
    assert not running(pid) and not running(child)


@posix
def test_its_children_end_with_it_when_it_ends_by_itself(start: type[Started]) -> None:
    server = start("child")
    assert wait_until(server.process, server.ready, seconds=30) == "ready"
    child = server.child()
    ask(server.port, b"q")
    until(lambda: server.process.exit_code is not None)
    until(lambda: not running(child))


@posix
def test_without_its_watcher_it_is_ended_all_the_same(start: type[Started]) -> None:
    server = start("child")
    child, pid = server.child(), server.pid
    watcher = int(subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True).stdout)
    os.kill(watcher, signal.SIGKILL)
    assert until(lambda: server.process.exit_code)
    server.process.close()
    until(lambda: not running(pid) and not running(child))
    assert not server.state.exists() and not server.data.exists()


KERNEL = """
import os, subprocess, sys, threading
from pathlib import Path
from flyteagent_nb.sandbox.processes import WatchedProcess, wait_until, free_ports
sys.path.insert(0, {tests!r})
from scripted_stand_in import SERVER, ask
folder, port = Path({folder!r}), free_ports(1)[0]
process = WatchedProcess([sys.executable, "-c", SERVER, str(port), "child"], state=folder, cwd=folder, environment=dict(os.environ))
assert wait_until(process, lambda: ask(port), seconds=30) == "ready"
{more}
print("ready", flush=True)
threading.Event().wait({seconds})
"""


@posix
@pytest.mark.parametrize(
    ("how", "more"),
    [
        ("kill", ""),
        ("kill", "subprocess.Popen(['sleep', '60'])"),  # a child of its own that lives on
        ("kill", "fork = os.fork()\nif not fork: threading.Event().wait(60); os._exit(0)"),  # one that has the pipe too
        ("terminate", ""),
        ("group", ""),  # as a front end ends a kernel
        ("exit", ""),
    ],
    ids=["killed", "killed-child", "killed-fork", "terminated", "group", "exit"],
)
def test_the_end_of_the_kernel_is_its_end(tmp_path: Path, how: str, more: str) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    seconds = 0.1 if how == "exit" else 60
    code = KERNEL.format(tests=str(Path(__file__).parent), folder=str(folder), more=more, seconds=seconds)
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as kernel:
        assert kernel.stdout is not None and kernel.stdout.readline() == "ready\n"
        pid = int((folder / "pid").read_text())
        child = int((folder / "log").read_text().partition("child ")[2].split()[0])
        assert running(pid) and running(child)
        if how == "kill":
            kernel.kill()
        elif how == "terminate":
            kernel.terminate()
        elif how == "group":
            os.killpg(kernel.pid, signal.SIGKILL)
        until(lambda: not running(pid) and not running(child) and not folder.exists())
        try:
            os.killpg(kernel.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


@posix
def test_an_interrupt_of_the_kernels_group_does_not_reach_it(start: type[Started], tmp_path: Path) -> None:
    server = start()
    assert wait_until(server.process, server.ready, seconds=30) == "ready"
    assert os.getpgid(server.pid) != os.getpgid(0)
    watcher = int(subprocess.run(["ps", "-o", "ppid=", "-p", str(server.pid)], capture_output=True, text=True).stdout)
    assert os.getpgid(watcher) != os.getpgid(0)
    os.kill(watcher, signal.SIGINT)
    os.kill(watcher, signal.SIGHUP)
    assert server.ready() and server.process.exit_code is None
    ask(server.port, b"q")
    until(lambda: server.process.exit_code is not None)  # told by the watcher, which goes on
    assert (server.state / "ended").read_text() == "1"


@posix
def test_a_forked_child_leaves_it_alone(start: type[Started]) -> None:
    server = start()
    assert wait_until(server.process, server.ready, seconds=30) == "ready"
    server.process._owner += 1  # as a child sees it
    server.process.close()
    assert server.ready()
    server.process._owner -= 1


def test_ports_are_free_and_no_two_are_the_same() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5 and not any(map(in_use, ports))
    with socket.create_server(("127.0.0.1", ports[0])):
        assert in_use(ports[0]) and not in_use(ports[1])
