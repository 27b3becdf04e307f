"""Snapshots of runs as rows of the journal and back: plain data, so that a later version can read an earlier one's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flyteagent_nb import errors
from flyteagent_nb.running.run import PhaseChange, RunSnapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

_ERROR_FACTS = ("run_id", "task", "task_type", "phase", "code", "agent_message", "frames", "log_links", "attempts")


def state_of(snapshot: RunSnapshot) -> str:
    """A snapshot as JSON."""
    state = snapshot._asdict()
    state["phases"] = [tuple(change) for change in snapshot.phases]
    state["error"] = _error_record(snapshot.error)
    return json.dumps(state, separators=(",", ":"), default=str)


def snapshot_of(text: str) -> RunSnapshot:
    """The snapshot that :func:`state_of` wrote; fields of another version are left out, or take their defaults."""
    state: dict[str, Any] = json.loads(text)
    known = {name: state[name] for name in RunSnapshot._fields if name in state}
    known["phases"] = tuple(PhaseChange(*change) for change in known.get("phases", ()))
    known["log_links"] = tuple((str(name), str(uri)) for name, uri in known.get("log_links", ()))
    known["notes"] = tuple(known.get("notes", ()))
    known["error"] = _error(known.get("error"))
    return RunSnapshot(**known)


def _error_record(error: errors.FlyteAgentNBError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    facts = {name: getattr(error, name) for name in _ERROR_FACTS if hasattr(error, name)}
    return {"kind": type(error).__name__, "message": error.message, "hint": error.hint, "facts": facts}


def _error(record: Mapping[str, Any] | None) -> errors.FlyteAgentNBError | None:
    if record is None:
        return None
    message, hint, facts = str(record.get("message")), str(record.get("hint")), dict(record.get("facts") or {})
    kind = getattr(errors, str(record.get("kind")), None)
    if isinstance(kind, type) and issubclass(kind, errors.RunFailedError):
        try:
            facts["log_links"] = tuple((str(name), str(uri)) for name, uri in facts.get("log_links", ()))
            return kind(message, hint=hint, **facts)
        except TypeError:  # another version's facts: the words count
            pass
    return errors.FlyteAgentNBError(message, hint=hint)
