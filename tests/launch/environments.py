"""Clean virtual environments of the interpreters that are found, and commands that run in them.

They run with the person's own home, where pip and uv have their settings; ``tests/conftest.py`` has put the tests into another one.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flyteagent_nb.sandbox.environments import find_uv

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]

LIMIT = 400.0
"""Seconds that a command may take: what is installed comes over the network."""

_LEAK = ("COV_", "GRPC_", "IPYTHON", "JUPYTER", "PYTEST", "PYTHON", "VIRTUAL_ENV")


def run(command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str] | None = None, stdin: str = "") -> str:
    """Run a command that must not fail.

    Args:
        command: the program and its arguments.
        cwd: where.
        env: its whole environment; as a person's shell would have it where nothing is said.
        stdin: what it reads.

    Returns:
        What it wrote to stdout.
    """
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=dict(env or shell()),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def shell(**more: str) -> dict[str, str]:
    """The environment that a person's shell would have, and ``more``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_LEAK)}
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    return {**kept, **quiet, "HOME": pwd.getpwuid(os.getuid()).pw_dir, **more}


def find_python(version: str) -> Path | None:
    """An interpreter of a version such as ``3.12``: on PATH, this one, or one of pyenv's. None where there is none."""
    return next((path for path in _candidates(version) if _version(path) == version), None)


def _candidates(version: str) -> Iterator[Path]:
    yield Path(sys.executable)
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    yield from (folder / f"python{version}" for folder in folders)
    for shims in (folder for folder in folders if folder.name == "shims"):
        yield from sorted(shims.parent.glob(f"versions/{version}.*/bin/python"))


def _version(python: Path) -> str:
    ask = "import sys; print('.'.join(map(str, sys.version_info[:2])))"
    try:  # names may be shims for what is not there
        done = subprocess.run([python, "-c", ask], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def uv() -> str | None:
    """uv, beside this interpreter, where the extra ``test`` puts it, or on PATH: where it works. It saves minutes."""
    return find_uv() or None


def make(folder: Path, python: Path) -> Path:
    """Make a clean environment with pip in it.

    Returns:
        Its interpreter.
    """
    if program := uv():
        run([program, "venv", "--quiet", "--seed", "--python", python, folder], cwd=folder.parent)
    else:
        run([python, "-m", "venv", folder], cwd=folder.parent)
    return folder / "bin" / "python"


def install(python: Path, *what: str | Path, cwd: Path = ROOT) -> None:
    """Install with uv, where it is found, else with pip; for what is not itself a test of pip."""
    program = uv()
    command = [program, "pip", "install", "--python", python] if program else [python, "-m", "pip", "install"]
    run([*command, "--quiet", *what], cwd=cwd)


def size(folder: Path) -> int:
    """Bytes of all files under a folder, as they are counted where they are served: without what a file system rounds up to."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def blocks(folder: Path) -> int:
    """Bytes that a folder takes on this disk, as ``du`` counts them."""
    return sum(path.lstat().st_blocks * 512 for path in (folder, *folder.rglob("*")))
