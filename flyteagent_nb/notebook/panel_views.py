"""The panel -> text and HTML: the agent service, its runs, its agents and their figures. Pure, but for :func:`figures`."""

from __future__ import annotations

import collections
import datetime
import sys
import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flyteagent_nb.notebook import render
from flyteagent_nb.notebook.bars import TRACK, lane
from flyteagent_nb.notebook.render import GREEN, GREY, ORANGE, PHASES, RED, Look, clip, escape, link, look, look_of
from flyteagent_nb.notebook.run_views import cancel_button, reason
from flyteagent_nb.serving.latencies import latency

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flyteagent_nb.running.routing import Connection
    from flyteagent_nb.running.run import RunSnapshot
    from flyteagent_nb.serving.catalog import AgentEntry, BrokenPlugin
    from flyteagent_nb.serving.host import Address
    from flyteagent_nb.serving.latencies import Latency

ROWS = 200
"""Runs that a page shows one by one; the others are counted."""

TEXT_ROWS = 20
"""The same in text."""

AXIS_RUNS = 50
"""The newest runs, which the time axis covers as far as its longest step does."""

AXIS_STEPS = (1, 2, 5, 10, 30, 60, 120, 300, 600)
"""Seconds that the axis may be long: few lengths, so that the lanes keep their scale while runs come and go."""

WIDTH = 80
"""Columns of the text."""


@dataclass(frozen=True)
class Figure:
    """How one operation of a task type's agent has gone, since the kernel began.

    Attributes:
        task_type: the task type.
        operation: ``create``, ``get``, ``delete`` or ``do``.
        calls: how many calls have ended.
        failures: how many of them failed; a call that its caller gave up is none.
        latency: how long they took; None where a service that is not ours counted them.
    """

    task_type: str
    operation: str
    calls: int
    failures: int
    latency: Latency | None


def figures() -> tuple[Figure, ...]:
    """The figures in flytekit's own metrics, which our servicers keep up, and how long the calls took; none where flytekit's service is
    not imported.
    """
    metrics: Any = sys.modules.get("flytekit.extend.backend.connector_service")
    if metrics is None:
        return ()
    sums: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for metric in (metrics.request_latency, metrics.request_failure_count):
        for family in metric.collect():
            for sample in family.samples:  # named ..._count and ..._sum, and ..._total for each error code
                key = (sample.labels["task_type"], sample.labels["operation"])
                sums[key][sample.name.rpartition("_")[2]] += sample.value
    return tuple(
        Figure(*key, calls=int(s["count"]), failures=int(s["total"]), latency=latency(*key))
        for key, s in sorted(sums.items())
        if s["count"]
    )


@dataclass(frozen=True)
class PanelState:
    """All that the panel shows, at one moment.

    Attributes:
        service: ``closed``, ``starting``, ``serving`` or ``failed``.
        now: the moment, in seconds since the epoch.
        reason: why the service failed, or an empty string.
        addresses: where it listens.
        connections: the other services that are connected.
        agents: the agents.
        broken: the plug-ins that could not be imported.
        snapshots: the runs that are shown, newest first.
        phases: how many of all runs are in which phase.
        live: how many of all runs are under way.
        figures: the calls so far.
        rate: calls a second, lately; None where it is not known.
    """

    service: str
    now: float
    reason: str = ""
    addresses: Sequence[Address] = ()
    connections: Sequence[Connection] = ()
    agents: Sequence[AgentEntry] = ()
    broken: Sequence[BrokenPlugin] = ()
    snapshots: Sequence[RunSnapshot] = ()
    phases: Mapping[str, int] = field(default_factory=dict)
    live: int = 0
    figures: Sequence[Figure] = ()
    rate: float | None = None

    @property
    def total(self) -> int:
        """How many runs there are."""
        return sum(self.phases.values())


# --- what both faces say ---

