"""A magic's line as words.

A line is split on white space outside quotes and brackets, and the quotes stay, so that ``-i d={'a': 1}`` is two words
and ``-i s='US'`` still says that it means a text. There is no comment sign and no escape outside quotes: the rest is verbatim.
"""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

from flyteagent_nb.errors import ArgumentError

_CLOSED_BY = {"(": ")", "[": "]", "{": "}"}
_REST_OF_QUOTE = {
    quote: re.compile(rf"(?:\\.|(?!{quote})[^\\])*{quote}", re.DOTALL) for quote in ("'", '"', "'''", '"""')
}
NOT_A_LITERAL = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)  # all that ast's parser raises


class Word(NamedTuple):
    """A word of a line.

    Attributes:
        text: as written, with its quotes.
        start: where it begins in the line, from 0.
    """

    text: str
    start: int


def scan(line: str) -> list[str]:
    """The words of a line, as written.

    Raises:
        ArgumentError: a quote or a bracket is not closed; it names which, and its column, counted from 1.
    """
    words, problem = words_of(line)
    if problem is not None:
        raise problem
    return [word.text for word in words]


def words_of(line: str) -> tuple[list[Word], ArgumentError | None]:
    """The words of a line that may be half-typed, and what is wrong with it, or None.

    A quote or bracket that is not closed takes the rest of the line into its word.
    """
    words: list[Word] = []
    opened: list[int] = []
    problem: ArgumentError | None = None
    start: int | None = None
    at = 0
    while at < len(line):
        char = line[at]
        if start is None and not char.isspace():
            start = at
        if char in "'\"":
            quote = char * 3 if line.startswith(char * 3, at) else char
            closed = _REST_OF_QUOTE[quote].match(line, at + len(quote))
            if closed is None:
                problem = problem or _unclosed("quote", quote, line, at)
                opened.clear()
                break
            at = closed.end()
            continue
        if char in _CLOSED_BY:
            opened.append(at)
        elif opened and char in ")]}":
            begin = opened.pop()
            if _CLOSED_BY[line[begin]] != char:
                problem = problem or _mismatched(line, begin, at)
        elif char.isspace() and not opened and start is not None:
            words.append(Word(line[start:at], start))
            start = None
        at += 1
    if opened:
        problem = problem or _unclosed("bracket", line[opened[-1]], line, opened[-1])
    if start is not None:
        words.append(Word(line[start:], start))
    return words, problem


def _unclosed(what: str, mark: str, line: str, at: int) -> ArgumentError:
    hint = f"end it with {_CLOSED_BY[mark]}" if what == "bracket" else f"end it with {mark}"
    if mark == "'":
        hint += ', or write a text that holds an apostrophe in double quotes: "it\'s"'
    return ArgumentError(f"the {what} {mark} at column {at + 1} is not closed: {excerpt(line[at:])}", hint=hint)


def _mismatched(line: str, begin: int, end: int) -> ArgumentError:
    return ArgumentError(
        f"the bracket {line[begin]} at column {begin + 1} is closed by {line[end]} at column {end + 1}: "
        f"{excerpt(line[begin : end + 1])}",
        hint=f"end it with {_CLOSED_BY[line[begin]]}",
    )


def excerpt(text: str) -> str:
    """The beginning of a text, for an error's message."""
    return text if len(text) <= 40 else f"{text[:39]}…"


def unquoted(text: str) -> str:
    """The text within a word's quotes, or the word as it is where it has none: ``'a b'`` and ``ab``."""
    try:
        value = ast.literal_eval(text) if text[-1:] in ("'", '"') else text
    except NOT_A_LITERAL:
        return text
    return value if isinstance(value, str) else text
