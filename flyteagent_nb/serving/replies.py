"""What an agent's method returned, as the messages of the wire; and clear words where it is not what belongs there."""

from __future__ import annotations

import copy
import json
import logging
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import flytekit
import grpc
from flyteidl.core.execution_pb2 import TaskExecution
from flytekit.core.context_manager import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.extend.backend.base_connector import Resource
from flytekit.models.literals import Literal, LiteralMap
from flytekit.utils.asyn import loop_manager

from flyteagent_nb import scalars, wire
from flyteagent_nb.plugins import version_of
from flyteagent_nb.serving import known_faults
from flyteagent_nb.serving.failures import CallError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flytekit.core.context_manager import FlyteContext

    from flyteagent_nb.serving.catalog import AgentEntry
    from flyteagent_nb.serving.invocation import AgentInvoker

_LOGGER = logging.getLogger("flyteagent_nb")
_SCALARS = frozenset({bool, int, float, str, type(None), date, datetime, timedelta})


def meta_bytes(entry: AgentEntry, returned: Any) -> bytes:
    """The resource meta that ``create`` returned, encoded."""
    # A str has an encode of its own, and its bytes are no resource meta.
    if isinstance(returned, str) or not hasattr(returned, "encode"):
        raise wrong(entry, "create", f"returned {_kind(returned)} instead of a ResourceMeta")
    try:
        encoded = returned.encode()
    except Exception as error:  # the agent's own encode, or a field that is not JSON
        words = f"returned a {type(returned).__name__} that does not encode: {one_line(error)}"
        raise wrong(entry, "create", words) from error
    if not isinstance(encoded, bytes):
        words = f"returned a {type(returned).__name__} whose encode returns {_kind(encoded)} instead of bytes"
        raise wrong(entry, "create", words)
    return encoded


async def resource_message(invoker: AgentInvoker, entry: AgentEntry, method: str, returned: Any) -> Any:
    """The Resource that ``get`` or ``do`` returned, as a message.

    An output that is a literal already is passed on as it is, and a scalar of numpy's or pandas' as the plain value that it is, which
    flytekit's own service does not do: it is a note of the run.
    """
    if not isinstance(returned, Resource):
        raise wrong(entry, method, f"returned {_kind(returned)} instead of a Resource")
    if returned.phase is None:
        raise wrong(entry, method, "returned a Resource whose phase is None")
    literals: dict[str, Literal] = {}
    notes: list[str] = []
    if isinstance(returned.outputs, dict):
        literals = {name: value for name, value in returned.outputs.items() if isinstance(value, Literal)}
        plain = {name: made for name, value in returned.outputs.items() if (made := _plain(value)) is not value}
        if literals:
            notes.append(_pickled(entry, method, literals))
        if literals or plain:
            values = {name: value for name, value in returned.outputs.items() if name not in literals}
            notes += [_not_plain(entry, method, name, values[name], made) for name, made in plain.items()]
            values.update(plain)
            returned = copy.copy(returned)
            returned.outputs = values
    try:
        if _is_small(returned.outputs):
            message = await returned.to_flyte_idl()
        else:
            # Uploads, and elements by the thousand: they go to the loop that flytekit itself keeps for a thread of the pool.
            message = await invoker.in_thread("get", loop_manager.run_sync, returned.to_flyte_idl)
    except Exception as error:  # flytekit's converters raise anything, and none says which part it was
        raise wrong(entry, method, await _fault(invoker, returned, error)) from error
    for name, literal in literals.items():
        message.outputs.literals[name].CopyFrom(literal.to_flyte_idl())
    for line in notes if message.phase == TaskExecution.SUCCEEDED else ():
        _LOGGER.warning(line)
        message.message = f"{message.message}\n{line}".lstrip()
    return message


def checked_message(entry: AgentEntry, method: str, returned: Any, wanted: type) -> Any:
    """``returned``, where it is the message that belongs there."""
    if not isinstance(returned, wanted):
        raise wrong(entry, method, f"returned {_kind(returned)} instead of a {wanted.__name__}")
    return returned


def wrong(entry: AgentEntry, method: str, words: str) -> CallError:
    """The error for an agent that keeps no contract, naming its class and method."""
    return CallError(grpc.StatusCode.INTERNAL, f"{type(entry.agent).__name__}.{method} {words}")


