"""Python types as plain data, so that outputs can be read in a kernel that does not have the task any more.

A class is ``{"is": "module:qualname"}``, a generic one has ``"of"`` with its arguments, a union is ``{"union": [...]}``. A table that is
wanted as a frame which flytekit has no handler for is ``{"frame": "module:qualname"}``. What cannot be named
like that (a class inside a function, an annotation that is no class) is None, and is guessed from the literal's type later.
"""

from __future__ import annotations

import importlib
import keyword
import sys
import types
import typing
from typing import TYPE_CHECKING, Any

from flyteagent_nb import tables

if TYPE_CHECKING:
    from collections.abc import Mapping

TUPLE = "()"
"""Beside the outputs' names on record: the name of the tuple that they come as. No output has such a name."""


def records_of(output_types: Mapping[str, Any], tuple_name: str | None) -> dict[str, Any]:
    """The types of a task's outputs, and the name of their tuple where it has one, as plain data."""
    records = {name: record_of(python_type) for name, python_type in output_types.items()}
    return {**records, TUPLE: tuple_name} if tuple_name else records


def tuple_name_of(records: Mapping[str, object]) -> str | None:
    """The name of the outputs' tuple in what :func:`records_of` wrote down; None where there is none that could be."""
    name = records.get(TUPLE)
    return name if isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name) else None


def record_of(python_type: Any) -> dict[str, Any] | None:
    """``python_type`` as plain data, or None where it has no name that could be found again."""
    if python_type is None or python_type is type(None):
        return {"is": "builtins:None"}
    origin = typing.get_origin(python_type)
    if origin is typing.Annotated:
        frame = tables.wanted(python_type)
        return {"frame": _place(frame)} if frame is not None else record_of(typing.get_args(python_type)[0])
    if origin in (typing.Union, types.UnionType):
        members = [record_of(member) for member in typing.get_args(python_type)]
        return None if None in members else {"union": members}
    if origin is not None:
        outer, inner = record_of(origin), [record_of(argument) for argument in typing.get_args(python_type)]
        return None if outer is None or None in inner else {**outer, "of": inner}
    if not isinstance(python_type, type) or "<" in python_type.__qualname__:
        return None
    return {"is": _place(python_type)}


def type_of(record: Any) -> Any:
    """The type that :func:`record_of` wrote down.

    Raises:
        LookupError: its module cannot be imported, or has no such class any more; or it does not take what is on record beside it.
    """
    if not isinstance(record, dict):
        raise LookupError("its type has no name")
    if "union" in record:
        return typing.Union[tuple(type_of(member) for member in record["union"])]  # noqa: UP007 - the members are known only now
    if "frame" in record:
        return tables.declared(_found(str(record["frame"])))
    place = str(record.get("is"))
    if place == "builtins:None":
        return type(None)
    found = _found(place)
    if "of" in record:
        try:
            return found[tuple(type_of(argument) for argument in record["of"])]
        except TypeError as error:  # Callable by itself
            raise LookupError(f"{place}: {error}") from error
    return found


def _place(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _found(place: str) -> Any:
    module_name, _, qualname = place.partition(":")
    try:
        found: Any = sys.modules.get(module_name) or importlib.import_module(module_name)
        for name in qualname.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"{place} is not there: {error}") from error
    if not isinstance(found, type):  # a notebook's variable by that name, or IPython's own: In, Out
        raise LookupError(f"{place} is no class any more")
    return found
