"""A canary: the same task with the same inputs on two agent services, and what came of it side by side."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from flyteagent_nb.notebook import render, run_views
from flyteagent_nb.notebook.bars import phases_text
from flyteagent_nb.notebook.previews import told
from flyteagent_nb.notebook.views import View
from flyteagent_nb.notebook.waiting import stop_guard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flyteagent_nb.notebook.arguments import AgentArguments
    from flyteagent_nb.notebook.showing import Showing
    from flyteagent_nb.running.run import Run
    from flyteagent_nb.workspace import Workspace

CELL = 44
"""Characters of a value in a terminal's table."""

_TD = "text-align:left;padding:3px 14px 3px 0;vertical-align:top;border:0;white-space:pre-wrap;overflow-wrap:anywhere"


def compare(
    task: Any, inputs: Mapping[str, Any], arguments: AgentArguments, workspace: Workspace, showing: Showing
) -> Comparison:
    """Run a task on the two services that the line names, and wait for both; a side that fails is part of the answer.

    Raises:
        ServiceNotFoundError: one of them is not connected; nothing is sent then.
        TaskStopped: the stop button was pressed; both were cancelled.
    """
    for name in arguments.compare:
        workspace.runner.router.check(name)
    seconds = None if arguments.timeout is None else arguments.timeout.total_seconds()
    runs: list[Run] = []
    group = contextlib.nullcontext() if arguments.quiet else showing.group(f"{task.name}, compared")
    with (
        group,
        showing.wait(quiet=arguments.quiet) as wait,
        stop_guard(workspace.config.stop_grace, wait) as guard,
    ):
        try:
            for name in arguments.compare:
                run = workspace.submit(task, inputs, service=name, retries=arguments.retries, timeout=seconds)
                runs.append(run)
                wait.started(run)
        except BaseException:  # half a comparison is of no use to anybody
            for run in runs:
                run.cancel()
            raise
        guard.wait(runs)
    return Comparison(runs[0], runs[1], arguments.compare)


class Comparison(View):
    """Two runs side by side.

    Attributes:
        runs: the two, in the order of their services on the line.
        services: the services' names.
        differences: what differs, in words, by ``phase``, ``error`` or ``output NAME``. How long they took is none.
        same: whether nothing does.
        outputs: for each output its two values, None on a side that has none.
    """

    def __init__(self, first: Run, second: Run, services: tuple[str, ...]) -> None:
        self.runs = (first, second)
        self.services = services
        sides = [run.outputs or {} for run in self.runs]
        names = dict.fromkeys(name for side in sides for name in side)
        self.outputs: dict[str, tuple[Any, Any]] = {name: (sides[0].get(name), sides[1].get(name)) for name in names}
        self.differences = self._differences()

    @property
    def same(self) -> bool:
        """Whether phase, error and outputs are the same."""
        return not self.differences

    def text(self) -> str:
        """The table, and the errors in full below it."""
        rows = [(label, *(render.clip(value, CELL) for value in (a, b)), note) for label, a, b, note in self._rows()]
        lines = [render.table_text(("", *self.services, ""), rows, "")]
        for name, run in zip(self.services, self.runs, strict=True):
            if run.error is not None:
                lines.append(f"{name}: {run_views.reason(run.snapshot)}")
        return "\n".join((*lines, self._summary()))

    def html(self) -> str:
        """The same as a table."""
        head = "".join(
            f'<th style="{_TD};font-weight:600">{render.escape(name)}</th>' for name in ("", *self.services, "")
        )
        body = []
        for label, first, second, note in self._rows():
            colours = [render.look(run.snapshot).colour for run in self.runs] if label == "phase" else ["", ""]
            cells = "".join(
                f'<td style="{_TD}{f";color:{colour};font-weight:600" if colour else ""}">{render.escape(value)}</td>'
                for value, colour in zip((first, second), colours, strict=True)
            )
            is_difference = label in self.differences
            colour = render.ORANGE if is_difference else render.GREY
            kind = "wait" if is_difference else "soft"
            body.append(
                f'<tr style="background:none"><th class="fnb-soft" style="{_TD};color:{render.GREY};font-weight:600">{render.escape(label)}'
                f'</th>{cells}<td class="fnb-{kind}" style="{_TD};color:{colour}">{render.escape(note)}</td></tr>'
            )
        colour, kind = (render.GREEN, "ok") if self.same else (render.ORANGE, "wait")
        return (
            f'<div class="fnb-box" style="{render.FRAME};max-width:1080px"><div class="fnb-{kind}" style="color:{colour};font-weight:600">'
            f"{render.escape(self._summary())}</div>"
            f'<table style="font-size:13px;margin:4px 0 0"><thead><tr style="background:none">{head}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>"
        )

    def _summary(self) -> str:
        if self.same:
            return "✓ the same phase and outputs"
        return f"≠ what differs: {', '.join(self.differences)}"

    def _rows(self) -> list[tuple[str, str, str, str]]:
        """Label, the two sides, and what is to be said of them."""
        first, second = (run.snapshot for run in self.runs)
        rows = [
            ("phase", " ".join(render.look(first)[:2]), " ".join(render.look(second)[:2]), ""),
            ("took", render.seconds(first.elapsed), render.seconds(second.elapsed), self._speed()),
            ("phases", phases_text(first), phases_text(second), ""),
            ("tries", str(first.attempt), str(second.attempt), ""),
            ("agent", first.agent, second.agent, ""),
            ("message", first.message, second.message, ""),
            ("error", *(run_views.reason(s) if s.error is not None else "" for s in (first, second)), ""),
        ]
        if first.attempts == 1:
            rows.pop(3)
        for name, values in self.outputs.items():
            shown = (
                told(value) if name in (run.outputs or {}) else "" for run, value in zip(self.runs, values, strict=True)
            )
            rows.append((f"output {name}", *shown, ""))
        rows.append(("run", first.id, second.id, ""))
        return [(label, a, b, self.differences.get(label, note)) for label, a, b, note in rows if a or b]

    def _speed(self) -> str:
        """How the times compare, where that can be told from chance."""
        took = [run.snapshot.elapsed for run in self.runs]
        slow, quick = max(took), min(took)
        if quick <= 0 or slow / quick < 1.1:
            return ""
        return f"{self.services[took.index(slow)]} takes {slow / quick:.1f} times as long"

    def _differences(self) -> dict[str, str]:
        first, second = self.runs
        found: dict[str, str] = {}
        if first.phase != second.phase:
            found["phase"] = "≠"
        said = [None if run.error is None else run_views.reason(run.snapshot) for run in self.runs]
        if said[0] != said[1]:
            found["error"] = "≠" if all(said) else f"{self.services[0 if said[0] else 1]} only"
        if first.outputs is not None and second.outputs is not None:
            for name, (a, b) in self.outputs.items():
                words = difference(a, b)
                if words:
                    found[f"output {name}"] = words
        return found


