"""The tree of errors: what failed, the facts as attributes, and one hint that says the way out.

::

    FlyteAgentNBError
    ├── ArgumentError (ValueError)            a magic's line that cannot be read
    ├── CellError (ValueError)                a cell's body that is not a task
    ├── InputError (TypeError)                inputs that do not fit the task's interface
    ├── OutputError (TypeError)               outputs that do not fit the task's interface
    ├── CodeLocationError (ValueError)        a notebook's function that its agent could not reach
    ├── TemplateError (ValueError)            a task that its plug-in cannot put into a template
    ├── AgentDefinitionError (TypeError)      an object that cannot be registered as an agent
    ├── AgentNotFoundError (LookupError)      no agent of that name
    ├── TaskTypeNotFoundError (LookupError)   no agent for a task type
    ├── RunNotFoundError (LookupError)        no run with that id
    ├── ServiceNotFoundError (LookupError)    no agent service of that name or address
    ├── ServiceError (RuntimeError)           an agent service that does not start or answer
    │   └── AddressInUseError (OSError)       a port or socket that somebody else has
    ├── ConfigurationError (ValueError)       a configuration of propeller's that cannot be read
    ├── CheckError (AssertionError)           an agent that FlytePropeller would have trouble with
    ├── ExportError (ValueError)              agents that cannot be exported, or a folder that holds something else
    ├── JournalError (RuntimeError)           a run on record that cannot be had, or a journal that cannot be read
    ├── RunFailedError                        the task failed
    │   ├── RunTimedOutError (TimeoutError)   the task's own timeout passed
    │   └── RunAbortedError                   the run was cancelled
    ├── WaitTimeoutError (TimeoutError)       a wait ended before the run did; the run goes on
    └── WrongThreadError (RuntimeError)       a blocking wait on the loop's own thread

    TaskStopped (KeyboardInterrupt)           the stop button; never caught by ``except Exception``

Names that look alike are suggested by :func:`closest`; :func:`article` writes "an int".
"""

from __future__ import annotations

import copy
import difflib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flyteagent_nb.findings import Finding


def closest(name: str, known: Iterable[str]) -> str | None:
    """The name among ``known`` that looks most like ``name``, of equals the one that begins most like it, or None where none is near."""
    by_fold = {k.lower(): k for k in known}
    word = name.lower()

    def likeness(other: str) -> tuple[float, int]:
        begins = sum(other.startswith(word[:length]) for length in range(1, len(word) + 1))
        return difflib.SequenceMatcher(None, other, word).ratio(), begins

    found = difflib.get_close_matches(word, by_fold, n=5, cutoff=0.6)
    return by_fold[max(found, key=likeness)] if found else None


def article(name: str) -> str:
    """The name with its article: ``an int``."""
    return f"{'an' if name[:1] in 'aeioAEIO' else 'a'} {name}"


class FlyteAgentNBError(Exception):
    """The root of every error of ours that a person can meet.

    Attributes:
        message: what failed, in one sentence or a few lines.
        hint: the way out, or an empty string.
        original: the error that this one is, raised :meth:`again`, or None.
    """

    original: FlyteAgentNBError | None = None

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def details(self) -> list[str]:
        """The lines between the message and the hint: an agent's frames, a link."""
        return []

    def __str__(self) -> str:
        lines = [self.message, *self.details()]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback: our frames tell a person nothing."""
        return f"{type(self).__name__}: {self}".splitlines()

    def again(self) -> FlyteAgentNBError:
        """The same error, to be raised: one that is raised keeps the frames on its way, and what is in them, while it lives."""
        error = copy.copy(self)
        error.original, error.__cause__ = self, self.__cause__
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle and copy: by itself Python would call the class with the message alone, which most here do not take."""
        return _made, (type(self), self.args, {name: fact for name, fact in vars(self).items() if name != "original"})


