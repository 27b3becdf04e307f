"""SQL with DuckDB as an agent: a query runs in this process, on a thread of its own, with no account anywhere.

The agent, :class:`DuckDBAgent`, serves the task type ``duckdb_query``; :class:`DuckDBQuery` is the task. Nothing is registered by
importing this module. What a query sees:

- Inputs are values, never text: ``$name`` is DuckDB's own named parameter, in any case. An input that a statement does not name
  is not bound, so it does no harm. A FlyteFile is its local path, so that ``read_csv($file)`` works.
- An input that is a structured dataset (a DataFrame, an Arrow table) is a table of that name.
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
import contextlib
import contextvars
import dataclasses
import enum
import os
import shutil
import tempfile
import threading
import time
import uuid
import weakref
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

try:
    import duckdb
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError(
        f"the DuckDB agent needs {error.name}: pip install 'flyteagent_nb[duckdb]'", name=error.name, path=error.path
    ) from error

from flyteidl.core.execution_pb2 import TaskExecution
from flytekit import FlyteContextManager
from flytekit.core.base_sql_task import SQLTask
from flytekit.core.type_engine import TypeEngine
from flytekit.extend.backend.base_connector import (
    AsyncConnectorBase,
    AsyncConnectorExecutorMixin,
    Resource,
    ResourceMeta,
)
from flytekit.models.literals import Literal, LiteralMap, Scalar, StructuredDataset, StructuredDatasetMetadata
from flytekit.models.task import Sql
from flytekit.models.types import StructuredDatasetType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flytekit.configuration import SerializationSettings
    from flytekit.models.task import TaskTemplate

TASK_TYPE = "duckdb_query"
OUTPUT = "results"

BATCH_ROWS = 122_880
"""Rows of a batch and of a Parquet row group: DuckDB's own row group."""

MESSAGE_CHARACTERS = 8_000
UNREAD_KEPT = 20_000
"""Outcomes that nobody asked for yet; about 1 KB each, so that a burst of 10,000 queries loses none."""

_RELATIONS_STREAM = int(duckdb.__version__.split(".")[0]) >= 2
"""From 2.0 Arrow streams from a relation without a copy; before, a relation with parameters holds the whole result."""


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

    def connect(self) -> Any:
        """A connection with every setting made; duckdb.Error where one is refused."""
        connection = duckdb.connect(os.path.expanduser(self.database), read_only=self.read_only)
        # By SET and not at connect: DuckDB refuses a second connection to an open file whose config differs.
        settings = {
            "python_enable_replacements": "false",  # else a local variable of ours is a table
            "TimeZone": "UTC",
            # Progress is asked for; a kernel's thread must not draw DuckDB's own bar.
            "enable_progress_bar": "true",
            "enable_progress_bar_print": "false",
            "progress_bar_time": "0",
            "threads": self.threads,
            "memory_limit": self.memory_limit,
            **(self.settings or {}),
        }
        try:
            for name, value in settings.items():
                if value is not None:
                    quoted = name.replace('"', '""')
                    connection.execute(f'SET "{quoted}" = $value', {"value": str(value)})
        except BaseException:
            connection.close()
            raise
        return connection


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
        return self.task_config.to_custom()  # type: ignore[no-any-return]

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


@dataclasses.dataclass(frozen=True, slots=True)
class _Outcome:
    """All that is kept of a finished job; its result is on disk."""

    phase: int
    message: str
    rows: int = 0
    seconds: float = 0.0
    uri: str | None = None
    columns: tuple[Any, ...] = ()

    def resource(self) -> Resource:
        outputs = None
        if self.uri is not None:
            kind = StructuredDatasetType(columns=list(self.columns), format="parquet")
            dataset = StructuredDataset(uri=self.uri, metadata=StructuredDatasetMetadata(structured_dataset_type=kind))
            outputs = LiteralMap({OUTPUT: Literal(scalar=Scalar(structured_dataset=dataset))})
        info = {"rows": self.rows, "seconds": round(self.seconds, 3)}
        return Resource(phase=self.phase, message=self.message, outputs=outputs, custom_info=info)