def difference(first: Any, second: Any) -> str:
    """What tells two values of an output apart, in a few words; empty where they are the same."""
    if type(first) is not type(second):
        return f"≠ {type(first).__name__} and {type(second).__name__}"
    kind = f"{type(first).__module__.partition('.')[0]}.{type(first).__name__}"
    try:
        if kind == "pandas.DataFrame":
            return _frames(first, second)
        if isinstance(first, os.PathLike) and type(first).__module__.startswith("flytekit."):
            return "" if _content(first) == _content(second) else "≠ contents"
        if hasattr(first, "equals"):  # of Arrow, Polars and a column of pandas
            return "" if first.equals(second) else "≠"
        return "" if _same(first, second) else "≠"
    except Exception as error:  # values are of any class, and how they compare is their own code
        return f"not compared: {type(error).__name__}"


def _frames(first: Any, second: Any) -> str:
    if list(first.columns) != list(second.columns):
        return "≠ columns"
    if len(first) != len(second):
        return f"≠ {len(first):,} and {len(second):,} rows"
    a, b = first.reset_index(drop=True), second.reset_index(drop=True)
    count = int((~((a == b) | (a.isna() & b.isna())).all(axis=1)).sum())
    if count:
        return f"≠ {count:,} of {len(a):,} row{'s' if len(a) != 1 else ''}"
    if _has_labels(first) != _has_labels(second) or (_has_labels(first) and not first.index.equals(second.index)):
        return "≠ labels of rows"
    return "" if list(first.dtypes) == list(second.dtypes) else "≠ types of columns"


def _content(file: Any) -> object:
    """The bytes of a file; a folder is told by where it is."""
    path = os.fspath(file)  # it brings a remote one here
    if not os.path.isfile(path):
        return path
    with open(path, "rb") as opened:
        return opened.read()


def _has_labels(frame: Any) -> bool:
    """Whether its index is part of the result, as that of a groupby is; the numbers that rows have by themselves are none."""
    return list(frame.index.names) != [None] or frame.index.dtype.kind not in "iu"


def _same(first: Any, second: Any) -> bool:
    """Whether two values are equal. What is not a number is as another such, inside of lists, dicts and arrays too."""
    if type(first) is type(second) and isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(value, second[key]) for key, value in first.items())
    if type(first) is type(second) and isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_same, first, second))
    if getattr(first, "shape", None) != getattr(second, "shape", None):  # numpy would stretch one to the other's
        return False
    same = first == second
    if hasattr(same, "all"):
        same = (same | ((first != first) & (second != second))).all()
    return bool(same) or (isinstance(first, float) and first != first and second != second)
