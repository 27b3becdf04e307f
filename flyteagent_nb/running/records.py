"""Runs as rows of the journal and back: plain data, so that a later version can read an earlier one's.

What is read may be anything, a file being a file: a record that makes no sense is told with what does.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from flyteagent_nb import errors
from flyteagent_nb.running.journal import AttemptRecord, Owner, RunRecord, Sent
from flyteagent_nb.running.run import PhaseChange, RunSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

COLUMNS = (
    "id", "name", "task_type", "submitted", "ended", "phase", "state", "template", "inputs", "types", "outputs", "folder", "owner",
    "epoch",
)  # fmt: skip
"""What :func:`run_of` reads of a run's row."""

ATTEMPT_COLUMNS = ("number", "service", "prefix", "meta", "outcome", "message", "intended", "clock")
"""What :func:`attempt_of` reads of an attempt's row."""

LATEST = 253_402_300_799.0
"""The last second of the year 9999, since the epoch: what is later is no time."""

_ERROR_FACTS = (
    "run_id",
    "task",
    "task_type",
    "phase",
    "code",
    "agent_message",
    "frames",
    "log_links",
    "attempts",
    "stand_in",
)


# Rows


def run_of(row: Sequence[Any], attempts: Iterable[AttemptRecord], owners: Mapping[object, Owner]) -> RunRecord:
    """The run that a row of COLUMNS tells of."""
    r = dict(zip(COLUMNS, row, strict=True))
    try:
        snapshot = snapshot_of(r["state"])
        if snapshot.id != r["id"]:
            raise ValueError("it is another run's")
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        snapshot = RunSnapshot(
            id=str(r["id"]), name=str(r["name"]), task_type=str(r["task_type"]), phase=str(r["phase"]),
            submitted=r["submitted"] if _is_time(r["submitted"]) else 0.0, ended=r["ended"] if _is_time(r["ended"]) else None,
            notes=(f"the journal's record of this run cannot be read: {error}",),
        )  # fmt: skip
    try:
        types = json.loads(r["types"])
    except (ValueError, TypeError, RecursionError):
        types = {}
    return RunRecord(
        snapshot=snapshot,
        sent=Sent(_bytes(r["template"]) or b"", _bytes(r["inputs"]), types if isinstance(types, dict) else {}),
        attempts=tuple(attempts),
        outputs=_bytes(r["outputs"]),
        owner=owners[r["owner"]],
        epoch=r["epoch"],
        folder=str(r["folder"]),
    )


def attempt_of(fields: Sequence[Any]) -> AttemptRecord:
    """The attempt that a row of ATTEMPT_COLUMNS tells of."""
    number, service, prefix, meta, outcome, message, intended, clock = fields
    return AttemptRecord(
        number=number if isinstance(number, int) else 0,
        service=str(service),
        output_prefix=str(prefix),
        resource_meta=_bytes(meta),
        outcome=str(outcome),
        message=str(message),
        intended=intended if _is_time(intended) else 0.0,
        clock=str(clock),
    )


def _bytes(value: object) -> bytes | None:
    return value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else None


# Snapshots


def state_of(snapshot: RunSnapshot) -> str:
    """A snapshot as JSON."""
    state = snapshot._asdict()
    state["phases"] = [tuple(change) for change in snapshot.phases]
    state["error"] = _error_record(snapshot.error)
    return json.dumps(state, separators=(",", ":"), default=str)


def snapshot_of(text: str) -> RunSnapshot:
    """The snapshot that :func:`state_of` wrote; fields of another version are left out, or take their defaults.

    Raises:
        ValueError: it is not one.
    """
    state: Any = json.loads(text)
    if not isinstance(state, dict):
        raise ValueError("it is no record of a run")
    known: dict[str, Any] = {name: state[name] for name in RunSnapshot._fields if name in state}
    for name, value in known.items():
        if not _FITS[name](value):
            raise ValueError(f"{name} is {value!r:.60}")
    known["phases"] = tuple(PhaseChange(*change) for change in known.get("phases", ()))
    known["log_links"] = tuple((name, uri) for name, uri in known.get("log_links", ()))
    known["notes"] = tuple(known.get("notes", ()))
    known["error"] = _error(known.get("error"))
    try:
        return RunSnapshot(**known)
    except TypeError as error:
        raise ValueError(str(error)) from error


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= LATEST  # type: ignore[arg-type, operator]


def _or_none(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or fits(value)


def _list_of(fits: Callable[[Any], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(fits(item) for item in value)


def _is_change(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (2, 3)
        and _is_text(value[0])
        and _is_time(value[1])
        and (len(value) == 2 or _is_count(value[2]))
    )


def _is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)


def _is_record(value: object) -> bool:
    return isinstance(value, dict)


_FITS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(
        ("id", "name", "task_type", "service", "agent", "phase", "message", "error_code", "held", "stand_in"), _is_text
    ),
    **dict.fromkeys(("version", "attempt", "attempts"), _is_count),
    **dict.fromkeys(("is_sync", "stopping"), _is_flag),
    "submitted": _is_time,
    **dict.fromkeys(("ended", "seconds"), _or_none(_is_time)),
    "phases": _list_of(_is_change),
    "log_links": _list_of(_is_link),
    "notes": _list_of(_is_text),
    **dict.fromkeys(("custom_info", "error"), _or_none(_is_record)),
}


# Errors


def _error_record(error: errors.FlyteAgentNBError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    facts = {name: getattr(error, name) for name in _ERROR_FACTS if hasattr(error, name)}
    return {"kind": type(error).__name__, "message": error.message, "hint": error.hint, "facts": facts}


def _error(record: Mapping[str, Any] | None) -> errors.FlyteAgentNBError | None:
    if record is None:
        return None
    message, hint = str(record.get("message")), str(record.get("hint"))
    kind = getattr(errors, str(record.get("kind")), None)
    if isinstance(kind, type) and issubclass(kind, errors.RunFailedError):
        try:
            facts = dict(record.get("facts") or {})
            facts["log_links"] = tuple((str(name), str(uri)) for name, uri in facts.get("log_links", ()))
            facts["frames"] = tuple(str(frame) for frame in facts.get("frames", ()))
            return kind(message, hint=hint, **{name: facts[name] for name in _ERROR_FACTS if name in facts})
        except (TypeError, ValueError):  # another version's facts: the words count
            pass
    return errors.FlyteAgentNBError(message, hint=hint)
