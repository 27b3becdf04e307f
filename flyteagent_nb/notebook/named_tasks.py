"""The tasks that variables hold."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import ArgumentError, article, closest
from flyteagent_nb.notebook.scanning import excerpt
from flyteagent_nb.notebook.values import variable

if TYPE_CHECKING:
    from collections.abc import Mapping


def named_task(name: str, namespace: Mapping[str, Any], hint: str = "run the cell that defines it first") -> Any:
    """The task that a variable holds, with dots for attributes.

    Args:
        name: the variable.
        namespace: all variables.
        hint: what to do where there is none of that name.

    Raises:
        ArgumentError: there is no such variable, or it is no task.
    """
    from flytekit.core.base_task import PythonTask

    first = name.partition(".")[0]
    if first not in namespace:
        near = closest(first, [name for name, value in namespace.items() if isinstance(value, PythonTask)])
        meant = f"did you mean {near}? " if near else ""
        module, _, last = name.rpartition(".")
        imported = f", or import it: from {excerpt(module)} import {excerpt(last)}" if module and not near else ""
        raise ArgumentError(f"there is no variable {excerpt(first)}", suggestion=near, hint=f"{meant}{hint}{imported}")
    task = variable(name, namespace)
    if isinstance(task, types.ModuleType):
        within = [f"{name}.{each}" for each, value in vars(task).items() if isinstance(value, PythonTask)]
        hint = f"its tasks are {', '.join(within)}" if within else "there is no task in it"
        raise ArgumentError(f"{name} is not a task but a module", hint=hint)
    if not isinstance(task, PythonTask):
        tasks = [name for name, value in namespace.items() if isinstance(value, PythonTask)]
        near = None if callable(task) else closest(name, tasks)
        raise ArgumentError(
            f"{name} is not a task but {article(type(task).__name__)}",
            suggestion=near,
            hint="" if near else "workflows and other functions are called: my_workflow(x=1)",
        )
    return task
