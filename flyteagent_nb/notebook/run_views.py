"""A run -> text and HTML, while it runs and when it is over. Pure."""

from __future__ import annotations

import datetime
import re
import time
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import LINKS_TOLD
from flyteagent_nb.notebook import render
from flyteagent_nb.notebook.bars import TRACK, bar, lane, phases_text
from flyteagent_nb.notebook.render import GREY, MONO, ORANGE, clip, escape, link, look, seconds
from flyteagent_nb.running.run import SECRET_IN_META
from flyteagent_nb.wire import KERNEL_SERVICE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flyteagent_nb.running.run import RunSnapshot

TAIL = 4
"""Lines of captured output that a run shows while it runs, and where it failed."""

AT_END = 200
"""Lines of captured output in which a run that failed looks for those: its traceback, which is told as the error, comes after them."""

META_SHOWN = 24
"""Bytes of a resource meta that is no text, as some connectors' pickles are, that are shown."""

LONGEST = 20_000
"""Characters of a message, an error or the like that ``%agent show`` tells."""

RUN_COLUMNS = ("run", "task", "type", "phase", "took", "started", "message")

# What stands in such a line has spaces between it, which do not show: a page that takes the style off needs them.
_HEAD = "display:flex;flex-wrap:wrap;gap:2px 8px;align-items:baseline"
_GAP = '<span style="flex:1"></span>'
_AT_RIGHT = "justify-content:flex-end;margin-left:auto;min-width:0"
# What a run came to, under a line from edge to edge of its frame.
_BELOW = "margin:6px -12px 0;padding:6px 12px 0;border-top:1px solid #8884"
_SMALL = f"color:{GREY};font-size:12px"
_BUTTON = 'type="button" class="fnb-button fnb-live" style="display:none"'
_LOG = (
    f"margin:6px 0 2px;padding:0 0 0 8px;border-left:2px solid {GREY};font-family:monospace;font-size:12px;"
    "white-space:pre-wrap;overflow-wrap:anywhere"
)


def run_text(s: RunSnapshot, *, error: bool = True) -> str:
    """A run in one or a few lines; ``error``: whether why it failed is told."""
    sign, word, *_ = look(s)
    parts = [f"{sign} {word}", s.name, f"({s.task_type})", seconds(s.elapsed)]
    if s.attempts > 1:
        parts.append(f"try {s.attempt} of {s.attempts}")
    lines = ["  ".join((*parts, f"run {s.id}"))]
    if s.held:
        lines.append(f"  {s.held}")
    if s.stand_in:
        lines.append(f"  on {s.stand_in}")
    if s.error is not None:
        lines += [f"  {clip(reason(s), 300)}"] * error
    elif s.message:
        lines.append(f"  {clip(s.message, 300)}")
    lines += [f"  log: {name}: {uri}" for name, uri in s.log_links[:LINKS_TOLD]]
    lines += [f"  {more}" for more in _more_links(s)]
    lines += [f"  note: {note}" for note in s.notes]
    if not s.done:
        lines.append(f"  %agent show {s.id} tells more")
    return "\n".join(lines)


