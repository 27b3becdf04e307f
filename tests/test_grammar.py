from __future__ import annotations

import dataclasses

import pytest

from flyteagent_nb.errors import ArgumentError
from flyteagent_nb.notebook.arguments import AgentArguments, AgentTaskArguments, parse_agent, parse_agent_task
from flyteagent_nb.notebook.commands import Kind
from flyteagent_nb.notebook.grammar import AGENT_TASK, OVERVIEW, VERB_COMMANDS, VERBS
from flyteagent_nb.notebook.manual import help_text
from flyteagent_nb.running.run import Run

COMMANDS = [AGENT_TASK, OVERVIEW, *VERB_COMMANDS.values()]
PAGES = [("%%agent_task", None), ("agent", None), *(("%agent", verb) for verb in VERBS)]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.title)
def test_the_table_agrees_with_itself(command) -> None:
    names = [name for a in command.arguments for name in a.names]
    assert len(names) == len(set(names))
    assert command.options["--help"].names == ("-h", "--help")
    positionals = command.positionals
    assert command.arguments[: len(positionals)] == positionals
    assert not any(a.repeats for a in positionals[:-1])
    for a in command.arguments:
        assert (a.kind is Kind.FLAG) == (not a.metavar), a
        assert a.choices or a.kind is not Kind.CHOICE, a
        assert not a.choices or a.kind in (Kind.CHOICE, Kind.CONFIG), a
        assert a.help, a
        for name in a.names:
            assert len(name) == 2 if name[1] != "-" else len(name) > 3, a


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c is not OVERVIEW and c.title != "%agent help"], ids=lambda c: c.title
)
def test_the_table_fills_attributes_that_are_there(command) -> None:
    target = AgentTaskArguments if command is AGENT_TASK else AgentArguments
    assert {a.field for a in command.arguments} <= {f.name for f in dataclasses.fields(target)}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.title)
def test_the_examples_can_be_read(command) -> None:
    assert command.examples
    for line, _ in command.examples:
        before, _, rest = line.partition(command.title.split()[0])
        assert before in ("", "run = ", "shown = ", "types = ", "served = ")
        arguments = parse_agent_task(rest) if command is AGENT_TASK else parse_agent(rest)
        assert not arguments.help or "help" in line


@pytest.mark.parametrize(("magic", "verb"), PAGES)
def test_help_fits_into_80_columns_and_names_everything(magic: str, verb: str | None) -> None:
    text = help_text(magic, verb)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert text == "\n".join(line.rstrip() for line in text.splitlines())
    command = next(
        c for c in COMMANDS if c.title.lstrip("%") == " ".join([magic.lstrip("%"), *([verb] if verb else [])])
    )
    assert text.startswith(command.title)
    options = text.partition("Options:")[2].partition("Examples:")[0]
    for a in command.arguments:
        assert ", ".join(a.names) in (options if a.names else text)
        assert " ".join(a.help.split()) in " ".join(text.split()) or command is OVERVIEW
    for line, what in command.examples:
        assert line in text and what in text


def test_the_overview_lists_the_verbs() -> None:
    text = " ".join(help_text("agent").split())
    for verb, summary in VERBS.items():
        assert f"{verb} {summary}" in text


def test_the_help_of_a_verb_reads_well() -> None:
    assert (
        help_text("agent", "logs")
        == """\
%agent logs ID [-f] [-n LINES]

Show what a run printed and logged.

Arguments:
  ID                      a run: its id, the beginning of its id, or last for
                          the newest

Options:
  -f, --follow            go on until the run ends
  -n LINES                the last LINES only
  -h, --help              show this text

Examples:
  %agent logs last
      all that it printed so far
  %agent logs last -f -n 20
      its last 20 lines, then each new one"""
    )


def test_a_long_usage_is_indented_and_keeps_an_option_together() -> None:
    usage = help_text("agent", "run").partition("\n\n")[0]
    assert usage == (
        "%agent run TASK [NAME=VALUE]... [-o NAMES] [-r NAME] [-b] [--service NAME]\n"
        "           [--on CONFIG] [--compare A B] [--retries N] [--timeout TIME]\n"
        "           [--dry-run] [-q]"
    )


def test_a_wide_option_takes_a_line_of_its_own() -> None:
    assert "\n  -i, --input NAME[=VALUE]\n                          an input:" in help_text("%%agent_task")


@pytest.mark.parametrize(
    ("magic", "verb", "told"),
    [
        ("agent", "lgos", "did you mean %agent logs?"),
        ("agent", "zzz", "the verbs are types, run"),
        ("agnt", None, "there is no magic agnt"),
        ("agent_task", "run", "there is no magic"),
    ],
)
def test_help_of_what_is_not_there(magic: str, verb: str | None, told: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        help_text(magic, verb)
    assert told in str(caught.value)


def test_what_the_help_says_that_a_run_has_is_there() -> None:
    told = AGENT_TASK.options["--run"].help.partition("it has the ")[2]
    names = told.replace(" and the ", ", the ").split(", the ")
    assert names == ["phase", "logs", "result"] and all(hasattr(Run, name) for name in names)
