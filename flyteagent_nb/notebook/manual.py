"""The help of the magics, by the tables of :mod:`flyteagent_nb.notebook.grammar`."""

from __future__ import annotations

import textwrap

from flyteagent_nb.notebook.grammar import OVERVIEW, VERBS, command_of

_WIDTH = 80
_INDENT = 26


def help_text(magic: str, verb: str | None = None) -> str:
    """How a magic or a verb is written: usage, a line for each argument, and examples, in 80 columns.

    Raises:
        ArgumentError: there is no such magic or verb.
    """
    command = command_of(magic, verb)
    usage = textwrap.fill(
        # A no-break space keeps an option and its metavar on one line.
        " ".join([command.title, *(a.usage.replace(" ", "\xa0") for a in command.arguments if a.field != "help")]),
        _WIDTH, subsequent_indent=" " * (len(command.title) + 1), break_on_hyphens=False, break_long_words=False,
    ).replace("\xa0", " ")  # fmt: skip
    parts = [usage, textwrap.fill(f"{command.summary}.", _WIDTH)]
    if command.description:
        parts.append(textwrap.fill(command.description, _WIDTH, break_on_hyphens=False))
    positionals = [(a.metavar, a.help) for a in command.positionals]
    if command is OVERVIEW:
        parts.append(_table("Verbs", list(VERBS.items())))
    elif positionals:
        parts.append(_table("Arguments", positionals))
    options = [
        (", ".join(a.names) + (f" {a.metavar}" if a.metavar else ""), a.help) for a in command.arguments if a.names
    ]
    parts.append(_table("Options", options))
    parts.append("\n".join(["Examples:", *(f"  {line}\n      {what}" for line, what in command.examples)]))
    return "\n\n".join(parts)


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    lines = [f"{title}:"]
    for left, text in rows:
        lead = f"  {left}".ljust(_INDENT)
        # A left side that is too wide takes a line of its own.
        if len(lead) > _INDENT - 2 and not lead.endswith("  "):
            lines.append(lead.rstrip())
            lead = " " * _INDENT
        lines += textwrap.wrap(
            text, _WIDTH, initial_indent=lead, subsequent_indent=" " * _INDENT, break_on_hyphens=False
        )
    return "\n".join(lines)
