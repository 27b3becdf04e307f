"""A cell's text -> a flytekit task: Python that defines one, SQL for a plug-in's SQL task, YAML or JSON as the configuration.

The text goes in as it stands: no templating, no ``eval`` of values. What varies is an input, as it will be in production.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import typing
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import ArgumentError, CellError, closest
from flyteagent_nb.notebook.annotations import dataframe_type, type_of_text, type_of_value
from flyteagent_nb.notebook.values import config_value, variable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from flytekit.core.base_task import PythonTask

    from flyteagent_nb.notebook.arguments import AgentTaskArguments

_NO_WORDS = re.compile(r"""--[^\n]*|/\*.*?\*/|'[^']*'|"[^"]*\"""", re.DOTALL)
"""Comments and quoted texts of SQL, in which a semicolon ends nothing."""

_WORD = re.compile(r"[A-Za-z]+")
_READS = frozenset(
    {
        "SELECT",
        "WITH",
        "FROM",
        "VALUES",
        "TABLE",
        "SHOW",
        "DESCRIBE",
        "DESC",
        "EXPLAIN",
        "SUMMARIZE",
        "PIVOT",
        "PRAGMA",
        "CALL",
    }
)


def task_of_cell(
    arguments: AgentTaskArguments,
    body: str,
    *,
    namespace: dict[str, Any],
    inputs: Mapping[str, Any],
    compile_python: Callable[[str], tuple[ast.Module, Callable[[], Any]]],
    versions: Callable[[str], Iterable[int]],
    default_name: str,
) -> PythonTask[Any]:
    """The task that a cell describes.

    Args:
        arguments: the magic's line.
        body: the cell's text.
        namespace: the user's.
        inputs: the values of the inputs, from which SQL, YAML and JSON cells have their types.
        compile_python: compiles Python: its tree, and what runs it in the user's namespace and returns the value of its last
            expression, or None. Raises SyntaxError.
        versions: the served versions of a task type, empty where nobody serves it.
        default_name: the task's name where the line gives none.

    Raises:
        CellError: the body is empty, does not parse, or has no task in it.
        ArgumentError: options that do not go with it.
    """
    __tracebackhide__ = _rich_traceback_omit = True  # an error in the user's own Python is not ours to explain
    if not body.strip():
        raise CellError("the cell is empty", hint="%%agent_task --help shows what to write in it")
    task_type = arguments.task_type
    sql_class = sql_task_class(task_type) if task_type else None
    language = arguments.language
    if language == "auto":
        language = (
            "python" if not task_type else "sql" if sql_class else "json" if body.lstrip().startswith("{") else "yaml"
        )
    if language == "python":
        return _python_task(arguments, body, namespace, compile_python)
    if not task_type:
        raise ArgumentError(
            f"a cell in {language} needs its task type", hint="%%agent_task TASK_TYPE ...; %agent types lists them"
        )
    input_types = {name: type_of_value(value, name) for name, value in inputs.items()}
    outputs = None
    if arguments.returns is not None:
        outputs = {name: type_of_text(text, namespace) for name, text in arguments.returns if text != "None"}
    name = arguments.name or default_name
    if language == "sql":
        if sql_class is None:
            near = closest(task_type, sql_task_classes())
            raise CellError(
                f"no installed plug-in has an SQL task for '{task_type}'",
                hint=(f"did you mean {near}? " if near else "")
                + f"the SQL task types are: {', '.join(sorted(sql_task_classes())) or 'none'}",
            )
        return _sql_task(sql_class, arguments, body, namespace, name, input_types, outputs)
    custom = _mapping(body, language)
    custom.update({key: config_value(text, namespace) for key, text in arguments.config})
    if arguments.config_variable:
        raise ArgumentError(
            "--config goes with SQL: the cell is the configuration", hint="write it into the cell, or use -c KEY=VALUE"
        )
    served = sorted(versions(task_type))
    version = 0 if 0 in served or not served else served[-1]
    return _custom_task(task_type, version, name, custom, input_types, outputs or {})


# --- Python ---


