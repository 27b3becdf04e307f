"""The DuckDB agent over a real gRPC channel, through flytekit's own servicers."""

from __future__ import annotations

import asyncio
import datetime as dt
import subprocess
import sys
import textwrap
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Annotated, Any

import grpc
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flyteidl.admin.agent_pb2 import CreateTaskRequest, DeleteTaskRequest, GetTaskRequest, TaskCategory
from flyteidl.admin.agent_pb2 import Resource as ResourceProto
from flyteidl.core.execution_pb2 import TaskExecution
from flyteidl.service.agent_pb2_grpc import AsyncAgentServiceStub, add_AsyncAgentServiceServicer_to_server
from flytekit import FlyteContextManager, StructuredDataset, kwtypes
from flytekit.configuration import ImageConfig, SerializationSettings
from flytekit.core.type_engine import TypeEngine
from flytekit.extend.backend.base_connector import ConnectorRegistry
from flytekit.extend.backend.connector_service import AsyncConnectorService
from flytekit.models.literals import Literal
from flytekit.tools.translator import get_serializable
from flytekit.types.file import FlyteFile
from flytekit.types.structured.structured_dataset import StructuredDatasetDecoder, StructuredDatasetTransformerEngine

from flyteagent_nb.agents.duckdb import OUTPUT, TASK_TYPE, DuckDBAgent, DuckDBConfig, DuckDBJob, DuckDBQuery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FINAL = (TaskExecution.SUCCEEDED, TaskExecution.FAILED, TaskExecution.ABORTED)
# Minutes of work that neither the optimizer nor a shortcut can take away.
ENDLESS = "SELECT sum(hash(a.range * b.range) % 7) AS s FROM range(10000000) a, range(100000) b"
CATEGORY = TaskCategory(name=TASK_TYPE, version=0)


