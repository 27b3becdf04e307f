"""One query of the DuckDB agent: its connection, its inputs as values and tables, its result as Parquet.

Imported with the first query, as DuckDB, pandas and pyarrow take a second to import.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import dataclasses
import enum
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from flyteidl.core.execution_pb2 import TaskExecution
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.extend.backend.base_connector import Resource
from flytekit.models.literals import Literal, LiteralMap, Scalar, StructuredDataset, StructuredDatasetMetadata
from flytekit.models.types import StructuredDatasetType

from flyteagent_nb.agents.duckdb import OUTPUT, TASK_TYPE, DuckDBConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flytekit.models.task import TaskTemplate

BATCH_ROWS = 122_880
"""Rows of a batch and of a Parquet row group: DuckDB's own row group."""

DAYS_AT_MOST = 106_000_000
"""Of an interval: about what 64 bits of microseconds hold, less the hours beside the days."""

MESSAGE_CHARACTERS = 8_000

_LOST = re.compile(r"(TIME WITH TIME ZONE|BIT|BIGNUM|VARINT)(\[\d*\])*")
"""Types of DuckDB's that become something else on the way through Arrow, in a column or a list."""

_RELATIONS_STREAM = int(duckdb.__version__.split(".")[0]) >= 2
"""From 2.0 Arrow streams from a relation without a copy; before, a relation with parameters holds the whole result."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """All that is kept of a finished job; its result is on disk."""

    phase: int
    message: str
    rows: int = 0
    seconds: float = 0.0
    uri: str | None = None
    columns: tuple[Any, ...] = ()

    def resource(self) -> Resource:
        """As the agent answers a get."""
        outputs = None
        if self.uri is not None:
            kind = StructuredDatasetType(columns=list(self.columns), format="parquet")
            dataset = StructuredDataset(uri=self.uri, metadata=StructuredDatasetMetadata(structured_dataset_type=kind))
            outputs = LiteralMap({OUTPUT: Literal(scalar=Scalar(structured_dataset=dataset))})
        info = {"rows": self.rows, "seconds": round(self.seconds, 3)}
        return Resource(phase=self.phase, message=self.message, outputs=outputs, custom_info=info)


class _Deleted(Exception):
    """The job was deleted between two steps."""


class Job:
    """One query on its thread, watched and interrupted from others."""

    def __init__(self, template: TaskTemplate, inputs: LiteralMap | None, output_prefix: str) -> None:
        self.id = uuid.uuid4().hex
        self.done: concurrent.futures.Future[Outcome] = concurrent.futures.Future()
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
            return Outcome(TaskExecution.QUEUED, "waits for other queries to end").resource()
        message = self._doing
        if self._rows:
            message += f": {self._rows:,} rows so far"
        # DuckDB 1.1 and 1.2 cannot tell; a negative number is DuckDB's word for the same.
        with self._guard, contextlib.suppress(duckdb.Error):
            percent = self._connection.query_progress() if hasattr(self._connection, "query_progress") else -1.0
            if percent > 0:
                message += f", {percent:.0f} %"
        return Outcome(TaskExecution.RUNNING, message, self._rows, self._seconds()).resource()

    def interrupt(self) -> None:
        """Delete the job, as far as one call can: an interrupt that comes between two statements is lost on DuckDB."""
        self._deleted.set()
        with self._guard, contextlib.suppress(duckdb.Error):
            if self._connection is not None:
                self._connection.interrupt()

    def never_ran(self) -> Outcome:
        """How a job ends that was deleted before its turn."""
        return Outcome(TaskExecution.ABORTED, "deleted")

    def run(self) -> Outcome:
        """Run the query to its end; every error is the outcome."""
        self._started = time.monotonic()
        try:
            output = self._template.interface.outputs
            uri = self._query(writes=bool(output))
            columns = tuple(output[OUTPUT].type.structured_dataset_type.columns or ()) if output else ()
        except Exception as error:  # whatever DuckDB, flytekit or a file system raises is how the job ended
            if self._deleted.is_set():
                return Outcome(TaskExecution.ABORTED, "deleted", self._rows, self._seconds())
            words = str(error) or type(error).__name__
            return Outcome(TaskExecution.FAILED, words[:MESSAGE_CHARACTERS], self._rows, self._seconds())
        message = f"{self._rows:,} row{'' if self._rows == 1 else 's'} in {self._seconds():.2f} s"
        return Outcome(TaskExecution.SUCCEEDED, message, self._rows, self._seconds(), uri, columns)

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
        connection = _connect(DuckDBConfig.from_custom(self._template.custom))
        with self._guard:
            self._connection = connection
        try:
            return self._run_statements(connection, query, writes)
        except duckdb.ParserException as error:
            hint = "\nInputs are bound as $name; the query is not a template." if "{{" in query else ""
            raise ValueError(f"{error}{hint}") from error
        except duckdb.OutOfRangeException as error:
            hint = (
                "\nA whole number is bound as INTEGER where it fits: $name::BIGINT is larger."
                if "INT32" in str(error)
                else ""
            )
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
        _check_names(sorted(self._inputs))
        tables = dict(self._tables(query))
        _check_hidden(connection, tables)
        for name, table in tables.items():
            connection.register(name, table)
        named = {name.casefold() for statement in statements for name in statement.named_parameters}
        values = {name.casefold(): value for name, value in self._values(named)}
        for number, statement in enumerate(statements, 1):
            last = number == len(statements)
            self._step("runs" if len(statements) == 1 else f"runs statement {number} of {len(statements)}")
            bound = {p: values[p.casefold()] for p in statement.named_parameters if p.casefold() in values}
            try:
                reader, kinds = _read(connection, statement, bound)
                with contextlib.closing(reader):
                    if last and writes:
                        return self._save(reader, kinds)
                    for batch in reader:  # a statement has run when its last row was read
                        self._step()
                        self._rows += batch.num_rows if last else 0
                _check_hidden(connection, tables)
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
            if period := next((field.name for field in table.schema if _is_period(field)), None):
                raise ValueError(
                    f"the input {name!r} cannot be read: its column {period!r} is a period of pandas, which SQL has no type for; "
                    "make it a text, or the time at which it begins: .dt.to_timestamp()"
                )
            # pandas writes an index without a name as a column; the person who made the frame never saw it.
            index = [c for c in table.column_names if c.startswith("__index_level_")]
            yield name, _with_range(table.drop_columns(index))
            self._step()

    def _values(self, named: set[str]) -> Iterator[tuple[str, Any]]:
        """The inputs that statements name, as Python values that DuckDB binds."""
        for name, literal in self._inputs.items():
            if name.casefold() in named:
                if (scalar := _inner(literal).scalar) is not None and scalar.structured_dataset is not None:
                    raise ValueError(f"the input {name!r} is a table: it is read FROM {name}, without a $")
                kind = TypeEngine.guess_python_type(self._template.interface.inputs[name].type)
                yield name, _bindable(TypeEngine.to_python_value(self._flyte, literal, kind))
                self._step()

    def _save(self, reader: pa.RecordBatchReader, kinds: list[str]) -> str:
        """Write the batches as Parquet, in the folder's layout of flytekit's own encoders; the folder's uri."""
        for field, kind in zip(reader.schema, kinds, strict=False):
            if _LOST.fullmatch(kind):
                raise ValueError(
                    f"the column {field.name!r} is a {kind}, which Arrow does not hold: cast it to VARCHAR in the query"
                )
        unsigned = [i for i, kind in enumerate(kinds) if kind == "UHUGEINT"]
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
                    _check_unsigned(batch, unsigned)
                    writer.write_batch(_parquet_batch(batch, schema))
                    self._rows += batch.num_rows
            if remote:
                self._step("uploads the result")
                access.put_data(folder, uri, is_multipart=True)
            on_failure.pop_all()
        return uri if remote else folder


