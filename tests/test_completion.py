from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

import pytest
from test_arguments import random_lines

from flyteagent_nb.notebook.completion import Completion, complete, files
from flyteagent_nb.notebook.grammar import LANGUAGES, OPERATIONS, PHASES, VERBS
from flyteagent_nb.running import propeller_config

if TYPE_CHECKING:
    from pathlib import Path


class Session:
    def task_types(self) -> list[str]:
        return ["bigquery_query_job_task", "duckdb", "dummy"]

    def run_ids(self) -> list[str]:
        return ["3f2a", "3f9b", "a41c"]

    def variables(self) -> list[str]:
        return ["year", "yard", "cfg", "train"]

    def tasks(self) -> list[str]:
        return ["my_task", "my_other"]

    def secrets(self) -> list[str]:
        return ["API_KEY"]

    def own_types(self) -> list[str]:
        return ["dummy"]

    def routes(self) -> list[str]:
        return ["duckdb@1", "dummy"]

    def services(self) -> list[str]:
        return ["kernel", "prod", "dev"]

    def addresses(self) -> list[str]:
        return ["127.0.0.1:8000"]

    def config_fields(self, task_type: str) -> list[str]:
        return {"duckdb": ["Path", "Port", "Limits", "Limits.cpu", "Limits.mem"], "": ["Any"]}.get(task_type, [])

    def inputs(self, task: str) -> list[str]:
        return {"my_task": ["year", "zone"]}.get(task, [])


def at(magic: str, marked: str) -> tuple[str, list[str]]:
    """The text that would be replaced and the matches; ``|`` marks the cursor."""
    cursor = marked.index("|")
    line = marked.replace("|", "", 1)
    start, matches, files = complete(magic, line, cursor, Session())
    return line[start:cursor], [*matches, *(FILES if files else [])]


TYPES = Session().task_types()
VARIABLES = Session().variables()
FILES = ["(files)"]
"""Stands for the names of files, which are IPython's to offer."""


@pytest.mark.parametrize(
    ("marked", "fragment", "matches"),
    [
        ("|", "", TYPES),
        (" |", "", TYPES),
        ("du|", "du", ["duckdb", "dummy"]),
        ("d|u -b", "d", ["duckdb", "dummy"]),
        ("DUC|", "DUC", ["duckdb"]),
        ("-b du|", "du", ["duckdb", "dummy"]),
        ("-i |", "", VARIABLES),
        ("-i ye|", "ye", ["year"]),
        ("-iye|", "ye", ["year"]),
        ("--input=ye|", "ye", ["year"]),
        ("-i x=|", "", VARIABLES),
        ("-i x=ya|", "ya", ["yard"]),
        ("-ix=ya|", "ya", ["yard"]),
        ("--input x=ya|", "ya", ["yard"]),
        ("--input=x=ya|", "ya", ["yard"]),
        ("-i year=1 -i y|", "y", ["yard"]),
        ("-i x='ye|", "'ye", []),
        ("-i x=[1, ye|", "[1, ye", []),
        ("--config |", "", VARIABLES),
        ("--config=c|", "c", ["cfg"]),
        ("--inputs c|", "c", ["cfg"]),
        ("--lang |", "", list(LANGUAGES)),
        ("--lang s|", "s", ["sql", "shell"]),
        ("--lang=|", "", list(LANGUAGES)),
        ("--code p|", "p", ["pickle"]),
        ("--bogus=|", "--bogus=", []),
        ("--quiet=|", "--quiet=", []),
        ("--service |", "", ["kernel", "prod", "dev"]),
        ("--on |", "", FILES),
        ("--on=x|", "x", FILES),
        ("duckdb -c |", "", ["Path=", "Port=", "Limits="]),
        ("duckdb -c Limits.|", "Limits.", ["Limits.cpu=", "Limits.mem="]),
        ("duckdb -c Limits.cpu=2 -c Limits.|", "Limits.", ["Limits.mem="]),
        ("duckdb -c limits.c|", "limits.c", ["Limits.cpu="]),
        ("duckdb -c Po|", "Po", ["Port="]),
        ("-c P| duckdb", "P", ["Path=", "Port="]),
        ("duckdb -c Path=x -c |", "", ["Port=", "Limits="]),
        ("-c |", "", ["Any="]),
        ("duckdb -c Path=|", "", []),
        ("duckdb -c Path=$y|", "$y", ["$year", "$yard"]),
        ("--name |", "", []),
        ("-o |", "", []),
        ("--re|", "--re", ["--returns", "--retries"]),
        ("--retries 3 --re|", "--re", ["--returns"]),
        ("--re| --returns int", "--re", ["--retries"]),
        ("--re|t", "--re", ["--returns", "--retries"]),
        ("-i a=1 --inp|", "--inp", ["--input", "--inputs"]),
        ("--inputs d --inp|", "--inp", ["--input"]),
        ("-o x --o|", "--o", ["--on"]),
        ("-b|", "-b", ["-b"]),
        ("-bq|", "-bq", []),
        ("-- -|", "-", []),
        ("x='US |", "x='US ", []),
    ],
)
def test_on_the_line_of_agent_task(marked: str, fragment: str, matches: list[str]) -> None:
    assert at("agent_task", marked) == (fragment, matches)
    assert at("%%agent_task", marked) == (fragment, matches)


