"""What is typed into a field <-> the value that it means, by the field's kind.

Nothing is evaluated but literals and the names of variables, and nothing outside is looked at but whether a local path is there.
"""

from __future__ import annotations

import ast
import datetime
import enum
import json
import os
import typing
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import ArgumentError, article, closest
from flyteagent_nb.notebook.field_types import (
    JSON,
    NOTHING,
    UNIONS,
    FieldKind,
    bare,
    choices_of,
    is_class,
    is_frame,
    kind_of,
    members_of,
    suits,
    type_name,
)
from flyteagent_nb.notebook.scanning import excerpt
from flyteagent_nb.notebook.values import duration, input_value, is_dotted_name, variable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Reader = Callable[[str, Any, Mapping[str, Any]], Any]

SHORT = 60
"""Characters of JSON that stand in one line."""

EMPTY = '""'
"""How the empty text is written where an empty field means something else."""


def read(kind: FieldKind, inner: Any, text: str, namespace: Mapping[str, Any]) -> Any:
    """The value of a text that is not empty.

    Args:
        kind: the field's.
        inner: its type, bare.
        text: as typed.
        namespace: the user's variables.

    Raises:
        ArgumentError: what is wrong with it. What a property or a class of the user's raises passes through.
    """
    as_typed = kind is FieldKind.TEXT or kind in JSON  # the lines and columns of JSON are counted in it
    return _READERS[kind](text if as_typed else text.strip(), inner, namespace)


def _whole(text: str, inner: Any, namespace: Mapping[str, Any]) -> int:
    try:
        number = int(text)
    except ValueError:
        raise _wrong("a whole number", text, FieldKind.WHOLE) from None
    return _sized(number)


def _sized(number: int) -> int:
    if not -(2**63) <= number < 2**63:
        raise ArgumentError(f"too large: {excerpt(str(number))}", hint="Flyte's whole numbers have 64 bits")
    return number


def _number(text: str, inner: Any, namespace: Mapping[str, Any]) -> float:
    try:
        return float(text)
    except ValueError:
        raise _wrong("a number", text, FieldKind.NUMBER) from None


def _text(text: str, inner: Any, namespace: Mapping[str, Any]) -> str:
    return "" if text == EMPTY else text


def _choice(text: str, inner: Any, namespace: Mapping[str, Any]) -> Any:
    choices = choices_of(inner)
    for choice in choices:
        if choice.text == text:
            return choice.value
    raise ArgumentError(f"not one of the choices: {excerpt(text)}", hint=", ".join(c.text for c in choices))


def _datetime(text: str, inner: Any, namespace: Mapping[str, Any]) -> datetime.datetime:
    try:
        return utc(datetime.datetime.fromisoformat(text.replace("Z", "+00:00")))
    except (ValueError, OverflowError):
        raise _wrong("a date with a time", text, FieldKind.DATETIME) from None


def utc(value: datetime.datetime) -> datetime.datetime:
    """A time in UTC; what names no zone is in UTC, as flytekit takes it."""
    utc = datetime.timezone.utc
    return value.replace(tzinfo=utc) if value.tzinfo is None else value.astimezone(utc)


def _date(text: str, inner: Any, namespace: Mapping[str, Any]) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise _wrong("a date", text, FieldKind.DATE) from None


def _duration(text: str, inner: Any, namespace: Mapping[str, Any]) -> datetime.timedelta:
    try:
        value = duration(text.removeprefix("-"))
    except ArgumentError as error:
        if "too long" in error.message:
            raise
        raise _wrong("a length of time", text, FieldKind.DURATION, "90s, 10m, 2d or 1h30m") from None
    return -value if text.startswith("-") else value


def _json(text: str, inner: Any, namespace: Mapping[str, Any]) -> Any:
    name = text.strip()
    if name not in ("true", "false", "null") and is_dotted_name(name):
        return element(_variable(name, namespace, "not JSON, and no variable"), inner)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        told = error.msg[:1].lower() + error.msg[1:]
        raise ArgumentError(f"not JSON: line {error.lineno} column {error.colno}: {told}") from None
    except RecursionError:
        raise ArgumentError("not JSON: it is nested too deep") from None
    return element(value, inner)


def _data(text: str, inner: Any, namespace: Mapping[str, Any]) -> Any:
    path = os.path.expanduser(text)
    there = "://" in text or os.path.exists(path)
    if is_dotted_name(text) and (not there or text.partition(".")[0] in namespace):
        try:
            return _fit(_variable(text, namespace, "no path and no variable"), inner, text)
        except ArgumentError:
            if not there or text.isidentifier():
                raise
    if not there:
        raise ArgumentError(
            f"no such path: {excerpt(text)}", hint="a path, a URI such as s3://..., or a variable's name"
        )
    return _at(path, inner)