class Service:
    """An agent behind flytekit's servicer, and a client on a channel of its own."""

    def __init__(self, folder: Path, agent: DuckDBAgent) -> None:
        self.folder = folder
        self.attempts = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        ConnectorRegistry.register(agent)
        self._server, port = self._on_loop(self._start())
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)])
        self.stub = AsyncAgentServiceStub(self._channel)

    def _on_loop(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _start(self) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server()
        add_AsyncAgentServiceServicer_to_server(AsyncConnectorService(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    def close(self) -> None:
        self._channel.close()
        self._on_loop(self._server.stop(None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for category in [c for c in ConnectorRegistry._REGISTRY if c.name == TASK_TYPE]:
            del ConnectorRegistry._REGISTRY[category]
        ConnectorRegistry._METADATA.pop(DuckDBAgent.name)

    def request(self, task: DuckDBQuery, prefix: str | None = None, **inputs: Any) -> CreateTaskRequest:
        self.attempts += 1
        ctx = FlyteContextManager.current_context()
        template = get_serializable(OrderedDict(), SerializationSettings(ImageConfig()), task).template
        literals = TypeEngine.dict_to_literal_map(ctx, inputs, task.get_input_types())
        return CreateTaskRequest(
            template=template.to_flyte_idl(),
            inputs=literals.to_flyte_idl(),
            output_prefix=prefix or str(self.folder / f"attempt-{self.attempts}"),
        )

    def create(self, task: DuckDBQuery, prefix: str | None = None, **inputs: Any) -> bytes:
        return self.stub.CreateTask(self.request(task, prefix, **inputs), timeout=10).resource_meta

    def get(self, meta: bytes) -> ResourceProto:
        return self.stub.GetTask(GetTaskRequest(task_category=CATEGORY, resource_meta=meta), timeout=10).resource

    def delete(self, meta: bytes) -> None:
        self.stub.DeleteTask(DeleteTaskRequest(task_category=CATEGORY, resource_meta=meta), timeout=10)

    def poll(self, meta: bytes, until: Callable[[ResourceProto], bool], seconds: float = 60) -> ResourceProto:
        """Ask until it is so; a final phase that is not so fails at once."""
        deadline, pace = time.monotonic() + seconds, threading.Event()
        while True:
            resource = self.get(meta)
            if until(resource):
                return resource
            assert resource.phase not in FINAL, resource
            assert time.monotonic() < deadline, resource
            pace.wait(0.005)

    def end(self, meta: bytes) -> ResourceProto:
        return self.poll(meta, lambda resource: resource.phase in FINAL)

    def frame(self, task: DuckDBQuery, **inputs: Any) -> pd.DataFrame:
        return decode(self.end(self.create(task, **inputs)))


def decode(resource: ResourceProto, kind: Any = pd.DataFrame) -> Any:
    assert resource.phase == TaskExecution.SUCCEEDED, resource.message
    literal = Literal.from_flyte_idl(resource.outputs.literals[OUTPUT])
    return TypeEngine.to_python_value(FlyteContextManager.current_context(), literal, kind)


def query(sql: str, inputs: dict[str, Any] | None = None, output: Any = pd.DataFrame, **config: Any) -> DuckDBQuery:
    return DuckDBQuery(
        "query", sql, DuckDBConfig(**config), inputs=inputs and kwtypes(**inputs), output_structured_dataset_type=output
    )


@pytest.fixture
def agent() -> DuckDBAgent:
    return DuckDBAgent()


@pytest.fixture
def service(tmp_path: Path, agent: DuckDBAgent) -> Iterator[Service]:
    running = Service(tmp_path, agent)
    yield running
    running.close()


NOON = dt.datetime(2024, 5, 1, 12, tzinfo=dt.timezone.utc)


@pytest.mark.parametrize(
    ("kind", "value", "sql", "expected"),
    [
        (int, 7, "$v + 1", 8),
        (int, 2**40, "$v", 2**40),
        (float, 2.5, "$v * 2", 5.0),
        (str, "it's -- $v; ünï", "$v", "it's -- $v; ünï"),
        (bool, True, "NOT $v", False),
        (dt.datetime, NOON, "$v", pd.Timestamp(NOON)),
        (dt.datetime, NOON, "TIMESTAMP '2024-05-01 12:00' = $v", True),
        (dt.date, NOON.date(), "DATE '2024-05-01' = $v", True),
        (dt.timedelta, dt.timedelta(days=1, milliseconds=5), "$v", pd.Timedelta(days=1, milliseconds=5)),
        (dt.timedelta, dt.timedelta(hours=1), "TIMESTAMP '2024-05-01 11:00' + $v", pd.Timestamp("2024-05-01 12:00")),
        (list[int], [1, 2, 3], "list_contains($v, 2)", True),
        (list[str], ["a", "b"], "$v[2]", "b"),
        (list[float], [], "len($v)", 0),
        (list[dt.datetime], [NOON], "$v[1]", pd.Timestamp(NOON)),
        (int | None, None, "$v IS NULL", True),
        (int | None, 5, "$v", 5),
    ],
)
def test_an_input_is_bound_as_a_value_of_its_type(service, kind, value, sql, expected):
    frame = service.frame(query(f"SELECT {sql} AS x", {"v": kind}), v=value)
    assert frame["x"].tolist() == [expected]


def test_only_inputs_that_a_statement_names_are_bound(service):
    task = query(
        "CREATE TABLE t AS SELECT $a AS a; -- not $c\nINSERT INTO t VALUES ($B);\nSELECT a FROM t ORDER BY a",
        {"a": int, "b": int, "c": int, "Unused": FlyteFile},
    )
    assert service.frame(task, a=1, b=2, c=3, Unused="s3://nowhere/at/all")["a"].tolist() == [1, 2]


def test_an_input_that_is_missing_fails_in_duckdbs_words(service):
    resource = service.end(service.create(query("SELECT $year + $month", {"year": int}), year=1))
    assert resource.phase == TaskExecution.FAILED
    assert "Values were not provided" in resource.message and "month" in resource.message


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pd.DataFrame, pd.DataFrame({"n": [1, 2, 3]})),
        (pd.DataFrame, pd.DataFrame({"n": [1, 2, 3]}, index=[7, 9, 8])),
        (pa.Table, pa.table({"n": [1, 2, 3]})),
        (StructuredDataset, StructuredDataset(dataframe=pd.DataFrame({"n": [1, 2, 3]}))),
        (Annotated[pd.DataFrame, "csv"], pd.DataFrame({"n": [1, 2, 3]})),
        (pd.DataFrame | None, pd.DataFrame({"n": [1, 2, 3]})),
    ],
    ids=["pandas", "indexed", "arrow", "dataset", "csv", "optional"],
)
def test_a_structured_dataset_is_a_table_of_the_inputs_name(service, kind, value):
    frame = service.frame(query("SELECT * FROM Rows WHERE n >= $low", {"rows": kind, "low": int}), rows=value, low=2)
    assert frame.to_dict("list") == {"n": [2, 3]}


def test_a_named_index_is_a_column(service):
    task = query("SELECT * FROM rows ORDER BY n", {"rows": pd.DataFrame})
    counted = pd.DataFrame({"n": [1, 2, 3]})
    for index in (pd.RangeIndex(4, 10, 2, name="id"), pd.Index([4, 6, 8], name="id")):
        assert service.frame(task, rows=counted.set_index(index)).to_dict("list") == {"n": [1, 2, 3], "id": [4, 6, 8]}


@pytest.mark.parametrize(
    ("sql", "names", "words"),
    [
        ("FROM Rows", ("rows", "Rows"), "the inputs 'Rows' and 'rows' are one name to DuckDB"),
        ("FROM held", ("held",), "the database has a table 'held', which the input 'held' hides"),
        ("SELECT * FROM main.seen", ("Seen",), "the database has a table 'seen', which the input 'Seen' hides"),
        ("CREATE TABLE new AS FROM new WHERE n > 1; FROM new", ("new",), "a table 'new', which the input 'new' hides"),
        ("SELECT $rows", ("rows",), "the input 'rows' is a table: it is read FROM rows, without a $"),
    ],
)
def test_no_table_takes_the_place_of_another(service, tmp_path, sql, names, words):
    database = str(tmp_path / "d.duckdb")
    made = "CREATE TABLE held AS SELECT 100 AS n; CREATE VIEW seen AS FROM held"
    assert service.end(service.create(query(made, output=None, database=database))).phase == TaskExecution.SUCCEEDED
    task = query(sql, dict.fromkeys(names, pd.DataFrame), database=database)
    resource = service.end(service.create(task, **{name: pd.DataFrame({"n": [1, 2]}) for name in names}))
    assert resource.phase == TaskExecution.FAILED and words in resource.message


def test_inputs_of_one_name_but_for_its_case(service):
    resource = service.end(service.create(query("SELECT $y, $Y", {"y": int, "Y": int}), y=1, Y=2))
    assert resource.phase == TaskExecution.FAILED and "'Y' and 'y' are one name" in resource.message


def test_a_number_that_overflows_tells_the_cast(service):
    resource = service.end(service.create(query("SELECT $n * 1000 AS n", {"n": int}), n=1_700_000_000))
    assert resource.phase == TaskExecution.FAILED and "$name::BIGINT" in resource.message
    assert service.frame(query("SELECT $n::BIGINT * 1000 AS n", {"n": int}), n=1_700_000_000)["n"].tolist() == [
        17 * 10**11
    ]


def test_a_table_that_the_query_does_not_use_is_not_read(service):
    task = query("SELECT 1 AS x", {"rows": StructuredDataset})
    assert service.frame(task, rows=StructuredDataset(uri="s3://nowhere/at/all"))["x"].tolist() == [1]


def test_a_table_that_cannot_be_read_fails_by_its_name(service):
    task = query("FROM rows", {"rows": StructuredDataset})
    resource = service.end(
        service.create(task, rows=StructuredDataset(uri="memory://duckdb/none", file_format="parquet"))
    )
    assert resource.phase == TaskExecution.FAILED
    assert resource.message.startswith("the input 'rows' cannot be read: ")


def test_a_period_is_refused_as_it_would_be_a_bare_number(service):
    frame = pd.DataFrame({"month": pd.period_range("2024-01", periods=2, freq="M")})
    resource = service.end(service.create(query("FROM rows", {"rows": pd.DataFrame}), rows=frame))
    assert resource.phase == TaskExecution.FAILED
    assert resource.message.startswith("the input 'rows' cannot be read: its column 'month' is a period")


def test_a_file_is_bound_as_its_path(service, tmp_path):
    (tmp_path / "flights.csv").write_text("carrier,n\nUA,3\nAA,4\n")
    task = query("SELECT n FROM read_csv($file) WHERE carrier = 'AA'", {"file": FlyteFile})
    assert service.frame(task, file=FlyteFile(str(tmp_path / "flights.csv")))["n"].tolist() == [4]


def test_outputs_and_inputs_may_be_remote(service):
    task = query("SELECT range AS n FROM range(5)")
    first = service.end(service.create(task, prefix="memory://duckdb/first"))
    assert first.outputs.literals[OUTPUT].scalar.structured_dataset.uri == "memory://duckdb/first/results"
    dataset = decode(first, StructuredDataset)
    task = query("SELECT sum(n)::BIGINT AS s FROM rows", {"rows": StructuredDataset})
    assert service.frame(task, rows=dataset)["s"].tolist() == [10]


@pytest.mark.parametrize("declared", [pd.DataFrame, pa.Table, StructuredDataset])
@pytest.mark.parametrize("wanted", [pd.DataFrame, pa.Table, StructuredDataset])
def test_the_output_decodes_as_any_dataset_type(service, declared, wanted):
    resource = service.end(service.create(query("SELECT range AS n FROM range(3)", output=declared)))
    value = decode(resource, wanted)
    table = value.open(pa.Table).all() if wanted is StructuredDataset else value
    column = table["n"].to_pylist() if isinstance(table, pa.Table) else table["n"].tolist()
    assert column == [0, 1, 2]


def test_the_columns_that_the_task_declares_are_what_is_decoded(service):
    declared = Annotated[pd.DataFrame, kwtypes(b=int)]
    assert service.frame(query("SELECT 1 AS a, 2 AS b", output=declared)).to_dict("list") == {"b": [2]}


def test_columns_that_parquet_or_its_readers_refuse(service):
    frame = service.frame(query("SELECT 1 AS a, 2 AS a, unnest([INTERVAL 2 MONTH, NULL, INTERVAL 3 SECOND]) AS i"))
    assert list(frame.columns) == ["a", "a_1", "i"]
    assert frame["i"].tolist() == [pd.Timedelta(days=60), pd.NaT, pd.Timedelta(seconds=3)]
    resource = service.end(service.create(query("SELECT union_value(a := 1) AS u")))
    assert resource.phase == TaskExecution.FAILED
    assert "cast it in the query" in resource.message


def test_what_arrow_would_hold_as_another_number_is_refused(service):
    frame = service.frame(query("SELECT md5_number('a') AS n, NULL::UHUGEINT AS m, -1::HUGEINT AS h"))
    assert frame["n"].tolist() == [129134844867590561315626153795017621772] and frame["h"].tolist() == [-1]
    for sql, words in (
        ("SELECT unnest(['a', 'b']) AS s, md5_number(s) AS n", "the column 'n' has a UHUGEINT above 2^127 - 1"),
        (
            "SELECT unnest([INTERVAL 1 DAY, NULL, INTERVAL '-300000 years'])",
            "an INTERVAL is longer than 106,000,000 days",
        ),
        ("SELECT TIMETZ '10:00:00+02' AS t", "the column 't' is a TIME WITH TIME ZONE, which Arrow does not hold"),
        ("SELECT ['101'::BIT] AS b", "the column 'b' is a BIT[]"),
    ):
        ended = service.end(service.create(query(sql)))
        assert ended.phase == TaskExecution.FAILED and words in ended.message


def test_no_rows_keep_their_columns(service):
    frame = service.frame(query("SELECT 1 AS a, 'x' AS b WHERE false"))
    assert list(frame.columns) == ["a", "b"] and frame.empty


def test_a_task_without_outputs_changes_a_file_database(service, tmp_path):
    database = str(tmp_path / "d.duckdb")
    done = service.end(service.create(query("CREATE TABLE t (n INT)", output=None, database=database)))
    assert done.phase == TaskExecution.SUCCEEDED
    assert not done.outputs.literals
    service.end(service.create(query("INSERT INTO t VALUES ($n)", {"n": int}, output=None, database=database), n=4))
    assert service.frame(query("FROM t", database=database, read_only=True))["n"].tolist() == [4]
    refused = service.end(service.create(query("DROP TABLE t", output=None, database=database, read_only=True)))
    assert refused.phase == TaskExecution.FAILED and "read-only" in refused.message


def test_a_memory_database_is_the_jobs_own(service):
    service.end(service.create(query("CREATE TABLE t (n INT)", output=None)))
    resource = service.end(service.create(query("FROM t")))
    assert resource.phase == TaskExecution.FAILED and "Table with name t does not exist" in resource.message


def test_settings_reach_duckdb(service):
    names = ["threads", "memory_limit", "default_null_order", "TimeZone"]
    sql = "SELECT " + ", ".join(f"current_setting('{name}')::VARCHAR AS {name}" for name in names)
    settings = {"default_null_order": "NULLS_FIRST", "TimeZone": "Asia/Tokyo"}
    row = service.frame(query(sql, threads=1, memory_limit="1GiB", settings=settings)).iloc[0]
    assert row.tolist() == ["1", "1.0 GiB", row["default_null_order"], "Asia/Tokyo"]
    assert row["default_null_order"].upper() == "NULLS_FIRST"  # 1.1 says it in small letters


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (query("SELECT nope FROM range(3)"), 'Binder Error: Referenced column "nope" not found'),
        (query("SELEC 1"), "Parser Error: syntax error"),
        (query("SELECT {{ .inputs.n }}"), "Inputs are bound as $name"),
        (query("SELECT error('at row ' || range) FROM range(1000000) WHERE range = 900000"), "at row 900000"),
        (query("SELECT if(range = 900000, error('late'), 1) FROM range(1000000); SELECT 1"), "(statement 1 of 2)"),
        (query("SELECT 1; SELECT 2; FROM nowhere"), "(statement 3 of 3)"),
        (query("  -- nothing\n"), "there is no statement in the query"),
        (query("FROM connection"), "Table with name connection does not exist"),
        (query("SELECT 1", memory_limit="much"), "Parser Error"),
        (query("SELECT 1", settings={"no_such_setting": "1"}), "no_such_setting"),
        (query("SELECT 1", database="/no/such/folder/d.duckdb"), "IO Error"),
    ],
    ids=lambda value: value.query_template[:20].strip() if isinstance(value, DuckDBQuery) else "",
)
def test_an_error_is_the_outcome_in_duckdbs_words(service, task, words):
    resource = service.end(service.create(task))
    assert resource.phase == TaskExecution.FAILED
    assert words in resource.message
    assert not resource.outputs.literals


