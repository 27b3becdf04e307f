"""What the verbs return: objects with a text and an HTML face that are of use in code too."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flyteagent_nb.notebook import render, run_views

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flyteagent_nb.running.run import Run
    from flyteagent_nb.serving.catalog import AgentEntry, BrokenPlugin
    from flyteagent_nb.serving.host import Address
    from flyteagent_nb.workspace import Workspace


class View:
    """Text and HTML."""

    def text(self) -> str:
        """For a terminal."""
        raise NotImplementedError

    def html(self) -> str:
        """For a notebook."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return self.html()

    def __repr__(self) -> str:
        return self.text()


class Pairs(View):
    """Labels and texts.

    Attributes:
        rows: (label, text) pairs.
    """

    def __init__(self, rows: Sequence[tuple[str, str]]) -> None:
        self.rows = list(rows)

    def text(self) -> str:
        """A line a row."""
        return render.pairs_text(self.rows)

    def html(self) -> str:
        """A table."""
        return render.pairs_html(self.rows)


class RunList(list["Run"], View):
    """Runs, newest first: a list that shows itself as a table, as it is now."""

    def text(self) -> str:
        """The table."""
        now = time.time()
        return render.table_text(
            run_views.RUN_COLUMNS, [run_views.run_row(run.snapshot, now) for run in self], "no runs yet"
        )

    def html(self) -> str:
        """The table."""
        now = time.time()
        snapshots = [run.snapshot for run in self]
        rows = [run_views.run_row(s, now) for s in snapshots]
        return render.table_html(
            run_views.RUN_COLUMNS, rows, "no runs yet", [{3: render.look(s).colour} for s in snapshots]
        )

    __repr__ = View.__repr__


class AgentList(list["AgentEntry"], View):
    """Agents by task type: a list that shows itself as a table.

    Attributes:
        broken: the plug-ins that could not be imported.
    """

    def __init__(self, entries: Iterable[AgentEntry], broken: Sequence[BrokenPlugin]) -> None:
        super().__init__(entries)
        self.broken = tuple(broken)

    def text(self) -> str:
        """The table, and what is broken."""
        text = render.table_text(render.TYPE_COLUMNS, self._rows(), "no agents")
        broken = [f"broken: {b.name} ({b.package}): {b.reason}" for b in self.broken]
        return "\n".join((text, *broken))

    def html(self) -> str:
        """The table, and what is broken."""
        text = render.table_html(render.TYPE_COLUMNS, self._rows(), "no agents")
        broken = "".join(
            f"<div>{render.span('✗ broken', 'color:#d8453c;font-weight:600')} {render.escape(f'{b.name} ({b.package}): {b.reason}')}</div>"
            for b in self.broken
        )
        return text + broken

    def _rows(self) -> list[tuple[str, ...]]:
        return [(e.task_type, str(e.version), "sync" if e.is_sync else "async", e.name, e.package) for e in self]

    __repr__ = View.__repr__


class Lines(list[str], View):
    """Lines of output."""

    def text(self) -> str:
        """The lines."""
        return "\n".join(self) if self else "nothing was printed or logged"

    def html(self) -> str:
        """The lines, in a fixed font."""
        return f'<pre style="font-size:12px;white-space:pre-wrap;margin:0">{render.escape(self.text())}</pre>'

    __repr__ = View.__repr__


class Served(Pairs):
    """An address that was opened.

    Attributes:
        address: its gRPC target.
        token: what a client must send as ``authorization: Bearer ...``, or None. It is not shown, so that no notebook keeps it.
    """

    def __init__(self, address: Address) -> None:
        self.address = address.target
        self.token = address.token
        rows = [("listens on", address.target)]
        if address.token:
            rows.append(("token", "asked of every caller; not shown here: it is the attribute `token` of this result"))
        else:
            rows.append(("warning", "open: whoever reaches this address can run the agents of this kernel"))
        super().__init__([*rows, ("close it", f"%agent stop {address.target}")])


class DryRun(View):
    """What would be sent.

    Attributes:
        template: the task's template (flyteidl).
        inputs: the literals (flyteidl).
    """

    def __init__(self, template: Any, inputs: Any) -> None:
        self.template = template
        self.inputs = inputs

    def text(self) -> str:
        """Template and inputs in protobuf's text form."""
        return f"nothing was sent\n\n# template\n{self.template}\n# inputs\n{self.inputs}"

    def html(self) -> str:
        """The same, in a fixed font."""
        return f'<pre style="font-size:12px;white-space:pre-wrap;margin:0">{render.escape(self.text())}</pre>'


def run_details(workspace: Workspace, run: Run) -> Pairs:
    """All that is known of a run."""
    return Pairs(run_views.details(run.snapshot, workspace.runner.attempts(run), workspace.captured(run.id)))
