"""Runs, agents and services -> text and HTML. Pure: everything is a function of its arguments.

The HTML must read on white and on black, in an untrusted notebook (JupyterLab's sanitizer takes ``<style>`` and every value with
``var()`` away) and with no style at all: inline styles, plain colours of middle lightness, tables and lists for structure.
"""

from __future__ import annotations

import html
import re
import textwrap
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flyteagent_nb.running.run import RunSnapshot

# Each has about 4.5:1 on white and 4:1 on JupyterLab's black.
BLUE, GREEN, RED, ORANGE, GREY = "#1f7fd0", "#2c8c3c", "#d8453c", "#b3690a", "#7a7a7a"


_KINDS = {BLUE: "run", GREEN: "ok", RED: "bad", ORANGE: "wait", GREY: "soft"}

_TERMINAL, _LEAST = 120, 30
"""Characters of a line of a table, and of its last column at the least."""


class Look(NamedTuple):
    """How a phase is told: by a word and a shape, not by colour alone.

    Attributes:
        sign: one character.
        word: for people.
        colour: plain, of middle lightness.
        kind: what the page's own style calls it: ``fnb-{kind}`` for text, ``fnb-bg-{kind}`` for surfaces.
    """

    sign: str
    word: str
    colour: str
    kind: str


PHASES: dict[str, Look] = {
    "QUEUED": Look("○", "Queued", GREY, "soft"),
    "WAITING_FOR_RESOURCES": Look("○", "Waiting", ORANGE, "wait"),
    "INITIALIZING": Look("◔", "Initializing", ORANGE, "wait"),
    "RUNNING": Look("▶", "Running", BLUE, "run"),
    "SUCCEEDED": Look("✓", "Succeeded", GREEN, "ok"),
    "FAILED": Look("✗", "Failed", RED, "bad"),
    "RETRYABLE_FAILED": Look("✗", "Failed", RED, "bad"),
    "ABORTED": Look("■", "Aborted", RED, "bad"),
}
"""The phases of Flyte."""

_STOPPING = Look("■", "Stopping", ORANGE, "wait")


def look_of(phase: str) -> Look:
    """How a phase is told, an unknown one too."""
    return PHASES.get(phase) or Look("?", phase.replace("_", " ").capitalize(), GREY, "soft")


FRAME = f"border:1px solid {GREY};border-radius:6px;padding:8px 12px;max-width:760px;font-size:13px"
MONO = f"font-family:monospace;font-size:12px;color:{GREY}"
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


def left_open_text(newest: Sequence[RunSnapshot], count: int) -> str:
    """A line about the runs that earlier kernels left open.

    Args:
        newest: the newest of them; not empty.
        count: how many there are.
    """
    more = f" and {count - len(newest):,} more" if count > len(newest) else ""
    told = ", ".join(f"{s.id} ({s.name})" for s in newest) + more
    how_many = "1 run of an earlier kernel is" if count == 1 else f"{count:,} runs of earlier kernels are"
    follow = f"attach {newest[0].id}" if count == 1 else "attach --all"
    return f"{how_many} still open: {told}. %agent {follow} goes on with {'it' if count == 1 else 'them'}."


def ago(at: float, now: float) -> str:
    """When something was, seen from ``now`` (both in seconds since the epoch)."""
    passed = max(0.0, now - at)
    if passed < 1:
        return "now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if passed >= size:
            return f"{passed / size:.0f} {unit} ago"
    return f"{passed:.0f} s ago"


def look(snapshot: RunSnapshot) -> Look:
    """How a run's phase is told, the cancel that is under way considered."""
    return _STOPPING if snapshot.stopping and not snapshot.done else look_of(snapshot.phase)


def type_text(snapshot: RunSnapshot) -> str:
    """A run's task type, and that its service was not the real one."""
    return f"{snapshot.task_type} (stand-in)" if snapshot.stand_in else snapshot.task_type