def run_html(
    s: RunSnapshot,
    *,
    captured: Sequence[str] = (),
    outputs: str = "",
    kernel: str = "",
    block: str = "",
    attach: str = "",
    error: bool = True,
) -> str:
    """A run as a framed block.

    Args:
        s: its state.
        captured: the newest lines that its agent printed.
        outputs: the HTML of its outputs, or empty.
        kernel: marks what acts on this kernel; empty where nothing could.
        block: the block's display id.
        attach: what the button copies.
        error: whether the error is told.
    """
    live = bool(kernel) and not s.done
    sign, word, colour, kind = look(s)
    head = [
        f'<b style="overflow-wrap:anywhere">{escape(s.name)}</b>',
        f'<span class="fnb-soft" style="{MONO}">{escape(s.task_type)}</span>',
        _GAP,
        f'<span class="fnb-{kind}" role="status" aria-live="off" style="color:{colour};font-weight:600;white-space:nowrap">'
        f"{sign} {escape(word)}</span>",
        _elapsed(s, live),
    ]
    if live:
        head.append(cancel_button(s))
    foot = [f"try {s.attempt} of {s.attempts}"] if s.attempts > 1 else []
    if s.agent:
        foot.append(f"{s.agent} on {s.service}" if s.service != KERNEL_SERVICE else s.agent)
    told = phases_text(s) if s.done and len(s.phases) > 1 else ""
    left = [f'<span class="fnb-soft" style="{_SMALL}">{escape(told)}</span>'] if told else []
    if s.stand_in:
        left.insert(0, f'<span class="fnb-wait" style="color:{ORANGE}">on {escape(s.stand_in)}</span>')
    if s.held:
        left.append(f'<span class="fnb-wait" style="color:{ORANGE}">{escape(s.held)}</span>')
    elif s.message and s.error is None and not s.done:
        left.append(f'<span style="overflow-wrap:anywhere">{escape(clip(s.message, 300))}</span>')
    right = [
        f'<span style="overflow-wrap:anywhere;min-width:0">{link(name, uri)}</span>'
        for name, uri in s.log_links[:LINKS_TOLD]
    ]
    foot = [*_more_links(s), *foot]
    right += [f'<span class="fnb-soft" style="{_SMALL}">{escape(text)}</span>' for text in foot]
    right.append(f'<span class="fnb-soft" style="{MONO}">{escape(s.id)}</span>')
    if live and attach:
        right.append(
            f'<button {_BUTTON} data-fa-do="copy" data-fa-id="{escape(s.id)}" data-fa-text="{escape(attach)}" '
            f'title="Copies a cell that attaches to this run" '
            f'aria-label="Copy a cell that attaches to run {escape(s.id)}">Copy</button>'
        )
    parts = [
        f'<div style="{_HEAD}">{" ".join(head)}</div>',
        bar(s),
        f'<div style="{_HEAD}">{" ".join(left)} <span style="{_HEAD};{_AT_RIGHT}">{" ".join(right)}</span></div>',
    ]
    parts += [f'<div class="fnb-wait" style="color:{ORANGE}">{escape(note)}</div>' for note in s.notes]
    if captured:
        parts.append(f'<div class="fnb-soft fnb-rule" style="{_LOG}">{escape(chr(10).join(captured[-TAIL:]))}</div>')
    if s.error is not None and error:
        parts.append(
            f'<div class="fnb-rule" style="{_BELOW};white-space:pre-wrap;overflow-wrap:anywhere">{_error(s)}</div>'
        )
    if outputs:
        parts.append(f'<div class="fnb-rule" style="{_BELOW}">{outputs}</div>')
    if not s.done:
        # What a saved notebook says of a run that had not ended; the page hides it while the run is live.
        parts.append(
            f'<div class="fnb-still" style="{_SMALL}">as of {escape(_clock_time())}: %agent show {escape(s.id)} tells more</div>'
        )
    return frame("".join(parts), kernel if live else "", block)


def frame(inner: str, kernel: str, block: str) -> str:
    """A block's outermost element."""
    marks = (
        f' data-fa-kernel="{escape(kernel)}" data-fa-block="{escape(block)}" data-fa-at="{time.time():.3f}"'
        if kernel
        else ""
    )
    return f'<div class="fnb-box" style="{render.FRAME}"{marks}>{inner}</div>'


def _more_links(s: RunSnapshot) -> list[str]:
    """That there are more log links than are shown; nothing where there are not."""
    more = len(s.log_links) - LINKS_TOLD
    return [f"and {more:,} more log link{'s' if more > 1 else ''}: the run's log_links has all"] if more > 0 else []


def cancel_button(s: RunSnapshot) -> str:
    """The button that cancels a run; it asks nothing."""
    # It does the same in both states, as the page knows it by that, and keeps the focus on it.
    state = ' aria-disabled="true"' if s.stopping else ' data-fa-busy="Stopping"'
    return (
        f'<button {_BUTTON} data-fa-do="cancel" data-fa-id="{escape(s.id)}"{state} '
        f'aria-label="Cancel run {escape(s.id)} of {escape(s.name)}">'
        f"{'Stopping' if s.stopping else 'Cancel'}</button>"
    )


def _elapsed(s: RunSnapshot, live: bool) -> str:
    ticking = f' data-fa-elapsed="{s.elapsed:.2f}"' if live else ""
    return (
        f'<span class="fnb-soft"{ticking} style="{_SMALL};font-variant-numeric:tabular-nums;min-width:4em;text-align:right">'
        f"{seconds(s.elapsed)}</span>"
    )


