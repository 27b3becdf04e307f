"""What a cell's text looks like, brings back and holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flyteidl.admin.agent_pb2 import CreateTaskRequest
from google.protobuf.json_format import Parse
from google.protobuf.struct_pb2 import Struct

from flyteagent_nb.errors import CellError
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


@pytest.mark.parametrize(
    ("body", "language", "value"),
    [
        ("'on': 3\n'1': 2\n\"null\": 4", "yaml", {"on": 3, "1": 2, "null": 4}),
        ("!!str 1: 2", "yaml", {"1": 2}),
        ("=: 1", "yaml", {"=": 1}),
        ("a: {x: 1}\nb: {x: 1}", "yaml", {"a": {"x": 1}, "b": {"x": 1}}),
        ("a: &a {n: 1, m: 2}\nb: {<<: *a, n: 3}", "yaml", {"a": {"n": 1, "m": 2}, "b": {"n": 3, "m": 2}}),
        (
            "x: {y: {b: &b {<<: &a {n: 1}, n: 2}}}\nc: {<<: *b, n: 3}",
            "yaml",
            {"x": {"y": {"b": {"n": 2}}}, "c": {"n": 3}},
        ),
        ("a: 9007199254740992\nb: -9007199254740992\nc: true", "yaml", {"a": 2**53, "b": -(2**53), "c": True}),
        ('{"a": 1, "b": {"a": 1}}', "json", {"a": 1, "b": {"a": 1}}),
        ("a: " + "[" * 29 + "]" * 29, "yaml", None),
        ('{"a": ' * 30 + "1" + "}" * 30, "json", None),
    ],
)
def test_what_a_configuration_holds_is_sent_as_it_stands(body: str, language: str, value: Any) -> None:
    found = bodies.mapping(body, language)
    assert value is None or found == value
    request = CreateTaskRequest()
    request.template.custom.CopyFrom(Parse(json.dumps(found), Struct()))
    assert CreateTaskRequest.FromString(request.SerializeToString()) == request


@pytest.mark.parametrize(
    ("body", "language", "told", "line"),
    [
        ("on: 3", "yaml", "line 2: the key `on` is a truth value to YAML, and a key is a text\nhint: put quotes", 2),
        ("a: 1\nnull: 4", "yaml", "line 3: the key `null` is nothing to YAML", 3),
        ("1: 2", "yaml", "the key `1` is a number to YAML", 2),
        ("a:\n- b: {2024-01-01: 1}", "yaml", "line 3: the key `2024-01-01` is a date to YAML", 3),
        ("? [a]\n: 1", "yaml", "the key a list or mapping is no text to YAML", 2),
        ("a: 1\na: 2", "yaml", "line 3: the key 'a' is given twice\nhint: give it once", 3),
        ("b: [{x: 1, x: 1}]", "yaml", "line 2: the key 'x' is given twice", 2),
        ('{"a": {"b": 1, "b": 2}}', "json", "the key 'b' is given twice", None),
        ("a: 9007199254740993", "yaml", "would be sent as another one: 9007199254740993\nhint: ", None),
        ('{"a": [-12345678901234567890]}', "json", "in quotes", None),
        ("a: 1" + "0" * 400, "yaml", "would be sent as another one", None),
        ("a: " + "[" * 3000 + "]" * 3000, "yaml", "nested more than 30 levels deep", None),
        ("a: " + "[" * 30 + "]" * 30, "yaml", "nested more than 30 levels deep", None),
        ('{"a": ' * 100_000 + "1" + "}" * 100_000, "json", "nested more than 30 levels deep", None),
        ("a: &a {b: *a}", "yaml", "holds itself\nhint: an alias (*name) cannot stand within", None),
        ("a: &a [*a]", "yaml", "holds itself", None),
        ("a: 2024-01-01", "yaml", "put quotes around dates", None),
        ("a: 2024-13-01", "yaml", "month must be in 1..12\nhint: write it as a text, in quotes", None),
        ("a: " + "1" * 5000, "yaml", "write it as a text, in quotes", None),
        ('{"a": ' + "1" * 5000 + "}", "json", "write it as a text, in quotes", None),
        ("a: \x00", "yaml", "the cell is not YAML: ", None),
    ],
)
def test_what_cannot_be_sent_as_it_stands_is_told(body: str, language: str, told: str, line: int | None) -> None:
    with pytest.raises(CellError) as caught:
        bodies.mapping(body, language)
    assert told in str(caught.value) and len(str(caught.value)) < 300
    assert caught.value.line == line
