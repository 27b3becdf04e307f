"""Types of inputs -> fields, and what is typed into them -> values; there and back for every kind of type."""

# ruff: noqa: UP007, UP045 - the older spelling of a union is a type of its own

from __future__ import annotations

import collections
import enum
import json
import math
import os
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, Union

import pandas
import pyarrow
import pytest
from flytekit.core.docstring import Docstring
from flytekit.core.interface import Interface
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from flytekit.types.structured import StructuredDataset

from flyteagent_nb.notebook.field_texts import duration_text, read
from flyteagent_nb.notebook.field_types import FieldKind, example_of, kind_of, type_name
from flyteagent_nb.notebook.fields import Field, all_fields, fields_of, fitting, values_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UTC = timezone.utc


class Colour(enum.Enum):
    RED = "red"
    BLUE = "#00f"


class Size(str, enum.Enum):
    SMALL = "s"


@dataclass
class Queue:
    name: str
    spot: bool = True


@dataclass
class Resources:
    cpus: int
    memory: str = "4Gi"
    queue: Queue = field(default_factory=lambda: Queue("default"))
    tags: Optional[list[str]] = None
    made: int = field(default=0, init=False)


@dataclass
class Node:
    value: int
    next: Optional[Node] = None


@dataclass
class Even:
    number: int = 2

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError(f"{self.number} is odd")


class Model:
    """Any class, whose instances no text tells."""


def one(python_type: Any, default: Any = None, **given: Any) -> Field:
    """The field of one input."""
    (only,) = fields_of(Interface({"x": (python_type, default)}), given)
    return only


def value(python_type: Any, text: str | bool, namespace: dict[str, Any] | None = None, default: Any = None) -> Any:
    values, errors = values_of([one(python_type, default)], {"x": text}, namespace or {})
    assert not errors
    return values["x"]


def error(python_type: Any, text: str | bool, namespace: dict[str, Any] | None = None) -> str:
    values, errors = values_of([one(python_type)], {"x": text}, namespace or {})
    assert not values
    return errors["x"]


