"""The type of an input -> the kind of field that takes it, with the choices or the members that it has. Nothing of flytekit runs."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import json
import os
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flyteagent_nb import tables

if TYPE_CHECKING:
    from collections.abc import Callable

NOTHING: Final[Any] = object()
"""No value: not even None."""

UNIONS = (typing.Union, types.UnionType)


def is_class(inner: Any) -> bool:
    """Whether it is a class: ``isinstance(list[int], type)`` says so of that too, under Python 3.10."""
    return isinstance(inner, type) and typing.get_origin(inner) is None


class FieldKind(enum.Enum):
    """What a field takes; the value is an example of it, as errors and empty fields show it."""

    WHOLE = "3"
    NUMBER = "0.5"
    TEXT = "a text"
    TICK = "ticked or not"
    CHOICE = "one of the choices"
    DATETIME = "2024-01-31T12:00:00"
    DATE = "2024-01-31"
    DURATION = "1h30m"
    LIST = "[1, 2]"
    MAPPING = '{"key": 1}'
    DATA = "a variable's name, or a path"
    VARIABLE = "a variable's name"
    LITERAL = "3, 'a text', or a variable's name"
    GROUP = "a field for each of its members"


JSON = frozenset({FieldKind.LIST, FieldKind.MAPPING})

SCALARS: dict[Any, FieldKind] = {
    int: FieldKind.WHOLE,
    float: FieldKind.NUMBER,
    str: FieldKind.TEXT,
    bool: FieldKind.TICK,
    datetime.datetime: FieldKind.DATETIME,
    datetime.date: FieldKind.DATE,
    datetime.timedelta: FieldKind.DURATION,
}

_ELEMENTS: dict[Any, str] = {
    int: "1, 2",
    float: "0.5",
    str: '"a"',
    bool: "true",
    datetime.datetime: '"2024-01-31T12:00:00"',
    datetime.date: '"2024-01-31"',
    datetime.timedelta: '"1h30m"',
}


class Choice(NamedTuple):
    """One of the choices of an enum or a Literal.

    Attributes:
        text: as the page sends it.
        label: as it is shown.
        value: what it means.
    """

    text: str
    label: str
    value: Any


class Member(NamedTuple):
    """A member of a dataclass or a pydantic model.

    Attributes:
        name: its name.
        key: its name in the constructor.
        python_type: its type.
        default: its default, or :data:`NOTHING`.
        description: in the author's words, or empty.
    """

    name: str
    key: str
    python_type: Any
    default: Any
    description: str


def bare(python_type: Any) -> tuple[Any, bool]:
    """A type without ``Annotated`` and ``Optional``, and whether it takes None."""
    optional = False
    while True:
        origin, arguments = typing.get_origin(python_type), typing.get_args(python_type)
        if origin is typing.Annotated:
            python_type = arguments[0]
        elif origin in UNIONS and type(None) in arguments:
            optional = True
            python_type = typing.Union[tuple(a for a in arguments if a is not type(None))]  # noqa: UP007 - of values
        elif origin is typing.Literal and None in arguments:
            optional = True
            python_type = typing.Literal[tuple(a for a in arguments if a is not None)]
        else:
            return python_type, optional


def type_name(python_type: Any) -> str:
    """A type as people write it: ``list[int]``, ``int | str``, ``FlyteFile[csv]``."""
    inner, optional = bare(python_type)
    origin, arguments = typing.get_origin(inner), typing.get_args(inner)
    if origin in UNIONS:
        name = " | ".join(type_name(a) for a in arguments)
    elif origin is typing.Literal:
        name = "Literal"
    elif origin is not None:
        name = f"{getattr(origin, '__name__', origin)}[{', '.join(type_name(a) for a in arguments)}]"
    elif _is_path(inner) and inner.__name__.startswith("_"):  # FlyteFile["csv"] makes a class
        name = f"{inner.__mro__[1].__name__}[{inner.extension()}]"
    else:
        name = getattr(inner, "__name__", str(inner).replace("typing.", ""))
    return f"{name} | None" if optional else name


def kind_of(inner: Any) -> FieldKind:
    """The kind of field for a type that :func:`bare` has made bare."""
    origin = typing.get_origin(inner)
    if inner in SCALARS:
        return SCALARS[inner]
    if origin is typing.Literal:
        return FieldKind.CHOICE
    if inner in (list, dict) or origin in (list, dict):
        if not _is_json(inner, ()):
            return FieldKind.VARIABLE
        return FieldKind.LIST if list in (inner, origin) else FieldKind.MAPPING
    if origin in UNIONS or inner in (Any, object):
        return FieldKind.LITERAL
    if is_class(inner):
        if issubclass(inner, enum.Enum):
            return FieldKind.CHOICE
        if is_data(inner):
            return FieldKind.DATA
        if members_of(inner) is not None:
            return FieldKind.GROUP
    return FieldKind.VARIABLE


def example_of(kind: FieldKind, inner: Any) -> str:
    """What a field of that type may hold: of a list or a mapping, elements of its own type."""
    arguments = typing.get_args(inner)
    if kind not in JSON or not arguments:
        return kind.value
    element, _ = bare(arguments[-1])
    told = _ELEMENTS.get(element)
    if told is None and is_class(element) and issubclass(element, enum.Enum) and (choices := choices_of(element)):
        told = json.dumps(choices[0].text)
    if told is None:
        return kind.value
    return f"[{told}]" if kind is FieldKind.LIST else f'{{"key": {told.partition(",")[0]}}}'


def _is_json(python_type: Any, around: tuple[Any, ...]) -> bool:
    """Whether JSON can tell the values of a type; a class in ``around`` holds itself."""
    inner, _ = bare(python_type)
    origin = typing.get_origin(inner)
    if inner in (Any, list, dict) or inner in around:
        return True
    if origin in (list, dict, *UNIONS):
        return all(_is_json(a, around) for a in typing.get_args(inner))
    kind = kind_of(inner)
    if kind is FieldKind.GROUP:
        return all(_is_json(member.python_type, (*around, inner)) for member in members_of(inner) or ())
    return kind in SCALARS.values() or kind is FieldKind.CHOICE or _is_path(inner)


def _is_path(inner: Any) -> bool:
    from flytekit.types.directory import FlyteDirectory
    from flytekit.types.file import FlyteFile

    return is_class(inner) and (inner is os.PathLike or issubclass(inner, (FlyteFile, FlyteDirectory)))


def is_frame(inner: Any) -> bool:
    """Whether it is a class of tables, which flytekit takes for one another."""
    from flytekit.types.structured import StructuredDataset

    return is_class(inner) and (tables.is_frame(inner) or issubclass(inner, StructuredDataset))


def is_data(inner: Any) -> bool:
    """Whether it is a class of files, directories or tables, which a path can name."""
    return _is_path(inner) or is_frame(inner)


def suits(value: Any, inner: Any) -> bool:
    """Whether flytekit takes a variable's value for a class: its instances, any table for a table, paths for files."""
    if not is_class(inner):
        return True
    if is_frame(inner):
        return is_frame(type(value))
    if _is_path(inner):
        return isinstance(value, (str, os.PathLike))
    return isinstance(value, inner)


