"""What Binder does with the folder binder/: the Dockerfile, its steps in a clean environment, and the notebooks in what they made."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from launch.environments import ROOT, blocks, make, run, shell, size, uv
from launch.visit import Launch, Visit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from launch.conftest import Image
    from launch.dockerfile import Dockerfile

FIRST = "notebooks/01_first_run.ipynb"
NOTEBOOKS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("*.ipynb"))
GIGABYTE = 1_000_000_000


def test_repo2docker_takes_each_file_of_the_folder(dockerfile: Dockerfile) -> None:
    install, *rest = dockerfile.steps
    assert install == '${KERNEL_PYTHON_PREFIX}/bin/pip install --no-cache-dir -r "binder/requirements.txt"'
    assert rest == ["chmod +x binder/postBuild", "./binder/postBuild", 'chmod +x "${REPO_DIR}/binder/start"']
    assert dockerfile.variables["R2D_ENTRYPOINT"] == "${REPO_DIR}/binder/start"
    assert not [step for step in dockerfile.before if "binder/" in step]


def test_the_image_of_repo2docker_has_node(dockerfile: Dockerfile, folder: Path) -> None:
    version = (ROOT / "binder" / "runtime.txt").read_text().strip().removeprefix("python-")
    (lock,) = folder.glob(f"repo2docker/lib/**/conda/environment.py-{version}-linux-64.lock")
    (major,) = re.findall(r"/nodejs-(\d+)\.", lock.read_text())
    wanted = json.loads((ROOT / "tests" / "node" / "package.json").read_text())["engines"]["node"]
    assert int(major) >= int(wanted.removeprefix(">="))


@pytest.mark.parametrize("script", ["postBuild", "start"])
def test_the_scripts_are_well_formed(script: str) -> None:
    path = ROOT / "binder" / script
    assert os.access(path, os.X_OK)
    run(["bash", "-n", path], cwd=ROOT)


def test_all_that_would_be_installed_is_pinned(binder_python: Path, folder: Path, repository: Path) -> None:
    python = make(folder / "empty", binder_python)
    if program := uv():  # a dry run of pip's takes a minute, and pip does it all once more for the image
        would = run(
            [program, "pip", "compile", "--quiet", "--python", python, "binder/requirements.txt"], cwd=repository
        )
        named = dict(re.findall(r"^([\w.-]+)==(\S+)", would, re.MULTILINE))
    else:
        command = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--report", folder / "report.json"]
        run([*command, "-r", "binder/requirements.txt"], cwd=repository)
        report = json.loads((folder / "report.json").read_text())["install"]
        named = {each["metadata"]["name"]: each["metadata"]["version"] for each in report}
    _all_pinned(named)


def _all_pinned(versions: Mapping[str, str]) -> None:
    pinned = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    named = {_canonical(name): version for name, version in versions.items()}
    named.pop("flyteagent-nb", None)
    assert {"jupyterlab", "duckdb", "bqemulator", "fakesnow", "llmock"} <= set(named)
    assert sorted(set(named.items()) - {(_canonical(name), version) for name, version in pinned}) == []


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_is_installed_goes_together_and_is_under_a_gigabyte(
    image: Image, repository: Path, figure: Callable[[str], None]
) -> None:
    home = Path(image.env["HOME"])
    assert "No broken requirements" in run([image.python, "-m", "pip", "check"], cwd=home)
    there = json.loads(run([image.python, "-m", "pip", "list", "--format", "json"], cwd=home))
    _all_pinned({each["name"]: each["version"] for each in there if each["name"] not in ("pip", "setuptools", "wheel")})
    made = (Path(image.env["NB_PYTHON_PREFIX"]), repository / "tests" / "node" / "node_modules")
    figure(
        f"Binder's environment: {sum(map(size, made)) / 1e6:.0f} MB of files, {sum(map(blocks, made)) / 1e6:.0f} MB on this"
        f" disk, {size(made[1]) / 1e6:.0f} of it for Node; {image.seconds:.0f} s for the steps of its Dockerfile"
    )
    assert sum(map(size, made)) < GIGABYTE


def test_the_service_in_javascript_has_its_packages(image: Image, repository: Path) -> None:
    load = "process.stdout.write(Object.keys(require('./flyteidl.js').services).sort().join())"
    told = run(["node", "-e", load], cwd=repository / "tests" / "node", env=image.env)
    assert told.split(",")[:2] == ["AgentMetadataService", "AsyncAgentService"]


@pytest.fixture(scope="module")
def visits(image: Image, repository: Path, needs_browser: None) -> list[Visit]:
    """All notebooks, run in the JupyterLab that the launch opens, without a network."""
    command = [image.env["R2D_ENTRYPOINT"], "jupyter", "lab"]
    launch = Launch(
        command, {**image.env, **_nowhere()}, str(repository), [FIRST, *(n for n in NOTEBOOKS if n != FIRST)]
    )
    said = run(
        [*_without_network(), sys.executable, "-m", "launch.visit"],
        cwd=ROOT / "tests",
        env=shell(HOME=os.environ["HOME"]),
        stdin=json.dumps(dataclasses.asdict(launch)),
    )
    return [Visit(**each) for each in json.loads(said)]


def _without_network() -> list[str]:
    """What runs a command where only loopback is; nothing where this machine does not let us."""
    for command in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if (
            shutil.which("unshare")
            and not subprocess.run([*command, "true"], capture_output=True, check=False).returncode
        ):
            return command
    return []


def _nowhere() -> dict[str, str]:
    """A proxy that is not there: what is asked of another host fails at once."""
    proxy = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    return {} if _without_network() else {**proxy, "no_proxy": "127.0.0.1,localhost"}


def test_the_first_notebook_opens_and_all_run_to_their_last_cell(
    visits: list[Visit], figure: Callable[[str], None]
) -> None:
    for visit in visits:
        figure(
            f"{visit.notebook}: {visit.seconds:.1f} s from the start of the kernel to its last cell, {visit.megabytes} MB of"
            f" memory with JupyterLab{'' if visit.outside else ', only loopback'}"
        )
    assert [visit.notebook for visit in visits] == [FIRST, *(n for n in NOTEBOOKS if n != FIRST)]
    assert [(v.notebook, v.cells) for v in visits if v.cells[0] != v.cells[1] or not v.cells[1]] == []
    assert [(v.notebook, v.errors) for v in visits if v.errors] == []
    assert [(v.notebook, v.problems) for v in visits if v.problems] == []
    assert [v.notebook for v in visits if not v.trusted] == []
    assert not _without_network() or not [v.notebook for v in visits if v.outside]


def test_the_first_notebook_takes_less_than_thirty_seconds(visits: list[Visit]) -> None:
    assert visits[0].seconds < 30
