"""Long work of the kernel: when it shows itself, what it says, and what is left of it."""

from __future__ import annotations

import concurrent.futures
import io
import re
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from flyteagent_nb.errors import ServiceError
from flyteagent_nb.notebook import progress
from flyteagent_nb.notebook.page import Page
from flyteagent_nb.notebook.progress import STEPS_SHOWN, Step, Work, work, work_html

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 20.0
TITLE = "Starting the BigQuery sandbox"


class Shell:
    """What a page needs of IPython's shell; keeps what is shown."""

    def __init__(self) -> None:
        self.kernel = object()
        self.display_pub = self
        self.shown: list[tuple[bool, str, str]] = []
        self.came = threading.Condition()

    def publish(self, data: dict[str, str], *, update: bool, **_: Any) -> None:
        with self.came:
            self.shown.append((update, data["text/plain"], data["text/html"]))
            self.came.notify_all()

    def until(self, text: str) -> None:
        with self.came:
            assert self.came.wait_for(lambda: any(text in each[1] + each[2] for each in self.shown), LIMIT), self.shown


@pytest.fixture
def shell() -> Shell:
    return Shell()


@pytest.fixture
def page(shell: Shell) -> Iterator[Page]:
    page = Page(shell)
    yield page
    page.close()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.05)


def test_what_is_quick_leaves_nothing_on_the_page(page: Page, shell: Shell, soon: None) -> None:
    with work(page, TITLE) as shown:
        shown.say("looking", part=0.5)
    with pytest.raises(ZeroDivisionError), work(page, TITLE):
        _ = 1 / 0
    page.after_cell()
    with work(page, "Looking after them"):  # its second comes after theirs
        shell.until("Looking after them")
    assert all("Looking after them" in text for _, text, _ in shell.shown if "✓" not in text)
    assert not any("sandbox" in text for _, text, _ in shell.shown)


def test_what_takes_longer_shows_itself_while_main_is_busy_and_ends_as_a_line(
    page: Page, shell: Shell, soon: None
) -> None:
    with work(page, TITLE) as shown:
        shown.say("installing <b>1.3.0</b>")
        shell.until("installing &lt;b&gt;")  # nobody but the page's thread can have shown it
        assert not shell.shown[0][0]
        shown.say("waiting for it to answer", part=0.4)
        shell.until("waiting for it to answer")
        shell.until('aria-valuenow="40"')
    page.after_cell()
    update, text, html = shell.shown[-1]
    assert update and re.fullmatch(r"✓ BigQuery sandbox, [\d.]+ m?s", text)
    assert "✓</span> BigQuery sandbox, " in html and "data-fa" not in html and "installing" not in html
    assert [update for update, *_ in shell.shown].count(False) == 1
    shown.say("too late")
    assert shown.line() == text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ServiceError("no <b>room</b>", service="kernel"), "no <b>room</b>"),
        (ValueError("odd"), "ValueError: odd"),
        (ValueError(), "ValueError"),
        (KeyboardInterrupt(), "stopped by the user"),
    ],
)
def test_it_ends_with_the_words_of_the_error(
    page: Page, shell: Shell, soon: None, error: BaseException, said: str
) -> None:
    with pytest.raises(type(error)), work(page, TITLE, done="Sandbox"):
        shell.until("Starting")
        raise error
    page.after_cell()
    _, text, html = shell.shown[-1]
    assert text.startswith("✗ Sandbox, ") and text.endswith(f"s: {said}")
    assert "<b>room" not in html and "✗" in html


def test_say_is_safe_on_any_thread_and_counts_its_steps(page: Page) -> None:
    shown = Work(TITLE, page)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: shown.say(f"step {i}", part=i), range(400)))
    assert len(shown.steps) == 400 and all(step.seconds >= 0 for step in shown.steps)
    shown.say("last", part=7)
    shown.say("last", part=-1)
    assert len(shown.steps) == 401 and shown.line().endswith("last, 0 %")
    assert f">{401 - STEPS_SHOWN} before<" in shown.html("") and shown.html("").count("✓") == STEPS_SHOWN - 1
    shown.end()
    took = shown.steps[-1].seconds
    assert shown.steps[-1].seconds == took


def test_the_steps_have_their_times_and_a_bar_comes_where_a_part_is_known() -> None:
    steps = [Step("installing bqemulator", 6.1), Step("waiting", 2.1)]
    html = work_html(TITLE, 8.2, steps, None, kernel="k", block="b")
    assert "6.1 s" in html and 'data-fa-elapsed="8.20"' in html and "progressbar" not in html
    known = work_html(TITLE, 8.2, steps, 0.4)
    assert 'role="progressbar"' in known and "width:40%" in known and "40 %" in known and "data-fa" not in known
    assert known.count("height:4px;margin") == html.count("height:4px;margin") == 1  # so that nothing jumps


def test_a_wait_beats_says_what_goes_on_and_gives_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(SimpleNamespace())
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    doing = iter(["", "a", "a", "b"])
    beats: list[str] = []

    def beat() -> None:
        beats.append(shown.line())
        if len(beats) == 4:
            future.set_result(7)

    monkeypatch.setattr(page, "beat", beat)
    monkeypatch.setattr(progress, "BEAT", 0.001)
    shown = Work(TITLE, page)
    assert shown.wait(future, lambda: next(doing)) == 7
    assert [step.text for step in shown.steps] == ["a", "b"]
    failed: concurrent.futures.Future[int] = concurrent.futures.Future()
    failed.set_exception(TimeoutError("of its own"))
    with pytest.raises(TimeoutError, match="of its own"):
        shown.wait(failed)


class Screen(io.StringIO):
    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal
        self.drawn = threading.Event()

    def isatty(self) -> bool:
        return self.is_terminal

    def flush(self) -> None:
        if "waiting" in self.getvalue():
            self.drawn.set()


def test_a_terminal_has_a_line_that_is_drawn_over(monkeypatch: pytest.MonkeyPatch, soon: None) -> None:
    monkeypatch.setattr(sys, "stdout", screen := Screen(True))
    with work(Page(SimpleNamespace()), TITLE) as shown:
        shown.say("waiting for it", part=0.25)
        assert screen.drawn.wait(LIMIT)
    lines = screen.getvalue().split("\r\x1b[K")
    assert re.fullmatch(r"▶ Starting the BigQuery sandbox, \d+ ms: waiting for it, 25 %", lines[1])
    assert re.fullmatch(r"✓ BigQuery sandbox, \d+ ms\n", lines[-1])


def test_a_pipe_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", screen := Screen(False))
    threads = threading.active_count()
    with work(Page(SimpleNamespace()), TITLE):
        assert threading.active_count() == threads
    assert screen.getvalue() == ""


@pytest.mark.parametrize(
    ("title", "done"),
    [
        ("Starting the agent service", "Agent service"),
        ("Exporting a project", "Project"),
        ("Installing DuckDB", "DuckDB"),
        ("Check", "Check"),
    ],
)
def test_the_name_at_the_end_is_the_title_less_its_verb(page: Page, title: str, done: str) -> None:
    assert Work(title, page).done == done
