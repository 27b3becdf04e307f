"""Runs, agents and services -> text and HTML. Pure: everything is a function of its arguments.

The HTML must read on white and on black, in an untrusted notebook (JupyterLab's sanitizer takes ``<style>`` and every value with
``var()`` away) and with no style at all: inline styles, plain colours of middle lightness, tables and lists for structure.
"""

from __future__ import annotations

import datetime
import html
import textwrap
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flyteagent_nb.running.run import RunSnapshot

# Each has about 4.5:1 on white and 4:1 on JupyterLab's black.
_BLUE, _GREEN, _RED, _ORANGE, _GREY = "#1f7fd0", "#2c8c3c", "#d8453c", "#b3690a", "#7a7a7a"

PHASES: dict[str, tuple[str, str, str]] = {
    "QUEUED": ("○", "Queued", _ORANGE),
    "WAITING_FOR_RESOURCES": ("○", "Waiting", _ORANGE),
    "INITIALIZING": ("◔", "Initializing", _ORANGE),
    "RUNNING": ("▶", "Running", _BLUE),
    "SUCCEEDED": ("✓", "Succeeded", _GREEN),
    "FAILED": ("✗", "Failed", _RED),
    "RETRYABLE_FAILED": ("✗", "Failed", _RED),
    "ABORTED": ("■", "Aborted", _RED),
    "UNDEFINED": ("?", "Undefined", _GREY),
}
"""Sign, word and colour of each phase: told by a word and a shape, not by colour alone."""

_FRAME = f"border:1px solid {_GREY};border-radius:6px;padding:8px 12px;max-width:760px;font-size:13px"
_MONO = f"font-family:monospace;font-size:12px;color:{_GREY}"
_FIXED = ";font-family:monospace;font-size:12px"
_CELL = "text-align:left;padding:3px 14px 3px 0;vertical-align:top;border:0"


def seconds(value: float) -> str:
    """A duration as people read it: ``12 ms``, ``0.8 s``, ``12 s``, ``3:05``, ``1:02:33``."""
    if value < 0.0995:
        return f"{value * 1e3:.0f} ms"
    if value < 9.95:
        return f"{value:.1f} s"
    if value < 59.5:
        return f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ago(at: float, now: float) -> str:
    """When something was, seen from ``now`` (both in seconds since the epoch)."""
    passed = max(0.0, now - at)
    if passed < 1:
        return "now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if passed >= size:
            return f"{passed / size:.0f} {unit} ago"
    return f"{passed:.0f} s ago"


def phase_word(snapshot: RunSnapshot) -> tuple[str, str, str]:
    """Sign, word and colour of a run's phase, the cancel that is under way considered."""
    sign, word, colour = PHASES.get(snapshot.phase, ("?", snapshot.phase.capitalize(), _GREY))
    if snapshot.stopping and not snapshot.done:
        return "■", "Stopping", _ORANGE
    return sign, word, colour


def escape(text: object) -> str:
    """Text for HTML."""
    return html.escape(str(text), quote=True)


def link(name: str, uri: str) -> str:
    """A link, where ``uri`` is http or https; else both as text."""
    try:
        scheme = urlsplit(uri).scheme
    except ValueError:
        scheme = ""
    if scheme not in ("http", "https"):
        return f"{escape(name)}: {escape(uri)}"
    return f'<a href="{escape(uri)}" target="_blank" rel="noopener noreferrer">{escape(name or uri)}</a>'


def span(text: str, style: str) -> str:
    """Escaped text with a style."""
    return f'<span style="{style}">{escape(text)}</span>'


# --- a run ---


def run_text(s: RunSnapshot) -> str:
    """A run in one or a few lines."""
    sign, word, _ = phase_word(s)
    parts = [f"{sign} {word}", s.name, f"({s.task_type})", seconds(s.elapsed)]
    if s.attempts > 1:
        parts.append(f"try {s.attempt} of {s.attempts}")
    lines = ["  ".join((*parts, f"run {s.id}"))]
    if s.message and (s.phase != "SUCCEEDED" or not s.done):
        lines.append(f"  {_clip(s.message, 300)}")
    lines += [f"  log: {name}: {uri}" for name, uri in s.log_links]
    lines += [f"  note: {note}" for note in s.notes]
    return "\n".join(lines)


