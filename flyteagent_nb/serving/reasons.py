"""Why a job failed, where an agent's reply or exception leaves it unsaid: the service's own words first, then what is known of them."""

from __future__ import annotations

import ast
import enum
from typing import TYPE_CHECKING, Any, Final

from flyteidl.core.execution_pb2 import TaskExecution
from flytekit.extend.backend import utils as flytekit_phases

from flyteagent_nb import wire
from flyteagent_nb.serving import known_faults, records

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

_FAILURES: Final = frozenset({TaskExecution.FAILED, TaskExecution.ABORTED, TaskExecution.RETRYABLE_FAILED})
_SHOWN: Final = 3  # of the errors that a call logged
_LINE_LENGTH: Final = 500
_LITERAL_LIMIT: Final = 20_000  # characters of a message that are read as Python
_NAMES: Final = ("state", "status", "phase")


def complete(task_type: str, reply: Any) -> None:
    """Let a reply that tells of a failure say why.

    Without a message it gets the errors that the agent logged in this call. What a service sent as a structure is led by the text in it. A
    fault of the connector that is known stands in the last line.

    Args:
        task_type: the task type.
        reply: the Resource (flyteidl) that ``get`` or ``do`` answers with; it is changed.
    """
    if reply.phase not in _FAILURES:
        return
    call = records.of_call()
    if not reply.message:
        reply.message = "\n".join(call.errors[-_SHOWN:]) if call is not None else ""
    elif own := _own_words(reply.message):
        reply.message = f"{own}\n{reply.message}"
    notes = call.notes if call is not None else []
    if known := known_line(task_type, reply.message, notes):
        reply.message = f"{reply.message}\n{known}".lstrip()


def known_line(task_type: str, words: str, notes: Sequence[str] = ()) -> str:
    """The line that tells of a known fault behind a failure of ``words``, or an empty string; ``notes`` are those of its call."""
    known = known_faults.explanation(task_type, "\n".join([words, *notes]))
    return f"{wire.KNOWN_FAULT}{known}" if known else ""


def logged_lines(call: records.CallRecords, said: str) -> list[str]:
    """The errors that the agent logged in a call and that ``said`` does not tell, a line each."""
    lines = [" ".join(words.split())[:_LINE_LENGTH] for words in call.errors[-_SHOWN:]]
    return [f"logged: {line}" for line in lines if line not in " ".join(said.split())]


def state_words(error: BaseException) -> str:
    """What to say of ``error`` where flytekit's table of phases has raised it for a state that it lacks; else an empty string."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    table = flytekit_phases.convert_to_flyte_phase.__code__
    if len(frames) < 2 or frames[-1].f_code is not table:
        return ""
    word = _state_word(frames[-1].f_locals.get("state"), frames[-2])
    known = [state for states in table.co_consts if isinstance(states, tuple) for state in states]
    return (
        f"{word} {known_faults.UNKNOWN_STATE} ({type(error).__name__}: {error}): whether the job is well cannot be told from it\n"
        f"flytekit has phases for: {', '.join(str(state) for state in known)}"
    )


def _state_word(state: object, caller: FrameType) -> str:
    """The state as the service spells it: flytekit has made it lower case, or the agent's own table has made None of it."""
    words = []
    for name, value in caller.f_locals.items():
        text = value.name if isinstance(value, enum.Enum) else value
        if isinstance(text, str) and any(part in name.lower() for part in _NAMES):
            words.append(text)
    if isinstance(state, str):
        return next((word for word in words if word.lower() == state.lower()), state) or "an empty state"
    return words[0] if words else str(state)


def _own_words(message: str) -> str:
    """The texts in a message that is the repr of a service's errors, as ``[{'reason': ..., 'message': ...}]``; else an empty string."""
    if message[:1] not in "[{" or len(message) > _LITERAL_LIMIT:
        return ""
    try:
        errors = ast.literal_eval(message)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return ""
    texts = []
    for each in errors if isinstance(errors, list) else [errors]:
        text = each.get("message") if isinstance(each, dict) else None
        if isinstance(text, str) and text and text not in texts:
            texts.append(text)
    return "\n".join(texts)
