"""What the tables of :mod:`flyteagent_nb.notebook.grammar` are made of: kinds of text, arguments, commands."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Kind(Enum):
    """What an argument's text means: how it is read, and what completes it."""

    FLAG = auto()  # no text
    TEXT = auto()
    FILE = auto()  # a file or a folder
    COUNT = auto()  # 0 and up
    POSITIVE = auto()  # 1 and up
    PORT = auto()
    DURATION = auto()
    CHOICE = auto()
    NEW_NAME = auto()  # a variable that is bound
    NEW_NAMES = auto()
    VARIABLE = auto()  # a variable that is there
    INPUT = auto()  # year=2024, or year alone
    ASSIGNMENT = auto()  # year=2024
    TABLE = auto()  # shop.orders=a_variable
    INPUTS = auto()  # a dict
    CONFIG = auto()
    RETURNS = auto()
    TASK = auto()  # a variable that holds a task
    TASK_TYPE = auto()
    TASK_TYPE_VERSION = auto()  # TYPE, or TYPE@1
    OWN_TYPE = auto()  # the same, of an agent of this kernel
    ROUTE = auto()  # the same, of a route
    RUN_ID = auto()
    SECRET = auto()
    SERVICE = auto()
    CONNECTED = auto()  # a service that is not this kernel's own
    ADDRESS = auto()
    VERB = auto()


@dataclass(frozen=True)
class Argument:
    """An option, or a positional argument where it has no names.

    Attributes:
        field: the attribute of the parsed arguments that it fills.
        kind: what its text means.
        names: how it is written, the short one first: ``("-i", "--input")``.
        metavar: what stands for its text in the help; empty for a flag.
        help: what it does.
        repeats: whether it may be given more than once.
        required: whether it must be given.
        choices: the texts that it takes, for a choice; the keys that it has, for a configuration.
        words: how many texts follow it.
    """

    field: str
    kind: Kind
    names: tuple[str, ...] = ()
    metavar: str = ""
    help: str = ""
    repeats: bool = False
    required: bool = False
    choices: tuple[str, ...] = ()
    words: int = 1

    @property
    def usage(self) -> str:
        """How it stands in the usage line: ``[-i NAME[=VALUE]]...``."""
        text = " ".join(part for part in (self.names[0] if self.names else "", self.metavar) if part)
        return (text if self.required else f"[{text}]") + ("..." if self.repeats else "")


@dataclass(frozen=True)
class Command:
    """What can be written on one magic's line: ``%%agent_task``, or a verb of ``%agent``.

    Attributes:
        title: how it begins: ``%agent run``.
        summary: what it does, in one line.
        description: what somebody must know who never saw it, or "".
        arguments: the positional ones first, then the options, in the order of the help.
        examples: a line of the notebook and what it does.
    """

    title: str
    summary: str
    description: str = ""
    arguments: tuple[Argument, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()

    @property
    def positionals(self) -> tuple[Argument, ...]:
        """The arguments without a name."""
        return tuple(a for a in self.arguments if not a.names)

    @property
    def options(self) -> dict[str, Argument]:
        """The arguments with a name, by each of their names."""
        return {name: a for a in self.arguments for name in a.names}