@pytest.mark.parametrize(
    ("marked", "fragment", "matches"),
    [
        ("|", "", list(VERBS)),
        ("ru|", "ru", ["run", "runs"]),
        ("r|un x", "r", ["run", "runs", "route", "remove"]),
        ("-|", "-", ["-h", "--help"]),
        ("help s|", "s", ["show", "settle", "serve", "stop", "sandbox", "secret"]),
        ("run |", "", ["my_task", "my_other"]),
        ("run my_t|", "my_t", ["my_task"]),
        ("run my_task |", "", ["year=", "zone="]),
        ("run my_task z|", "z", ["zone="]),
        ("run my_task year=1 |", "", ["zone="]),
        ("run my_task | year=1", "", ["zone="]),
        ("run my_task |year=1", "", ["zone="]),
        ("run my_task zo|ne= ", "zo", ["zone="]),
        ("run -b my_task y|", "y", ["year="]),
        ("run my_task year=|", "", VARIABLES),
        ("run my_task year=ya|", "ya", ["yard"]),
        ("run my_task --se|", "--se", ["--service"]),
        ("show |", "", ["last", "3f2a", "3f9b", "a41c"]),
        ("show 3f|", "3f", ["3f2a", "3f9b"]),
        ("logs -f a|", "a", ["a41c"]),
        ("logs -n |", "", []),
        ("cancel 3f2a |", "", ["last", "3f9b", "a41c"]),
        ("cancel 3f2a|", "3f2a", ["3f2a"]),
        ("runs |", "", ["--phase", "-n", "--all", "--prune", "--yes", "--help"]),
        ("runs --phase |", "", list(PHASES)),
        ("runs --phase fa|", "fa", ["FAILED"]),
        ("show 3f2a |", "", ["--help"]),
        ("serve |", "", ["--port", "--host", "--open", "--cert", "--key", "--help"]),
        ("serve --open |", "", ["--port", "--host", "--cert", "--key", "--help"]),
        ("secret |", "", ["API_KEY"]),
        ("secret API_KEY |", "", ["--forget", "--help"]),
        ("stop |", "", ["127.0.0.1:8000"]),
        ("remove d|", "d", ["dummy"]),
        ("form my|", "my", ["my_task", "my_other"]),
        ("attach |", "", ["last", "3f2a", "3f9b", "a41c"]),
        ("attach 3f2a --ta|", "--ta", ["--task"]),
        ("attach 3f2a --task my_o|", "my_o", ["my_other"]),
        ("attach --all |", "", ["last", "3f2a", "3f9b", "a41c"]),
        ("settle a|", "a", ["a41c"]),
        ("settle a41c |", "", ["--job", "--gone", "--help"]),
        ("settle a41c --job |", "", []),
        (
            "connect |",
            "",
            ["--from", "--tls", "--ca", "--cert", "--key", "--token-file", "--deadline", "--outputs", "--help"],
        ),
        ("connect dev|", "dev", []),
        ("connect --from |", "", FILES),
        ("connect --from pro|", "pro", FILES),
        ("connect dev h:1 --ca=x|", "x", FILES),
        (
            "connect dev h:1 --deadline |",
            "",
            ["CreateTask=", "GetTask=", "DeleteTask=", "ExecuteTaskSync=", "GetTaskLogs=", "ListAgents="],
        ),
        ("connect dev h:1 --deadline GetTask=5s --deadline Get|", "Get", ["GetTaskLogs="]),
        ("connect dev h:1 --token-file |", "", FILES),
        ("disconnect |", "", ["prod", "dev"]),
        ("route |", "", TYPES),
        ("route du|", "du", ["duckdb", "dummy"]),
        ("route dummy |", "", ["kernel", "prod", "dev"]),
        ("unroute |", "", ["duckdb@1", "dummy"]),
        ("check du|", "du", ["duckdb", "dummy"]),
        ("check dummy --failing my_o|", "my_o", ["my_other"]),
        ("check dummy --task my_task |", "", ["year=", "zone="]),
        ("export |", "", FILES),
        ("export agents --types d|", "d", ["duckdb", "dummy"]),
        ("sandbox |", "", ["bigquery", "snowflake", "openai", "stop", "status"]),
        ("sandbox openai |", "", ["start", "stop", "status"]),
        ("doctor |", "", TYPES),
        ("secret API_KEY --|", "--", ["--forget", "--help"]),
        ("serve --cert |", "", FILES),
        ("serve --host |", "", []),
        ("run my_task --compare |", "", ["kernel", "prod", "dev"]),
        ("run my_task --compare prod |", "", ["kernel", "prod", "dev"]),
        ("bogus |", "", []),
    ],
)
def test_on_the_line_of_agent(marked: str, fragment: str, matches: list[str]) -> None:
    assert at("agent", marked) == (fragment, matches)
    assert at("%agent", marked) == (fragment, matches)


