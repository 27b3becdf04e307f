"""The wheel, the repository as Binder copies it, and the environment that the steps of the Dockerfile make of it: each made once."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from launch.dockerfile import Dockerfile, parse
from launch.environments import ROOT, find_python, install, make, run, shell

if TYPE_CHECKING:
    from collections.abc import Iterator

REPO2DOCKER = "jupyter-repo2docker==2026.4.0"

_NOT_COPIED = (
    ".*cache*",
    ".git",
    ".venv",
    "__pycache__",
    "node_modules",
    "*.egg-info",
    ".ipynb_checkpoints",
    "build",
    "dist",
    "screenshots",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder; each may wait for the one environment."""
    for item in items:
        if item.path.parent.name == "launch":
            item.add_marker(pytest.mark.launch)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder for all that is made: gigabytes, which pytest would keep for three sessions. Its name is short, for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="fa-", ignore_cleanup_errors=True) as made:
        yield Path(made)


@pytest.fixture(scope="session")
def wheel(folder: Path) -> Path:
    """The wheel."""
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "wheel", ROOT], cwd=folder)
    (path,) = (folder / "wheel").glob("*.whl")
    return path


@pytest.fixture(scope="session")
def repository(folder: Path) -> Path:
    """A copy of the repository, without what is made in it. It is also the home, as in Binder's image."""
    return shutil.copytree(ROOT, folder / "repository", ignore=shutil.ignore_patterns(*_NOT_COPIED))


@pytest.fixture(scope="session")
def dockerfile(folder: Path, repository: Path) -> Dockerfile:
    """What repo2docker, in an environment of its own, makes of the repository. It needs no Docker for that."""
    python = make(folder / "repo2docker", Path(sys.executable))
    install(python, REPO2DOCKER)
    command = [python.parent / "jupyter-repo2docker", "--no-build", "--user-id", "1000", "--user-name", "jovyan"]
    return parse(run([*command, repository], cwd=folder))


@dataclass(frozen=True)
class Image:
    """What the steps of the Dockerfile made.

    Attributes:
        python: the interpreter of its environment.
        env: the environment variables that the Dockerfile sets, with this machine's places.
        seconds: how long the steps took.
    """

    python: Path
    env: dict[str, str]
    seconds: float


@pytest.fixture(scope="session")
def binder_python(repository: Path) -> Path:
    """An interpreter of the version that runtime.txt names."""
    version = (repository / "binder" / "runtime.txt").read_text().strip().removeprefix("python-")
    return find_python(version) or pytest.skip(f"no Python {version} was found")


@pytest.fixture(scope="session")
def image(folder: Path, dockerfile: Dockerfile, repository: Path, binder_python: Path) -> Image:
    """The steps of the Dockerfile, done in a clean environment."""
    python = make(folder / "image", binder_python)
    given = {
        "HOME": str(repository),
        "REPO_DIR": str(repository),
        "NB_PYTHON_PREFIX": str(python.parent.parent),
        "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin",
        **dict.fromkeys(("LC_ALL", "LANG", "LANGUAGE"), "C.UTF-8"),  # the image makes its own locale
    }
    env = dockerfile.environment({"NB_USER": "jovyan"}, given)
    began = time.monotonic()
    for step in dockerfile.steps:
        # pip's settings are where the person has them, and so is what it needs to reach the network.
        network = {**shell(), **env, "HOME": shell()["HOME"]} if "pip install" in step else {**_npm(), **env}
        run(["bash", "-c", step], cwd=repository, env=network)
    return Image(python, env, time.monotonic() - began)


_NETWORK = ("npm_config_", "proxy", "_ca_certs")


def _npm() -> dict[str, str]:
    """What npm needs of a person's environment to reach the network, from another home."""
    person = shell()
    named = {name: value for name, value in person.items() if any(word in name.lower() for word in _NETWORK)}
    return {"NPM_CONFIG_USERCONFIG": str(Path(person["HOME"]) / ".npmrc"), **named}


@pytest.fixture(scope="session")
def needs_browser() -> None:
    """Skips where there is no browser, but not in CI."""
    from browser.harness import find_chromium

    if not find_chromium() and not os.environ.get("CI"):
        pytest.skip("no Chromium: install chromium, or name one in CHROMIUM")
