"""The cells that ran in a notebook, with what IPython does not keep of them."""

from __future__ import annotations

from typing import Any

from flyteagent_nb.shipping.cells import Cell


class RanCells:
    """The history of a shell, and how its cells went since this was made."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self._bodies: set[tuple[int, str]] = set()

    def all(self) -> list[Cell]:
        """The cells."""
        return [Cell(source, (number, source) in self._bodies) for number, source in enumerate(self._sources)]

    def body_runs(self) -> None:
        """Take note that what is below the magic of the cell that runs now is Python, and runs."""
        number = len(self._sources) - 1
        self._bodies.add((number, self._sources[number]))

    @property
    def _sources(self) -> list[str]:
        return self.shell.history_manager.input_hist_parsed  # type: ignore[no-any-return]
