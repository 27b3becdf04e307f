"""The panel: it lists what runs, filters by phase and by text, and cancels one run and all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from browser.harness import Cell, Notebook

expect = pytest.importorskip("playwright.sync_api").expect


def rows(panel: Cell) -> list[str]:
    """The tasks of the rows that a person sees."""
    shown = panel.output.locator("[data-fa-row]").locator("visible=true")
    return [row.locator("td").nth(1).inner_text() for row in shown.all()]


def start(nb: Notebook) -> Cell:
    """Start from no runs: a panel with two live runs and two that have ended, one of them badly."""
    nb.value("globals().update(alpha=scripted_task(name='alpha', **LONG), beta=scripted_task(name='beta', **LONG))")
    nb.value(
        "globals().update(gamma=scripted_task(name='gamma'), delta=scripted_task(name='delta', phases=['FAILED'], message='no slot'))"
    )
    nb.set("runs", "[__import__('flyteagent_nb').submit(t) for t in (alpha, beta, gamma, delta)]")
    nb.value("[run.exception(30) for run in runs[2:]]")
    panel = nb.ok("%agent")
    panel.output.locator("[data-fa-filter=text]").wait_for()
    return panel


def test_it_lists_and_filters(nb: Notebook) -> None:
    panel = start(nb)
    text = panel.output.get_by_role("textbox", name="Show runs with text")
    phase = panel.output.get_by_role("combobox", name="Show runs in phase")
    assert rows(panel)[:4] == ["delta", "gamma", "beta", "alpha"]
    panel.shows("Serving").shows("no slot")

    text.click()
    nb.page.keyboard.type("bETa")
    expect(panel.output.locator("[data-fa-row]").locator("visible=true")).to_have_count(1)
    assert rows(panel) == ["beta"]
    before = panel.blocks.element_handle()
    nb.value("runs[0].cancel()")  # an update
    nb.page.wait_for_function("e => !e.isConnected", arg=before)
    nb.page.keyboard.type("x")  # the focus and the caret are where they were
    panel.shows("No run fits the filter")
    assert text.input_value() == "bETax" and rows(panel) == []
    for _ in range(5):
        nb.page.keyboard.press("Backspace")
    phase.select_option("FAILED")
    assert "delta" in rows(panel) and not {"alpha", "beta", "gamma"} & set(rows(panel))
    phase.select_option("")
    assert {"alpha", "beta", "gamma", "delta"} <= set(rows(panel))
    assert (
        len(nb.evaluate("panel => panel.content.widgets.map(c => c.model.sharedModel.source)")) == 2
    )  # no key was a command


@pytest.mark.usefixtures("each_app")
def test_it_cancels_one_and_all(nb: Notebook) -> None:
    panel = start(nb)
    # At once: on a busy machine the panel changes before the driver has found it still in two frames.
    panel.output.get_by_role("button", name="of alpha").dispatch_event("click")
    alpha = panel.output.locator("[data-fa-row]", has_text="alpha").first
    expect(alpha).to_contain_text("Aborted")
    assert nb.value("runs[0].cancelled, runs[1].done, scripted.count('delete')") == "(True, False, 1)"
    nb.value("runs.append(__import__('flyteagent_nb').submit(alpha))")
    panel.button("Cancel all runs").dispatch_event("click")
    panel.shows("Aborted")
    nb.ok("until(lambda: all(run.done for run in runs))")
    assert nb.value("scripted.open_jobs, scripted.count('delete')") == "([], 3)"
    expect(panel.button("Cancel")).to_have_count(0)


def test_it_cancels_while_a_cell_is_busy(nb: Notebook) -> None:
    panel = start(nb)
    cell = nb.start("slow(a=1)")
    cell.button("Cancel").wait_for()
    panel.output.get_by_role("button", name="of slow").click()
    cell.ended()
    assert "was cancelled" in cell.error


def test_an_update_does_not_close_a_list_nor_a_fold(nb: Notebook) -> None:
    panel = start(nb)
    fold = panel.output.locator("details summary").first
    was = fold.evaluate("e => e.parentElement.open")
    fold.click()
    before = panel.blocks.element_handle()
    nb.value("runs[0].cancel()")
    nb.page.wait_for_function("e => !e.isConnected", arg=before)
    assert panel.output.locator("details").first.evaluate("e => e.open") is not was
    phase = panel.output.get_by_role("combobox", name="Show runs in phase")
    phase.click()
    list_ = phase.element_handle()
    nb.value("runs[1].cancel()")
    nb.value("runs[1].exception(30)")
    nb.page.wait_for_timeout(1200)  # two looks of the panel
    assert list_.evaluate("e => e.isConnected")
    nb.page.keyboard.press("Escape")
    phase.select_option("ABORTED")
    panel.shows("beta")


def test_a_second_panel_takes_the_place_of_the_first(nb: Notebook) -> None:
    first = start(nb)
    second = nb.ok("%agent")
    second.button("Cancel all runs").wait_for()
    expect(first.html.locator("button, input, select")).to_have_count(0)
