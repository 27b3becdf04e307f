"""The log records of one call of an agent: a broken one is mended before a handler sees it, and the errors are remembered.

``logger.error("failed with:", text)`` has an argument that its text has no place for. The handlers of logging itself report such a record
and go on; flytekit's (rich's) raises, inside the agent's method, and the job's own error is lost.
"""

from __future__ import annotations

import contextvars
import logging
import os
import sys
from typing import Final

from flyteagent_nb.serving.catalog import distribution_of
from flyteagent_nb.serving.known_faults import BROKEN_RECORD

_FLYTEKIT_LOGGERS: Final = frozenset({"flytekit", "user_space", "developer"})
_ERRORS_KEPT: Final = 20
_call: contextvars.ContextVar[CallRecords | None] = contextvars.ContextVar("flyteagent_nb_call", default=None)


class CallRecords:
    """What an agent logged in one call.

    Attributes:
        errors: the messages of its records of level ERROR and above, the newest last, one of each.
        notes: what was said of its broken records.
    """

    __slots__ = ("errors", "notes")

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.notes: list[str] = []

    def take(self, record: logging.LogRecord) -> str:
        """Mend ``record`` where it is broken, and remember it where it is an error.

        Returns:
            What a person should hear of the record beside its own words, or an empty string.
        """
        title = record.msg
        note = mend(record)
        if note:
            self.notes = [*self.notes, note][-_ERRORS_KEPT:]
        if record.levelno >= logging.ERROR:
            words = record.getMessage()
            if note and isinstance(title, str) and title.endswith(":") and words.startswith(title):
                words = (
                    f"{words[len(title) :].strip()} ({title[:-1]})"  # what is behind the colon is what the service said
                )
            if words in self.errors:
                self.errors.remove(words)
            self.errors.append(words)
            del self.errors[:-_ERRORS_KEPT]
        return note


def begin() -> tuple[contextvars.Token[CallRecords | None], CallRecords]:
    """Let the records of a call begin: what :func:`end` takes, and the records."""
    call = CallRecords()
    return _call.set(call), call


def end(token: contextvars.Token[CallRecords | None]) -> None:
    """The call is over."""
    _call.reset(token)


def of_call() -> CallRecords | None:
    """The records of the call in which this runs, or None outside of calls."""
    return _call.get()


def mend(record: logging.LogRecord) -> str:
    """Give a record whose arguments do not fit its text all its words as text.

    Returns:
        What was wrong and what it leads to elsewhere, or an empty string where nothing was.
    """
    try:
        record.getMessage()
    except Exception as error:  # a format that does not fit, or an argument whose __str__ raises anything
        record.msg = _words(record)
        record.args = None
        return _told(record, error)
    return ""


def _words(record: logging.LogRecord) -> str:
    arguments = record.args
    values = arguments if isinstance(arguments, tuple) else () if arguments is None else (arguments,)
    return " ".join(_text(value) for value in (record.msg, *values))


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # the agent's class, and its mistake; its name is still worth showing
        return f"<{type(value).__name__}, which cannot be printed: {type(error).__name__}>"


def _told(record: logging.LogRecord, error: Exception) -> str:
    where = f"{os.path.basename(record.pathname)}:{record.lineno}"
    if (package := _package_of(record.pathname)) is not None:
        where += f" of {package}"
    wrong = f"{where} {BROKEN_RECORD} ({type(error).__name__}: {_text(error)}); all words are shown here"
    if record.name.partition(".")[0] in _FLYTEKIT_LOGGERS:
        return (
            f"{wrong}. In production they are lost: flytekit's own log handler raises that {type(error).__name__} inside the "
            "agent's method, which fails with it"
        )
    return f"{wrong}. In production they are not logged"


def _package_of(path: str) -> str | None:
    """Name and version of the distribution that a file belongs to, where a module came from it."""
    for name, module in list(sys.modules.items()):
        # Not getattr: a module that loads lazily would be loaded by it.
        known = getattr(module, "__dict__", {})
        if known.get("__file__") == path and known.get("__name__") == name:
            return distribution_of(name)
    return None
