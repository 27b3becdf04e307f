"""Environments for connectors whose versions do not live with ours; the tests drive a kernel of each.

``python -m connectors.environments FOLDER`` in ``tests/`` makes them and prints the value of the variable CONNECTOR_KERNELS, which names
them: ``airflow=/path/to/python``. Each is a virtual environment with the pins of the file ``NAME.txt`` beside this module, and with this
package, editable. Airflow's is 280 distributions, 1.1 GB: made in 10 s by uv, in 75 s by pip.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path

from browser.kernels import named_kernels

from flyteagent_nb.sandbox.environments import find_uv

PYTHONS = {"airflow": ((3, 10), (3, 13))}
"""The environments, and the versions of Python that each runs on: at least the first, below the second. Airflow 2 has no 3.13."""

VARIABLE = "CONNECTOR_KERNELS"

ROOT = Path(__file__).resolve().parents[2]


def interpreter(name: str) -> str:
    """The interpreter of an environment, as the variable names it; empty where it does not.

    Raises:
        ValueError: the variable reads otherwise.
    """
    return named_kernels(VARIABLE).get(name, "")


def why_not(name: str) -> str:
    """Why this Python cannot make that environment; empty where it can."""
    first, end = PYTHONS[name]
    if first <= sys.version_info[:2] < end:
        return ""
    return f"{name} needs a Python from {first[0]}.{first[1]} to {end[0]}.{end[1] - 1}"


def make(folder: Path, name: str) -> Path:
    """Make an environment.

    Returns:
        Its interpreter.
    """
    place = folder / name
    venv.create(place, with_pip=False, symlinks=os.name != "nt")
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    # Nothing to resolve, as the pins are complete: over these distributions it takes pip minutes.
    what = [
        "--quiet",
        "--no-deps",
        "--requirement",
        str(Path(__file__).with_name(f"{name}.txt")),
        "--editable",
        str(ROOT),
    ]
    if uv := find_uv():
        install = [uv, "pip", "install", "--python", str(python), *what]
    elif importlib.util.find_spec("pip"):
        install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-compile", *what]
    else:
        raise RuntimeError("neither uv nor pip is here: pip install uv")
    subprocess.run(install, check=True, stdout=sys.stderr)
    return python


def main() -> None:
    """Make those that this Python can make, and print their names; why one is left out goes to stderr."""
    folder = Path(sys.argv[1]).resolve()
    made = []
    for name in PYTHONS:
        if reason := why_not(name):
            sys.stderr.write(f"left out: {reason}\n")
        else:
            made.append(f"{name}={make(folder, name)}")
    sys.stdout.write(",".join(made) + "\n")


if __name__ == "__main__":
    main()
