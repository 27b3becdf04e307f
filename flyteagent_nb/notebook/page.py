"""What is shown while it changes: blocks of HTML that are replaced on the page, and the one thread that replaces them.

A block is text and HTML with a display id. Something changes: the block is touched, on whatever thread; the page's thread renders it,
at most ten times a second, and less often where many blocks change, and sends it. A block that has come to its end is sent once more, at
once, and is plain from then on.
"""

from __future__ import annotations

import atexit
import collections
import contextvars
import logging
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from flyteagent_nb.notebook.displaying import display, from_page, replace
from flyteagent_nb.notebook.render import for_terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyteagent_nb.notebook.pump import Pump

AT_MOST = 0.1
"""Seconds between two updates of a block where a browser listens, on the average."""

BURST, APART = 3, 0.03
"""So many updates may come sooner, so many seconds apart: a young run changes quickly, and its changes are not all as far apart."""

TOGETHER, AT_ONCE = 0.05, 20
"""Seconds between two updates of whichever blocks, on the average, and how many may come sooner: a front end takes some ten
milliseconds for each. Where they come faster it falls behind, with the answers to cells too, as all stand in one queue."""

WEIGHT = 20_000
"""Characters of HTML that count as one update; a longer one counts as so many more."""

SELDOM = 1.0
"""Seconds between two updates where none does: a terminal, papermill, a front end without our widget."""

HELD = 10.0
"""Seconds that a block stays as it is at the most while a list in it is open."""

SETTLE = 0.5
"""Seconds that a cell waits at its end for the ends of its blocks to be sent, at the most."""

OLD = 2.0
"""Seconds that what a page has of a block may be behind: an update is on its way then."""

ENDED_KEPT = 500
"""Blocks that have ended and that a page which is opened again can still have in full."""

logger = logging.getLogger(__name__)


class Block:
    """Something on the page that changes.

    Attributes:
        id: its display id.
        sent: when it was last sent, by the monotonic clock.
        paced: when it would be sent next if all updates were AT_MOST apart, and longer where it is long.
        made: when what was sent last was made, in seconds since the epoch: the page tells which one it has.
        held: until when it stays as it is, by the monotonic clock: a list in it is open, which would close.
        publisher: IPython's, through which it was shown.
        due: whether it must be sent although it looks as before: a page may have an older one, or a button that waits for an answer.
        loaded: whether a page shows it from the file, in a cell that was moved, or in an Output widget: displays do not reach it there.
        said: the words that a person who cannot see it was told last.
        poll: seconds between two looks at whether it has changed, where nobody touches it; None where somebody does.
        polled: when it was last looked at, by the monotonic clock.
    """

    poll: float | None = None

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.sent = self.paced = 0.0
        self.made = 0.0
        self.held = 0.0
        self.polled = 0.0
        self.publisher: Any = None
        self.due = False
        self.loaded = False
        self.said = ""

    @property
    def live(self) -> bool:
        """Whether it may still change."""
        raise NotImplementedError

    def changed(self) -> bool:
        """Whether it would look different now; asked, on the page's thread, before it is sent, and where ``poll`` is set."""
        return True

    def text(self) -> str:
        """For a terminal, and for whoever cannot show HTML."""
        raise NotImplementedError

    def html(self, kernel: str) -> str:
        """For a page. ``kernel`` marks what acts on this kernel; empty where nothing could."""
        raise NotImplementedError

    def says(self) -> str:
        """What a person who cannot see it is told when these words change, and only then; empty is nothing."""
        return ""

    def close(self) -> None:
        """It is shown no more, or something else takes its place: nothing in it can act from now on."""

    def __repr__(self) -> str:
        return for_terminal(self.text())

    def _repr_html_(self) -> str:
        return self.html("")

    def act(self, message: dict[str, Any]) -> None:
        """Something was clicked in it, on the page's thread."""