@pytest.mark.parametrize(
    ("python_type", "kind", "text", "expected"),
    [
        (int, FieldKind.WHOLE, "3", 3),
        (int, FieldKind.WHOLE, str(-(2**63)), -(2**63)),
        (float, FieldKind.NUMBER, "0.1", 0.1),
        (float, FieldKind.NUMBER, "1e-30", 1e-30),
        (float, FieldKind.NUMBER, "inf", math.inf),
        (str, FieldKind.TEXT, ' it\'s\n"<b>" ', ' it\'s\n"<b>" '),
        (str, FieldKind.TEXT, '""', ""),
        (str, FieldKind.TEXT, "None", "None"),
        (bool, FieldKind.TICK, True, True),
        (bool, FieldKind.TICK, False, False),
        (Optional[bool], FieldKind.CHOICE, "False", False),
        (Colour, FieldKind.CHOICE, "BLUE", Colour.BLUE),
        (Size, FieldKind.CHOICE, "SMALL", Size.SMALL),
        (Literal["a", "b"], FieldKind.CHOICE, "b", "b"),
        (Literal[1, 2], FieldKind.CHOICE, "2", 2),
        (Literal["1", 1, ""], FieldKind.CHOICE, "'1'", "1"),
        (Literal["1", 1, ""], FieldKind.CHOICE, "''", ""),
        (datetime, FieldKind.DATETIME, "2024-02-29T12:30:05", datetime(2024, 2, 29, 12, 30, 5, tzinfo=UTC)),
        (datetime, FieldKind.DATETIME, "2024-02-29T12:30:05.250", datetime(2024, 2, 29, 12, 30, 5, 250_000, UTC)),
        (date, FieldKind.DATE, "2024-02-29", date(2024, 2, 29)),
        (timedelta, FieldKind.DURATION, "1h30m", timedelta(minutes=90)),
        (timedelta, FieldKind.DURATION, "-2d", timedelta(days=-2)),
        (timedelta, FieldKind.DURATION, "1d2h3m4s5.006ms", timedelta(1, 4, 6, 5, 3, 2)),
        (timedelta, FieldKind.DURATION, "0s", timedelta()),
        (list[int], FieldKind.LIST, "[1, 2]", [1, 2]),
        (list, FieldKind.LIST, '[1, "a", null]', [1, "a", None]),
        (list[list[float]], FieldKind.LIST, "[[0.5], []]", [[0.5], []]),
        (list[Optional[date]], FieldKind.LIST, '["2024-02-29", null]', [date(2024, 2, 29), None]),
        (list[timedelta], FieldKind.LIST, '["90m"]', [timedelta(minutes=90)]),
        (list[Colour], FieldKind.LIST, '["RED"]', [Colour.RED]),
        (list[Union[int, str]], FieldKind.LIST, '[1, "1"]', [1, "1"]),
        (list[Queue], FieldKind.LIST, '[{"name": "a"}]', [Queue("a")]),
        (dict, FieldKind.MAPPING, '{"a": [1]}', {"a": [1]}),
        (dict[str, float], FieldKind.MAPPING, '{"ü": 0.5}', {"ü": 0.5}),
        (dict[int, str], FieldKind.MAPPING, '{"1": "a"}', {1: "a"}),
        (dict[str, dict[str, bool]], FieldKind.MAPPING, '{"a": {"b": true}}', {"a": {"b": True}}),
        (Union[int, str], FieldKind.LITERAL, "3", 3),
        (Union[int, str], FieldKind.LITERAL, "'3'", "3"),
        (Union[int, list[int]], FieldKind.LITERAL, "[3]", [3]),
        (Union[float, str], FieldKind.LITERAL, "3", 3.0),
        (Union[float, int], FieldKind.LITERAL, "3", 3),
        (Any, FieldKind.LITERAL, "{'a': (1, 2)}", {"a": (1, 2)}),
        (Annotated[int, "units"], FieldKind.WHOLE, "3", 3),
        (Annotated[Optional[Annotated[float, "m"]], "x"], FieldKind.NUMBER, "3", 3.0),
        (Optional[int], FieldKind.WHOLE, "3", 3),
        (int | None, FieldKind.WHOLE, "3", 3),
        (int | str | None, FieldKind.LITERAL, "'3'", "3"),
        (Optional[str], FieldKind.TEXT, '""', ""),
        (Optional[list[int]], FieldKind.LIST, "[]", []),
        (Optional[Union[int, str]], FieldKind.LITERAL, "'US'", "US"),
    ],
)
def test_a_text_is_a_value_and_the_value_that_text_or_one_like_it(
    python_type: Any, kind: FieldKind, text: str | bool, expected: Any
) -> None:
    read = value(python_type, text)
    assert one(python_type).kind is kind
    assert (read, type(read)) == (expected, type(expected))
    filled = one(python_type, x=expected)
    again, errors = values_of([filled], {"x": filled.text}, {})
    assert not errors
    assert (again["x"], type(again["x"])) == (expected, type(expected))


@pytest.mark.parametrize(
    ("python_type", "given", "text"),
    [
        (float, 3, "3"),
        (datetime, datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), "2024-01-01T00:00:00"),
        (timedelta, timedelta(hours=36), "1d12h"),
        (Colour, Colour.BLUE, "BLUE"),
        (Optional[str], "", '""'),
        (str, "", '""'),
        (list[int], list(range(20)), json.dumps(list(range(20)), indent=2)),
        (FlyteFile, FlyteFile("s3://b/k"), "s3://b/k"),
        (FlyteFile, "a.csv", "a.csv"),
        (StructuredDataset, StructuredDataset(uri="s3://b/t"), "s3://b/t"),
        (Node, Node(1), True),
        (int, "fast", "fast"),
    ],
)
def test_what_a_field_is_filled_with(python_type: Any, given: Any, text: str | bool) -> None:
    assert one(python_type, x=given).text == text


