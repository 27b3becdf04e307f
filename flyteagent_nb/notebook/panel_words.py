"""The words of the panel, which its text and its HTML share. Pure."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from flyteagent_nb.notebook import render
from flyteagent_nb.notebook.render import GREEN, GREY, ORANGE, PHASES, RED, Look, look_of
from flyteagent_nb.notebook.run_views import reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flyteagent_nb.notebook.panel_state import PanelState
    from flyteagent_nb.running.routing import Connection
    from flyteagent_nb.running.run import RunSnapshot
    from flyteagent_nb.serving.host import Address

AXIS_RUNS = 50
"""The newest runs, which the time axis covers as far as its longest step does."""

AXIS_STEPS = (1, 2, 5, 10, 30, 60, 120, 300, 600)
"""Seconds that the axis may be long: few lengths, so that the lanes keep their scale while runs come and go."""

HEALTH = {
    "closed": Look("○", "Closed", GREY, "soft"),
    "starting": Look("◔", "Starting", ORANGE, "wait"),
    "serving": Look("●", "Serving", GREEN, "ok"),
    "failed": Look("✗", "Failed", RED, "bad"),
}
UNREACHABLE = Look("✗", "Unreachable", RED, "bad")
NO_RUNS = "No runs yet. Call a task of a type below, or begin a cell with %%agent_task TYPE."
AGENT_COLUMNS = ("type", "version", "kind", "agent", "package")
FIGURE_COLUMNS = ("type", "agent", "operation", "calls", "failed", "median", "slowest")


def many(count: int, noun: str) -> str:
    """``1 run``, ``1,204 runs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def clock(at: float, now: float, form: str = "%H:%M") -> str:
    """A time of the day, with its date where that is not today's: it stays true for as long as the page is kept."""
    then = datetime.datetime.fromtimestamp(at)
    today = then.date() == datetime.datetime.fromtimestamp(now).date()
    return then.strftime(form if today else f"%Y-%m-%d {form}")


def where(address: Address, now: float) -> str:
    """Where the service listens, for whom, and since when."""
    who = {"private": "private to this kernel", "token": "with a token", "open": "open to whoever reaches it"}
    private = address.kind == "private" and address.port is None
    where = "private socket" if private else f"{address.target} {who[address.kind]}"
    return f"{where}, since {clock(address.since, now)}"


def connected(each: Connection, now: float) -> tuple[Look, str, str]:
    """How a connected service is told: its health, what it has, and what is wrong with it."""
    has = f"{each.target}, {many(each.types, 'task type')}{', the default one' if each.is_default else ''}"
    if not each.trouble:
        return HEALTH["serving"], has, ""
    since = f"since {clock(each.unreachable, now)}: " if each.unreachable else ""
    return UNREACHABLE, has, since + each.trouble


def told(phase: str) -> str:
    """The phase under which people see it: two of Flyte's are told as failed."""
    return "FAILED" if phase == "RETRYABLE_FAILED" else phase


def in_order(phases: Iterable[str]) -> list[str]:
    """Each phase once, in the order of a run's life."""
    order = {phase: i for i, phase in enumerate(PHASES)}
    return sorted({told(phase) for phase in phases}, key=lambda phase: (order.get(phase, len(order)), phase))


def counts(state: PanelState) -> list[tuple[Look, str]]:
    """How many runs are in which phase."""
    found = []
    for phase in in_order(state.phases):
        count = sum(n for each, n in state.phases.items() if told(each) == phase)
        found.append((look_of(phase), f"{count:,} {look_of(phase).word.lower()}"))
    return found


def calls(state: PanelState) -> str:
    """How many calls there were, and how many a second lately."""
    failures = sum(f.failures for f in state.figures)
    told = many(sum(f.calls for f in state.figures), "call") + (f", {failures:,} failed" if failures else "")
    return told if state.rate is None else f"{told}, now {state.rate:.1f} a second"


def figure_rows(state: PanelState) -> list[tuple[str, ...]]:
    """The figures under FIGURE_COLUMNS."""
    names = {entry.task_type: entry.name for entry in state.agents}
    rows: list[tuple[str, ...]] = []
    for f in state.figures:
        name, failed = names.get(f.task_type, ""), f"{f.failures:,}" if f.failures else "–"
        took = [short(each) for each in f.latency] if f.latency is not None else ["–", "–"]
        rows.append((f.task_type, name, f.operation, f"{f.calls:,}", failed, *took))
    return rows


def short(value: float) -> str:
    """A duration in seconds, with a tenth of a millisecond where that is much of it."""
    return f"{value * 1e3:.1f} ms" if value < 0.00995 else render.seconds(value)


def agent_rows(state: PanelState) -> list[tuple[str, ...]]:
    """The agents under AGENT_COLUMNS."""
    rows: list[tuple[str, ...]] = []
    for e in state.agents:
        package = e.package + (f", definition {e.generation}" if e.generation > 1 else "")
        rows.append((e.task_type, str(e.version), "sync" if e.is_sync else "async", e.name, package))
    return rows


def message(s: RunSnapshot) -> str:
    """What a row says: of a failure the agent's own words, as task and type stand beside them."""
    return reason(s) if s.error is not None else s.message


def axis(snapshots: Sequence[RunSnapshot], now: float) -> tuple[float, float, str]:
    """Begin and end of the lanes, in seconds since the epoch, and their name: up to now, or up to where the last run ended."""
    end = now if any(s.ended is None for s in snapshots) else max(s.ended or 0.0 for s in snapshots)
    longest = AXIS_STEPS[-1]
    begins = [s.submitted for s in snapshots[:AXIS_RUNS] if s.ended is None or s.ended >= end - longest]
    step = next((length for length in AXIS_STEPS if length >= end - min(begins, default=end)), longest)
    name = f"{step} s" if step < 60 else f"{step // 60} min"
    return end - step, end, f"last {name}" if end == now else f"{name} until {clock(end, now, '%H:%M:%S')}"
