"""A service whose jobs are files, which outlive it, and that fails as each job asks: ``python elsewhere_jobs.py FOLDER TARGET``.

A job's template has in its ``custom``: ``fails``, the status of calls by operation (``HANG`` for no answer); ``every``, of how many calls
the first one is answered so (2 by default, 1 for all of them). Jobs go on until a file ``go`` lies in the folder. What a call of CreateTask
that succeeds makes is counted by the files. It prints its address when it serves, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import collections
import json
import os
import sys
from pathlib import Path
from typing import Any

import grpc
from flyteidl.admin import agent_pb2 as pb
from flyteidl.core import literals_pb2
from flyteidl.core.execution_pb2 import TaskExecution
from flyteidl.service import agent_pb2_grpc as services
from google.protobuf import json_format

TASK_TYPE = "elsewhere_job"


class Jobs(services.AsyncAgentServiceServicer, services.AgentMetadataServiceServicer):  # type: ignore[misc]
    """Both services, without flytekit: another language's agent looks like this."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: collections.Counter[tuple[str, str]] = collections.Counter()

    async def _fail(self, context: Any, operation: str, key: str, script: dict[str, Any]) -> None:
        code = script.get("fails", {}).get(operation)
        if code is None:
            return
        self.calls[operation, key] += 1
        if (self.calls[operation, key] - 1) % int(script.get("every", 2)):
            return
        if code == "HANG":
            await asyncio.Event().wait()
        await context.abort(getattr(grpc.StatusCode, code), f"{operation} says {code}")

    async def CreateTask(self, request: Any, context: Any) -> Any:
        script = json_format.MessageToDict(request.template.custom)
        run = request.task_execution_metadata.task_execution_id.node_execution_id.execution_id.name
        await self._fail(context, "CreateTask", run, script)
        job = f"job-{os.getpid()}-{os.urandom(8).hex()}"
        half = self.folder / f"half-{job}"  # it may be killed at any moment
        half.write_text(json.dumps({**script, "run": run, "x": request.inputs.literals["x"].scalar.primitive.integer}))
        half.rename(self.folder / job)
        return pb.CreateTaskResponse(resource_meta=job.encode())

    async def GetTask(self, request: Any, context: Any) -> Any:
        job = self.folder / request.resource_meta.decode()
        if not job.exists():
            return pb.GetTaskResponse(resource=pb.Resource(phase=TaskExecution.ABORTED))
        script = json.loads(job.read_text())
        await self._fail(context, "GetTask", job.name, script)
        if not (self.folder / "go").exists():
            return pb.GetTaskResponse(resource=pb.Resource(phase=TaskExecution.RUNNING, message="it goes on"))
        literal = literals_pb2.Literal()
        literal.scalar.primitive.integer = 2 * script["x"]
        outputs = literals_pb2.LiteralMap(literals={"y": literal})
        return pb.GetTaskResponse(resource=pb.Resource(phase=TaskExecution.SUCCEEDED, outputs=outputs))

    async def DeleteTask(self, request: Any, context: Any) -> Any:
        job = self.folder / request.resource_meta.decode()
        if job.exists():
            await self._fail(context, "DeleteTask", job.name, json.loads(job.read_text()))
        job.unlink(missing_ok=True)
        return pb.DeleteTaskResponse()

    async def ListAgents(self, request: Any, context: Any) -> Any:
        category = pb.TaskCategory(name=TASK_TYPE, version=0)
        return pb.ListAgentsResponse(agents=[pb.Agent(name="Elsewhere", supported_task_categories=[category])])


async def main(folder: Path, target: str) -> None:
    """Serve until the standard input ends."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    jobs = Jobs(folder)
    services.add_AsyncAgentServiceServicer_to_server(jobs, server)
    services.add_AgentMetadataServiceServicer_to_server(jobs, server)
    port = server.add_insecure_port(target)
    await server.start()
    print(target if target.startswith("unix:") else f"127.0.0.1:{port}", flush=True)  # noqa: T201 - the test reads it
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
