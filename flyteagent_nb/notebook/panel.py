"""The panel as a block on the page, which notices by itself what has changed."""

from __future__ import annotations

import collections
import time
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import FlyteAgentNBError
from flyteagent_nb.notebook.page import Block
from flyteagent_nb.notebook.panel_state import ROWS, Figure, PanelState, figures
from flyteagent_nb.notebook.panel_views import panel_html, panel_text
from flyteagent_nb.notebook.panel_words import axis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flyteagent_nb.notebook.page import Page
    from flyteagent_nb.running.run import RunSnapshot
    from flyteagent_nb.running.runner import Runner
    from flyteagent_nb.workspace import Workspace


class PanelBlock(Block):
    """The panel on a page: live until it is closed, and looked at now and then, as thousands of runs may change at once.

    Args:
        workspace: what it shows.
        page: the page it is shown on.
    """

    poll = 0.5

    def __init__(self, workspace: Workspace, page: Page) -> None:
        super().__init__()
        self._workspace = workspace
        self._page = page
        self._runner: Runner | None = None
        self._closed = False
        self._shown: PanelState | None = None
        self._last: PanelState | None = None
        self._figures: tuple[Figure, ...] = ()
        self._rate: float | None = None
        self._counted = 0.0

    @property
    def live(self) -> bool:
        """Whether it is kept up to date."""
        return not self._closed

    def close(self) -> None:
        """Leave it as it is, without controls; a later panel takes its place. Any thread."""
        self._closed = True
        self._page.touch(self)

    def changed(self) -> bool:
        """Whether it would look different now; lanes of live runs grow by a hundredth of their axis at least."""
        shown, state = self._shown, self._state()
        if shown is None:
            return True
        passed = state.now - shown.now
        if _identity(shown) != _identity(state):
            return True
        if not state.live:
            return False
        began, end, _ = axis(shown.snapshots, shown.now)
        return passed >= max(1.0, (end - began) / 100)

    def text(self) -> str:
        """The panel in 80 columns."""
        return panel_text(self._state())

    def html(self, kernel: str) -> str:
        """The panel as a framed block."""
        self._shown = state = self._state()
        return panel_html(state, kernel=kernel, block=self.id)

    def act(self, message: dict[str, Any]) -> None:
        """Cancel every run that is under way."""
        if message.get("do") == "cancel-all" and self._runner is not None:
            for run in self._runner.runs():
                if not run.done:
                    run.cancel()

    def _state(self) -> PanelState:
        if not self._closed:
            return self._look()
        if self._last is None:  # what it showed at its end is what it goes on to show
            self._last = self._look()
        return self._last

    def _look(self) -> PanelState:
        workspace = self._workspace
        service = workspace.state
        reason = ""
        if service == "failed":
            try:
                workspace.wait(0)
            except FlyteAgentNBError as error:
                reason = str(error)
        if service == "serving" and self._runner is None:
            self._runner = workspace.runner  # kept: to ask for it where the service has just been closed would open it
        snapshots = [run.snapshot for run in self._runner.runs()] if self._runner is not None else []
        self._count()
        return PanelState(
            service=service,
            now=time.time(),
            reason=reason,
            addresses=workspace.addresses(),
            connections=self._runner.router.connections()[1:] if self._runner is not None else (),
            agents=workspace.catalog.entries(),
            broken=workspace.catalog.broken,
            snapshots=_chosen(snapshots),
            phases=collections.Counter(s.phase for s in snapshots),
            live=sum(s.ended is None for s in snapshots),
            figures=self._figures,
            rate=self._rate,
        )

    def _count(self) -> None:
        """Take the figures, once a second at most, so that their difference is a rate."""
        now = time.monotonic()
        passed = now - self._counted
        if passed < 1.0:
            return
        before, self._figures = self._figures, figures()
        if self._counted:
            calls = sum(f.calls for f in self._figures) - sum(f.calls for f in before)
            self._rate = round(calls / passed, 1)
        self._counted = now


def _identity(state: PanelState) -> tuple[object, ...]:
    """What tells two states apart: snapshots and agents are replaced when they change, so which object it is will do."""
    return (
        state.service,
        state.addresses,
        state.connections,
        state.broken,
        state.phases,
        state.figures,
        state.rate,
        *map(id, state.agents),
        *map(id, state.snapshots),
    )


def _chosen(snapshots: Sequence[RunSnapshot]) -> tuple[RunSnapshot, ...]:
    """The newest, as many as are shown; one that is under way comes before a newer one that has ended."""
    live = sum(s.ended is None for s in snapshots)
    room = {True: min(live, ROWS), False: ROWS - min(live, ROWS)}
    chosen: list[RunSnapshot] = []
    for s in snapshots:
        kind = s.ended is None
        if room[kind]:
            room[kind] -= 1
            chosen.append(s)
    return tuple(chosen)