def test_a_long_message_is_cut(service):
    resource = service.end(service.create(query("SELECT error(repeat('x', 100_000))")))
    assert resource.phase == TaskExecution.FAILED and 1_000 < len(resource.message) < 10_000


def test_a_template_that_is_not_ours_fails_with_words(service):
    request = service.request(query("SELECT 1"))
    request.template.custom["no_such_field"] = 1
    assert "no 'no_such_field'" in service.end(service.stub.CreateTask(request).resource_meta).message
    request = service.request(query("SELECT 1"))
    variables = request.template.interface.outputs.variables
    variables["other"].CopyFrom(variables[OUTPUT])
    assert "one output" in service.end(service.stub.CreateTask(request).resource_meta).message
    request = service.request(query("SELECT 1"))
    request.template.ClearField("sql")
    assert "needs its query" in service.end(service.stub.CreateTask(request).resource_meta).message


def test_the_query_is_kept_verbatim(service):
    sql = "SELECT 'two  spaces\n\tand a line' AS a, -- a comment; with $a parameter\n  1 AS b\n"
    task = query(sql)
    assert task.get_sql(SerializationSettings(ImageConfig())).statement == sql
    frame = service.frame(task)
    assert frame.iloc[0].tolist() == ["two  spaces\n\tand a line", 1]


