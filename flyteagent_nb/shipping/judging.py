"""What was seen of an agent -> findings: what FlytePropeller would make of it, and what to do. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flyteagent_nb.findings import Finding
from flyteagent_nb.running import propeller
from flyteagent_nb.running.interface import interface_mismatch
from flyteagent_nb.running.propeller import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flyteidl.admin.agent_pb2 import Agent, Resource
    from flyteidl.core.interface_pb2 import Variable
    from flyteidl.core.literals_pb2 import LiteralMap

    from flyteagent_nb.shipping.driving import Reply

NEAR = 0.5
"""The share of a deadline from which on a call is close to it."""

_ORDER = {
    Phase.QUEUED: 0,
    Phase.WAITING_FOR_RESOURCES: 1,
    Phase.INITIALIZING: 2,
    Phase.RUNNING: 3,
}
_UNIMPLEMENTED = ("UNIMPLEMENTED", "FAILED_PRECONDITION")


def listing(agents: Sequence[Agent], task_type: str, version: int) -> Finding:
    """Whether the metadata says what is served, and says it once."""
    named = [agent for agent in agents if task_type in agent.supported_task_types]
    key = (task_type, version)
    exact = [a for a in agents if any((c.name, c.version) == key for c in a.supported_task_categories)]
    what = f"{task_type} (version {version})"
    if not exact and any(not a.supported_task_categories for a in named) and not version:
        return Finding(
            "warn", "listed", f"{what} is listed without a version, as services before task categories do",
            "update flytekit where the service runs",
        )  # fmt: skip
    if not exact:
        versions = sorted({c.version for a in agents for c in a.supported_task_categories if c.name == task_type})
        told = f"; version {', '.join(map(str, versions))} is" if versions else ""
        return Finding(
            "bad", "listed", f"{what} is not listed{told}: propeller would send its tasks to the default service",
            "register the agent with that task type and version; a version is matched exactly",
        )  # fmt: skip
    names = ", ".join(agent.name or "(no name)" for agent in exact)
    if len({agent.is_sync for agent in exact}) > 1:
        return Finding(
            "bad", "listed", f"{what} is listed as sync and as async, by {names}: which propeller takes is chance",
            "take one of the agents away",
        )  # fmt: skip
    if len(exact) > 1:
        return Finding(
            "warn", "listed", f"{what} is listed by {len(exact)} agents: {names}; propeller takes the last", "take one of them away"
        )  # fmt: skip
    times = sum((c.name, c.version) == key for c in exact[0].supported_task_categories)
    if times > 1:
        return Finding(
            "warn", "listed", f"{what} is listed {times} times, as flytekit does for an agent that is registered again",
            "register it once in the module that is served",
        )  # fmt: skip
    if task_type not in exact[0].supported_task_types:
        return Finding(
            "warn", "listed", f"{what} is not among the task types without a version, which an older propeller reads",
            "list it in supported_task_types too",
        )  # fmt: skip
    if not exact[0].name:
        return Finding("warn", "listed", f"the agent of {what} has no name", 'give its class a name = "..."')
    return Finding("ok", "listed", f"{what} by {names}, {'sync' if exact[0].is_sync else 'async'}")


def call(what: str, operation: str, replies: Sequence[Reply[Any]], *, expected: str = "") -> Finding:
    """Whether calls of one operation were answered, and within their deadline.

    Args:
        what: what the finding is called.
        operation: the call's name.
        replies: what came of each; one at least.
        expected: what to do where an answer is an error; empty for what fits the operation.
    """
    failed = next((reply for reply in replies if reply.failed), None)
    if failed is not None:
        if failed.code == "DEADLINE_EXCEEDED":
            return Finding(
                "bad", what, f"{operation} took longer than its deadline, {failed.deadline or 0:g} s, which propeller has too",
                "answer at once, and let get() tell how it goes; or give the service a longer deadline in propeller's configuration",
            )  # fmt: skip
        if failed.code in _UNIMPLEMENTED:
            return Finding(
                "bad", what, f"{operation}: {failed.error}", "implement it, or list the agent as the kind that it is"
            )
        return Finding("bad", what, f"{operation} failed: {failed.error}", expected)
    slowest = max(replies, key=lambda reply: reply.seconds)
    told = f"{operation} took {_seconds(slowest.seconds)}" + (" at most" if len(replies) > 1 else "")
    if slowest.deadline:
        told += f" of {slowest.deadline:g} s"
        if slowest.seconds > NEAR * slowest.deadline:
            return Finding(
                "warn", what, f"{told}: on a busy day that is too long",
                "answer at once, and let get() tell how it goes",
            )  # fmt: skip
    return Finding("ok", what, told)


def meta(first: bytes) -> Finding | None:
    """Whether there is something by which the job can be found again; None where there is."""
    if first:
        return None
    return Finding(
        "bad", "create", "the resource meta is empty: nothing says which job it is",
        "return the job's id from create(), in a dataclass that derives from ResourceMeta",
    )  # fmt: skip


def phases(numbers: Sequence[int], states: Sequence[int]) -> Finding:
    """Whether the phases that gets told go forward only.

    Args:
        numbers: flyteidl's phase of each reply.
        states: the deprecated state of each.
    """
    seen: list[str] = []
    furthest = -1
    for number, state in zip(numbers, states, strict=True):
        if not number:
            if not state:
                return Finding(
                    "bad", "phases", "a reply tells no phase, which propeller reads as RETRYABLE_FAILED",
                    "return Resource(phase=TaskExecution.RUNNING) while the job goes on",
                )  # fmt: skip
            continue
        try:
            phase = Phase(number)
        except ValueError:
            return Finding(
                "bad", "phases", f"the phase {number} is none of Flyte's: propeller counts it as an error of its own",
                "return one of TaskExecution's phases",
            )  # fmt: skip
        if not seen or seen[-1] != phase.name:
            seen.append(phase.name)
        order = 9 if phase.final else _ORDER[phase]
        if order < furthest:
            return Finding(
                "bad", "phases", f"they go back: {' → '.join(seen)}",
                "tell a phase only once the job is in it; a job that starts over is a new job",
            )  # fmt: skip
        furthest = order
    return Finding("ok", "phases", " → ".join(seen) or "told by state")


def ending(last: Resource | None, seconds: float, errors: Sequence[str]) -> Finding:
    """Whether the job came to its end, and how."""
    if last is None or not (phase := propeller.resolve_phase(last)).final:
        now = f"is {propeller.resolve_phase(last).name}" if last is not None else "tells nothing"
        told = errors[-1] if errors else "it goes on"
        return Finding(
            "warn" if last is not None and not errors else "bad", "end", f"after {_seconds(seconds)} the job {now}: {told}",
            "give a task that ends sooner, or --timeout; what comes after the end was not looked at",
        )  # fmt: skip
    if phase is Phase.SUCCEEDED:
        return Finding("ok", "end", f"SUCCEEDED after {_seconds(seconds)}")
    return Finding(
        "bad", "end", f"{phase.name}: {' '.join(last.message.split())[:300] or 'no reason given'}",
        "give a task that succeeds: its outputs, and a get after its success, were not looked at",
    )  # fmt: skip


def again(last: Resource, reply: Reply[Resource], what: str = "get after the end") -> Finding:
    """Whether a get after the end tells the same; propeller asks again where it was restarted before it wrote down what it knew."""
    if reply.value is None:
        return Finding(
            "bad",
            what,
            f"GetTask failed: {reply.error}",
            "keep nothing in memory: ask the service for the job, by its id",
        )
    if (before := propeller.resolve_phase(last)) is not (now := propeller.resolve_phase(reply.value)):
        return Finding(
            "bad",
            what,
            f"it was {before.name}, and is {now.name}",
            "tell the same phase as long as the service knows the job",
        )
    if last.HasField("outputs") and last.outputs != reply.value.outputs:
        told = "has other outputs" if reply.value.HasField("outputs") else "has no outputs any more"
        return Finding("bad", what, f"it is {now.name}, and {told}", "read the outputs from the service each time")
    return Finding("ok", what, f"{now.name} again" + (", with its outputs" if last.HasField("outputs") else ""))


def outputs(declared: Mapping[str, Variable], found: LiteralMap | None, problem: str) -> Finding:
    """Whether the outputs fit the task's interface."""
    if problem:
        return Finding("bad", "outputs", f"error.pb says: {problem}", "write error.pb where the job failed only")
    if not declared:
        return Finding("ok", "outputs", "none are declared, so propeller reads none")
    if found is None:
        return Finding(
            "bad", "outputs", f"{', '.join(declared)} declared, and neither in the reply nor as outputs.pb under the output prefix",
            "return Resource(..., outputs={...}) with the last phase",
        )  # fmt: skip
    wrong = interface_mismatch(declared, found)
    if wrong is not None:
        return Finding(
            "bad", "outputs", f"{wrong[0]} {wrong[1]}; propeller lets it pass, and the next task fails on it",
            "change the agent's outputs or the task's interface",
        )  # fmt: skip
    return Finding("ok", "outputs", f"{', '.join(declared)}: names and types are those of the interface")


