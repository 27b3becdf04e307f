"""What the verbs return: objects with a text and an HTML face that are of use in code too."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flyteagent_nb import wire
from flyteagent_nb.notebook import render, run_views
from flyteagent_nb.plugins import mending_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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
        return render.for_terminal(self.text())


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
    """Runs, newest first: a list that shows itself as a table, as it is now.

    Attributes:
        empty: what it shows where there are none.
    """

    empty = "no runs yet"

    def text(self) -> str:
        """The table."""
        now = time.time()
        return render.table_text(
            run_views.RUN_COLUMNS, [run_views.run_row(run.snapshot, now) for run in self], self.empty
        )

    def html(self) -> str:
        """The table."""
        now = time.time()
        snapshots = [run.snapshot for run in self]
        rows = [run_views.run_row(s, now) for s in snapshots]
        return render.table_html(
            run_views.RUN_COLUMNS, rows, self.empty, [{3: render.look(s).colour} for s in snapshots]
        )

    __repr__ = View.__repr__


class AgentList(list["AgentEntry"], View):
    """Agents by task type: a list that shows itself as a table.

    Attributes:
        broken: the plug-ins that could not be imported.
        notes: for each agent what it lacks and what is known of it, and the colour of that; empty where nobody looked.
    """

    def __init__(
        self,
        entries: Iterable[AgentEntry],
        broken: Sequence[BrokenPlugin],
        notes: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(entries)
        self.broken = tuple(broken)
        self.notes = tuple(notes)

    def text(self) -> str:
        """The table, and what is broken."""
        text = render.table_text(self._columns, self._rows(), "no agents")
        broken = []
        for b in self.broken:
            broken.append(f"broken: {b.name} ({b.package}): {b.reason}")
            if mend := mending_command(b.package, b.reason):
                broken.append(f"  → {mend}, then restart the kernel")
        return "\n".join((text, *broken, *self._more()))

    def html(self) -> str:
        """The table, and what is broken."""
        last = len(self._columns) - 1
        colours = [{last: colour} for _, colour in self.notes]
        text = render.table_html(self._columns, self._rows(), "no agents", colours)
        broken = ""
        for b in self.broken:
            mend = mending_command(b.package, b.reason)
            told = f"{b.name} ({b.package}): {b.reason}" + (f" → {mend}, then restart the kernel" if mend else "")
            mark = render.span("✗ broken", f"color:{render.RED};font-weight:600")
            broken += f"<div>{mark} {render.escape(told)}</div>"
        return (
            text + broken + "".join(f'<div style="color:{render.GREY}">{render.escape(m)}</div>' for m in self._more())
        )

    @property
    def _columns(self) -> tuple[str, ...]:
        return (*render.TYPE_COLUMNS, "state") if self.notes else render.TYPE_COLUMNS

    def _more(self) -> list[str]:
        return (
            ["%agent doctor TYPE tells more of a task type"] if any(len(words) > 1 for words, _ in self.notes) else []
        )

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [
            (e.task_type, str(e.version), "sync" if e.is_sync else "async", e.name, e.package) for e in self
        ]
        return [(*row, words) for row, (words, _) in zip(rows, self.notes, strict=True)] if self.notes else rows

    __repr__ = View.__repr__


class Lines(list[str], View):
    """Lines of output.

    Attributes:
        empty: what to say where there are none.
    """

    empty = "nothing was printed or logged"

    def text(self) -> str:
        """The lines."""
        return "\n".join(self) if self else self.empty

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
            rows.append(("warning", open_words(address)))
        if address.certificate:
            rows.append(("encrypted", f"TLS, with the certificate in {address.certificate}"))
        else:
            rows.append(("encrypted", "no: --cert FILE --key FILE speak TLS"))
        super().__init__([*rows, ("close it", f"%agent stop {address.target}")])


class RunDetails(Pairs):
    """All that is known of a run, as it was when it was asked for.

    Attributes:
        run: the run itself.
    """

    def __init__(self, run: Run, rows: Sequence[tuple[str, str]]) -> None:
        self.run = run
        super().__init__(rows)


class Pruned(Pairs):
    """What is forgotten of the runs on record, or would be.

    Attributes:
        run_ids: the runs, oldest first.
    """

    def __init__(self, run_ids: Sequence[str], *, done: bool) -> None:
        self.run_ids = list(run_ids)
        count = f"{len(self.run_ids):,} run{'' if len(self.run_ids) == 1 else 's'}"
        told = f"{count}, with inputs, outputs and logs"
        rows = [("forgotten" if done else "would go", told if self.run_ids else "nothing is old or too much")]
        super().__init__(rows if done or not self.run_ids else [*rows, ("forget them", "%agent runs --prune --yes")])


class DryRun(View):
    """What would be sent.

    Attributes:
        template: the task's template (flyteidl).
        inputs: the literals (flyteidl).
    """

    def __init__(self, template: Any, inputs: Any, mask: Callable[[str], str] = str) -> None:
        self.template = template
        self.inputs = inputs
        self._mask = mask

    def text(self) -> str:
        """Template and inputs in protobuf's text form."""
        return self._mask(f"nothing was sent\n\n# template\n{self.template}\n# inputs\n{self.inputs}")

    def html(self) -> str:
        """The same, in a fixed font."""
        return f'<pre style="font-size:12px;white-space:pre-wrap;margin:0">{render.escape(self.text())}</pre>'


def open_words(address: Address) -> str:
    """What a person must hear of an address that asks for no token."""
    return f"open: whoever reaches {address.target} can run code in this kernel, with its credentials"


def run_details(workspace: Workspace, run: Run) -> RunDetails:
    """All that is known of a run."""
    attempts = workspace.kept.attempts(run)
    # Another service would have to be asked, which %agent logs does.
    is_here = run.snapshot.held or run.service in ("", wire.KERNEL_SERVICE)
    captured = run.logs() if is_here else workspace.captured(run.id)
    rows = run_views.details(run.snapshot, attempts, captured)
    return RunDetails(run, workspace.masking.value(rows))  # a resource meta is on record as it is
