"""The server and the browser that all tests here share, and the notebooks that the tests of a module share."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from browser.harness import LIMIT, RESET, Notebook, Server, Tab, chromium, find_chromium, open_on
from browser.kernels import named_kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import BrowserContext

OWN_PAGE = {"open_tab", "other"}
"""Fixtures that open a page beside the one that all share, which takes many seconds; so does that page in Notebook 7."""
SCREENSHOTS = Path(__file__).parents[2] / "screenshots"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and skip them where there is no browser, but not in CI."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    missing = _missing()
    for item in here:
        item.add_marker(pytest.mark.browser)
        if OWN_PAGE & set(item.fixturenames) or "[notebook" in item.name:  # type: ignore[attr-defined]
            item.add_marker(pytest.mark.slow)
        if missing and not os.environ.get("CI"):
            item.add_marker(pytest.mark.skip(reason=missing))


def _missing() -> str:
    for module in ("playwright", "notebook", "jupyterlab"):
        if importlib.util.find_spec(module) is None:
            return f"no {module}: pip install -e '.[test]'"
    return "" if find_chromium() else "no Chromium: install chromium, or name one in CHROMIUM"


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all."""
    with Server(tmp_path_factory.mktemp("server"), named_kernels()) as server:
        yield server
        server.end_kernels()


# Not for the session: Playwright keeps an event loop on this thread, which other tests need.
@pytest.fixture(scope="package")
def browser() -> Iterator[BrowserContext]:
    """One browser for all."""
    assert not _missing(), _missing()  # in CI, where nothing is skipped
    with chromium() as context:
        yield context


@pytest.fixture
def open_tab(server: Server, browser: BrowserContext) -> Iterator[Callable[..., Tab]]:
    """Opens pages of a test's own, which are looked through and closed at its end."""
    tabs: list[Tab] = []

    def make(app: str = "lab") -> Tab:
        tabs.append(Tab(browser, server, app))
        return tabs[-1]

    yield make
    problems = [problem for tab in tabs for problem in tab.problems()]
    for tab in tabs:
        tab.close()
    assert not problems


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test runs in JupyterLab; those that ask for it run in Notebook 7 too."""
    if "app" in metafunc.fixturenames:
        apps = ["lab", "notebook"] if "each_app" in metafunc.fixturenames else ["lab"]
        metafunc.parametrize("app", apps, indirect=True, scope="package")


@pytest.fixture(scope="package")
def app(request: pytest.FixtureRequest) -> str:
    """``lab`` or ``notebook``."""
    return str(request.param)


@pytest.fixture
def each_app() -> None:
    """For the tests that run in both."""


@pytest.fixture(scope="package")
def warm(server: Server) -> str:
    """The kernel in which the extension and the scripted agents are loaded: importing flytekit is most of a notebook's start."""
    return server.warm_kernel()


@pytest.fixture(scope="package")
def shared(app: str, warm: str, server: Server, browser: BrowserContext) -> Iterator[Notebook]:
    """A notebook on that kernel; all tests share it, one after the other."""
    tab = Tab(browser, server, app)
    yield open_on(tab, f"shared-{app}.ipynb", warm)
    tab.close()


@pytest.fixture
def nb(shared: Notebook) -> Iterator[Notebook]:
    """That notebook, empty, with nothing under way; it is looked through at the test's end."""
    shared.wait_idle()
    shared.clear()
    shared.value(RESET)
    yield shared
    shared.page.keyboard.press("Escape")
    shared.wait_idle()
    shared.value("[run.cancel() for run in __import__('flyteagent_nb').get_workspace().runner.runs() if not run.done]")
    problems = shared.tab.problems()
    shared.tab.console.clear()
    shared.tab.offsite.clear()
    assert not problems


@pytest.fixture
def pictures() -> Path:
    """Where screenshots go."""
    SCREENSHOTS.mkdir(exist_ok=True)
    return SCREENSHOTS


assert LIMIT < 240  # pytest's own limit: ours must tell first
