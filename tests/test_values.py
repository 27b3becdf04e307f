from __future__ import annotations

import types
from collections import OrderedDict
from datetime import timedelta
from typing import Any

import pytest

from flyteagent_nb.errors import ArgumentError
from flyteagent_nb.notebook.values import config_value, duration, input_value, input_values, output_types, variable

VARIABLES: dict[str, Any] = {
    "year": 2024,
    "cfg": types.SimpleNamespace(year=2023, deep=types.SimpleNamespace(zone="EU")),
    "options": OrderedDict(year=1, zone="x"),
    "numbers": {1: 2},
    "_hidden": 0,
    "dashed": {"x-y": 2},
    "usa": "the variable",
}


def test_what_a_shell_brings_is_not_meant() -> None:
    with pytest.raises(ArgumentError) as caught:
        input_value("opn", {"open": open, "In": []})
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024", 2024),
        ("-5", -5),
        ("1.5e3", 1500.0),
        ("None", None),
        ("True", True),
        ("'US west'", "US west"),
        ("b'x'", b"x"),
        ("(1, 2)", (1, 2)),
        ("{1, 2}", {1, 2}),
        ("{'a': [1, {'b': None}]}", {"a": [1, {"b": None}]}),
        ("year", 2024),
        ("cfg.year", 2023),
        ("cfg.deep.zone", "EU"),
    ],
)
def test_an_input_is_a_literal_or_a_variable(text: str, value: object) -> None:
    found = input_value(text, VARIABLES)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("US", "there is no variable US", "region='US'"),
        ("US", "there is no variable US", "did you mean usa?"),
        ("yaer", "there is no variable yaer", "did you mean year?"),
        ("hidden", "there is no variable hidden", "region='hidden'"),
        ("true", "there is no variable true", "did you mean True?"),
        ("null", "there is no variable null", "did you mean None?"),
        ("p.d.t", "there is no variable p", "region='p.d.t'"),
        ("cfg.yaer", "cfg has no attribute yaer", "did you mean cfg.year?; a text stands in quotes: region='cfg.yaer'"),
        ("cgf.year", "there is no variable cgf", "did you mean cfg.year?"),
        ("cfg.deep.nothing", "cfg.deep has no attribute nothing", "region="),
        ("df.shape[0]", "df.shape[0] is neither", "put it into a variable first"),
        ("f(x)", "f(x) is neither", "nothing is computed on this line"),
        ("$cfg.year", "$cfg.year is neither", "a variable is its name alone: region=cfg.year"),
        ("{cfg.year}", "{cfg.year} is neither", "write the name alone: region=cfg.year"),
        ("{f(x)}", "{f(x)} is neither", "nothing is computed on this line"),
        ("{'a': year}", "{'a': year} is neither", "put it into a variable first"),
        ("f'{year}'", "f'{year}' is neither", "put it into a variable first"),
        ("{[]: 1}", "{[]: 1} is neither", "put it into a variable first"),
        ("2024-", "2024- is neither", "region='2024-'"),
        ("US-west", "US-west is neither", "region='US-west'"),
        ("a b", "a b is neither", "region='a b'"),
        ("", "region has no value", "write region=2024"),
        ("a..b", "a..b is neither", "region='a..b'"),
        ("(" * 5000, "is neither", "region="),
        ("-" * 100000 + "1", "is neither", "region="),
        ("9" * 5000 + "x", "is neither", "region="),
        ("\0", "is neither", "region="),
    ],
)
def test_an_input_that_is_neither_says_the_way_out(text: str, message: str, hint: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        input_value(text, VARIABLES, "region")
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert len(str(caught.value)) < 400


def test_hidden_variables_are_not_suggested_but_can_be_named() -> None:
    assert input_value("_hidden", VARIABLES) == 0
    with pytest.raises(ArgumentError) as caught:
        input_value("_hiden", VARIABLES)
    assert caught.value.suggestion is None
    with pytest.raises(ArgumentError) as caught:
        input_value("cfg.__dikt__", VARIABLES)
    assert caught.value.suggestion is None


def test_what_a_property_raises_passes_through() -> None:
    class Broken:
        @property
        def size(self) -> int:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        variable("broken.size", {"broken": Broken()})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("EU", "EU"),
        ("my-project", "my-project"),
        ("a=b", "a=b"),
        ("", ""),
        ("year", "year"),
        ("3", 3),
        ("'3'", "3"),
        ("[1, 2]", [1, 2]),
        ("None", None),
        ("$year", 2024),
        ("$cfg.deep.zone", "EU"),
        ("'$year'", "$year"),
        ("$5", "$5"),
        ("$1year", "$1year"),
        ("$", "$"),
        ("{[]: 1}", "{[]: 1}"),
    ],
)
def test_a_setting_is_a_literal_or_a_marked_variable_or_text(text: str, value: object) -> None:
    assert config_value(text, VARIABLES) == value


def test_a_marked_variable_must_be_there() -> None:
    with pytest.raises(ArgumentError, match=r"there is no variable yeer\nhint: did you mean year\?; .* '\$yeer'"):
        config_value("$yeer", VARIABLES)


