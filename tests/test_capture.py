from __future__ import annotations

import contextlib
import contextvars
import io
import logging
import sys
import threading
import time
import tracemalloc

import pytest

from flyteagent_nb.loop import ContextExecutor
from flyteagent_nb.serving import output
from flyteagent_nb.serving.capture import Capture
from flyteagent_nb.serving.output import OutputBuffer, OutputStore


@pytest.fixture
def terminal():
    """Call it for fresh stdout and stderr, as a terminal has them; it returns what tells what each was written.

    A call, because pytest puts in its own streams between a fixture and its test.
    """
    with contextlib.ExitStack() as stack:

        def begin():
            out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            return lambda: (out.buffer.getvalue().decode(), err.buffer.getvalue().decode())

        yield begin


@pytest.fixture
def capturing(terminal):
    """Call it for a terminal whose output is captured: (capture, store, what was written)."""
    with contextlib.ExitStack() as stack:

        def begin():
            written, store = terminal(), OutputStore()
            capture = Capture(store.sink)
            capture.install()
            stack.callback(capture.remove)
            return capture, store, written

        yield begin


@pytest.fixture
def logger():
    logger = logging.getLogger("test_capture.agent")
    yield logger
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def test_what_is_printed_inside_a_run_goes_there_and_nowhere_else(capturing):
    capture, store, written = capturing()
    sys.stdout.write("before\n")
    with capture.run("a"):
        print("one", 1)  # noqa: T201
        sys.stderr.write("two\n")
        sys.stdout.writelines(["three\n", "four\n"])
        print("flushed", flush=True)  # noqa: T201
    sys.stdout.write("after\n")
    assert store.get("a").lines() == ["one 1", "two", "three", "four", "flushed"]
    assert written() == ("before\nafter\n", "")


def test_runs_are_kept_apart_in_tasks_and_threads_and_nested(capturing):
    capture, store, written = capturing()
    started, go = threading.Barrier(3), threading.Event()

    def agent(name):
        sys.stdout.write(f"{name} begins\n")
        started.wait()
        go.wait()
        sys.stdout.write(f"{name} ends\n")

    with ContextExecutor(2, "test") as pool:
        for name in ("a", "b"):
            with capture.run(name):
                pool.submit(agent, name)
        started.wait()
        with capture.run("outer"):
            with capture.run("inner"):
                sys.stdout.write("inner\n")
            with capture.run(None):
                sys.stdout.write("nobody\n")
            sys.stdout.write("outer\n")
        go.set()
    assert {name: store.get(name).lines() for name in ("a", "b", "inner", "outer")} == {
        "a": ["a begins", "a ends"],
        "b": ["b begins", "b ends"],
        "inner": ["inner"],
        "outer": ["outer"],
    }
    assert written() == ("nobody\n", "")


def test_a_write_of_what_is_not_text_fails_as_ever(capturing):
    capture, *_ = capturing()
    with capture.run("a"), pytest.raises(TypeError):
        sys.stdout.write(b"bytes")


class Slotted:
    """A stream that takes no attributes, and so cannot be tapped as it is."""

    __slots__ = ("written",)

    def __init__(self):
        self.written = []

    def write(self, text):
        self.written.append(text)
        return len(text)

    def flush(self):
        pass


def test_all_output_together_is_bounded_where_as_many_runs_go_as_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a long session: then the number of runs that are kept never changes."""
    monkeypatch.setattr(output, "STORE_LIMIT", 30_000)
    store, kept = OutputStore(), 200
    for number in range(3 * kept):
        store.sink(f"{number}", "stdout", "a\n" if number < kept else "a" * 3_000 + "\n")
        if number >= kept:
            store.forget(f"{number - kept}")
    found = [buffer for number in range(3 * kept) if (buffer := store.get(f"{number}")) is not None]
    assert 10 <= len(found) <= 10 + 64 and found[-1].lines() == ["a" * 3_000]


def test_a_stream_that_takes_no_attributes_is_wrapped(monkeypatch, terminal):
    terminal()
    store = OutputStore()
    slotted = Slotted()
    monkeypatch.setattr(sys, "stdout", slotted)
    capture = Capture(store.sink)
    capture.install()
    with capture.run("a"):
        print("inside")  # noqa: T201
    print("outside")  # noqa: T201
    assert sys.stdout.written == slotted.written
    capture.remove()
    assert sys.stdout is slotted
    assert "".join(slotted.written) == "outside\n"
    assert store.get("a").lines() == ["inside"]


CELLS = [
    """
