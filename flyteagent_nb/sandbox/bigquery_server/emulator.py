"""bqemulator in this process: on a thread of its own, with no address of its own."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from . import PROJECT

if TYPE_CHECKING:
    from collections.abc import Mapping

_HTTP = {"http_version": "1.1", "scheme": "http", "query_string": b"", "root_path": "", "client": None}


@dataclass
class Reply:
    """An answer over HTTP."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def json(self) -> Any:
        """What the body says."""
        return json.loads(self.body or b"{}")


def reply(status: int, told: Any) -> Reply:
    """An answer of JSON."""
    return Reply(status, json.dumps(told).encode(), [(b"content-type", b"application/json")])


def refusal(status: int, error: Mapping[str, Any]) -> Reply:
    """An error (``reason``, ``message``), as BigQuery writes it."""
    return reply(status, {"error": {"code": status, "message": error["message"], "errors": [dict(error)]}})


class Emulator:
    """bqemulator, started. It does one thing at a time."""

    def __init__(self) -> None:
        server: Any = importlib.import_module("bqemulator.server")
        config = importlib.import_module("bqemulator.config")
        applications: list[Any] = []

        class Listener:
            """In place of uvicorn's server: it takes the application, and listens to nobody."""

            started = True

            def __init__(self, application: Any) -> None:
                applications.append(application)

            async def serve(self) -> None:
                """Nothing."""

        class Nobody:
            """In place of the gRPC server, which would let everybody in."""

            async def start(self) -> None:
                """Nothing."""

        server.uvicorn = SimpleNamespace(Config=lambda application, **_: application, Server=Listener)
        server.build_grpc_server = lambda _: (Nobody(), 0)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="bqemulator", daemon=True).start()
        settings = config.Settings(default_project_id=PROJECT, log_level=config.LogLevel.WARNING)
        self._server = server.EmulatorServer(settings)
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result()
        (self._application,) = applications

    async def ask(self, method: str, path: str, told: Any) -> Reply:
        """Ask with JSON."""
        headers = [(b"content-type", b"application/json")]
        return await self.request({"method": method, "path": path, "headers": headers}, json.dumps(told).encode())

    async def request(self, scope: Mapping[str, Any], body: bytes) -> Reply:
        """Ask as an ASGI scope says."""
        call = self._call({"type": "http", "asgi": {"version": "3.0"}, **_HTTP, **scope}, body)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._loop))

    def interrupt(self) -> None:
        """End what DuckDB is at. Any thread may call it."""
        self._application.state.context.engine.connection.interrupt()

    async def _call(self, scope: dict[str, Any], body: bytes) -> Reply:
        parts = [{"type": "http.request", "body": body, "more_body": False}]
        answer = Reply(500, b"")

        async def receive() -> Any:
            return parts.pop() if parts else await asyncio.get_running_loop().create_future()  # the client stays

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status, answer.headers = message["status"], list(message["headers"])
            else:
                answer.body += message.get("body", b"")

        try:
            await self._application(scope, receive, send)
        except (
            Exception
        ) as error:  # a fault of bqemulator's, or what it has not; its own answer is 500 without the words
            words = str(error).strip() or type(error).__name__
            return refusal(501, {"reason": "notImplemented", "message": words})
        return answer