class _Deleted(Exception):
    """The job was deleted between two steps."""


class _Job:
    """One query on its thread, watched and interrupted from others."""

    def __init__(self, template: TaskTemplate, inputs: LiteralMap | None, output_prefix: str) -> None:
        self.id = uuid.uuid4().hex
        self.done: concurrent.futures.Future[_Outcome] = concurrent.futures.Future()
        self.done.set_running_or_notify_cancel()  # who waits for it must not be able to cancel it
        # The caller's context: flytekit's is in it, and whoever captures output finds the run there.
        self.context = contextvars.copy_context()
        self._flyte = FlyteContextManager.current_context()
        self._template = template
        self._inputs = dict(inputs.literals) if inputs else {}
        self._prefix = output_prefix
        self._deleted = threading.Event()
        self._guard = threading.Lock()  # a connection must not close while another thread asks it something
        self._connection: Any = None
        self._started: float | None = None
        self._doing = ""
        self._rows = 0

    def snapshot(self) -> Resource:
        """Where the job stands, without waiting for it."""
        if self._started is None:
            return _Outcome(TaskExecution.QUEUED, "waits for other queries to end").resource()
        message = self._doing
        if self._rows:
            message += f": {self._rows:,} rows so far"
        # DuckDB 1.1 and 1.2 cannot tell; a negative number is DuckDB's word for the same.
        with self._guard, contextlib.suppress(duckdb.Error):
            percent = self._connection.query_progress() if hasattr(self._connection, "query_progress") else -1.0
            if percent > 0:
                message += f", {percent:.0f} %"
        return _Outcome(TaskExecution.RUNNING, message, self._rows, self._seconds()).resource()

    def interrupt(self) -> None:
        """Delete the job, as far as one call can: an interrupt that comes between two statements is lost on DuckDB."""
        self._deleted.set()
        with self._guard, contextlib.suppress(duckdb.Error):
            if self._connection is not None:
                self._connection.interrupt()

    def run(self) -> _Outcome:
        """Run the query to its end; every error is the outcome."""
        self._started = time.monotonic()
        output = self._template.interface.outputs
        try:
            uri = self._query(writes=bool(output))
        except Exception as error:  # whatever DuckDB, flytekit or a file system raises is how the job ended
            if self._deleted.is_set():
                return _Outcome(TaskExecution.ABORTED, "deleted", self._rows, self._seconds())
            words = str(error) or type(error).__name__
            return _Outcome(TaskExecution.FAILED, words[:MESSAGE_CHARACTERS], self._rows, self._seconds())
        columns = tuple(output[OUTPUT].type.structured_dataset_type.columns or ()) if output else ()
        message = f"{self._rows:,} rows in {self._seconds():.2f} s"
        return _Outcome(TaskExecution.SUCCEEDED, message, self._rows, self._seconds(), uri, columns)

    def _seconds(self) -> float:
        return time.monotonic() - self._started if self._started is not None else 0.0

    def _query(self, *, writes: bool) -> str | None:
        outputs = self._template.interface.outputs
        if writes and (set(outputs) != {OUTPUT} or outputs[OUTPUT].type.structured_dataset_type is None):
            raise ValueError(f"a {TASK_TYPE} task has one output, a structured dataset named {OUTPUT!r}, or none")
        if self._template.sql is None:
            raise ValueError(f"a {TASK_TYPE} task needs its query in the template's sql")
        query = self._template.sql.statement
        self._step("opens the database")
        connection = DuckDBConfig.from_custom(self._template.custom).connect()
        with self._guard:
            self._connection = connection
        try:
            return self._run_statements(connection, query, writes)
        except duckdb.ParserException as error:
            hint = "\nInputs are bound as $name; the query is not a template." if "{{" in query else ""
            raise ValueError(f"{error}{hint}") from error
        finally:
            with self._guard:
                self._connection = None
            connection.close()

    def _run_statements(self, connection: Any, query: str, writes: bool) -> str | None:
        statements = connection.extract_statements(query)
        if not statements:
            raise ValueError("there is no statement in the query")
        self._step("reads the inputs")
        for name, table in self._tables(query):
            connection.register(name, table)
        named = {name.casefold() for statement in statements for name in statement.named_parameters}
        values = {name.casefold(): value for name, value in self._values(named)}
        for number, statement in enumerate(statements, 1):
            last = number == len(statements)
            self._step("runs" if len(statements) == 1 else f"runs statement {number} of {len(statements)}")
            bound = {p: values[p.casefold()] for p in statement.named_parameters if p.casefold() in values}
            try:
                with contextlib.closing(_read(connection, statement, bound)) as reader:
                    if last and writes:
                        return self._save(reader)
                    for batch in reader:  # a statement has run when its last row was read
                        self._step()
                        self._rows += batch.num_rows if last else 0
            except (duckdb.Error, OSError) as error:  # an error after the first batch comes through Arrow, as OSError
                if len(statements) == 1:
                    raise
                raise ValueError(f"{error}\n(statement {number} of {len(statements)})") from error
        return None

    def _step(self, doing: str = "") -> None:
        if self._deleted.is_set():
            raise _Deleted
        self._doing = doing or self._doing

    def _tables(self, query: str) -> Iterator[tuple[str, Any]]:
        """The structured datasets among the inputs whose name stands in the query at all, as Arrow tables."""
        for name, literal in self._inputs.items():
            dataset = _inner(literal).scalar and _inner(literal).scalar.structured_dataset
            if dataset is None or name.casefold() not in query.casefold():
                continue
            # flytekit's decoder into Arrow reads local Parquet only; its pandas decoder reads all it knows.
            remote = self._flyte.file_access.is_remote(dataset.uri)
            kind = dataset.metadata.structured_dataset_type if dataset.metadata else None
            arrow = not remote and (kind is None or kind.format in ("", "parquet"))
            try:
                table = TypeEngine.to_python_value(self._flyte, _inner(literal), pa.Table if arrow else pd.DataFrame)
            except Exception as error:  # any decoder of flytekit's registry: its words, with the input's name
                raise ValueError(f"the input {name!r} cannot be read: {error}") from error
            if not arrow:
                table = pa.Table.from_pandas(table)
            # pandas writes an index without a name as a column; the person who made the frame never saw it.
            index = [c for c in table.column_names if c.startswith("__index_level_")]
            yield name, table.drop_columns(index)
            self._step()

    def _values(self, named: set[str]) -> Iterator[tuple[str, Any]]:
        """The inputs that statements name, as Python values that DuckDB binds."""
        for name, literal in self._inputs.items():
            if name.casefold() in named:
                kind = TypeEngine.guess_python_type(self._template.interface.inputs[name].type)
                yield name, _bindable(TypeEngine.to_python_value(self._flyte, literal, kind))
                self._step()

    def _save(self, reader: pa.RecordBatchReader) -> str:
        """Write the batches as Parquet, in the folder's layout of flytekit's own encoders; the folder's uri."""
        access = self._flyte.file_access
        uri = f"{(self._prefix or access.get_random_remote_directory()).rstrip('/')}/{OUTPUT}"
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as always:
            remote = access.is_remote(uri)
            folder = tempfile.mkdtemp() if remote else access.strip_file_header(uri)
            (always if remote else on_failure).callback(shutil.rmtree, folder, ignore_errors=True)
            os.makedirs(folder, exist_ok=True)
            schema = _parquet_schema(reader.schema)
            try:
                writer = pq.ParquetWriter(os.path.join(folder, "00000"), schema)
            except pa.ArrowNotImplementedError as error:
                raise ValueError(f"Parquet has no such column, cast it in the query: {error}") from error
            with writer:
                for batch in reader:
                    self._step()
                    writer.write_batch(_parquet_batch(batch, schema))
                    self._rows += batch.num_rows
            if remote:
                self._step("uploads the result")
                access.put_data(folder, uri, is_multipart=True)
            on_failure.pop_all()
        return uri if remote else folder