def run_html(s: RunSnapshot) -> str:
    """A run as a small framed block."""
    sign, word, colour = phase_word(s)
    head = (
        f"<b>{escape(s.name)}</b> {span(s.task_type, _MONO)} "
        f"{span(f'{sign} {word}', f'color:{colour};font-weight:600')} {span(seconds(s.elapsed), f'color:{_GREY}')}"
    )
    tail = [span(f"try {s.attempt} of {s.attempts}", _MONO)] if s.attempts > 1 else []
    tail += [link(name, uri) for name, uri in s.log_links]
    tail.append(span(s.id, _MONO))
    lines = [
        f'<div style="display:flex;gap:12px;flex-wrap:wrap"><span style="flex:1">{head}</span><span>{" &nbsp; ".join(tail)}</span></div>',
        _bar(s),
    ]
    if s.message and (s.phase != "SUCCEEDED" or not s.done):
        lines.append(f"<div>{escape(_clip(s.message, 300))}</div>")
    lines += [f'<div style="color:{_ORANGE}">{escape(note)}</div>' for note in s.notes]
    return f'<div style="{_FRAME}">{"".join(lines)}</div>'


def _bar(s: RunSnapshot) -> str:
    """The phases so far as one bar, each as long as it took."""
    end = s.ended if s.ended is not None else s.phases[-1].at
    whole = end - s.submitted
    if whole <= 0 or len(s.phases) < 2:
        return ""
    pieces = []
    for change, after in zip(s.phases, (*s.phases[1:], None), strict=True):
        share = ((after.at if after is not None else end) - change.at) / whole * 100
        # What ran well is green in the end, what failed red.
        colour = PHASES.get(s.phase if s.done and change.phase == "RUNNING" else change.phase, ("", "", _GREY))[2]
        if share >= 0.5:
            title = f"{PHASES.get(change.phase, ('', change.phase, ''))[1]}"
            pieces.append(f'<span title="{escape(title)}" style="width:{share:.1f}%;background-color:{colour}"></span>')
    if not pieces:
        return ""
    return (
        f'<div style="display:flex;height:4px;margin:6px 0;border-radius:2px;overflow:hidden">{"".join(pieces)}</div>'
    )


def phases_text(s: RunSnapshot) -> str:
    """The phases with how long each took: ``queued 1.0 s, running 76 s``."""
    if not s.phases:
        return ""
    end = s.ended if s.ended is not None else time.time()
    told = []
    for change, after in zip(s.phases, (*s.phases[1:], None), strict=True):
        if after is None and s.done:
            break
        word = PHASES.get(change.phase, ("", change.phase, ""))[1].lower()
        told.append(f"{word} {seconds((after.at if after else end) - change.at)}")
    return ", ".join(told)


