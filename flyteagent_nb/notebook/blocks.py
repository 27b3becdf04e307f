"""The blocks of runs: one run, and the runs of a workflow or a map task on one time axis."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from flyteagent_nb.notebook import render, run_views
from flyteagent_nb.notebook.page import Block
from flyteagent_nb.notebook.previews import outputs_html, outputs_text
from flyteagent_nb.running.run import SECRET_IN_META

if TYPE_CHECKING:
    from flyteagent_nb.notebook.page import Page
    from flyteagent_nb.running.run import Run, RunSnapshot
    from flyteagent_nb.workspace import Workspace

BARS = 0.9, 0.01, 0.1
"""Seconds, or share of the time so far, or seconds for each block on the page, after which bars are worth another look where nothing
else has changed."""

LINES_SHOWN = 200
"""Runs that a group shows one by one; the others are counted."""


def _has_grown(shown_at: float, elapsed: float, crowd: int) -> bool:
    return time.monotonic() - shown_at > max(BARS[0], BARS[1] * elapsed, BARS[2] * crowd)


class RunBlock(Block):
    """One run.

    Args:
        run: the run.
        workspace: where its captured output and its attempts are.
        page: the page it is shown on.
        preview: whether its outputs are shown when it succeeded.
        error: whether its error is shown when it failed; not where the cell shows it anyway.
    """

    def __init__(self, run: Run, workspace: Workspace, page: Page, *, preview: bool = True, error: bool = True) -> None:
        super().__init__()
        self._run = run
        self._workspace = workspace
        self._page = page
        self._preview = preview
        self._error = error
        self._shown: tuple[Any, list[str]] | None = None
        self._shown_at = 0.0
        run.watch(lambda _: page.touch(self))

    @property
    def live(self) -> bool:
        """Whether the run goes on."""
        return not self._run.done and not self._run.snapshot.held

    def changed(self) -> bool:
        """Whether the run has, or its output; its bar grows all the time. Each look at a job touches it, whatever it finds."""
        s = self._run.snapshot
        return (s, self._tail()) != self._shown or _has_grown(self._shown_at, s.elapsed, self._page.crowd)

    def says(self) -> str:
        """The phase."""
        s = self._run.snapshot
        return f"{s.name}: {render.look(s).word}"

    def text(self) -> str:
        """The run in a few lines."""
        text = run_views.run_text(self._run.snapshot, error=self._error)
        outputs = self._run.outputs if self._preview else None
        return f"{text}\n{outputs_text(outputs)}" if outputs else text

    def html(self, kernel: str) -> str:
        """The run as a framed block."""
        run = self._run
        s, tail = self._shown = run.snapshot, self._tail()
        self._shown_at = time.monotonic()
        outputs = run.outputs if self._preview else None
        return run_views.run_html(
            s,
            captured=tail,
            outputs=outputs_html(outputs) if outputs else "",
            kernel=kernel,
            block=self.id,
            attach="" if s.done else self._attach(),
            error=self._error,
        )

    def _tail(self) -> list[str]:
        s = self._run.snapshot
        if not s.done:
            return self._workspace.captured_tail(s.id, run_views.TAIL)
        return (
            run_views.last_words(self._workspace.captured_tail(s.id, run_views.AT_END)) if s.error is not None else []
        )

    def _attach(self) -> str:
        """A cell for a later kernel: it attaches, and names the run and its job for whoever looks for it elsewhere."""
        s = self._run.snapshot
        named: dict[str, Any] = {
            "run": s.id,
            "task": s.name,
            "task_type": s.task_type,
            "version": s.version,
            "service": s.service,
        }
        for record in self._workspace.runner.attempts(self._run)[-1:]:
            named["output_prefix"] = record.output_prefix
            if record.resource_meta is not None and SECRET_IN_META not in s.notes:  # a notebook would keep it
                meta = record.resource_meta.decode("utf-8", "backslashreplace")
                named["resource_meta"] = self._workspace.masking.text(meta)
        return f"%agent attach {s.id}\n# {json.dumps(named)}"


class GroupBlock(Block):
    """The runs of one workflow or map task, as a list with their bars on one time axis.

    Args:
        name: the workflow's.
        page: the page it is shown on.
    """

    def __init__(self, name: str, page: Page) -> None:
        super().__init__()
        self.name = name
        self.runs: list[Run] = []
        self._page = page
        self._began = time.time()
        self._ended: float | None = None
        self._shown: list[RunSnapshot] | None = None
        self._shown_at = 0.0

    def add(self, run: Run) -> None:
        """Another run of it."""
        self.runs.append(run)
        run.watch(lambda _: self._page.touch(self))
        self._page.touch(self)

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = time.time()
        self._page.touch(self)

    @property
    def live(self) -> bool:
        """Whether the workflow goes on."""
        return self._ended is None or not all(run.done for run in self.runs)

    def changed(self) -> bool:
        """Whether a run has; the bars grow all the time."""
        return [run.snapshot for run in self.runs] != self._shown or _has_grown(
            self._shown_at, time.time() - self._began, self._page.crowd
        )

    def says(self) -> str:
        """How many are in which phase."""
        return f"{self.name}: {self._summary()}"

    def text(self) -> str:
        """A line a run."""
        snapshots = [run.snapshot for run in self.runs]
        now = time.time()
        several = len({s.service for s in snapshots if s.service}) > 1
        rows = [
            (
                *render.look(s)[:2],
                f"{s.name} on {s.service}" if several and s.service else s.name,
                render.type_text(s),
                render.seconds(s.elapsed),
                s.id,
            )
            for s in snapshots[:LINES_SHOWN]
        ]
        told = "\n".join(
            f"  {sign} {word:<12} {name}  ({kind})  {took}  run {run_id}"
            for sign, word, name, kind, took, run_id in rows
        )
        return f"{self.name}: {self._summary()}, {render.seconds((self._ended or now) - self._began)}\n{told}"

    def html(self, kernel: str) -> str:
        """A row a run, the bars on one axis."""
        end = self._ended or time.time()
        self._shown = [run.snapshot for run in self.runs]
        self._shown_at = time.monotonic()
        return run_views.group_html(
            self.name,
            self._shown,
            summary=self._summary(),
            began=self._began,
            end=end,
            shown=LINES_SHOWN,
            kernel=kernel,
            block=self.id,
        )

    def _summary(self) -> str:
        counts: dict[str, int] = {}
        for run in self.runs:
            word = render.look(run.snapshot).word.lower()
            counts[word] = counts.get(word, 0) + 1
        return ", ".join(f"{count} {word}" for word, count in counts.items()) or "no agent task yet"
