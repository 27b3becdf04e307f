"""What services and agents said, and types and values, in words for a person. Pure."""

from __future__ import annotations

import errno
import re
import typing
from typing import TYPE_CHECKING, Any

import grpc

from flyteagent_nb import wire
from flyteagent_nb.running.propeller import DEFAULT_DEADLINE

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Struct, Value

    from flyteagent_nb.running.pace import Pace

LINES = 12
"""Lines of an agent's message that an error shows."""

SAID = 300
"""Characters of a failed poll's words that a live view shows."""

LINE_LENGTH = 2000
"""Characters of one of them."""

_LATE = ("", "deadline exceeded")
"""What gRPC itself says of a call whose time is up."""

_SECRET = re.compile(r"Unable to find secret for key (\S+) in group (\S+)")
_SIGN_IN = re.compile(r"\b(DefaultCredentialsError|NoCredentialsError): ")  # Google's and AWS's clients
_WRITTEN_OUT = re.compile(r"Flyte Serialized object \(\w+\):\s")
_FRAME = re.compile(r"^  (\S.*:\d+ in .+)$")


def status_words(error: grpc.aio.AioRpcError, operation: str, deadline: float | None, whose: str = "") -> str:
    """What a service answered instead of a reply, as a person can use it.

    Args:
        error: the call's status.
        operation: CreateTask, GetTask, DeleteTask or ExecuteTaskSync.
        deadline: the seconds that the call had, or None.
        whose: the service that was connected with this deadline; empty where it is that of the settings.
    """
    code = error.code()
    details = error.details() or ""
    # A service may answer so too, of a deadline of its own: then its words count.
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and deadline is not None and details.lower() in _LATE:
        told = f"{operation} took more than its deadline, {deadline:g} s"
        if whose:
            return (
                f"{told} (with which '{whose}' was connected; for longer: %agent connect it with --deadline {operation}=60s, "
                "or with more in its configuration's timeouts)"
            )
        default = "FlytePropeller's default; " if deadline == DEFAULT_DEADLINE else ""
        return f"{told} ({default}for longer: %config FlyteAgentNB.deadlines = {{'{operation}': 60.0}})"
    # INTERNAL is how an agent's exception travels: its own words say more than the status.
    return details if code is grpc.StatusCode.INTERNAL and details else f"{code.name}: {details}"


def poll_failed(said: str, failures: int, pace: Pace, limit: float) -> str:
    """What a live view says of a run whose last polls failed: the words first, then what comes of it.

    Args:
        said: what the last poll ended with.
        failures: polls that failed, in a row.
        pace: the pace of polling.
        limit: seconds that polls may fail in a row, where the pace does not say.
    """
    seconds = limit if pace.failure_seconds is None else pace.failure_seconds
    until = f"until they have failed for {seconds:g} s" if seconds else f"until {pace.failures} in a row have failed"
    head = next(iter(said.splitlines()), "")[:SAID]
    return f"{head} (polls fail, {failures} so far; the job is polled again {until}, then the run fails)"


def words_and_frames(message: str) -> tuple[str, list[str]]:
    """An agent's message without the frames that our servicers add to it, and the frames."""
    said, frames, known = [], [], []
    for line in message.splitlines():
        frame = _FRAME.match(line)
        if frame:
            frames.append(frame[1])
        elif line.startswith(wire.KNOWN_FAULT):
            known.append(line)
        else:
            said.append(line)
    shown = said[:LINES]
    if len(said) > LINES:
        shown.append(f"[{len(said) - LINES} more lines: %agent show]")
    shown += known
    return "\n".join(line[:LINE_LENGTH] for line in shown).strip() or "the agent gave no reason", frames


def said_and_notes(message: str) -> tuple[str, list[str]]:
    """A reply's message without the lines that tell what would go wrong on a cluster, and those lines."""
    if wire.IN_PRODUCTION not in message:
        return message, []
    lines = message.splitlines()
    notes = [line for line in lines if line.startswith(wire.IN_PRODUCTION)]
    return "\n".join(line for line in lines if line not in notes), notes


def secret_hint(words: str) -> str:
    """The way out where flytekit misses a secret; empty where ``words`` do not say so."""
    missing = _SECRET.search(words)
    if missing is None:
        return ""
    name = "_".join(part.upper() for part in (missing[2], missing[1]) if part != "None")
    return f"%agent secret {name} asks for it, and keeps it in this kernel"


def sign_in_hint(words: str, task_type: str) -> str:
    """The way out where a cloud's client finds no credentials; empty where ``words`` do not say so."""
    if not _SIGN_IN.search(words):
        return ""
    without = ", %agent sandbox bigquery does without an account" if task_type == "bigquery_query_job_task" else ""
    return f"%agent doctor {task_type} tells what it signs in with{without}"


def output_hint(error: BaseException, whose: str) -> str:
    """The way out where an output of a job does not become a value: a secret, memory, files or room that it lacks, or else its type.

    Args:
        error: what the conversion raised.
        whose: ``task`` or ``workflow``.
    """
    at: BaseException | None = error
    for _ in range(20):  # a chain may lead round
        if isinstance(at, MemoryError):
            return "this process has no memory left for it, the job is done all the same: free some, or let the job return less"
        if isinstance(at, OSError) and at.errno in (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT):
            return (
                "the job is done all the same; this machine has no room for what it returned: close files, or free some"
            )
        at = at and (at.__cause__ or at.__context__)
    return secret_hint(str(error)) or f"the agent's value and the {whose}'s interface disagree: change one of them"


def plain(struct: Struct) -> dict[str, Any]:
    """A Struct as a dict; a number without a fraction is an int.

    protobuf's own conversion refuses NaN and the infinities, which a job's metrics may well be.
    """
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return plain(value.struct_value)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    if kind == "number_value":
        number = float(value.number_value)
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return None if kind in (None, "null_value") else getattr(value, kind)


def type_name(python_type: Any) -> str:
    """A Python type as it is written: ``int``, ``Optional[str]``."""
    if isinstance(python_type, type) and not typing.get_args(python_type):
        return python_type.__name__
    return str(python_type).replace("typing.", "")


def shown(value: Any) -> str:
    """A value with its type, in a few characters."""
    try:
        text = " ".join(repr(value).split("\n"))
    except Exception:  # the value's own class and its mistake; its type is still worth showing
        return type(value).__name__
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its class. A literal that flytekit writes out over several lines is part of it."""
    text = str(error).strip()
    if _WRITTEN_OUT.search(text):
        text = " ".join(_WRITTEN_OUT.sub("", text).split())
    return text.splitlines()[0][:300] if text else type(error).__name__