def _check_names(inputs: Iterable[str]) -> None:
    """Refuse names that are one to DuckDB, which looks at no case: one input would be the other too."""
    seen: dict[str, str] = {}
    for name in inputs:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise ValueError(f"the inputs {other!r} and {name!r} are one name to DuckDB: call one of them otherwise")


def _check_hidden(connection: Any, tables: Iterable[str]) -> None:
    """Refuse an input that hides a table of the database, as DuckDB would read it in the table's place."""
    ours = {name.casefold(): name for name in tables}
    if not ours:
        return
    query = "SELECT table_name FROM duckdb_tables() UNION ALL SELECT view_name FROM duckdb_views() WHERE NOT temporary AND NOT internal"
    for (found,) in connection.execute(query).fetchall():
        if found.casefold() in ours:
            raise ValueError(
                f"the database has a table {found!r}, which the input {ours[found.casefold()]!r} hides: call one of them otherwise"
            )


def _is_period(field: pa.Field) -> bool:
    """Whether a column is of pandas' periods, of which DuckDB would read how many there were since 1970."""
    known = getattr(field.type, "extension_name", "")  # where pandas has made its type known to Arrow
    return known == "pandas.period" or (field.metadata or {}).get(b"ARROW:extension:name") == b"pandas.period"


def _with_range(table: pa.Table) -> pa.Table:
    """The table with an index of pandas that has a name and only counts: Parquet has it beside the columns, any other among them."""
    described = (table.schema.pandas_metadata or {}).get("index_columns", ())
    for each in described:
        if isinstance(each, dict) and each.get("kind") == "range" and each.get("name"):
            table = table.append_column(each["name"], pa.array(range(each["start"], each["stop"], each["step"])))
    return table


