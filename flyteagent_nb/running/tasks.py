"""A flytekit task and its inputs -> template and literals; literals -> the values that calling the task would return.

Plain scalars are converted where the caller stands, in microseconds. Everything else (DataFrames, files, lists, dataclasses) is
converted on a worker thread, as flytekit's type engine may read, write and compute for seconds.
"""

from __future__ import annotations

import collections
import copy
import datetime
import functools
import traceback
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from flyteidl.core import literals_pb2
from flytekit.configuration import FastSerializationSettings, ImageConfig, SerializationSettings
from flytekit.core.python_auto_container import default_notebook_task_resolver
from flytekit.core.python_function_task import PythonFunctionTask
from flytekit.extend.backend.base_connector import AsyncConnectorExecutorMixin, SyncConnectorExecutorMixin
from flytekit.models.literals import Literal, LiteralMap
from flytekit.tools.translator import get_serializable

from flyteagent_nb import tables
from flyteagent_nb.errors import CodeLocationError, FlyteAgentNBError, InputError, OutputError, TemplateError, article
from flyteagent_nb.running.contexts import in_context
from flyteagent_nb.running.interface import misfit
from flyteagent_nb.running.notebook_code import needs_code, pickled
from flyteagent_nb.running.primitives import primitive_values
from flyteagent_nb.running.task_inputs import complete_inputs, literals_of, plain_literal
from flyteagent_nb.running.wording import first_line, output_hint, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from flyteidl.core.tasks_pb2 import TaskTemplate
    from flytekit import FlyteContext
    from flytekit.core.base_task import PythonTask

T = TypeVar("T")

_tuple_class = functools.lru_cache(maxsize=256)(collections.namedtuple)  # to make one takes longer than many a run

PLAIN = frozenset({int, float, str, bool, datetime.datetime, datetime.timedelta, datetime.date})
"""Types whose conversion takes microseconds and touches nothing but the value."""


@dataclass(frozen=True, slots=True)
class TaskCall:
    """A task with its inputs, ready for the runner.

    Attributes:
        name: the task's name.
        template: the task's template, as it goes over the wire.
        inputs: the literals, or None where ``prepare`` makes them.
        prepare: makes the literals, on a worker; raises InputError.
        convert: outputs -> (values by name, what calling the task would return); raises OutputError.
        converts_at_once: whether ``convert`` takes microseconds and may run on the loop.
        output_types: the Python type of each output, or what ``type_records`` made of it; for a later kernel.
        tuple_name: the name of the tuple that the outputs come as, where the task names one; for the same.
        stand_in: what stands in for the service that the agent talks to, in words, or an empty string.
    """

    name: str
    template: TaskTemplate
    inputs: literals_pb2.LiteralMap | None
    prepare: Callable[[], literals_pb2.LiteralMap] | None
    convert: Callable[[literals_pb2.LiteralMap], tuple[dict[str, Any], Any]]
    converts_at_once: bool
    output_types: Mapping[str, Any]
    tuple_name: str | None = None
    stand_in: str = ""


def runs_on_agent(task: Any) -> bool:
    """Whether the task's class says that an agent runs it."""
    return isinstance(task, (SyncConnectorExecutorMixin, AsyncConnectorExecutorMixin))