import logging, sys, threading
from flyteagent_nb.loop import ContextExecutor
from flyteagent_nb.serving.capture import Capture
from flyteagent_nb.serving.output import OutputStore
store, next_cell, pool = OutputStore(), threading.Event(), ContextExecutor(1, "test")
capture = Capture(store.sink)
capture.install()
print("cell 0")
""",
    """
def work():
    print("before")
    next_cell.wait()
    print("after")
with capture.run("thread"):
    done = pool.submit(work)
print("cell 1")
with capture.run("a"):
    print("the agent's", flush=True)
    print("its errors", file=sys.stderr)
    logging.warning("its log")
""",
    """
next_cell.set()
done.result()
print("cell 2", type(sys.stdout).__name__)
capture.remove()
print("removed", type(sys.stdout).__mro__[1].__name__)
""",
    """
with capture.run("a"):
    print("cell 3")
print(store.get("a").lines(), store.get("thread").lines())
print([o.bundle["stream"] for n in (1, 2, 3) for o in get_ipython().history_manager.outputs[n]]
      if hasattr(get_ipython().history_manager, "outputs") else None)
""",
]


def test_in_a_kernel():
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel()
    shown = []
    try:
        for cell in CELLS:
            client.execute_interactive(
                cell,
                timeout=60,
                output_hook=lambda m: shown.append(m["content"].get("text") or str(m["content"].get("evalue", ""))),
            )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
    *lines, history = "".join(shown).splitlines()
    kept = [["the agent's", "its errors", "WARNING root: its log"], ["before", "after"]]
    assert lines == ["cell 0", "cell 1", "cell 2 OutStream", "removed TextIOBase", "cell 3", "{} {}".format(*kept)]
    assert "agent" not in history
    assert "before" not in history


def test_a_stream_that_is_put_there_later_is_tapped_too(capturing):
    capture, store, _ = capturing()
    with contextlib.redirect_stdout(io.StringIO()) as cell:
        sys.stdout.write("the cell's\n")
        with capture.run("a"):
            print("the agent's")  # noqa: T201
    assert cell.getvalue() == "the cell's\n"
    assert store.get("a").lines() == ["the agent's"]


def test_install_and_remove_are_idempotent_and_leave_things_as_found(terminal):
    written = terminal()
    store = OutputStore()
    out, err = sys.stdout, sys.stderr
    plain = out.write
    out.write = own = lambda text: plain(text)  # somebody's own patch, from before
    found, handlers = vars(out).copy(), logging.Logger.callHandlers
    capture = Capture(store.sink)
    capture.remove()
    capture.install()
    capture.install()
    assert out.write is not own
    capture.remove()
    capture.remove()
    assert vars(out) == found
    assert "write" not in vars(err)
    assert logging.Logger.callHandlers is handlers
    with capture.run("a"):
        sys.stdout.write("passes\n")
    assert written()[0] == "passes\n"
    assert store.get("a") is None


class Terminal(io.StringIO):
    """A stream of a class in Python, as a kernel's is: it is tapped by way of its class."""