_HEALTH = {
    "closed": Look("○", "Closed", GREY, "soft"),
    "starting": Look("◔", "Starting", ORANGE, "wait"),
    "serving": Look("●", "Serving", GREEN, "ok"),
    "failed": Look("✗", "Failed", RED, "bad"),
}
_UNREACHABLE = Look("✗", "Unreachable", RED, "bad")
_NO_RUNS = "No runs yet. Call a task of a type below, or begin a cell with %%agent_task TYPE."
_AGENT_COLUMNS = ("type", "version", "kind", "agent", "package")
_FIGURE_COLUMNS = ("type", "agent", "operation", "calls", "failed", "median", "slowest")


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _clock(at: float, now: float, form: str = "%H:%M") -> str:
    """A time of the day, with its date where that is not today's: it stays true for as long as the page is kept."""
    then = datetime.datetime.fromtimestamp(at)
    today = then.date() == datetime.datetime.fromtimestamp(now).date()
    return then.strftime(form if today else f"%Y-%m-%d {form}")


def _where(address: Address, now: float) -> str:
    who = {"private": "private to this kernel", "token": "with a token", "open": "open to whoever reaches it"}
    private = address.kind == "private" and address.port is None
    where = "private socket" if private else f"{address.target} {who[address.kind]}"
    return f"{where}, since {_clock(address.since, now)}"


def _connected(each: Connection, now: float) -> tuple[Look, str, str]:
    """How a connected service is told: its health, what it has, and what is wrong with it."""
    has = f"{each.target}, {_many(each.types, 'task type')}{', the default one' if each.is_default else ''}"
    if not each.trouble:
        return _HEALTH["serving"], has, ""
    since = f"since {_clock(each.unreachable, now)}: " if each.unreachable else ""
    return _UNREACHABLE, has, since + each.trouble


def _told(phase: str) -> str:
    """The phase under which people see it: two of Flyte's are told as failed."""
    return "FAILED" if phase == "RETRYABLE_FAILED" else phase


def _in_order(phases: Iterable[str]) -> list[str]:
    """Each phase once, in the order of a run's life."""
    order = {phase: i for i, phase in enumerate(PHASES)}
    return sorted({_told(phase) for phase in phases}, key=lambda phase: (order.get(phase, len(order)), phase))


def _counts(state: PanelState) -> list[tuple[Look, str]]:
    found = []
    for phase in _in_order(state.phases):
        count = sum(n for each, n in state.phases.items() if _told(each) == phase)
        found.append((look_of(phase), f"{count:,} {look_of(phase).word.lower()}"))
    return found


def _calls(state: PanelState) -> str:
    failures = sum(f.failures for f in state.figures)
    told = _many(sum(f.calls for f in state.figures), "call") + (f", {failures:,} failed" if failures else "")
    return told if state.rate is None else f"{told}, now {state.rate:.1f} a second"


def _figure_rows(state: PanelState) -> list[tuple[str, ...]]:
    names = {entry.task_type: entry.name for entry in state.agents}
    rows: list[tuple[str, ...]] = []
    for f in state.figures:
        name, failed = names.get(f.task_type, ""), f"{f.failures:,}" if f.failures else "–"
        took = [_short(each) for each in f.latency] if f.latency is not None else ["–", "–"]
        rows.append((f.task_type, name, f.operation, f"{f.calls:,}", failed, *took))
    return rows


def _short(value: float) -> str:
    """A duration in seconds, with a tenth of a millisecond where that is much of it."""
    return f"{value * 1e3:.1f} ms" if value < 0.00995 else render.seconds(value)


def _agent_rows(state: PanelState) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for e in state.agents:
        package = e.package + (f", definition {e.generation}" if e.generation > 1 else "")
        rows.append((e.task_type, str(e.version), "sync" if e.is_sync else "async", e.name, package))
    return rows


def _message(s: RunSnapshot) -> str:
    """What a row says: of a failure the agent's own words, as task and type stand beside them."""
    return reason(s) if s.error is not None else s.message


# --- text ---


