"""The cells that ran in a notebook, with what IPython does not keep of them: where they raised, and what became of a magic's body."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from flyteagent_nb.shipping.cells import Cell, body_of

if TYPE_CHECKING:
    from types import TracebackType

    from flyteagent_nb.shipping.cells import Point


class RanCells:
    """The history of a shell, and how its cells went since this was made. Of those before it is taken that they ran to their end."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self._bodies: set[tuple[int, str]] = set()
        self._raised: dict[tuple[int, str], tuple[Point, ...]] = {}
        self._within: tuple[str, tuple[Point, ...]] = "", ()

    def all(self) -> list[Cell]:
        """The cells."""
        return [
            Cell(each[1], each in self._bodies, self._raised.get(each, ()))
            for each in enumerate(self._history.input_hist_parsed)
        ]

    def body_runs(self) -> None:
        """Take note that what is below the magic of the cell that runs now is Python, and runs."""
        self._bodies.add(self._newest())

    def after_cell(self, result: Any) -> None:
        """Take note of where a cell raised."""
        raised = self._points(result)
        if not result.info.store_history:  # what is below %%capture, say, which shows the error and goes on
            self._within = result.info.raw_cell, raised
            return
        (body, below), self._within = self._within, ("", ())
        if self._history.input_hist_raw[-1] != result.info.raw_cell.rstrip("\n"):  # IPython keeps no %paste
            return
        cell = self._newest()
        if not raised and below and body_of(cell[1]) == body:
            raised = (1, 0), *below
        self._raised.pop(cell, None)  # after %reset the numbers begin again
        if raised:
            self._raised[cell] = raised

    def _points(self, result: Any) -> tuple[Point, ...]:
        before = result.error_before_exec
        if before is not None:  # IPython compiles one statement after the other
            return (
                ((before.lineno or 0, max((before.offset or 1) - 1, 0)) if isinstance(before, SyntaxError) else (0, 0)),
            )
        traceback: TracebackType | None = getattr(result.error_in_exec, "__traceback__", None)
        found: list[Point] = []
        while traceback is not None:
            if traceback.tb_frame.f_locals is self.shell.user_ns:  # no function's
                found.append((traceback.tb_lineno, _column(traceback)))
            traceback = traceback.tb_next
        return tuple(found)

    def _newest(self) -> tuple[int, str]:
        sources = self._history.input_hist_parsed
        return len(sources) - 1, sources[-1]

    @property
    def _history(self) -> Any:
        return self.shell.history_manager


def _column(traceback: TracebackType) -> int:
    """Where in its line it was; 0 where Python does not know (before 3.11)."""
    positions = getattr(traceback.tb_frame.f_code, "co_positions", None)
    if positions is None:
        return 0
    return next(itertools.islice(positions(), traceback.tb_lasti // 2, None))[2] or 0