def _python_task(
    arguments: AgentTaskArguments,
    body: str,
    namespace: dict[str, Any],
    compile_python: Callable[[str], tuple[ast.Module, Callable[[], Any]]],
) -> PythonTask[Any]:
    __tracebackhide__ = _rich_traceback_omit = True
    from flytekit.core.base_task import PythonTask

    for given, option, instead in (
        (arguments.config, "-c", "@task(task_config=...)"),
        (arguments.config_variable, "--config", "@task(task_config=...)"),
        (arguments.returns, "--returns", "def my_task(x: int) -> str"),
        (arguments.name, "--name", "def my_name(...)"),
    ):
        if given:
            raise ArgumentError(f"{option} does not go with Python: the task in the cell says it", hint=instead)
    try:
        tree, run = compile_python(body)
    except SyntaxError as error:
        line = error.lineno + 1 if error.lineno else None  # the magic's own line is the first
        where = f"line {line}: " if line else ""
        raise CellError(
            f"the cell is not Python: {where}{error.msg}" + (f": {error.text.strip()}" if error.text else ""),
            line=line,
            hint="for SQL, YAML or JSON name the task type: %%agent_task TASK_TYPE; %agent types lists them",
        ) from None
    value = run()
    if isinstance(value, PythonTask):
        task = value
    else:
        names = [name for name in _bound_names(tree) if isinstance(namespace.get(name), PythonTask)]
        if not names:
            raise CellError(
                "the cell defines no task",
                hint="decorate a function with @task(task_config=...), or make the last line the name of a task",
            )
        task = namespace[names[-1]]
    if arguments.task_type and task.task_type != arguments.task_type:
        raise CellError(
            f"the cell's task '{task.name}' is a {task.task_type}, not a {arguments.task_type}",
            hint="leave the task type out of the line",
        )
    return task


def _bound_names(tree: ast.Module) -> Iterable[str]:
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)


# --- SQL ---


def sql_task_classes() -> dict[str, Any]:
    """The SQL task classes of the plug-ins that are loaded, by task type."""
    from flytekit.core.base_sql_task import SQLTask

    found: dict[str, Any] = {}
    open_classes: list[Any] = [SQLTask]
    while open_classes:
        for cls in open_classes.pop().__subclasses__():
            open_classes.append(cls)
            task_type = getattr(cls, "_TASK_TYPE", None)
            if isinstance(task_type, str):
                found[task_type] = cls  # a class of the notebook that is defined again comes last
    return found


def sql_task_class(task_type: str) -> Any | None:
    """The SQL task class for ``task_type``, or None."""
    return sql_task_classes().get(task_type)


def config_class(cls: Any) -> Any | None:
    """The class that a task class takes as its ``task_config``, or None."""
    try:
        annotation = typing.get_type_hints(cls.__init__).get("task_config")
    except (NameError, TypeError):  # an annotation that cannot be resolved tells nothing
        return None
    for candidate in (annotation, *typing.get_args(annotation)):
        if dataclasses.is_dataclass(candidate):
            return candidate
    return None


def config_fields(task_type: str) -> list[str]:
    """The fields of the configuration of a task type's SQL task, for completion."""
    cls = sql_task_class(task_type)
    config = config_class(cls) if cls is not None else None
    return [field.name for field in dataclasses.fields(config)] if config is not None else []


def _sql_task(
    cls: Any,
    arguments: AgentTaskArguments,
    body: str,
    namespace: dict[str, Any],
    name: str,
    input_types: dict[str, Any],
    outputs: dict[str, Any] | None,
) -> PythonTask[Any]:
    parameters = inspect.signature(cls.__init__).parameters
    given: dict[str, Any] = {"name": name, "query_template": body}
    config = _config(cls, arguments, namespace)
    if config is not None or (
        "task_config" in parameters and parameters["task_config"].default is inspect.Parameter.empty
    ):
        given["task_config"] = config
    if input_types:
        given["inputs"] = input_types
    if outputs is None:
        outputs = {"results": dataframe_type()} if arguments.outputs or reads(body) else {}
    if outputs:
        if len(outputs) > 1:
            raise ArgumentError("an SQL task has one output, its table", hint="--returns results:DataFrame")
        given["output_schema_type" if "output_schema_type" in parameters else "output_structured_dataset_type"] = next(
            iter(outputs.values())
        )
    try:
        task: PythonTask[Any] = cls(**given)
    except (TypeError, ValueError) as error:
        raise CellError(
            f"{cls.__name__} does not take this cell: {error}", hint="%%agent_task --help tells the options"
        ) from error
    task._query_template = body  # flytekit's SQLTask folds white space, which breaks comments and texts in the query
    return task


