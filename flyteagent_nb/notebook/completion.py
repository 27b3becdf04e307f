"""What the Tab key offers on a magic's line, by the table of :mod:`flyteagent_nb.notebook.grammar`.

A line is read without the magic's name, as for parsing, and may be half-typed. Nothing in here raises: what the session
knows comes from the outside, and where asking for it fails, it offers nothing.
"""

from __future__ import annotations

import glob
import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from flyteagent_nb.errors import ArgumentError
from flyteagent_nb.notebook.arguments import is_option, split_option
from flyteagent_nb.notebook.commands import Argument, Command, Kind
from flyteagent_nb.notebook.grammar import AGENT_TASK, OVERVIEW, VERB_COMMANDS, VERBS
from flyteagent_nb.notebook.scanning import words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_log = logging.getLogger(__name__)


class Known(Protocol):
    """What the session knows by name. Each is asked only when its names are wanted, and may raise."""

    def task_types(self) -> list[str]:
        """The task types of all services."""

    def run_ids(self) -> list[str]:
        """The ids of the runs, newest first."""

    def variables(self) -> list[str]:
        """The user's variables."""

    def tasks(self) -> list[str]:
        """The user's variables that hold tasks."""

    def secrets(self) -> list[str]:
        """The secrets that were given, and those that agents miss."""

    def own_types(self) -> list[str]:
        """The task types of this kernel's own agents."""

    def routes(self) -> list[str]:
        """The routes: ``TYPE``, or ``TYPE@1``."""

    def services(self) -> list[str]:
        """The agent services, this kernel's own first."""

    def addresses(self) -> list[str]:
        """The addresses that ``serve`` opened."""

    def config_fields(self, task_type: str) -> list[str]:
        """The configuration keys of a task type, with dots for those inside others; of no type in particular for ""."""

    def inputs(self, task: str) -> list[str]:
        """The inputs of the task that a variable holds."""


class Completion(NamedTuple):
    """What can stand at the cursor.

    Attributes:
        start: where in the line the text begins that a match replaces; it ends at the cursor.
        matches: the texts; one that ends with ``=`` wants a value right after it.
        files: whether the name of a file can stand there.
    """

    start: int
    matches: list[str]
    files: bool = False


@dataclass
class _Read:
    """What is known of some words: the texts of each option, the positional ones, and the option that wants the next word."""

    given: dict[str, list[str]] = field(default_factory=dict)
    positionals: list[str] = field(default_factory=list)
    wanting: Argument | None = None
    options_ended: bool = False


def complete(magic: str, line: str, cursor: int, known: Known) -> Completion:
    """What the Tab key offers.

    Args:
        magic: ``agent_task`` or ``agent``, with or without its percent signs.
        line: what follows the magic's name.
        cursor: where in the line.
        known: what the session knows by name.
    """
    cursor = min(max(cursor, 0), len(line))
    words, _ = words_of(line[:cursor])
    current, start = "", cursor
    if words and words[-1].start + len(words[-1].text) == cursor:
        current, start = words.pop()
    before = [word.text for word in words]
    later, _ = words_of(line[cursor:])
    after = [word.text for word in later if word.start > 0 or not current]
    command: Command | None = None
    if magic.lstrip("%") == "agent_task":
        command = AGENT_TASK
    elif magic.lstrip("%") == "agent":
        command = VERB_COMMANDS.get(before.pop(0)) if before else OVERVIEW
    return _complete(command, before, current, start, after, known) if command else Completion(start, [])


def files(typed: str) -> list[str]:
    """The files and folders whose paths begin with what is typed, folders with their slash; hidden ones where that is asked for."""
    text = typed.lstrip("'\"")
    quote = typed[: len(typed) - len(text)]
    found = glob.glob(glob.escape(os.path.expanduser(text)) + "*")
    paths = sorted(path + "/" * os.path.isdir(path) for path in found)
    return [quote + path if quote or not any(c.isspace() for c in path) else f"'{path}" for path in paths]


def _complete(
    command: Command, before: list[str], current: str, start: int, after: list[str], known: Known
) -> Completion:
    read = _read(command, before)
    rest = _read(command, [*before, current, *after])
    if read.wanting is not None and not is_option(current):
        return _matches(read.wanting, current, start, rest, known)
    if current.startswith("-") and not read.options_ended:
        option, text = _attached(command, current)
        if option is not None:
            return _matches(option, text, start + len(current) - len(text), rest, known)
        taken = {*read.given, *_read(command, after).given}
        names = (name for a in command.arguments if a.repeats or a.field not in taken for name in a.names)
        return Completion(start, _beginning_with(current, names))
    slots = command.positionals
    place = len(read.positionals)
    slot = slots[place] if place < len(slots) else slots[-1] if slots and slots[-1].repeats else None
    found = _matches(slot, current, start, rest, known) if slot else Completion(start, [])
    if found.matches or found.files or current:
        return found
    return Completion(
        start, [a.names[-1] for a in command.arguments if a.names and (a.repeats or a.field not in rest.given)]
    )