def reason(s: RunSnapshot) -> str:
    """Why a run failed, the agent's own words first: which task it was, and its tries, stand beside it."""
    assert s.error is not None
    failed = rf"task '{re.escape(s.name)}' \({re.escape(s.task_type)}\) failed(?: after \d+ attempts)?: "
    cancelled = rf"run {re.escape(s.id)} of task '{re.escape(s.name)}' was (?=cancelled)"
    return re.sub(f"^(?:{failed}|{cancelled})", "", s.error.message)


def last_words(captured: Sequence[str]) -> list[str]:
    """What an agent printed last before it raised, of the newest lines that were captured."""
    begins = (number for number, line in enumerate(captured) if line.startswith("Traceback (most recent call last)"))
    return list(captured[: next(begins, None)][-TAIL:])


def _error(s: RunSnapshot) -> str:
    assert s.error is not None
    lines = [escape(reason(s))]
    lines += [
        f'<span class="fnb-soft" style="{MONO}">{escape(line)}</span>'
        for line in s.error.details()
        if not line.startswith("log: ")
    ]
    return "\n".join(lines)


def _clock_time() -> str:
    return datetime.datetime.now().strftime("%H:%M:%S")


def details(s: RunSnapshot, attempts: Sequence[Any], captured: Sequence[str]) -> list[tuple[str, str]]:
    """All that is known of a run, as (label, text) pairs."""
    when = datetime.datetime.fromtimestamp(s.submitted).strftime("%Y-%m-%d %H:%M:%S")
    rows = [
        ("run", s.id),
        ("task", f"{s.name} ({s.task_type}{f' version {s.version}' if s.version else ''})"),
        ("agent", f"{s.agent} on service {s.service}, {'sync' if s.is_sync else 'async'}" if s.service else ""),
        ("stand-in", f"it ran on {s.stand_in}" if s.stand_in else ""),
        ("phase", " ".join(look(s)[:2])),
        ("submitted", when),
        (
            "took" if s.done else "so far",
            f"{seconds(s.elapsed)} ({phases_text(s)})" if phases_text(s) else seconds(s.elapsed),
        ),
        ("attempt", f"{s.attempt} of {s.attempts}" if s.attempts > 1 else ""),
        ("state", s.held),
        ("message", _beginning(s.message)),
        ("error code", s.error_code),
        ("error", _beginning("\n".join([s.error.message, *s.error.details()])) if s.error is not None else ""),
        *((f"log {clip(name, 40)}", uri) for name, uri in s.log_links[:LINKS_TOLD]),
        ("logs", "".join(_more_links(s))),
        ("custom info", _beginning(_mapping(s.custom_info)) if s.custom_info else ""),
        *(("note", _beginning(note)) for note in s.notes),
    ]
    for record in attempts:
        meta = record.resource_meta
        told = "not shown" if SECRET_IN_META in s.notes else _meta_text(meta or b"")
        job = "" if meta is None else f", resource meta {told}"
        told = f"{record.outcome.lower()} on {record.service}{job}, outputs in {record.output_prefix}"
        rows.append((f"attempt {record.number}", told))
    if captured:
        shown = captured[-10:]
        before = f"[{len(captured) - 10} lines before: %agent logs {s.id}]\n" if len(captured) > 10 else ""
        rows.append(("output", before + "\n".join(line if len(line) <= 200 else line[:199] + "…" for line in shown)))
    return [(label, text) for label, text in rows if text]


