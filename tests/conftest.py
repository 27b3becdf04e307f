"""What every test needs: a home of its own, so that nothing of the person who runs the tests is read or changed.

It is set when pytest reads this file, before a test module imports flytekit or grpc, and is inherited by every kernel and process that
a test starts.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from python_path import hide_plugins

if TYPE_CHECKING:
    from collections.abc import Callable

_HOME = Path(tempfile.mkdtemp(prefix="fa-home-"))

for _name in list(os.environ):
    # Our settings, and where flytekit looks for its configuration.
    if _name.startswith(("FLYTEAGENT_NB_", "FLYTE_", "_FLYTECTL_")) or _name == "FLYTECTL_CONFIG":
        del os.environ[_name]

# Hundreds of processes import flytekit here: to compile it each time takes four times as long as to read what was compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

os.environ.update(
    # flytekit reads ~/.flyte/config.yaml and keeps the outputs of cache=True in ~/.flyte/local-cache; it has no setting for the latter.
    HOME=str(_HOME),
    USERPROFILE=str(_HOME),
    # The kernelspecs of sys.prefix are found all the same; those of the person are not.
    IPYTHONDIR=str(_HOME / "ipython"),
    JUPYTER_CONFIG_DIR=str(_HOME / "jupyter-config"),
    JUPYTER_DATA_DIR=str(_HOME / "jupyter-data"),
    JUPYTER_RUNTIME_DIR=str(_HOME / "jupyter-runtime"),
    # As `%load_ext` sets it, but a test module may import grpc first. A test of the other order takes it out of its process's environment.
    GRPC_ENABLE_FORK_SUPPORT="0",
    # Where the journal lies by default.
    XDG_DATA_HOME=str(_HOME / "data"),
)
if sys.version_info < (3, 11):
    # What google-api-core says of Python 3.10 on every import: pyproject.toml passes over it here, this in the processes that tests start.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:You are using a non-supported Python version:FutureWarning")

hide_plugins(_HOME / "without-plugins")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is slow where the whole suite is run by hand."""
    if os.environ.get("CI") or config.option.file_or_dir:
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: runs with CI=true, and where its file is named"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run the tests of a file in one process, and all that drive the browser: they share its pages and a server."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "browser" if "/browser/" in file else file

    return Scheduling(config, log)


_figures: list[str] = []


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Tells a figure at the end of the session."""
    return lambda text: record_property("figure", text)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what a test measured; of a test that ran in a worker too, which sends its reports here."""
    if report.when == "teardown":
        _figures.extend(str(value) for name, value in report.user_properties if name == "figure")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what was measured on the way."""
    if _figures:
        terminalreporter.section("measured on the way")
        for line in _figures:
            terminalreporter.line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take the home away again."""
    shutil.rmtree(_HOME, ignore_errors=True)
