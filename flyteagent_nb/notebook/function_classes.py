"""Task classes that take a function: the classes of configuration that they go by, and the function of a cell that has none."""

from __future__ import annotations

import inspect
import types
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flyteagent_nb.notebook.configuration import fields_of
from flyteagent_nb.notebook.field_types import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flyteagent_nb.notebook.task_classes import TaskClass


def by_config(kind: TaskClass, task_type: str) -> list[TaskClass]:
    """A class that takes a function, once for each class of its configuration that makes the task type: ``Spark``, ``DatabricksV2``."""
    from flytekit.core.task import TaskPlugins

    if kind.language != "python" or kind.config_class is None:
        return [kind]
    configs = [kind.config_class]
    for config in configs:
        configs += [c for c in config.__subclasses__() if c not in configs]
    ours = [c for c in configs if c is kind.config_class or TaskPlugins.find_pythontask_plugin(c) is kind.cls]
    if len(ours) > 1:
        ours = [c for c in ours if _type_with(kind, c) in ("", task_type)] or ours
    return [replace(kind, config_class=c) for c in ours]


def _type_with(kind: TaskClass, config_class: Any) -> str:
    """The task type of a class with a configuration that says nothing; empty where it cannot do without more."""
    config = object.__new__(config_class)  # its own constructor may ask for values, or log
    try:
        for name, member in (fields_of(config_class) or {}).items():
            object.__setattr__(config, name, None if member.default is NOTHING else member.default)
        return str(kind.cls(**{kind.config: config, "task_function": without_code("probe", {})}).task_type)
    except Exception:  # the plug-in's constructor looks at what is not there
        return ""


def without_code(name: str, input_types: Mapping[str, Any]) -> Callable[..., Any]:
    """A function of these inputs that does nothing, for a task that is all in its configuration: a notebook of Databricks'."""

    # flytekit takes none of a function's own.
    function = types.FunctionType(_nothing.__code__, {"__name__": "__main__"}, name)
    function.__annotations__ = dict(input_types)
    parameters = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, annotation=t) for n, t in input_types.items()]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return function


def _nothing(**_: Any) -> None: ...
