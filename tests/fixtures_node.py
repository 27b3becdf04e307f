"""The packages of ``tests/node`` as a fixture. Who asks for it is skipped where there is no Node, but not in CI.

``NODE_FOLDER`` names a folder in which they are installed already; otherwise they are, into a temporary one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "node"
INSTALL = ("npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of ``tests/node`` with the packages that they need."""
    named = os.environ.get("NODE_FOLDER")
    folder = Path(named) if named else tmp_path_factory.mktemp("node")
    for file in SOURCE.iterdir():
        if file.is_file():
            _take(file, folder / file.name)
    if (folder / "node_modules").is_dir():
        return folder
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            _lacking(f"no {program}: install nodejs and npm, for the agents and clients that are written in JavaScript")
    done = subprocess.run(INSTALL, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    if done.returncode:
        _lacking(f"npm cannot install the packages of tests/node: {done.stderr.strip()[:500]}")
    return folder


def _take(file: Path, to: Path) -> None:
    """Copy a file, in one step: another process of the tests may run it."""
    if not to.exists() or to.read_bytes() != file.read_bytes():
        made = to.with_name(f"{to.name}.{os.getpid()}")
        shutil.copy(file, made)
        made.replace(to)


def _lacking(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
