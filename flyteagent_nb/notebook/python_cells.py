"""A cell of Python -> the task that it defines."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import ArgumentError, CellError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flytekit.core.base_task import PythonTask

    from flyteagent_nb.notebook.arguments import AgentTaskArguments


def python_task(
    arguments: AgentTaskArguments,
    body: str,
    namespace: dict[str, Any],
    compile_python: Callable[[str], tuple[ast.Module, Callable[[], Any]]],
    task_of_function: Callable[[Callable[..., Any]], PythonTask[Any]] | None = None,
) -> PythonTask[Any]:
    """The task that a cell of Python defines: the value of its last line, else the last task that it gives a name.

    Args:
        arguments: the magic's line.
        body: the cell's text.
        namespace: the user's.
        compile_python: as for :func:`~flyteagent_nb.notebook.cells.task_of_cell`.
        task_of_function: makes a task of a function that the cell leaves undecorated, by the task type and the settings of the line.
            The task takes the function's name then, as with a decorator. None where the line names no type whose tasks are made so.

    Raises:
        CellError: it is not Python, or has no task in it. What the cell's own code raises passes through.
        ArgumentError: options that do not go with Python.
    """
    __tracebackhide__ = _rich_traceback_omit = True
    from flytekit.core.base_task import PythonTask

    try:
        tree, run = compile_python(body)
    except SyntaxError as error:
        line = error.lineno + 1 if error.lineno else None  # the magic's own line is the first
        where, written = f"line {line}: " if line else "", error.text.strip() if error.text else ""
        if _awaits(body):
            raise CellError(
                f"a cell that defines a task has no `await` at its top level: {where}{written}".rstrip(": "),
                line=line,
                hint="await it in a cell before, and use what came of it here",
            ) from None
        raise CellError(
            f"the cell is not Python: {where}{error.msg}" + (f": {written}" if written else ""),
            line=line,
            hint="for SQL, YAML or JSON name the task type: %%agent_task TASK_TYPE; %agent types lists them",
        ) from None
    function = _plain_function(tree) if task_of_function is not None else ""
    for given, option, instead in (
        (arguments.config and not function, "-c", "@task(task_config=...)"),
        (arguments.config_variable and not function, "--config", "@task(task_config=...)"),
        (arguments.returns, "--returns", "def my_task(x: int) -> str"),
        (arguments.name, "--name", "def my_name(...)"),
    ):
        if given:
            raise ArgumentError(f"{option} does not go with Python: the task in the cell says it", hint=instead)
    value = run()
    names = [name for name in _bound_names(tree) if isinstance(namespace.get(name), PythonTask)]
    settings = arguments.config or arguments.config_variable
    if task_of_function is not None and function and (settings or not names):
        namespace[function] = task = task_of_function(namespace[function])
    elif isinstance(value, PythonTask):
        task = value
    else:
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


def _awaits(body: str) -> bool:
    """Whether a cell that Python does not take is one that a notebook takes: it awaits at its top level."""
    try:
        compile(body, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _plain_function(tree: ast.Module) -> str:
    """The name of the function that ends the cell, where nothing decorates it; empty where there is none."""
    last = tree.body[-1] if tree.body else None
    plain = isinstance(last, (ast.FunctionDef, ast.AsyncFunctionDef)) and not last.decorator_list
    return last.name if plain else ""  # type: ignore[union-attr]  # what it is was asked above


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
