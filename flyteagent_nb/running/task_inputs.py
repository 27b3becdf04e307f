"""The inputs of a task, by its interface: names and defaults checked, values made literals. What does not fit is named."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, get_origin

from flyteidl.core import literals_pb2
from flytekit import FlyteContextManager
from flytekit.core.array_node_map_task import ArrayNodeMapTask
from flytekit.core.promise import Promise
from flytekit.core.type_engine import TypeEngine, UnionTransformer, get_underlying_type
from flytekit.core.workflow import WorkflowBase
from flytekit.utils.asyn import loop_manager

from flyteagent_nb import scalars, tables
from flyteagent_nb.errors import InputError, article, closest
from flyteagent_nb.running.primitives import primitive_literal
from flyteagent_nb.running.wording import first_line, shown, type_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flytekit import FlyteContext
    from flytekit.core.base_task import PythonTask

_FAILED_ARGUMENT = re.compile(r"Failed argument '([^']+)': (.*)", re.DOTALL)
_FAILED_BINDING = re.compile(r"Failed to Bind variable '([^']+)' for function '[^']*':\s*(.*)", re.DOTALL)


def check_call(
    called: PythonTask[Any] | WorkflowBase, args: Sequence[Any], named: Mapping[str, Any], within: str = ""
) -> dict[str, Any]:
    """Check a call's names and numbers, and return what it gives by name.

    Args:
        called: the task or workflow.
        args: what is given by position.
        named: what is given by name.
        within: the workflow in whose definition the call stands.

    Raises:
        InputError: an input that it has not, one given twice, one that is missing, too many, or all outputs of another task at once.
    """
    what, inputs = _words(called, within), called.python_interface.inputs
    _check_names(called, named, what)
    if len(args) > len(inputs):
        raise InputError(
            f"{what} takes {len(inputs)} input{'' if len(inputs) == 1 else 's'}, and was given {len(args)}",
            task=called.name,
            hint=f"its inputs are: {_signature(called) or 'none'}",
        )
    given = dict(zip(inputs, args, strict=False))
    for name in given:
        if name in named:
            raise InputError(
                f"input '{name}' of {what} is given twice: by position and by name",
                task=called.name,
                name=name,
                hint=f"the inputs' order is: {_signature(called)}",
            )
    given.update(named)
    _check_missing(called, given, what)
    for name, value in given.items():
        if isinstance(value, tuple) and value and all(isinstance(v, Promise) for v in value):
            outputs = getattr(value, "_fields", ())
            raise InputError(
                f"input '{name}' of {what} was given all {len(value)} outputs of another task",
                task=called.name,
                name=name,
                hint=f"take one of them: .{', .'.join(outputs)}" if outputs else "take one of them, by its name",
            )
    return given


def call_error(
    called: PythonTask[Any] | WorkflowBase, given: Mapping[str, Any], error: Exception, within: str = ""
) -> InputError | None:
    """flytekit's error on an input of a call as ours, which names the input and its type; None where it is about something else.

    Args:
        called: the task or workflow.
        given: what the call gave, by name.
        error: what flytekit raised.
        within: the workflow in whose definition the call stands.
    """
    text = str(error.args[0]) if error.args else ""
    if within:
        found = _FAILED_BINDING.match(text)
    elif text.startswith(f"Failed to convert inputs of task '{called.name}'"):
        found = _FAILED_ARGUMENT.search(text)
        if found is None:
            return InputError(text, task=called.name, hint=f"its inputs are: {_signature(called)}")
    else:  # a workflow's own inputs; its outputs fail in the same words
        found = _FAILED_ARGUMENT.match(text)
        if found is not None and found[1] in called.python_interface.outputs:
            return None
    if found is None or found[1] not in given:
        return None if within or isinstance(called, WorkflowBase) else _refused(called, given)
    name, reason = found[1], found[2]
    if isinstance(given[name], Promise):  # another task's output has no value to show
        return InputError(
            f"input '{name}' of {_words(called, within)} does not take what it was given: {reason}",
            task=called.name,
            name=name,
            hint=f"its inputs are: {_signature(called)}",
        )
    return _wrong_input(
        called, name, given[name], called.python_interface.inputs[name], ValueError(reason), _words(called, within)
    )


def _refused(task: PythonTask[Any], given: Mapping[str, Any]) -> InputError | None:
    """The first input that its type refuses: a transformer may raise what flytekit passes on without a word of the input."""
    for name, value in given.items():
        if not _has_promise(value):
            try:
                literals_of(task, FlyteContextManager.current_context(), {name: value})
            except InputError as error:
                return error
    return None


def _has_promise(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return any(map(_has_promise, value)) if isinstance(value, (list, tuple)) else isinstance(value, Promise)


def complete_inputs(task: PythonTask[Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs in the interface's order, with its defaults.

    Raises:
        InputError: one that the task has not, or one that is missing.
    """
    what = _words(task)
    _check_names(task, inputs, what)
    _check_missing(task, inputs, what)
    return {
        name: inputs.get(name, default) for name, (_, default) in task.python_interface.inputs_with_defaults.items()
    }


