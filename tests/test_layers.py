"""The contracts of import-linter in ``pyproject.toml``: that they hold, and that they would notice."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINTER = Path(sysconfig.get_path("scripts"), "lint-imports")

LAYERS = "The layers of the house; the wings know nothing of each other"
RUN = "Run imports nothing of its wing"
PURE = "The rules of propeller are pure: no clock, no files, no threads, no gRPC"
APART = "The grammar and the rendering of what is shown stand apart from what runs"
OURS = "An agent of ours is flytekit's contract and nothing of ours"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LINTER, "--no-cache", "--no-logo"], cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )


def test_the_contracts_hold() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
    for name in (LAYERS, RUN, PURE, APART, OURS):
        assert f"{name} KEPT" in done.stdout


@pytest.mark.parametrize(
    ("module", "statement", "broken"),
    [
        ("running/routing.py", "from flyteagent_nb.serving import catalog", LAYERS),
        ("serving/catalog.py", "from flyteagent_nb.running import run", LAYERS),
        ("agents/duckdb.py", "from flyteagent_nb.serving import capture", LAYERS),
        ("serving/host.py", "from flyteagent_nb import workspace", LAYERS),
        ("errors.py", "from flyteagent_nb import config", LAYERS),
        ("elsewhere.py", "", LAYERS),
        ("running/run.py", "from flyteagent_nb.running import runner", RUN),
        ("running/pace.py", "import time", PURE),
        ("notebook/values.py", "from flyteagent_nb import workspace", APART),
        ("notebook/render.py", "from flyteagent_nb.running import runner", APART),
        ("agents/duckdb.py", "from flyteagent_nb import loop", OURS),
    ],
)
def test_a_contract_notices(tmp_path: Path, module: str, statement: str, broken: str) -> None:
    shutil.copytree(ROOT / "flyteagent_nb", tmp_path / "flyteagent_nb", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "flyteagent_nb" / module).open("a") as file:
        file.write(f"\n{statement}\n")
    done = lint(tmp_path)
    assert done.returncode != 0
    assert f"{broken} BROKEN" in done.stdout