def test_delete_interrupts_a_query_and_may_come_twice(service):
    meta = service.create(query(ENDLESS))
    running = service.poll(meta, lambda r: r.phase == TaskExecution.RUNNING and "runs" in r.message)
    assert running.custom_info["seconds"] >= 0
    began = time.monotonic()
    service.delete(meta)
    ended = service.end(meta)
    assert time.monotonic() - began < 1
    assert ended.phase == TaskExecution.ABORTED
    service.delete(meta)
    assert service.get(meta).phase == TaskExecution.ABORTED


def test_delete_interrupts_while_the_result_is_written(service):
    meta = service.create(query("SELECT range AS n, hash(range) AS h FROM range(100000000000)"))
    service.poll(meta, lambda r: r.custom_info["rows"] > 0)
    began = time.monotonic()
    service.delete(meta)
    assert service.end(meta).phase == TaskExecution.ABORTED
    assert time.monotonic() - began < 1
    assert not list(service.folder.glob("attempt-*/*"))


class GatedDecoder(StructuredDatasetDecoder):
    """A store that answers when the test says so: a read that nothing can interrupt."""

    entered, opened = threading.Event(), threading.Event()

    def __init__(self) -> None:
        super().__init__(pd.DataFrame, supported_format="gated")

    def decode(self, ctx, flyte_value, current_task_metadata):
        self.entered.set()
        assert self.opened.wait(30)
        return pd.DataFrame({"n": [1]})


