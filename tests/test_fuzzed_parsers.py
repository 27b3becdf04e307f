"""Thousands of lines, cells and configurations for each reader: what comes out is a value or an error of ours, and it ends."""

from __future__ import annotations

import ast
import contextlib
import functools
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from fuzzing import characters, fuzzed
from hypothesis import given
from hypothesis import strategies as st

from flyteagent_nb.errors import ArgumentError, CellError, ConfigurationError, FlyteAgentNBError
from flyteagent_nb.notebook import cells
from flyteagent_nb.notebook.annotations import type_of_text
from flyteagent_nb.notebook.arguments import parse_agent, parse_agent_task
from flyteagent_nb.notebook.cells import task_of_cell
from flyteagent_nb.notebook.grammar import VERBS
from flyteagent_nb.notebook.scanning import scan, unquoted, words_of
from flyteagent_nb.notebook.values import config_value, input_value, input_values
from flyteagent_nb.running.propeller_config import SECTIONS, go_duration, read_propeller_config
from flyteagent_nb.running.records import snapshot_of

if TYPE_CHECKING:
    from collections.abc import Callable


EACH = 10_000
"""What each reader is given."""

NAMESPACE = {"a": 1, "config": {"x": 1}, "frame": [1, 2], "b": object()}
ODD = (
    "\x00",
    "\u202e",
    "\ud800",
    "\u2028",
    "\\",
    "'",
    '"',
    "'''",
    "[",
    "{",
    "(",
    "}",
    "=",
    ":",
    ",",
    "$",
    "#",
    "%",
    " ",
    "\t",
    "\n",
)
PIECES = (
    *ODD, "-i", "-o", "-r", "-c", "-b", "-q", "-h", "--inputs", "--config", "--returns", "--service", "--retries", "--timeout",
    "--lang", "--name", "--all", "--port", "--deadline", "--yes", "-n", "a", "a=1", "x='y z'", "{'a': 1}", "dict(a=1)", "n:int",
    "rows:list[str]", "sql", "yaml", "10m", "1h30m", "-1", "1e999", "9" * 40, "0x", "ID", "TYPE@1", "echo", "scripted", "last",
    "GetTask=5s", "None", "...", "lambda: 0", "__import__('os')", *VERBS,
)  # fmt: skip
OF_DURATIONS = ("+", "-", "0", "1", "30", "9" * 30, ".5", ".", "ns", "us", "µs", "ms", "s", "m", "h", "d", "e")

LINES = {
    "words": st.lists(st.sampled_from(PIECES), max_size=8).map(" ".join),
    "pieces": st.lists(st.one_of(st.sampled_from(PIECES), st.text(characters, max_size=6)), max_size=8).map("".join),
    "characters": st.text(st.characters(), max_size=40),
    "durations": st.lists(st.sampled_from(OF_DURATIONS), max_size=8).map("".join),
}
lines = st.one_of(*LINES.values())


def only(*errors: type[Exception]) -> Any:
    return contextlib.suppress(*errors)


def split(line: str) -> None:
    words, _ = words_of(line)
    for word in words:
        assert line[word.start :].startswith(word.text)
        unquoted(word.text)


READERS: dict[Callable[[str], Any], type[Exception]] = {
    scan: ArgumentError,
    parse_agent_task: ArgumentError,
    parse_agent: ArgumentError,
    split: ArgumentError,
    lambda text: input_value(text, NAMESPACE): ArgumentError,
    lambda text: config_value(text, NAMESPACE): ArgumentError,
    lambda text: input_values([("x", text)], text, NAMESPACE): ArgumentError,
    lambda text: type_of_text(text, NAMESPACE): ArgumentError,
    go_duration: ValueError,
    snapshot_of: ValueError,
}
"""What reads a line, each with what it may raise: the magics, words, values, types, durations, a state of the journal."""


@pytest.mark.parametrize("kind", LINES)
def test_readers_of_a_line(kind: str) -> None:
    """Each reader gets each line: to make one takes hypothesis ten times as long as a reader needs for it."""

    @fuzzed(EACH // len(LINES))
    @given(LINES[kind])
    def check(line: str) -> None:
        for read, refusal in READERS.items():
            with only(refusal):
                read(line)

    check()


def compiled(text: str) -> tuple[ast.Module, Callable[[], Any]]:
    """Compiles as the kernel does, and runs nothing."""
    try:
        return ast.parse(text), lambda: None
    except ValueError as error:  # half of a character, which no cell can have
        raise SyntaxError(str(error)) from None


BODIES = {
    "lines": lines,
    "mappings": st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(characters, max_size=6)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(("a", "b", "c")), inner, max_size=3)
        ),
        max_leaves=6,
    ).map(lambda value: yaml.safe_dump(value, allow_unicode=True)),
    "examples": st.sampled_from(
        ("SELECT 1", "@task\ndef f(a: int) -> int: ...", "a: &x [*x, *x]", "!!python/object:os.system x", "x = 1")
    ),
}


@pytest.mark.parametrize("kind", BODIES)
def test_cells(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The classes of a type are the same each time, and finding them takes ten times as long as all the rest.
    monkeypatch.setattr(cells, "task_classes", functools.cache(cells.task_classes))
    starts = (
        "", "scripted --lang yaml", "echo -c a=1 -c a.b=2", "--lang python", "scripted --lang json", "webhook", "sensor",
        "scripted", "scripted --returns n:int", "scripted --lang sql", "bigquery_query_job_task -c ProjectID=1",
    )  # fmt: skip

    @fuzzed(EACH // len(BODIES) // 5 + 1)  # five reads each
    @given(st.integers(0, len(starts) - 1), lines, BODIES[kind])
    def check(first: int, line: str, body: str) -> None:
        some = (*starts, *starts)[first : first + 4]
        for whole in (*some, f"{some[0]} {line}"):
            with only(FlyteAgentNBError, SyntaxError):  # of Python, which IPython shows as ever
                arguments = parse_agent_task(whole)
                task_of_cell(
                    arguments, body, namespace=dict(NAMESPACE), inputs={"a": 1}, compile_python=compiled,
                    versions=lambda _: [0], default_name="cell",
                )  # fmt: skip

    check()


KEYS = (
    *SECTIONS, "plugins", "data", "configmap", "inline", "configuration", "defaultAgent", "defaultConnector", "agents", "connectors",
    "agentForTaskTypes", "connectorForTaskTypes", "supportedTaskTypes", "endpoint", "insecure", "timeouts", "defaultTimeout",
    "defaultServiceConfig", "pollInterval", "core.yaml", "CreateTask", "x", "",
)  # fmt: skip


def test_propellers_configuration() -> None:
    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(characters, max_size=8),
        st.sampled_from(("dns:///a:8000", "10s", "1m30s", "-1h", "true", "x: [", "agent-service: {}", "{}")),
    )  # fmt: skip
    trees = st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)),
        max_leaves=12,
    )
    texts = st.one_of(
        trees.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True)), lines, st.text(characters, max_size=60)
    )

    @fuzzed(EACH // 3 + 1)
    @given(texts, st.sampled_from(("", "agent-service:\n  ", "plugins:\n  connector-service: ")), st.integers(0, 200))
    def check(text: str, before: str, cut: int) -> None:
        for whole in (text, before + text, (before + text)[:cut]):
            with only(ConfigurationError):
                read_propeller_config(whole)

    check()


def test_errors_of_ours_are_what_is_raised() -> None:
    """What the tests above pass over is nothing else."""
    assert issubclass(ArgumentError, FlyteAgentNBError) and issubclass(CellError, FlyteAgentNBError)
