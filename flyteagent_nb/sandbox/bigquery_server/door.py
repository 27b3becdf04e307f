"""The door before the emulator: it lets in who has the token, keeps the jobs, and brings what was loaded into every project."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import re
import time
import urllib.parse
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import PROJECT, TABLES
from .emulator import Reply, refusal, reply
from .tables import convert

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from .emulator import Emulator

QUICK = 0.25
"""Seconds that a new job has to end before it is answered as a running one."""

INTERRUPT = 0.05
"""Seconds between two interrupts of a query that was cancelled."""

STOPPED = {"reason": "stopped", "message": "Job execution was cancelled: User requested cancellation"}

_PROJECT = re.compile(r"^((?:/upload)?/bigquery/v2/projects/)([^/]+)")
_JOBS = re.compile(r"^/bigquery/v2/projects/([^/]+)/(jobs|queries)(?:/([^/]+))?(/cancel)?$")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_-]")
_ASKED = ("method", "query_string", "headers", "server", "client", "http_version")


@dataclass(eq=False)
class Job:
    """A query that runs in the background, or did. ``resource`` is how it ended, as BigQuery tells of a job."""

    project: str
    name: str
    told: dict[str, Any]
    since: float = field(default_factory=time.time)
    works: bool = False  # it has the emulator, and an interrupt would reach it
    cancelled: bool = False
    resource: dict[str, Any] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def shown(self) -> dict[str, Any]:
        """The job as BigQuery tells of it."""
        location = self.told["jobReference"].get("location") or "US"
        reference = {"projectId": self.project, "jobId": self.name, "location": location}
        if self.resource is not None:
            return {**self.resource, "jobReference": reference}
        since = str(int(self.since * 1000))
        return {
            "kind": "bigquery#job",
            "id": f"{self.project}:{self.name}",
            "jobReference": reference,
            "configuration": self.told["configuration"],
            "status": {"state": "RUNNING" if self.works else "PENDING"},
            "statistics": {"creationTime": since, **({"startTime": since} if self.works else {})},
        }

    @property
    def error(self) -> dict[str, Any] | None:
        """What went wrong, once it has ended."""
        error: dict[str, Any] | None = (self.resource or {}).get("status", {}).get("errorResult")
        return error

    def end(self, resource: dict[str, Any] | None = None, error: dict[str, Any] | None = None) -> None:
        """It has ended: as the emulator tells, or with an error of our own."""
        if error is not None:
            resource = {**self.shown, "status": {"state": "DONE", "errorResult": error, "errors": [error]}}
            resource["statistics"]["endTime"] = str(int(time.time() * 1000))
        self.works, self.resource = False, resource
        self.ended.set()


class Door:
    """The ASGI application that stands before the emulator.

    Args:
        emulator: bqemulator.
        token: what each request must bring.
    """

    def __init__(self, emulator: Emulator, token: str) -> None:
        self._emulator = emulator
        self._token = f"Bearer {token}".encode()
        self._jobs: dict[tuple[str, str], Job] = {}
        self._works: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()  # a query that waits for its turn can be cancelled before it begins
        self._versions = itertools.count()
        self._shared: dict[tuple[str, str], int] = {}
        self._copies: dict[tuple[str, str, str], int] = {}

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        body = bytearray()
        while (part := await receive())["type"] == "http.request":
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        answer = await self._answer(scope, bytes(body))
        headers = [(name, value) for name, value in answer.headers if name.lower() != b"content-length"]
        headers.append((b"content-length", str(len(answer.body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: Any, body: bytes) -> Reply:
        if not hmac.compare_digest(dict(scope["headers"]).get(b"authorization", b""), self._token):
            return refusal(403, {"reason": "accessDenied", "message": "this sandbox serves one kernel alone"})
        path = _PROJECT.sub(lambda found: found[1] + _plain(found[2]), scope["path"])
        if path == "/healthz":
            return reply(200, {})
        if path == TABLES:
            return await self._load(json.loads(body))
        found = _JOBS.match(path)
        if found is None:
            return await self._forward(scope, path, body)
        project, kind, name, cancel = found.groups()
        job = self._jobs.get((project, name))
        if scope["method"] == "POST" and not name:
            told = json.loads(body)
            if kind == "queries":
                async with self._turn:
                    await self._bring(project)
                    return await self._forward(scope, path, body)
            if "query" in told.get("configuration", {}) and not told["configuration"].get("dryRun"):
                return await self._insert(project, told)
        elif job is not None and cancel:
            return self._cancel(job)
        elif job is not None and scope["method"] == "GET":
            if kind == "jobs":
                return reply(200, job.shown)
            if (unfinished := await self._unfinished(job, scope)) is not None:
                return unfinished
        return await self._forward(scope, path, body)

    async def _forward(self, scope: Any, path: str, body: bytes) -> Reply:
        asked = {name: scope[name] for name in _ASKED}
        return await self._emulator.request(asked | {"path": path, "raw_path": urllib.parse.quote(path).encode()}, body)

    # --- jobs ---

    async def _insert(self, project: str, told: dict[str, Any]) -> Reply:
        name = told.setdefault("jobReference", {}).setdefault("jobId", str(uuid.uuid4()))
        if (project, name) in self._jobs:
            return refusal(409, {"reason": "duplicate", "message": f"Already Exists: Job {project}:{name}"})
        job = self._jobs[project, name] = Job(project, name, told)
        work = asyncio.create_task(self._work(job))
        self._works.add(work)  # the loop alone would let it go
        work.add_done_callback(self._works.discard)
        await asyncio.wait({work}, timeout=QUICK)
        return reply(200, job.shown)

    async def _work(self, job: Job) -> None:
        async with self._turn:
            if not job.cancelled:
                job.works = True
                await self._bring(job.project)
                answer = await self._emulator.ask("POST", _jobs_of(job.project), job.told)
            if job.cancelled:
                job.end(error=STOPPED)
            elif answer.status == 200:
                job.end(answer.json)
            else:  # of the job, not of the request: then its words come first wherever they are shown
                error = answer.json["error"]
                job.end(error={"reason": "invalid", **error["errors"][0], "message": error["message"]})

    def _cancel(self, job: Job) -> Reply:
        if not job.ended.is_set() and not job.cancelled:
            job.cancelled = True
            self._interrupt(job)
        return reply(200, {"kind": "bigquery#jobCancelResponse", "job": job.shown})

    def _interrupt(self, job: Job) -> None:
        if job.works:
            self._emulator.interrupt()
        if not job.ended.is_set():  # an interrupt that comes before DuckDB has begun is lost
            asyncio.get_running_loop().call_later(INTERRUPT, self._interrupt, job)

    async def _unfinished(self, job: Job, scope: Any) -> Reply | None:
        """The answer to who asks for rows that are not there, yet or at all; None where they are."""
        asked = urllib.parse.parse_qs(scope["query_string"].decode())
        limit = min(float(asked.get("timeoutMs", ["10000"])[0]) / 1000, 10.0)
        try:
            await asyncio.wait_for(job.ended.wait(), limit)
        except asyncio.TimeoutError:
            told = {"kind": "bigquery#getQueryResultsResponse", "jobReference": job.shown["jobReference"]}
            return reply(200, {**told, "jobComplete": False})
        return refusal(400, job.error) if job.error else None

    # --- tables ---

    async def _bring(self, project: str) -> None:
        """Copy what was loaded into a project that has not got it yet, so that a query finds it whatever its project is called."""
        for (dataset, table), version in self._shared.items():
            if project == PROJECT or self._copies.get((project, dataset, table)) == version:
                continue
            await self._make_way(project, dataset, table)
            source, to = (_table(each, dataset, table) for each in (PROJECT, project))
            copy = {"copy": {"sourceTable": source, "destinationTable": to}}
            await self._emulator.ask("POST", _jobs_of(project), {"configuration": copy})
            self._copies[project, dataset, table] = version

    async def _make_way(self, project: str, dataset: str, table: str) -> None:
        """Make the dataset, and remove a table of that name."""
        datasets = f"/bigquery/v2/projects/{project}/datasets"
        made = {"datasetReference": {"projectId": project, "datasetId": dataset}}
        await self._emulator.ask("POST", datasets, made)  # one that there is already stays
        await self._emulator.ask("DELETE", f"{datasets}/{dataset}/tables/{table}", {})

    async def _load(self, told: Mapping[str, str]) -> Reply:
        project, dataset, table = _plain(told["project"]), told["dataset"], told["table"]
        parquet = Path.cwd() / f"{uuid.uuid4().hex}.parquet"
        try:
            fields = await asyncio.to_thread(convert, told["path"], told["format"], parquet)
            load = {"destinationTable": _table(project, dataset, table), "schema": {"fields": fields}}
            load |= {"sourceFormat": "PARQUET", "sourceUris": [parquet.as_uri()]}
            async with self._turn:
                await self._make_way(project, dataset, table)
                answer = await self._emulator.ask("POST", _jobs_of(project), {"configuration": {"load": load}})
        except Exception as error:  # DuckDB's own word on the file or its columns
            return reply(200, {"error": str(error)})
        finally:
            parquet.unlink(missing_ok=True)
        wrong = answer.json.get("error") or answer.json["status"].get("errorResult")
        if wrong:
            return reply(200, {"error": wrong["message"]})
        if project == PROJECT:
            self._shared[dataset, table] = next(self._versions)
        return reply(200, {"rows": int(answer.json["statistics"]["load"]["outputRows"])})


def _plain(project: str) -> str:
    """A project's name as bqemulator takes it: ``example.com:mine`` is none to it."""
    return _NOT_PLAIN.sub("_", project)


def _jobs_of(project: str) -> str:
    return f"/bigquery/v2/projects/{project}/jobs"


def _table(project: str, dataset: str, table: str) -> dict[str, str]:
    return {"projectId": project, "datasetId": dataset, "tableId": table}
