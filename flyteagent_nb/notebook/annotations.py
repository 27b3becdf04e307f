"""Types that a person writes in a magic's line, and types of values: text -> type, value -> type. Nothing is evaluated."""

from __future__ import annotations

import ast
import builtins
import datetime
import enum
import importlib
import types
import typing
from typing import TYPE_CHECKING, Any

from flyteagent_nb import scalars
from flyteagent_nb.errors import ArgumentError, InputError, article, closest
from flyteagent_nb.tables import LIBRARIES, TABLES, is_frame

if TYPE_CHECKING:
    from collections.abc import Mapping


_WRITE = "write NAME:TYPE, and for TYPE int, str, list[float], DataFrame, FlyteFile, or a class of yours; of SQL pandas, arrow or polars"
_ELSEWHERE = {"string": "str", "text": "str", "integer": "int", "boolean": "bool", "double": "float", "number": "float"}
"""What types are called in SQL, JSON and other languages."""


def type_of_text(text: str, namespace: Mapping[str, Any]) -> Any:
    """The type that ``text`` names: ``int``, ``dict[str, int]``, ``Optional[str]``, ``DataFrame``, ``MyClass``, ``pl.DataFrame``.

    Names are looked up in ``namespace``, then among Python's own, typing's, datetime's, and flytekit's. The table libraries
    need not be imported: ``pa.Table``, ``polars.LazyFrame``; and each alone is its table: ``arrow``, ``polars``, ``pandas``.

    Raises:
        ArgumentError: a name that nothing is known of, or something that is no type.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a NUL, half of a character, thousands of brackets
        raise ArgumentError(
            f"'{text}' is not a type", hint="int, str, list[float], DataFrame, FlyteFile, or a class of yours"
        ) from None
    return _class(tree, text, namespace)


def check_type(python_type: Any, told: str) -> None:
    """Refuse a type that Flyte has none for; flytekit would, with no word of the input or output.

    Raises:
        ArgumentError: it begins with what is ``told``.
    """
    from flytekit.core.type_engine import TypeEngine

    try:
        TypeEngine.to_literal_type(python_type)
    except Exception as error:  # a type's transformer may raise anything
        hint = _way_out(python_type) or next(iter(str(error).splitlines()), "")
        raise ArgumentError(f"{told}: Flyte has no type for it", hint=hint) from None


def _way_out(python_type: Any) -> str:
    kind, inner = typing.get_origin(python_type) or python_type, typing.get_args(python_type)
    if isinstance(kind, type) and issubclass(kind, tuple):
        return "write list[int] for elements of one type, or an output for each: a:int,b:str"
    if kind is list and not inner:
        return "write list[int], or what its elements are"
    return next((way for each in inner if (way := _way_out(each))), "")


def typed_value(value: Any, name: str) -> tuple[Any, Any]:
    """The value of an input and its type, where nothing declares one: the value as Python's own as far as it can be.

    Raises:
        InputError: as for :func:`type_of_value`.
        ArgumentError: as for :func:`check_type`.
    """
    value = scalars.plain(value)
    python_type = type_of_value(value, name)
    check_type(python_type, f"-i {name}")
    return _with_floats(value, python_type), python_type


def listed(value: Any) -> Any:
    """The value with lists for numpy's arrays and pandas' columns, in lists and dicts too: flytekit makes a file of each."""
    if type(value) is dict:
        return {key: listed(each) for key, each in value.items()}
    if not scalars.of_library(value) or is_frame(type(value)):
        return [listed(each) for each in value] if type(value) is list else value
    if getattr(value, "ndim", None) is None or isinstance(value, scalars.numpy_scalars()):
        return value
    return [listed(each) for each in value] if value.ndim else value[()]


def type_of_value(value: Any, name: str) -> Any:
    """The type that an input with this value has: the value's own, with the elements' for lists and dicts.

    Raises:
        InputError: None, a tuple, an empty list or mixed elements, of which no type can be told; a time with nanoseconds.
    """
    if scalars.is_missing(value):
        raise InputError(
            f"the type of input '{name}' cannot be told from {value}", task="", name=name, hint="give it a value"
        )
    if isinstance(value, tuple):
        raise InputError(
            f"the type of input '{name}' cannot be told from a tuple",
            task="",
            name=name,
            hint="make it a list, for which Flyte has a type",
        )
    if isinstance(value, enum.Enum):
        return type(value)
    for plain in (bool, int, float, str):  # numpy's float64 is a float
        if isinstance(value, plain):
            return plain
    if isinstance(value, list):
        return list[_common(value, name)]  # type: ignore[misc]
    if isinstance(value, dict):
        if not value or not all(isinstance(key, str) for key in value):
            return dict
        try:
            return dict[str, _common(list(value.values()), name)]  # type: ignore[misc]
        except InputError:
            return dict
    if scalars.is_finer(value):
        raise InputError(
            f"the type of input '{name}' cannot be told: Python has none that holds {value} to its last digit",
            task="",
            name=name,
            hint="round it first: a time of pandas to microseconds with .floor('us')",
        )
    for base in type(value).__mro__:  # pandas' Timestamp is a datetime
        if base in (datetime.datetime, datetime.timedelta, datetime.date):
            return base
    return type(value)


def _with_floats(value: Any, python_type: Any) -> Any:
    """The value with floats for the whole numbers among them; flytekit takes no int for a float."""
    inner = typing.get_args(python_type)
    if isinstance(value, list):
        return [_with_floats(each, inner[0]) for each in value]
    if isinstance(value, dict) and inner:
        return {key: _with_floats(each, inner[1]) for key, each in value.items()}
    return float(value) if python_type is float and type(value) is int and abs(value) <= 2**53 else value


def _common(values: list[Any], name: str) -> Any:
    types = {type_of_value(value, name) for value in values}
    if types == {int, float}:
        return float
    if len(types) == 1:
        return types.pop()
    told = (
        "it is empty"
        if not types
        else f"its elements are {', '.join(sorted(str(getattr(t, '__name__', t)) for t in types))}"
    )
    raise InputError(
        f"the type of input '{name}' cannot be told: {told}",
        task="",
        name=name,
        hint="give elements of one type, or write the task in Python, where the type stands",
    )


def _class(node: ast.expr, text: str, namespace: Mapping[str, Any]) -> Any:
    """What a node names, where that is a type; a module of tables is its table."""
    found, name = _type(node, text, namespace), ast.unparse(node)
    if isinstance(found, types.ModuleType):
        if found.__name__ in TABLES:
            return getattr(found, TABLES[found.__name__])
        raise ArgumentError(f"'{name}' is not a type but a module", hint=f"name a class of it: {name}.ClassName")
    if isinstance(found, (type, typing.NewType)) or typing.get_origin(found) is not None or found is typing.Any:
        return found
    raise ArgumentError(f"'{name}' is not a type but {article(type(found).__name__)}", hint=_WRITE)


def _type(node: ast.expr, text: str, namespace: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant) and node.value is None:
        return type(None)
    if isinstance(node, ast.Name):
        return _named(node.id, text, namespace)
    if isinstance(node, ast.Attribute):
        owner = _type(node.value, text, namespace)
        if (
            owner is datetime.datetime
            and node.attr in ("datetime", "timedelta", "date")
            and "datetime" not in namespace
        ):
            owner = datetime  # the module, whose name is its class's too
        if not hasattr(owner, node.attr):
            raise ArgumentError(f"'{text}': {ast.unparse(node.value)} has no {node.attr}")
        return getattr(owner, node.attr)
    if isinstance(node, ast.Subscript):
        owner = _type(node.value, text, namespace)
        index = node.slice
        arguments = tuple(_class(e, text, namespace) for e in (index.elts if isinstance(index, ast.Tuple) else [index]))
        try:
            return owner[arguments if len(arguments) > 1 else arguments[0]]
        except Exception as error:  # what a variable of the user's raises, where it is no class
            raise ArgumentError(f"'{text}' is not a type: {error}") from None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return typing.Union[_class(node.left, text, namespace), _class(node.right, text, namespace)]  # noqa: UP007 - of values
    raise ArgumentError(
        f"'{text}' is not a type", hint="int, str, list[float], DataFrame, FlyteFile, or a class of yours"
    )


def _named(name: str, text: str, namespace: Mapping[str, Any]) -> Any:
    for scope in (namespace, vars(builtins), _flyte_types(), vars(typing), vars(datetime)):
        if name in scope:
            return scope[name]
    if name == "DataFrame":
        return dataframe_type()
    if name in LIBRARIES:
        return _library(LIBRARIES[name])
    common = ("int", "float", "str", "bool", "list", "dict", "datetime", "timedelta", "DataFrame")
    near = _ELSEWHERE.get(name.lower()) or closest(name, [*namespace, *common, *_flyte_types()])
    told = f"no type is called '{name}'" + (f" (in {text})" if text != name else "")
    raise ArgumentError(told, hint="" if near else _WRITE, suggestion=near)


def _library(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = f"{name} is not installed" if error.name == name else f"{name} does not load: {error}"
        raise ArgumentError(missing, hint=f"%pip install {name}") from None


def _flyte_types() -> dict[str, Any]:
    from flytekit.types.directory import FlyteDirectory
    from flytekit.types.file import FlyteFile
    from flytekit.types.structured import StructuredDataset

    return {"FlyteFile": FlyteFile, "FlyteDirectory": FlyteDirectory, "StructuredDataset": StructuredDataset}


def dataframe_type() -> Any:
    """pandas' DataFrame where pandas is installed, else flytekit's StructuredDataset."""
    try:
        import pandas
    except ImportError:
        return _flyte_types()["StructuredDataset"]
    return pandas.DataFrame
