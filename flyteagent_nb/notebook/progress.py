"""Long work of the kernel itself (starting up, exporting) as a block: what goes on, since when, how far it is, and how it ended.

It shows itself when it takes longer than a second, by the page's thread, as the main one may be busy with the work. What is left of
it is one line.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from flyteagent_nb.errors import FlyteAgentNBError
from flyteagent_nb.notebook.page import Block
from flyteagent_nb.notebook.render import BLUE, GREEN, GREY, RED, clip, escape, for_terminal, seconds
from flyteagent_nb.notebook.run_views import frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flyteagent_nb.notebook.page import Page

PATIENCE = 1.0
"""Seconds before something that goes on is shown."""

BEAT = 0.05
"""Seconds between two beats of a main thread that waits: clicks on the page are looked for as often."""

STEPS_SHOWN = 6
"""Steps that a block shows; of those before, it tells how many there were."""

T = TypeVar("T")


class Step(NamedTuple):
    """A part of the work that has its own words.

    Attributes:
        text: the words.
        seconds: how long it took, or has taken so far.
    """

    text: str
    seconds: float


class Work(Block):
    """One piece of work, which the body of :func:`work` tells of.

    Args:
        title: what goes on, verb first: ``Starting the BigQuery sandbox``.
        page: where it is shown.
        done: the name of it at the end; the title less its verb where it is empty.
    """

    def __init__(self, title: str, page: Page, *, done: str = "") -> None:
        super().__init__()
        self.title = title
        self.done = done or _less_verb(title)
        self._page = page
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._ended: float | None = None
        self._failure = ""
        self._steps: list[tuple[str, float]] = []
        self._part: float | None = None

    # --- any thread ---

    def say(self, text: str, part: float | None = None) -> None:
        """Tell what goes on now. On the main thread it also gives the page a moment.

        Args:
            text: in a few words; other words than before begin another step.
            part: how much of the whole is done, from 0 to 1, where that is known.
        """
        with self._lock:
            if self._ended is None:
                if not self._steps or self._steps[-1][0] != text:
                    self._steps.append((text, time.monotonic()))
                self._part = None if part is None else min(max(part, 0.0), 1.0)
        self._page.touch(self)
        self._page.beat()

    @property
    def elapsed(self) -> float:
        """Seconds that it took, or has taken so far."""
        return (self._ended if self._ended is not None else time.monotonic()) - self._began

    @property
    def steps(self) -> tuple[Step, ...]:
        """What was told so far; the last one goes on while the work does."""
        with self._lock:
            steps, ended = list(self._steps), self._ended
        ends = [began for _, began in steps[1:]] + [ended if ended is not None else time.monotonic()]
        return tuple(Step(text, end - began) for (text, began), end in zip(steps, ends, strict=False))

    # --- on the thread that does it ---

    def wait(self, future: concurrent.futures.Future[T], doing: Callable[[], str] | None = None) -> T:
        """Wait for what another thread does, so that clicks on the page are answered meanwhile.

        Args:
            future: its end.
            doing: what goes on there now, in the words of :meth:`say`; asked at each beat.

        Returns:
            The future's result, or raises its error.
        """
        while not concurrent.futures.wait([future], BEAT).done:
            said = doing() if doing is not None else ""
            if said and said != self._said:
                self.say(said)
            else:
                self._page.beat()
        return future.result()

    @property
    def _said(self) -> str:
        return self._steps[-1][0] if self._steps else ""

    def end(self, failure: str = "") -> None:
        """It is over; ``failure`` are the words of its error."""
        with self._lock:
            if self._ended is None:
                self._ended, self._failure = time.monotonic(), failure
        self._page.touch(self)

    # --- the block ---

    @property
    def live(self) -> bool:
        """Whether it goes on."""
        return self._ended is None

    def line(self) -> str:
        """It in one line."""
        if self._ended is not None:
            return clip(f"{'✗' if self._failure else '✓'} {self.done}, {self._outcome()}", 300)
        said = f": {self._said}" if self._said else ""
        part = f", {self._part * 100:.0f} %" if self._part is not None else ""
        return f"▶ {self.title}, {seconds(self.elapsed)}{said}{part}"

    def _outcome(self) -> str:
        return seconds(self.elapsed) + (f": {self._failure}" if self._failure else "")

    def says(self) -> str:
        """What goes on, without the seconds."""
        return f"{self.title}: {self._said}" if self.live else self.line()

    def text(self) -> str:
        """The same line: a terminal draws it over."""
        return self.line()

    def html(self, kernel: str) -> str:
        """A framed block while it goes on, then a line."""
        if self._ended is not None:
            return work_end_html(self.done, self._outcome(), failed=bool(self._failure))
        return work_html(self.title, self.elapsed, self.steps, self._part, kernel=kernel, block=self.id)


@contextlib.contextmanager
def work(page: Page, title: str, *, done: str = "") -> Iterator[Work]:
    """Show what the body does, when it takes longer than a second; see :class:`Work`. On the main thread."""
    shown = Work(title, page, done=done)
    line = Line()
    over = threading.Event()
    ticker: threading.Thread | None = None
    if page.in_kernel:
        page.show_later(shown, PATIENCE)
    elif line.works:
        ticker = threading.Thread(target=_tick, args=(shown, line, over), name="flyteagent_nb-work", daemon=True)
        ticker.start()
    try:
        yield shown
    except BaseException as error:
        shown.end(words(error))
        raise
    else:
        shown.end()
    finally:
        over.set()
        if ticker is not None:
            ticker.join()
            if line.drawn:
                line.end(shown.line())


def _tick(shown: Work, line: Line, over: threading.Event) -> None:
    """Draw the line of a terminal once a second, whatever the main thread does."""
    while not over.wait(PATIENCE):
        line.draw(shown.line())


class Line:
    """One line of a terminal that is drawn over; nothing where stdout is no terminal.

    Attributes:
        drawn: when it was drawn last, by the monotonic clock; 0 before.
    """

    def __init__(self) -> None:
        self.drawn = 0.0

    @property
    def works(self) -> bool:
        """Whether stdout is a terminal."""
        return sys.stdout.isatty()

    def draw(self, text: str) -> None:
        """Draw it over."""
        self.drawn = time.monotonic()
        sys.stdout.write(f"\r\x1b[K{for_terminal(clip(text, 78))}")
        sys.stdout.flush()

    def end(self, text: str = "") -> None:
        """Take it away; leave ``text`` as a line of its own, where there is one."""
        if self.drawn:
            sys.stdout.write("\r\x1b[K" + (f"{for_terminal(text)}\n" if text else ""))
            sys.stdout.flush()


def words(error: BaseException) -> str:
    """What the line at the end says of an error; the cell shows all of it."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped by the user"
    if isinstance(error, FlyteAgentNBError):
        return error.message
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _less_verb(title: str) -> str:
    """``Starting the agent service`` -> ``Agent service``."""
    name = re.sub(r"^\w+ing (the |an? )?", "", title) or title
    return name[0].upper() + name[1:]


