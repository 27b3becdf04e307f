"""The panel -> text and HTML: the agent service, its runs, its agents and their figures. Pure."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from flyteagent_nb.notebook import panel_words as words
from flyteagent_nb.notebook import render
from flyteagent_nb.notebook.bars import TRACK, lane
from flyteagent_nb.notebook.render import GREY, ORANGE, Look, clip, escape, link, look, look_of
from flyteagent_nb.notebook.run_views import cancel_button

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flyteagent_nb.notebook.panel_state import PanelState
    from flyteagent_nb.running.run import RunSnapshot
    from flyteagent_nb.serving.host import Address

TEXT_ROWS = 20
"""The same in text."""

WIDTH = 80
"""Columns of the text."""


# --- text ---


def panel_text(state: PanelState) -> str:
    """The panel for a terminal, in 80 columns."""
    lines = [f"Agent service  {' '.join(words.HEALTH[state.service][:2])}"]
    lines += _wrapped(state.reason)
    lines += [f"  {clip(words.where(address, state.now), WIDTH - 2)}" for address in state.addresses]
    for each in state.connections:
        health, has, trouble = words.connected(each, state.now)
        lines.append(clip(f"{each.name}  {' '.join(health[:2])}  {has}", WIDTH))
        lines += _wrapped(trouble)
    lines.append("")
    if not state.total:
        lines += _wrapped(words.NO_RUNS, indent="") if state.agents else ["No runs yet."]
    else:
        lines += _wrapped(
            f"{words.many(state.total, 'run')}: {', '.join(told for _, told in words.counts(state))}", indent=""
        )
        shown = state.snapshots[:TEXT_ROWS]
        lines += [line for s in shown for line in _run_lines(s)]
        if state.total > len(shown):
            lines.append(f"  and {state.total - len(shown):,} older: %agent runs")
    lines += ["", words.many(len(state.agents), "agent")]
    rows = [
        (clip(kind if version == "0" else f"{kind} v{version}", 30), f"{name} ({how}), {package}")
        for kind, version, how, name, package in words.agent_rows(state)
    ]
    width = max((len(kind) for kind, _ in rows), default=0)
    lines += [f"  {kind:<{width}}  {clip(about, WIDTH - width - 4)}" for kind, about in rows]
    for plugin in state.broken:
        lines += _wrapped(f"✗ {plugin.name} is broken ({plugin.package}): {plugin.reason}")
    if state.figures:
        cells = [[clip(cell, 14) for cell in row] for row in words.figure_rows(state)]
        lines += ["", words.calls(state), textwrap.indent(render.table_text(words.FIGURE_COLUMNS, cells, ""), "  ")]
    return "\n".join(lines)


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")


def _run_lines(s: RunSnapshot) -> list[str]:
    sign, word, *_ = look(s)
    begin = f"  {s.id}  {sign} {word:<12} {render.seconds(s.elapsed):>7}  "
    tried = f", try {s.attempt} of {s.attempts}" if s.attempts > 1 else ""
    lines = [begin + clip(f"{s.name} ({s.task_type}{', stand-in' if s.stand_in else ''}{tried})", WIDTH - len(begin))]
    message = words.message(s)
    return [*lines, " " * 14 + clip(message, WIDTH - 14)] if message else lines


# --- HTML ---

_SMALL = f"color:{GREY};font-size:12px"
_LINE = "display:flex;flex-wrap:wrap;gap:2px 12px;align-items:baseline"
_TABLE = "margin:0;border-collapse:collapse;table-layout:auto;font-size:12px"
_TR = "background:none;height:28px;border-bottom:1px solid #8883"
_CELL = "padding:0 12px 0 0;text-align:left;white-space:nowrap"
_CLIP = f"{_CELL};overflow:hidden;text-overflow:ellipsis"
_FIXED = f"font-family:monospace;color:{GREY}"
_RIGHT = "padding:0 12px 0 0;text-align:right;white-space:nowrap"
# The head stays in sight where the table is larger than its box. Only a page that runs our widget has its colour; a page that
# has not leaves it where it is.
_STAYS = "position:sticky;top:0;z-index:1;background:var(--jp-layout-color1)"


def panel_html(state: PanelState, *, kernel: str, block: str) -> str:
    """The panel for a page.

    Args:
        state: what it shows.
        kernel: marks what acts on this kernel; empty where nothing could: then there are no controls.
        block: the block's display id.
    """
    marks = f' data-fa-kernel="{escape(kernel)}" data-fa-block="{escape(block)}" data-fa-at="{state.now:.3f}"'
    inner = (
        _head(state),
        _connections(state),
        _broken(state),
        _runs(state, kernel),
        _agents(state),
        _calls_table(state),
    )
    at = f"as of {words.clock(state.now, state.now, '%Y-%m-%d %H:%M:%S')}: %agent shows it as it is now"
    return (
        f'<div class="fnb-box" style="{render.FRAME};max-width:1080px"{marks if kernel else ""}>{"".join(inner)}'
        f'<div class="fnb-still" style="{_SMALL};margin-top:4px">{at}</div></div>'
    )


def _soft(text: str) -> str:
    return f'<span class="fnb-soft" style="{_SMALL}">{escape(text)}</span>'


def _phase(seen: Look, text: str, more: str = "") -> str:
    style = f"color:{seen.colour};font-weight:600;white-space:nowrap"
    return f'<span class="fnb-{seen.kind}" style="{style}"{more}>{seen.sign} {escape(text)}</span>'


def _head(state: PanelState) -> str:
    health, status = words.HEALTH[state.service], ' role="status" aria-live="off"'
    broken = _phase(words.HEALTH["failed"], f"{len(state.broken)} broken") if state.broken else ""
    addresses = " ".join(_address(address, state.now) for address in state.addresses)
    reason = f'<div style="white-space:pre-wrap;overflow-wrap:anywhere">{escape(state.reason)}</div>'
    return (
        f'<div style="{_LINE}"><b>Agent service</b> {_phase(health, health.word, status)} {addresses} '
        f'<span style="flex:1"></span>{_soft(words.many(len(state.agents), "agent"))} {broken}</div>'
        f"{reason if state.reason else ''}"
    )


def _connections(state: PanelState) -> str:
    lines = []
    for each in state.connections:
        health, has, trouble = words.connected(each, state.now)
        lines.append(
            f'<div style="{_LINE};margin-top:2px"><b style="overflow-wrap:anywhere">{escape(each.name)}</b> '
            f'{_phase(health, health.word)} <span class="fnb-soft" style="{_SMALL};overflow-wrap:anywhere">{escape(has)}</span> '
            f'<span style="font-size:12px;overflow-wrap:anywhere">{escape(clip(trouble, 300))}</span></div>'
        )
    return "".join(lines)


def _address(address: Address, now: float) -> str:
    told = words.where(address, now)
    if address.kind == "private":  # where its socket lies is nobody's business who reads a saved notebook
        return _soft(told)
    if address.kind != "open":
        return f'<span title="{escape(address.target)}">{_soft(told)}</span>'
    return f'<span class="fnb-wait" style="color:{ORANGE};font-size:12px">{escape(told)}</span>'


def _broken(state: PanelState) -> str:
    lines = [
        f'<div style="margin-top:2px;overflow-wrap:anywhere">{_phase(words.HEALTH["failed"], plugin.name)} '
        f"{_soft(plugin.package)} {escape(clip(plugin.reason, 500))}</div>"
        for plugin in state.broken
    ]
    return "".join(lines)


def _runs(state: PanelState, kernel: str) -> str:
    if not state.total:
        return f'<div style="margin-top:6px">{_soft(words.NO_RUNS)}</div>' if state.agents else ""
    began, end, span_name = words.axis(state.snapshots, state.now)
    rows = "".join(_row(s, began, end, state.now, bool(kernel)) for s in state.snapshots)
    lanes = (span_name, f"{_CELL};width:18%;min-width:120px")
    named = [(name, _RIGHT if name == "time" else _CELL) for name in ("run", "task", "type", "phase", "time")]
    marks = {"type": "fnb-wide", "message": "fnb-wide", "time": "fnb-mid", span_name: "fnb-mid"}
    message = ("message", f"{_CELL};width:36%")
    table = _table((*named, lanes, message, ("", "padding:0")), rows, "width:100%", _STAYS if kernel else "", marks)
    older = state.total - len(state.snapshots)
    told = "No run fits the filter." if older <= 0 else f"None of these {len(state.snapshots):,} runs fits the filter."
    none = f'<div data-fa-none style="display:none;{_SMALL};padding:4px 0">{told}</div>' if kernel else ""
    more = f"<div>{_soft(f'and {older:,} older: %agent runs')}</div>" if older > 0 else ""
    return (
        f'<div style="{_LINE};font-size:12px;margin:6px 0 4px">'
        f'{" ".join(_phase(seen, told) for seen, told in words.counts(state))} <span style="flex:1"></span>'
        f"{_controls(state) if kernel else ''}</div>"
        f'<div style="overflow-x:auto;overflow-y:auto;max-height:420px" data-fa-scroll="runs">{table}{none}</div>{more}'
    )


def _controls(state: PanelState) -> str:
    seen = words.in_order(phase for s in state.snapshots for phase in (s.phase, *(change.phase for change in s.phases)))
    options = "".join(f'<option value="{escape(phase)}">{escape(look_of(phase).word)}</option>' for phase in seen)
    both = 'class="fnb-field" style="font-size:12px;height:24px;padding:0 6px"'
    parts = [
        f'<select {both} data-fa-filter="phase" name="phase" aria-label="Show runs in phase">'
        f'<option value="">All phases</option>{options}</select>',
        f'<input {both} data-fa-filter="text" name="filter" placeholder="Filter" aria-label="Show runs with text" size="16">',
    ]
    if state.live > 1:
        parts.append(
            '<button type="button" class="fnb-button" style="height:24px" data-fa-do="cancel-all" data-fa-busy="Stopping" '
            f'aria-label="Cancel all runs that are under way">Cancel all {state.live:,}</button>'
        )
    return f'<span class="fnb-live" style="display:none">{" ".join(parts)}</span>'


def _row(s: RunSnapshot, began: float, end: float, now: float, acts: bool) -> str:
    name, kind, message = clip(s.name, 60), clip(s.task_type, 60), clip(words.message(s), 300)
    seen = look(s)
    told = (s.id, name, kind, seen.word, s.agent, *((s.stand_in,) if s.stand_in else ()), clip(message, 80))
    found = escape(" ".join(told).lower())
    ticks = f' data-fa-elapsed="{s.elapsed:.2f}"' if acts and not s.done else ""
    tried = f" {_soft(f'try {s.attempt} of {s.attempts}')}" if s.attempts > 1 else ""
    if s.stand_in:
        style = f"color:{ORANGE};font-size:12px"
        tried += f' <span class="fnb-wait" style="{style}" title="{escape(s.stand_in)}">stand-in</span>'
    if s.ended is not None and s.ended < began:
        shown = _soft(f"◂ {words.clock(s.submitted, now)}")
    else:
        shown = f'<div style="{TRACK}">{lane(s, began, end)}</div>'
    links = [link(clip(label, 24) or "log", uri) for label, uri in s.log_links[:3]]
    links = [told for told in links if told.startswith("<a ")]  # what is no link is told by %agent show
    said = " ".join((" · ".join(links), escape(clip(message, 80)))).strip()
    stops = (
        f'<td class="fnb-act" style="padding:0 0 0 10px;text-align:right">{cancel_button(s)}</td>'
        if acts and not s.done
        else "<td></td>"
    )
    return (
        f'<tr class="fnb-rule" style="{_TR}" data-fa-row="{found}" data-fa-phase="{escape(words.told(s.phase))}">'
        f'<td class="fnb-soft" style="{_CELL};{_FIXED}">{escape(s.id)}</td>'
        f'<td class="fnb-name" style="{_CLIP};max-width:160px"{_title(name, 20)}>{escape(name)}</td>'
        f'<td class="fnb-soft fnb-wide" style="{_CLIP};max-width:140px;{_FIXED}"{_title(kind, 18)}>{escape(kind)}</td>'
        f'<td style="{_CELL}">{_phase(seen, seen.word)}{tried}</td>'
        f'<td class="fnb-soft fnb-mid" style="{_RIGHT};color:{GREY}"{ticks}>{render.seconds(s.elapsed)}</td>'
        f'<td class="fnb-mid" style="padding:0 12px 0 0">{shown}</td>'
        f'<td class="fnb-wide" style="{_CLIP};max-width:180px"{_title(message, 24)}>{said}</td>{stops}</tr>'
    )


def _title(text: str, width: int) -> str:
    """The whole of a text that may not be seen in full."""
    return f' title="{escape(text)}"' if len(text) > width else ""


def _agents(state: PanelState) -> str:
    if not state.agents:
        return ""
    columns = [(name, _CELL) for name in words.AGENT_COLUMNS]
    return _fold("agents", "Agents", _plain_table(columns, words.agent_rows(state)), is_open=not state.total)


def _calls_table(state: PanelState) -> str:
    if not state.figures:
        return ""
    columns = [(name, _CELL if i < 3 else _RIGHT) for i, name in enumerate(words.FIGURE_COLUMNS)]
    return _fold("calls", words.calls(state), _plain_table(columns, words.figure_rows(state)), is_open=False)


def _fold(name: str, title: str, inner: str, *, is_open: bool) -> str:
    return (
        f'<details data-fa-fold="{name}"{" open" if is_open else ""} style="margin-top:4px">'
        f'<summary class="fnb-soft" style="{_SMALL};cursor:pointer">{escape(title)}</summary>'
        f'<div style="overflow-x:auto">{inner}</div></details>'
    )


def _plain_table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
    told = []
    for row in rows:
        cells = zip(columns, row, strict=True)
        filled = "".join(f'<td style="{style}">{escape(clip(cell, 120))}</td>' for (_, style), cell in cells)
        told.append(f'<tr class="fnb-rule" style="{_TR}">{filled}</tr>')
    return _table(columns, "".join(told))


def _table(
    columns: Sequence[tuple[str, str]],
    rows: str,
    style: str = "",
    head_style: str = "",
    marks: Mapping[str, str] | None = None,
) -> str:
    """A table; ``columns`` are (name, style) pairs, ``marks`` classes of the page's own style by name."""
    heads = "".join(
        f'<th scope="col" class="fnb-soft {(marks or {}).get(name, "")}" style="{each};{_SMALL};font-weight:600">{escape(name)}</th>'
        for name, each in columns
    )
    head = f'<thead style="{head_style}"><tr class="fnb-rule" style="{_TR}">{heads}</tr></thead>'
    return f'<table style="{_TABLE};{style}">{head}<tbody>{rows}</tbody></table>'