@pytest.mark.parametrize(
    ("pairs", "mapping", "values"),
    [
        ([], "", {}),
        ([("year", None), ("zone", "'x'")], "", {"year": 2024, "zone": "x"}),
        ([("zone", "cfg.deep.zone")], "{'a': 1}", {"a": 1, "zone": "EU"}),
        ([], "{}", {}),
        ([], "dict()", {}),
        ([], "dict(a=1, b=year, c=cfg.year, d=-1, e='x y')", {"a": 1, "b": 2024, "c": 2023, "d": -1, "e": "x y"}),
        ([], """{'a': year, "b": {'c': [1, 2]}}""", {"a": 2024, "b": {"c": [1, 2]}}),
        ([], '''"{'a': 1}"''', {"a": 1}),
        ([], "options", {"year": 1, "zone": "x"}),
        ([], "dict(ä='ö', b='é')", {"ä": "ö", "b": "é"}),
    ],
)
def test_the_inputs_of_a_line(pairs: list[tuple[str, str | None]], mapping: str, values: dict[str, object]) -> None:
    assert input_values(pairs, mapping, VARIABLES) == values


@pytest.mark.parametrize(
    ("pairs", "mapping", "told"),
    [
        (
            [("yaer", None)],
            "",
            "there is no variable yaer\nhint: did you mean year?; give the input its value: yaer=2024",
        ),
        ([("a", "1")], "{'a': 1}", "the input a is given twice"),
        ([], "{'a': 1, 'a': 2}", "--inputs: a is given twice"),
        ([], "{1: 2}", "is not a text"),
        ([], "{**options}", "is not a text"),
        ([], "dict(**options)", "is not a text"),
        ([], "dict({'a': 1})", "is not a dict"),
        ([], "[1, 2]", "is not a dict"),
        ([], "{'a': }", "is not a dict"),
        ([], "year", "year is not a dict with texts as keys"),
        ([], "numbers", "numbers is not a dict with texts as keys"),
        ([], "optins", "there is no variable optins\nhint: did you mean options?"),
        ([], "{'a': US}", "there is no variable US"),
        ([], "{'a': true}", "did you mean True?"),
        ([], "dict(a=f(1))", "f(1) is neither"),
        ([], "{'a b': 1}", "--inputs: 'a b' cannot be the name of an input\nhint: write a name such as a_b"),
        ([], "dashed", "--inputs: 'x-y' cannot be the name of an input\nhint: write a name such as x_y"),
        ([], "{'': 1}", "--inputs: '' cannot be the name of an input"),
    ],
)
def test_inputs_that_cannot_be_read(pairs: list[tuple[str, str | None]], mapping: str, told: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        input_values(pairs, mapping, VARIABLES)
    assert told in str(caught.value)


def test_the_inputs_are_a_copy_of_the_variable() -> None:
    input_values([("other", "1")], "options", VARIABLES)
    assert "other" not in VARIABLES["options"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90", timedelta(seconds=90)),
        ("0", timedelta(0)),
        ("90s", timedelta(seconds=90)),
        ("10m", timedelta(minutes=10)),
        ("1.5h", timedelta(minutes=90)),
        ("2d", timedelta(days=2)),
        ("1h30m", timedelta(minutes=90)),
        ("500ms", timedelta(milliseconds=500)),
        ("1d2h3m4s5ms", timedelta(days=1, hours=2, minutes=3, seconds=4, milliseconds=5)),
        ("'10m'", timedelta(minutes=10)),
    ],
)
def test_a_duration(text: str, value: timedelta) -> None:
    assert duration(text) == value


@pytest.mark.parametrize(
    "text", ["", "x", "-5", "10 m", "30m1h", "1m1m", "1.h", "1e3", "10min", "m", "1:30", "\u0663m"]
)
def test_what_is_no_duration_gets_examples(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"is not a length of time\nhint: write 90s, 10m, 1\.5h"):
        duration(text)


def test_a_duration_has_an_end() -> None:
    with pytest.raises(ArgumentError, match="is too long a time"):
        duration("9999999999d")
    with pytest.raises(ArgumentError, match="is too long a time"):
        duration("9" * 400)


@pytest.mark.parametrize(
    ("text", "outputs"),
    [
        ("path:str", (("path", "str"),)),
        ("x:dict[str,int],y:list[float]", (("x", "dict[str,int]"), ("y", "list[float]"))),
        ("'x: dict[str, int], y: pd.DataFrame'", (("x", "dict[str, int]"), ("y", "pd.DataFrame"))),
        ("int", (("o0", "int"),)),
        ("int,list[str]", (("o0", "int"), ("o1", "list[str]"))),
        ("x:Annotated[int,'a:b,c']", (("x", "Annotated[int,'a:b,c']"),)),
        ("x:int|None", (("x", "int|None"),)),
    ],
)
def test_declared_outputs(text: str, outputs: tuple[tuple[str, str], ...]) -> None:
    assert output_types(text) == outputs


@pytest.mark.parametrize(
    "text",
    [
        *("", ",", "x:", ":int", "x:int,str", "1x:int", "class:int", "x:int,,y:int", "x.y:int", "x:f()"),
        *("x:int},{y:int", "x:[", "*x", "**x", "a:=int", "\0"),
    ],
)
def test_outputs_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ArgumentError, match="is not a list of outputs\nhint: write --returns path:str"):
        output_types(text)


def test_an_output_is_declared_once() -> None:
    with pytest.raises(ArgumentError, match="the output x is declared twice"):
        output_types("x:int,x:str")