@pytest.mark.parametrize(
    ("python_type", "text", "words"),
    [
        (int, "3.5", "not a whole number: 3.5; such as 3"),
        (int, "fast", "not a whole number: fast; such as 3"),
        (int, str(2**63), "too large: 9223372036854775808; Flyte's whole numbers have 64 bits"),
        (int, " ", "a value is needed, such as 3"),
        (float, "fast", "not a number: fast; such as 0.5"),
        (str, "", 'a text is needed; "" is an empty one'),
        (Colour, "", "choose one: RED, BLUE (#00f)"),
        (Colour, "red", "not one of the choices: red; RED, BLUE"),
        (Literal["a", "b"], "c", "not one of the choices: c; a, b"),
        (datetime, "noon", "not a date with a time: noon; such as 2024-01-31T12:00:00"),
        (datetime, "0001-01-01T00:00:00+14:00", "not a date with a time: 0001-01-01T00:00:00+14:00; such as 2024-01-31T12:00:00"),
        (date, "2023-02-29", "not a date: 2023-02-29; such as 2024-01-31"),
        (timedelta, "long", "not a length of time: long; such as 90s, 10m, 2d or 1h30m"),
        (timedelta, "9999999999d", "9999999999d is too long a time; days at most 999999999d"),
        (list[int], "[1 2]", "not JSON: line 1 column 4: expecting ',' delimiter"),
        (list[int], "\n[1,\n ?]", "not JSON: line 3 column 2: expecting value"),
        (list[int], "[" * 100_000, "not JSON: it is nested too deep"),
        (list[int], '{"a": 1}', 'not a list[int]: {"a": 1}; such as [1, 2]'),
        (list[int], "[1, 2.5]", "[1]: not an int: 2.5; such as 3"),
        (list[int], "[true]", "[0]: not an int: true; such as 3"),
        (list[int], "[9223372036854775808]", "too large: 9223372036854775808; Flyte's whole numbers have 64 bits"),
        (list[float], '["fast"]', '[0]: not a float: "fast"; such as 0.5'),
        (list[str], "[1]", "[0]: not a str: 1; such as a text"),
        (list[date], '["soon"]', "[0]: not a date: soon; such as 2024-01-31"),
        (list[Colour], '["GREEN"]', '[0]: not a Colour: "GREEN"; such as RED, BLUE'),
        (list[Queue], '[{"nam": "a"}]', "[0]: Queue has no member 'nam'; did you mean name?"),
        (list[Queue], "[{}]", "[0]: Queue needs 'name'"),
        (list[Queue], '[{"name": 1}]', "[0].name: not a str: 1; such as a text"),
        (dict[str, int], "[1]", 'not a dict[str, int]: [1]; such as {"key": 1}'),
        (dict[str, int], '{"a": "b"}', "['a']: not an int: \"b\"; such as 3"),
        (dict[int, int], '{"a": 1}', "not a whole number: a; such as 3"),
        (Union[int, list[str]], "'US'", 'not an int | list[str]: "US"'),
        (Union[int, str], "US", "neither a literal nor a variable: US; a text stands in quotes: 'US'"),
        (Union[int, str], "1 +", "neither a literal nor a variable: 1 +; a text stands in quotes: '1 +'"),
        (Union[int, str], "len([])", "neither a literal nor a variable: len([]); a text stands in quotes: 'len([])'"),
        (Union[int, str], "d", "neither a literal nor a variable: d; did you mean df? a text stands in quotes: 'd'"),
        (pandas.DataFrame, "dff", "no path and no variable is called 'dff'; did you mean df?"),
        (pandas.DataFrame, "nothing_like_it", "no path and no variable is called 'nothing_like_it'; run the cell that defines it first"),
        (pandas.DataFrame, "numbers", "numbers is a list, not a DataFrame"),
        (pandas.DataFrame, "", "needed: a variable's name, or a path"),
        (FlyteFile, "no/such.csv", "no such path: no/such.csv; a path, a URI such as s3://..., or a variable's name"),
        (FlyteFile["csv"], "numbers", "numbers is a list, not a FlyteFile[csv]"),
        (Model, "modle", "no variable is called 'modle'; did you mean model?"),
        (Model, "model.", "not a variable's name: model.; put the value into a variable first"),
        (Model, "model.wieght", "model has no attribute wieght; did you mean model.weight?"),
        (Model, "numbers", "numbers is a list, not a Model"),
        (Model, "model.broken", "RuntimeError: of the user's"),
        (list[int], "nubmers", "not JSON, and no variable is called 'nubmers'; did you mean numbers?"),
    ],
)  # fmt: skip
def test_a_wrong_text_is_told_in_words(python_type: Any, text: str, words: str) -> None:
    class Broken(Model):
        weight = 1

        @property
        def broken(self) -> int:
            raise RuntimeError("of the user's")

    namespace = {"df": pandas.DataFrame(), "numbers": [1, 2], "model": Broken()}
    assert error(python_type, text, namespace) == words