def _read(command: Command, words: list[str]) -> _Read:
    """What the words say, as far as they can be read."""
    read = _Read()
    for word in words:
        if read.wanting is not None and not is_option(word):
            texts = read.given[read.wanting.field]
            texts.append(word)
            if len(texts) >= read.wanting.words:
                read.wanting = None
        elif read.options_ended or not (is_option(word) or word == "--"):
            read.positionals.append(word)
        elif word == "--":
            read.options_ended = True
        else:
            read.wanting = None
            for option, text in _options_in(command, word):
                read.given.setdefault(option.field, []).extend([] if text is None else [text])
                read.wanting = option if text is None and option.kind is not Kind.FLAG else None
    return read


def _options_in(command: Command, word: str) -> list[tuple[Argument, str | None]]:
    try:
        return [(option, text) for option, _, text in split_option(command, word)]
    except ArgumentError:
        return []


def _attached(command: Command, word: str) -> tuple[Argument | None, str]:
    """The option whose text has begun in the word, and that text: ``--lang=s``, ``--lang=``, ``-iyear``."""
    name, equals, text = word.partition("=")
    if word.startswith("--"):
        option = command.options.get(name) if equals else None
        return (None, "") if option is None or option.kind is Kind.FLAG else (option, text)
    for option, attached in _options_in(command, word):
        if attached is not None:
            return option, attached
    return None, ""


def _matches(argument: Argument, text: str, start: int, read: _Read, known: Known) -> Completion:
    """What can stand in an argument's place."""
    kind = argument.kind
    if kind is Kind.FILE:
        return Completion(start, [], files=True)
    if kind in (Kind.INPUT, Kind.ASSIGNMENT, Kind.CONFIG, Kind.TABLE):
        name, equals, value = text.partition("=")
        if not equals:
            return Completion(start, _beginning_with(text, _names(argument, name, read, known)))
        values = _ask(known.variables)
        if kind is Kind.CONFIG:  # there a bare word is a text
            values = [f"${name}" for name in values] if value.startswith("$") else []
        return Completion(start + len(name) + 1, _beginning_with(value, values))
    if kind is Kind.CHOICE:
        names = list(argument.choices)
    elif kind is Kind.RUN_ID:
        ids = _ask(known.run_ids)
        names = [i for i in (["last", *ids] if ids else []) if i not in read.positionals or i == text]
    else:
        names = _ask(_source(kind, known))
    return Completion(start, _beginning_with(text, names))


def _names(argument: Argument, text: str, read: _Read, known: Known) -> list[str]:
    """The names that an assignment can begin with, but for those that have their value already."""
    kind = argument.kind
    if kind is Kind.CONFIG and argument.choices:
        found, texts = list(argument.choices), read.given.get(argument.field, [])
    elif kind is Kind.CONFIG:
        task_type = next((word for word in read.positionals if word), "")
        fields = _ask(lambda: known.config_fields(task_type))
        found = [name for name in fields if name.count(".") <= text.count(".")]  # what is inside comes with its dot
        texts = read.given.get("config", [])
    elif kind is Kind.ASSIGNMENT:
        task = next(iter(read.given.get("task", read.positionals)), "")  # an option of check, the first word of run
        found, texts = _ask(lambda: known.inputs(task)), read.positionals[1:]
    elif kind is Kind.TABLE:
        return []  # its name is the user's
    else:
        found, texts = _ask(known.variables), read.given.get("inputs", [])
    taken = {given.partition("=")[0] for given in texts} - {text}
    # -i year alone takes the variable; the others want a value.
    return [name if kind is Kind.INPUT else f"{name}=" for name in found if name not in taken]


def _source(kind: Kind, known: Known) -> Callable[[], Iterable[str]]:
    sources: dict[Kind, Callable[[], Iterable[str]]] = {
        Kind.TASK_TYPE: known.task_types,
        Kind.TASK_TYPE_VERSION: known.task_types,
        Kind.OWN_TYPE: known.own_types,
        Kind.ROUTE: known.routes,
        Kind.TASK: known.tasks,
        Kind.SECRET: known.secrets,
        Kind.SERVICE: known.services,
        Kind.CONNECTED: lambda: known.services()[1:],
        Kind.ADDRESS: known.addresses,
        Kind.VARIABLE: known.variables,
        Kind.INPUTS: known.variables,
        Kind.VERB: lambda: VERBS,
    }
    return sources.get(kind, tuple)


def _ask(source: Callable[[], Iterable[str]]) -> list[str]:
    try:
        return list(source())
    except Exception:  # it reads the user's objects and other services; the Tab key must not fail for them
        _log.debug("completion: a source of names failed", exc_info=True)
        return []


def _beginning_with(text: str, names: Iterable[str]) -> list[str]:
    """The names that begin with the text; where none does, those that do in another case."""
    names = list(dict.fromkeys(names))
    return [n for n in names if n.startswith(text)] or [n for n in names if n.lower().startswith(text.lower())]