def _read(connection: Any, statement: Any, values: dict[str, Any]) -> tuple[pa.RecordBatchReader, list[str]]:
    """Start a statement; its result, batch by batch, and DuckDB's types of its columns.

    A command has one of DuckDB's own: a count, or nothing.
    """
    if _RELATIONS_STREAM:
        relation = connection.sql(statement, params=values or None)
        if relation is None:
            return pa.RecordBatchReader.from_batches(pa.schema([]), []), []
        return relation.to_arrow_reader(BATCH_ROWS), [str(kind) for kind in relation.types]
    connection.execute(statement, values or None)
    kinds = [str(column[1]) for column in connection.description or ()]
    # The same under two names: 1.5 warns of the first, which is all that 1.4 has.
    fetch = connection.to_arrow_reader if hasattr(connection, "to_arrow_reader") else connection.fetch_record_batch
    return fetch(BATCH_ROWS), kinds


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


def _check_unsigned(batch: pa.RecordBatch, unsigned: Iterable[int]) -> None:
    """Refuse what DuckDB hands to Arrow as a negative number: a UHUGEINT of more bits than Arrow's decimals have for one."""
    for i in unsigned:
        least = pc.min(batch.column(i)).as_py()
        if least is not None and least < 0:
            name = batch.schema.field(i).name
            raise ValueError(
                f"the column {name!r} has a UHUGEINT above 2^127 - 1, which Arrow does not hold: cast it to VARCHAR in the query"
            )


def _parquet_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    arrays = [_durations(c) if c.type == pa.month_day_nano_interval() else c for c in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _durations(intervals: pa.Array) -> pa.Array:
    """Intervals in microseconds; numpy, as pyarrow has no cast between the two. ValueError where one is too long."""
    layout = np.dtype([("months", "<i4"), ("days", "<i4"), ("nanoseconds", "<i8")])
    parts = np.frombuffer(intervals.buffers()[1], layout, len(intervals), intervals.offset * layout.itemsize)
    days = parts["months"].astype("i8") * 30 + parts["days"]
    missing = np.asarray(intervals.is_null())
    if (np.abs(days[~missing]) > DAYS_AT_MOST).any():
        raise ValueError(
            f"an INTERVAL is longer than {DAYS_AT_MOST:,} days, which no duration holds: cast it to VARCHAR in the query"
        )
    microseconds = days * 86_400_000_000 + parts["nanoseconds"] // 1_000
    return pa.array(microseconds, pa.int64(), mask=missing).cast(pa.duration("us"))


def _connect(config: DuckDBConfig) -> Any:
    """A connection with every setting made; duckdb.Error where one is refused."""
    connection = duckdb.connect(os.path.expanduser(config.database), read_only=config.read_only)
    # By SET and not at connect: DuckDB refuses a second connection to an open file whose config differs.
    settings = {
        "python_enable_replacements": "false",  # else a local variable of ours is a table
        "TimeZone": "UTC",
        # Progress is asked for; a kernel's thread must not draw DuckDB's own bar.
        "enable_progress_bar": "true",
        "enable_progress_bar_print": "false",
        "progress_bar_time": "0",
        "threads": config.threads,
        "memory_limit": config.memory_limit,
        **(config.settings or {}),
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
