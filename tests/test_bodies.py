"""What a cell's text looks like, brings back and holds."""

from __future__ import annotations

import pytest

from flyteagent_nb.notebook import bodies


@pytest.mark.parametrize(
    ("sql", "reads"),
    [
        ("SELECT 1", True),
        ("select 1", True),
        ("  -- comment\n/* and\nanother */ WITH x AS (SELECT 1) SELECT * FROM x", True),
        ("CREATE TABLE t AS SELECT 1", False),
        ("CREATE TABLE t AS SELECT 1; SELECT * FROM t;", True),
        ("SELECT 1; INSERT INTO t VALUES (1)", False),
        ("(SELECT 1) UNION (SELECT 2)", True),
        ("FROM t", True),
        ("EXPLAIN SELECT 1", True),
        ("SELECT ';' AS a", True),
        ("INSERT INTO t VALUES ('x; SELECT 1')", False),
        ("SELECT '--' AS dashes", True),
        ("INSERT INTO t VALUES ('it''s; SELECT 1'); -- '; SELECT 1", False),
        ('SELECT 1 AS ";"', True),
        ("", False),
        ("-- nothing", False),
    ],
)
def test_what_brings_back_a_table(sql: str, reads: bool) -> None:
    assert bodies.reads(sql) is reads


@pytest.mark.parametrize(
    ("body", "python"),
    [
        ("@task\ndef f(): ...", True),
        ("\n# why\n\nfrom x import y", True),
        ("import x", True),
        ("async def f(x): ...", True),
        ("def f(", True),
        ("class A:", True),
        ("class: a", False),
        ("import: x", False),
        ("from: x\nimport: y", False),
        ("default: 1", False),
        ("a = 3", False),
        ("# nothing", False),
        ("", False),
    ],
)
def test_what_begins_as_python_does_and_yaml_does_not(body: str, python: bool) -> None:
    assert bodies.looks_like_python(body) is python


@pytest.mark.parametrize(
    ("body", "language"), [("{}", "json"), ("\n {'a': 1}", "json"), ("a: {}", "yaml"), ("", "yaml")]
)
def test_json_begins_with_a_brace(body: str, language: str) -> None:
    assert bodies.mapping_language(body) == language
