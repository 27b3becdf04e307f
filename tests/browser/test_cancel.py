"""Cancel is clicked, or stop: the job is deleted and the cell ends, however the run was started and whichever ipykernel runs it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from browser.harness import open_on
from browser.kernels import VARIABLE, VERSIONS, named_kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import BrowserContext

    from browser.harness import Cell, Notebook, Server

SOON = 10_000
"""Milliseconds in which a click must have been answered: a busy machine may need some; the figures tell what it takes."""

WAYS = {
    "%agent run": "%agent run slow a=1",
    "%%agent_task": "%%agent_task scripted\nphases: [RUNNING]",
    "a call": "slow(a=1)",
    "a workflow": "flow(a=1)",
    "a cell that ran another": "get_ipython().run_cell('1')\nslow(a=1)",
    "an async cell": "import asyncio\nawait asyncio.sleep(0)\nslow(a=1)",
}


def click_cancel(cell: Cell) -> float:
    """Click the first Cancel.

    Returns:
        The milliseconds from the click to the kernel's word for it.
    """
    page = cell.notebook.page
    area = cell.output.element_handle()
    page.evaluate(
        r"""area => { const told = window.toldAfter = {};
        window.addEventListener('pointerup', () => told.clicked = performance.now(), {capture: true, once: true});
        const says = e => /Stopping|Aborted|aborted/.test(e.innerText) && !e.querySelector('button');
        const look = () => {
          if ([...area.querySelectorAll('[role=status], td')].some(says)) told.said = performance.now();
          else requestAnimationFrame(look); };
        look(); }""",
        area,
    )
    cell.button("Cancel").first.click()
    page.wait_for_function("window.toldAfter.said", timeout=SOON)
    taken: dict[str, Any] = page.evaluate("window.toldAfter")
    return float(taken["said"] - taken["clicked"])


@pytest.mark.usefixtures("each_app")
@pytest.mark.parametrize("way", WAYS)
def test_by_click_while_the_cell_is_busy(nb: Notebook, app: str, way: str, figure: Callable[[str], None]) -> None:
    cancel_while_busy(nb, way, app, figure)


def cancel_while_busy(nb: Notebook, way: str, where: str, figure: Callable[[str], None]) -> None:
    cell = nb.start(WAYS[way])
    cell.button("Cancel").first.wait_for()
    assert cell.busy
    taken = click_cancel(cell)
    figure(f"{where}: {way}: {taken:.0f} ms from the click on Cancel to the kernel's word for it")
    cell.ended()
    assert "was cancelled" in cell.error
    assert nb.value("scripted.open_jobs, scripted.count('create'), scripted.count('delete')") == "([], 1, 1)"
    assert cell.button("Cancel").count() == 0


def test_by_click_on_a_background_run(nb: Notebook, app: str, figure: Callable[[str], None]) -> None:
    cell = nb.ok("%agent run slow a=1 -b")
    cell.shows("stage 2 of 4")
    assert not cell.busy
    taken = click_cancel(cell)
    figure(f"{app}: in the background: {taken:.0f} ms")
    cell.shows("Aborted")
    nb.ok("until(lambda: not scripted.open_jobs)")
    assert nb.value("scripted.count('delete')") == "1"


def test_by_click_while_another_cell_waits(nb: Notebook) -> None:
    background = nb.ok("%agent run slow a=1 -b")
    background.shows("stage 2 of 4")
    busy = nb.start("slow(a=2)")
    busy.button("Cancel").wait_for()
    click_cancel(background)
    background.shows("Aborted")
    assert busy.busy and nb.page.evaluate("1") == 1
    busy.button("Cancel").click()
    busy.ended()
    assert nb.value("scripted.open_jobs, scripted.count('delete')") == "([], 2)"


@pytest.mark.usefixtures("each_app")
def test_by_the_stop_button(nb: Notebook) -> None:
    cell = nb.start("slow(a=1)")
    cell.button("Cancel").wait_for()
    nb.stop()
    cell.shows("Aborted", limit=SOON / 1000).ended()
    assert cell.error.startswith("TaskStopped: stopped by the user")
    assert nb.value("scripted.open_jobs, scripted.count('delete')") == "([], 1)"


# --- other versions of ipykernel ---


@pytest.fixture(scope="module")
def others(server: Server) -> dict[str, str]:
    """Kernels by the version of their ipykernel; all load while the first is tested."""
    return {version: server.warm_kernel(version) for version in VERSIONS if version in named_kernels()}


@pytest.fixture(scope="module", params=VERSIONS)
def other(
    request: pytest.FixtureRequest, others: dict[str, str], server: Server, browser: BrowserContext
) -> Iterator[Notebook]:
    """A notebook whose kernel has another ipykernel."""
    from browser.harness import Tab

    version = request.param
    if version not in others:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            f"{VARIABLE} names no interpreter with ipykernel {version}"
        )
    tab = Tab(browser, server)
    notebook = open_on(tab, f"ipykernel-{version}.ipynb", others[version], kernel=version)
    assert notebook.value("__import__('ipykernel').__version__").strip("'").startswith(f"{version}.")
    yield notebook
    notebook.close()
    problems = tab.problems()
    tab.close()
    assert not problems


@pytest.mark.parametrize("way", ["%agent run", "a call", "a cell that ran another", "an async cell"])
def test_by_click_on_another_ipykernel(other: Notebook, way: str, figure: Callable[[str], None]) -> None:
    other.value("[each.clear() for each in (scripted.jobs, scripted.calls)]")
    cancel_while_busy(other, way, f"lab, {other.name.removesuffix('.ipynb')}", figure)


def test_by_the_stop_button_on_another_ipykernel(other: Notebook) -> None:
    other.value("[each.clear() for each in (scripted.jobs, scripted.calls)]")
    test_by_the_stop_button(other)
