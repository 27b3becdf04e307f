"""What must work where nothing but the wheel is installed: a script, and a real kernel.

Run by the Python of such an environment, it needs nothing else. It writes what it got as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pandas as pd
from flytekit import kwtypes
from jupyter_client.manager import KernelManager

import flyteagent_nb
from flyteagent_nb.agents.duckdb import DuckDBQuery

LIMIT = 60.0

CELLS = (
    "%load_ext flyteagent_nb",
    "%%agent_task duckdb_query -i n=21 -o frame\nSELECT $n * 2 AS twice",
    """
from flyteidl.core.execution_pb2 import TaskExecution
from flytekit.extend.backend.base_agent import AgentRegistry, Resource, SyncAgentBase

class Greeting(SyncAgentBase):
    name = "Greeting"
    def __init__(self):
        super().__init__(task_type_name="greeting")
    def do(self, task_template, inputs=None, **kwargs):
        return Resource(phase=TaskExecution.SUCCEEDED, outputs={"text": "Hello " + task_template.custom["who"]})

AgentRegistry.register(Greeting())
""",
    "%%agent_task greeting --returns text:str -o text\nwho: you",
)


def script() -> int:
    """A task from a plain script."""
    task = DuckDBQuery(
        name="double",
        query_template="SELECT $n * 2 AS twice",
        inputs=kwtypes(n=int),
        output_structured_dataset_type=pd.DataFrame,
    )
    return int(flyteagent_nb.submit(task, n=21).result(timeout=LIMIT)["twice"][0])


def kernel() -> dict[str, str]:
    """The magics, in a kernel."""
    manager = KernelManager(transport="ipc")  # a port may be taken between the look for it and its use
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=LIMIT)
        for cell in CELLS:
            content = client.execute_interactive(cell, timeout=LIMIT, output_hook=lambda message: None)["content"]
            if content["status"] != "ok":
                raise RuntimeError("\n".join([cell, *content.get("traceback", [])]))
        asked = {"twice": "int(frame['twice'][0])", "text": "text"}
        reply: Any = client.execute_interactive(
            "", user_expressions=asked, timeout=LIMIT, output_hook=lambda message: None
        )
        return {name: value["data"]["text/plain"] for name, value in reply["content"]["user_expressions"].items()}
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    json.dump({"from": flyteagent_nb.__file__, "script": script(), "kernel": kernel()}, sys.stdout)
