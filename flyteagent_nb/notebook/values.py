"""The words of a magic's line as values: what an argument's text means, and what an input's text means in a namespace.

Nothing is evaluated but literals and the names of variables.
"""

from __future__ import annotations

import ast
import datetime
import keyword
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import ArgumentError, closest
from flyteagent_nb.notebook.commands import Argument, Kind
from flyteagent_nb.notebook.scanning import NOT_A_LITERAL, excerpt, unquoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_DURATION = re.compile(
    r"(?:(?P<days>N)d)?(?:(?P<hours>N)h)?(?:(?P<minutes>N)m)?(?:(?P<seconds>N)s)?(?:(?P<milliseconds>N)ms)?".replace(
        "N", r"[0-9]+(?:\.[0-9]+)?"
    )
)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_SHELLS = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})
"""What IPython itself puts into each notebook."""

_PYTHON_FOR = {"true": "True", "false": "False", "null": "None"}  # what JSON calls them
_FILLED = re.compile(r"\$([A-Za-z_][\w.]*)|\{(.+)\}", re.DOTALL)
_NAMES = frozenset(
    {Kind.TASK, Kind.TASK_TYPE, Kind.TASK_TYPE_VERSION, Kind.OWN_TYPE, Kind.ROUTE, Kind.RUN_ID, Kind.SECRET}
    | {Kind.SERVICE, Kind.CONNECTED, Kind.ADDRESS}
)
"""Names in which a ``$`` or a brace is a slip."""

_TYPE_NODES = (ast.Name, ast.Attribute, ast.Subscript, ast.BinOp, ast.Constant)


def read(argument: Argument, text: str) -> Any:
    """The value of an argument's text, by its kind.

    Raises:
        ArgumentError: the text is not of that kind; the argument is not named in it.
    """
    meant = _filled(text) if argument.kind in _NAMES or argument.field == "address" else ""
    if meant and argument.kind is not Kind.TASK:
        raise ArgumentError(
            f"{excerpt(text)} is taken as it stands: no $name and no {{name}} is filled in on this line",
            hint=f"get_ipython().run_line_magic('agent', f'... {{{meant}}}') does that",
        )
    return _READERS[argument.kind](argument, text)


def input_value(text: str, namespace: Mapping[str, Any], name: str = "name") -> Any:
    """The value of an input: a Python literal, else that of a variable (``year``, ``cfg.year``).

    Args:
        text: as written.
        namespace: the user's variables.
        name: the input's name, for the error's hint.

    Raises:
        ArgumentError: it is neither.
    """
    try:
        return ast.literal_eval(text)
    except NOT_A_LITERAL:
        pass
    if is_dotted_name(text):
        return variable(text, namespace, hint=f"a text stands in quotes: {name}='{excerpt(text)}'")
    meant = _filled(text)
    if not text.strip():
        raise ArgumentError(f"{name} has no value", hint=f"write {name}=2024, {name}='US' or {name}=a_variable")
    try:
        ast.parse(text.strip(), mode="eval")
    except NOT_A_LITERAL:
        alone = f"a variable is its name alone: {name}={meant}; " if is_dotted_name(meant) else ""
        hint = f"{alone}a text stands in quotes: {name}={excerpt(text)!r}"
    else:
        hint = (
            f"write the name alone: {name}={meant}"
            if is_dotted_name(meant)
            else f"nothing is computed on this line: put it into a variable first, and write {name}=the_variable; "
            f"or, if it is a text, quote it: {name}={excerpt(text)!r}"
        )
    raise ArgumentError(f"{excerpt(text)} is neither a Python literal nor the name of a variable", hint=hint)


def config_value(text: str, namespace: Mapping[str, Any]) -> Any:
    """The value of a configuration key: a Python literal, else a variable's for ``$name``, else the bare text.

    Raises:
        ArgumentError: there is no variable of that name.
    """
    try:
        return ast.literal_eval(text)
    except NOT_A_LITERAL:
        pass
    if text.startswith("$") and is_dotted_name(text[1:]):
        return variable(text[1:], namespace, hint=f"a text that begins with $ stands in quotes: '{excerpt(text)}'")
    return text


