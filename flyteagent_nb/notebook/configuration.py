"""Settings as a person writes them (``-c KEY=VALUE``, ``--config``, a cell of YAML) -> the values of a class's parameters.

A key with dots is a field of a field: ``-c Requests.cpu=2``. A value is converted to the type that the class declares, as far
as one is declared; what is declared otherwise goes in as it is.
"""

from __future__ import annotations

import builtins
import datetime
import enum
import functools
import inspect
import pathlib
import sys
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import ArgumentError, article, closest
from flyteagent_nb.notebook.field_types import NOTHING, UNIONS, Member, bare, members_of, type_name
from flyteagent_nb.notebook.values import duration

if TYPE_CHECKING:
    from collections.abc import Iterable

_PLAIN = (bool, int, float, str, bytes, list, dict, tuple, set)
_WORDS = {"true": True, "false": False}
"""What YAML and JSON call them, and a person on the line."""


def annotations_of(owner: Any) -> dict[str, Any]:
    """The types that a function or a class declares by name; one that cannot be resolved is Any, and costs the others nothing."""
    owner = owner if isinstance(owner, type) else inspect.unwrap(owner)
    try:
        return typing.get_type_hints(owner)
    except Exception:  # names that only a type checker knows, or whatever else the class's module raises
        pass
    found = {}
    for part in reversed(owner.__mro__) if isinstance(owner, type) else (owner,):
        scope = getattr(part, "__globals__", None) or vars(sys.modules.get(part.__module__, builtins))
        held = vars(part) if isinstance(part, type) else {"__annotations__": getattr(part, "__annotations__", {})}
        for name, annotation in held.get("__annotations__", {}).items():
            alone = types.SimpleNamespace(__annotations__={name: annotation})
            try:
                found[name] = typing.get_type_hints(alone, scope)[name]
            except Exception:  # as above, for this one
                found[name] = Any
    return found


def fields_of(cls: Any) -> dict[str, Member] | None:
    """What a class is made of, by name: a dataclass, a pydantic model, an attrs class, a TypedDict; None for any other."""
    members = members_of(cls)
    if members is not None:
        hints = annotations_of(cls) if any(member.python_type is Any for member in members) else {}
        return {m.key: m._replace(python_type=hints.get(m.name, m.python_type)) for m in members}
    if typing.is_typeddict(cls):
        return {
            name: Member(name, name, annotation, NOTHING if name in cls.__required_keys__ else None, "")
            for name, annotation in typing.get_type_hints(cls).items()
        }
    return _parameters(cls) if hasattr(cls, "__attrs_attrs__") else None


def loose_fields_of(cls: Any) -> dict[str, Member]:
    """The same for any class: what its constructor takes by name, or, where that is anything, its properties that can be set."""
    known = fields_of(cls)
    if known is not None:
        return known
    if not isinstance(cls, type) or issubclass(cls, (*_PLAIN, datetime.timedelta, pathlib.PurePath, enum.Enum)):
        return {}
    found = _parameters(cls)
    for owner in () if found else cls.__mro__:
        for name, value in vars(owner).items():
            if isinstance(value, property) and value.fset is not None and not name.startswith("_"):
                found.setdefault(name, Member(name, name, Any, None, ""))
    return found


def _parameters(cls: Any) -> dict[str, Member]:
    try:
        signature = inspect.signature(cls)
    except (TypeError, ValueError):  # a class of C's that does not tell
        return {}
    hints = annotations_of(cls.__init__)
    return {
        p.name: Member(p.name, p.name, hints.get(p.name, Any), NOTHING if p.default is p.empty else p.default, "")
        for p in signature.parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }


def alternatives(annotation: Any) -> list[Any]:
    """The types that a union allows, without None; the type itself where it is no union."""
    inner, _ = bare(annotation)
    return (
        [one for part in typing.get_args(inner) for one in alternatives(part)]
        if typing.get_origin(inner) in UNIONS
        else [inner]
    )


def is_mapping(annotation: Any) -> bool:
    """Whether a dict is what the type wants, with keys that it does not name."""
    return any(
        isinstance(origin, type) and issubclass(origin, Mapping) and not typing.is_typeddict(one)
        for one in alternatives(annotation)
        for origin in (typing.get_origin(one) or one,)
    )


