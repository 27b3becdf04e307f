"""Types that a person writes in a line, and types of values."""

from __future__ import annotations

import datetime
import enum
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from flytekit.types.structured import StructuredDataset

from flyteagent_nb.errors import ArgumentError, InputError
from flyteagent_nb.notebook.annotations import dataframe_type, type_of_text, type_of_value, typed_value


@dataclass
class Mine:
    a: int


class Colour(enum.Enum):
    RED = "red"


NAMESPACE = {
    "Mine": Mine, "word": "a text", "ByteString": bytes, "table": {},
    "pl": SimpleNamespace(DataFrame=Mine), "List": "mine", "np": np, "table_library": polars,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("int", int),
        (" str ", str),
        ("list[float]", list[float]),
        ("dict[str, list[int]]", dict[str, list[int]]),
        ("Mine", Mine),
        ("list[Mine]", list[Mine]),
        ("pl.DataFrame", Mine),
        ("DataFrame", pd.DataFrame),
        ("FlyteFile", FlyteFile),
        ("FlyteDirectory", FlyteDirectory),
        ("StructuredDataset", StructuredDataset),
        ("Optional[int]", int | None),
        ("int | None", int | None),
        ("int | str", int | str),
        ("Union[int, str, None]", int | str | None),
        ("datetime", datetime.datetime),
        ("timedelta", datetime.timedelta),
        ("Any", Any),
        ("None", type(None)),
        ("datetime.datetime", datetime.datetime),
        ("datetime.timedelta", datetime.timedelta),
        ("pa.Table", pa.Table),
        ("pyarrow.Table", pa.Table),
        ("polars.DataFrame", polars.DataFrame),
        ("polars.LazyFrame", polars.LazyFrame),
        ("pandas.DataFrame", pd.DataFrame),
        ("pd.DataFrame", pd.DataFrame),
        ("dict[str, pa.Table]", dict[str, pa.Table]),
        ("arrow", pa.Table),
        ("polars", polars.DataFrame),
        ("pandas", pd.DataFrame),
        ("table_library", polars.DataFrame),
        ("table_library.Series", polars.Series),
        ("list[arrow]", list[pa.Table]),
        ("list", list),
    ],
)
def test_a_type_is_what_its_name_says(text: str, expected: Any) -> None:
    assert type_of_text(text, NAMESPACE) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("strr", "no type is called 'strr'\nhint: did you mean str?"),
        ("list[strr]", "no type is called 'strr' (in list[strr])"),
        ("mine", "did you mean Mine?"),
        ("Datafrane", "did you mean DataFrame?"),
        ("pl.Datafram", "pl has no Datafram"),
        ("pa.Tabel", "pa has no Tabel"),
        ("np", "'np' is not a type but a module\nhint: name a class of it: np.ClassName"),
        ("int[str]", "'int[str]' is not a type"),
        ("word", "'word' is not a type but a str"),
        ("print", "'print' is not a type but a builtin_function_or_method"),
        ("table[int]", "'table[int]' is not a type"),
        ("list[word]", "'word' is not a type but a str"),
        ("int | word", "'word' is not a type but a str"),
        ("list[np]", "'np' is not a type but a module"),
        ("Foo", "no type is called 'Foo'\nhint: write NAME:TYPE, "),
        ("df", "or a class of yours; of SQL pandas, arrow or polars"),
        ("string", "no type is called 'string'\nhint: did you mean str?"),
        ("list[INTEGER]", "no type is called 'INTEGER' (in list[INTEGER])\nhint: did you mean int?"),
        ("f()", "is not a type"),
        ("__import__('os').system('x')", "is not a type"),
        ("[int]", "is not a type"),
        ("1", "is not a type"),
        ("", "is not a type"),
        ("list[", "is not a type"),
    ],
)
def test_what_is_no_type_is_told(text: str, told: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        type_of_text(text, NAMESPACE)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, int),
        (True, bool),
        (1.5, float),
        ("x", str),
        (np.float64(1.5), float),
        (Colour.RED, Colour),
        ([1, 2], list[int]),
        ([1, 2.5], list[float]),
        ([[1], [2]], list[list[int]]),
        ([True, False], list[bool]),
        ({"a": 1}, dict[str, int]),
        ({"a": 1, "b": "x"}, dict),
        ({1: 2}, dict),
        ({}, dict),
        (datetime.datetime(2024, 1, 1), datetime.datetime),
        (pd.Timestamp("2024-01-01"), datetime.datetime),
        (datetime.date(2024, 1, 1), datetime.date),
        (datetime.timedelta(1), datetime.timedelta),
        (pd.Timedelta("1s"), datetime.timedelta),
        (pd.DataFrame({"a": [1]}), pd.DataFrame),
        (Mine(1), Mine),
        ([Mine(1)], list[Mine]),
    ],
)
def test_a_value_has_the_type_that_flytekit_knows(value: Any, expected: Any) -> None:
    assert type_of_value(value, "x") == expected


@pytest.mark.parametrize(
    ("value", "expected", "python_type"),
    [
        (np.float64(50), 50.0, float),
        (np.int64(3), 3, int),
        (np.bool_(True), True, bool),
        (np.str_("a"), "a", str),
        (pd.Timestamp("2024-01-01"), datetime.datetime(2024, 1, 1), datetime.datetime),
        ([np.float64(1.5), 2.5], [1.5, 2.5], list[float]),
        ([np.int64(1)], [1], list[int]),
        ({"a": np.int64(1)}, {"a": 1}, dict[str, int]),
        ({"a": np.int64(1), "b": "x"}, {"a": 1, "b": "x"}, dict),
        ([1, 2.5], [1.0, 2.5], list[float]),
        ({"a": 1, "b": 2.5}, {"a": 1.0, "b": 2.5}, dict[str, float]),
    ],
)
def test_a_value_that_nothing_declares_is_of_the_type_that_it_is_given(
    value: Any, expected: Any, python_type: Any
) -> None:
    made, found = typed_value(value, "x")
    assert found == python_type
    assert repr(made) == repr(expected) and type(made) is type(expected)
    literal_type = TypeEngine.to_literal_type(found)
    assert TypeEngine.to_literal(FlyteContextManager.current_context(), made, found, literal_type)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "from None"),
        ([], "it is empty"),
        ([1, "a"], "its elements are int, str"),
        ([None], "from None"),
        ((1, 2), "from a tuple\nhint: make it a list"),
        ([(1, 2)], "from a tuple\nhint: make it a list"),
        (pd.NaT, "from NaT"),
        (pd.NA, "from <NA>"),
        (np.datetime64("NaT", "s"), "from NaT"),
        (pd.Timestamp("2024-01-01T00:00:00.000000001"), "round it first"),
        ([np.datetime64("2024-01-01T00:00:00.000000001")], "round it first"),
    ],
)
def test_a_value_of_no_certain_type_is_told_by_its_name(value: Any, told: str) -> None:
    with pytest.raises(InputError) as caught:
        type_of_value(value, "rows")
    assert told in str(caught.value) and "'rows'" in str(caught.value)
    assert caught.value.name == "rows"


def test_a_table_is_a_dataframe_where_pandas_is_there() -> None:
    assert dataframe_type() is pd.DataFrame


@pytest.mark.parametrize("text", ["pl.DataFrame", "polars"])
def test_a_library_that_is_not_installed_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ArgumentError) as caught:
        type_of_text(text, {})
    assert str(caught.value) == "polars is not installed\nhint: %pip install polars"


def test_a_variable_of_the_user_goes_before_a_library() -> None:
    assert type_of_text("arrow", {"arrow": Mine}) is Mine