def test_a_job_deleted_while_it_reads_its_inputs_runs_nothing(service, tmp_path):
    StructuredDatasetTransformerEngine.register(GatedDecoder())
    database = str(tmp_path / "d.duckdb")
    service.end(service.create(query("CREATE TABLE t (n INT)", output=None, database=database)))
    task = query("INSERT INTO t FROM rows", {"rows": pd.DataFrame}, output=None, database=database)
    request = service.request(task, rows=pd.DataFrame({"n": [1]}))
    request.inputs.literals["rows"].scalar.structured_dataset.metadata.structured_dataset_type.format = "gated"
    meta = service.stub.CreateTask(request, timeout=10).resource_meta
    assert GatedDecoder.entered.wait(20)
    assert service.get(meta).message == "reads the inputs"
    service.delete(meta)
    assert service.get(meta).phase == TaskExecution.RUNNING
    GatedDecoder.opened.set()
    assert service.end(meta).phase == TaskExecution.ABORTED
    assert service.frame(query("FROM t", database=database)).empty


def test_a_delete_between_statements_is_not_lost(service):
    metas = [service.create(query("SELECT 1;" * 20_000 + ENDLESS)) for _ in range(3)]
    for meta in metas:
        service.poll(meta, lambda r: "statement" in r.message)
        service.delete(meta)
    assert [service.end(meta).phase for meta in metas] == [TaskExecution.ABORTED] * 3


