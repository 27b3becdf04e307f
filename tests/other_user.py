"""Another user of this machine, who tries everything: ``python other_user.py`` as root, which then is nobody.

Stdin is JSON: ``{"paths": [...], "targets": [...], "token": ...}``; stdout is what could be done, as JSON: ``{"paths": {path: [...]},
"targets": {target: status}}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import stat
import sys
from typing import TYPE_CHECKING, Any

import grpc
from flyteidl.admin import agent_pb2 as pb
from flyteidl.service import agent_pb2_grpc as services
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable


def become_nobody() -> None:
    """There is no way back."""
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
    assert os.geteuid() == nobody.pw_uid != 0


def _opened(path: str, flags: int) -> None:
    os.close(os.open(path, flags))


def attempts(path: str) -> dict[str, Callable[[], Any]]:
    """What one can try with a path; each undoes nothing, as it must not work."""
    return {
        "stat": lambda: os.lstat(path),
        "read": lambda: _opened(path, os.O_RDONLY),
        "write": lambda: _opened(path, os.O_WRONLY),
        "list": lambda: os.listdir(path),
        "put": lambda: _opened(f"{path}/put", os.O_WRONLY | os.O_CREAT),
        "rename": lambda: os.rename(path, f"{path}-renamed"),
        "chmod": lambda: os.chmod(path, 0o777),
        "link": lambda: os.link(path, f"/tmp/fa-linked-{os.getpid()}"),
    }


def done(path: str) -> list[str]:
    """What could be done with a path."""
    found = []
    for name, attempt in attempts(path).items():
        with contextlib.suppress(OSError):
            attempt()
            found.append(name)
    return found


def status(target: str, token: str) -> str:
    """How a service answers who has no token, or a wrong one."""
    codes = set()
    with grpc.insecure_channel(target) as channel:
        for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", f"Basic {token[:8]}"),)):
            for method, request in (
                (services.AgentMetadataServiceStub(channel).ListAgents, pb.ListAgentsRequest()),
                (services.AsyncAgentServiceStub(channel).CreateTask, pb.CreateTaskRequest()),
                (health_pb2_grpc.HealthStub(channel).Check, health_pb2.HealthCheckRequest()),
            ):
                try:
                    method(request, timeout=5, metadata=metadata)
                    codes.add("OK")
                except grpc.RpcError as error:
                    codes.add(error.code().name)
    return " ".join(sorted(codes))


def main() -> None:
    """Try."""
    told = json.load(sys.stdin)
    sockets = [path for path in told["paths"] if os.path.exists(path) and stat.S_ISSOCK(os.lstat(path).st_mode)]
    become_nobody()
    found = {
        "paths": {path: done(path) for path in told["paths"]},
        "targets": {
            target: status(target, told["token"]) for target in [*told["targets"], *(f"unix:{s}" for s in sockets)]
        },
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