def variable(name: str, namespace: Mapping[str, Any], *, hint: str = "") -> Any:
    """The value of a variable, with dots for attributes.

    Raises:
        ArgumentError: there is no such variable, or it has no such attribute. What a property of the user's raises
            passes through.
    """
    first, *attributes = name.split(".")
    if first not in namespace:
        near = _PYTHON_FOR.get(first) or closest(
            first, (n for n in namespace if not n.startswith("_") and n not in _SHELLS)
        )
        meant = ".".join([near, *attributes]) if near else None
        raise _missing(f"there is no variable {excerpt(first)}", meant, hint or "run the cell that defines it first")
    value = namespace[first]
    for i, attribute in enumerate(attributes):
        try:
            value = getattr(value, attribute)
        except AttributeError:
            owner = ".".join([first, *attributes[:i]])
            near = closest(attribute, (n for n in dir(value) if not n.startswith("_")))
            message = f"{excerpt(owner)} has no attribute {excerpt(attribute)}"
            raise _missing(message, f"{owner}.{near}" if near else None, hint) from None
    return value


def _missing(message: str, near: str | None, hint: str) -> ArgumentError:
    meant = f"did you mean {near}?" if near else ""
    return ArgumentError(message, hint="; ".join(part for part in (meant, hint) if part), suggestion=near)


