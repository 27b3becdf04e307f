"""The agents of the service that malformed requests go to."""

from __future__ import annotations

from flytekit.extend.backend.base_connector import ConnectorRegistry
from scripted import EchoAgent, NoopAgent, ScriptedAgent

for _agent in (ScriptedAgent(), EchoAgent(), NoopAgent()):
    ConnectorRegistry.register(_agent, override=True)
