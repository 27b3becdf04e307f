"""A Flyte cluster as far as FlyteRemote sees it, of flyteidl's own stubs, on loopback: admin, signed uploads, scripted executions.

An execution goes through the phases of the script, one a look; the last stays. What was asked stands in the attributes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import threading
from typing import TYPE_CHECKING, Any

import grpc
from connector_services import http_service
from flyteidl.admin import execution_pb2, task_pb2
from flyteidl.core.execution_pb2 import ExecutionError, WorkflowExecution
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier
from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.service import admin_pb2_grpc, dataproxy_pb2, dataproxy_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Cluster(admin_pb2_grpc.AdminServiceServicer, dataproxy_pb2_grpc.DataProxyServiceServicer):
    """The services, and what they were asked.

    Attributes:
        phases: what an execution goes through, by flyteidl's names.
        outputs: from the inputs, what an execution comes to.
        error: why one fails.
        tasks: the tasks that were registered, by name and version.
        executions: those that were created: specs by name.
        terminated: the causes, by name.
        uploads: the addresses of what was uploaded.
        answers: while it is not set, nobody is told how an execution goes.
    """

    def __init__(self) -> None:
        self.phases = ["QUEUED", "RUNNING", "SUCCEEDED"]
        self.outputs: Callable[[LiteralMap], LiteralMap] = lambda inputs: LiteralMap()
        self.error = ""
        self.tasks: dict[tuple[str, str], task_pb2.TaskSpec] = {}
        self.registered: list[str] = []
        self.executions: dict[str, execution_pb2.ExecutionCreateRequest] = {}
        self.terminated: dict[str, str] = {}
        self.uploads: list[str] = []
        self.answers = threading.Event()
        self.answers.set()
        self.target = ""
        self.store = ""
        self._server: grpc.Server | None = None
        self._looks: dict[str, int] = {}
        self._names = (f"f{n:08x}" for n in itertools.count(1))
        self._lock = threading.Lock()

    def CreateTask(self, request: Any, context: Any) -> Any:
        self.tasks[request.id.name, request.id.version] = request.spec
        self.registered.append(request.id.name)
        return task_pb2.TaskCreateResponse()

    def GetTask(self, request: Any, context: Any) -> Any:
        spec = self.tasks.get((request.id.name, request.id.version))
        if spec is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such task")
        return task_pb2.Task(id=request.id, closure=task_pb2.TaskClosure(compiled_task={"template": spec.template}))

    def CreateExecution(self, request: Any, context: Any) -> Any:
        name = next(self._names)
        self.executions[name] = request
        return execution_pb2.ExecutionCreateResponse(id=self._id(request, name))

    def GetExecution(self, request: Any, context: Any) -> Any:
        self.answers.wait()
        name = request.id.name
        asked = self.executions[name]
        with self._lock:
            looks = self._looks.get(name, -1)
            self._looks[name] = looks + 1
        phase = self.phases[min(max(looks, 0), len(self.phases) - 1)]
        if name in self.terminated:
            phase = "ABORTED"
        closure = execution_pb2.ExecutionClosure(phase=WorkflowExecution.Phase.Value(phase))
        if phase == "FAILED":
            closure.error.CopyFrom(ExecutionError(code="USER:Wrong", message=self.error))
        return execution_pb2.Execution(id=self._id(asked, name), spec=asked.spec, closure=closure)

    def GetExecutionData(self, request: Any, context: Any) -> Any:
        asked = self.executions[request.id.name]
        return execution_pb2.WorkflowExecutionGetDataResponse(
            full_inputs=asked.inputs, full_outputs=self.outputs(asked.inputs)
        )

    def TerminateExecution(self, request: Any, context: Any) -> Any:
        self.terminated[request.id.name] = request.cause
        return execution_pb2.ExecutionTerminateResponse()

    def CreateUploadLocation(self, request: Any, context: Any) -> Any:
        self.uploads.append(request.filename)
        place = f"{request.filename_root or 'up'}/{request.filename}"
        return dataproxy_pb2.CreateUploadLocationResponse(
            signed_url=f"{self.store}/{place}", native_url=f"s3://bucket/{place}"
        )

    def start(self) -> None:
        """Answer on its address: a free one at first, then the same again."""
        self._server = server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self, server)
        dataproxy_pb2_grpc.add_DataProxyServiceServicer_to_server(self, server)
        self.target = f"127.0.0.1:{server.add_insecure_port(self.target or '127.0.0.1:0')}"
        if self.target.endswith(":0"):
            raise OSError("its address was taken meanwhile")
        server.start()

    def stop(self) -> None:
        """Answer no more; what it knows stays."""
        self.answers.set()
        if self._server is not None:
            self._server.stop(None).wait()

    def _id(self, request: Any, name: str) -> WorkflowExecutionIdentifier:
        return WorkflowExecutionIdentifier(project=request.project, domain=request.domain, name=name)


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster on free ports of loopback."""
    served = Cluster()
    served.start()
    try:
        with http_service() as store:
            store.by_request["PUT /"] = (200, {})
            served.store = store.url
            yield served
    finally:
        served.stop()


def configuration(folder: Path, target: str) -> str:
    """A configuration file as flytectl writes it."""
    path = folder / "config.yaml"
    path.write_text(f"admin:\n  endpoint: dns:///{target}\n  insecure: true\n")
    return str(path)
