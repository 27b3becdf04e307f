"""A process that makes every file of ours: ``python private_files.py``. It says where they are, and stays until its stdin ends.

Its home, temporary folder and path come with the environment; the umask is its caller's.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from flytekit.core.python_function_task import PythonFunctionTask
from flytekit.extend.backend.base_connector import AsyncConnectorExecutorMixin
from scripted import EchoAgent, ScriptedAgent
from scripted_stand_in import ScriptedStandIn
from scripted_tasks import PATIENCE, scripted_task, until

from flyteagent_nb.sandbox import sandboxes
from flyteagent_nb.workspace import get_workspace

LARGE = "x" * 100_000


class FunctionTask(AsyncConnectorExecutorMixin, PythonFunctionTask):  # type: ignore[misc]
    """A function of a notebook that an agent runs."""

    def get_custom(self, settings: Any) -> dict[str, Any]:
        return {}


def function() -> None:
    """What is pickled: it has a body."""
    sys.stdout.write("nobody runs it\n")


def main() -> None:
    """Run, serve, keep, pickle, and start a sandbox."""
    workspace = get_workspace()
    workspace.sandboxes = sandboxes.Sandboxes({"scripted": f"{ScriptedStandIn.__module__}:ScriptedStandIn"})
    workspace.wait()
    workspace.catalog.register(ScriptedAgent())
    workspace.catalog.register(EchoAgent())
    runs = [
        workspace.submit(scripted_task(inputs={"s": str}, prints={"create": "printed", "get": "more"}), {"s": LARGE}),
        workspace.submit(scripted_task("echo", inputs={"s": str}, outputs={"s": str}), {"s": LARGE}),
        workspace.submit(FunctionTask(None, function, task_type="scripted"), {}, code="pickle"),
        workspace.submit(scripted_task(phases=["RUNNING"]), {}),
    ]
    script = runs[0]
    for run in runs[:3]:
        run.result(PATIENCE)
    until(lambda: runs[3].phase == "RUNNING")
    workspace.sandboxes.start("scripted")
    workspace.sandboxes.load("scripted", "table", [1])
    token, everybody = workspace.serve(0), workspace.serve(0, open=True)
    until(lambda: (workspace.runner.storage.root / f"{script.id}.log").exists())
    workspace.runner.journal.flush()  # type: ignore[attr-defined]
    told = {
        "socket": workspace.addresses()[0].target,
        "token": token.target,
        "open": everybody.target,
        "data": str(workspace.config.data_path),
        "secret": str(token.token),
    }
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    workspace.close()


if __name__ == "__main__":
    threading.current_thread().name = "main"  # flytekit would take SIGINT on the thread called MainThread
    main()