def input_values(pairs: Iterable[tuple[str, str | None]], mapping: str, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """All inputs of a line by name: those given one by one, and those of ``--inputs``.

    Args:
        pairs: name and value as written; None takes the variable of that name.
        mapping: the text of ``--inputs``: ``{'a': 1}``, ``dict(a=1)`` or the name of a variable that holds a mapping; or "".
        namespace: the user's variables.

    Raises:
        ArgumentError: a value that cannot be read, or an input given both ways.
    """
    values = _mapping_values(unquoted(mapping), namespace) if mapping else {}
    for name in values:
        if not name.isidentifier():
            near = re.sub(r"\W", "_", name)
            hint = f"write a name such as {near if near.isidentifier() else 'year'}"
            raise ArgumentError(f"--inputs: {excerpt(repr(name))} cannot be the name of an input", hint=hint)
    for name, text in pairs:
        if name in values:
            raise ArgumentError(f"the input {name} is given twice: on its own and in --inputs", hint="give it once")
        if text is None:
            values[name] = variable(name, namespace, hint=f"give the input its value: {name}=2024 or {name}='US'")
        else:
            values[name] = input_value(text, namespace, name)
    return values


def _mapping_values(text: str, namespace: Mapping[str, Any]) -> dict[str, Any]:
    forms = """write --inputs {'a': 1}, --inputs dict(a=1), or the name of a variable that holds a dict"""
    if is_dotted_name(text):
        found = variable(text, namespace, hint=forms)
        if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
            raise ArgumentError(f"--inputs: {text} is not a dict with texts as keys", hint=forms)
        return dict(found)
    text = text.strip()
    try:
        node = ast.parse(text, mode="eval").body
    except NOT_A_LITERAL:
        node = None
    items: list[tuple[Any, ast.expr]]
    if isinstance(node, ast.Dict):
        items = [
            (k.value if isinstance(k, ast.Constant) else None, v) for k, v in zip(node.keys, node.values, strict=True)
        ]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        items = [(k.arg, k.value) for k in node.keywords]
    else:
        raise ArgumentError(f"--inputs: {excerpt(text)} is not a dict", hint=forms)
    values: dict[str, Any] = {}
    for name, value in items:
        if not isinstance(name, str):
            raise ArgumentError(f"--inputs: a key of {excerpt(text)} is not a text", hint=forms)
        if name in values:
            raise ArgumentError(f"--inputs: {name} is given twice", hint="give it once")
        values[name] = input_value(ast.get_source_segment(text, value) or "", namespace, name)
    return values


def is_dotted_name(text: str) -> bool:
    """Whether the text is a variable's name, with or without attributes: ``cfg.year``."""
    return all(part.isidentifier() for part in text.split("."))


def duration(text: str) -> datetime.timedelta:
    """A length of time: ``90`` and ``90s``, ``10m``, ``1.5h``, ``2d``, ``1h30m``, ``500ms``.

    Raises:
        ArgumentError: it is not one of these, or longer than Python can count.
    """
    text = unquoted(text)
    try:
        if _NUMBER.fullmatch(text):
            return datetime.timedelta(seconds=float(text))
        found = _DURATION.fullmatch(text)
        if found and text:
            return datetime.timedelta(**{unit: float(n) for unit, n in found.groupdict().items() if n})
    except OverflowError:
        raise ArgumentError(f"{excerpt(text)} is too long a time", hint="days at most 999999999d") from None
    raise ArgumentError(
        f"{excerpt(text)} is not a length of time",
        hint="write 90s, 10m, 1.5h, 2d, 1h30m or 500ms; a bare 90 is seconds",
    )


def output_types(text: str) -> tuple[tuple[str, str], ...]:
    """The outputs that ``--returns`` declares, as (name, type as written); a type without a name is ``o0``, ``o1``, ...

    Raises:
        ArgumentError: it cannot be read, or names an output twice.
    """
    text = unquoted(text)
    forms = "write --returns path:str, --returns x:dict[str,int],y:list[float], or --returns int"
    source = f"{{{text}}}"
    try:
        # In braces it is Python: a dict of names and types, or a set of types. So brackets and commas nest as they should.
        node = ast.parse(source, mode="eval").body
    except NOT_A_LITERAL:
        node = None
    if isinstance(node, ast.Dict) and node.keys:
        names = [key.id if isinstance(key, ast.Name) else None for key in node.keys]
        types = node.values
    elif isinstance(node, ast.Set):
        names = [f"o{i}" for i in range(len(node.elts))]
        types = node.elts
    else:
        raise ArgumentError(f"{excerpt(text)} is not a list of outputs", hint=forms)
    outputs: dict[str, str] = {}
    for name, kind in zip(names, types, strict=True):
        if name is None or not isinstance(kind, _TYPE_NODES):
            raise ArgumentError(f"{excerpt(text)} is not a list of outputs", hint=forms)
        if name in outputs:
            raise ArgumentError(f"the output {name} is declared twice", hint="give each output its own name")
        outputs[name] = ast.get_source_segment(source, kind) or ""
    return tuple(outputs.items())


def _text(_: Argument, text: str) -> str:
    text = unquoted(text)
    if not text:
        raise ArgumentError("it is empty", hint="give it a text, or leave it out")
    return text


def _number(least: int, most: int | None = None) -> Callable[[Argument, str], int]:
    span = f"{least} or more" if most is None else f"from {least} to {most}"
    hint = f"write a number {f'such as {max(least, 3)}' if most is None else span}"

    def read(_: Argument, text: str) -> int:
        try:
            number = int(unquoted(text))
        except ValueError:  # also more digits than Python converts
            number = least - 1
        if number < least or (most is not None and number > most):
            raise ArgumentError(f"{text} is not a whole number, {span}", hint=hint)
        return number

    return read


def _choice(argument: Argument, text: str) -> str:
    by_fold = {choice.lower(): choice for choice in argument.choices}
    text = unquoted(text)
    if text.lower() not in by_fold:
        near = closest(text, argument.choices)
        choices = f"it is one of {', '.join(argument.choices)}"
        hint = f"did you mean {near}? {choices}" if near else choices
        raise ArgumentError(f"{text} is not known here", hint=hint, suggestion=near)
    return by_fold[text.lower()]


def _new_name(_: Argument, text: str) -> str:
    text = unquoted(text)
    if not text.isidentifier() or keyword.iskeyword(text):
        raise ArgumentError(
            f"{text or 'an empty text'} cannot be the name of a variable", hint="write a name such as df"
        )
    return text


def _new_names(argument: Argument, text: str) -> tuple[str, ...]:
    parts = [part.strip() for part in unquoted(text).split(",")]
    if "" in parts:
        raise ArgumentError(f"{text} has an empty name", hint="write one name, or several without white space: a,b")
    names = tuple(_new_name(argument, part) for part in parts)
    for name in names:
        if names.count(name) > 1 and name != "_":
            raise ArgumentError(f"{name} is given twice", hint="give each output its own name, or _ for one to drop")
    return names


def _filled(text: str) -> str:
    """What ``$name`` or ``{name}`` names, where a text is one of them; else an empty text."""
    found = _FILLED.fullmatch(text)
    return found[1] or found[2] if found else ""


def _variable(argument: Argument, text: str) -> str:
    name = _filled(text) or unquoted(text)
    is_file = argument.kind is Kind.TASK and name.endswith(".py")
    if is_dotted_name(text) and not is_file:
        return text
    called, bracket, _rest = name.partition("(")
    if is_file:  # as pyflyte takes it
        module = name.removesuffix(".py").rpartition("/")[2]
        hint = f"import the task and write its name: from {excerpt(module)} import my_task"
    elif is_dotted_name(name):
        hint = f"write the name alone: {name}"
    elif argument.kind is Kind.TASK and bracket and is_dotted_name(called):
        hint = f"write {called} name=value here, or call it in a cell: {excerpt(text)}"
    elif argument.kind is Kind.TASK and is_dotted_name(name.rstrip(",")):
        hint = f"there are no commas: {name.rstrip(',')} name=value name=value"
    else:
        hint = "put it into a variable, and write its name"
    raise ArgumentError(f"{excerpt(text)} is not the name of a variable", hint=hint)


def _pair(text: str, example: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    if not name:
        raise ArgumentError(f"{text} has no name before =", hint=f"write {example}")
    return name, value if equals else None


def _input(_: Argument, text: str) -> tuple[str, str | None]:
    name, value = _pair(text, "year=2024")
    if not name.isidentifier() or keyword.iskeyword(name):
        hint = "write name=value" + (f", such as {name.rpartition('.')[2]}={name}" if is_dotted_name(name) else "")
        raise ArgumentError(f"{name} cannot be the name of an input", hint=hint)
    if value == "":
        raise ArgumentError(
            f"{name}= has no value", hint=f"write {name}=2024 without white space; an empty text is {name}=''"
        )
    return name, value


def _assignment(argument: Argument, text: str) -> tuple[str, str | None]:
    name, value = _input(argument, text)
    if value is None:
        raise ArgumentError(
            f"{name} has no value", hint=f"write {name}=2024, {name}='US' or {name}={name} for the variable"
        )
    return name, value


def _table(_: Argument, text: str) -> tuple[str, str]:
    name, value = _pair(text, "shop.orders=df")
    if not value:
        raise ArgumentError(f"{name} has no value", hint=f"write {name}=df, or {name}='orders.csv'")
    return unquoted(name), value


def _config(_: Argument, text: str) -> tuple[str, str]:
    key, value = _pair(text, "Location=EU")
    if value is None:
        raise ArgumentError(f"{key} has no value", hint=f"write {key}=VALUE; for a variable {key}=$name")
    return key, value


def _task_type_version(argument: Argument, text: str) -> tuple[str, int | None]:
    name, at, version = _text(argument, text).rpartition("@")
    if not at:
        return version, None
    if not name:
        raise ArgumentError(f"{text} has no task type before @", hint="write my_job or my_job@1")
    return name, _number(0)(argument, version)


_READERS: dict[Kind, Callable[[Argument, str], Any]] = {
    Kind.TEXT: _text,
    Kind.FILE: _text,
    Kind.COUNT: _number(0),
    Kind.POSITIVE: _number(1),
    Kind.PORT: _number(0, 65535),
    Kind.DURATION: lambda _, text: duration(text),
    Kind.CHOICE: _choice,
    Kind.NEW_NAME: _new_name,
    Kind.NEW_NAMES: _new_names,
    Kind.VARIABLE: _variable,
    Kind.INPUT: _input,
    Kind.ASSIGNMENT: _assignment,
    Kind.TABLE: _table,
    Kind.INPUTS: _text,
    Kind.CONFIG: _config,
    Kind.RETURNS: lambda _, text: output_types(text),
    Kind.TASK: _variable,
    Kind.TASK_TYPE: _text,
    Kind.TASK_TYPE_VERSION: _task_type_version,
    Kind.OWN_TYPE: _task_type_version,
    Kind.ROUTE: _task_type_version,
    Kind.RUN_ID: _text,
    Kind.SECRET: _text,
    Kind.SERVICE: _text,
    Kind.CONNECTED: _text,
    Kind.ADDRESS: _text,
    Kind.VERB: _text,
}
