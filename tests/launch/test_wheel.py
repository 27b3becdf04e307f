"""The wheel in a clean environment of each Python that is found: installed with pip, then a script and a real kernel."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flyteagent_nb.sandbox.environments import find_uv
from launch.environments import ROOT, find_python, make, run, shell

if TYPE_CHECKING:
    from collections.abc import Callable


def test_an_index_would_take_it(wheel: Path, figure: Callable[[str], None]) -> None:
    assert "PASSED" in run([sys.executable, "-m", "twine", "check", "--strict", wheel], cwd=wheel.parent)
    figure(f"{wheel.name}: {wheel.stat().st_size / 1e3:.0f} kB")


@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_the_pins_hold_on_each_python(version: str, folder: Path) -> None:
    asked = ["--extra", "test", "-c", "constraints.txt", "--python-version", version, "-o", folder / f"{version}.txt"]
    run([find_uv(), "pip", "compile", "--quiet", *asked, "pyproject.toml"], cwd=ROOT)


@pytest.mark.parametrize("version", ["3.10", "3.12", "3.13"])
def test_it_works_where_nothing_else_is_installed(
    version: str, wheel: Path, folder: Path, figure: Callable[[str], None]
) -> None:
    found = find_python(version) or pytest.skip(f"no Python {version} was found")
    here = folder / version
    here.mkdir()
    python = make(here / "env", found)
    # flytekit declares Python below 3.13 and works on it.
    env = shell(PIP_IGNORE_REQUIRES_PYTHON="1") if version == "3.13" else shell()
    # What is imported is compiled then: of all that is installed it would take a third of the time.
    command = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "-c",
        ROOT / "constraints.txt",
        f"{wheel}[duckdb]",
    ]
    run(command, cwd=here, env=env)
    assert "No broken requirements" in run([python, "-m", "pip", "check"], cwd=here)
    # -I: nothing of the repository can be imported.
    said = run(
        [python, "-I", Path(__file__).with_name("smoke.py")],
        cwd=here,
        env=shell(HOME=str(here), JUPYTER_RUNTIME_DIR=str(here)),
    )
    got = json.loads(said)
    assert Path(got.pop("from")).is_relative_to(here)
    assert got == {"script": 42, "kernel": {"twice": "42", "text": "'Hello you'"}}
    figure(f"Python {version}: the wheel with the extra duckdb works")
    shutil.rmtree(here)
