"""A notebook that is saved in the middle of a run, and what it shows where it is opened again, whatever became of the kernel."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from scripted_tasks import until

from browser.harness import new_notebook, open_on, prepare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from browser.harness import Cell, Notebook, Server, Tab

AFTERWARDS = """
import threading, pathlib
def end(go, gone):
    until(lambda: pathlib.Path(go).exists())
    run.cancel()
    run.exception(30)
    pathlib.Path(gone).touch()
threading.Thread(target=end, args=({go!r}, {gone!r}), daemon=True).start()
"""
"""A cell: the last run ends when a file is there, whether or not a page is."""


def cells_of(notebook: Notebook, *numbers: int) -> list[Cell]:
    from browser.harness import Cell

    return [Cell(notebook, number) for number in numbers]


def test_saved_in_the_middle_it_tells_of_that_moment_wherever_it_is_opened(
    warm: str, server: Server, open_tab: Callable[..., Tab]
) -> None:
    first = open_tab()
    notebook = open_on(first, "middle.ipynb", warm)
    background = notebook.ok("%agent run slow a=1 -b")
    panel = notebook.ok("%agent")
    form = notebook.ok("%agent form slow a=7")
    busy = notebook.start("slow(a=2)")
    busy.shows("stage 2 of 4")
    shown = (background, panel, form, busy)
    saved = notebook.save()
    ids = [
        notebook.page.evaluate("e => e.innerText.match(/[0-9a-f]{10}/)[0]", c.output.element_handle())
        for c in shown[::3]
    ]
    busy.button("Cancel").click()
    busy.ended()

    for cell in shown:
        (data,) = [o["data"] for o in saved["cells"][cell.number]["outputs"] if "data" in o]
        assert set(data) == {"text/plain", "text/html"}
    copy = server.root / "copy.ipynb"
    bare = server.root / "bare.ipynb"
    shutil.copy(notebook.path, copy)
    content = json.loads(copy.read_text())
    del content["metadata"]["kernelspec"]
    bare.write_text(json.dumps(content))

    tab = open_tab()
    for path, kernel in ((copy, True), (bare, False)):
        again = tab.open(path.name) if kernel else tab.open_beside(path.name, kernel=False)
        cells = cells_of(again, *(cell.number for cell in shown))
        for cell, run_id in zip(cells[::3], ids, strict=True):
            cell.shows("Running").shows(f"%agent show {run_id}").shows("stage 2 of 4")
        cells[1].shows("Agent service").shows("%agent shows it as it is now")
        cells[2].shows("slow")
        for cell in cells:
            assert [b.inner_text() for b in cell.html.locator("button, input, select").all() if b.is_visible()] == []
        assert tab.problems() == []
        if kernel:
            again.close()


def test_opened_again_it_shows_what_became_of_it(warm: str, open_tab: Callable[..., Tab], tmp_path: Path) -> None:
    go, gone = tmp_path / "go", tmp_path / "gone"
    first = open_tab()
    notebook = open_on(first, "closed.ipynb", warm)
    notebook.ok("import flyteagent_nb")
    aborted = int(notebook.value("sum(run.cancelled for run in flyteagent_nb.get_workspace().runner.runs())"))
    ends = notebook.ok("%agent run slow a=1 -b -r run")
    goes_on = notebook.ok("%agent run slow a=2 -b")
    panel = notebook.ok("%agent")
    for cell in (ends, goes_on, panel):
        cell.shows("stage 2 of 4")
    notebook.ok(AFTERWARDS.format(go=str(go), gone=str(gone)))
    notebook.save()
    first.page.goto("about:blank")
    go.touch()
    until(gone.exists)

    again = open_tab().open(notebook.name)
    ends, goes_on, panel = cells_of(again, ends.number, goes_on.number, panel.number)
    ends.shows("Aborted", limit=10)
    assert ends.html.locator("button").count() == 0
    panel.shows(f"{aborted + 1:,} aborted", limit=10)
    again.value("[job.script.update(message='stage 3 of 4') for job in scripted.jobs.values()]")
    goes_on.shows("stage 3 of 4", limit=15)
    panel.shows("stage 3 of 4", limit=15)
    goes_on.button("Cancel").click()
    goes_on.shows("Aborted", limit=10)
    panel.shows(f"{aborted + 2:,} aborted", limit=10)
    assert again.value("scripted.open_jobs, scripted.count('delete')") == "([], 2)"


def test_two_notebooks_in_one_page_reach_their_own_kernels(
    warm: str, server: Server, open_tab: Callable[..., Tab]
) -> None:
    tab = open_tab()
    left = open_on(tab, "left.ipynb", warm)
    new_notebook(server.root / "right.ipynb", "")
    right = tab.open_beside("right.ipynb")
    prepare(right)
    cells = [notebook.ok("%agent run slow a=1 -b") for notebook in (left, right)]
    for cell in cells:
        cell.shows("stage 2 of 4")
    cells[1].button("Cancel").click()
    cells[1].shows("Aborted")
    assert left.value("len(scripted.open_jobs), scripted.count('delete')") == "(1, 0)"
    assert right.value("scripted.open_jobs, scripted.count('delete')") == "([], 1)"
    right.close()
    cells[0].button("Cancel").click()
    cells[0].shows("Aborted")
