"""The page's thread: how often a block is sent, where to, and what is left of it; without a browser."""

from __future__ import annotations

import contextvars
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from flyteagent_nb.notebook import page as page_module
from flyteagent_nb.notebook.page import APART, AT_MOST, AT_ONCE, BURST, WEIGHT, Block, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 20.0


class Publisher:
    """What ipykernel's publisher has, and what it was given."""

    def __init__(self) -> None:
        self.session = self
        self.pub_socket = object()
        self.parent_header: dict[str, Any] = {"msg_id": "a"}
        self.topic = b"display_data"
        self.sent: list[tuple[str, float, dict[str, Any]]] = []
        self.came = threading.Condition()

    def publish(self, *, update: bool, **content: Any) -> None:
        self._take("published update" if update else "published", content)

    def send(self, socket: object, kind: str, content: dict[str, Any], *, parent: object, ident: bytes) -> None:
        assert socket is self.pub_socket and parent is self.parent_header and ident is self.topic
        self._take(kind, content)

    def _take(self, kind: str, content: dict[str, Any]) -> None:
        with self.came:
            self.sent.append((kind, time.monotonic(), content))
            self.came.notify_all()

    def until(self, count: int) -> None:
        with self.came:
            assert self.came.wait_for(lambda: len(self.sent) >= count, LIMIT), self.sent

    @property
    def texts(self) -> list[str]:
        return [content["data"]["text/plain"] for _, _, content in self.sent]


class Capturing:
    """The publisher of ``%%capture``: it keeps what it is given."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def publish(self, **content: Any) -> None:
        self.kept.append(content)


class Kernel:
    def __init__(self) -> None:
        self.parent: dict[str, Any] = {"header": {}, "metadata": None}

    def get_parent(self) -> dict[str, Any]:
        return self.parent


class Shell:
    def __init__(self) -> None:
        self.kernel = Kernel()
        self.display_pub: Any = Publisher()


class Told(Block):
    """A block that shows a number."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self._page = page
        self.number, self.ended = 0, False

    @property
    def live(self) -> bool:
        return not self.ended

    def text(self) -> str:
        return f"{self.number}{' over' if self.ended else ''}"

    def html(self, kernel: str) -> str:
        return f"<b>{self.text()}</b>"

    def show(self, number: int) -> None:
        self.number = number
        self._page.touch(self)


class Listening:
    """A page that runs the widget."""

    kernel = "k"
    ready = True

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, content: dict[str, Any]) -> None:
        self.sent.append(content)

    def close(self) -> None:
        pass


def change_for(block: Told, seconds: float) -> int:
    """Change a block all the time; how often it was."""
    number, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        number += 1
        block.show(number)
        time.sleep(0.001)
    return number


@pytest.fixture
def shell() -> Shell:
    return Shell()


@pytest.fixture
def page(shell: Shell) -> Iterator[Page]:
    page = Page(shell)
    page._browser = Listening()
    yield page
    page.close()


def test_ten_times_a_second_at_most_but_for_a_burst(page: Page, shell: Shell) -> None:
    block = Told(page)
    page.show(block)
    number = change_for(block, 2.0)
    times = [at for _, at, _ in shell.display_pub.sent]
    assert len(times) <= 2.0 / AT_MOST + BURST + 2
    assert len(times) >= 10  # a busy machine may be late
    assert min(b - a for a, b in itertools.pairwise(times[1:])) > APART * 0.9
    block.ended = True
    page.touch(block)
    page.after_cell()  # the end does not wait for its turn
    assert shell.display_pub.texts[-1] == f"{number} over"


def test_many_blocks_share_what_a_front_end_can_take(page: Page, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "TOGETHER", 0.02)
    blocks = [Told(page) for _ in range(40)]
    for block in blocks:
        page.show(block)
    shell.display_pub.until(len(blocks))
    first, number = len(shell.display_pub.sent), 0
    began = time.monotonic()
    until = began + LIMIT
    while time.monotonic() < until and len(shell.display_pub.sent) < first + 2 * len(blocks):
        number += 1
        for block in blocks:
            block.show(number)
        time.sleep(0.005)
    took = time.monotonic() - began
    updates = shell.display_pub.sent[first:]
    assert len(updates) <= took / 0.02 + AT_ONCE + 2
    turns = [content["transient"]["display_id"] for _, _, content in updates]
    assert {turns.count(block.id) for block in blocks} <= {1, 2, 3}  # each has had its turn, and none took another's
    clicked, over = blocks[:2]
    page._paced += 1e6  # nobody's turn comes, but for these two
    for block, what in ((clicked, "due"), (over, "ended")):
        sent = len(shell.display_pub.sent)
        setattr(block, what, True)
        page.touch(block)
        shell.display_pub.until(sent + 1)
        assert block.id in [c["transient"]["display_id"] for _, _, c in shell.display_pub.sent[sent:]]


