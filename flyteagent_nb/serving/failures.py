"""An agent's exception as the status of a call: what it said and where in its own code, in what a status has room for."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

import flytekit
import grpc
from flytekit.exceptions.system import FlyteConnectorNotFound

from flyteagent_nb import loop, wire
from flyteagent_nb.serving import reasons
from flyteagent_nb.serving.cell_names import name_cells
from flyteagent_nb.serving.records import CallRecords

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_CAUSES = 5
_CAUSE_LENGTH = 300
_FRAMES = 30

_OURS = (os.path.dirname(__file__) + os.sep, loop.__file__)
_MACHINERY = tuple(os.path.dirname(m.__file__) + os.sep for m in (grpc, asyncio, concurrent.futures) if m.__file__)
_FLYTEKIT = (os.path.dirname(flytekit.__file__) + os.sep,)
_PLAIN = bytes(range(0x20, 0x7F)).replace(b"%", b"")


class CallError(Exception):
    """A call that we answer with a status of our own words.

    Attributes:
        code: the status.
        details: the words.
    """

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


@dataclass(frozen=True)
class Failure:
    """How a call failed.

    Attributes:
        code: the status.
        details: its text, within wire.DETAILS_LIMIT as it goes over the wire.
        traceback: all there is to know, or empty where no agent's code failed.
    """

    code: grpc.StatusCode
    details: str
    traceback: str = ""


def describe(error: BaseException, task_type: str = "", call: CallRecords | None = None) -> Failure:
    """``error`` as the status of the call in which it was raised, with what that call logged and what is known of the task type."""
    call = call or CallRecords()
    if isinstance(error, CallError):
        logged = reasons.logged_lines(call, error.details)
        return Failure(
            error.code, _fit(error.details, "\n".join(logged)), _whole(error.__cause__) if error.__cause__ else ""
        )
    code = grpc.StatusCode.NOT_FOUND if isinstance(error, FlyteConnectorNotFound) else grpc.StatusCode.INTERNAL
    causes = list(_causes(error))
    frames = [f"  {frame}" for raised in (error, *_leaves(error)[:1]) for frame in agent_frames(raised.__traceback__)]
    said = reasons.state_words(error) or f"{type(error).__name__}: {message_of(error)}"
    if (words := _stderr_of(error)) and words not in said:
        said = f"{words}\n{said}"  # sbatch's own words, say: the exception of a program tells its exit status only
    rest = [
        *reasons.logged_lines(call, said),
        *frames[-_FRAMES:],
        *(f"caused by {one_line(cause)}" for cause in causes),
    ]
    if known := reasons.known_line(task_type, said, call.notes):
        rest.append(known)
    return Failure(code, _fit(said, "\n".join(rest)), _whole(error))


def message_of(error: BaseException) -> str:
    """What ``error`` says; also where its own ``__str__`` raises."""
    try:
        return str(error)
    except Exception as unreadable:  # the agent's class, and its mistake; the type's name is still worth showing
        return f"<its message cannot be read: {type(unreadable).__name__}>"


def _stderr_of(error: BaseException) -> str:
    """What a program wrote to stderr whose failure ``error`` is: subprocess.CalledProcessError, asyncssh.ProcessError."""
    try:
        words = getattr(error, "stderr", None)
    except Exception:  # a property of the agent's class, and its mistake
        return ""
    text = words.decode("utf-8", "replace") if isinstance(words, bytes) else words
    return text.strip() if isinstance(text, str) else ""


def agent_frames(trace: TracebackType | None) -> list[str]:
    """The frames of the agent's own code as ``file:line in function``, outermost first; flytekit's where there are no others."""
    frames = [
        (frame.f_code.co_filename, f"{name_cells(frame.f_code.co_filename)}:{line} in {frame.f_code.co_name}")
        for frame, line in traceback.walk_tb(trace)
        if not frame.f_code.co_filename.startswith((*_OURS, *_MACHINERY, "<frozen "))
    ]
    return [text for file, text in frames if not file.startswith(_FLYTEKIT)] or [text for _, text in frames]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What stands behind ``error``, at most _CAUSES of them: the leaves of a group, then one ``__cause__`` after the other."""
    seen: set[int] = {id(error)}
    behind = [*_leaves(error)]
    at = error.__cause__
    while at is not None and id(at) not in seen and len(seen) <= _CAUSES:
        seen.add(id(at))
        behind.append(at)
        at = at.__cause__
    return iter(behind[:_CAUSES])


def _leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group (Python 3.11 and later, and its backport); none where ``error`` is not one."""
    inner = getattr(error, "exceptions", None)
    if not isinstance(inner, tuple):
        return []
    return [leaf for e in inner if isinstance(e, BaseException) for leaf in (_leaves(e) or [e])]


def one_line(error: BaseException) -> str:
    """The type of ``error`` and the head of what it says, in one line."""
    message = " ".join(message_of(error)[: 2 * _CAUSE_LENGTH].split())
    return f"{type(error).__name__}: {wire.cut(message, _CAUSE_LENGTH)}"


def _whole(error: BaseException) -> str:
    """The traceback, from the agent's own code on: how the call came to it tells its author nothing."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith((*_OURS, *_MACHINERY)):
        trace = trace.tb_next
    try:
        return name_cells("".join(traceback.format_exception(type(error), error, trace or error.__traceback__)))
    except Exception:  # an exception of the agent's that cannot even be formatted
        return f"{type(error).__name__}: {message_of(error)}\n"


def _fit(message: str, rest: str) -> str:
    """``message`` and below it the lines of ``rest``, in what a status has room for: the message's head, the rest's end."""
    lines = rest.splitlines()
    while lines and _cost("\n".join(lines)) > wire.DETAILS_LIMIT // 2:
        del lines[0]
    rest = "".join(f"\n{line}" for line in lines)
    room = wire.DETAILS_LIMIT - _cost(rest)
    message = wire.cut(message, room)
    while (cost := _cost(message)) > room:
        message = wire.cut(message, len(message.encode()) * room // cost - 1)
    return message + rest


def _cost(text: str) -> int:
    """Bytes of ``text`` in a status: what is not plain ASCII goes over the wire as ``%XX``."""
    encoded = text.encode("utf-8", "replace")
    return len(encoded) + 2 * len(encoded.translate(None, _PLAIN))