def _at(path: str, inner: Any) -> Any:
    from flytekit.types.file import FlyteFile
    from flytekit.types.structured import StructuredDataset

    if is_frame(inner):
        return StructuredDataset(uri=path)
    return FlyteFile(path) if inner is os.PathLike else inner(path)


def _named(text: str, inner: Any, namespace: Mapping[str, Any]) -> Any:
    if not is_dotted_name(text):
        raise ArgumentError(f"not a variable's name: {excerpt(text)}", hint="put the value into a variable first")
    return _fit(_variable(text, namespace, "no variable"), inner, text)


def _literal(text: str, inner: Any, namespace: Mapping[str, Any]) -> Any:
    try:
        value = input_value(text, namespace)
    except ArgumentError as error:
        quoted = f"a text stands in quotes: {text!r}" if len(text) <= SHORT else "a text stands in quotes"
        meant = f"did you mean {error.suggestion}? " if error.suggestion else ""
        raise ArgumentError(f"neither a literal nor a variable: {excerpt(text)}", hint=meant + quoted) from None
    return element(value, inner)


def _variable(text: str, namespace: Mapping[str, Any], what: str) -> Any:
    first = text.partition(".")[0]
    if first in namespace:
        return variable(text, namespace)
    near = closest(first, (name for name in namespace if not name.startswith("_")))
    meant = f"did you mean {near}{text[len(first) :]}?" if near else "run the cell that defines it first"
    raise ArgumentError(f"{what} is called {text!r}", hint=meant, suggestion=near)


def _fit(value: Any, inner: Any, name: str) -> Any:
    if not suits(value, inner):
        raise ArgumentError(f"{name} is {article(type_name(type(value)))}, not {article(type_name(inner))}")
    return value


def _wrong(what: str, text: str, kind: FieldKind, example: str = "") -> ArgumentError:
    return ArgumentError(f"not {what}: {excerpt(text)}", hint=f"such as {example or kind.value}")


_READERS: dict[FieldKind, Reader] = {
    FieldKind.WHOLE: _whole,
    FieldKind.NUMBER: _number,
    FieldKind.TEXT: _text,
    FieldKind.CHOICE: _choice,
    FieldKind.DATETIME: _datetime,
    FieldKind.DATE: _date,
    FieldKind.DURATION: _duration,
    FieldKind.LIST: _json,
    FieldKind.MAPPING: _json,
    FieldKind.DATA: _data,
    FieldKind.VARIABLE: _named,
    FieldKind.LITERAL: _literal,
}


# --- the elements of JSON, of literals, and of variables that stand for them ---


def element(value: Any, python_type: Any, at: str = "") -> Any:
    """A value of JSON as a value of a type: ``3`` for a float is ``3.0``, a text for a date is that date.

    Raises:
        ArgumentError: it is of another type; the message tells where.
    """
    inner, optional = bare(python_type)
    origin, arguments = typing.get_origin(inner), typing.get_args(inner)
    if (value is None and optional) or inner in (Any, object):
        return value
    if origin in UNIONS:
        return _member_of_union(value, arguments, inner, at)
    if list in (inner, origin) and isinstance(value, list):
        return [element(v, arguments[0], f"{at}[{i}]") for i, v in enumerate(value)] if arguments else value
    if dict in (inner, origin) and isinstance(value, dict):
        if not arguments:
            return value
        return {_key(k, arguments[0], at): element(v, arguments[1], f"{at}[{k!r}]") for k, v in value.items()}
    kind = kind_of(inner)
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is FieldKind.NUMBER and plain:
        return float(value)
    if kind is FieldKind.WHOLE and plain and isinstance(value, int):
        return _sized(int(value))
    if kind is FieldKind.CHOICE:
        for choice in choices_of(inner):
            meant = choice.value.value if isinstance(choice.value, enum.Enum) else choice.value
            if value is choice.value or (type(value) is type(meant) and value == meant) or value == choice.text:
                return choice.value
    elif kind is FieldKind.GROUP and isinstance(value, dict):
        return _built(value, inner, at)
    elif isinstance(value, str) and kind in (FieldKind.DATETIME, FieldKind.DATE, FieldKind.DURATION, FieldKind.DATA):
        try:
            return read(kind, inner, value, {})
        except ArgumentError as error:
            raise ArgumentError(f"{at}: {error.message}" if at else error.message, hint=error.hint) from None
    elif kind in (FieldKind.DATA, FieldKind.VARIABLE) and suits(value, inner):
        return value
    elif kind not in (FieldKind.NUMBER, FieldKind.WHOLE) and is_class(inner) and isinstance(value, inner):
        return value
    where = f"{at}: " if at else ""
    raise ArgumentError(
        f"{where}not {article(type_name(inner))}: {_shown(value)}", hint=f"such as {_example(inner, kind)}"
    )