def _pickled(entry: AgentEntry, method: str, names: Iterable[str]) -> str:
    """What becomes in production of outputs that are literals. flytekit's engine takes a literal for any object that it does not know."""
    outputs = ", ".join(f"'{name}'" for name in names)
    words = (
        f"flytekit {flytekit.__version__}'s {known_faults.PICKLED_OUTPUT} {outputs}, and the next task cannot use it: "
        f"{type(entry.agent).__name__}.{method} returned a Literal where a value belongs"
    )
    for fault in known_faults.faults_of(entry.task_type):
        if fault.explains(words):
            words += f" ({wire.KNOWN_FAULT}{fault.distribution} {version_of(fault.distribution)}). {fault.remedy}"
    return wire.IN_PRODUCTION + words


def _not_plain(entry: AgentEntry, method: str, name: str, value: Any, plain: Any) -> str:
    """What becomes in production of an output that is a scalar of numpy's or pandas'."""
    kind = type(value)
    written = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    return (
        f"{wire.IN_PRODUCTION}flytekit {flytekit.__version__}'s own service does not take output '{name}', a {written}: "
        f"let {type(entry.agent).__name__}.{method} return {'None' if plain is None else f'a plain {type(plain).__name__}'}"
    )


def _plain(value: Any) -> Any:
    """A scalar of numpy's or pandas' as Python's own, a time of pandas to the microsecond; any other value as it is."""
    if not scalars.of_library(value):
        return value
    if scalars.is_missing(value):
        return None
    made = scalars.plain(value.floor("us") if scalars.is_finer(value) and hasattr(value, "floor") else value)
    return made if type(made) in _SCALARS else value


async def _fault(invoker: AgentInvoker, resource: Resource, error: Exception) -> str:
    """Which part of ``resource`` it is that flytekit could not convert."""
    if isinstance(resource.phase, str) and resource.phase not in TaskExecution.Phase.keys():
        return (
            f"returned a Resource whose phase is {resource.phase!r}, none of TaskExecution's: {', '.join(TaskExecution.Phase.keys()[1:])} "
            "(flytekit's convert_to_flyte_phase reads a service's words)"
        )
    if resource.message is not None and not isinstance(resource.message, str):
        return f"returned a message that is {_kind(resource.message)} instead of a str"
    outputs = resource.outputs
    if isinstance(outputs, dict):
        context = FlyteContextManager.current_context()
        for name, value in outputs.items():
            try:
                # Not dict_to_literal_map, which tells of its own asyncio.Task where a type refuses a value.
                await invoker.in_thread("get", _convert, context, value)
            except Exception as found:  # as above
                words = f"returned an output {name!r}, {_kind(value)}, that flytekit cannot turn into a literal: "
                return words + (_as_list(name, value) if isinstance(value, list) else one_line(found))
    elif outputs is not None and not isinstance(outputs, LiteralMap):
        return f"returned outputs that are {_kind(outputs)} instead of a dict or a LiteralMap"
    try:
        json.dumps(resource.custom_info)
    except Exception as found:  # as above
        return f"returned a custom_info that is not JSON: {one_line(found)}"
    return f"returned a Resource that flytekit cannot convert: {one_line(error)}"


def _convert(context: FlyteContext, value: Any) -> None:
    kind = type(value)
    loop_manager.run_sync(TypeEngine.async_to_literal, context, value, kind, TypeEngine.to_literal_type(kind))


def _as_list(name: str, value: list[Any]) -> str:
    """How a list is returned: its elements' type is in no value of Python's, and flytekit's service has no interface to read it from."""
    element = type(value[0]).__name__ if value else "str"
    return (
        f"it has to be told the type of its elements: outputs=TypeEngine.dict_to_literal_map(FlyteContextManager.current_context(), "
        f"{{{name!r}: ...}}, {{{name!r}: list[{element}]}})"
    )


def _is_small(outputs: Any) -> bool:
    """Whether converting outputs takes no time worth a thread."""
    if isinstance(outputs, LiteralMap):
        return all(literal.collection is None and literal.map is None for literal in outputs.literals.values())
    return not isinstance(outputs, dict) or all(type(value) in _SCALARS for value in outputs.values())


def _kind(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"
