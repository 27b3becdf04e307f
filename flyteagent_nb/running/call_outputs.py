"""What flytekit says of an output of a plain call or a workflow, as the error that a run of the task has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from flytekit.core.workflow import WorkflowBase

from flyteagent_nb import tables
from flyteagent_nb.errors import OutputError, article
from flyteagent_nb.running.wording import first_line, output_hint, type_name

if TYPE_CHECKING:
    from flytekit.core.base_task import PythonTask

_FAILED_OUTPUT = re.compile(r"Failed to convert output in position (\S+) of value ")


def output_error(called: PythonTask[Any] | WorkflowBase, error: Exception) -> OutputError | None:
    """flytekit's error on an output of a call as ours, which names the output and its type; None where it is about something else.

    Args:
        called: the task or workflow.
        error: what flytekit raised.
    """
    found = _FAILED_OUTPUT.match(str(error)) if isinstance(error, TypeError) else None
    if found is None:
        return None
    outputs = called.python_interface.outputs
    name = found[1] if found[1] in outputs else f"o{found[1]}"  # it tells of an output without a name by its place
    if name not in outputs:
        return None
    kind = "workflow" if isinstance(called, WorkflowBase) else "task"
    cause = error.__cause__ or error
    wanted = tables.wanted(outputs[name]) or outputs[name]
    return OutputError(
        f"output '{name}' of {kind} '{called.name.removeprefix('__main__.')}' does not become {article(type_name(wanted))}: "
        f"{first_line(cause)}",
        task=called.name,
        name=name,
        hint=output_hint(cause, kind),
    )