_COLOURS = re.compile("\x1b\\[[0-9;:]*m")
_COMMANDS = re.compile("(\x1b\\[[0-9;:]*m|\r\n)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_TURNS = re.compile("[\u202a-\u202e\u2066-\u2069]")


def escape(text: object) -> str:
    """Text for HTML. What would turn the direction of the words after it, ours too, is shown as a mark. A terminal's
    colours are left out. It is in one line, as in Markdown, which a notebook may be converted to, HTML ends where a line is empty.
    """
    escaped = html.escape(_COLOURS.sub("", str(text)), quote=True).replace("\n", "&#10;").replace("\r", "&#13;")
    return escaped if escaped.isascii() else _TURNS.sub("\N{REPLACEMENT CHARACTER}", escaped)


def for_terminal(text: str) -> str:
    """Text for a terminal, which would obey what is in an agent's words: to clear itself, or to fill the clipboard. Colours stay."""
    return text if text.isprintable() else _COMMANDS.sub(lambda found: found[1] or "\N{REPLACEMENT CHARACTER}", text)


def in_field(text: str) -> str:
    """What a page gives back for a text that :func:`escape` put into a field: it has one kind of line end and no character 0."""
    told = _COLOURS.sub("", text).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\N{REPLACEMENT CHARACTER}")
    return _TURNS.sub("\N{REPLACEMENT CHARACTER}", told)


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


# --- tables and lists ---


def pairs_text(rows: Sequence[tuple[str, str]]) -> str:
    """Label and text, the labels in a column."""
    width = max((len(label) for label, _ in rows), default=0)
    return "\n".join(f"{label:<{width}}  {textwrap.indent(text, ' ' * (width + 2)).lstrip()}" for label, text in rows)


def pairs_html(rows: Sequence[tuple[str, str]]) -> str:
    """Label and text, as a table without rules."""
    cells = "".join(
        f'<tr><th class="fnb-soft" style="{_CELL};color:{GREY};font-weight:600;white-space:nowrap">{escape(label)}</th>'
        f'<td style="{_CELL};white-space:pre-wrap;overflow-wrap:anywhere{_FIXED if label == "output" else ""}">'
        f"{_text_or_link(label, text)}</td></tr>"
        for label, text in rows
    )
    return f'<div class="fnb-box" style="{FRAME}"><table style="font-size:13px;margin:0">{cells}</table></div>'


def _text_or_link(label: str, text: str) -> str:
    return link(text, text) if label.startswith("log ") else escape(text)


def table_text(columns: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> str:
    """A table in aligned columns, whose last one is folded where it goes past a terminal's width."""
    cells = [list(row) for row in rows]
    if not cells:
        return empty
    widths = [max(len(columns[i]), *(len(row[i]) for row in cells)) for i in range(len(columns))]
    before = sum(widths[:-1]) + 2 * (len(widths) - 1)
    room = max(_LEAST, _TERMINAL - before)
    lines = []
    for row in (columns, *cells):
        folded = textwrap.wrap(row[-1], room) or [""]
        lines.append(
            "".join(f"{cell:<{width}}  " for cell, width in zip(row[:-1], widths[:-1], strict=True)) + folded[0]
        )
        lines += [" " * before + rest for rest in folded[1:]]
    return "\n".join(line.rstrip() for line in lines)


def table_html(
    columns: Sequence[str], rows: Iterable[Sequence[str]], empty: str, colours: Sequence[Mapping[int, str]] = ()
) -> str:
    """A table; ``colours`` gives the colour of a cell by row and column."""
    cells = list(rows)
    if not cells:
        return f'<div style="color:{GREY}">{escape(empty)}</div>'
    head = "".join(
        f'<th class="fnb-soft" style="{_CELL};color:{GREY};font-weight:600">{escape(c)}</th>' for c in columns
    )
    body = []
    for i, row in enumerate(cells):
        colour = colours[i] if i < len(colours) else {}
        body.append(
            "<tr>"
            + "".join(
                _coloured(cell, colour[j]) if j in colour else f'<td style="{_CELL}">{escape(cell)}</td>'
                for j, cell in enumerate(row)
            )
            + "</tr>"
        )
    return f'<table style="font-size:13px"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _coloured(text: str, colour: str) -> str:
    style = f"{_CELL};color:{colour};font-weight:600;white-space:nowrap"
    return f'<td class="fnb-{_KINDS.get(colour, "")}" style="{style}">{escape(text)}</td>'


TYPE_COLUMNS = ("task type", "version", "kind", "agent", "package")


def clip(text: str, width: int) -> str:
    """``text`` in one line of at most ``width`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
