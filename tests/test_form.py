"""The form: its HTML and text, and the block that runs a real task through a real agent service."""

from __future__ import annotations

import enum
import threading
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, Optional

import pandas
import pytest
from flytekit.core.docstring import Docstring
from flytekit.core.interface import Interface
from flytekit.types.structured import StructuredDataset
from scripted_tasks import PATIENCE, Agents, scripted_task, until

from flyteagent_nb.errors import InputError
from flyteagent_nb.notebook.fields import all_fields, fields_of
from flyteagent_nb.notebook.form import FormBlock, form_html, form_text
from flyteagent_nb.notebook.page import Page

if TYPE_CHECKING:
    from pathlib import Path

    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)

# ruff: noqa: UP045 - read at run time, on Python 3.10 too


class Mode(enum.Enum):
    FAST = "fast"
    DEEP = "thorough"


@dataclass
class Queue:
    name: str
    spot: bool = True


@dataclass
class Resources:
    cpus: int = 2
    queue: Queue = field(default_factory=lambda: Queue("default"))


VOID = {"input", "br", "hr", "img"}


class Elements(HTMLParser):
    """The elements of a piece of HTML, as (tag, attributes, text up to the next tag); it must be well nested."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.found:
            tag, attributes, text = self.found[-1]
            self.found[-1] = (tag, attributes, text + data)

    def all(self, tag: str, **attributes: str) -> list[tuple[dict[str, str | None], str]]:
        return [
            (has, text)
            for name, has, text in self.found
            if name == tag and all(has.get(key) == value for key, value in attributes.items())
        ]

    def control(self, name: str) -> tuple[str, dict[str, str | None], str]:
        (only,) = [found for found in self.found if "data-fa-field" in found[1] and found[1]["name"] == name]
        return only


INTERFACE = Interface(
    {
        "rows": pandas.DataFrame,
        "rate": (float, 0.5),
        "rounds": (int, 100),
        "shuffle": (bool, True),
        "mode": (Mode, Mode.DEEP),
        "metric": Literal["auc", "rmse"],
        "patience": (timedelta, timedelta(minutes=90)),
        "layers": (list[int], [64, 32]),
        "query": (str, "\nSELECT <1>\nFROM t"),
        "seed": (Optional[int], None),
        "resources": (Resources, Resources()),
        "limits": (Optional[Queue], None),
    },
    docstring=Docstring(docstring="Train.\n\nArgs:\n    rows: one row <an> order\n"),
)
FIELDS = fields_of(INTERFACE)


def html(texts: dict[str, str | bool] | None = None, errors: dict[str, str] | None = None, **more: Any) -> str:
    kept: dict[str, Any] = {"kernel": "k1", "block": "b1", **more}
    return form_html("train", "batch", FIELDS, texts or {}, errors or {}, **kept)


# --- how it looks ---


def test_each_input_has_a_control_of_its_kind_with_its_value_and_its_label() -> None:
    page = Elements(html())
    expected = {
        "rows": ("input", "text", ""),
        "rate": ("input", "number", "0.5"),
        "rounds": ("input", "number", "100"),
        "shuffle": ("input", "checkbox", None),
        "mode": ("select", None, None),
        "metric": ("select", None, None),
        "patience": ("input", "text", "1h30m"),
        "layers": ("textarea", None, None),
        "query": ("textarea", None, None),
        "seed": ("input", "number", ""),
        "resources.cpus": ("input", "number", "2"),
        "resources.queue.name": ("input", "text", "default"),
        "resources.queue.spot": ("input", "checkbox", None),
        "limits": ("input", "checkbox", None),
        "limits.name": ("input", "text", ""),
        "limits.spot": ("input", "checkbox", None),
    }
    labels = [has["for"] for has, _ in page.all("label")]
    for name, (tag, kind, value) in expected.items():
        found, has, _ = page.control(name)
        assert (found, has.get("type"), has.get("value")) == (tag, kind, value), name
        assert labels.count(has["id"]) == 1
    assert len(labels) == len(expected)
    assert "checked" in page.control("shuffle")[1]
    assert "checked" not in page.control("limits")[1]
    assert page.control("rate")[1]["step"] == "any"
    assert page.control("seed")[1]["placeholder"] == "None"
    # The parser of a browser takes the first newline of a text area away.
    assert page.control("query")[2] == "\n\nSELECT <1>\nFROM t"
    selected = [text for has, text in page.all("option") if "selected" in has]
    assert selected == ["DEEP (thorough)", "choose one"]


def test_a_required_field_is_marked_for_eye_and_ear() -> None:
    page = Elements(html())
    required = [f.name for f in all_fields(FIELDS) if f.required]
    assert required == ["rows", "metric", "resources.queue.name", "limits.name"]
    assert [has["name"] for _, has, _ in page.found if has.get("aria-required")] == required
    assert [text for _, text in page.all("span", **{"aria-hidden": "true"})] == ["*"] * 4 + ["* required"]
    assert [text.strip() for has, text in page.all("span") if "clip-path" in str(has.get("style"))] == ["required"] * 4


def test_what_was_typed_stays_and_an_error_stands_at_its_field() -> None:
    errors = {"rate": "not a <number>", "resources": "too much", "limits": "not ticked", "": "no agent"}
    page = Elements(html({"rate": "fa<st", "shuffle": False, "mode": "FAST", "layers": "[", "limits": True}, errors))
    _, rate, _ = page.control("rate")
    assert (rate["value"], rate["type"], rate["aria-invalid"]) == (
        "fa<st",
        "text",
        "true",
    )  # a number field would hide it
    told = {str(has["id"]): text for has, text in page.all("div") if has.get("id")}
    assert told[str(rate["aria-describedby"])] == "✗ not a <number>"
    ((group, _),) = [(has, text) for has, text in page.all("fieldset") if "aria-describedby" in has]
    assert told[str(group["aria-describedby"])] == "✗ too much"
    assert told[str(page.control("limits")[1]["aria-describedby"])] == "✗ not ticked"
    assert told[str(page.control("rows")[1]["aria-describedby"])] == "one row <an> order"
    assert "checked" not in page.control("shuffle")[1]
    assert "checked" in page.control("limits")[1]
    assert page.control("layers")[2] == "\n["
    assert "FAST" in [text for has, text in page.all("option") if "selected" in has]
    assert [text for _, text in page.all("span", role="status")] == ["✗ 3 inputs are not right yet; no agent"]
    assert sum(has.get("aria-invalid") == "true" for _, has, _ in page.found) == 2


@pytest.mark.parametrize(
    ("python_type", "text", "shown"),
    [
        *((float, text, "text") for text in ("inf", "nan", "fast", "1e999", " 5", "+5", "5.", "1_000", "\u0665")),
        *((float, text, "number") for text in ("-0.0", ".5", "1e-05", "1.5E+3", "")),
        (int, "1_000", "text"),
        (int, "-3", "number"),
        (date, "20240131", "text"),
        (date, "2024-02-30", "text"),
        (date, "2024-01-31", "date"),
        (datetime, "2024-01-31T12:00:00Z", "text"),
        (datetime, "2024-01-31T12:00:00.1234", "text"),
        (datetime, "2024-01-31T12:00", "datetime-local"),
        (datetime, "2024-01-31T12:00:00.123", "datetime-local"),
    ],
)
def test_what_a_field_of_its_type_would_not_show_is_in_a_text_field(python_type: Any, text: str, shown: str) -> None:
    form = form_html("a", "b", fields_of(Interface({"x": python_type})), {"x": text}, {}, kernel="k", block="b")
    assert Elements(form).control("x")[1]["type"] == shown


def test_run_sends_the_fields_and_is_off_while_a_run_is_under_way() -> None:
    ((idle, word),) = Elements(html()).all("button", **{"data-fa-do": "run"})
    assert "data-fa-fields" in idle
    assert (idle["data-fa-busy"], idle.get("aria-disabled"), word) == ("Running", None, "Run")
    ((busy, word),) = Elements(html(busy=True, below="<p>run</p>")).all("button", **{"data-fa-do": "run"})
    assert (busy.get("data-fa-busy"), busy["aria-disabled"], word) == (None, "true", "Running")


def test_what_acts_is_marked_and_hidden_where_no_widget_runs() -> None:
    page = Elements(html(reset=2))
    assert [(has["data-fa-block"], has["data-lm-suppress-shortcuts"]) for _, has, _ in page.found[:1]] == [
        ("b1", "true")
    ]
    ((controls, _),) = page.all("div", **{"class": "fnb-live"})
    assert controls["style"] == "display:none"
    assert {has["data-fa-reset"] for _, has, _ in page.found if "data-fa-field" in has} == {"2"}
    still = html().partition('class="fnb-still"')[2].partition('class="fnb-live"')[0]
    for word in ("rows", "DataFrame", "required", "1h30m", "[64, 32]", "resources.queue.name"):
        assert word in still
    assert "limits.name" not in still  # the group is None


def test_variables_are_offered_for_data() -> None:
    page = Elements(html(variables={"rows": ["df", "<b>"]}))
    listed = page.control("rows")[1]["list"]
    assert [has["id"] for has, _ in page.all("datalist")] == [listed]
    assert [has["value"] for has, _ in page.all("option")][:2] == ["df", "<b>"]


def test_where_nothing_is_live_the_inputs_are_a_table() -> None:
    dead = html({"rate": "0.1"}, {"rate": "no"}, kernel="", below="<p>the run</p>")
    page = Elements(dead)
    assert not [
        tag for tag, has, _ in page.found if tag in ("input", "select", "textarea", "button") or "data-fa-kernel" in has
    ]
    assert "0.1" in dead
    assert "✗ no" in dead
    assert dead.endswith("<p>the run</p></div>")
    assert "no inputs" in form_html("noop", "noop", [], {}, {}, kernel="", block="")
    for kernel in ("", "k"):  # a page that does not run the widget shows the same
        assert "Without: %agent run it</div>" in form_html(
            "noop", "noop", [], {}, {}, kernel=kernel, block="b", command="it"
        )
        assert "Without: run the cell without --form</div>" in form_html(
            "noop", "noop", [], {}, {}, kernel=kernel, block="b"
        )


def test_a_form_names_its_task_only_where_that_can_be_written(workspace: Workspace, page: Page) -> None:
    task = echo_task({"n": int})
    for names, command, told in (
        ({"fit": task}, "", "%agent run fit n=..."),
        ({}, "mine.fit", "%agent run mine.fit n=..."),
        ({}, "", "run the cell without --form, with -i n=..."),
    ):
        block = FormBlock(task, workspace, page, names, command=command)
        assert block.text().endswith(f"Without one: {told}") and f"Without: {told}<" in block.html("")


def test_hostile_text_is_text() -> None:
    evil = "\"'></textarea><img src=x onerror=alert(1)>\n"
    interface = Interface(
        {"a": (str, evil), "b": (str, "x"), "c": (list[str], [evil]), "d": (Literal[evil, "ok"], "ok")}
    )  # type: ignore[valid-type]
    fields = fields_of(interface)
    for kernel in ("k", ""):
        shown = form_html(
            evil,
            evil,
            fields,
            {"b": evil},
            {"a": evil, "b": evil, "": evil},
            kernel=kernel,
            block=evil,
            variables={"b": [evil]},
        )
        page = Elements(shown)
        assert not page.all("img")
        assert "<img" not in shown


def test_the_text_tells_the_inputs_and_the_way_without_a_browser() -> None:
    lines = form_text("train", "batch", FIELDS, {"rows": "df"}, "my_task", "✓ Succeeded").splitlines()
    assert lines[0] == "train  (batch)"
    assert lines[1].split() == ["input", "type", "value"]
    assert lines[2].split() == ["rows", "DataFrame", "df"]
    assert next(line for line in lines if line.startswith("query")).split() == [
        "query",
        "str",
        "SELECT",
        "<1>",
        "FROM",
        "t",
    ]
    assert lines[-2] == "The form needs a browser. Without one: %agent run my_task rows=... metric=..."
    assert lines[-1] == "✓ Succeeded"
    assert form_text("noop", "noop", [], {}, "noop").endswith("%agent run noop")


# --- how it runs ---


@pytest.fixture
def page() -> Page:
    return Page(SimpleNamespace())


def echo_task(inputs: dict[str, Any], **more: Any) -> Any:
    outputs = {name: t[0] if isinstance(t, tuple) else t for name, t in inputs.items()}
    return scripted_task("echo", inputs=inputs, outputs=outputs, **more)


def press_run(block: FormBlock, **texts: str | bool) -> None:
    """As the page does it: on a thread of its own."""
    thread = threading.Thread(target=block.act, args=({"do": "run", "block": block.id, "fields": texts},))
    thread.start()
    thread.join()


def test_good_values_run_the_task_and_show_what_it_gave(
    workspace: Workspace, agents: Agents, page: Page, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    frame = pandas.DataFrame({"day": ["2024-01-01"], "revenue": [48113.25]})
    frame.to_parquet(tmp_path / "part.parquet")
    inputs = {
        "rows": pandas.DataFrame,
        "more": pandas.DataFrame,
        "rate": (float, 0.5),
        "mode": (Mode, Mode.DEEP),
        "resources": Resources,
        "seed": Optional[int],
    }
    task = echo_task(inputs)
    block = FormBlock(task, workspace, page, {"df": frame, "fit": task})
    assert "%agent run fit rows=... more=..." in block.text()
    press_run(
        block,
        rows="df",
        more=str(tmp_path),
        rate="3",
        mode="FAST",
        seed="",
        **{"resources.cpus": "8", "resources.queue.name": "gpu", "resources.queue.spot": False},
    )
    assert block.run is not None
    assert block.run.exception(60) is None
    outputs = block.run.outputs
    assert outputs is not None
    assert outputs.pop("rows").equals(frame)
    assert outputs.pop("more").equals(frame)
    assert outputs == {"rate": 3.0, "mode": Mode.FAST, "resources": Resources(8, Queue("gpu", False)), "seed": None}
    shown = block.html("k1")
    assert "48,113.2" in shown
    assert "✓ Succeeded" in shown
    assert Elements(shown).control("rows")[1]["value"] == "df"
    assert Elements(shown).control("rate")[1]["value"] == "3"
    assert "Succeeded" in block.text()
    assert "48,113.2" in block.html("")
    assert capfd.readouterr().out == ""


def test_bad_values_run_nothing_and_are_told_beside_their_fields(
    workspace: Workspace, agents: Agents, page: Page
) -> None:
    before = len(workspace.runner.runs())
    block = FormBlock(echo_task({"rows": pandas.DataFrame, "n": int}), workspace, page, {"df": 1})
    press_run(block, rows="dff", n="3.5")
    assert block.run is None
    assert len(workspace.runner.runs()) == before
    shown = Elements(block.html("k1"))
    told = [text for has, text in shown.all("div") if str(has.get("id", "")).endswith("-error")]
    assert told == [
        "✗ no path and no variable is called 'dff'; did you mean df?",
        "✗ not a whole number: 3.5; such as 3",
    ]
    assert shown.control("n")[1]["value"] == "3.5"


def test_while_a_run_is_under_way_run_does_nothing_and_the_run_is_shown_live(
    workspace: Workspace, agents: Agents, page: Page
) -> None:
    task = scripted_task(inputs={"n": int}, hangs=["get"], message="half way")
    block = FormBlock(task, workspace, page, {})
    press_run(block, n="1")
    run = block.run
    assert run is not None
    press_run(block, n="2")
    assert block.run is run
    shown = Elements(block.html("k1"))
    assert shown.all("button", **{"data-fa-do": "run", "aria-disabled": "true"})
    assert shown.all("button", **{"data-fa-do": "cancel", "data-fa-id": run.id})
    assert shown.control("n")[1]["value"] == "1"
    run.cancel()
    until(lambda: run.done)
    shown = Elements(block.html("k1"))
    assert not shown.all("button", **{"data-fa-do": "run", "aria-disabled": "true"})
    assert not shown.all("button", **{"data-fa-do": "cancel"})


def test_it_is_sent_again_only_where_it_looks_different(workspace: Workspace, agents: Agents, page: Page) -> None:
    block = FormBlock(echo_task({"n": (int, 5)}), workspace, page, {})
    for _ in range(2):
        assert block.changed()
        block.html("")
        assert not block.changed()  # a front end without our widget would get it once a second, for ever
        press_run(block, n="many")
    assert "n: " in block.says()
    press_run(block, n="2")
    assert block.changed() and block.run is not None and block.run.exception(60) is None
    assert block.says() == f"{block.run.name}: Succeeded"
    block.html("")
    assert not block.changed()
    block.close()
    assert block.changed()


def test_it_may_be_run_again_with_what_was_typed(workspace: Workspace, agents: Agents, page: Page) -> None:
    block = FormBlock(echo_task({"n": (int, 5)}), workspace, page, {}, values={"n": 7})
    runs = []
    for texts, expected in (({}, 7), ({"n": "8"}, 8), ({"n": ""}, 5)):
        press_run(block, **texts)
        assert block.run is not None
        assert block.run.result(60) == expected
        runs.append(block.run.id)
    assert len(set(runs)) == 3
    assert Elements(block.html("k1")).control("n")[1]["value"] == ""


def test_a_secret_that_a_form_is_filled_with_is_run_with_and_not_shown(
    workspace: Workspace, agents: Agents, page: Page
) -> None:
    secret = 'sk-"Xq7"-0123456789'
    workspace.masking.add(secret)
    try:
        block = FormBlock(echo_task({"key": str}), workspace, page, {}, values={"key": secret})
        for shown in (block.html("k1"), block.html(""), block.text()):
            assert "Xq7" not in shown and "***" in shown
        for text, expected in (("***", secret), (f"{secret}-2", f"{secret}-2"), ("***-2", f"{secret}-2"), ("x", "x")):
            press_run(block, key=text)
            assert block.run is not None and block.run.result(60) == expected
    finally:
        workspace.masking.discard(secret)


def test_reset_fills_the_form_anew(workspace: Workspace, page: Page) -> None:
    block = FormBlock(echo_task({"n": (int, 5)}), workspace, page, {})
    press_run(block, n="many")
    assert "data-fa-reset" not in Elements(block.html("k1")).control("n")[1]
    block.act({"do": "reset", "block": block.id})
    has = Elements(block.html("k1")).control("n")[1]
    assert (has["value"], has["data-fa-reset"], has.get("aria-invalid")) == ("5", "1", None)


def test_the_options_go_along(workspace: Workspace, agents: Agents, page: Page) -> None:
    task = scripted_task(inputs={"n": int}, phases=["RETRYABLE_FAILED"], message="no")
    block = FormBlock(task, workspace, page, {}, retries=1, service="kernel")
    press_run(block, n="1")
    assert block.run is not None
    assert block.run.exception(60) is not None
    assert block.run.snapshot.attempts == 2


def test_what_submit_raises_is_shown_at_its_input_or_at_the_foot(
    workspace: Workspace, agents: Agents, page: Page
) -> None:
    class Refusing(type(echo_task({}))):  # type: ignore[misc]
        def get_custom(self, settings: Any) -> dict[str, Any]:
            raise ValueError("no <config>")

    block = FormBlock(echo_task({"n": Optional[int]}), workspace, page, {}, code="kernel", nonsense=1)
    press_run(block, n="1")
    assert "TypeError" in block.html("k1")
    task = echo_task({"n": int})
    task.__class__ = Refusing
    block = FormBlock(task, workspace, page, {})
    press_run(block, n="1")
    shown = Elements(block.html("k1"))
    (told,) = (text for _, text in shown.all("span", role="status"))
    assert told.startswith("✗ Refusing cannot put task 'job' (echo) into a template: ValueError: no <config>")
    assert block.run is None
    block = FormBlock(echo_task({"n": int}), workspace, page, {}, values={"n": 5})
    block._fields[0] = fields_of(Interface({"n": str}))[0]  # what a form takes and flytekit does not
    press_run(block, n="five")
    assert "takes an int, not str" in Elements(block.html("k1")).all("div", id=f"fnb-{block.id[:12]}-n-error")[0][1]


def test_what_only_the_conversion_finds_is_told_at_its_input_too(
    workspace: Workspace, agents: Agents, page: Page
) -> None:
    class Broken:
        def __reduce__(self) -> str:
            raise ValueError("it cannot be pickled")

    task = echo_task({"x": Optional[Broken]})
    block = FormBlock(task, workspace, page, {"b": Broken()})
    press_run(block, x="b")
    assert block.run is not None
    assert isinstance(block.run.exception(60), InputError)
    shown = Elements(block.html("k1"))
    assert "takes" in shown.all("div", id=f"fnb-{block.id[:12]}-x-error")[0][1]
    block.act({"do": "reset"})
    assert not Elements(block.html("k1")).all("div", id=f"fnb-{block.id[:12]}-x-error")


def test_an_input_that_the_task_does_not_have_is_refused(workspace: Workspace, page: Page) -> None:
    with pytest.raises(InputError, match="has no input 'row'") as caught:
        FormBlock(echo_task({"rows": int}), workspace, page, {}, values={"row": 1})
    assert caught.value.hint == "did you mean rows?"


@pytest.mark.parametrize("fields", [None, [], {"n": 3, "m": "1"}, {"n": ["1"]}])
def test_a_message_of_another_shape_does_no_harm(workspace: Workspace, page: Page, fields: Any) -> None:
    block = FormBlock(echo_task({"n": int}), workspace, page, {})
    block.act({"do": "run", "fields": fields})
    assert block.run is None
    assert "a value is needed" in block.html("k1")


def test_a_closed_form_runs_nothing_and_is_a_table(workspace: Workspace, agents: Agents, page: Page) -> None:
    block = FormBlock(echo_task({"n": (int, 5)}), workspace, page, {})
    assert block.live
    block.close()
    assert not block.live
    press_run(block, n="1")
    assert block.run is None
    assert not Elements(block.html("")).all("button")


def test_the_page_hears_of_the_run(workspace: Workspace, agents: Agents) -> None:
    ended = threading.Event()

    class Listening(Page):
        def touch(self, block: Any) -> None:
            if block is form and form.run is not None and form.run.done:
                ended.set()

    task = scripted_task(inputs={"n": int}, hangs=["get"])
    form = FormBlock(task, workspace, Listening(SimpleNamespace()), {})
    press_run(form, n="1")
    assert form.run is not None
    assert not ended.is_set()
    form.run.cancel()
    assert ended.wait(PATIENCE)
    assert "■ Aborted" in form.html("k1")


def test_a_dataset_is_told_by_its_address(workspace: Workspace, page: Page) -> None:
    task = echo_task({"rows": StructuredDataset})
    block = FormBlock(task, workspace, page, {}, values={"rows": StructuredDataset(uri="s3://b/t")})
    assert Elements(block.html("k1")).control("rows")[1]["value"] == "s3://b/t"