def reads(sql: str) -> bool:
    """Whether the last statement of ``sql`` brings back a table, by its first word."""
    statements = [s for s in _NO_WORDS.sub(" ", sql).split(";") if s.strip()]
    word = _WORD.search(statements[-1]) if statements else None
    return word is not None and word[0].upper() in _READS


def _config(cls: Any, arguments: AgentTaskArguments, namespace: dict[str, Any]) -> Any:
    expected = config_class(cls)
    values: dict[str, Any] = {}
    if arguments.config_variable:
        given = variable(arguments.config_variable, namespace)
        if not isinstance(given, dict):
            if arguments.config:
                raise ArgumentError(
                    "-c does not go with a finished --config", hint="make --config a dict, or leave -c out"
                )
            return given
        values.update(given)
    values.update({key: config_value(text, namespace) for key, text in arguments.config})
    if expected is None:
        return values or None
    fields = {field.name: field for field in dataclasses.fields(expected)}
    for key in values:
        if key not in fields:
            raise ArgumentError(
                f"{expected.__name__} has no field '{key}'",
                suggestion=closest(key, fields),
                hint="" if closest(key, fields) else f"its fields are: {', '.join(fields)}",
            )
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        options = " ".join(f"-c {name}=..." for name in missing)
        raise ArgumentError(f"{expected.__name__} needs {', '.join(missing)}", hint=f"write {options}")
    hints = _hints(expected)
    return expected(**{key: _fit(value, hints.get(key), key) for key, value in values.items()})


def _hints(cls: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError:  # an annotation that cannot be resolved: the value goes in as it is
        return {}


def _fit(value: Any, annotation: Any, key: str) -> Any:
    """The value as the field's type; texts are what ``-c`` gives for anything that is no literal."""
    wanted = [t for t in (annotation, *typing.get_args(annotation)) if isinstance(t, type) and t is not type(None)]
    if not wanted or value is None or isinstance(value, tuple(wanted)):
        return value
    for cls in wanted:
        if cls is str and isinstance(value, (int, float)):
            return str(value)
        if cls is float and isinstance(value, int):
            return float(value)
    if any(cls in (int, float, bool, str, list, dict) for cls in wanted):
        names = " or ".join(cls.__name__ for cls in wanted)
        raise ArgumentError(
            f"-c {key} takes a {names}, not {type(value).__name__} {value!r}", hint="quotes make a text of it"
        )
    return value


# --- YAML and JSON ---


def _mapping(body: str, language: str) -> dict[str, Any]:
    import yaml

    try:
        value = json.loads(body) if language == "json" else yaml.safe_load(body)
    except json.JSONDecodeError as error:
        raise CellError(
            f"the cell is not JSON: line {error.lineno + 1}, column {error.colno}: {error.msg}", line=error.lineno + 1
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 2}, column {mark.column + 1}: " if mark is not None else ""
        raise CellError(
            f"the cell is not YAML: {where}{getattr(error, 'problem', None) or error}",
            line=mark.line + 2 if mark is not None else None,
        ) from None
    if not isinstance(value, dict):
        raise CellError(
            f"the cell is a {type(value).__name__}, and the configuration of a task is a mapping",
            hint="write `key: value` lines; for SQL add --lang sql, for Python leave the task type out",
        )
    try:  # what the wire takes: YAML knows dates and sets, a protobuf Struct does not
        json.dumps(value)
    except TypeError as error:
        raise CellError(f"the configuration holds what JSON cannot: {error}", hint="put quotes around dates") from None
    return {str(key): item for key, item in value.items()}


def _custom_task(
    task_type: str, version: int, name: str, custom: dict[str, Any], inputs: dict[str, Any], outputs: dict[str, Any]
) -> PythonTask[Any]:
    from flytekit.core.base_task import PythonTask
    from flytekit.core.interface import Interface
    from flytekit.extend.backend.base_connector import AsyncConnectorExecutorMixin

    class CustomTask(AsyncConnectorExecutorMixin, PythonTask[None]):  # type: ignore[misc]
        """A task that is its type, its configuration and its interface."""

        def get_custom(self, settings: Any) -> dict[str, Any]:
            """The cell's mapping."""
            return custom

    return CustomTask(
        task_type=task_type, name=name, interface=Interface(inputs=inputs, outputs=outputs), task_type_version=version
    )
