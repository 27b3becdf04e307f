"""SQL with DuckDB as an agent: a query runs in this process, on a thread of its own, with no account anywhere.

The agent, :class:`DuckDBAgent`, serves the task type ``duckdb_query``; :class:`DuckDBQuery` is the task. Nothing is registered by
importing this module. What a query sees:

- Inputs are values, never text: ``$name`` is DuckDB's own named parameter, in any case. An input that a statement does not name
  is not bound, so it does no harm. A FlyteFile is its local path, so that ``read_csv($file)`` works.
- An input that is a structured dataset (a DataFrame, an Arrow table) is a table of that name. Where the database has one too, the
  query is refused; so are two inputs whose names differ in case alone, which DuckDB does not look at.
- Times are UTC, as flytekit's are. The caller's Python variables are not tables.
- Several statements run in order; the last one's result is the output, ``results``, written as Parquet batch by batch.
- INTERVAL becomes a duration, with a month as 30 days, as in DuckDB's own conversion to Python. ``sum`` of integers is a
  HUGEINT in DuckDB and stays exact, as a decimal: ``sum(n)::BIGINT`` gives integers.

DuckDB 1.1 to 2.0. Errors of a query are its outcome: phase FAILED with DuckDB's words, never an exception out of ``get``.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import dataclasses
import importlib
import importlib.util
import sys
import threading
import time
import weakref
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from flyteidl.core.execution_pb2 import TaskExecution
from flytekit.core.base_sql_task import SQLTask
from flytekit.extend.backend.base_connector import (
    AsyncConnectorBase,
    AsyncConnectorExecutorMixin,
    Resource,
    ResourceMeta,
)
from flytekit.models.task import Sql

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flytekit.configuration import SerializationSettings
    from flytekit.models.literals import LiteralMap
    from flytekit.models.task import TaskTemplate

    from flyteagent_nb.agents.duckdb_job import Job, Outcome

_LIBRARIES = ("duckdb", "numpy", "pandas", "pyarrow")


def _has(library: str) -> bool:
    """Whether ``library`` is installed, without importing it: that takes a second, and comes with the first query.

    flytekit has made lazy modules of some: to find the spec of one would import it, here on a background thread, and a cell that uses
    pandas meanwhile would meet half of it.
    """
    if library in sys.modules:
        return sys.modules[library] is not None
    return importlib.util.find_spec(library) is not None


for _library in _LIBRARIES:
    if not _has(_library):
        raise ImportError(f"the DuckDB agent needs {_library}: pip install 'flyteagent_nb[duckdb]'", name=_library)

TASK_TYPE = "duckdb_query"
OUTPUT = "results"

_JOBS = "flyteagent_nb.agents.duckdb_job"

UNREAD_KEPT = 20_000
"""Outcomes that nobody asked for yet; about 1 KB each, so that a burst of 10,000 queries loses none."""


@dataclasses.dataclass
class DuckDBConfig:
    """Where a query runs.

    Attributes:
        database: ``:memory:`` is a database of the query's own; anything else is a file, which queries share.
        read_only: open the file for reading only.
        threads: DuckDB's threads for this query; None is one a core.
        memory_limit: as DuckDB writes it, ``"2GB"``; None is 80 % of the machine.
        settings: anything else that DuckDB's ``SET`` takes, by name.
    """

    database: str = ":memory:"
    read_only: bool = False
    threads: int | None = None
    memory_limit: str | None = None
    settings: dict[str, str] | None = None

    def to_custom(self) -> dict[str, Any]:
        """What stands in the template's ``custom``: the fields that are set."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    @classmethod
    def from_custom(cls, custom: Mapping[str, Any] | None) -> DuckDBConfig:
        """The config in a template's ``custom``; ValueError names a field that it does not know."""
        fields = dict(custom or {})
        known = [f.name for f in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                raise ValueError(f"the task's config has no {name!r}; it has {', '.join(known)}")
        if fields.get("threads") is not None:
            fields["threads"] = int(fields["threads"])  # a protobuf Struct knows floats only
        return cls(**fields)


class DuckDBQuery(AsyncConnectorExecutorMixin, SQLTask[DuckDBConfig]):  # type: ignore[misc]  # flytekit ships no types
    """A task that is a DuckDB query.

    Args:
        name: the task's name.
        query_template: the SQL, kept verbatim; inputs are ``$name``, or tables where they are structured datasets.
        task_config: where it runs; None is a database in memory.
        inputs: types by name.
        output_structured_dataset_type: the type of the output ``results``: pandas.DataFrame, pyarrow.Table or
            StructuredDataset; None for a task without output.
        kwargs: flytekit's own, ``metadata`` for one.
    """

    _TASK_TYPE = TASK_TYPE

    def __init__(
        self,
        name: str,
        query_template: str,
        task_config: DuckDBConfig | None = None,
        inputs: dict[str, type] | None = None,
        output_structured_dataset_type: type | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            name=name,
            query_template=query_template,
            task_config=task_config or DuckDBConfig(),
            task_type=self._TASK_TYPE,
            inputs=inputs,
            outputs={OUTPUT: output_structured_dataset_type} if output_structured_dataset_type is not None else None,
            **kwargs,
        )
        # SQLTask folds white space, which breaks a comment after -- and changes text in quotes.
        self._query_template = query_template

    def get_custom(self, settings: SerializationSettings) -> dict[str, Any]:
        """The config, for the template."""
        return dict(self.task_config.to_custom())

    def get_sql(self, settings: SerializationSettings) -> Any:
        """The query, for the template."""
        return Sql(statement=self.query_template, dialect=Sql.Dialect.ANSI)


@dataclasses.dataclass
class DuckDBJob(ResourceMeta):  # type: ignore[misc]  # flytekit ships no types
    """The resource meta: which job.

    Attributes:
        job_id: its id in the process that created it.
    """

    job_id: str


class DuckDBAgent(AsyncConnectorBase):  # type: ignore[misc]  # flytekit ships no types
    """Runs ``duckdb_query`` tasks in this process, each on a thread of its own.

    Jobs live in this process and end with it. Of a finished job stays a record of about 1 KB: until it was read, and then
    among the last ``kept``. ``get`` answers FAILED for a job without a record.

    Args:
        parallel: queries that run at once; the others are QUEUED.
        kept: records of jobs that were read.
    """

    name = "DuckDB Agent"

    def __init__(self, *, parallel: int = 32, kept: int = 1_000) -> None:
        super().__init__(task_type_name=TASK_TYPE, metadata_type=DuckDBJob)
        self._parallel = parallel
        self._kept = kept
        self._lock = threading.Lock()  # for all below; held for moments only, so the event loop may take it
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._threads = 0
        self._unread: OrderedDict[str, Outcome] = OrderedDict()
        self._read: OrderedDict[str, Outcome] = OrderedDict()
        _agents.add(self)

    async def create(
        self, task_template: TaskTemplate, output_prefix: str, inputs: LiteralMap | None = None, **kwargs: Any
    ) -> DuckDBJob:
        """Start a query and return at once; what is wrong with it shows in ``get``."""
        jobs: Any = sys.modules.get(_JOBS) or await asyncio.to_thread(importlib.import_module, _JOBS)
        job: Job = jobs.Job(task_template, inputs, output_prefix)
        with self._lock:
            self._jobs[job.id] = job
            self._waiting.append(job)
            starts = self._threads < self._parallel
            self._threads += starts
        if starts:
            # Not an executor: the interpreter would wait for its threads at exit, however long a query runs.
            threading.Thread(target=self._work, name=f"{TASK_TYPE}-{job.id[:8]}", daemon=True).start()
        return DuckDBJob(job.id)

    async def get(self, resource_meta: DuckDBJob, **kwargs: Any) -> Resource:
        """The job's phase, message, rows and seconds, and its outputs once it succeeded; never waits, never raises."""
        key = resource_meta.job_id
        with self._lock:
            job = self._jobs.get(key)
            outcome = self._unread.pop(key, None) or self._read.get(key)
            if outcome is not None:
                self._read[key] = outcome
                _trim(self._read, self._kept)
        if job is not None:
            return job.snapshot()
        if outcome is None:
            return Resource(
                phase=TaskExecution.FAILED,
                message=f"there is no record of the DuckDB job {key}: the process that ran it has ended or was restarted, "
                f"or it ended long ago (the last {self._kept:,} are kept)",
            )
        return outcome.resource()

    async def delete(self, resource_meta: DuckDBJob, **kwargs: Any) -> None:
        """Interrupt the job's query; a job that ended, or was never there, is left as it is."""
        with self._lock:
            job = self._jobs.get(resource_meta.job_id)
            waited = job in self._waiting
            if job is not None and waited:
                self._waiting.remove(job)
        if job is None:
            return
        job.interrupt()
        if waited:
            self._keep(job, job.never_ran())
            return
        # On a thread, so that it goes on where this call is cancelled. Most queries end within milliseconds.
        threading.Thread(target=_interrupt_until_done, args=([job],), daemon=True).start()
        await asyncio.wait({asyncio.wrap_future(job.done)}, timeout=1.0)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                job = self._waiting.popleft()
            self._keep(job, job.context.run(job.run))
            del job

    def _keep(self, job: Job, outcome: Outcome) -> None:
        with self._lock:
            del self._jobs[job.id]
            self._unread[job.id] = outcome
            _trim(self._unread, UNREAD_KEPT)
        job.done.set_result(outcome)

    def _end(self) -> list[Job]:
        """Forget the queries that wait; those that run."""
        with self._lock:
            waiting = set(self._waiting)
            self._waiting.clear()
            return [job for job in self._jobs.values() if job not in waiting]


def _trim(records: OrderedDict[str, Outcome], size: int) -> None:
    while len(records) > size:
        records.popitem(last=False)


def _interrupt_until_done(jobs: list[Job], seconds: float | None = None) -> None:
    """Repeat the interrupt, as one may fall between two statements, or meet a query that has just begun."""
    begun, pause = time.monotonic(), 0.01
    left = {job.done for job in jobs}
    while left and (seconds is None or time.monotonic() - begun < seconds):
        for job in jobs:
            job.interrupt()
        left = concurrent.futures.wait(left, timeout=pause).not_done
        pause = min(2 * pause, 0.5)


_agents: weakref.WeakSet[DuckDBAgent] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """A query that still runs when the interpreter ends aborts the process (SIGABRT, DuckDB 1.1 to 2.0)."""
    _interrupt_until_done([job for agent in _agents for job in agent._end()], seconds=5.0)