def panel_text(state: PanelState) -> str:
    """The panel for a terminal, in 80 columns."""
    lines = [f"Agent service  {' '.join(_HEALTH[state.service][:2])}"]
    lines += _wrapped(state.reason)
    lines += [f"  {clip(_where(address, state.now), WIDTH - 2)}" for address in state.addresses]
    for each in state.connections:
        health, has, trouble = _connected(each, state.now)
        lines.append(clip(f"{each.name}  {' '.join(health[:2])}  {has}", WIDTH))
        lines += _wrapped(trouble)
    lines.append("")
    if not state.total:
        lines += _wrapped(_NO_RUNS, indent="") if state.agents else ["No runs yet."]
    else:
        lines += _wrapped(f"{_many(state.total, 'run')}: {', '.join(told for _, told in _counts(state))}", indent="")
        shown = state.snapshots[:TEXT_ROWS]
        lines += [line for s in shown for line in _run_lines(s)]
        if state.total > len(shown):
            lines.append(f"  and {state.total - len(shown):,} older: %agent runs")
    lines += ["", _many(len(state.agents), "agent")]
    rows = [
        (clip(kind if version == "0" else f"{kind} v{version}", 30), f"{name} ({how}), {package}")
        for kind, version, how, name, package in _agent_rows(state)
    ]
    width = max((len(kind) for kind, _ in rows), default=0)
    lines += [f"  {kind:<{width}}  {clip(about, WIDTH - width - 4)}" for kind, about in rows]
    for plugin in state.broken:
        lines += _wrapped(f"✗ {plugin.name} is broken ({plugin.package}): {plugin.reason}")
    if state.figures:
        cells = [[clip(cell, 15) for cell in row] for row in _figure_rows(state)]
        lines += ["", _calls(state), textwrap.indent(render.table_text(_FIGURE_COLUMNS, cells, ""), "  ")]
    return "\n".join(lines)


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")


def _run_lines(s: RunSnapshot) -> list[str]:
    sign, word, *_ = look(s)
    begin = f"  {s.id}  {sign} {word:<12} {render.seconds(s.elapsed):>7}  "
    tried = f", try {s.attempt} of {s.attempts}" if s.attempts > 1 else ""
    lines = [begin + clip(f"{s.name} ({s.task_type}{', stand-in' if s.stand_in else ''}{tried})", WIDTH - len(begin))]
    message = _message(s)
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
    at = f"as of {_clock(state.now, state.now, '%Y-%m-%d %H:%M:%S')}: %agent shows it as it is now"
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
    health, status = _HEALTH[state.service], ' role="status" aria-live="off"'
    broken = _phase(_HEALTH["failed"], f"{len(state.broken)} broken") if state.broken else ""
    addresses = " ".join(_address(address, state.now) for address in state.addresses)
    reason = f'<div style="white-space:pre-wrap;overflow-wrap:anywhere">{escape(state.reason)}</div>'
    return (
        f'<div style="{_LINE}"><b>Agent service</b> {_phase(health, health.word, status)} {addresses} '
        f'<span style="flex:1"></span>{_soft(_many(len(state.agents), "agent"))} {broken}</div>'
        f"{reason if state.reason else ''}"
    )


def _connections(state: PanelState) -> str:
    lines = []
    for each in state.connections:
        health, has, trouble = _connected(each, state.now)
        lines.append(
            f'<div style="{_LINE};margin-top:2px"><b style="overflow-wrap:anywhere">{escape(each.name)}</b> '
            f'{_phase(health, health.word)} <span class="fnb-soft" style="{_SMALL};overflow-wrap:anywhere">{escape(has)}</span> '
            f'<span style="font-size:12px;overflow-wrap:anywhere">{escape(clip(trouble, 300))}</span></div>'
        )
    return "".join(lines)


def _address(address: Address, now: float) -> str:
    told = _where(address, now)
    if address.kind == "private":  # where its socket lies is nobody's business who reads a saved notebook
        return _soft(told)
    if address.kind != "open":
        return f'<span title="{escape(address.target)}">{_soft(told)}</span>'
    return f'<span class="fnb-wait" style="color:{ORANGE};font-size:12px">{escape(told)}</span>'


def _broken(state: PanelState) -> str:
    lines = [
        f'<div style="margin-top:2px;overflow-wrap:anywhere">{_phase(_HEALTH["failed"], plugin.name)} '
        f"{_soft(plugin.package)} {escape(clip(plugin.reason, 500))}</div>"
        for plugin in state.broken
    ]
    return "".join(lines)


