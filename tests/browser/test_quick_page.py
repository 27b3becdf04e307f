"""A page with many runs, finished and live: it stays quick, and so does the kernel."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from browser.harness import Notebook

EACH = 50
"""Outputs of a cell that JupyterLab shows before it folds the rest."""


@pytest.mark.slow
def test_the_page_stays_quick(nb: Notebook, figure: Callable[[str], None]) -> None:
    nb.ok(
        "import flyteagent_nb\ndone = scripted_task('noop')\nnothing = [flyteagent_nb.submit(done) for i in range(200)]"
    )
    nb.ok("[run.result() for run in nothing]")
    for i in range(4):
        nb.ok(f"for run in nothing[{i * EACH}:{(i + 1) * EACH}]: display(run)")
    for _ in range(2):
        nb.ok(f"for i in range({EACH}): display(flyteagent_nb.submit(slow, a=i))")
    panel = nb.ok("%agent")
    panel.shows("100 running")
    page = nb.page
    assert nb.root.get_by_role("status").filter(has_text="Succeeded").count() >= 200
    assert nb.root.locator("[data-fa-block]").count() == 101

    page.evaluate(
        """() => { window.long = []; window.frames_ = [];
        new PerformanceObserver(list => window.long.push(...list.getEntries().map(e => e.duration))).observe({type: 'longtask'});
        let last = performance.now();
        const frame = now => { window.frames_.push(now - last); last = now; requestAnimationFrame(frame); };
        requestAnimationFrame(frame); }"""
    )
    began = time.monotonic()
    cell = nb.start("1 + 1")
    cell.ended()
    answered = time.monotonic() - began
    editor = cell.root.locator(".cm-content")
    editor.click()
    typed = "the quick brown fox jumps over the lazy dog " * 2
    began = time.monotonic()
    page.keyboard.type(typed)
    page.wait_for_function("([e, t]) => e.innerText.includes(t.trim())", arg=[editor.element_handle(), typed])
    typing = time.monotonic() - began
    scroller = nb.root.locator(".jp-WindowedPanel-outer")
    for top in range(0, 8000, 400):
        scroller.evaluate(
            "(e, top) => new Promise(done => { e.scrollTop = top; requestAnimationFrame(() => done()); })", top
        )
    watched = time.monotonic() - began + answered
    long, frames = page.evaluate("[window.long, window.frames_]")
    worst = max(long, default=0.0)
    figure(
        f"200 finished runs, 100 live ones and a panel on a page, {watched:.1f} s: {len(long)} long tasks, the longest {worst:.0f} ms, "
        f"{sum(long) / watched / 10:.0f} % of the time; worst frame {max(frames):.0f} ms; a cell answered in {answered * 1e3:.0f} ms; "
        f"{len(typed)} keys in {typing * 1e3:.0f} ms"
    )
    assert sum(long) < watched * 1000 * 0.9  # 10 % on a quiet machine; a page that is not quick has no time left
    panel.button("Cancel all").dispatch_event(
        "click"
    )  # no wait for a frame without a change: on a busy machine there is none
    nb.ok("until(lambda: not scripted.open_jobs)")
    assert nb.value("len(scripted.open_jobs), scripted.count('delete')") == "(0, 100)"
    nb.root.locator("[data-fa-block]").nth(1).wait_for(state="detached")  # the panel is left