def test_delete_leaves_a_finished_job_as_it_is(service):
    meta = service.create(query("SELECT 1 AS x"))
    service.end(meta)
    service.delete(meta)
    assert decode(service.get(meta))["x"].tolist() == [1]


def test_an_unknown_job_fails_and_its_delete_is_fine(service):
    meta = DuckDBJob("0" * 32).encode()
    service.delete(meta)
    resource = service.get(meta)
    assert resource.phase == TaskExecution.FAILED
    assert "no record of the DuckDB job" in resource.message


def test_twenty_jobs_at_once(service):
    task = query("SELECT $n AS n, count(*) AS c FROM range(100000)", {"n": int})
    calls = [service.stub.CreateTask.future(service.request(task, n=n), timeout=20) for n in range(20)]
    frames = [decode(service.end(call.result().resource_meta)) for call in calls]
    assert [frame["n"].tolist() for frame in frames] == [[n] for n in range(20)]


def test_queries_beyond_the_limit_are_queued_and_can_be_deleted(tmp_path):
    service = Service(tmp_path, DuckDBAgent(parallel=1))
    try:
        first, second, third = (service.create(query(sql)) for sql in (ENDLESS, ENDLESS, "SELECT 3 AS x"))
        service.poll(first, lambda r: r.phase == TaskExecution.RUNNING)
        assert service.get(second).phase == TaskExecution.QUEUED
        service.delete(second)
        assert service.get(second).phase == TaskExecution.ABORTED
        assert service.get(third).phase == TaskExecution.QUEUED
        service.delete(first)
        assert decode(service.end(third))["x"].tolist() == [3]
    finally:
        service.close()