def _runs(state: PanelState, kernel: str) -> str:
    if not state.total:
        return f'<div style="margin-top:6px">{_soft(_NO_RUNS)}</div>' if state.agents else ""
    began, end, span_name = axis(state.snapshots, state.now)
    rows = "".join(_row(s, began, end, state.now, bool(kernel)) for s in state.snapshots)
    lanes = (span_name, f"{_CELL};width:18%;min-width:120px")
    named = [(name, _RIGHT if name == "time" else _CELL) for name in ("run", "task", "type", "phase", "time")]
    marks = {"type": "fnb-wide", "message": "fnb-wide", "time": "fnb-mid", span_name: "fnb-mid"}
    message = ("message", f"{_CELL};width:36%")
    table = _table((*named, lanes, message, ("", "padding:0")), rows, "width:100%", _STAYS if kernel else "", marks)
    older = state.total - len(state.snapshots)
    none = (
        f'<div data-fa-none style="display:none;{_SMALL};padding:4px 0">No run fits the filter.</div>' if kernel else ""
    )
    more = f"<div>{_soft(f'and {older:,} older: %agent runs')}</div>" if older > 0 else ""
    return (
        f'<div style="{_LINE};font-size:12px;margin:6px 0 4px">'
        f'{" ".join(_phase(seen, told) for seen, told in _counts(state))} <span style="flex:1"></span>'
        f"{_controls(state) if kernel else ''}</div>"
        f'<div style="overflow-x:auto;overflow-y:auto;max-height:420px" data-fa-scroll="runs">{table}{none}</div>{more}'
    )


def _controls(state: PanelState) -> str:
    seen = _in_order(phase for s in state.snapshots for phase in (s.phase, *(change.phase for change in s.phases)))
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


def axis(snapshots: Sequence[RunSnapshot], now: float) -> tuple[float, float, str]:
    """Begin and end of the lanes, in seconds since the epoch, and their name: up to now, or up to where the last run ended."""
    end = now if any(s.ended is None for s in snapshots) else max(s.ended or 0.0 for s in snapshots)
    longest = AXIS_STEPS[-1]
    begins = [s.submitted for s in snapshots[:AXIS_RUNS] if s.ended is None or s.ended >= end - longest]
    step = next((length for length in AXIS_STEPS if length >= end - min(begins, default=end)), longest)
    name = f"{step} s" if step < 60 else f"{step // 60} min"
    return end - step, end, f"last {name}" if end == now else f"{name} until {_clock(end, now, '%H:%M:%S')}"


def _row(s: RunSnapshot, began: float, end: float, now: float, acts: bool) -> str:
    name, kind, message = clip(s.name, 60), clip(s.task_type, 60), clip(_message(s), 300)
    seen = look(s)
    words = (s.id, name, kind, seen.word, s.agent, *((s.stand_in,) if s.stand_in else ()), clip(message, 80))
    found = escape(" ".join(words).lower())
    ticks = f' data-fa-elapsed="{s.elapsed:.2f}"' if acts and not s.done else ""
    tried = f" {_soft(f'try {s.attempt} of {s.attempts}')}" if s.attempts > 1 else ""
    if s.stand_in:
        style = f"color:{ORANGE};font-size:12px"
        tried += f' <span class="fnb-wait" style="{style}" title="{escape(s.stand_in)}">stand-in</span>'
    if s.ended is not None and s.ended < began:
        shown = _soft(f"◂ {_clock(s.submitted, now)}")
    else:
        shown = f'<div style="{TRACK}">{lane(s, began, end)}</div>'
    links = [link(clip(label, 24) or "log", uri) for label, uri in s.log_links[:3]]
    links = [told for told in links if told.startswith("<a ")]  # what is no link is told by %agent show
    said = " ".join((*links, escape(clip(message, 80))))
    stops = (
        f'<td class="fnb-act" style="padding:0 0 0 10px;text-align:right">{cancel_button(s)}</td>'
        if acts and not s.done
        else "<td></td>"
    )
    return (
        f'<tr class="fnb-rule" style="{_TR}" data-fa-row="{found}" data-fa-phase="{escape(_told(s.phase))}">'
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
    columns = [(name, _CELL) for name in _AGENT_COLUMNS]
    return _fold("agents", "Agents", _plain_table(columns, _agent_rows(state)), is_open=not state.total)


def _calls_table(state: PanelState) -> str:
    if not state.figures:
        return ""
    columns = [(name, _CELL if i < 3 else _RIGHT) for i, name in enumerate(_FIGURE_COLUMNS)]
    return _fold("calls", _calls(state), _plain_table(columns, _figure_rows(state)), is_open=False)


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
