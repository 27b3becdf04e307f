"""The form of a task -> text and HTML: a field for each input, what is wrong with it beside it, and the last run under it. Pure."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from flyteagent_nb.errors import ArgumentError
from flyteagent_nb.notebook.field_texts import read
from flyteagent_nb.notebook.field_types import JSON, FieldKind
from flyteagent_nb.notebook.fields import Field, all_fields
from flyteagent_nb.notebook.render import FRAME, GREY, MONO, RED, clip, escape, in_field, table_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FITTING = 50
"""Variables that a field for data offers."""

AREA_LINES = 12
"""Lines of a text area before it scrolls."""

_SMALL = "font-size:12px"
_SOFT = f"color:{GREY};{_SMALL}"
_ROW = "display:flex;flex-wrap:wrap;gap:2px 12px;margin:6px 0"
_INDENT = 16
_LABELS = 190
"""Pixels of the column of labels; where that leaves a control less than it needs, it goes below its label."""
_CELL = "text-align:left;padding:2px 16px 2px 0;vertical-align:top;border:0;overflow-wrap:anywhere"
_UNSEEN = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap"
_WIDTHS = {
    FieldKind.WHOLE: "220px",
    FieldKind.NUMBER: "220px",
    FieldKind.DATE: "160px",
    FieldKind.DURATION: "220px",
    FieldKind.DATETIME: "270px",
}


def form_text(
    title: str, task_type: str, fields: Sequence[Field], texts: Mapping[str, str | bool], command: str, below: str = ""
) -> str:
    """The inputs with their types and values, and how the task is run without a browser.

    Args:
        title: the task's name.
        task_type: its type.
        fields: its inputs.
        texts: what was typed, by field name.
        command: what a magic calls the task; empty where only its cell knows it.
        below: the last run, or empty.
    """
    rows = [(f.name, f.type_name, clip(_told(f, texts), 60)) for f in _given(fields, texts)]
    lines = [
        f"{title}  ({task_type})",
        table_text(("input", "type", "value"), rows, "no inputs"),
        f"The form needs a browser. Without one: {_line(fields, command)}",
    ]
    return "\n".join([*lines, below] if below else lines)


def _line(fields: Sequence[Field], command: str) -> str:
    words = [f"{f.name}=..." for f in fields if f.required] or [f"{f.name}=..." for f in fields[:1]]
    if command:
        return " ".join(("%agent run", command, *words))
    given = " ".join(f"-i {word}" for word in words)
    return "run the cell without --form" + (f", with {given}" if given else "")


def form_html(
    title: str,
    task_type: str,
    fields: Sequence[Field],
    texts: Mapping[str, str | bool],
    errors: Mapping[str, str],
    *,
    kernel: str,
    block: str,
    command: str = "",
    below: str = "",
    variables: Mapping[str, Sequence[str]] | None = None,
    busy: bool = False,
    reset: int = 0,
) -> str:
    """The form as a framed block, and the last run in a frame of its own under it.

    Where our widget does not run, in a saved notebook say, the inputs are a table.

    Args:
        title: the task's name.
        task_type: its type.
        fields: its inputs.
        texts: what was typed, by field name; the others are as they were filled.
        errors: what is wrong, by field name; under ``""`` what no field has.
        kernel: marks what acts on this kernel; empty where nothing could.
        block: the block's display id.
        command: what a magic calls the task, said where the form cannot run it; empty where only its cell knows it.
        below: the last run's HTML, or empty.
        variables: names to offer, by field name.
        busy: whether a run is under way.
        reset: how often the form was reset; with a new number the page gives up what was typed.
    """
    head = (
        f'<div style="display:flex;flex-wrap:wrap;gap:2px 8px;align-items:baseline;margin-bottom:4px">'
        f'<b style="overflow-wrap:anywhere">{escape(title)}</b>'
        f'<span class="fnb-soft" style="{MONO}">{escape(task_type)}</span></div>'
    )
    table = _table(fields, texts, errors)
    told = f"The form needs this kernel and a page that runs its widget. Without: {_line(fields, command)}"
    table += f'<div class="fnb-soft" style="{_SOFT};overflow-wrap:anywhere">{escape(told)}</div>'
    if not kernel:
        return f'<div class="fnb-box" style="{FRAME}">{head}{table}</div>{_under(below)}'
    controls = _Controls(
        texts, errors, f"fnb-{block[:12]}", variables or {}, f' data-fa-reset="{reset}"' if reset else ""
    )
    rows = "".join(controls.row(field) for field in fields)
    # JupyterLab takes a letter that is typed into a box or a list for a command of the notebook, unless it is told not to.
    return (
        f'<div data-fa-kernel="{escape(kernel)}" data-fa-block="{escape(block)}" data-fa-at="{time.time():.3f}" '
        f'data-lm-suppress-shortcuts="true"><div class="fnb-box" role="form" aria-label="Inputs of {escape(title)}" '
        f'style="{FRAME}">{head}<div class="fnb-still">{table}</div>'
        f'<div class="fnb-live" style="display:none">{rows}{_foot(fields, errors, busy)}</div></div>{_under(below)}</div>'
    )


def _under(below: str) -> str:
    return f'<div style="margin-top:6px">{below}</div>' if below else ""


def _foot(fields: Sequence[Field], errors: Mapping[str, str], busy: bool) -> str:
    """The buttons, and what no single field has to say."""
    state = ' aria-disabled="true"' if busy else ' data-fa-busy="Running"'
    told = []
    wrong = sum(1 for field in all_fields(fields) if field.name in errors)
    if wrong:
        told.append(f"{wrong} input{' is' if wrong == 1 else 's are'} not right yet")
    if "" in errors:
        told.append(errors[""])
    needed = "* required" if any(field.required for field in all_fields(fields)) else ""
    said = f"✗ {escape('; '.join(told))}" if told else ""
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:4px 8px;align-items:baseline;margin-top:10px">'
        f'<button type="button" class="fnb-button" data-fa-do="run" data-fa-fields{state}>{"Running" if busy else "Run"}</button>'
        '<button type="button" class="fnb-button" data-fa-do="reset">Reset</button>'
        f'<span class="fnb-bad" role="status" aria-live="off" style="color:{RED};{_SMALL};flex:1;min-width:0;white-space:pre-wrap;'
        f'overflow-wrap:anywhere">{said}</span><span class="fnb-soft" aria-hidden="true" style="{_SOFT}">{needed}</span></div>'
    )


class _Controls:
    """The rows of a form that is live."""

    def __init__(
        self,
        texts: Mapping[str, str | bool],
        errors: Mapping[str, str],
        prefix: str,
        variables: Mapping[str, Sequence[str]],
        reset: str,
    ) -> None:
        self._texts = texts
        self._errors = errors
        self._prefix = prefix
        self._variables = variables
        self._reset = reset

    def row(self, field: Field) -> str:
        """A label and its control, or a group of rows."""
        if field.kind is FieldKind.GROUP:
            return self._group(field)
        width = _LABELS - _INDENT * field.name.count(".")  # so that the controls of groups stand in the same column
        needs = 20 if field.kind is FieldKind.TICK else 240
        place = "align-items:flex-start" if _has_lines(field) else "align-items:baseline"
        top = ";padding-top:3px" if _has_lines(field) else ""
        return (
            f'<div style="{_ROW};{place}">'
            f'<label for="{self._id(field)}" style="flex:0 0 {width}px;min-width:0;overflow-wrap:anywhere{top}">{_name(field)}</label>'
            f'<div style="flex:1 1 {needs}px;min-width:0">{self._control(field)}{self._notes(field)}</div></div>'
        )

    def _group(self, field: Field) -> str:
        name, marks = _name(field), ""
        if field.optional:
            tick = f'<input type="checkbox"{self._marks(field)}{self._ticked(field)} style="margin:0">'
            name = f'{tick} <label for="{self._id(field)}">{name}</label>'
        elif field.name in self._errors:
            marks = f' aria-describedby="{self._id(field)}-error"'
        inset = f"border-left:2px solid {GREY};margin-left:2px;padding-left:{_INDENT - 4}px"
        return (
            f'<fieldset class="fnb-members"{marks} style="border:0;margin:8px 0 4px;padding:0;min-width:0">'
            f'<legend style="padding:0">{name}</legend>{self._notes(field)}'
            f'<div class="fnb-rule" style="{inset}">{"".join(self.row(member) for member in field.members)}</div></fieldset>'
        )

    def _control(self, field: Field) -> str:
        text = self._texts.get(field.name, field.text)
        marks = self._marks(field)
        if field.kind is FieldKind.TICK:
            return f'<input type="checkbox"{marks}{self._ticked(field)} style="margin:0">'
        text = str(text)
        if field.kind is FieldKind.CHOICE:
            return f'<select{marks} style="max-width:100%">{_options(field, text)}</select>'
        empty = f' placeholder="{escape(field.when_empty)}"' if field.when_empty else ""
        if _has_lines(field):
            lines = min(AREA_LINES, max(2, text.count("\n") + 1))
            face = ";font-family:monospace;font-size:12px" if field.kind in JSON else ""
            # A newline right after the tag is not part of the text.
            return (
                f'<textarea{marks}{empty} rows="{lines}" spellcheck="false" '
                f'style="display:block;width:100%;resize:vertical{face}">\n{escape(text)}</textarea>'
            )
        names = self._variables.get(field.name, ())[:FITTING]
        offered = f' list="{self._id(field)}-names"' if names else ""
        choices = "".join(f'<option value="{escape(name)}"></option>' for name in names)
        datalist = f'<datalist id="{self._id(field)}-names">{choices}</datalist>' if names else ""
        width = _WIDTHS.get(field.kind, "420px")
        return (
            f'<input {_typed(field, text)}{marks}{empty}{offered} value="{escape(text)}" autocomplete="off" '
            f'spellcheck="false" style="width:100%;max-width:{width}">{datalist}'
        )

    def _marks(self, field: Field) -> str:
        """What every control has."""
        described = []
        if field.name in self._errors:
            described.append(f"{self._id(field)}-error")
        if field.description:
            described.append(f"{self._id(field)}-about")
        return (
            f' id="{self._id(field)}" class="fnb-field" data-fa-field name="{escape(field.name)}"{self._reset}'
            + (' aria-required="true"' if field.required else "")
            + (' aria-invalid="true"' if field.name in self._errors else "")
            + (f' aria-describedby="{" ".join(described)}"' if described else "")
        )

    def _ticked(self, field: Field) -> str:
        return " checked" if self._texts.get(field.name, field.text) is True else ""

    def _notes(self, field: Field) -> str:
        """What is wrong with a field, and what its author says of it."""
        error, notes = self._errors.get(field.name), ""
        if error is not None:
            notes += (
                f'<div id="{self._id(field)}-error" class="fnb-bad" style="color:{RED};{_SMALL};margin-top:2px;overflow-wrap:anywhere">'
                f"✗ {escape(error)}</div>"
            )
        if field.description:
            notes += (
                f'<div id="{self._id(field)}-about" class="fnb-soft" style="{_SOFT};margin-top:2px;overflow-wrap:anywhere">'
                f"{escape(field.description)}</div>"
            )
        return notes

    def _id(self, field: Field) -> str:
        return escape(f"{self._prefix}-{field.name}")


def _name(field: Field) -> str:
    """A field's name, its type, and whether it must be filled: a sign for the eye, a word for the ear."""
    kind = f"{field.type_name}, UTC" if field.kind is FieldKind.DATETIME else field.type_name
    needed = f'<span class="fnb-bad" aria-hidden="true" style="color:{RED}">*</span>' if field.required else ""
    word = f'<span style="{_UNSEEN}"> required</span>' if field.required else ""
    return f'{escape(field.label)}{needed}{word} <span class="fnb-soft" style="{MONO}">{escape(kind)}</span>'


