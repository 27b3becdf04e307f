"""Run Flyte agents in a notebook: a real gRPC agent service in the kernel, driven as FlytePropeller would.

In a notebook ``%load_ext flyteagent_nb`` is the way in; from Python, :func:`submit`. Everything is imported lazily, so that
``import flyteagent_nb`` and ``%load_ext`` cost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flyteagent_nb.errors import FlyteAgentNBError, RunAbortedError, RunFailedError, RunTimedOutError, TaskStopped
    from flyteagent_nb.running.run import Run, RunSnapshot
    from flyteagent_nb.workspace import get_workspace, submit

__version__ = "0.1.0"

__all__ = [
    "FlyteAgentNBError",
    "Run",
    "RunAbortedError",
    "RunFailedError",
    "RunSnapshot",
    "RunTimedOutError",
    "TaskStopped",
    "get_workspace",
    "submit",
]

_HOME = {
    "FlyteAgentNBError": "flyteagent_nb.errors",
    "Run": "flyteagent_nb.running.run",
    "RunAbortedError": "flyteagent_nb.errors",
    "RunFailedError": "flyteagent_nb.errors",
    "RunSnapshot": "flyteagent_nb.running.run",
    "RunTimedOutError": "flyteagent_nb.errors",
    "TaskStopped": "flyteagent_nb.errors",
    "get_workspace": "flyteagent_nb.workspace",
    "submit": "flyteagent_nb.workspace",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'flyteagent_nb' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "load_ipython_extension", "unload_ipython_extension"])


def load_ipython_extension(ipython: Any) -> None:
    """``%load_ext flyteagent_nb``."""
    from flyteagent_nb.notebook.extension import load

    load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """``%unload_ext flyteagent_nb``."""
    from flyteagent_nb.notebook.extension import unload

    unload(ipython)