# --- data and variables ---


@pytest.mark.parametrize(
    ("python_type", "name"),
    [
        (pandas.DataFrame, "df"),
        (pandas.DataFrame, "table"),
        (pandas.DataFrame, "box.df"),
        (Annotated[pandas.DataFrame, "columns"], "df"),
        (Optional[pyarrow.Table], "df"),
        (StructuredDataset, "dataset"),
        (FlyteFile, "file"),
        (FlyteFile, "name"),
        (FlyteDirectory, "path"),
        (Model, "model"),
        (list[Model], "models"),
        (set, "numbers"),
        (collections.abc.Callable, "call"),
        (Union[int, Model], "model"),
        (Union[None, int, str], "name"),
        (list[int], "whole"),
    ],
)
def test_the_name_of_a_variable_is_its_value(python_type: Any, name: str, tmp_path: Path) -> None:
    class Box:
        df = pandas.DataFrame()

    namespace = {
        "df": pandas.DataFrame({"a": [1]}),
        "table": pyarrow.table({"a": [1]}),
        "dataset": StructuredDataset(uri="s3://b/t"),
        "file": FlyteFile("s3://b/k"),
        "name": "a text",
        "path": tmp_path,
        "model": Model(),
        "models": [Model()],
        "numbers": {1},
        "whole": [1, 2],
        "call": len,
        "box": Box,
    }
    wanted = Box.df if name == "box.df" else namespace[name]
    read = value(python_type, name, namespace)
    assert read == wanted if python_type == list[int] else read is wanted