def _has_lines(field: Field) -> bool:
    """Whether it takes more than a line."""
    return field.kind in JSON or (field.kind is FieldKind.TEXT and "\n" in in_field(str(field.text)))


def _typed(field: Field, text: str) -> str:
    """The type of an input. A browser shows nothing of a text that does not fit its type, so such a text has to be a text."""
    if field.kind not in _TYPED:
        return 'type="text"'
    typed, form = _TYPED[field.kind]
    if text:
        try:
            value = read(field.kind, field.python_type, text, {})
        except ArgumentError:
            return 'type="text"'
        if not form.fullmatch(text) or value in (float("inf"), float("-inf")):
            return 'type="text"'
    return typed


_NUMBER = re.compile(r"-?(\d+(\.\d+)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DATE = r"\d{4}-\d\d-\d\d"
_TYPED = {
    FieldKind.WHOLE: ('type="number" step="1"', _NUMBER),
    FieldKind.NUMBER: ('type="number" step="any"', _NUMBER),
    FieldKind.DATE: ('type="date"', re.compile(_DATE, re.ASCII)),
    FieldKind.DATETIME: (
        'type="datetime-local" step="1"',
        re.compile(_DATE + r"T\d\d:\d\d(:\d\d(\.\d{1,3})?)?", re.ASCII),
    ),
}
"""The type of an input, and the form of the texts that a browser shows in it: Python reads ``+5``, ``1_000`` and `` 5`` too."""


def _options(field: Field, text: str) -> str:
    texts = {choice.text for choice in field.choices}
    options = []
    if field.optional or text not in texts:
        options.append(("", "None" if field.optional else "choose one"))
    options += [(choice.text, choice.label) for choice in field.choices]
    return "".join(
        f'<option value="{escape(value)}"{" selected" if value == text else ""}>{escape(label)}</option>'
        for value, label in options
    )


def _table(fields: Sequence[Field], texts: Mapping[str, str | bool], errors: Mapping[str, str]) -> str:
    """The inputs with their values, for where nothing can be typed."""
    if not fields:
        return f'<div class="fnb-soft" style="{_SOFT}">no inputs</div>'
    head = "".join(
        f'<th class="fnb-soft" style="{_CELL};color:{GREY};font-weight:600">{word}</th>'
        for word in ("input", "type", "value")
    )
    rows = []
    for field in _given(fields, texts):
        value = f'<span style="white-space:pre-wrap">{escape(_told(field, texts))}</span>'
        if field.name in errors:
            value += f'<div class="fnb-bad" style="color:{RED};{_SMALL}">✗ {escape(errors[field.name])}</div>'
        rows.append(
            f'<tr><td style="{_CELL}">{escape(field.name)}</td>'
            f'<td class="fnb-soft" style="{_CELL};{MONO}">{escape(field.type_name)}</td><td style="{_CELL}">{value}</td></tr>'
        )
    foot = f'<div class="fnb-bad" style="color:{RED};{_SMALL}">✗ {escape(errors[""])}</div>' if "" in errors else ""
    return f'<table style="font-size:13px"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>{foot}'


def _given(fields: Sequence[Field], texts: Mapping[str, str | bool]) -> list[Field]:
    """The fields, and the members of those groups that are not None."""
    found = []
    for field in fields:
        found.append(field)
        if not field.optional or texts.get(field.name, field.text) is True:
            found += _given(field.members, texts)
    return found


def _told(field: Field, texts: Mapping[str, str | bool]) -> str:
    """A field's value in words."""
    text = texts.get(field.name, field.text)
    if field.kind is FieldKind.GROUP:
        return "None" if field.optional and text is not True else ""
    if field.kind is FieldKind.TICK:
        return "yes" if text is True else "no"
    if text:
        return str(text)
    return "required" if field.required else "None" if field.optional else field.when_empty
