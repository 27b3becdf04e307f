"""Where else a block is: scrolled out of a windowed notebook, in a view of its own, in a cell that was moved, in an Output widget, in a
second tab, and after restarts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scripted_tasks import until

from browser.harness import Cell, new_notebook, open_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from browser.harness import Notebook, Server, Tab

expect = pytest.importorskip("playwright.sync_api").expect

ABORTED = "sum(run.cancelled for run in __import__('flyteagent_nb').get_workspace().runner.runs())"
"""An expression: how many runs of the kernel were cancelled so far."""

TALL = "print('line\\n' * 30)"

WINDOWING = """mode => window.jupyterapp.serviceManager.settings.save(
  '@jupyterlab/notebook-extension:tracker', JSON.stringify({windowingMode: mode}))"""
"""JavaScript: says whether the notebooks that are opened from then on have only those cells on the page that are seen."""

COUNT = """
window.listening = new Map();
for (const [name, step] of [['addEventListener', 1], ['removeEventListener', -1]]) {
  const plain = window[name];
  window[name] = function (kind, ...rest) {
    if (this === window || this === undefined) window.listening.set(kind, (window.listening.get(kind) ?? 0) + step);
    return plain.call(this ?? window, kind, ...rest);
  };
}
"""
"""JavaScript: counts the listeners on the window, from before the application starts."""


SHOWN = """
%load_ext flyteagent_nb
from flyteagent_nb.notebook.extension import _extension
from flyteagent_nb.notebook.progress import Work
page = _extension._page
page.show(Work("Going on", page))
"""
"""A cell: something live on the page, which needs no agent and so no import of flytekit."""


def test_scrolled_out_of_a_windowed_notebook_it_has_caught_up_when_it_is_back(
    warm: str, open_tab: Callable[..., Tab]
) -> None:
    tab = open_tab()
    notebook = open_on(tab, "windowed.ipynb", warm)
    number = notebook.ok("%agent run slow a=1 -b").shows("stage 2 of 4").number
    for _ in range(8):
        notebook.ok(TALL)
    notebook.save()
    tab.page.evaluate(WINDOWING, "full")
    try:
        notebook = tab.open("windowed.ipynb")  # what it shows now is of the file
    finally:
        tab.page.evaluate(WINDOWING, "none")
    notebook.page.get_by_role("button", name="Cancel run").wait_for()
    cell = Cell(notebook, number)
    notebook.evaluate("(panel, n) => panel.content.scrollToItem(n, 'end')", number + 8)
    notebook.page.wait_for_function(
        "e => e.getBoundingClientRect().bottom < 0 || !e.checkVisibility()", arg=cell.root.element_handle()
    )
    notebook.value("[run.cancel() for run in __import__('flyteagent_nb').get_workspace().runner.runs()]")
    notebook.value("[run.exception(30) and None for run in __import__('flyteagent_nb').get_workspace().runner.runs()]")
    notebook.page.wait_for_timeout(500)  # the word of it has come, and found nothing to replace
    notebook.evaluate("(panel, n) => panel.content.scrollToItem(n, 'start')", number)
    notebook.page.get_by_text("Aborted").first.wait_for()
    expect(notebook.root.get_by_role("button", name="Cancel run")).to_have_count(0)


def test_in_a_view_of_its_own_it_acts_and_keeps_the_focus(nb: Notebook) -> None:
    nb.set("timed", "job_of(300.0)")
    cell = nb.ok("%agent run timed a=1 -b").shows("stage 2 of 4")
    panel = nb.ok("%agent")
    aborted = int(nb.value(ABORTED))
    nb.evaluate("(panel, n) => { panel.content.activeCellIndex = n; }", panel.number)
    nb.tab.command("notebook:create-output-view")
    view = nb.page.locator(".jp-LinkedOutputView")
    field = view.get_by_role("textbox", name="Show runs with text")
    field.click()
    nb.page.keyboard.type("ti")
    before = view.locator("[data-fa-block]").element_handle()
    nb.value("__import__('flyteagent_nb').submit(timed, a=2) and None")
    nb.page.wait_for_function("e => !e.isConnected", arg=before)
    nb.page.keyboard.type("med")
    expect(field).to_have_value("timed")
    expect(field).to_be_focused()
    view.get_by_role("button", name="Cancel all").click()
    cell.shows("Aborted")
    view.get_by_text(f"{aborted + 2:,} aborted").wait_for()
    nb.evaluate(
        "panel => { for (const w of [...window.jupyterapp.shell.widgets('main')]) if (w !== panel) w.close(); }"
    )


def test_in_a_cell_that_was_moved_and_in_an_output_widget_it_goes_on(nb: Notebook) -> None:
    """The notebook's own updates reach neither."""
    nb.set("timed", "job_of(300.0)")
    moved = nb.ok("%agent run timed a=1 -b").shows("stage 2 of 4")
    inside = nb.ok(
        "import flyteagent_nb, ipywidgets\nout = ipywidgets.Output()\ndisplay(out)\n"
        "with out:\n    display(flyteagent_nb.submit(timed, a=2))"
    )
    nb.evaluate("(panel, n) => { panel.content.activeCellIndex = n; }", moved.number)
    nb.tab.command("notebook:move-cell-up")
    moved = Cell(nb, moved.number - 1)
    moved.button("Cancel").wait_for()
    for step in ("step 2", "step 3"):
        nb.value(f"[job.script.update(message={step!r}) for job in scripted.jobs.values()]")
        for cell in (moved, inside):
            cell.shows(step, limit=15)


def test_in_a_second_tab_both_follow_and_both_act(warm: str, open_tab: Callable[..., Tab]) -> None:
    first = open_on(open_tab(), "twice.ipynb", warm)
    cells = [first.ok(f"%agent run slow a={i} -b").shows("stage 2 of 4") for i in range(2)]
    first.save()
    second = open_tab().open("twice.ipynb")
    for i, cell in enumerate(cells):
        first.value(f"[job.script.update(message='step {i}') for job in scripted.jobs.values()]")
        for where in (first, second):
            Cell(where, cell.number).shows(f"step {i}", limit=15)
        acting = (first, second)[i]
        Cell(acting, cell.number).button("Cancel").click()
        for where in (first, second):
            Cell(where, cell.number).shows("Aborted", limit=10)
    assert first.value("scripted.open_jobs, scripted.count('delete')") == "([], 2)"


def test_restarts_leave_no_listeners_behind(server: Server, open_tab: Callable[..., Tab]) -> None:
    tab = open_tab()
    tab.page.add_init_script(COUNT)
    new_notebook(server.root / "restarted.ipynb", "")
    notebook = tab.open("restarted.ipynb")
    counts = []
    for _ in range(2):
        notebook.ok(SHOWN).shows("Going on")
        until(lambda: notebook.value("page.connected") == "True")
        counts.append(tab.page.evaluate("window.listening.get('pointerup')"))
        notebook.evaluate("panel => panel.sessionContext.restartKernel()")
        notebook.wait_idle()
    assert counts[0] >= 1 and counts == counts[:1] * 2
    notebook.close()
