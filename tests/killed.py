"""Processes that are killed at a named point of a run, or at a random moment; and the job service that outlives them, a folder.

``python killed.py FOLDER POINT...`` forks a process for each point, which submits runs and dies; it prints how each ended. The jobs are
files in ``FOLDER/jobs``: each names its run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyteidl.core.execution_pb2 import TaskExecution
from flytekit.core.base_task import PythonTask
from flytekit.core.interface import Interface
from flytekit.extend.backend.base_connector import (
    AsyncConnectorBase,
    AsyncConnectorExecutorMixin,
    ConnectorRegistry,
    Resource,
    ResourceMeta,
)

POINTS = (
    "before the intent",
    "after the intent",
    "in create, before the job",
    "in create, after the job",
    "after create",
    "after the resource meta",
    "in get",
    "in outputs",
    "in delete, before the job is gone",
    "in delete, after the job is gone",
)


def die() -> None:
    """What no handler sees."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class JobMeta(ResourceMeta):
    job: str


class FolderAgent(AsyncConnectorBase):
    """Jobs are files; each takes 0.3 s, or until it is deleted."""

    name = "Folder Agent"

    def __init__(self, jobs: Path, point: str = "") -> None:
        super().__init__(task_type_name="folder_job", metadata_type=JobMeta)
        self.jobs = jobs
        self.point = point
        self.created = 0

    def _at(self, point: str) -> None:
        if self.point == point:
            die()

    def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> JobMeta:
        self.created += 1
        self._at("in create, before the job")
        job = self.jobs / os.urandom(8).hex()
        run = kwargs["task_execution_metadata"].task_execution_id.node_execution_id.execution_id.name
        half = self.jobs.with_name(f"{job.name}.half")  # the process is killed at any moment, and a job is there or not
        half.write_text(
            json.dumps({"run": run, "until": time.time() + 0.3, "x": inputs.literals["x"].scalar.primitive.integer})
        )
        half.rename(job)
        self._at("in create, after the job")
        return JobMeta(str(job))

    def get(self, resource_meta: JobMeta, **kwargs: Any) -> Resource:
        self._at("in get")
        job = json.loads(Path(resource_meta.job).read_text())
        if self.point.startswith("in delete") or time.time() < job["until"]:
            return Resource(phase=TaskExecution.RUNNING)
        return Resource(phase=TaskExecution.SUCCEEDED, outputs={"y": job["x"] * 2})

    def delete(self, resource_meta: JobMeta, **kwargs: Any) -> None:
        self._at("in delete, before the job is gone")
        Path(resource_meta.job).unlink(missing_ok=True)
        self._at("in delete, after the job is gone")


class FolderTask(AsyncConnectorExecutorMixin, PythonTask):  # type: ignore[misc]
    """x -> 2 x, at length."""

    def __init__(self, name: str) -> None:
        super().__init__("folder_job", name, None, interface=Interface({"x": int}, {"y": int}))


def main(folder: Path, point: str) -> None:
    """Submit, and die."""
    import flyteagent_nb
    from flyteagent_nb.running.runner import Runner
    from flyteagent_nb.running.sqlite_journal import SQLiteJournal

    def patch(cls: Any, name: str, before: str = "", after: str = "") -> None:
        real = getattr(cls, name)

        async def patched(self: Any, *args: Any) -> Any:
            if point == before:
                die()
            result = await real(self, *args)
            if point == after:
                die()
            return result

        setattr(cls, name, patched)

    patch(SQLiteJournal, "intend", "before the intent", "after the intent")
    patch(SQLiteJournal, "created", "after create", "after the resource meta")
    patch(Runner, "_converted", "in outputs")
    (folder / "jobs").mkdir(exist_ok=True)
    ConnectorRegistry.register(FolderAgent(folder / "jobs", point), override=True)
    workspace = flyteagent_nb.get_workspace()
    workspace.wait()
    if point.startswith("random"):
        threading.Timer(random.Random(point).uniform(0.0, 0.9), die).start()
        while True:
            runs = [flyteagent_nb.submit(FolderTask(point), x=x) for x in range(5)]
            for run in runs[:2]:
                run.result()
            runs[2].cancel()
    run = flyteagent_nb.submit(FolderTask(point), x=21)
    if point.startswith("in delete"):
        while run.phase != "RUNNING":
            time.sleep(0.01)
        run.cancel()
    run.exception(60)
    raise SystemExit("it lived")


AT_ONCE = 4
"""Processes at once: each waits most of its time."""


def kill_all(folder: Path, points: list[str]) -> None:
    """A process for each point; what they import is imported once, before they part."""
    import flyteagent_nb.serving.host
    import flyteagent_nb.workspace  # noqa: F401

    children: list[tuple[str, int]] = []
    for point in (*points, *[""] * AT_ONCE):
        if len(children) >= AT_ONCE or (not point and children):
            killed, child = children.pop(0)
            print(killed, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), sep=":", flush=True)  # noqa: T201 - what the test reads
        if point:
            children.append((point, _begun(folder, point)))


def _begun(folder: Path, point: str) -> int:
    child = os.fork()
    if not child:
        try:
            main(folder, point)
        finally:
            os._exit(1)
    return child


if __name__ == "__main__":
    kill_all(Path(sys.argv[1]), sys.argv[2:])
