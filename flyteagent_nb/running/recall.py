"""A run on record -> what the runner needs to follow its job, without the task that started it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.core.tasks_pb2 import TaskTemplate
from flytekit.core.type_engine import TypeEngine
from flytekit.models.types import LiteralType
from google.protobuf.message import DecodeError

from flyteagent_nb.errors import JournalError
from flyteagent_nb.running.contexts import current_context
from flyteagent_nb.running.tasks import TaskCall, convert_as
from flyteagent_nb.running.type_records import tuple_name_of, type_of

if TYPE_CHECKING:
    from flytekit.core.base_task import PythonTask

    from flyteagent_nb.running.journal import RunRecord


def call_of_record(record: RunRecord, task: PythonTask[Any] | None = None) -> tuple[TaskCall, tuple[str, ...]]:
    """The call of a run on record, and what a person should know of the types of its outputs.

    Args:
        record: the run.
        task: says the types of the outputs, instead of what is on record.

    Raises:
        JournalError: the record makes no sense.
    """
    s = record.snapshot
    try:
        template = TaskTemplate.FromString(record.sent.template)
        inputs = LiteralMap.FromString(record.sent.inputs or b"")
    except DecodeError as error:
        raise JournalError(
            f"the journal's record of run {s.id} of {s.name} cannot be read: {error}",
            hint=f"its job, if any, is told by %agent show {s.id}",
        ) from error
    known = record.sent.output_types
    types: dict[str, Any] = {}
    notes = []
    variables = dict(template.interface.outputs.variables)
    order = known if task is None else task.python_interface.outputs  # a map of a message has none
    for name in dict.fromkeys((*(name for name in order if name in variables), *variables)):
        if task is not None and name in task.python_interface.outputs:
            types[name] = task.python_interface.outputs[name]
            continue
        try:
            types[name] = type_of(known.get(name))
        except LookupError as error:
            types[name] = TypeEngine.guess_python_type(LiteralType.from_flyte_idl(variables[name].type))
            shown = getattr(types[name], "__name__", types[name])
            notes.append(
                f"output '{name}' is read as {shown}, which is a guess: {error}; %agent attach {record.snapshot.id} --task TASK knows it"
            )
    tuple_name = tuple_name_of(known) if task is None else task.python_interface.output_tuple_name
    convert = functools.partial(convert_as, types, s.name, current_context(), tuple_name=tuple_name)
    call = TaskCall(
        name=record.snapshot.name,
        template=template,
        inputs=inputs,
        prepare=None,
        convert=convert,
        converts_at_once=False,
        output_types=types,
        tuple_name=tuple_name,
    )
    return call, tuple(notes)
