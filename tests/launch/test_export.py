"""What ``%agent export`` writes works where nothing else is: installed from its own requirements, as its Dockerfile does, and served by
flytekit's own server, which FlytePropeller's check finds no fault with.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cell_runs import CellRuns
from scripted_tasks import PATIENCE, scripted_task, until

from flyteagent_nb.notebook.check_verb import check_type
from flyteagent_nb.shipping.export import export
from launch.environments import ROOT, install, make, run, shell

pytest_plugins = ("fixtures_workspace",)

if TYPE_CHECKING:
    from flyteagent_nb.workspace import Workspace

pytestmark = [pytest.mark.launch, pytest.mark.timeout(600)]


def test_it_is_served_where_nothing_else_is(workspace: Workspace, tmp_path: Path) -> None:
    source = (ROOT / "tests" / "sound.py").read_text()
    head, _, _ = source.partition("class FailsToCreate")  # the sound agent, as a person would have it in cells
    runs = CellRuns(
        head.replace("from __future__ import annotations\n", "").partition('"""\n')[2],
        "from flytekit.extend.backend.base_connector import ConnectorRegistry\nConnectorRegistry.register(Sound(), override=True)",
    )
    made = export(workspace, tmp_path / "sound", cells=runs.ran, variables=runs.namespace)
    assert [f for f in made.findings if f.sign == "bad"] == []
    workspace.catalog.remove("sound")
    python = make(tmp_path / "env", Path(sys.executable))
    folder = made.folder
    install(python, "-r", folder / "requirements.txt", "-c", folder / "constraints.txt", cwd=folder)
    install(python, "--no-deps", folder, cwd=folder)
    assert "flyteagent" not in run([python, "-m", "pip", "list"], cwd=tmp_path).lower()
    (tmp_path / "jobs").mkdir()
    ports = [free_port(), free_port()]
    pyflyte = python.with_name("pyflyte")
    # No --modules: flytekit finds it by itself, as Flyte's chart, whose command names none, needs it.
    with subprocess.Popen(
        [pyflyte, "serve", "connector", "--port", str(ports[0]), "--prometheus_port", str(ports[1])],
        cwd=tmp_path,
        env=shell(SOUND_JOBS=str(tmp_path / "jobs"), HOME=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            until(lambda: process.poll() is not None or answers(ports[0]))
            assert process.poll() is None, process.stdout and process.stdout.read().decode()
            workspace.connections.connect("exported", f"127.0.0.1:{ports[0]}")
            good, bad = (scripted_task("sound", name=name, outputs={"n": int}) for name in ("good", "bad"))
            report = check_type(workspace, "sound", task=good, failing=bad, service="exported")
            assert report.passed and report.warnings == [], report.text()
            assert [f.what for f in report.skipped] == ["restart"]
            assert workspace.submit(good, {}, service="exported").result(PATIENCE) == 3
            workspace.connections.disconnect("exported")
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
