"""What a Python that a test starts finds: this project and its tests, and flytekit with or without the plug-ins that are installed.

flytekit imports each plug-in that has an entry point, and those of this environment take longer than flytekit itself. So most
processes of the tests run as they do for a person who has no plug-in; those that have to do with plug-ins ask for them.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent


def hide_plugins(folder: Path) -> None:
    """Make every Python that this process starts find the plug-ins without their entry points, and spare it another long import.

    Of two distributions with one name, Python takes the one that it finds first: it has no entry points, and lies in ``folder``.
    """
    for name in {point.dist.name for point in entry_points(group="flytekit.plugins") if point.dist is not None}:
        info = folder / f"{name.replace('-', '_')}-0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0\n")
    # jsonschema, where it is there, builds a grammar of Unicode addresses with it, for seconds, in each server and each notebook's reader.
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # as if it were not there
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rfc3987_syntax.py").write_text("raise ImportError('left out: see python_path.py')\n")
    os.environ["PYTHONPATH"] = python_path(folder)


def python_path(*folders: str | Path) -> str:
    """A value of PYTHONPATH: these folders, and then what this process's own names."""
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*map(str, folders), *([inherited] if inherited else [])])


def with_plugins(*folders: str | Path) -> str:
    """A value of PYTHONPATH: these folders alone, so that the plug-ins are found as they are installed."""
    return os.pathsep.join(map(str, folders))
