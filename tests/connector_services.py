"""The services that flytekit's connectors talk to, as far as a test needs them: an HTTP server with given answers, a connection."""

from __future__ import annotations

import contextlib
import functools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest


class Answers:
    """What a server answers: (status, body) by the beginning of "METHOD /path". ``go`` holds all answers back while it is cleared.

    Attributes:
        asked: the requests it got, as "METHOD /path".
        received: the headers and the body of each.
    """

    def __init__(self) -> None:
        self.by_request: dict[str, tuple[int, Any]] = {}
        self.asked: list[str] = []
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.go = threading.Event()
        self.go.set()
        self.url = ""


@contextlib.contextmanager
def http_service() -> Iterator[Answers]:
    """A server on a free port of loopback."""
    answers = Answers()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = f"{self.command} {self.path}"
            answers.received.append((dict(self.headers), sent))
            answers.asked.append(request)
            answers.go.wait(30)
            found = [known for known in answers.by_request if request.startswith(known)]
            status, body = answers.by_request[max(found, key=len)] if found else (404, {"error": f"no {request}"})
            data = json.dumps(body).encode()
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = _answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        answers.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield answers
        finally:
            answers.go.set()
            server.shutdown()
            thread.join()


def bigquery(monkeypatch: pytest.MonkeyPatch, folder: Path, url: str, project: str | None = "local-proj") -> None:
    """Lead Google's client to ``url``, with credentials that have no server behind them."""
    credentials = {
        "type": "authorized_user",
        "client_id": "x",
        "client_secret": "x",
        "refresh_token": "x",
        "token": "fake-token",
        "expiry": "2099-01-01T00:00:00Z",
        "universe_domain": "googleapis.com",
        "quota_project_id": "local-proj",
    }
    (folder / "credentials.json").write_text(json.dumps(credentials))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(folder / "credentials.json"))
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", url)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(folder))
    for name in ("GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    if project:
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", project)


def bigquery_job(state: str, *errors: dict[str, str]) -> dict[str, Any]:
    """A query job as the REST API has it."""
    return {
        "kind": "bigquery#job",
        "id": "local-proj:EU.job-1",
        "jobReference": {"projectId": "local-proj", "jobId": "job-1", "location": "EU"},
        "configuration": {"jobType": "QUERY", "query": {"query": "SELECT 1", "useLegacySql": False}},
        "status": {"state": state, **({"errorResult": errors[0], "errors": list(errors)} if errors else {})},
    }


@functools.cache
def _private_key() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def snowflake(monkeypatch: pytest.MonkeyPatch, status: Callable[[], Any]) -> None:
    """Give the connector a connection whose queries have the status that ``status`` returns, or the error that it raises."""
    from flytekitplugins.snowflake import connector

    class Cursor:
        sfqid = "0197b-1"

        def execute_async(self, *_: object) -> None:
            pass

        execute = execute_async

        def fetchall(self) -> list[Any]:
            return []

        def close(self) -> None:
            pass

    class Connection:
        def get_query_status_throw_if_error(self, query_id: str) -> Any:
            return status()

        def cursor(self) -> Cursor:
            return Cursor()

        def close(self) -> None:
            pass

    monkeypatch.setenv("_FSEC_SNOWFLAKE_PRIVATE_KEY", _private_key())
    monkeypatch.setattr(connector.sc, "connect", lambda **_: Connection())


def openai(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Lead OpenAI's client to ``url``."""
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("_FSEC_FLYTE_OPENAI_API_KEY", "sk-none")