def links(replies: Sequence[Resource]) -> Finding:
    """Whether log links are links."""
    found = {(link.name, link.uri) for reply in replies for link in reply.log_links}
    for name, uri in sorted(found):
        try:
            parts = urlsplit(uri)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname or uri != uri.strip():
            return Finding(
                "bad", "log links", f"'{name}' is no link a browser could open: {uri[:200]!r}",
                "give an absolute http or https address, or none",
            )  # fmt: skip
        if not name:
            return Finding(
                "warn", "log links", f"{uri[:200]} has no name, which the console shows", "TaskLog(uri=..., name=...)"
            )
    if not found:
        return Finding("ok", "log links", "none")
    return Finding("ok", "log links", ", ".join(sorted(name for name, _ in found)))


def failures(errors: Sequence[str], trial: tuple[Reply[Any], Resource | None] | None, operation: str) -> Finding:
    """Whether failures are told as phases.

    Args:
        errors: what gets, or a sync call, ended with instead of a reply.
        trial: of a task that ought to fail, its create (or sync call) and its last state; None where there was none.
        operation: GetTask or ExecuteTaskSync.
    """
    mend = "return Resource(phase=TaskExecution.FAILED, message=...) where the job failed, and raise only what may pass"
    if errors:
        counted = (
            "an error of its own, and gives the run up after six" if operation == "GetTask" else "a create that failed"
        )
        return Finding(
            "bad",
            "failures",
            f"{operation} raised instead of telling a phase: {errors[0]}; propeller counts it as {counted}",
            mend,
        )
    if trial is None:
        return Finding("skip", "failures", "nothing failed", "--failing TASK gives a task that ought to fail")
    first, last = trial
    if first.failed:
        if operation == "ExecuteTaskSync":
            return Finding("bad", "failures", f"{operation} raised: {first.error}", mend)
        return Finding(
            "warn", "failures", f"the create fails: {first.error}; propeller tries again while the task has retries",
            "where trying again changes nothing, create nothing, and let get() tell FAILED",
        )  # fmt: skip
    if last is None or not (phase := propeller.resolve_phase(last)).final:
        return Finding("bad", "failures", "the task that ought to fail did not come to an end", mend)
    if phase is Phase.SUCCEEDED:
        return Finding("bad", "failures", "the task that ought to fail succeeded", mend)
    if not last.message:
        return Finding(
            "warn", "failures", f"{phase.name} without a word", "give the reason: Resource(..., message=...)"
        )
    return Finding("ok", "failures", f"{phase.name}: {' '.join(last.message.split())[:200]}")


