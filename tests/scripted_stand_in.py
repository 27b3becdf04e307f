"""Stand-ins that do what a test says, with servers of a few lines, and how a test sees that a process is gone."""

from __future__ import annotations

import socket
import subprocess
from importlib import metadata
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import ArgumentError
from flyteagent_nb.sandbox.stand_in import Place, StandIn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SERVER = """
import os, socket, subprocess, sys, time
port, *words = sys.argv[1:]
print("hello from", os.getpid(), flush=True)
if "dies" in words:
    sys.exit(chr(27) + "[31mno such luck" + chr(27) + "[0m")  # in red
if "child" in words:
    print("child", subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
if "deaf" in words:
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "silent" in words:
    time.sleep(600)
listener = socket.create_server(("127.0.0.1", int(port)))
while True:
    connection, _ = listener.accept()
    if connection.recv(1) == b"q":
        sys.exit("asked to quit")
    connection.sendall(b"!")
    connection.close()
"""
"""A server: it sends a byte back, and quits on ``q``. Its words after the port say how it misbehaves."""


def running(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for nobody does not."""
    told = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return told.stdout.strip()[:1] not in ("", "Z")


def ask(port: int, question: bytes = b"?") -> bool:
    """Whether the server on a port answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(question)
            return connection.recv(1) == b"!"
    except OSError:
        return False


class ScriptedStandIn(StandIn):
    """Stands in for nothing. What it does is said by class attributes, which a test sets on a subclass."""

    name = "scripted"
    service = "Scripted"
    product = "packaging"  # a distribution that is installed wherever this runs
    task_types = ("scripted", "echo")
    requirements = (f"packaging=={metadata.version('packaging')}",)
    pythons = ((3, 10), (3, 99))
    extra = "scripted"
    connector = "flytekit"
    covers = "all"
    misses = "nothing"
    words: tuple[str, ...] = ()
    attached: bool = False
    attach_fails: bool = False

    def command(self, python: str, place: Place) -> Sequence[str]:
        return [python, "-c", SERVER, str(place.ports[0]), *self.words]

    def answers(self, place: Place) -> bool:
        return ask(place.ports[0])

    def environment(self, place: Place) -> Mapping[str, str]:
        return {"SCRIPTED_PORT": str(place.ports[0]), "SCRIPTED_KEY": "key"}

    def attach(self, place: Place) -> Callable[[], object]:
        if self.attach_fails:
            raise RuntimeError("it does not attach")
        type(self).attached = True

        def detach() -> None:
            type(self).attached = False

        return detach

    def check_table(self, table: str) -> None:
        if table == "refused":
            raise ArgumentError("no such name")

    def load(self, table: str, data: Any, place: Place) -> str:
        (place.folder / table).write_text(str(data))
        return f"{table}, {len(data)} rows"