@pytest.mark.parametrize(
    ("python_type", "made", "path"),
    [
        (FlyteFile, FlyteFile, "path"),
        (FlyteFile["csv"], FlyteFile, "path"),
        (os.PathLike, FlyteFile, "path"),
        (FlyteDirectory, FlyteDirectory, "path"),
        (pandas.DataFrame, StructuredDataset, "uri"),
        (StructuredDataset, StructuredDataset, "uri"),
    ],
)
def test_data_may_be_a_path_or_a_uri_where_no_variable_has_the_name(
    python_type: Any, made: type, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data.csv", "plain"):
        (tmp_path / name).write_text("a\n1\n")
        read = value(python_type, name)
        assert isinstance(read, made)
        assert getattr(read, path) == name
    assert getattr(value(python_type, "s3://bucket/key"), path) == "s3://bucket/key"
    assert getattr(value(python_type, "data.csv", {"data": 1}), path) == "data.csv"  # 1 has no attribute csv
    assert error(python_type, "plain", {"plain": 1}).startswith("plain is an int, not ")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert getattr(value(python_type, "~/plain"), path) == str(tmp_path / "plain")


def test_a_value_that_no_text_tells_is_told_by_its_variable_or_kept() -> None:
    frame, other = pandas.DataFrame(), pandas.DataFrame()
    long = list(range(1000))
    interface = Interface({"a": pandas.DataFrame, "b": pandas.DataFrame, "c": list[int], "d": Model})
    model = Model()
    fields = fields_of(interface, {"a": frame, "b": other, "c": long, "d": model}, {"_": other, "df": frame, "c": long})
    assert [f.text for f in fields] == ["df", "(DataFrame as given)", "c", "(Model as given)"]
    newer = pandas.DataFrame()
    values, errors = values_of(fields, {}, {"df": newer, "c": [1]})
    assert not errors
    assert values["a"] is newer  # a name means what it means when Run is pressed
    assert values["b"] is other
    assert values["c"] == [1]
    assert values["d"] is model


@pytest.mark.parametrize(
    "given",
    [datetime(2024, 1, 1, 0, 0, 0, 123456, UTC), datetime(2024, 1, 1)],
    ids=["microseconds", "no zone"],
)
def test_what_a_text_cannot_tell_to_the_end_is_kept_as_long_as_nothing_else_is_typed(given: datetime) -> None:
    field = one(datetime, x=given)
    assert values_of([field], {"x": field.text}, {})[0]["x"] is given
    assert values_of([field], {"x": "2024-01-01T00:00:01"}, {})[0]["x"] == datetime(2024, 1, 1, 0, 0, 1, tzinfo=UTC)


def test_variables_that_fit_are_offered() -> None:
    namespace = {
        "a": pandas.DataFrame(),
        "_b": pandas.DataFrame(),
        "c": pyarrow.table({}),
        "d": 1,
        "e": Model(),
        "f": Model,
    }
    assert fitting(one(pandas.DataFrame), namespace) == ["c", "a"]
    assert fitting(one(Optional[Model]), namespace) == ["e"]
    assert fitting(one(FlyteFile), {"text": "a", "file": FlyteFile("s3://b/k")}) == ["file"]
    assert fitting(one(int), namespace) == []
    assert fitting(one(Union[int, Model]), namespace) == []


# --- empty fields ---


@pytest.mark.parametrize(
    ("python_type", "default", "required", "expected"),
    [
        (int, None, True, "error"),
        (int, 5, False, "left out"),
        (str, "a", False, ""),
        (list[int], [1], False, "left out"),
        (pandas.DataFrame, None, True, "error"),
        (Optional[int], None, False, None),
        (Optional[int], 5, False, None),
        (Optional[str], None, False, None),
        (Optional[str], "a", False, None),
        (Optional[Literal["a"]], None, False, None),
        (Literal["a", None], None, False, None),
        (Optional[pandas.DataFrame], None, False, None),
        (Union[int, str, None], None, False, None),
    ],
)
def test_what_an_empty_field_means(python_type: Any, default: Any, required: bool, expected: Any) -> None:
    field = one(python_type, default)
    values, errors = values_of([field], {"x": ""}, {})
    assert field.required is required
    assert (list(errors), values.get("x", "left out")) == (
        (["x"], "left out") if expected == "error" else ([], expected)
    )


@pytest.mark.parametrize(("python_type", "text"), [(Optional[int], "None"), (Optional[list[int]], " None ")])
def test_none_may_be_written(python_type: Any, text: str) -> None:
    assert value(python_type, text) is None


def test_defaults_are_filled_in_and_shown_when_they_are_taken_out() -> None:
    field = one(float, 0.01)
    assert (field.text, field.when_empty, field.required) == ("0.01", "0.01", False)
    assert one(float, 0.01, x=0.5).text == "0.5"
    assert one(bool, True).text is True
    assert one(Optional[int], 5).when_empty == "None"
    assert one(timedelta).when_empty == "1h30m"


def test_what_the_page_leaves_out_is_as_it_was_filled() -> None:
    assert values_of([one(int, 5)], {}, {}) == ({"x": 5}, {})


# --- groups ---


def names(fields: list[Field]) -> list[str]:
    return [field.name for field in all_fields(fields)]


def test_a_dataclass_is_a_group_of_its_members() -> None:
    field = one(Resources)
    assert field.kind is FieldKind.GROUP
    assert names([field]) == ["x", "x.cpus", "x.memory", "x.queue", "x.queue.name", "x.queue.spot", "x.tags"]
    texts: dict[str, str | bool] = {"x.cpus": "4", "x.queue.name": "gpu", "x.queue.spot": False, "x.memory": ""}
    values, errors = values_of([field], texts, {})
    assert not errors
    assert values == {"x": Resources(4, "", Queue("gpu", False))}
    filled = one(Resources, x=values["x"])
    assert values_of([filled], {}, {})[0] == values


def test_the_error_of_a_member_stands_at_the_member() -> None:
    _, errors = values_of([one(Resources)], {"x.queue.name": "", "x.tags": "[1]"}, {})
    assert errors == {
        "x.cpus": "a value is needed, such as 3",
        "x.queue.name": 'a text is needed; "" is an empty one',
        "x.tags": "[0]: not a str: 1; such as a text",
    }


def test_what_a_class_itself_refuses_stands_at_its_group() -> None:
    assert values_of([one(Even)], {"x.number": "3"}, {}) == ({}, {"x": "ValueError: 3 is odd"})


def test_an_optional_group_is_none_unless_it_is_ticked() -> None:
    field = one(Optional[Even])
    assert field.text is False
    assert values_of([field], {"x": False, "x.number": "2"}, {}) == ({"x": None}, {})
    assert values_of([field], {"x": True, "x.number": "4"}, {}) == ({"x": Even(4)}, {})
    assert values_of([field], {"x": False, "x.number": "4"}, {}) == (
        {},
        {"x": "not ticked, but something is typed below: tick x, or it is None"},
    )
    assert one(Optional[Even], Even(6)).text is True


def test_a_class_that_holds_itself_is_json_inside() -> None:
    field = one(Node)
    assert [(f.name, f.kind) for f in all_fields([field])] == [
        ("x", FieldKind.GROUP),
        ("x.value", FieldKind.WHOLE),
        ("x.next", FieldKind.MAPPING),
    ]
    texts: dict[str, str | bool] = {"x.value": "1", "x.next": '{"value": 2, "next": {"value": 3}}'}
    assert values_of([field], texts, {}) == ({"x": Node(1, Node(2, Node(3)))}, {})


def test_a_pydantic_model_is_a_group_too() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Limits(pydantic.BaseModel):  # type: ignore[misc, name-defined, unused-ignore]
        rows: int = pydantic.Field(gt=0, description="at most")
        until: Optional[date] = pydantic.Field(None, alias="to")
        tags: list[str] = pydantic.Field(default_factory=list)

    Limits.model_rebuild(_types_namespace={"Optional": Optional, "date": date})
    field = one(Limits)
    assert names([field]) == ["x", "x.rows", "x.until", "x.tags"]
    assert field.members[0].description == "at most"
    made, errors = values_of([field], {"x.rows": "5", "x.until": "2024-02-29"}, {})
    assert not errors
    assert made["x"] == Limits(rows=5, to=date(2024, 2, 29))
    assert values_of([one(Limits, x=made["x"])], {}, {})[0] == made
    assert values_of([field], {"x.rows": "0"}, {})[1] == {"x.rows": "Input should be greater than 0"}
    assert value(list[Limits], '[{"rows": 1, "until": "2024-02-29"}]') == [Limits(rows=1, to=date(2024, 2, 29))]


# --- words ---


@pytest.mark.parametrize(
    ("python_type", "name"),
    [
        (int, "int"),
        (Optional[int], "int | None"),
        (list[dict[str, float]], "list[dict[str, float]]"),
        (Union[int, str, None], "int | str | None"),
        (Annotated[pandas.DataFrame, "x"], "DataFrame"),
        (FlyteFile["csv"], "FlyteFile[csv]"),
        (FlyteFile, "FlyteFile"),
        (Literal["a"], "Literal"),
        (Any, "Any"),
    ],
)
def test_types_are_named_as_people_write_them(python_type: Any, name: str) -> None:
    assert type_name(python_type) == name


def test_descriptions_come_from_the_docstring() -> None:
    docstring = Docstring(docstring="Train.\n\nArgs:\n    a: the first\n        of two\n")
    first, second = fields_of(Interface({"a": int, "b": int}, docstring=docstring))
    assert (first.description, second.description) == ("the first of two", "")


@pytest.mark.parametrize(
    "made",
    [lambda: timedelta(microseconds=1), lambda: timedelta(days=-1, seconds=1), lambda: timedelta(days=400, hours=1)],
)
def test_a_duration_is_written_as_it_is_read(made: Callable[[], timedelta]) -> None:
    assert value(timedelta, duration_text(made())) == made()


@pytest.mark.parametrize(
    "python_type",
    [list[int], list[float], list[str], list[bool], list[date], list[datetime], list[timedelta],
     list[Colour], list[Size], dict[str, int], dict[str, Colour], list, dict],
)  # fmt: skip
def test_the_example_that_an_empty_field_shows_can_be_read(python_type: Any) -> None:
    kind = kind_of(python_type)
    text = example_of(kind, python_type)

    assert read(kind, python_type, text, {})