def test_a_long_block_is_sent_less_often(page: Page, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    block = Told(page)
    monkeypatch.setattr(block, "html", lambda kernel: "x" * 8 * WEIGHT)
    page.show(block)
    change_for(block, 2.0)
    times = [at for _, at, _ in shell.display_pub.sent]
    assert len(times) <= 2.0 / (8 * AT_MOST) + 2
    sent = len(times)
    block.due, block.paced = True, block.paced + 1e6  # somebody has clicked in it: its turn does not count
    page.touch(block)
    shell.display_pub.until(sent + 1)


def test_an_update_goes_straight_to_the_front_end(page: Page, shell: Shell) -> None:
    block = Told(page)
    page.show(block)
    block.show(1)
    shell.display_pub.until(2)
    assert [kind for kind, *_ in shell.display_pub.sent[:2]] == ["published", "update_display_data"]
    for _, _, content in shell.display_pub.sent:
        assert content["transient"] == {"display_id": block.id} and set(content) == {"data", "metadata", "transient"}


def test_an_update_does_not_go_to_the_capture_of_another_cell(page: Page, shell: Shell) -> None:
    outside, inside = Told(page), Told(page)
    page.show(outside)
    front_end, shell.display_pub = shell.display_pub, Capturing()
    captured = shell.display_pub
    page.show(inside)
    for block in (inside, outside):
        block.number, block.ended = 7, True
        page.touch(block)
    page.after_cell()
    assert front_end.texts[-1] == "7 over"
    assert [each["transient"]["display_id"] for each in captured.kept] == [inside.id] * 2
    assert captured.kept[-1]["update"] and captured.kept[-1]["data"]["text/plain"] == "7 over"


def test_a_block_that_ends_while_it_is_being_shown_leaves_its_end(page: Page, shell: Shell) -> None:
    page.show(Told(page))  # the page's thread runs
    block = Told(page)
    publish = shell.display_pub.publish

    def slowly(**content: Any) -> None:
        block.ended = True
        for _ in range(2):  # the second look comes after what the first one did
            looked = threading.Event()
            page.touch(block)
            page._commands.append(looked.set)
            page._wake.set()
            assert looked.wait(LIMIT)
        publish(**content)

    shell.display_pub.publish = slowly
    page.show(block)
    page.after_cell()
    of_block = [
        c["data"]["text/plain"] for _, _, c in shell.display_pub.sent if c["transient"]["display_id"] == block.id
    ]
    assert of_block == ["0", "0 over"]


def test_what_is_shown_later_is_shown_in_its_cell_unless_it_has_ended(page: Page, shell: Shell) -> None:
    cell: contextvars.ContextVar[str] = contextvars.ContextVar("cell", default="none")
    seen: list[str] = []
    shell.display_pub.publish = lambda **_: seen.append(cell.get())
    quick, long, last = Told(page), Told(page), Told(page)
    cell.set("first")
    page.show_later(quick, 0.01)
    quick.ended = True
    page.show_later(long, 0.01)
    cell.set("second")
    came = threading.Event()
    shell.display_pub.send = lambda *_, **__: came.set()
    page.show_later(last, 0.02)
    deadline = time.monotonic() + LIMIT
    while len(seen) < 2 and time.monotonic() < deadline:
        came.wait(0.01)
    assert seen == ["first", "second"]


def test_a_page_that_is_opened_again_gets_the_end_without_its_block_being_kept(page: Page, shell: Shell) -> None:
    block = Told(page)
    page.show(block)
    block.ended = True
    page.touch(block)
    page.after_cell()
    assert page._blocks == {}
    assert block not in page._ended.values()  # a run keeps its outputs
    page._act({"do": "seen", "block": block.id, "at": 1.0})
    assert page._browser.sent[-1]["html"] == "<b>0 over</b>"


def test_words_for_a_screen_reader_are_sent_when_they_change(page: Page, shell: Shell) -> None:
    class Spoken(Told):
        def says(self) -> str:
            return f"more than {self.number // 10 * 10}"

    block = Spoken(page)
    page.show(block)
    for count, number in enumerate((1, 2, 11, 12), start=2):
        block.show(number)
        shell.display_pub.until(count)
    block.ended = True
    page.touch(block)
    page.after_cell()
    assert [each["say"] for each in page._browser.sent if "say" in each] == ["more than 10"]


@pytest.mark.parametrize(
    ("kind", "metadata", "asked"),
    [
        ("execute_request", None, False),
        ("execute_request", {}, False),
        ("execute_request", {"cellId": "x"}, True),
        ("comm_msg", {}, True),
    ],
)
def test_only_a_cell_or_a_widget_of_a_page_makes_the_widget(
    kind: str, metadata: Any, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flyteagent_nb.notebook import browser

    made: list[object] = []

    class Browser(Listening):
        comm = None

        def __init__(self, on_act: object) -> None:
            super().__init__()
            made.append(on_act)

    monkeypatch.setattr(browser, "Browser", Browser)
    shell = Shell()
    shell.kernel.parent = {"header": {"msg_type": kind}, "metadata": metadata}
    page = Page(shell)
    try:
        page.show(Told(page))
        assert bool(made) is asked
    finally:
        page.close()


def test_a_page_without_the_widget_is_updated_once_a_second(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "SELDOM", 0.3)
    page = Page(shell)
    try:
        block = Told(page)
        page.show(block)
        shell.display_pub.until(3)  # it ticks by itself
        times = [at for _, at, _ in shell.display_pub.sent]
        assert all(b - a >= 0.29 for a, b in itertools.pairwise(times))
    finally:
        page.close()