@pytest.mark.slow
def test_a_large_result_is_written_in_batches(service):
    meta = service.create(query("SELECT range AS n, range * 0.5::DOUBLE AS half FROM range(10000000)"))
    resource = service.end(meta)
    assert resource.custom_info["rows"] == 10_000_000
    uri = resource.outputs.literals[OUTPUT].scalar.structured_dataset.uri
    written = pq.ParquetFile(f"{uri}/00000")
    assert (written.metadata.num_rows, written.metadata.num_row_groups > 50) == (10_000_000, True)
    assert written.read_row_group(0).slice(2, 1).to_pylist() == [{"n": 2, "half": 1.0}]
    written.close()


def test_records_are_bounded_and_unread_ones_stay(tmp_path):
    agent = DuckDBAgent(kept=2)
    service = Service(tmp_path, agent)
    try:
        unread = [service.create(query("SELECT 1 AS x")) for _ in range(5)]
        jobs = {meta: agent._jobs.get(DuckDBJob.decode(meta).job_id) for meta in unread}
        for job in filter(None, jobs.values()):
            job.done.result(20)
        first, *_, last = unread
        assert all(service.end(meta).phase == TaskExecution.SUCCEEDED for meta in unread)
        assert "no record" in service.get(first).message
        assert service.get(last).phase == TaskExecution.SUCCEEDED
        assert not agent._jobs and not agent._unread and len(agent._read) == 2
    finally:
        service.close()


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=200)


@pytest.mark.slow
def test_without_duckdb_the_import_names_the_extra():
    done = run_python("""
        import sys
        sys.modules["duckdb"] = None
        import flyteagent_nb.agents
        try:
            import flyteagent_nb.agents.duckdb
        except ImportError as error:
            print(error)
    """)
    assert done.stdout.strip() == "the DuckDB agent needs duckdb: pip install 'flyteagent_nb[duckdb]'", done.stderr


def test_without_duckdb_nothing_is_broken_and_the_doctor_tells_the_extra():
    done = run_python("""
        import sys
        sys.modules["duckdb"] = None
        import flyteagent_nb
        from flyteagent_nb.notebook.requirements import plugin_findings
        workspace = flyteagent_nb.get_workspace()
        workspace.wait()
        print([broken for broken in workspace.catalog.broken if broken.name == "duckdb"])
        print(*(f"{f.sign} {f.told} {f.mend}" for f in plugin_findings(workspace) if f.what == "duckdb_query"))
        workspace.close()
    """)
    told = "skip not served: the extra 'duckdb' is not installed pip install 'flyteagent_nb[duckdb]', then restart the kernel"
    assert done.stdout.splitlines() == ["[]", told], done.stderr


def test_the_package_of_agents_imports_no_database():
    done = run_python(
        "import sys, flyteagent_nb.agents; print({'duckdb', 'pandas', 'pyarrow', 'flytekit'} & set(sys.modules))"
    )
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.slow
def test_the_interpreter_ends_while_a_query_runs():
    done = run_python(f"""
        import asyncio
        from collections import OrderedDict
        from flytekit.configuration import ImageConfig, SerializationSettings
        from flytekit.tools.translator import get_serializable
        from flyteagent_nb.agents.duckdb import DuckDBAgent, DuckDBQuery
        task = DuckDBQuery("q", {ENDLESS!r})
        template = get_serializable(OrderedDict(), SerializationSettings(ImageConfig()), task).template
        agent = DuckDBAgent()

        async def main():
            meta = await agent.create(task_template=template, output_prefix="")
            while "runs" not in ((await agent.get(meta)).message or ""):
                await asyncio.sleep(0.005)

        asyncio.run(main())
        print("ended")
    """)
    assert (done.returncode, done.stdout.strip()) == (0, "ended"), done.stderr
