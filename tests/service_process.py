"""A second agent service, in a process of its own: ``python service_process.py [TARGET...]`` serves scripted agents without a token.

It prints the addresses that it serves, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import sys

import grpc
from flytekit.extend.backend.base_connector import ConnectorRegistry
from scripted import DoAgent, EchoAgent, NoopAgent, ScriptedAgent


async def main(targets: list[str]) -> None:
    """Serve with flytekit's own servicers, as its image does."""
    from flyteidl.service.agent_pb2_grpc import (
        add_AgentMetadataServiceServicer_to_server,
        add_AsyncAgentServiceServicer_to_server,
        add_SyncAgentServiceServicer_to_server,
    )
    from flytekit.extend.backend.connector_service import (
        AsyncConnectorService,
        ConnectorMetadataService,
        SyncConnectorService,
    )

    for agent in (ScriptedAgent(), DoAgent(), EchoAgent(), NoopAgent(), ScriptedAgent("only_there")):
        ConnectorRegistry.register(agent, override=True)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_AsyncAgentServiceServicer_to_server(AsyncConnectorService(), server)
    add_SyncAgentServiceServicer_to_server(SyncConnectorService(), server)
    add_AgentMetadataServiceServicer_to_server(ConnectorMetadataService(), server)
    for target in targets:
        port = server.add_insecure_port(target)
        print(target if target.startswith("unix:") else f"127.0.0.1:{port}", flush=True)  # noqa: T201 - the test reads it
    await server.start()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or ["127.0.0.1:0"]))