class Page:
    """The blocks that are shown in one shell, and the thread that keeps them up to date."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._blocks: dict[str, Block] = {}
        self._touched: set[str] = set()
        self._later: dict[str, tuple[float, Block, contextvars.Context]] = {}
        self._commands: collections.deque[Callable[[], object]] = collections.deque()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = self._halted = False
        self._paced = 0.0  # when the next update of any block would be sent if all were TOGETHER apart
        self._browser: Any = None
        self._pump: Pump | None = None
        self._acts: dict[str, Callable[[dict[str, Any]], object]] = {}
        self._ended: collections.OrderedDict[str, str] = collections.OrderedDict()

    @property
    def in_kernel(self) -> bool:
        """Whether displays go anywhere that can replace them."""
        return getattr(self._shell, "kernel", None) is not None

    @property
    def kernel(self) -> str:
        """The mark of this kernel's HTML; empty before the widget is there."""
        return self._browser.kernel if self._browser is not None else ""

    @property
    def connected(self) -> bool:
        """Whether a page has said that it runs our widget."""
        return self._browser is not None and bool(self._browser.ready)

    @property
    def crowd(self) -> int:
        """How many blocks share what a front end can take."""
        return len(self._blocks)

    # --- on the main thread ---

    def show(self, block: Block) -> None:
        """Show a block in the cell that runs now, and keep it up to date."""
        if not self.in_kernel:  # a terminal prints, and cannot replace what it printed
            self._publish(block, update=False)
            return
        self._connect()
        live = block.live
        self._publish(block, update=False)
        if live:  # known to the page's thread only now: what it sends before there is something to replace is lost
            self._blocks[block.id] = block
            self._start()
            self.touch(block)  # it may have ended meanwhile

    def show_later(self, block: Block, seconds: float) -> None:
        """Show a block in the cell that runs now, in so many seconds, unless it has ended by then; whatever the main thread does."""
        if self.in_kernel:
            # The context is what tells ipykernel 7 which cell it is; before, that is the one that runs.
            self._later[block.id] = (time.monotonic() + seconds, block, contextvars.copy_context())
            self._start()
            self._wake.set()

    def on(self, what: str, handler: Callable[[dict[str, Any]], object]) -> None:
        """Let ``handler(message)`` answer what is clicked under that name in any block, on the page's thread."""
        self._acts[what] = handler

    def before_cell(self, *_: Any) -> None:
        """A cell begins: from here on clicks must get past it."""
        if self._pump is not None:
            self._pump.hold()

    def after_cell(self, *_: Any) -> None:
        """A cell has ended; so has what came to its end in it, for those too who listen to a cell no longer than it runs."""
        if self._pump is not None:
            self._pump.release()
        if self._thread is not None and any(not block.live for block in tuple(self._blocks.values())):
            sent = threading.Event()
            self._commands.extend((self._update, sent.set))
            self._wake.set()
            sent.wait(SETTLE)

    def beat(self) -> None:
        """A cell that waits gives the page a moment, some times a second."""
        if self._pump is not None:
            self._pump.hold()  # a cell that ran inside this one (%run) has released it
            self._pump.step()

    def close(self) -> None:
        """End the thread and the widget; what is shown stays, without what could act."""
        atexit.unregister(self._halt)
        self._later.clear()
        for block in tuple(self._blocks.values()):
            block.close()
        self._closed = True
        self._wake.set()
        self.after_cell()
        if self._thread is not None:
            self._thread.join(timeout=2.0)
        if self._browser is not None:
            self._browser.close()
        self._blocks.clear()

    def _connect(self) -> None:
        """Make the widget, once; without a front end that runs it nothing acts, and all is shown."""
        if self._browser is not None or not from_page(self._shell):
            return
        from flyteagent_nb.notebook.browser import Browser
        from flyteagent_nb.notebook.pump import Pump

        self._browser = Browser(self._acted)
        if self._browser.comm is not None:
            self._pump = Pump(self._shell.kernel, self._browser.comm.comm_id)
            self._pump.hold()  # the cell that shows the first block is running

    # --- any thread ---

    def touch(self, block: Block) -> None:
        """Something in the block has changed."""
        self._touched.add(block.id)
        self._wake.set()

    def _acted(self, message: dict[str, Any]) -> None:
        self._commands.append(lambda: self._act(message))
        self._start()
        self._wake.set()

    def _halt(self) -> None:
        """End the thread at once; nothing is sent any more."""
        self._closed = self._halted = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    # --- the page's thread ---

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            atexit.register(self._halt)  # at exit ipykernel's sockets are no longer safe to share
            self._thread = threading.Thread(target=self._main, name="flyteagent_nb-page", daemon=True)
            self._thread.start()

    def _main(self) -> None:
        pause: float | None = None
        while not self._closed:
            self._wake.wait(pause)
            self._wake.clear()
            while self._commands:
                self._guarded(self._commands.popleft())
            pause = self._update()
        if not self._halted:
            self._update()

    def _update(self) -> float | None:
        """Send what has changed and may be sent; the seconds until something else may."""
        browser = self._browser is not None and self._browser.ready
        pauses = [pause for pause in (self._poll(), self._show_due()) if pause is not None]
        pause = min(pauses, default=None)
        touched = [(block_id, self._blocks.get(block_id)) for block_id in tuple(self._touched)]
        touched.sort(key=lambda each: each[1].sent if each[1] else 0.0)  # who has waited longest goes first
        for block_id, block in touched:
            if block is None:
                self._touched.discard(block_id)
                continue
            live = block.live
            after = block.sent + (APART if browser else SELDOM)
            if not block.due:
                after = max(after, block.paced - BURST * AT_MOST, self._paced - AT_ONCE * TOGETHER)
            left = max(after, block.held) - time.monotonic() if live else 0.0
            if left > 0:
                pause = left if pause is None else min(pause, left)
                continue
            self._touched.discard(block_id)  # before it is rendered: a change from here on touches it again
            if not live:
                self._blocks.pop(block_id, None)
            self._guarded(lambda block=block: self._send(block))  # type: ignore[misc]
        if not browser:  # nobody counts the seconds on the page, so they are counted here
            for block in tuple(self._blocks.values()):
                if block.live and block.poll is None:
                    self._touched.add(block.id)
                    pause = SELDOM if pause is None else min(pause, SELDOM)
        return pause

    def _show_due(self) -> float | None:
        """Show what was to be shown by now; the seconds until the next."""
        pause: float | None = None
        for block_id, (due, block, context) in tuple(self._later.items()):
            left = due - time.monotonic()
            if left > 0 and block.live:
                pause = left if pause is None else min(pause, left)
                continue
            del self._later[block_id]
            if block.live:
                self._blocks[block_id] = block
                self._guarded(lambda block=block, context=context: context.run(self._publish, block, update=False))  # type: ignore[misc]
                self.touch(block)  # it may have ended meanwhile
        return pause

    def _poll(self) -> float | None:
        """Touch the blocks that nobody else touches, where they have changed; the seconds until the next look."""
        pause: float | None = None
        for block in tuple(self._blocks.values()):
            if block.poll is None or not block.live:
                continue
            now = time.monotonic()
            if now - block.polled >= block.poll:
                block.polled = now
                self._guarded(lambda block=block: self._touch_changed(block))  # type: ignore[misc]
            left = block.polled + block.poll - now
            pause = left if pause is None else min(pause, left)
        return pause

    def _touch_changed(self, block: Block) -> None:
        if block.changed():
            self._touched.add(block.id)

    def _send(self, block: Block) -> None:
        if block.due or not block.live or block.changed():
            block.due = False
            self._publish(block, update=True)

    def _act(self, message: dict[str, Any]) -> None:
        what, block_id = str(message.get("do")), str(message.get("block"))
        block = self._blocks.get(block_id)
        if what == "ready":
            self._opened()
        elif what == "seen":
            self._seen(block_id, message.get("at"), apart=message.get("apart") is True)
        elif what in ("hold", "release"):
            if block is not None:
                block.held = time.monotonic() + HELD if what == "hold" else 0.0
        else:
            handler = self._acts.get(what)
            if handler is not None:
                handler(message)
            if block is not None:
                block.held = 0.0
                block.act(message)
                self._refresh(block)

    def _refresh(self, block: Block) -> None:
        block.due = True
        self.touch(block)

    def _opened(self) -> None:
        """A page runs the widget. What was shown before another page did, that page has from the file only."""
        another, self._browser.ready = self._browser.ready, True
        self._browser.send({})  # its buttons work
        for block in tuple(self._blocks.values()):
            block.loaded = block.loaded or another
            self._refresh(block)

    def _seen(self, block_id: str, at: object, *, apart: bool) -> None:
        """A page has a block, made at that time; give it a newer one, and each one where displays do not reach it."""
        block, ended = self._blocks.get(block_id), self._ended.get(block_id)
        if ended is not None:
            self._browser.send({"block": block_id, "html": ended, "at": round(time.time(), 3)})
        elif block is not None and isinstance(at, (int, float)):
            if at < block.made - OLD or (apart and not block.loaded):
                block.loaded = True
                self._refresh(block)

    def _publish(self, block: Block, *, update: bool) -> None:
        live = block.live
        block.sent, made = time.monotonic(), time.time()
        data = {"text/plain": repr(block), "text/html": block.html(self.kernel if live else "")}
        block.made = made
        weight = max(1.0, len(data["text/html"]) / WEIGHT)
        block.paced = max(block.paced, block.sent) + AT_MOST * weight
        # A second at the most: a thousand that a cell shows would else keep all updates back for a minute.
        most = block.sent + AT_ONCE * TOGETHER + SELDOM
        self._paced = min(max(self._paced, block.sent) + TOGETHER * weight, most)
        if not live:  # a page that is opened again may still ask for it
            self._ended[block.id] = data["text/html"]
            while len(self._ended) > ENDED_KEPT:
                self._ended.popitem(last=False)
        if self._browser is not None and update and (block.loaded or not live):
            self._browser.send({"block": block.id, "html": data["text/html"], "at": round(made, 3)})
        said, block.said = block.said, block.says()
        if self.connected and update and block.said not in ("", said):
            self._browser.send({"say": block.said})
        if update:
            replace(self._shell, data, block.id, block.publisher)
        else:
            block.publisher = display(self._shell, data, block.id)

    def _guarded(self, work: Callable[[], object]) -> None:
        """A block that cannot be rendered must not end the thread that all others need."""
        try:
            work()
        except Exception:
            if not sys.is_finalizing():
                logger.exception("a view of flyteagent_nb could not be updated")
