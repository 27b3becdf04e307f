"""Sandboxes -> text and HTML: what stands in for what, and what that means for a person's runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flyteagent_nb.notebook import render
from flyteagent_nb.notebook.render import GREEN, GREY, RED
from flyteagent_nb.notebook.views import Pairs, View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flyteagent_nb.sandbox.sandboxes import SandboxStatus

_COLUMNS = ("sandbox", "state", "stand-in", "for the task types")
_SIGNS = {"running": "● running", "ended": "✗ ended", "stopped": "○ stopped"}
_COLOURS = {"running": GREEN, "ended": RED, "stopped": GREY}


class SandboxView(Pairs):
    """One sandbox.

    Attributes:
        status: how it is.
    """

    def __init__(self, status: SandboxStatus) -> None:
        self.status = status
        super().__init__(sandbox_rows(status, time.time()))


class SandboxList(list["SandboxStatus"], View):
    """Sandboxes: a list that shows itself as a table."""

    def text(self) -> str:
        """The table, and how one is started."""
        return f"{render.table_text(_COLUMNS, self._rows(), 'no sandboxes')}\n{_HOW}"

    def html(self) -> str:
        """The same."""
        colours = [{1: _COLOURS[s.state]} for s in self]
        table = render.table_html(_COLUMNS, self._rows(), "no sandboxes", colours)
        return f"{table}<div>{render.span(_HOW, f'color:{GREY};font-size:12px')}</div>"

    def _rows(self) -> list[tuple[str, ...]]:
        return [(s.name, _SIGNS[s.state], f"{_product(s)} for {s.service}", ", ".join(s.task_types)) for s in self]

    __repr__ = View.__repr__


_HOW = "%agent sandbox NAME starts one, %agent sandbox NAME status tells what it covers"


def sandbox_rows(s: SandboxStatus, now: float) -> list[tuple[str, str]]:
    """All that a person should know of a sandbox, as (label, text) pairs. ``now`` is in seconds since the epoch."""
    on = s.state != "stopped"
    where = f" on {', '.join(f'127.0.0.1:{port}' for port in s.ports)}" if s.state == "running" else ""
    since = f", since {render.ago(s.since, now)}" if s.since is not None else ""
    types = ", ".join(s.task_types)
    rows = [
        ("sandbox", f"{s.name}: {_SIGNS[s.state]}{where}{since}"),
        (
            "stand-in",
            f"{_product(s)}{' in an environment of its own' if s.is_own else ''}: not {s.service} itself, and no account is used",
        ),
        ("task types", f"{types}: their runs go to it, and say so" if on else types),
        ("it covers", s.covers),
        ("it differs", s.misses),
        ("tables", "\n".join(s.tables)),
        ("variables", f"{', '.join(s.variables)}: set for this kernel and what it starts" if on else ""),
        # A line of a server's log may be a screen long.
        ("last words", "\n".join(render.clip(line, 300) for line in s.last_words.splitlines())),
        (f"{'stop' if on else 'start'} it", f"%agent sandbox {s.name} {'stop' if on else 'start'}"),
    ]
    return [(label, text) for label, text in rows if text]


def stopped_view(stopped: Sequence[SandboxStatus]) -> Pairs:
    """What was stopped, and what that means."""
    rows = [
        (
            s.name,
            f"stopped: the variables are as they were, and runs of {', '.join(s.task_types)} go to {s.service} again",
        )
        for s in stopped
    ]
    return Pairs(rows or [("stopped", "nothing: no sandbox was running")])


def _product(s: SandboxStatus) -> str:
    return f"{s.product} {s.version}".strip()