def choices_of(inner: Any) -> tuple[Choice, ...]:
    """The choices of an enum, a Literal, and of a bool that may be None."""
    if is_class(inner) and issubclass(inner, enum.Enum):
        return tuple(Choice(m.name, _label(m), m) for m in inner)
    values = (True, False) if inner is bool else typing.get_args(inner)
    told = [str(value) for value in values]
    if "" in told or len(set(told)) < len(told):  # 1 beside "1"
        told = [repr(value) for value in values]
    return tuple(Choice(text, text, value) for text, value in zip(told, values, strict=True))


def _label(member: enum.Enum) -> str:
    value = str(member.value)
    return member.name if value.lower() == member.name.lower() else f"{member.name} ({value})"


def members_of(inner: Any) -> list[Member] | None:
    """The members of a dataclass or a pydantic model; None for any other class."""
    if not is_class(inner):
        return None
    if dataclasses.is_dataclass(inner):
        try:
            hints = typing.get_type_hints(inner, include_extras=True)
        except Exception:  # names that only a type checker knows, or whatever else the class's module raises
            hints = {}
        return [
            Member(f.name, f.name, hints.get(f.name, Any), _default(f), str(f.metadata.get("description", "")))
            for f in dataclasses.fields(inner)
            if f.init
        ]
    described: Any = getattr(inner, "model_fields", None)
    if not isinstance(described, Mapping) or not hasattr(inner, "model_validate"):
        return None
    members = []
    for name, info in described.items():
        make = functools.partial(info.get_default, call_default_factory=True)
        key = info.validation_alias if isinstance(info.validation_alias, str) else name
        default = NOTHING if info.is_required() else _made(make)
        members.append(Member(name, key, info.annotation, default, info.description or ""))
    return members


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return NOTHING if field.default_factory is dataclasses.MISSING else _made(field.default_factory)


def _made(factory: Callable[[], Any]) -> Any:
    """What a default's factory makes."""
    try:
        return factory()
    except Exception:  # the user's function; without what it makes the field is one to be filled
        return NOTHING