def mapped_over(mapped: ArrayNodeMapTask, inputs: Mapping[str, Any]) -> tuple[list[str], int]:
    """The inputs that give each run of a map task an item of their lists, and how many items they have.

    Raises:
        InputError: lists of different lengths. flytekit goes by the first; a cluster refuses them.
    """
    lengths = {
        name: len(inputs[name])
        for name in mapped.interface.inputs
        if isinstance(inputs[name], list) and name not in mapped.bound_inputs
    }
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"'{name}' has {length}" for name, length in lengths.items())
        raise InputError(
            f"the inputs of {_words(mapped)} are lists of different lengths: {told}",
            task=mapped.name,
            hint="each run takes one item of each list; functools.partial gives all runs the same value",
        )
    return list(lengths), next(iter(lengths.values()), 0)


def plain_literal(
    task: PythonTask[Any], context: FlyteContext, name: str, value: Any, python_type: type
) -> literals_pb2.Literal:
    """The literal of a value of a plain type.

    Raises:
        InputError: the value is none of it.
    """
    value = scalars.for_type(value, python_type)
    made = primitive_literal(value, python_type)
    if made is not None:
        return made
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
            ours = scalars.for_type(value, types[name])
            # Not TypeEngine.to_literal, which pickles each value as a key of its cache, nor dict_to_literal_map, which loses the reason.
            made = loop_manager.run_sync(
                TypeEngine.async_to_literal, context, ours, types[name], TypeEngine.to_literal_type(types[name])
            ).to_flyte_idl()  # which refuses half of a character, and a time before the year 1
        except Exception as error:  # a type's transformer may raise anything; the cause is kept
            raise _wrong_input(task, name, value, types[name], error) from error
        literals.literals[name].CopyFrom(made)
    return literals


def _check_names(called: PythonTask[Any] | WorkflowBase, names: Iterable[str], what: str) -> None:
    inputs = called.python_interface.inputs
    for name in names:
        if name not in inputs:
            near = closest(name, inputs)
            raise InputError(
                f"{what} has no input '{name}'",
                task=called.name,
                name=name,
                hint=(f"did you mean {near}? " if near else "") + f"its inputs are: {_signature(called) or 'none'}",
            )


def _check_missing(called: PythonTask[Any] | WorkflowBase, given: Mapping[str, Any], what: str) -> None:
    missing = [
        name
        for name, (python_type, default) in called.python_interface.inputs_with_defaults.items()
        if name not in given and default is None and not _takes_none(python_type)
    ]
    if missing:
        names = ", ".join(f"'{name}'" for name in missing)
        raise InputError(
            f"{what} misses input{'s' if len(missing) > 1 else ''} {names}",
            task=called.name,
            name=missing[0],
            hint=f"its inputs are: {_signature(called)}",
        )


def _wrong_input(
    called: PythonTask[Any] | WorkflowBase, name: str, value: Any, python_type: Any, error: Exception, what: str = ""
) -> InputError:
    wanted = article(type_name(python_type))
    fits = tables.is_frame(python_type) and isinstance(value, python_type)  # one of its columns cannot be written
    told, hint = f"takes {wanted}, not {shown(value)}", first_line(error)
    if fits:
        told = f"is {wanted} that cannot be sent"
    elif _same_name(type(value), python_type):
        told = f"takes {wanted} of another definition of that class, not {shown(value)}"
        hint = f"run the cell that makes the {_kind(called)} again, and make the value anew where it is the older one ({hint})"
    return InputError(f"input '{name}' of {what or _words(called)} {told}", task=called.name, name=name, hint=hint)


def _same_name(kind: type, wanted: Any) -> bool:
    """Whether two classes go by one name: a cell that defines a class was run again, and the task or the value is older."""
    if get_origin(wanted) is not None or not isinstance(wanted, type):
        return False
    return kind is not wanted and (kind.__module__, kind.__qualname__) == (wanted.__module__, wanted.__qualname__)


def _words(called: PythonTask[Any] | WorkflowBase, within: str = "") -> str:
    where = f" in workflow '{within.removeprefix('__main__.')}'" if within else ""
    if isinstance(called, ArrayNodeMapTask):
        return f"map task '{called.python_function_task.name.removeprefix('__main__.')}'{where}"
    return f"{_kind(called)} '{called.name.removeprefix('__main__.')}'{where}"


def _kind(called: PythonTask[Any] | WorkflowBase) -> str:
    return "workflow" if isinstance(called, WorkflowBase) else "task"


def _signature(called: PythonTask[Any] | WorkflowBase) -> str:
    return ", ".join(f"{name}: {type_name(t)}" for name, t in called.python_interface.inputs.items())


def _takes_none(python_type: Any) -> bool:
    return bool(UnionTransformer.is_optional_type(get_underlying_type(python_type)))