def concurrent(replies: Sequence[Reply[bytes]], *, always_same: bool = False) -> Finding:
    """Whether several creates at once make a job each.

    Args:
        replies: what came of each.
        always_same: whether one create after the other gave the same meta, too: it says what to look at, and there is no job.
    """
    found = call(
        "concurrent creates", "CreateTask", replies, expected="creates come at once: share nothing, or lock it"
    )
    if found.sign == "bad":
        return found
    metas = {reply.value for reply in replies}
    if len(metas) == 1 and always_same:
        return found._replace(
            told=f"{len(replies)} at once; the resource meta is the same each time, as a sensor's; {found.told}"
        )
    if len(metas) < len(replies):
        return Finding(
            "bad", "concurrent creates", f"{len(replies)} at once made {len(metas)} job{'s' if len(metas) > 1 else ''}: two runs share one",
            "give each job an id of its own; the output prefix and task_execution_metadata tell runs apart",
        )  # fmt: skip
    return found._replace(told=f"{len(replies)} at once, each with a job of its own; {found.told}")


def blocking(held: Sequence[tuple[str, float]]) -> Finding:
    """Whether a coroutine of the agent held the loop.

    Args:
        held: (method, seconds) of each that did.
    """
    if not held:
        return Finding("ok", "loop", "never held for long")
    method, seconds = max(held, key=lambda each: each[1])
    return Finding(
        "bad" if seconds >= 1 else "warn", "loop",
        f"`async def {method}` held the event loop for {_seconds(seconds)}: no other call is answered meanwhile, nor the health probe",
        "await instead (httpx, asyncio.to_thread), or make it a plain `def`",
    )  # fmt: skip


def unknown_meta(one: bytes, other: bytes) -> bytes | None:
    """The resource meta of a job that does not exist, made of two that do: what differs between them is the id.

    Returns:
        None where they are not JSON, or no text or number in them differs.
    """
    try:
        first, second = json.loads(one), json.loads(other)
    except (ValueError, UnicodeDecodeError):
        return None
    changed = _changed(first, second)
    return None if changed == first else json.dumps(changed).encode()


def _changed(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _changed(value, other.get(key, value)) for key, value in one.items()}
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [_changed(a, b) for a, b in zip(one, other, strict=True)]
    if one == other or isinstance(one, bool):
        return one
    if isinstance(one, str):  # of the same form: the last letters and digits are others
        return f"{one}99" if one.isdigit() else one[:-4] + "".join(map(_another, one[-4:]))
    return one + 900_001 if isinstance(one, int) else one


def _another(character: str) -> str:
    if character.isdigit():
        return str(9 - int(character))
    return ("z" if character != "z" else "q") if character.isalpha() else character


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
