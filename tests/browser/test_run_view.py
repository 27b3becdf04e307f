"""A run while it goes on and when it is over: what the page shows, and what the saved notebook keeps of it."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from browser.harness import Cell, Notebook

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.mark.usefixtures("each_app")
def test_it_comes_after_a_second_ticks_by_itself_and_ends_static(nb: Notebook, pictures: Path) -> None:
    nb.set("timed", "job_of(4.0)")
    pid = int(nb.value("__import__('os').getpid()"))
    began = time.monotonic()
    cell = nb.start("%agent run timed a=1")
    cell.blocks.wait_for()
    assert 0.8 <= time.monotonic() - began < 5
    cell.shows("stage 2 of 4").shows("looked").shows("Running")
    link = cell.output.get_by_role("link", name="Console")
    assert link.get_attribute("href") == "https://example.com/x"
    assert "noopener" in (link.get_attribute("rel") or "")
    for name in ("Cancel run", "Copy a cell that attaches"):
        assert cell.button(name).is_visible()
    clock = cell.output.locator("[data-fa-elapsed]")
    os.kill(pid, signal.SIGSTOP)
    try:
        nb.page.wait_for_timeout(300)  # what the kernel sent before
        first = float(clock.inner_text().removesuffix(" s"))
        nb.page.wait_for_function(
            "([e, first]) => parseFloat(e.innerText) >= first + 0.9", arg=[clock.element_handle(), first], timeout=5000
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    cell.shows("Succeeded").ended()

    assert not cell.error
    left = cell.html.locator("[data-fa-kernel], button, input, svg")
    assert left.count() == 0, left.first.evaluate("e => e.outerHTML")
    assert "%agent show" not in cell.text
    (shown,) = [o for o in nb.save()["cells"][cell.number]["outputs"] if o["output_type"] == "display_data"]
    assert set(shown["data"]) == {"text/plain", "text/html"}
    html, text = "".join(shown["data"]["text/html"]), "".join(shown["data"]["text/plain"])
    assert "Succeeded" in html and "<svg" not in html and "<button" not in html and "data-fa-kernel" not in html
    assert text.startswith("✓ Succeeded  job  (scripted)")
    assert WIDGET not in nb.path.read_text() and "widgets" not in json.loads(nb.path.read_text())["metadata"]


def test_a_quick_run_is_shown_once_and_a_quick_call_not_at_all(nb: Notebook) -> None:
    nb.set("timed", "job_of(0.0)")
    assert nb.ok("timed(a=1)").output.locator("[role=status]").count() == 0
    assert nb.ok("%agent run timed a=1").output.locator("[role=status]").inner_text() == "✓ Succeeded"


def test_a_run_that_fails_at_once_is_shown_above_its_error(nb: Notebook) -> None:
    nb.set(
        "fails", "scripted_task(name='fails', phases=['FAILED'], message='it rained', prints={'create': 'submitted'})"
    )
    cell = nb.run("fails()")
    assert [output["output_type"] for output in cell.outputs] == ["display_data", "error"]
    assert cell.output.locator("[role=status]").inner_text() == "✗ Failed"
    assert cell.text.count("submitted") == 1 and cell.text.count("it rained") == 1
    assert cell.blocks.count() == 0  # it has ended, and nothing in it acts


def test_copy_gives_what_names_the_job(nb: Notebook) -> None:
    cell = nb.ok("%agent run slow a=1 -b")
    cell.shows("stage 2 of 4").button("Copy").click()
    cell.shows("Copied")
    nb.value("[job.script.update(message='stage 3 of 4') for job in scripted.jobs.values()]")
    nb.page.wait_for_timeout(700)
    cell.shows("Copied", limit=0.1)  # an update does not take it away
    cell.shows("stage 3 of 4")
    verb, named = nb.page.evaluate("navigator.clipboard.readText()").split("\n# ")
    copied = json.loads(named)
    assert verb == f"%agent attach {copied['run']}"
    assert copied["task"] == "slow" and copied["service"] == "kernel" and "job-" in copied["resource_meta"]


def test_a_screen_reader_is_told_of_the_phases_and_of_nothing_else(nb: Notebook) -> None:
    nb.set("timed", "job_of(3.0)")
    cell = nb.ok("%agent run timed a=1 -b")
    cell.shows("Succeeded")
    voice = nb.page.locator("body > [aria-live=polite]").filter(has_text="job")
    voice.get_by_text("job: Succeeded").wait_for(state="attached")
    assert cell.output.locator("[role=status]:not([aria-live=off])").count() == 0


def test_nothing_jumps_while_it_goes_on(nb: Notebook) -> None:
    nb.set("timed", "job_of(300.0)")
    cell = nb.ok("%agent run timed a=1 -b")
    cell.shows("stage 2 of 4")
    for _ in range(4):
        cell.output.get_by_text("looked").first.wait_for()
    heights = nb.page.evaluate(
        """block => new Promise(done => {
            const found = new Set(), area = block.closest('.jp-OutputArea');
            const look = setInterval(() => found.add(area.getBoundingClientRect().height), 20);
            setTimeout(() => { clearInterval(look); done([...found]); }, 2500); })""",
        cell.blocks.element_handle(),
    )
    assert len(heights) == 1, heights


def test_a_narrow_page_holds_it(nb: Notebook) -> None:
    long = "a" * 80
    more = f"message='{long} {long}', links={{'{long}': 'https://example.com/{long}'}}, prints={{'create': '{long}{long}'}}, **LONG"
    nb.set("wide", f"scripted_task(inputs={{'{long}': int}}, name='{long}', {more})")
    before = nb.page.viewport_size
    assert before is not None
    try:
        nb.page.set_viewport_size({"width": 500, "height": 900})
        nb.ok(f"@workflow\ndef flow_of_wide(a: int):\n    wide({long}=a)")
        codes = (f"%agent run wide {long}=1 -b", f"%agent form wide {long}=1", "%agent", "flow_of_wide(a=1)")
        for code in codes:
            over = nb.page.evaluate(
                """area => { const frame = area.querySelector('.jp-RenderedHTML > *'), scrolls = frame.parentElement;
                const right = Math.min(frame.getBoundingClientRect().right, area.getBoundingClientRect().right) + 1;
                const over = [...frame.querySelectorAll('*')].filter(e => {
                  const box = e.getBoundingClientRect(), inside = e.parentElement.closest('[style*=overflow]:not([style*=overflow-wrap])');
                  return box.width > 1 && box.right > right && !(inside && frame.contains(inside)); });
                return [scrolls.scrollWidth > scrolls.clientWidth, ...over.map(e => e.outerHTML.slice(0, 200))]; }""",
                nb.start(code).shows("aaaaa").output.element_handle(),
            )
            assert over == [False], code
    finally:
        nb.stop()
        nb.page.set_viewport_size(before)


def test_a_bar_is_seen_where_the_system_forces_its_colours(nb: Notebook) -> None:
    nb.set("fails", "scripted_task(name='bad', phases=['FAILED'], message='no')")
    cell = nb.ok("%agent run fails -b").shows("Failed")
    colours = """e => [...e.querySelectorAll('[role=img] > span')].map(s => getComputedStyle(s).backgroundColor)"""
    before = cell.html.evaluate(colours)
    nb.page.emulate_media(forced_colors="active")
    try:
        assert cell.html.evaluate(colours) == before
    finally:
        nb.page.emulate_media(forced_colors="none")
    assert len(set(before)) == 2


@pytest.mark.usefixtures("each_app")
def test_many_ticks_do_not_lose_the_focus(nb: Notebook) -> None:
    """Tab reaches Cancel, the focus outlives updates, Enter cancels, and then the notebook has it again."""
    nb.set("timed", "job_of(300.0)")
    cell = nb.ok("%agent run timed a=1 -b")
    cell.shows("looked")
    cell.root.locator(".jp-InputPrompt").click()
    reached = ""
    for _ in range(30):
        nb.page.keyboard.press("Tab")
        reached = nb.page.evaluate("document.activeElement.getAttribute('aria-label') ?? ''")
        if reached.startswith("Cancel run"):
            break
    assert reached.startswith("Cancel run")
    first = nb.page.evaluate_handle("document.activeElement")
    nb.page.wait_for_function("e => !e.isConnected", arg=first)  # replaced
    nb.page.wait_for_function("() => document.activeElement.getAttribute('aria-label')?.startsWith('Cancel run')")
    nb.page.keyboard.press("Enter")
    cell.shows("Aborted", limit=10)
    assert nb.value("scripted.count('delete')") == "1"
    nb.page.wait_for_function("() => document.activeElement.closest('.jp-Notebook') !== null", timeout=5000)
    assert cell.root.locator(".cm-editor.cm-focused").count() == 0  # Enter did not begin to edit the cell


def test_a_restart_leaves_what_was_shown_without_buttons(nb: Notebook, figure: Callable[[str], None]) -> None:
    from browser.harness import prepare

    cell: Cell = nb.ok("%agent run slow a=1 -b")
    cell.shows("stage 2 of 4")
    nb.evaluate("panel => panel.sessionContext.restartKernel()")
    nb.wait_idle()
    cell.button("Cancel").wait_for(state="hidden")
    cell.shows("%agent show")
    prepare(nb)
    again = nb.ok("%agent run slow a=1 -b")
    again.button("Cancel").wait_for()
    assert cell.button("Cancel").count() == 0  # that run's kernel is gone
    again.button("Cancel").click()
    again.shows("Aborted")


def test_updates_keep_the_selected_text_and_a_focused_link(nb: Notebook) -> None:
    nb.set("timed", "job_of(300.0)")
    cell = nb.ok("%agent run timed a=1 -b")
    cell.shows("stage 2 of 4")
    # The block may be replaced between two steps of a test, so it is found and marked in one.
    before = nb.page.wait_for_function(
        """output => { const block = output.querySelector('[data-fa-block]');
        const walker = document.createTreeWalker(block, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) if (walker.currentNode.data.includes('stage 2 of 4')) break;
        document.getSelection().setBaseAndExtent(walker.currentNode, 6, walker.currentNode, 12);
        return document.getSelection().toString() === '2 of 4' && block; }""",
        arg=cell.output.element_handle(),
    ).as_element()
    nb.page.wait_for_function("e => !e.isConnected", arg=before)
    nb.page.wait_for_function("() => document.getSelection().toString() === '2 of 4'")
    again = cell.blocks.element_handle()
    nb.page.wait_for_function("e => !e.isConnected", arg=again)  # and once more
    nb.page.wait_for_function("() => document.getSelection().toString() === '2 of 4'")
    cell.output.get_by_role("link", name="Console").focus()
    again = cell.blocks.element_handle()
    nb.page.wait_for_function("e => !e.isConnected", arg=again)
    nb.page.wait_for_function("() => document.activeElement.href === 'https://example.com/x'")
