"""OpenAI's stand-in: llmock, a server that speaks OpenAI's HTTP and answers a prompt by repeating it."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

from flyteagent_nb.sandbox.stand_in import Place, StandIn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KEY = "sandbox"
"""Any key will do; the client of OpenAI wants one."""


class OpenAIStandIn(StandIn):
    """llmock for the connectors ``chatgpt`` and ``openai-batch``, and for OpenAI's own client in a cell."""

    name = "openai"
    service = "OpenAI"
    product = "llmock"
    task_types = ("chatgpt", "openai-batch")
    requirements = (
        "llmock==0.2.2",
        "fastapi==0.165.0; python_version >= '3.11'",
        "fastapi==0.162.5; python_version < '3.11'",
        "starlette==1.10.0; python_version >= '3.11'",
        "starlette==1.7.0; python_version < '3.11'",
        "uvicorn==0.54.0",
        "pydantic==2.14.3",
        "httpx==0.28.1",
    )
    pythons = ((3, 10), (3, 15))
    extra = "openai"
    connector = "flytekitplugins-openai"
    covers = "chat completions, files and batches, embeddings, through the connectors and OpenAI's own client"
    misses = "no language model: an answer repeats the beginning of its prompt; a batch takes three seconds; no key is checked"

    def command(self, python: str, place: Place) -> Sequence[str]:
        """Serve on the port; every answer has the beginning of its prompt in it, so that a notebook shows what arrived."""
        return [
            *(python, "-m", "llmock.cli", "serve"),
            *("--host", "127.0.0.1", "--port", str(place.ports[0])),
            *("--response-style", "echo", "--log-level", "warning"),
        ]

    def answers(self, place: Place) -> bool:
        """Whether its health is fine."""
        connection = http.client.HTTPConnection("127.0.0.1", place.ports[0], timeout=1)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def environment(self, place: Place) -> Mapping[str, str]:
        """The address, and a key under both of its names: flytekit's secret for the connectors, the client's own for a cell."""
        return {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{place.ports[0]}/v1",
            "OPENAI_API_KEY": KEY,
            "_FSEC_FLYTE_OPENAI_API_KEY": KEY,
        }
