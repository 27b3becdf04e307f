from __future__ import annotations

import logging

import pytest
import traitlets
from rich.console import Console
from rich.logging import RichHandler

from flyteagent_nb.serving import records
from flyteagent_nb.serving.capture import Capture
from flyteagent_nb.serving.output import OutputStore


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def record(message: object, *arguments: object, name: str = "x", level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 7, message, arguments, None)


@pytest.mark.parametrize(
    ("message", "arguments", "words"),
    [
        ("failed with error:", ("no such table",), "failed with error: no such table"),
        ("failed:", ("a", 2), "failed: a 2"),
        ("%d rows", ("many",), "%d rows many"),
        ("%(name)s", ("x",), "%(name)s x"),
        ("%s of %s", ("one",), "%s of %s one"),
        ("got %s", (Unprintable(),), "got %s <Unprintable, which cannot be printed: RuntimeError>"),
        (Unprintable(), (), "<Unprintable, which cannot be printed: RuntimeError>"),
    ],
)
def test_a_broken_record_keeps_all_its_words(message, arguments, words):
    broken = record(message, *arguments)
    assert "test_records.py:7" in records.mend(broken)
    assert broken.getMessage() == words
    assert records.mend(broken) == ""


@pytest.mark.parametrize(("message", "arguments"), [("100 %", ()), ("%s and %d", ("a", 1)), ("%(a)s", ({"a": 1},))])
def test_a_good_record_is_left_alone(message, arguments):
    good = record(message, *arguments)
    before = (good.msg, good.args)
    assert records.mend(good) == "" and (good.msg, good.args) == before


def test_only_flytekit_s_own_handler_makes_the_method_fail_in_production():
    assert "raises that TypeError inside the agent's method" in records.mend(record("a", 1, name="flytekit"))
    assert "raises" not in records.mend(record("a", 1, name="snowflake.connector"))


def test_the_package_that_logs_is_named():
    told = logging.LogRecord("flytekit", logging.ERROR, traitlets.__file__, 1, "a", (1,), None)
    assert f"of traitlets {traitlets.__version__}" in records.mend(told)


def test_the_errors_of_a_call_are_remembered_once_each_and_a_few():
    assert records.of_call() is None
    token, call = records.begin()
    try:
        assert records.of_call() is call
        for message in ("first", "second", "first"):
            call.take(record(message))
        call.take(record("no error", level=logging.WARNING))
        assert call.errors == ["second", "first"]
        for n in range(100):
            call.take(record(f"error {n}"))
        assert call.errors[-1] == "error 99" and len(call.errors) < 50
    finally:
        records.end(token)
    assert records.of_call() is None


@pytest.fixture
def logger():
    logger = logging.getLogger("flytekit.test_records")
    logger.propagate = False
    yield logger
    logger.handlers.clear()
    logger.propagate = True


@pytest.fixture
def capture():
    store = OutputStore()
    capture = Capture(store.sink)
    capture.install()
    yield capture, store
    capture.remove()


def test_a_log_call_with_a_wrong_format_does_not_fail_under_flytekit_s_handler(tmp_path, logger, capture):
    """The handler by itself raises, as in production; inside a run, and in a call from outside, nothing does."""
    capture, store = capture
    with (tmp_path / "log").open("w") as file:
        handler = RichHandler(console=Console(file=file, force_jupyter=False, width=200))
        with pytest.raises(TypeError):
            handler.handle(record("failed with error:", "no such table"))
        logger.addHandler(handler)
        for run_id in ("a", "a", None):
            with capture.run(run_id):
                logger.error("failed with error:", "no such table")
        capture.remove()
        with pytest.raises(TypeError):
            logger.error("failed with error:", "no such table")
    assert (tmp_path / "log").read_text().count("failed with error: no such table") == 3
    error, note, again = store.get("a").lines()
    assert error == again == "ERROR flytekit.test_records: failed with error: no such table"
    assert note.startswith("WARNING flyteagent_nb: test_records.py:") and "In production they are lost" in note


def test_a_handler_that_raises_fails_no_call_and_is_told_of(logger, capture):
    capture, store = capture

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    logger.addHandler(Broken())
    with capture.run("a"):
        logger.error("it rained")
    assert store.get("a").lines()[0] == "ERROR flytekit.test_records: it rained"
    assert "a log handler raised OSError: disk full" in store.get("a").lines()[1]
    with pytest.raises(OSError, match="disk full"):
        logger.error("outside")