def test_a_write_goes_through_while_another_thread_takes_the_tap_away(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    capture = Capture(OutputStore().sink)
    capture.install()
    tapped = type(stream)
    assert tapped is not Terminal
    capture.remove()
    stream.__class__ = tapped  # as the writing thread saw it just before
    stream.write("written")
    stream.flush()
    assert stream.getvalue() == "written"


def test_a_patch_over_ours_stays_and_ours_lets_all_through_when_removed(capturing):
    capture, _, written = capturing()
    out = sys.stdout
    ours = out.write
    out.write = patched = lambda text: ours(text.upper())
    capture.remove()
    assert out.write is patched
    with capture.run("a"):
        out.write("passes\n")
    assert written()[0] == "PASSES\n"
    del out.write


def test_a_discarded_stream_is_not_kept_alive(capturing):
    capture, *_ = capturing()
    import gc
    import weakref

    with contextlib.redirect_stdout(io.StringIO()) as cell, capture.run("a"):
        assert "write" in vars(cell)
    seen = weakref.ref(cell)
    del cell
    with capture.run("b"):
        pass
    gc.collect()
    assert seen() is None


def test_flytekit_s_logger_which_does_not_propagate(capturing):
    capture, store, written = capturing()
    from flytekit import logger

    with capture.run("a"):
        logger.warning("quota at %d %%", 90)
    assert store.get("a").lines() == ["WARNING flytekit: quota at 90 %"]
    assert written() == ("", "")


@pytest.mark.parametrize("with_handler", [True, False], ids=["handlers", "last resort"])
def test_the_root_logger(monkeypatch, with_handler, capturing):
    capture, store, written = capturing()
    handlers = [logging.StreamHandler(sys.stderr)] if with_handler else []
    monkeypatch.setattr(logging.root, "handlers", handlers)
    with capture.run("a"):
        logging.warning("inside")
    assert store.get("a").lines() == ["WARNING root: inside"]
    assert written() == ("", "")
    if with_handler:
        logging.warning("outside")
        assert written() == ("", "outside\n")


def test_a_file_gets_the_record_once(tmp_path, logger, capturing):
    capture, store, _ = capturing()
    handler = logging.FileHandler(tmp_path / "log")
    logger.addHandler(handler)
    with capture.run("a"):
        logger.error("kept")
    handler.close()
    assert (tmp_path / "log").read_text() == "kept\n"
    assert store.get("a").lines() == ["ERROR test_capture.agent: kept"]


def test_a_handler_s_level_holds_inside_a_run(tmp_path, logger, capturing):
    capture, *_ = capturing()
    handler = logging.FileHandler(tmp_path / "log")
    handler.setLevel(logging.ERROR)
    logger.addHandler(handler)
    with capture.run("a"):
        logger.warning("not for the file")
    handler.close()
    assert (tmp_path / "log").read_text() == ""


def test_a_handler_that_shows_records_in_a_notebook_is_left_out(logger, capturing):
    capture, *_ = capturing()
    from rich.console import Console
    from rich.logging import RichHandler

    shown = []

    class Handler(RichHandler):
        def emit(self, record):
            shown.append(record)

    for jupyter in (True, False):
        logger.addHandler(Handler(console=Console(force_jupyter=jupyter, file=io.StringIO())))
    with capture.run("a"):
        logger.warning("inside")
    assert len(shown) == 1  # by the one that writes to a file
    logger.warning("outside")
    assert len(shown) == 3


def test_a_log_tap_of_somebody_else_still_hears(monkeypatch, logger, terminal):
    written = terminal()
    store = OutputStore()
    heard = []
    original = logging.Logger.callHandlers

    def theirs(self, record):
        heard.append(record.getMessage())
        original(self, record)

    monkeypatch.setattr(logging.Logger, "callHandlers", theirs)
    capture = Capture(store.sink)
    capture.install()
    with capture.run("a"):
        logger.warning("inside")
    capture.remove()
    assert heard == ["inside"]
    assert written() == ("", "")
    assert logging.Logger.callHandlers is theirs


def test_an_exception_is_logged_with_its_traceback_and_broken_arguments_with_their_text(logger, capturing):
    capture, store, _ = capturing()
    with capture.run("a"):
        try:
            raise ValueError("no such table")
        except ValueError:
            logger.exception("create failed")
        logger.propagate = False  # pytest's own handler raises
        logger.warning("%d rows", "many")
        logger.warning("where", stack_info=True)
    lines = store.get("a").lines()
    assert lines[0] == "ERROR test_capture.agent: create failed"
    assert "ValueError: no such table" in lines
    assert "WARNING test_capture.agent: %d rows many" in lines
    assert "Stack (most recent call last):" in lines


def test_a_context_that_was_copied_inside_a_run_belongs_to_it(capturing):
    capture, store, _ = capturing()
    with capture.run("a"):
        context = contextvars.copy_context()
    context.run(sys.stdout.write, "late\n")
    assert store.get("a").lines() == ["late"]


@pytest.mark.parametrize(
    ("writes", "lines"),
    [
        (["a", "b\n", "c"], ["ab", "c"]),
        (["a\n\nb\n"], ["a", "", "b"]),
        (["10%\r", "20%\r", "30%"], ["30%"]),
        (["\r10%", "\r20%", "\r30%\n", "next\n"], ["30%", "next"]),
        (["windows\r\n", "lines\r\n"], ["windows", "lines"]),
        (["100%\r", "      \r"], []),
        (["100%\r", "      \r", "done\n"], ["done"]),
        (["100%\r      \r\n"], [""]),
        (["  indented\n", "   \n"], ["  indented", "   "]),
        (["a\u2028b\x0cc\n"], ["a\u2028b\x0cc"]),
        (["half \ud83d\n", "é \udcff"], ["half ?", "é ?"]),  # a page would be sent nothing any more, and `logs` fail
    ],
)
def test_lines_are_assembled(writes, lines):
    whole, single = OutputBuffer(), OutputBuffer()
    for text in writes:
        whole.write("stdout", text)
        single.write("stdout", text)
        single.lines()  # reading in between changes nothing
    assert whole.lines() == single.lines() == lines


def test_a_progress_bar_leaves_its_last_state(capturing):
    capture, store, _ = capturing()
    from tqdm import tqdm

    with capture.run("a"):
        for _ in tqdm(range(1000), mininterval=0, miniters=1):
            pass
    (line,) = store.get("a").lines()
    assert line.startswith("100%")


def test_streams_are_assembled_apart_and_in_order():
    buffer = OutputBuffer()
    for stream, text in [
        ("stdout", "out "),
        ("stderr", "err "),
        ("stdout", "ends\n"),
        ("log", "whole\n"),
        ("stderr", "ends"),
    ]:
        buffer.write(stream, text)
    assert buffer.lines() == ["out ends", "whole", "err ends"]


def test_a_traceback_that_comes_again_is_one_line():
    buffer = OutputBuffer()
    for text in (
        "one:\n  here\nKeyError: 1\n",
        "one:\n  here\nKeyError: 1\n",
        "two:\nKeyError: 2\n",
        "one:\n  here\nKeyError: 1\n",
    ):
        buffer.write("traceback", text)
    buffer.write("stdout", "two:\nKeyError: 2\n")
    one, two = ["one:", "  here", "KeyError: 1"], ["two:", "KeyError: 2"]
    assert buffer.lines() == [*one, "KeyError: 1 (again)", *two, *one, *two]


def test_the_first_and_the_last_lines_are_kept_and_the_rest_is_counted():
    buffer = OutputBuffer()
    for i in range(50_000):
        buffer.write("stdout", f"{i}\n")
    lines = buffer.lines()
    assert lines[:1000] == [str(i) for i in range(1000)]
    assert lines[1000] == "[… 39,000 lines dropped …]"
    assert lines[1001:] == [str(i) for i in range(40_000, 50_000)]


def test_long_lines_are_bounded_by_their_text():
    buffer = OutputBuffer()
    for i in range(2000):
        buffer.write("stdout", f"{i:04}" + "x" * 2000 + "\n")
    lines = buffer.lines()
    (dropped,) = [line for line in lines if line.startswith("[")]
    kept = [line for line in lines if line != dropped]
    assert sum(map(len, kept)) <= 1024 * 1024
    assert kept[0].startswith("0000")
    assert kept[-1].startswith("1999")
    assert dropped == f"[… {2000 - len(kept):,} lines dropped …]"


@pytest.mark.parametrize("size", [50_000_000, 1000], ids=["at once", "in pieces"])
def test_one_endless_line_is_cut_and_says_by_how_much(size):
    buffer = OutputBuffer()
    tracemalloc.start()
    try:
        for _ in range(50_000_000 // size):
            buffer.write("stdout", "é" * size)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 4_000_000
    (line,) = buffer.lines()
    assert line.startswith("é" * 65_536)
    assert line.endswith("[… 49,934,464 characters dropped]")
    buffer.write("stdout", "\nnext\n")
    assert buffer.lines()[-1] == "next"


@pytest.mark.slow
def test_a_million_lines_are_quick_and_bounded(capturing):
    capture, store, _ = capturing()
    tracemalloc.start()
    try:
        with capture.run("a"):
            for i in range(50_000):
                print("line", i)  # noqa: T201
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 4_000_000
    with capture.run("a"):
        began = time.thread_time()  # not the clock: a busy machine breaks no test
        for i in range(50_000, 1_000_000):
            print("line", i)  # noqa: T201
        seconds = time.thread_time() - began
    assert store.get("a").lines()[-1] == "line 999999"
    assert "[… 989,000 lines dropped …]" in store.get("a").lines()
    assert seconds < 10  # 1.3 on a quiet machine


def test_following():
    buffer = OutputBuffer()
    assert buffer.since(0) == ([], 0)
    buffer.write("stdout", "a\nb\nunfinished")
    lines, n = buffer.since(0)
    assert (lines, n) == (["a", "b"], 2)
    assert buffer.since(n) == ([], 2)
    buffer.write("stdout", " no more\n")
    lines, n = buffer.since(n)
    assert (lines, n) == (["unfinished no more"], 3)
    buffer.write("stderr", "the end")
    buffer.flush()
    assert buffer.since(n) == (["the end"], 4)
    assert buffer.since(99) == ([], 4)


def test_following_tells_what_it_missed():
    buffer = OutputBuffer()
    for i in range(20_000):
        buffer.write("stdout", f"{i}\n")
    lines, n = buffer.since(500)
    assert n == 20_000
    assert lines[:500] == [str(i) for i in range(500, 1000)]
    assert lines[500:502] == ["[… 9,000 lines dropped …]", "10000"]
    assert buffer.since(5_000)[0][:2] == ["[… 5,000 lines dropped …]", "10000"]
    assert buffer.since(19_999) == (["19999"], 20_000)


def test_writes_from_many_threads_are_all_there():
    buffer = OutputBuffer()

    def work(name):
        for i in range(1000):
            buffer.write(name, f"{name} {i}\n")
            if not i % 100:
                buffer.lines()

    threads = [threading.Thread(target=work, args=(f"t{k}",)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = buffer.lines()
    for k in range(8):
        assert [line for line in lines if line.startswith(f"t{k} ")] == [f"t{k} {i}" for i in range(1000)]


def test_the_store_makes_no_buffer_for_a_silent_run(capturing):
    capture, store, _ = capturing()
    with capture.run("silent"):
        pass
    assert store.get("silent") is None
    store.sink("loud", "stdout", "x\n")
    assert store.get("loud").lines() == ["x"]
    store.forget("loud")
    store.forget("never")
    assert store.get("loud") is None


def test_the_store_is_bounded_also_where_each_run_prints_a_word(monkeypatch):
    monkeypatch.setattr("flyteagent_nb.serving.output.STORE_LIMIT", 200_000)
    store = OutputStore()
    for number in range(1_000):  # as another notebook's runs do at a port that is served for weeks
        store.sink(f"run-{number}", "stdout", "x\n")
    kept = [number for number in range(1_000) if store.get(f"run-{number}") is not None]
    assert len(kept) < 200 and kept == list(range(1_000 - len(kept), 1_000))
