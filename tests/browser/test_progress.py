"""Long work of the kernel on a page: the start of the agent service, and work that says how far it is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kernel.harness import LOAD
from kernel.test_progress import SLOW
from test_loading import make_plugins

from browser.harness import new_notebook

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from browser.harness import Notebook, Server, Tab

WORK = """
from flyteagent_nb.notebook import extension
import threading, time
with extension._extension._showing.work("Starting the sandbox") as work:
    for part, text in enumerate(["installing <b>it</b>", "waiting for it to answer"]):
        work.say(text, part=part / 2)
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            sum(range(1000))
"""


def test_the_start_tells_what_it_is_at(open_tab: Callable[..., Tab], server: Server, tmp_path: Path) -> None:
    make_plugins(tmp_path, {"slow_one": SLOW})
    new_notebook(server.root / "start.ipynb", "")
    notebook = open_tab().open("start.ipynb")
    notebook.ok(
        f"import os, sys\nsys.path.insert(0, {str(tmp_path)!r})\nos.environ['SLOW_PLUGIN'] = {str(tmp_path / 'go')!r}\n{LOAD}"
    )
    cell = notebook.start("types = %agent types")
    cell.shows("importing plug-in slow_one").shows("Starting the agent service")
    before = cell.text
    notebook.page.wait_for_function(
        "([e, before]) => e.innerText !== before", arg=[cell.output.element_handle(), before]
    )
    (tmp_path / "go").touch()
    cell.ended()
    assert cell.text.startswith("✓ Agent service, "), cell.text
    notebook.close()


def test_work_shows_how_far_it_is_while_main_is_busy(nb: Notebook) -> None:
    cell = nb.ok("%agent run slow a=1 -b")  # so that a page listens
    cell.shows("stage 2 of 4")
    cell = nb.start(WORK)
    cell.shows("installing <b>it</b>")
    clock = cell.output.locator("[data-fa-elapsed]")
    first = float(clock.inner_text().removesuffix(" s"))
    assert 0.9 <= first < 4
    cell.shows("waiting for it to answer").shows("50 %")
    bar = cell.output.get_by_role("progressbar", name="Starting the sandbox")
    assert bar.get_attribute("aria-valuenow") == "50"
    assert bar.bounding_box()["height"] == 4  # type: ignore[index]
    took = re.search(r"installing <b>it</b>\s*([\d.]+) s", cell.text)
    assert took and float(took[1]) >= 2.5, cell.text
    cell.ended().shows("✓ Sandbox, 5")
    (shown,) = [o for o in nb.save()["cells"][cell.number]["outputs"] if o["output_type"] == "display_data"]
    assert "".join(shown["data"]["text/plain"]).startswith("✓ Sandbox, 5")
    assert "data-fa" not in "".join(shown["data"]["text/html"])