def call_of(
    task: PythonTask[Any],
    inputs: Mapping[str, Any],
    *,
    context: FlyteContext,
    code: str = "",
    code_folder: Path | None = None,
) -> TaskCall:
    """A task and the Python values of its inputs, ready for the runner.

    Args:
        task: the task.
        inputs: its inputs by name; what is left out takes the interface's default.
        context: flytekit's context of the caller.
        code: how an agent gets at a notebook's function: ``kernel``, ``pickle``, ``image`` or empty.
        code_folder: where a pickled function goes.

    Raises:
        InputError: names or plain values that do not fit the interface. What is converted on a worker fails the run instead.
        CodeLocationError: a function of the notebook, and no word of how the agent gets at it.
    """
    interface = task.python_interface
    values = complete_inputs(task, inputs)
    template = template_of(task, context=context, code=code, code_folder=code_folder)
    literals: literals_pb2.LiteralMap | None = None
    prepare = None
    if all(isinstance(t, type) and t in PLAIN for t in interface.inputs.values()):
        literals = literals_pb2.LiteralMap()
        for name, value in values.items():
            literals.literals[name].CopyFrom(plain_literal(task, context, name, value, interface.inputs[name]))
    else:
        prepare = functools.partial(in_context, context, literals_of, task, context, values)
    return TaskCall(
        name=task.name,
        template=template,
        inputs=literals,
        prepare=prepare,
        convert=functools.partial(convert_outputs, task, context),
        converts_at_once=all(isinstance(t, type) and t in PLAIN for t in interface.outputs.values()),
        output_types=interface.outputs,
        tuple_name=interface.output_tuple_name,
    )


def call_of_literals(
    task: PythonTask[Any], inputs: LiteralMap, *, context: FlyteContext, code: str = "", code_folder: Path | None = None
) -> TaskCall:
    """The same for inputs that flytekit has made literals of: a plain call, or a node of a workflow.

    The outputs stay literals; flytekit converts them where it needs values.

    Raises:
        InputError: an input that is missing and has no default, or another task's output of the wrong type.
        CodeLocationError: as in :func:`call_of`.
    """
    literals = inputs.to_flyte_idl()
    if len(literals.literals) < len(task.python_interface.inputs):
        defaults = {k: v for k, v in complete_inputs(task, dict(inputs.literals)).items() if k not in inputs.literals}
        for name, literal in literals_of(task, context, defaults).literals.items():
            literals.literals[name].CopyFrom(literal)
    template = template_of(task, context=context, code=code, code_folder=code_folder)
    wrong = misfit(template.interface.inputs.variables, literals)
    if wrong is not None:  # flytekit's engine hands on what another task, or the caller of its workflow, gave
        name, what = wrong
        raise InputError(
            f"input '{name}' of task '{task.name}' {what}",
            task=task.name,
            name=name,
            hint="it is another task's output or the workflow's input: FlyteAdmin would refuse the workflow when it is registered",
        )
    return TaskCall(
        name=task.name,
        template=template,
        inputs=literals,
        prepare=None,
        convert=_as_literals,
        converts_at_once=True,
        output_types=task.python_interface.outputs,
        tuple_name=task.python_interface.output_tuple_name,
    )


def template_of(
    task: PythonTask[Any], *, context: FlyteContext, code: str = "", code_folder: Path | None = None
) -> TaskTemplate:
    """The task's template, as flytekit serializes it.

    Raises:
        CodeLocationError: a function of the notebook, and no word of how the agent gets at it.
    """
    settings = context.serialization_settings or _serialization_settings()
    if not isinstance(task, PythonFunctionTask) or not needs_code(task):
        return _serialize(task, settings)
    if not code and task.container_image is None:
        raise CodeLocationError(
            f"the agent of task '{task.name}' ({task.task_type}) would run a function that is defined in this notebook, and nothing "
            "says how it gets there",
            task=task.name,
            hint="`--code kernel` for an agent that imports it from this kernel, `--code pickle` to ship it pickled with the inputs, "
            "`--code image` if the container image has it (for plain calls: %config FlyteAgentNB.code = 'pickle'); or write it into "
            "a module, or leave its body empty where the agent needs only the configuration (`...`; a bare `return` where it has outputs)",
        )
    if code != "pickle":
        return _serialize(task, settings)
    if code_folder is None:
        raise ValueError("a pickled function needs a folder")
    location = pickled(task, code_folder)
    fast = FastSerializationSettings(enabled=True, destination_dir=".", distribution_location=str(location))
    sent = copy.copy(task)  # the task itself may be serialized by other threads meanwhile
    sent.set_resolver(default_notebook_task_resolver)
    sent.reset_command_fn()  # the copied one asks the task that it was copied from
    return _serialize(sent, settings.new_builder().with_fast_serialization_settings(fast).build())