def _made(kind: type[FlyteAgentNBError], args: tuple[Any, ...], facts: dict[str, Any]) -> FlyteAgentNBError:
    # Whose memory it has; Python looks no further than the first base.
    base = OSError if issubclass(kind, OSError) else kind
    error = base.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class ArgumentError(FlyteAgentNBError, ValueError):
    """A magic's line that cannot be read.

    Attributes:
        suggestion: the known word nearest to the wrong one, or None.
    """

    def __init__(self, message: str, *, hint: str = "", suggestion: str | None = None) -> None:
        super().__init__(message, hint=hint or (f"did you mean {suggestion}?" if suggestion else ""))
        self.suggestion = suggestion


class CellError(FlyteAgentNBError, ValueError):
    """A cell's body that does not parse, or in which there is no task.

    Attributes:
        line: the line in the cell, counted from 1 for the magic's own line, or None.
    """

    def __init__(self, message: str, *, hint: str = "", line: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.line = line


class InputError(FlyteAgentNBError, TypeError):
    """Inputs that do not fit the interface of the task or workflow that was called.

    Attributes:
        task: the name of the task or workflow.
        name: the input's name.
    """

    def __init__(self, message: str, *, task: str, name: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.task = task
        self.name = name


class OutputError(FlyteAgentNBError, TypeError):
    """What an agent returned does not fit the task's interface.

    Attributes:
        task: the task's name.
        name: the output's name.
    """

    def __init__(self, message: str, *, task: str, name: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.task = task
        self.name = name


class CodeLocationError(FlyteAgentNBError, ValueError):
    """A function task that lives in the notebook, and whose agent has no stated way to its code.

    Attributes:
        task: the task's name.
    """

    def __init__(self, message: str, *, task: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.task = task


class TemplateError(FlyteAgentNBError, ValueError):
    """A task that its plug-in cannot put into a template, on a cluster as little as here.

    Attributes:
        task: the task's name.
    """

    def __init__(self, message: str, *, task: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.task = task


class AgentDefinitionError(FlyteAgentNBError, TypeError):
    """An object that cannot be registered: it is no agent, or it names no task type."""


class AgentNotFoundError(FlyteAgentNBError, LookupError):
    """No agent has that name.

    Attributes:
        name: the name asked for.
        suggestion: the known one nearest to it, or None.
    """

    def __init__(self, message: str, *, name: str, suggestion: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint or (f"did you mean {suggestion}?" if suggestion else ""))
        self.name = name
        self.suggestion = suggestion


class TaskTypeNotFoundError(FlyteAgentNBError, LookupError):
    """No agent serves a task type.

    Attributes:
        task_type: the name asked for.
        version: its version.
        suggestion: the known type nearest to it, or None.
    """

    def __init__(
        self, message: str, *, task_type: str, version: int = 0, suggestion: str | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint or (f"did you mean {suggestion}?" if suggestion else ""))
        self.task_type = task_type
        self.version = version
        self.suggestion = suggestion


class RunNotFoundError(FlyteAgentNBError, LookupError):
    """No run has that id, or more than one begins with it.

    Attributes:
        run_id: the id or prefix asked for.
        candidates: the ids that begin with it, where there are several.
    """

    def __init__(self, message: str, *, run_id: str, candidates: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.run_id = run_id
        self.candidates = tuple(candidates)


class ServiceNotFoundError(FlyteAgentNBError, LookupError):
    """No agent service has that name or address.

    Attributes:
        service: the name or address asked for.
        suggestion: the known one nearest to it, or None.
    """

    def __init__(self, message: str, *, service: str, suggestion: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint or (f"did you mean {suggestion}?" if suggestion else ""))
        self.service = service
        self.suggestion = suggestion


class ServiceError(FlyteAgentNBError, RuntimeError):
    """An agent service that does not start or does not answer.

    Attributes:
        service: its name.
        address: where it listens, or should.
    """

    def __init__(self, message: str, *, service: str, address: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.service = service
        self.address = address


class AddressInUseError(ServiceError, OSError):
    """A port or socket that somebody else has."""


class ConfigurationError(FlyteAgentNBError, ValueError):
    """A configuration of propeller's that cannot be read.

    Attributes:
        source: the file's name.
        line: the line in it, counted from 1, or None.
    """

    def __init__(self, message: str, *, source: str, line: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.source = source
        self.line = line


class CheckError(FlyteAgentNBError, AssertionError):
    """An agent that FlytePropeller would have trouble with.

    Attributes:
        task_type: the agent's task type.
        findings: all that was found, what is well too.
    """

    def __init__(self, message: str, *, task_type: str, findings: Sequence[Finding], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.task_type = task_type
        self.findings = tuple(findings)

    def details(self) -> list[str]:
        """What is wrong, and what mends it."""
        return [
            f"  {f.what}: {f.told}" + (f"\n    → {f.mend}" if f.mend else "") for f in self.findings if f.sign == "bad"
        ]


class ExportError(FlyteAgentNBError, ValueError):
    """Agents that cannot be exported, or a folder that holds something else."""


class JournalError(FlyteAgentNBError, RuntimeError):
    """A run on record that cannot be had (somebody else follows it), or a journal that cannot be read or written."""


LINKS_TOLD = 10
"""Log links of a run that are told: an array of jobs may have one for each of thousands."""


class RunFailedError(FlyteAgentNBError):
    """A run that ended without its outputs.

    Attributes:
        run_id: the run.
        task: the task's name.
        task_type: its type.
        phase: the final phase's name, as Flyte spells it (``FAILED``, ``RETRYABLE_FAILED``, ``ABORTED``).
        code: the error's code, as FlytePropeller would record it.
        agent_message: the agent's own words.
        frames: the frames of the agent's code, as ``file:line in function``, outermost first.
        log_links: (name, address) pairs.
        attempts: how many attempts were made.
        stand_in: what stood in for the service that the agent talks to, in words, or an empty string.
    """

    def __init__(
        self,
        message: str,
        *,
        run_id: str,
        task: str,
        task_type: str,
        phase: str,
        code: str = "",
        agent_message: str = "",
        frames: Sequence[str] = (),
        log_links: Sequence[tuple[str, str]] = (),
        attempts: int = 1,
        stand_in: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.run_id = run_id
        self.task = task
        self.task_type = task_type
        self.phase = phase
        self.code = code
        self.agent_message = agent_message
        self.frames = tuple(frames)
        self.log_links = tuple(log_links)
        self.attempts = attempts
        self.stand_in = stand_in

    def details(self) -> list[str]:
        """The agent's frames, its log links, and what stood in for its service."""
        lines = [
            *(f"  {f}" for f in self.frames),
            *(f"log: {name}: {uri}" for name, uri in self.log_links[:LINKS_TOLD]),
        ]
        if more := len(self.log_links[LINKS_TOLD:]):
            lines.append(f"log: and {more:,} more: the attribute log_links has all")
        if self.stand_in:
            lines.append(f"it ran on {self.stand_in}: %agent sandbox tells what that does not do")
        return lines


class RunTimedOutError(RunFailedError, TimeoutError):
    """A run that took longer than the task's own timeout."""


class RunAbortedError(RunFailedError):
    """A run that was cancelled."""


class WaitTimeoutError(FlyteAgentNBError, TimeoutError):
    """A wait that ended before the run did. The run goes on.

    Attributes:
        run_id: the run.
        seconds: how long was waited.
    """

    def __init__(self, message: str, *, run_id: str, seconds: float, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.run_id = run_id
        self.seconds = seconds


class WrongThreadError(FlyteAgentNBError, RuntimeError):
    """A blocking wait on the thread that would have to do the work."""


class TaskStopped(KeyboardInterrupt):
    """The stop button ended a wait, and the run with it where it could be stopped.

    Attributes:
        run_ids: the runs that were waited for.
        hint: how to see what came of them, or an empty string.
    """

    def __init__(self, message: str, *, run_ids: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.run_ids = tuple(run_ids)
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message

    def _render_traceback_(self) -> list[str]:
        return f"{type(self).__name__}: {self}".splitlines()
