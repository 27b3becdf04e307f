"""Numbers, texts, truth values and times out of numpy and pandas as Python's own, which is all that flytekit takes. Nothing is lost.

The libraries are not imported: who has a value of theirs has imported them.
"""

from __future__ import annotations

import datetime
import enum
import operator
import sys
import types
import typing
from typing import Any

_KINDS = (bool, int, float, str, datetime.datetime, datetime.date, datetime.timedelta)
_UNIONS = (typing.Union, types.UnionType)


def plain(value: Any) -> Any:
    """A number, text or time of a class of numpy's, pandas' or the user's as Python's own; those in lists and dicts too.

    What would lose something by it (nanoseconds) stays as it is, as does any other value.
    """
    if type(value) is list:
        return _changed(value, [plain(each) for each in value])
    if type(value) is dict:
        return _changed(value, {plain(key): plain(each) for key, each in value.items()})
    if type(value) in _KINDS or isinstance(value, enum.Enum) or is_missing(value):
        return value
    if isinstance(value, numpy_scalars()):
        return _of_numpy(value)
    if is_finer(value):
        return value
    if isinstance(value, datetime.datetime):
        return datetime.datetime.combine(value.date(), value.timetz())
    if isinstance(value, datetime.timedelta):
        return datetime.timedelta(value.days, value.seconds, value.microseconds)
    if isinstance(value, datetime.date):
        return datetime.date(value.year, value.month, value.day)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    return int.__int__(value) if isinstance(value, int) else value


def for_type(value: Any, python_type: Any) -> Any:
    """A value for an input of a declared type: numpy's and pandas' own as Python's where the type is one of Python's own.

    What flytekit refuses of Python's own values (an int for a float, another class of the user's) stays as it is.
    """
    kind, inner = typing.get_origin(python_type) or python_type, typing.get_args(python_type)
    if kind is typing.Annotated:
        return for_type(value, inner[0])
    if kind in _UNIONS:
        tried = (for_type(value, each) for each in inner)
        return next((made for made in tried if made is not value), value)
    if kind is list and inner and type(value) is list:
        return _changed(value, [for_type(each, inner[0]) for each in value])
    if kind is dict and inner and type(value) is dict:
        return _changed(value, {plain(key): for_type(each, inner[1]) for key, each in value.items()})
    if kind is dict and type(value) is dict:
        return plain(value)
    if kind not in _KINDS or not of_library(value):
        return value
    made = plain(value)
    if kind is datetime.datetime and type(made) is datetime.date:  # a datetime64 that counts days
        made = datetime.datetime.combine(made, datetime.time())
    return made if type(made) is kind else value


def of_library(value: Any) -> bool:
    """Whether a value is of a class of numpy's or pandas'."""
    return type(value).__module__.partition(".")[0] in ("numpy", "pandas")


def is_missing(value: Any) -> bool:
    """Whether it is None, or numpy's or pandas' word for it; NaN is a number."""
    if isinstance(value, numpy_scalars()):
        return bool(value.dtype.kind in "mM" and value.item() is None)
    return value is None or type(value).__name__ in ("NAType", "NaTType", "MaskedConstant")


def is_finer(value: Any) -> bool:
    """Whether it is a number or time of numpy's or pandas' that Python's own would cut."""
    if isinstance(value, numpy_scalars()):
        return isinstance(_of_numpy(value), numpy_scalars())
    if isinstance(value, datetime.datetime):
        return bool(getattr(value, "nanosecond", 0))
    return isinstance(value, datetime.timedelta) and bool(getattr(value, "nanoseconds", 0))


def numpy_scalars() -> Any:
    """The class of all of numpy's scalars; nothing where numpy is not imported."""
    return getattr(sys.modules.get("numpy"), "generic", ())


def _changed(value: Any, made: Any) -> Any:
    """What was made of a list or dict, or that itself where all in it stayed: a form knows a variable's value again."""
    same = all(map(operator.is_, value, made))
    if same and isinstance(value, dict):
        same = all(map(operator.is_, value.values(), made.values()))
    return value if same else made


def _of_numpy(value: Any) -> Any:
    made = value.item()
    if value.dtype.kind not in "mM":
        return value if isinstance(made, numpy_scalars()) else made  # a longdouble has no other
    if value.dtype.name.endswith("[ns]"):  # more than Python counts
        whole = value.astype(value.dtype.name.replace("[ns]", "[us]"))
        made = whole.item() if whole == value else made
    return value if type(made) is int else made
