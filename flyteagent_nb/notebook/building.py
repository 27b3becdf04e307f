"""A task of a plug-in's class, from its settings, its body and its interface."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import ArgumentError, CellError, FlyteAgentNBError, article, closest
from flyteagent_nb.notebook.bodies import reads
from flyteagent_nb.notebook.configuration import check, complete, fit, made, nested
from flyteagent_nb.notebook.field_types import NOTHING, type_name
from flyteagent_nb.tables import wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flytekit.core.base_task import PythonTask

    from flyteagent_nb.notebook.task_classes import TaskClass

RESULTS = "results"
"""What flytekit's SQL tasks call their table."""

_UNNAMED = re.compile(r"o\d+")
"""An output that ``--returns`` gives no name."""


def sql_outputs(sql: str, *, named: bool, frame: Any) -> dict[str, Any]:
    """The output of an SQL task where nothing declares it: a table, where one is wanted or comes back."""
    return {RESULTS: frame} if named or reads(sql) else {}


def build(
    kind: TaskClass,
    given: Any,
    *,
    name: str,
    body: str | None,
    input_types: Mapping[str, Any],
    outputs: dict[str, Any] | None,
    said: bool,
    function: Callable[..., Any] | None = None,
) -> PythonTask[Any]:
    """A task of a class.

    Args:
        kind: the class.
        given: its settings as pairs of key and value, a later one over an earlier; or the finished object of its config class.
        name: the task's name.
        body: the text for the setting that takes it, or None.
        input_types: the types of the inputs by name.
        outputs: the types of the outputs by name, or None where nothing is known of them.
        said: whether the person declared the outputs.
        function: what a class takes that makes a task of a function; it tells its name, inputs and outputs.

    Raises:
        ArgumentError: a setting that is not there, is missing, or has a wrong value; outputs that the class does not take.
        CellError: the class itself refuses what it is given.
    """
    values = _values(kind, given, body)
    if function is not None:
        values["task_function"] = function
        values.update({} if kind.config in values else {kind.config or "task_config": None})
        return _constructed(kind, values)
    values.update({"name": name} if kind.names_task else {})
    if kind.inputs and input_types:
        values[kind.inputs] = dict(input_types)
    if outputs and kind.output_type:
        if len(outputs) > 1:
            raise ArgumentError("an SQL task has one output, its table", hint="--returns results:DataFrame")
        values[kind.output_type] = next(iter(outputs.values()))
    elif outputs and kind.outputs:
        values[kind.outputs] = {
            RESULTS if _UNNAMED.fullmatch(n) and kind.language == "sql" else n: t for n, t in outputs.items()
        }
    task = _constructed(kind, values)
    if body is not None and getattr(task, "_query_template", None) == " ".join(body.split()):
        task._query_template = (
            body  # flytekit's SQLTask folds white space, which breaks comments and texts in the query
        )
    if said and outputs is not None:
        _check_outputs(kind, task, outputs)
    return task


def _constructed(kind: TaskClass, values: Mapping[str, Any]) -> PythonTask[Any]:
    try:
        task: PythonTask[Any] = kind.cls(**values)
    except FlyteAgentNBError:
        raise
    except Exception as error:  # the plug-in's constructor checks what it is given as it likes; the cause is kept
        told = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else error
        raise CellError(f"{kind.cls.__name__} does not take this cell: {told}", hint=_hint(kind)) from error
    return task


def _values(kind: TaskClass, given: Any, body: str | None) -> dict[str, Any]:
    """The settings as the constructor takes them."""
    owner = kind.cls.__name__
    fields = kind.all_settings if body is None else kind.settings
    if not isinstance(given, list):
        if not kind.config:
            raise ArgumentError(f"--config takes a dict for {owner}, not {article(type(given).__name__)}")
        values = {kind.config: given}
    else:
        settings = nested(given, fields)
        unknown = [key for key in settings if key not in fields]
        if kind.open_mapping:
            settings = _into_mapping(kind, settings, unknown)
        else:
            plain = kind.config and (kind.language == "python" or not kind.own.keys() & fields)
            check(unknown, fields, kind.config_class.__name__ if plain else owner)
        values = {key: fit(value, kind.own[key].python_type, key) for key, value in settings.items() if key in kind.own}
        if kind.config:
            values.update(_config(kind, {k: v for k, v in settings.items() if k not in kind.own}, body))
    if body is not None and kind.body in kind.own:
        values[kind.body] = body
    if kind.open_mapping:
        values.setdefault(kind.open_mapping, {})
    complete(values, kind.own, owner)
    return values


def _config(kind: TaskClass, settings: dict[str, Any], body: str | None) -> dict[str, Any]:
    """The config object, by its parameter; none where nothing is set and nothing need be."""
    if body is not None and kind.body and kind.body not in kind.own:
        settings[kind.body] = body
    fields = {key: m for key, m in kind.all_settings.items() if key not in kind.own}
    needs = any(m.default is NOTHING for m in fields.values())
    optional = kind.members[kind.config].default is not NOTHING
    return {} if not settings and needs and optional else {kind.config: made(kind.config_class, settings)}


def _into_mapping(kind: TaskClass, settings: dict[str, Any], unknown: list[str]) -> dict[str, Any]:
    """Keys that are no settings go into the one that takes any, unless they look like a misspelt setting."""
    place = kind.open_mapping
    others = [key for key in kind.all_settings if key != place]
    for key in unknown:
        near = closest(key, kind.all_settings)
        if near:
            raise ArgumentError(
                f"{kind.cls.__name__} has no setting '{key}'",
                suggestion=near,
                hint=f"did you mean {near}? a key of {place} that is called so is written -c {place}.{key}=...",
            )
    inside = {**{k: settings[k] for k in unknown}, **dict(settings.get(place) or {})}
    return {**{k: settings[k] for k in others if k in settings}, **({place: inside} if inside else {})}


def _check_outputs(kind: TaskClass, task: PythonTask[Any], outputs: dict[str, Any]) -> None:
    """Tell of declared outputs that the class does not have."""
    has = task.python_interface.outputs
    named = {name for name in outputs if not _UNNAMED.fullmatch(name)}
    same = len(outputs) == len(has) and named <= has.keys()
    if same and (kind.output_type or kind.outputs or list(outputs.values()) == list(has.values())):
        return
    told = ", ".join(f"{name}: {type_name(wanted(t) or t)}" for name, t in has.items()) or "none"
    example = next(iter(has), "")
    raise ArgumentError(
        f"the outputs of {kind.cls.__name__} are not those of --returns; they are: {told}",
        hint=f"--returns {example}:TYPE" if kind.output_type and example else "leave --returns out",
    )


def _hint(kind: TaskClass) -> str:
    names = ", ".join(name for name in kind.settings if name != kind.open_mapping)
    mapping = f"a key of {kind.open_mapping}" if kind.open_mapping else ""
    return "-c KEY=VALUE sets " + " or ".join(p for p in (names, mapping) if p) if names or mapping else ""