def _beginning(text: str) -> str:
    """A text, where it is not so long that a page would stand still."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"


def _mapping(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {item}" for key, item in value.items())


def run_row(s: RunSnapshot, now: float) -> tuple[str, ...]:
    """A run as a row under RUN_COLUMNS."""
    message = reason(s) if s.error is not None else s.held or s.message
    phase = " ".join(look(s)[:2]) + (f" (try {s.attempt} of {s.attempts})" if s.attempts > 1 else "")
    began = render.ago(s.submitted, now)
    return (s.id, clip(s.name, 60), clip(render.type_text(s), 40), phase, seconds(s.elapsed), began, clip(message, 80))


def group_html(
    name: str,
    snapshots: Sequence[RunSnapshot],
    *,
    summary: str,
    began: float,
    end: float,
    shown: int,
    kernel: str,
    block: str,
) -> str:
    """The runs of a workflow as rows, their bars on one time axis.

    Args:
        name: the workflow's.
        snapshots: its runs, in the order of their start.
        summary: how many are in which phase.
        began: the axis' begin, in seconds since the epoch.
        end: its end.
        shown: so many rows at the most.
        kernel: marks what acts on this kernel; empty where nothing could.
        block: the block's display id.
    """
    whole = max(end - began, 1e-6)
    ticking = f' data-fa-elapsed="{whole:.2f}"' if kernel else ""
    rows = []
    several = len({s.service for s in snapshots if s.service}) > 1
    for s in snapshots[:shown]:
        sign, word, colour, kind = look(s)
        named = escape(f"{s.name} on {s.service}" if several and s.service else s.name)
        tried = (
            f' <span class="fnb-soft" style="{_SMALL};font-weight:400">try {s.attempt} of {s.attempts}</span>'
            if s.attempts > 1
            else ""
        )
        stand_in = (
            f' <span class="fnb-wait" style="{_SMALL};color:{ORANGE};font-weight:400" title="{escape(s.stand_in)}">stand-in</span>'
            if s.stand_in
            else ""
        )
        rows.append(
            f'<tr style="{_TR}">'
            f'<td class="fnb-name" style="{_ROW};max-width:200px;overflow:hidden;text-overflow:ellipsis"'
            f' title="{named}">{named}</td>'
            f'<td class="fnb-{kind}" style="{_ROW};min-width:92px;color:{colour};font-weight:600">'
            f"{sign} {escape(word)}{tried}{stand_in}</td>"
            f'<td class="fnb-soft" style="{_ROW};{_SMALL};min-width:44px;text-align:right">{seconds(s.elapsed)}</td>'
            f'<td style="{_ROW};width:100%;min-width:60px"><div style="{TRACK}">{lane(s, began, end)}</div></td>'
            f'<td class="fnb-soft fnb-wide" style="{_ROW};{MONO}">{escape(s.id)}</td>'
            f'<td class="fnb-act" style="padding:0;text-align:right;border:0">{cancel_button(s) if kernel and not s.done else ""}</td></tr>'
        )
        if s.error is not None:
            told = f'<span class="fnb-{kind}" style="color:{colour}">{escape(clip(reason(s), 300))}</span>'
            rows.append(
                f'<tr style="{_TR}"><td colspan="6" style="{_ROW};padding-left:12px;white-space:normal">{told}</td></tr>'
            )
    more = len(snapshots) - shown
    if more > 0:
        rows.append(
            f'<tr style="{_TR}"><td colspan="6" class="fnb-soft" style="{_ROW};{_SMALL}">and {more:,} more: %agent runs</td></tr>'
        )
    head = (
        f'<div style="{_HEAD}"><b style="overflow-wrap:anywhere">{escape(name)}</b> {_GAP} '
        f'<span class="fnb-soft" role="status" aria-live="off" style="{_SMALL}">{escape(summary)}</span> '
        f'<span class="fnb-soft"{ticking} style="{_SMALL};min-width:4em;text-align:right">{seconds(whole)}</span></div>'
    )
    return frame(
        f'{head}<div style="overflow-x:auto"><table style="width:100%;table-layout:auto;font-size:13px;margin:4px 0 0">'
        f"{''.join(rows)}</table></div>",
        kernel,
        block,
    )


# JupyterLab's stripes would be the darker half of a frame; and a button goes, while its row stays as high.
_TR = "background:none;height:26px"
_ROW = "padding:0 12px 0 0;text-align:left;border:0;white-space:nowrap"


def _meta_text(meta: bytes) -> str:
    """A resource meta for the eye: the text that most are, else what it begins with, as ``%agent settle --job`` writes bytes."""
    try:
        text = meta.decode()
    except UnicodeDecodeError:
        text = ""
    if all(character.isprintable() or character in "\t\n" for character in text) and (text or not meta):
        return text
    more = "…" if len(meta) > META_SHOWN else ""
    return f"hex:{meta[:META_SHOWN].hex()}{more} ({len(meta)} bytes that are no text)"
