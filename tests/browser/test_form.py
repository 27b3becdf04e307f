"""The form: typed values run the task, a wrong one is told beside its field, and nothing that was typed is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Locator

    from browser.harness import Cell, Notebook

expect = pytest.importorskip("playwright.sync_api").expect

TASK = """
import enum, datetime, typing
class Mode(enum.Enum):
    FAST = "fast"
    SAFE = "safe"
trained = scripted_task("echo", name="train",
    inputs=dict(rows=int, rate=float, note=str, dry=bool, mode=Mode, when=datetime.date, tags=typing.List[str]),
    outputs=dict(rows=int, rate=float, note=str, dry=bool, mode=Mode, when=datetime.date, tags=typing.List[str]))
long = scripted_task(name="long", inputs=dict(rows=int, note=str), **LONG)
"""


@pytest.fixture
def form(nb: Notebook) -> Cell:
    nb.value("1")
    nb.ok(TASK)
    cell = nb.ok(
        "%agent form trained rate=0.5 note='n' when=__import__('datetime').date(2024,1,2)".partition(" when")[0]
    )
    cell.button("Run").wait_for()
    return cell


def field(form: Cell, name: str) -> Locator:
    return form.output.locator(f"[data-fa-field][name={name}]")


def fill(form: Cell) -> None:
    field(form, "rows").fill("7")
    field(form, "mode").select_option(label="SAFE") if "SAFE" in field(form, "mode").inner_text() else field(
        form, "mode"
    ).select_option(index=1)
    field(form, "when").fill("2024-02-03")
    field(form, "tags").fill('["a", "b"]')
    field(form, "dry").check()


@pytest.mark.usefixtures("each_app")
def test_it_runs_the_task_with_what_was_typed(nb: Notebook, form: Cell) -> None:
    fill(form)
    form.button("Run").click()
    form.shows("Succeeded")
    nb.set("last", "__import__('flyteagent_nb').get_workspace().runner.find('last').outputs")
    assert nb.value(
        "(last['rows'], last['rate'], last['note'], last['dry'], str(last['when'])[:10], last['tags'])"
    ) == ("(7, 0.5, 'n', True, '2024-02-03', ['a', 'b'])")
    assert field(form, "rows").input_value() == "7"  # for the next time


def test_what_is_wrong_stands_beside_its_field(nb: Notebook, form: Cell) -> None:
    fill(form)
    field(form, "tags").fill("[1,")
    field(form, "rate").fill("")
    form.button("Run").click()
    tags = field(form, "tags")
    expect(tags).to_have_attribute("aria-invalid", "true")
    told = tags.get_attribute("aria-describedby") or ""
    error = form.output.locator(f"[id='{told.split()[0]}']")
    expect(error).to_be_visible()
    box, line = tags.bounding_box(), error.bounding_box()
    assert box is not None and line is not None and abs(line["y"] - box["y"] - box["height"]) < 12
    assert field(form, "rows").get_attribute("aria-invalid") is None
    assert tags.input_value() == "[1,"
    tags.fill("[]")
    field(form, "rate").fill("0.25")
    form.button("Run").click()
    form.shows("Succeeded")
    expect(field(form, "tags")).not_to_have_attribute("aria-invalid", "true")


def test_what_is_typed_in_half_is_not_taken_for_nothing(nb: Notebook, form: Cell) -> None:
    """A browser gives the empty text for it, which would mean None or the default."""
    fill(form)
    begun = "len(__import__('flyteagent_nb').get_workspace().runner.runs())"
    before = nb.value(begun)
    when, rate = field(form, "when"), field(form, "rate")
    when.fill("")
    when.press_sequentially("02")
    rate.fill("")
    rate.press_sequentially("1e400")
    for unfinished, whole in ((rate, "0.25"), (when, "2024-02-03")):
        form.button("Run").click()
        expect(unfinished).to_be_focused()
        assert unfinished.evaluate("e => e.validity.badInput")
        assert nb.value(begun) == before
        unfinished.fill(whole)
    unfinished.press("Enter")
    form.shows("Succeeded")


@pytest.mark.usefixtures("each_app")
def test_enter_runs_and_no_key_is_a_command(nb: Notebook, form: Cell) -> None:
    fill(form)
    before = nb.evaluate("panel => panel.content.widgets.length")
    note = field(form, "note")
    note.click()
    nb.page.keyboard.press("End")
    nb.page.keyboard.type(" a b dd x 00 m")  # each a command of the notebook
    nb.page.keyboard.press("Enter")
    form.shows("Succeeded")
    assert (
        nb.value("__import__('flyteagent_nb').get_workspace().runner.find('last').outputs['note']")
        == "'n a b dd x 00 m'"
    )
    assert nb.evaluate("panel => panel.content.widgets.length") == before
    mode = field(form, "mode")
    mode.focus()
    nb.page.keyboard.press("a")
    field(form, "dry").focus()
    nb.page.keyboard.press("b")
    nb.page.keyboard.press(" ")
    assert nb.evaluate("panel => panel.content.widgets.length") == before
    assert not field(form, "dry").is_checked()


def test_scrolling_past_a_number_leaves_it(nb: Notebook, form: Cell) -> None:
    rows = field(form, "rows")
    rows.fill("7")
    rows.hover()
    turned = nb.page.evaluate_handle(
        "() => ({ done: new Promise(done => window.addEventListener('wheel', () => setTimeout(done))) })"
    )
    nb.page.mouse.wheel(0, 100)
    turned.evaluate("t => t.done")
    expect(rows).to_have_value("7")


def test_what_a_page_cannot_show_is_sent_as_it_was(nb: Notebook) -> None:
    """Marks of direction, of which Windows puts one before a path that is copied, characters 0 and other line ends."""
    nb.set("text", "scripted_task('echo', inputs=dict(s=str, lines=str), outputs=dict(s=str, lines=str))")
    for name, value in (("s", "\u202aC:\\a\u2067b\0"), ("lines", "1\r\n2\r3\n\u202a\x1b[1m")):
        nb.set(name, repr(value))
    form = nb.ok("%agent form text s=s lines=lines")
    form.button("Run").click()
    form.shows("Succeeded")
    assert (
        nb.value("__import__('flyteagent_nb').get_workspace().runner.find('last').outputs == dict(s=s, lines=lines)")
        == "True"
    )


def test_the_longest_numbers_and_times_are_seen_whole(nb: Notebook) -> None:
    nb.ok("import datetime")
    nb.set("sizes", "scripted_task('echo', inputs=dict(n=int, x=float, at=datetime.datetime))")
    for name, value in (
        ("n", "-(2**63)"),
        ("x", "-1.2345678901234567e-300"),
        ("at", "datetime.datetime(2024, 12, 30, 23, 58, 59, 123456)"),
    ):
        nb.set(name, value)
    form = nb.ok("%agent form sizes n=n x=x at=at")
    form.button("Run").wait_for()
    for name in ("n", "x", "at"):
        room, needed = field(form, name).evaluate(
            """e => { const pen = document.createElement('canvas').getContext('2d'); pen.font = getComputedStyle(e).font;
            const spin = 18, padding = 12, copy = e.cloneNode(), room = e.clientWidth;
            if (e.type === 'number') return [room, pen.measureText(e.value).width + spin + padding];
            copy.style.cssText = 'width: auto'; e.replaceWith(copy); return [room, copy.clientWidth]; }"""
        )
        assert room >= needed, name


def test_what_is_typed_outlives_updates_and_its_run_is_cancelled_below(nb: Notebook) -> None:
    nb.ok(TASK)
    form = nb.ok("%agent form long rows=1 note='z'")
    form.button("Run").click()
    form.shows("Running").button("Cancel").wait_for()
    note = field(form, "note")
    note.click()
    nb.page.keyboard.press("End")
    for _ in range(3):  # what is typed goes on where it was, before and after updates
        nb.page.keyboard.type("ab")
        nb.page.keyboard.press("ArrowLeft")
        before = form.blocks.first.element_handle()
        nb.value("[job.script.update(message=str(id(job))) for job in scripted.jobs.values()]")
        nb.value("__import__('flyteagent_nb').get_workspace().runner.find('last').watch(lambda run: None)")
        nb.page.wait_for_function("e => !e.isConnected", arg=before)
    assert note.input_value() == "zaaabbb"
    form.button("Cancel").click()
    form.shows("Aborted")
    expect(note).to_have_value("zaaabbb")
    form.button("Reset").click()
    expect(note).to_have_value("z")


def test_a_form_of_a_cell(nb: Notebook) -> None:
    cell = nb.ok("%%agent_task scripted --form --returns path:str\noutputs:\n  path: /tmp/x")
    cell.button("Run").click()
    cell.shows("Succeeded").shows("/tmp/x")