def inner_fields(annotation: Any) -> dict[str, Member]:
    """The fields that can be named behind a dot: those of the class among the type's alternatives."""
    for one in alternatives(annotation):
        fields = loose_fields_of(one)
        if fields:
            return fields
    return {}


def names_of(fields: Mapping[str, Member]) -> list[str]:
    """The keys that ``-c`` takes, with those one level down, for completion: ``Requests``, ``Requests.cpu``."""
    return [
        name
        for key, member in fields.items()
        for name in (key, *(f"{key}.{k}" for k in inner_fields(member.python_type)))
    ]


def nested(pairs: Iterable[tuple[str, Any]], fields: Mapping[str, Member]) -> dict[str, Any]:
    """Keys with dots as dicts in dicts; the last of two values holds. What the pairs hold is not changed."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        _place(values, key, value, fields)
    return values


def _place(values: dict[str, Any], key: str, value: Any, fields: Mapping[str, Member]) -> None:
    head, dot, rest = key.partition(".")
    if not dot or key in fields or head not in fields:
        values[key] = value
        return
    annotation = fields[head].python_type
    inner = inner_fields(annotation)
    below = values.get(head)
    values[head] = below = dict(below) if isinstance(below, Mapping) else {}
    if not inner and _holds_plain_values(annotation):
        below[rest] = value  # spark_conf.spark.executor.memory=2g: the rest is one key
    else:
        _place(below, rest, value, inner or {rest.partition(".")[0]: Member("", "", Any, None, "")})


def _holds_plain_values(annotation: Any) -> bool:
    for one in alternatives(annotation):
        arguments = typing.get_args(one)
        if is_mapping(one) and len(arguments) == 2:
            return all(value in (bool, int, float, str) for value in alternatives(arguments[1]))
    return False


def check(values: Iterable[str], fields: Mapping[str, Member], owner: str) -> None:
    """Tell a key that nobody knows.

    Raises:
        ArgumentError: it names the nearest field, or all of them.
    """
    for key in values:
        if key not in fields:
            near = closest(key.partition(".")[0], fields)
            told = f"did you mean {near}?" if near else f"its fields are: {', '.join(fields) or 'none'}"
            raise ArgumentError(f"{owner} has no field '{key}'", suggestion=near, hint=told)


def complete(values: Mapping[str, Any], fields: Mapping[str, Member], owner: str) -> None:
    """Tell the fields that must be given and are not.

    Raises:
        ArgumentError: it shows how each is written.
    """
    missing = [key for key, member in fields.items() if member.default is NOTHING and key not in values]
    if missing:
        shown = (f"-c {key}{'.KEY' if is_mapping(fields[key].python_type) else ''}=..." for key in missing)
        raise ArgumentError(f"{owner} needs {', '.join(missing)}", hint=f"write {' '.join(shown)}")


def made(cls: Any, values: Mapping[str, Any], *, place: str = "") -> Any:
    """An object of a class with fields.

    Args:
        cls: the class.
        values: its fields by name, as they were written.
        place: the key that it stands under, with its dot, for errors: ``"Requests."``.

    Raises:
        ArgumentError: a field that is not there, is missing, or has a value that is not of its type.
    """
    fields = loose_fields_of(cls)
    name = getattr(cls, "__name__", str(cls))
    if fields:
        check(values, fields, name)
        complete(values, {f"{place}{key}": member for key, member in fields.items() if key not in values}, name)
    fitted = {
        key: fit(value, fields[key].python_type if key in fields else Any, place + key) for key, value in values.items()
    }
    try:
        return cls(**fitted)
    except ArgumentError:
        raise
    except Exception as error:  # the plug-in's class checks its fields as it likes; the cause is kept
        told = str(error) if str(error) else type(error).__name__
        raise ArgumentError(
            f"{name} does not take these settings: {told}", hint=f"its fields are: {', '.join(fields)}"
        ) from error


def fit(value: Any, annotation: Any, key: str) -> Any:
    """A value as the type that a field declares.

    Raises:
        ArgumentError: it cannot be of that type.
    """
    _, optional = bare(annotation)
    wanted = alternatives(annotation)
    if value is None or Any in wanted or object in wanted:
        return value
    if any(_is_a(value, one) for one in wanted):
        return next((_elements(value, one, key) for one in wanted if _is_a(value, one)), value)
    if optional and value in ("null", "None"):
        return None
    for convert in (_scalar, functools.partial(_built, key=key)):
        for one in wanted:
            found = convert(value, one)
            if found is not NOTHING:
                return found
    strict = [one for one in wanted if _known(one)]
    if not strict:
        return value  # a type of the plug-in's own: what becomes of it is its business
    names = " or ".join(_shown(one) for one in strict)
    raise ArgumentError(
        f"-c {key} takes {article(names)}, not {type(value).__name__} {value!r}",
        hint=_hint(value, strict, key),
    )


def _is_a(value: Any, one: Any) -> bool:
    origin = typing.get_origin(one) or one
    if origin is typing.Literal:
        return value in typing.get_args(one)
    if isinstance(value, bool) and origin in (int, float):
        return False
    return isinstance(origin, type) and not typing.is_typeddict(one) and isinstance(value, origin)


def _elements(value: Any, one: Any, key: str) -> Any:
    """A list or a dict with its elements converted."""
    arguments = typing.get_args(one)
    if isinstance(value, dict) and len(arguments) == 2:
        return {k: fit(v, arguments[1], f"{key}.{k}") for k, v in value.items()}
    if isinstance(value, list) and len(arguments) == 1:
        return [fit(v, arguments[0], key) for v in value]
    return value


def _scalar(value: Any, one: Any) -> Any:
    """A plain value as another plain type, or NOTHING."""
    plain = type(value) in (int, float)
    if one is str and plain:
        return str(value)
    if one is float and type(value) is int:
        return float(value)
    if one is bool and isinstance(value, str):
        return _WORDS.get(value.lower(), NOTHING)
    if typing.get_origin(one) is typing.Literal:
        return str(value) if plain and str(value) in typing.get_args(one) else NOTHING
    if not isinstance(one, type):
        return NOTHING
    if issubclass(one, enum.Enum):
        by_text = {text: member for member in one for text in (str(member.value), member.name)}
        return by_text.get(str(value), NOTHING)
    if issubclass(one, pathlib.PurePath) and isinstance(value, str):
        return one(value)
    if one is datetime.timedelta and (isinstance(value, str) or plain):
        return duration(str(value))
    return NOTHING


def _built(value: Any, one: Any, *, key: str) -> Any:
    """A dict as an object of the class that the field wants, or NOTHING."""
    if not isinstance(value, Mapping):
        return NOTHING
    if typing.is_typeddict(one):
        fields = fields_of(one) or {}
        check(value, fields, one.__name__)
        return {k: fit(v, fields[k].python_type, f"{key}.{k}") for k, v in value.items()}
    if fields_of(one) is None and not loose_fields_of(one):
        return NOTHING
    return made(one, value, place=f"{key}.")


def _known(one: Any) -> bool:
    """Whether what is no value of this type can be told."""
    origin = typing.get_origin(one) or one
    if origin is typing.Literal or typing.is_typeddict(origin):
        return True
    return isinstance(origin, type) and (
        issubclass(origin, (bool, int, float, str, list, dict, enum.Enum, datetime.timedelta))
        or fields_of(origin) is not None
    )


def _shown(one: Any) -> str:
    if isinstance(one, type) and issubclass(one, enum.Enum):
        return " or ".join(str(member.value) for member in one)
    if typing.get_origin(one) is typing.Literal:
        return " or ".join(map(str, typing.get_args(one)))
    return type_name(one)


def _hint(value: Any, wanted: list[Any], key: str) -> str:
    fields = next((fields for one in wanted if (fields := fields_of(one))), None)
    if fields:
        return f"write {' '.join(f'-c {key}.{name}=...' for name in list(fields)[:3])}; its fields are: {', '.join(fields)}"
    if any((typing.get_origin(one) or one) is list for one in wanted):
        return f"write -c {key}=['a','b']"
    if any(is_mapping(one) for one in wanted):
        return f"write -c {key}.KEY=VALUE, or -c {key}={{'a': 1}}"
    if any(one is str for one in wanted):
        return "quotes make a text of it"
    return ""
