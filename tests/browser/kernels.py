"""Interpreters with other versions of ipykernel, for the tests that must hold on each.

``python -m browser.kernels FOLDER`` in ``tests/`` makes them and prints the value of the variable BROWSER_KERNELS, which names them:
``6.31=/path/to/python,7.1=/path/to/python``. Each is a virtual environment that has an ipykernel of its own and shares all else with
this interpreter's, so it takes seconds and a download of 0.1 MB.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

VERSIONS = ("6.31", "7.1", "7.3")

VARIABLE = "BROWSER_KERNELS"


def named_kernels(variable: str = VARIABLE) -> dict[str, str]:
    """Interpreters by name, as the variable has them; by the version of their ipykernel where no other variable is asked for.

    Raises:
        ValueError: it reads otherwise.
    """
    named = [each for each in os.environ.get(variable, "").split(",") if each]
    for each in named:
        if "=" not in each:
            raise ValueError(f"{variable}: {each!r} is not NAME=/path/to/python")
    return dict(each.split("=", 1) for each in named)


def make(folder: Path, version: str) -> Path:
    """Make an environment with that ipykernel.

    Returns:
        Its interpreter.
    """
    place = folder / version
    venv.create(place, with_pip=False, symlinks=os.name != "nt")
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True).stdout.strip()
    pip = [sys.executable, "-m", "pip", "--python", str(python)] if importlib.util.find_spec("pip") else ["uv", "pip"]
    to = [] if importlib.util.find_spec("pip") else ["--python", str(python)]
    subprocess.run(
        [*pip, "install", "--quiet", "--no-deps", *to, f"ipykernel=={version}.*"], check=True, stdout=sys.stderr
    )
    # addsitedir, as a plain line would not read the .pth files there, which an editable install consists of.
    (Path(own) / "shared.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    return python


def main() -> None:
    """Make one for each version, and print their names."""
    folder = Path(sys.argv[1]).resolve()
    sys.stdout.write(",".join(f"{version}={make(folder, version)}" for version in VERSIONS) + "\n")


if __name__ == "__main__":
    main()
