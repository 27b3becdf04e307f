"""Which runs are shown, and when: a run shows itself a second after it started, or as soon as it ends.

A quick plain call that succeeds is not shown at all, one that fails above the error that ends the cell: what code catches is not.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
import time
from typing import TYPE_CHECKING

from flyteagent_nb.errors import TaskStopped
from flyteagent_nb.notebook import render
from flyteagent_nb.notebook.blocks import GroupBlock, RunBlock
from flyteagent_nb.notebook.progress import PATIENCE, Line, Work, work
from flyteagent_nb.notebook.waiting import stopped_as

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Iterator, Sequence

    from flyteagent_nb.notebook.page import Block, Page
    from flyteagent_nb.notebook.panel import PanelBlock
    from flyteagent_nb.running.run import Run
    from flyteagent_nb.workspace import Workspace

_log = logging.getLogger("flyteagent_nb")

_group: contextvars.ContextVar[GroupWait | None] = contextvars.ContextVar("flyteagent_nb_group", default=None)


class Wait:
    """What a cell shows while it waits for its runs; called some times a second with them, on the main thread.

    Args:
        showing: where it is shown.
        quiet: show nothing.
        preview: whether outputs are shown; not where the cell shows them anyway.

    Attributes:
        runs: what is waited for.
        block: what is shown of it, or None where nothing is.
    """

    def __init__(self, showing: Showing, *, quiet: bool = False, preview: bool = False) -> None:
        self._showing = showing
        self._quiet = quiet
        self._preview = preview
        self._began = time.monotonic()
        self._line = Line()
        self.runs: list[Run] = []
        self.block: Block | None = None

    def started(self, run: Run) -> None:
        """A run was started, and will be waited for."""
        self.runs.append(run)

    def __call__(self, runs: Sequence[Run]) -> None:
        """A beat of the wait."""
        page = self._showing.page
        page.beat()
        if self._quiet or time.monotonic() - self._began < PATIENCE:
            return
        if not page.in_kernel:
            self._in_place(runs)
        else:
            self.show()

    def show(self) -> None:
        """Show it now, unless it is shown, or nothing shall be."""
        if self.block is None and self.runs and not self._quiet:
            self.block = self._block()
            self._showing.page.show(self.block)

    def _block(self) -> Block:
        return self._showing.block(self.runs[0], preview=self._preview, error=False)

    def _in_place(self, runs: Sequence[Run]) -> None:
        """A terminal: one line, drawn over once a second."""
        if time.monotonic() - self._line.drawn < PATIENCE or not self._line.works:
            return
        open_runs = [run.snapshot for run in runs if not run.done]
        if open_runs:
            s = open_runs[0]
            more = f" and {len(open_runs) - 1} more" if len(open_runs) > 1 else ""
            self._line.draw(f"{' '.join(render.look(s)[:2])} {s.name} {render.seconds(s.elapsed)}{more} {s.message}")

    def end(self) -> None:
        """The wait is over: a line that was drawn over is taken away."""
        self._line.end()


class GroupWait(Wait):
    """What a workflow or a map task shows while its runs go on."""

    def __init__(self, showing: Showing, name: str) -> None:
        super().__init__(showing)
        self.group = GroupBlock(name, showing.page)
        self._in_cell = threading.current_thread() is threading.main_thread()

    def started(self, run: Run) -> None:
        """A run was started: part of the group."""
        super().started(run)
        self.group.add(run)
        # On another thread nothing beats. Of a cell it is where the cell waits for it: an async task's.
        if self._in_cell and self.block is None and threading.current_thread() is not threading.main_thread():
            self.block = self.group
            self._showing.page.show_later(self.group, max(0.0, PATIENCE - (time.monotonic() - self._began)))

    def show(self) -> None:
        """Show it now, as above; also where it was to be shown later, and has ended before."""
        if self.group.publisher is None:
            self.block = None
            super().show()

    def _block(self) -> Block:
        return self.group


class Showing:
    """Shows runs on a page.

    Attributes:
        page: the page.
    """

    def __init__(self, workspace: Workspace, page: Page) -> None:
        self._workspace = workspace
        self.page = page
        self._panel: PanelBlock | None = None
        self._failed: Wait | None = None
        page.on("cancel", lambda message: self._cancel(str(message.get("id"))))

    def block(self, run: Run, *, preview: bool = True, error: bool = True) -> RunBlock:
        """The block of a run."""
        return RunBlock(run, self._workspace, self.page, preview=preview, error=error)

    def panel(self) -> PanelBlock:
        """A panel, which takes the place of the one before."""
        from flyteagent_nb.notebook.panel import PanelBlock

        if self._panel is not None:
            self._panel.close()
        self._panel = PanelBlock(self._workspace, self.page)
        return self._panel

    def show(self, run: Run) -> None:
        """Show a run where the cell stands, and follow it."""
        self.page.show(self.block(run))

    def work(self, title: str, *, done: str = "") -> contextlib.AbstractContextManager[Work]:
        """Show what the body does, when it takes longer than a second: ``with showing.work("Exporting the project") as work``.

        Args:
            title: what goes on, verb first.
            done: the name of it in the line that stays; the title less its verb where it is empty.
        """
        return work(self.page, title, done=done)

    def starting(self, opened: concurrent.futures.Future[None]) -> None:
        """Show that the agent service starts, until it does."""
        stopped = stopped_as("stopped by the user; the agent service goes on starting in the background")
        with stopped, self.work("Starting the agent service") as shown:
            shown.wait(opened, lambda: self._workspace.doing)

    @contextlib.contextmanager
    def wait(self, *, quiet: bool = False, preview: bool = False) -> Iterator[Wait]:
        """What a wait for one run shows; inside a group, the group."""
        group = _group.get()
        wait = group or Wait(self, quiet=quiet, preview=preview)
        try:
            yield wait
        except BaseException:
            self._failed = wait
            raise
        finally:
            wait.end()

    @contextlib.contextmanager
    def group(self, name: str) -> Iterator[None]:
        """All runs inside are shown as one list. A group inside another is part of it."""
        if _group.get() is not None:
            yield
            return
        wait = GroupWait(self, name)
        token = _group.set(wait)
        try:
            yield
        finally:
            _group.reset(token)
            wait.group.end()

    def failed(self, error: BaseException) -> None:
        """An error is about to be shown: above it goes the wait that it ended, unless that was shown; in a terminal the error says all."""
        wait, self._failed = self._failed, None
        if wait is None or not self.page.in_kernel:
            return
        ids = error.run_ids if isinstance(error, TaskStopped) else ()
        errors = (error, getattr(error, "original", None) or error)
        # Where no service has it, it came to nothing before it was sent (wrong inputs): there is nothing to see of it.
        if any(run.service and (run.error in errors or run.id in ids) for run in wait.runs):
            try:
                wait.show()
            except Exception:  # the error itself must be seen, whatever becomes of what stands above it
                _log.exception("the view of a failed run could not be shown")

    def _cancel(self, run_id: str) -> None:
        for run in self._workspace.runner.runs():
            if run.id == run_id:
                run.cancel()
