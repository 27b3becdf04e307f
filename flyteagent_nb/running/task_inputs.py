"""The inputs of a task, by its interface: names and defaults checked, values made literals. What does not fit is named."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from flyteidl.core import literals_pb2
from flytekit.core.promise import Promise
from flytekit.core.type_engine import TypeEngine, UnionTransformer, get_underlying_type
from flytekit.utils.asyn import loop_manager

from flyteagent_nb.errors import InputError, closest
from flyteagent_nb.running.wording import article, first_line, shown, type_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flytekit import FlyteContext
    from flytekit.core.base_task import PythonTask
    from flytekit.core.type_engine import TypeTransformerFailedError

_FAILED_ARGUMENT = re.compile(r"Failed argument '([^']+)': (.*)", re.DOTALL)


def check_names(task: PythonTask[Any], names: Iterable[str], positional: int = 0) -> None:
    """Check the inputs that a call gives by name, and how many it gives by position.

    Raises:
        InputError: the task has no such input, or fewer inputs.
    """
    inputs = task.python_interface.inputs
    for name in names:
        if name not in inputs:
            near = closest(name, inputs)
            raise InputError(
                f"task '{task.name}' has no input '{name}'",
                task=task.name,
                name=name,
                hint=(f"did you mean {near}? " if near else "") + f"its inputs are: {_signature(task) or 'none'}",
            )
    if positional > len(inputs):
        raise InputError(
            f"task '{task.name}' takes {len(inputs)} input{'' if len(inputs) == 1 else 's'}, and was given {positional}",
            task=task.name,
            hint=f"its inputs are: {_signature(task) or 'none'}",
        )


def input_error(task: PythonTask[Any], inputs: Mapping[str, Any], error: TypeTransformerFailedError) -> InputError:
    """flytekit's error on an input of a plain call as ours, which names the input and its type."""
    text = str(error)
    found = _FAILED_ARGUMENT.search(text)
    name = found[1] if found else ""
    # Another task's output has no value to show.
    if found is None or name not in inputs or isinstance(inputs[name], Promise):
        return InputError(text, task=task.name, name=name, hint=f"its inputs are: {_signature(task)}")
    return _wrong_input(task, name, inputs[name], task.python_interface.inputs[name], ValueError(found[2]))


def complete_inputs(task: PythonTask[Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs in the interface's order, with its defaults.

    Raises:
        InputError: one that the task has not, or one that is missing.
    """
    check_names(task, inputs)
    interface = task.python_interface
    complete: dict[str, Any] = {}
    missing = []
    for name, (python_type, default) in interface.inputs_with_defaults.items():
        if name in inputs:
            complete[name] = inputs[name]
        elif default is not None or _takes_none(python_type):
            complete[name] = default
        else:
            missing.append(name)
    if missing:
        names = ", ".join(f"'{name}'" for name in missing)
        raise InputError(
            f"task '{task.name}' misses input{'s' if len(missing) > 1 else ''} {names}",
            task=task.name,
            name=missing[0],
            hint=f"its inputs are: {_signature(task)}",
        )
    return complete


def plain_literal(
    task: PythonTask[Any], context: FlyteContext, name: str, value: Any, python_type: type
) -> literals_pb2.Literal:
    """The literal of a value of a plain type.

    Raises:
        InputError: the value is none of it.
    """
    transformer = TypeEngine.get_transformer(python_type)
    expected = TypeEngine.to_literal_type(python_type)
    try:
        TypeEngine.to_literal_checks(value, python_type, expected)
        transformer.assert_type(python_type, value)
        return transformer.to_literal(context, value, python_type, expected).to_flyte_idl()
    except Exception as error:  # a transformer may raise anything; the cause is kept
        raise _wrong_input(task, name, value, python_type, error) from error


def literals_of(task: PythonTask[Any], context: FlyteContext, values: Mapping[str, Any]) -> literals_pb2.LiteralMap:
    """The literals of values of any type; it may read, write and compute for seconds.

    Raises:
        InputError: a value that its type does not take.
    """
    literals = literals_pb2.LiteralMap()
    types = task.python_interface.inputs
    for name, value in values.items():
        try:
            # Not TypeEngine.to_literal, which pickles each value as a key of its cache, nor dict_to_literal_map, which loses the reason.
            made = loop_manager.run_sync(
                TypeEngine.async_to_literal, context, value, types[name], TypeEngine.to_literal_type(types[name])
            )
        except Exception as error:  # a type's transformer may raise anything; the cause is kept
            raise _wrong_input(task, name, value, types[name], error) from error
        literals.literals[name].CopyFrom(made.to_flyte_idl())
    return literals


def _wrong_input(task: PythonTask[Any], name: str, value: Any, python_type: Any, error: Exception) -> InputError:
    return InputError(
        f"input '{name}' of task '{task.name}' takes {article(type_name(python_type))}, not {shown(value)}",
        task=task.name,
        name=name,
        hint=first_line(error),
    )


def _signature(task: PythonTask[Any]) -> str:
    return ", ".join(f"{name}: {type_name(t)}" for name, t in task.python_interface.inputs.items())


def _takes_none(python_type: Any) -> bool:
    return bool(UnionTransformer.is_optional_type(get_underlying_type(python_type)))