def test_after_the_task_type_come_the_options() -> None:
    _, matches = at("agent_task", "duckdb -o x |")
    assert "--input" in matches and "--output" not in matches and "-i" not in matches


def test_the_operations_are_those_of_propellers_configuration() -> None:
    assert set(OPERATIONS) <= set(propeller_config.OPERATIONS)


def test_no_runs_no_last() -> None:
    class Empty(Session):
        def run_ids(self) -> list[str]:
            return []

    assert complete("agent", "show l", 6, Empty()).matches == []


def test_a_magic_of_somebody_else_has_no_completion() -> None:
    assert complete("time", "x", 1, Session()) == Completion(0, [])


def test_a_cursor_outside_the_line_is_taken_to_its_end() -> None:
    assert complete("agent", "ru", 99, Session()) == Completion(0, ["run", "runs"])
    assert complete("agent", "ru", -5, Session()) == Completion(0, list(VERBS))


def test_a_source_that_fails_offers_nothing_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Session):
        def variables(self) -> list[str]:
            raise ZeroDivisionError

    with caplog.at_level(logging.DEBUG, "flyteagent_nb.notebook.completion"):
        assert complete("agent_task", "-i ", 3, Broken()) == Completion(3, [])
    assert "ZeroDivisionError" in caplog.text


def test_random_text_never_raises_and_the_start_is_in_the_line() -> None:
    rng = random.Random(7)
    offered = 0
    for line in random_lines(5000):
        cursor = rng.randint(0, len(line))
        for magic, text in (("agent_task", line), ("agent", line), ("agent", f"run t {line}")):
            place = cursor + len(text) - len(line)
            start, matches, _ = complete(magic, text, place, Session())
            assert 0 <= start <= place
            fragment = text[start:place].lower()
            assert all(match.lower().startswith(fragment) for match in matches), (text, place)
            offered += bool(matches)
    assert offered > 1000


def test_files_are_those_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one.pem", "on two.pem", "[a].pem", ".hidden"):
        (tmp_path / name).write_text("")
    (tmp_path / "once").mkdir()
    (tmp_path / "once" / "deep.pem").write_text("")
    assert files("on") == ["'on two.pem", "once/", "one.pem"]
    assert files("'on") == ["'on two.pem", "'once/", "'one.pem"]
    assert files("once/") == ["once/deep.pem"] and files("[a") == ["[a].pem"] and files("zzz") == []
    assert files("") == ["[a].pem", "'on two.pem", "once/", "one.pem"]
