"""Outside a notebook: a service process, its token, and what does not do."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from python_path import TESTS, python_path
from scripted_tasks import PATIENCE, scripted_task, until

from flyteagent_nb.__main__ import _import
from flyteagent_nb.errors import ArgumentError

if TYPE_CHECKING:
    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)

MODULE = """
from flytekit.extend.backend.base_connector import ConnectorRegistry
from scripted import NoopAgent, ScriptedAgent
ConnectorRegistry.register(NoopAgent("from_module"), override=True)
"""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "flyteagent_nb", "serve", *words]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": python_path(folder, TESTS)}


@pytest.mark.parametrize("is_open", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_module_s_agents_are_served_and_a_notebook_uses_them(
    workspace: Workspace, tmp_path: Path, is_open: bool
) -> None:
    (tmp_path / "my_agents.py").write_text(MODULE)
    token = tmp_path / "token"
    words = ("--open",) if is_open else ("--token-to", str(token), "--until-eof")
    with subprocess.Popen(
        command("my_agents", *words),
        env=environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            address, _, types = process.stdout.readline().partition(" serves ")
            assert "from_module" in types.strip().split(", ")
            if not is_open:
                assert stat.S_IMODE(token.stat().st_mode) == 0o600 and len(token.read_text()) > 20
            workspace.connections.connect("served", address, token=None if is_open else token.read_text())
            run = workspace.submit(scripted_task("from_module"), {})
            run.result(PATIENCE)
            assert run.service == "served"
            workspace.connections.disconnect("served")
        finally:
            if is_open:
                process.send_signal(signal.SIGTERM)
            out, error = process.communicate(timeout=PATIENCE)  # which closes stdin
        assert (process.returncode, out, error) == (0, "", "")


ORPHAN = """
import os
from flyteagent_nb.shipping.second import ServiceProcess
service = ServiceProcess()
print(service.start(["json"])[0], service._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_the_second_service_of_a_check_ends_with_a_kernel_that_is_killed(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", ORPHAN],
        env={**environment(tmp_path), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    address, pid = told.split()
    host, _, port = address.rpartition(":")
    try:
        until(lambda: not _listens(host, int(port)))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--port", "0"), "callers need a token\nhint: --token-to FILE"),
        (("--open", "no_such_module_here"), "the module no_such_module_here cannot be imported"),
        (("--token-to", __file__), "the token cannot be written to"),
    ],
)
def test_what_does_not_do(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    before = Path(__file__).read_bytes()
    done = subprocess.run(
        command(*words), env=environment(tmp_path), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr
    assert Path(__file__).read_bytes() == before


@pytest.mark.parametrize("path", ["./my_agents", "my_agents.py", "/a/my_agents"])
def test_a_path_is_no_module(path: str) -> None:
    with pytest.raises(ArgumentError, match="is a file's path, not a module's name"):
        _import(path)