def details(s: RunSnapshot, attempts: Sequence[Any], captured: Sequence[str]) -> list[tuple[str, str]]:
    """All that is known of a run, as (label, text) pairs."""
    when = datetime.datetime.fromtimestamp(s.submitted).strftime("%Y-%m-%d %H:%M:%S")
    rows = [
        ("run", s.id),
        ("task", f"{s.name} ({s.task_type}{f' version {s.version}' if s.version else ''})"),
        ("agent", f"{s.agent} on service {s.service}, {'sync' if s.is_sync else 'async'}" if s.service else ""),
        ("phase", " ".join(phase_word(s)[:2])),
        ("submitted", when),
        (
            "took" if s.done else "so far",
            f"{seconds(s.elapsed)} ({phases_text(s)})" if phases_text(s) else seconds(s.elapsed),
        ),
        ("attempt", f"{s.attempt} of {s.attempts}" if s.attempts > 1 else ""),
        ("message", s.message),
        ("error code", s.error_code),
        ("error", str(s.error) if s.error is not None else ""),
        *((f"log {name}", uri) for name, uri in s.log_links),
        ("custom info", _mapping(s.custom_info) if s.custom_info else ""),
        *(("note", note) for note in s.notes),
    ]
    for record in attempts:
        meta = record.resource_meta
        job = "" if meta is None else f", resource meta {meta.decode('utf-8', 'backslashreplace')}"
        told = f"{record.outcome.lower()} on {record.service}{job}, outputs in {record.output_prefix}"
        rows.append((f"attempt {record.number}", told))
    if captured:
        shown = captured[-10:]
        before = f"[{len(captured) - 10} lines before: %agent logs {s.id}]\n" if len(captured) > 10 else ""
        rows.append(("output", before + "\n".join(line if len(line) <= 200 else line[:199] + "…" for line in shown)))
    return [(label, text) for label, text in rows if text]


def _mapping(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {item}" for key, item in value.items())


# --- tables and lists ---


def pairs_text(rows: Sequence[tuple[str, str]]) -> str:
    """Label and text, the labels in a column."""
    width = max((len(label) for label, _ in rows), default=0)
    return "\n".join(f"{label:<{width}}  {textwrap.indent(text, ' ' * (width + 2)).lstrip()}" for label, text in rows)


def pairs_html(rows: Sequence[tuple[str, str]]) -> str:
    """Label and text, as a table without rules."""
    cells = "".join(
        f'<tr><th style="{_CELL};color:{_GREY};font-weight:600">{escape(label)}</th>'
        f'<td style="{_CELL};white-space:pre-wrap;overflow-wrap:anywhere{_FIXED if label == "output" else ""}">'
        f"{_text_or_link(label, text)}</td></tr>"
        for label, text in rows
    )
    return f'<div style="{_FRAME}"><table style="font-size:13px">{cells}</table></div>'


def _text_or_link(label: str, text: str) -> str:
    return link(text, text) if label.startswith("log ") else escape(text)


def table_text(columns: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> str:
    """A table in aligned columns."""
    cells = [list(row) for row in rows]
    if not cells:
        return empty
    widths = [max(len(columns[i]), *(len(row[i]) for row in cells)) for i in range(len(columns))]
    lines = ["  ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True)).rstrip()]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)


def table_html(
    columns: Sequence[str], rows: Iterable[Sequence[str]], empty: str, colours: Sequence[Mapping[int, str]] = ()
) -> str:
    """A table; ``colours`` gives the colour of a cell by row and column."""
    cells = list(rows)
    if not cells:
        return f'<div style="color:{_GREY}">{escape(empty)}</div>'
    head = "".join(f'<th style="{_CELL};color:{_GREY};font-weight:600">{escape(c)}</th>' for c in columns)
    body = []
    for i, row in enumerate(cells):
        colour = colours[i] if i < len(colours) else {}
        body.append(
            "<tr>"
            + "".join(
                f'<td style="{_CELL}{f";color:{colour[j]};font-weight:600;white-space:nowrap" if j in colour else ""}">{escape(cell)}</td>'
                for j, cell in enumerate(row)
            )
            + "</tr>"
        )
    return f'<table style="font-size:13px"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


RUN_COLUMNS = ("run", "task", "type", "phase", "took", "started", "message")


def run_row(s: RunSnapshot, now: float) -> tuple[str, ...]:
    """A run as a row under RUN_COLUMNS."""
    message = s.error.message if s.error is not None else s.message
    phase = " ".join(phase_word(s)[:2]) + (f" (try {s.attempt} of {s.attempts})" if s.attempts > 1 else "")
    return (s.id, s.name, s.task_type, phase, seconds(s.elapsed), ago(s.submitted, now), _clip(message, 80))


TYPE_COLUMNS = ("task type", "version", "kind", "agent", "package")


def _clip(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