def serialized(task: PythonTask[Any], settings: SerializationSettings) -> TaskTemplate:
    """The task's template, as flytekit serializes it for a cluster."""
    return _serialize(task, settings)


def convert_outputs(
    task: PythonTask[Any], context: FlyteContext, outputs: literals_pb2.LiteralMap
) -> tuple[dict[str, Any], Any]:
    """Outputs as Python values, by the task's own interface.

    Returns:
        The values by name, and what calling the task would return: None, the value, or a named tuple of several.

    Raises:
        OutputError: an output that its type cannot take; it names the output.
    """
    interface = task.python_interface
    return convert_as(interface.outputs, task.name, context, outputs, interface.output_tuple_name)


def convert_as(
    types: Mapping[str, Any],
    task_name: str,
    context: FlyteContext,
    outputs: literals_pb2.LiteralMap,
    tuple_name: str | None = None,
) -> tuple[dict[str, Any], Any]:
    """The same, by the types given; ``task_name`` is for errors, and ``tuple_name`` that of the tuple of several."""
    values = primitive_values(types, outputs)
    if values is None:
        values = in_context(context, _values, types, task_name, context, outputs)
    if not values:
        return values, None
    if len(values) == 1 and not tuple_name:
        return values, next(iter(values.values()))
    return values, _tuple_class(tuple_name or "DefaultNamedTupleOutput", tuple(values))(**values)


def _values(
    types: Mapping[str, Any], task_name: str, context: FlyteContext, outputs: literals_pb2.LiteralMap
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, python_type in types.items():
        try:
            values[name] = tables.value_of(context, Literal.from_flyte_idl(outputs.literals[name]), python_type)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a type's transformer may raise anything, Polars a panic; the cause is kept
            wanted = tables.wanted(python_type) or python_type
            raise OutputError(
                f"output '{name}' of task '{task_name}' does not become {article(type_name(wanted))}: {first_line(error)}",
                task=task_name,
                name=name,
                hint=output_hint(error, "task"),
            ) from error
    return values


def _as_literals(outputs: literals_pb2.LiteralMap) -> tuple[dict[str, Any], Any]:
    return dict(outputs.literals), LiteralMap.from_flyte_idl(outputs)


@functools.cache
def _serialization_settings() -> SerializationSettings:
    try:
        image = ImageConfig.auto_default_image()
    except ValueError:  # a Python that flytekit has no image of: no agent of this kernel looks at it
        image = ImageConfig.auto(img_name="cr.flyte.org/flyteorg/flytekit:latest")
    return SerializationSettings(image, project="flytesnacks", domain="development", version="notebook")


def _serialize(task: PythonTask[Any], settings: SerializationSettings) -> TaskTemplate:
    try:
        return get_serializable(OrderedDict(), settings, task).template.to_flyte_idl()
    except FlyteAgentNBError:
        raise
    except Exception as error:  # the plug-in's get_custom may do and hold anything; the cause is kept
        raise TemplateError(
            f"{type(task).__name__} cannot put task '{task.name}' ({task.task_type}) into a template: "
            f"{type(error).__name__}: {first_line(error)}",
            task=task.name,
            hint=_template_hint(error),
        ) from error


def _template_hint(error: Exception) -> str:
    hint = "the task cannot be registered on a cluster either: "
    if isinstance(error, TypeError) and "JSON" in str(error):
        return f"{hint}try it without inputs (-i) or settings that JSON cannot hold"
    line = traceback.extract_tb(error.__traceback__)[-1].line
    where = f" (the plug-in's line was `{line}`)" if line else ""
    return f"{hint}a setting that its class needs may be missing, or be of another kind: -c KEY=VALUE{where}"