# --- HTML, pure ---

_HEAD = "display:flex;flex-wrap:wrap;gap:2px 8px;align-items:baseline"
_SMALL = f"color:{GREY};font-size:12px;font-variant-numeric:tabular-nums"


def work_html(
    title: str, elapsed: float, steps: Sequence[Step], part: float | None, *, kernel: str = "", block: str = ""
) -> str:
    """Work that goes on, as a framed block.

    Args:
        title: what goes on.
        elapsed: seconds so far.
        steps: what was told so far; the last one goes on.
        part: how much is done, from 0 to 1, or None.
        kernel: marks a block of this kernel; empty where no page would count its seconds.
        block: the block's display id.
    """
    ticking = f' data-fa-elapsed="{elapsed:.2f}"' if kernel else ""
    before, shown = len(steps) - STEPS_SHOWN, steps[-STEPS_SHOWN:]
    rows = [f'<div class="fnb-soft" style="{_SMALL}">{before} before</div>'] if before > 0 else []
    for step in shown[:-1]:
        rows.append(_row("ok", GREEN, "✓", step.text, seconds(step.seconds)))
    for step in shown[-1:]:
        rows.append(_row("run", BLUE, "▶", step.text, f"{part * 100:.0f} %" if part is not None else ""))
    return frame(
        f'<div style="{_HEAD}"><b>{escape(title)}</b><span style="flex:1"></span>'
        f'<span class="fnb-soft"{ticking} style="{_SMALL};min-width:4em;text-align:right">{seconds(elapsed)}</span></div>'
        f"{_bar(title, part)}{''.join(rows)}",
        kernel,
        block,
    )


def _row(kind: str, colour: str, sign: str, text: str, after: str) -> str:
    return (
        f'<div style="{_HEAD};flex-wrap:nowrap"><span class="fnb-{kind}" style="color:{colour};min-width:12px">{sign}</span>'
        f'<span style="flex:1;overflow-wrap:anywhere">{escape(clip(text, 300))}</span>'
        f'<span class="fnb-soft" style="{_SMALL};white-space:nowrap">{after}</span></div>'
    )


def _bar(title: str, part: float | None) -> str:
    """Always as high, so that nothing jumps when a part becomes known."""
    style = "height:4px;margin:6px 0;border-radius:2px;overflow:hidden"
    if part is None:
        return f'<div style="{style}"></div>'
    done = round(part * 100)
    return (
        f'<div class="fnb-bg-none" role="progressbar" aria-label="{escape(title)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{done}" style="{style}"><div class="fnb-bg-run" '
        f'style="width:{done}%;height:4px;background-color:{BLUE}"></div></div>'
    )


def work_end_html(done: str, outcome: str, *, failed: bool) -> str:
    """What is left of it: one line."""
    sign, kind, colour = ("✗", "bad", RED) if failed else ("✓", "ok", GREEN)
    return (
        '<div style="font-size:13px;overflow-wrap:anywhere">'
        f'<span class="fnb-{kind}" role="status" aria-live="off" style="color:{colour}">{sign}</span> '
        f'{escape(done)}, <span class="fnb-soft" style="color:{GREY}">{escape(clip(outcome, 300))}</span></div>'
    )
