"""A job's own log, as its service hands it out: what is to be read of a run on another service, whose prints do not come here."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import grpc
from flyteidl.admin.agent_pb2 import GetTaskLogsRequest, TaskCategory

from flyteagent_nb.errors import ServiceError

if TYPE_CHECKING:
    from flyteagent_nb.masking import Masking
    from flyteagent_nb.running.run import RunSnapshot
    from flyteagent_nb.running.services import AgentService

LINES = 10_000
"""So many of the last lines are asked for, as a run of this kernel keeps."""

DEADLINE = 10.0
"""Seconds that a service has to hand out a log."""


async def job_log(service: AgentService, s: RunSnapshot, resource_meta: bytes, masking: Masking) -> list[str]:
    """The lines of a job's log, without the ends of lines, as far as they come in time; none where its agent keeps no log.

    Args:
        service: which has the job.
        s: the run.
        resource_meta: names the job.
        masking: the values known as secret: another service may know none of them.

    Raises:
        ServiceError: the service does not answer, or answers with an error before a line came.
    """
    request = GetTaskLogsRequest(
        task_type=s.task_type,
        task_category=TaskCategory(name=s.task_type, version=s.version),
        resource_meta=resource_meta,
        lines=LINES,
    )
    lines: deque[str] = deque(maxlen=LINES)
    try:
        async for line in service.logs(request, s.id, DEADLINE):
            lines.append(line.rstrip("\r\n"))
        return masking.lines(list(lines))
    except grpc.aio.AioRpcError as error:
        details = masking.text(error.details() or "")
        if lines:  # as of a job that runs, whose log goes on
            return [
                *masking.lines(list(lines)),
                f"[… what more there is did not come: {error.code().name}: {details[:300]}]",
            ]
        # flytekit's own service has the second: it lets the exception of an agent without get_logs through.
        if error.code() is grpc.StatusCode.UNIMPLEMENTED or "NotImplementedError" in details:
            return []
        links = ", ".join(uri for _, uri in s.log_links)
        raise ServiceError(
            f"the agent service '{service.name}' does not hand out the log of run {s.id}: {error.code().name}: {details[:300]}",
            service=service.name,
            address=service.target,
            hint=f"its console may: {links}" if links else "%agent connect tells whether it answers",
        ) from error