def _member_of_union(value: Any, arguments: tuple[Any, ...], inner: Any, at: str) -> Any:
    for exact in (True, False):  # 3 for float | int is the int
        for argument in arguments:
            if exact and type(value) is not bare(argument)[0]:
                continue
            try:
                return element(value, argument, at)
            except ArgumentError:
                continue
    raise ArgumentError(f"{at}: " * bool(at) + f"not {article(type_name(inner))}: {_shown(value)}")


def _key(key: Any, python_type: Any, at: str) -> Any:
    """A key of a JSON object, which is always a text, as a key of the dict."""
    inner, _ = bare(python_type)
    kind = kind_of(inner)
    if isinstance(key, str) and kind in (FieldKind.WHOLE, FieldKind.NUMBER):
        return read(kind, inner, key, {})
    return element(key, python_type, f"{at}[{key!r}]")


def _built(value: dict[str, Any], inner: Any, at: str) -> Any:
    members = {member.name: member for member in members_of(inner) or ()}
    for name in value:
        if name not in members:
            near = closest(name, members)
            raise ArgumentError(f"{at}: " * bool(at) + f"{type_name(inner)} has no member {name!r}", suggestion=near)
    for name, member in members.items():
        if name not in value and member.default is NOTHING:
            raise ArgumentError(f"{at}: " * bool(at) + f"{type_name(inner)} needs {name!r}")
    made = {members[k].key: element(v, members[k].python_type, f"{at}.{k}" if at else k) for k, v in value.items()}
    return inner(**made)


def _example(inner: Any, kind: FieldKind) -> str:
    return ", ".join(c.text for c in choices_of(inner)) if kind is FieldKind.CHOICE else kind.value


def _shown(value: Any) -> str:
    try:
        return excerpt(json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError):
        return article(type_name(type(value)))


# --- the other way ---


def text_of(kind: FieldKind, inner: Any, value: Any) -> str | None:
    """The text that tells a value, or None where none does. It need not lead back to the value: only reading it shows."""
    if kind is FieldKind.CHOICE:
        found = (c.text for c in choices_of(inner) if c.value == value and type(c.value) is type(value))
        return next(found, str(value))
    if kind is FieldKind.DATETIME and isinstance(value, datetime.datetime):
        return utc(value).replace(tzinfo=None).isoformat(timespec="milliseconds" if value.microsecond else "seconds")
    if kind in JSON:
        try:
            text = json.dumps(value, default=_jsonable, ensure_ascii=False)
            return text if len(text) <= SHORT else json.dumps(value, default=_jsonable, ensure_ascii=False, indent=2)
        except (TypeError, ValueError, RecursionError):
            return None
    if kind is FieldKind.LITERAL:
        try:
            return repr(value) if bool(ast.literal_eval(repr(value)) == value) else None
        except Exception:  # a repr of the user's that raises, or that is no literal
            return None
    if kind is FieldKind.DATA:
        return _path_of(value)
    if kind in (FieldKind.VARIABLE, FieldKind.GROUP):
        return None
    if isinstance(value, (datetime.date, datetime.timedelta)):
        return str(_jsonable(value))
    return str(value)


def _path_of(value: Any) -> str | None:
    for name in ("remote_source", "path", "uri"):  # FlyteFile and FlyteDirectory, then StructuredDataset
        path = getattr(value, name, None)
        if path and isinstance(path, (str, os.PathLike)):
            return os.fspath(path)
    return os.fspath(value) if isinstance(value, (str, os.PathLike)) else None


def _jsonable(value: Any) -> Any:
    """What JSON has no word for, in a way that :func:`element` reads."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, datetime.timedelta):
        return duration_text(value)
    if isinstance(value, datetime.date):
        return value.isoformat()
    path = _path_of(value)
    if path is not None:
        return path
    members = members_of(type(value))
    if members is None:
        raise TypeError(f"JSON has no {type(value).__name__}")
    return {member.name: getattr(value, member.name) for member in members}


def duration_text(value: datetime.timedelta) -> str:
    """A length of time as a field takes it: ``1h30m``, ``500ms``, ``0s``."""
    rest, told = abs(value) // datetime.timedelta(microseconds=1), ""
    for size, unit in ((86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s")):
        count, rest = divmod(rest, size)
        told += f"{count}{unit}" if count else ""
    told += f"{rest / 1000:g}ms" if rest else ""
    return ("-" if value < datetime.timedelta() else "") + (told or "0s")
