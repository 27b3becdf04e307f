"""Scalars of numpy's and pandas' become Python's own, where that loses nothing."""

from __future__ import annotations

import datetime as dt
import enum
import subprocess
import sys
from typing import Annotated, Any, Optional, Union

import numpy as np
import pandas as pd
import pytest

from flyteagent_nb import scalars

UTC = dt.timezone.utc
NOON = dt.datetime(2024, 2, 29, 12, 30, 1, 234567)


class Word(str):
    pass


class Level(enum.IntEnum):
    LOW = 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(3), 3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.float64(1.5), 1.5),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.datetime64("2024-02-29"), dt.date(2024, 2, 29)),
        (np.datetime64("2024-02-29T12:30:01.234567000"), NOON),
        (np.datetime64("2024-02-29T12:30:01.234567"), NOON),
        (np.timedelta64(1_000, "ns"), dt.timedelta(microseconds=1)),
        (np.timedelta64(2, "h"), dt.timedelta(hours=2)),
        (pd.Timestamp(NOON), NOON),
        (pd.Timestamp(NOON, tz="UTC"), NOON.replace(tzinfo=UTC)),
        (pd.Timedelta(days=-1, microseconds=7), dt.timedelta(days=-1, microseconds=7)),
        (Word("a"), "a"),
        ([np.int64(1), [np.str_("a")]], [1, ["a"]]),
        ({np.str_("a"): np.int64(1)}, {"a": 1}),
    ],
)
def test_a_scalar_becomes_pythons_own(value: Any, expected: Any) -> None:
    made = scalars.plain(value)
    assert made == expected and type(made) is type(expected)
    assert repr(made) == repr(expected)  # what is within


@pytest.mark.parametrize(
    "value",
    [
        np.datetime64("2024-02-29T12:30:01.234567001"),
        np.timedelta64(1, "ns"),
        np.timedelta64(1, "Y"),
        np.longdouble(1),
        pd.Timestamp("2024-02-29T12:30:01.234567001"),
        pd.Timedelta(1),
        pd.NaT,
        np.datetime64("NaT", "s"),
        Level.LOW,
        None,
    ],
)
def test_what_would_lose_something_stays(value: Any) -> None:
    assert scalars.plain(value) is value


@pytest.mark.parametrize(
    ("value", "python_type", "expected"),
    [
        (np.int64(3), int, 3),
        (np.float64(1.5), float, 1.5),
        (np.bool_(False), bool, False),
        (np.str_("a"), str, "a"),
        (pd.Timestamp(NOON), dt.datetime, NOON),
        (np.datetime64("2024-02-29"), dt.datetime, dt.datetime(2024, 2, 29)),
        (np.datetime64("2024-02-29"), dt.date, dt.date(2024, 2, 29)),
        (pd.Timedelta(hours=1), dt.timedelta, dt.timedelta(hours=1)),
        (np.int64(3), Annotated[int, "a note"], 3),
        (np.int64(3), Optional[int], 3),  # noqa: UP045
        (np.float64(3), Union[int, float], 3.0),  # noqa: UP007
        ([np.int64(3), 4], list[int], [3, 4]),
        ([np.int64(3)], list[int] | None, [3]),
        ({"a": [np.float64(3)]}, dict[str, list[float]], {"a": [3.0]}),
        ({"a": [np.float64(3)]}, dict, {"a": [3.0]}),
    ],
)
def test_a_declared_type_has_its_value(value: Any, python_type: Any, expected: Any) -> None:
    made = scalars.for_type(value, python_type)
    assert made == expected and type(made) is type(expected) and repr(made) == repr(expected)


@pytest.mark.parametrize(
    ("value", "python_type"),
    [
        (np.int64(3), float),  # as an int is none
        (np.float64(3), int),
        (np.int64(3), np.int64),
        (np.int64(3), Any),
        (Word("a"), str),
        (3, float),
        (pd.NaT, dt.datetime),
        (pd.DataFrame({"a": [1]}), pd.DataFrame),
        (np.array([1]), np.ndarray),
    ],
)
def test_what_the_type_refuses_or_takes_as_it_is_stays(value: Any, python_type: Any) -> None:
    assert scalars.for_type(value, python_type) is value


def test_missing() -> None:
    missing = [None, pd.NA, pd.NaT, np.datetime64("NaT", "s"), np.timedelta64("NaT", "s")]
    assert all(map(scalars.is_missing, missing))
    assert not any(map(scalars.is_missing, [0, "", float("nan"), np.float64("nan"), np.int64(0)]))


def test_the_libraries_are_not_imported() -> None:
    code = (
        "import sys; from flyteagent_nb.scalars import for_type, plain; plain([1, {'a': 'b'}]); for_type(1.5, float); "
        "sys.exit(bool({'numpy', 'pandas'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=100, check=False).returncode == 0