def _read(connection: Any, statement: Any, values: dict[str, Any]) -> pa.RecordBatchReader:
    """Start a statement; its result, batch by batch. A command has one of DuckDB's own: a count, or nothing."""
    if _RELATIONS_STREAM:
        relation = connection.sql(statement, params=values or None)
        return (
            pa.RecordBatchReader.from_batches(pa.schema([]), [])
            if relation is None
            else relation.to_arrow_reader(BATCH_ROWS)
        )
    connection.execute(statement, values or None)
    # The same under two names: 1.5 warns of the first, which is all that 1.4 has.
    fetch = connection.to_arrow_reader if hasattr(connection, "to_arrow_reader") else connection.fetch_record_batch
    return fetch(BATCH_ROWS)


def _inner(literal: Literal) -> Literal:
    """A literal without the union around it, which an Optional input has."""
    while literal.scalar is not None and literal.scalar.union is not None:
        literal = literal.scalar.union.value
    return literal


def _bindable(value: Any) -> Any:
    """A value of flytekit's as one that DuckDB binds: a file as its path, an enum as its value."""
    if isinstance(value, list):
        return [_bindable(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    return os.fspath(value) if isinstance(value, os.PathLike) else value  # a remote FlyteFile is downloaded here


def _parquet_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with durations for intervals, and without a name twice: no reader of Parquet takes that."""
    fields: list[pa.Field] = []
    names: set[str] = set()
    for field in schema:
        name, copies = field.name, 0
        while name in names:
            copies += 1
            name = f"{field.name}_{copies}"
        names.add(name)
        kind = pa.duration("us") if field.type == pa.month_day_nano_interval() else field.type
        fields.append(pa.field(name, kind))
    return pa.schema(fields)


def _parquet_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    arrays = [_durations(c) if c.type == pa.month_day_nano_interval() else c for c in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _durations(intervals: pa.Array) -> pa.Array:
    """Intervals in microseconds; numpy, as pyarrow has no cast between the two."""
    layout = np.dtype([("months", "<i4"), ("days", "<i4"), ("nanoseconds", "<i8")])
    parts = np.frombuffer(intervals.buffers()[1], layout, len(intervals), intervals.offset * layout.itemsize)
    days = parts["months"].astype("i8") * 30 + parts["days"]
    microseconds = days * 86_400_000_000 + parts["nanoseconds"] // 1_000
    return pa.array(microseconds, pa.int64(), mask=np.asarray(intervals.is_null())).cast(pa.duration("us"))


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
        self._jobs: dict[str, _Job] = {}
        self._waiting: deque[_Job] = deque()
        self._threads = 0
        self._unread: OrderedDict[str, _Outcome] = OrderedDict()
        self._read: OrderedDict[str, _Outcome] = OrderedDict()
        _agents.add(self)

    async def create(
        self, task_template: TaskTemplate, output_prefix: str, inputs: LiteralMap | None = None, **kwargs: Any
    ) -> DuckDBJob:
        """Start a query and return at once; what is wrong with it shows in ``get``."""
        job = _Job(task_template, inputs, output_prefix)
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
            self._keep(job, _Outcome(TaskExecution.ABORTED, "deleted"))
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

    def _keep(self, job: _Job, outcome: _Outcome) -> None:
        with self._lock:
            del self._jobs[job.id]
            self._unread[job.id] = outcome
            _trim(self._unread, UNREAD_KEPT)
        job.done.set_result(outcome)

    def _end(self) -> list[_Job]:
        """Forget the queries that wait; those that run."""
        with self._lock:
            waiting = set(self._waiting)
            self._waiting.clear()
            return [job for job in self._jobs.values() if job not in waiting]


def _trim(records: OrderedDict[str, _Outcome], size: int) -> None:
    while len(records) > size:
        records.popitem(last=False)


def _interrupt_until_done(jobs: list[_Job], seconds: float | None = None) -> None:
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
