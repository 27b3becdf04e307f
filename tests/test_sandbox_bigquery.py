"""BigQuery's stand-in: the unmodified connector runs on it, through the host, and finds there what was loaded."""

from __future__ import annotations

import datetime as dt
import gc
import http.client
import json
import os
import stat
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flytekit import StructuredDataset, kwtypes
from flytekit.types.structured.structured_dataset import StructuredDatasetTransformerEngine

from flyteagent_nb.bigquery_tables import address
from flyteagent_nb.errors import ArgumentError, OutputError, RunAbortedError, RunFailedError, ServiceError
from flyteagent_nb.sandbox import bigquery_server
from flyteagent_nb.sandbox.bigquery_server.__main__ import link_extension

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flyteagent_nb.running.run import Run
    from flyteagent_nb.workspace import Workspace

plugin = pytest.importorskip("flytekitplugins.bigquery", reason="its numpy has no Python 3.13")
pytest.importorskip("bqemulator", reason="it has no Python 3.10")
pytest_plugins = ("fixtures_workspace",)
# The connector makes a client for each call, and closes none.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

VARIABLES = ("BIGQUERY_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT")
LIMIT = 60.0
# Minutes of work that can be interrupted.
ENDLESS = "SELECT SUM(a * b) AS s FROM UNNEST(GENERATE_ARRAY(1, 1000000)) a, UNNEST(GENERATE_ARRAY(1, 1000000)) b"
UTC = dt.timezone.utc

TYPES = pa.table(
    {
        "whole": pa.array([1, None, -3]),
        "small": pa.array([1, None, 3], pa.uint8()),
        "real": [1.5, None, float("inf")],
        "truth": [True, None, False],
        "text": ["a'b", None, "ü"],
        "raw": pa.array([b"ab", None, b""]),
        "day": pa.array([dt.date(2024, 1, 1), None, dt.date(1900, 1, 2)]),
        "instant": pa.array([dt.datetime(2024, 1, 1, 2, 3, 4, 5, UTC), None, None], pa.timestamp("us", "UTC")),
        "elsewhere": pa.array([dt.datetime(2024, 1, 1, tzinfo=UTC), None, None], pa.timestamp("ns", "Asia/Tokyo")),
        "moment": pa.array([dt.datetime(2024, 1, 1, 2, 3, 4, 5), None, None], pa.timestamp("us")),
        "hour": pa.array([dt.time(1, 2, 3, 4), None, None], pa.time64("us")),
        "money": pa.array([Decimal("1.25"), None, Decimal("3.10")], pa.decimal128(10, 2)),
        "many": pa.array([[1, 2], [], [3]], pa.list_(pa.int64())),
        "inner": pa.array([{"a": 1, "b": "x"}, None, {"a": 2, "b": None}]),
        "nothing": pa.nulls(3),
    }
)


class Sandbox:
    """The running stand-in, and tasks for it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._made = 0

    @property
    def port(self) -> int:
        (status,) = self.workspace.sandboxes.status("bigquery")
        return status.ports[0]

    def load(self, table: str, data: Any) -> str:
        return self.workspace.sandboxes.load("bigquery", table, data)

    def start(
        self, sql: str, out: Any = pd.DataFrame, *, inputs: Mapping[str, Any] | None = None, **config: Any
    ) -> Run:
        self._made += 1
        values = dict(inputs or {})
        task = plugin.BigQueryTask(
            name=f"query{self._made}",
            query_template=sql,
            task_config=plugin.BigQueryConfig(**{"ProjectID": "local", "Location": "US", **config}),
            inputs={name: type(value) for name, value in values.items()},
            output_structured_dataset_type=out,
        )
        return self.workspace.submit(task, values)

    def query(self, sql: str, out: Any = pd.DataFrame, **options: Any) -> Any:
        return self.start(sql, out, **options).result(LIMIT)

    def rows(self, sql: str, **options: Any) -> list[dict[str, Any]]:
        return list(self.query(sql, pa.Table, **options).to_pylist())

    def fails(self, sql: str, **options: Any) -> str:
        """The agent's own words."""
        with pytest.raises(RunFailedError) as caught:
            self.query(sql, **options)
        assert caught.value.message.partition(" failed: ")[2].startswith(caught.value.agent_message.splitlines()[0])
        return caught.value.agent_message


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Made first, so ended last: the connector's clients go while their warnings are let pass."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def running(opened: Workspace) -> Iterator[Workspace]:
    before = {name: os.environ.get(name) for name in VARIABLES}
    opened.sandboxes.start("bigquery")
    yield opened
    opened.sandboxes.stop("bigquery")
    assert {name: os.environ.get(name) for name in VARIABLES} == before


@pytest.fixture
def sandbox(running: Workspace, workspace: Workspace) -> Sandbox:
    return Sandbox(workspace)


@pytest.fixture
def orders(sandbox: Sandbox) -> Sandbox:
    frame = pd.DataFrame({"customer": ["ann", "bob", "ann"], "amount": [70.0, 20.0, 60.0]})
    assert sandbox.load("shop.orders", frame) == "shop.orders, 3 rows"
    return sandbox


# --- results ---


def test_a_query_gives_a_dataframe(orders: Sandbox) -> None:
    sql = "SELECT customer, SUM(amount) AS total FROM shop.orders GROUP BY customer HAVING total > @least"
    found = orders.query(sql, inputs={"least": 100})
    assert isinstance(found, pd.DataFrame)
    assert found.to_dict("list") == {"customer": ["ann"], "total": [130.0]}


def test_a_query_gives_an_arrow_table_and_a_structured_dataset(orders: Sandbox) -> None:
    found = orders.query("SELECT COUNT(*) AS n FROM shop.orders", pa.Table)
    assert found.schema == pa.schema({"n": pa.int64()}) and found.to_pylist() == [{"n": 3}]
    dataset = orders.query("SELECT COUNT(*) AS n FROM shop.orders", StructuredDataset)
    assert dataset.open(pd.DataFrame).all()["n"].tolist() == [3]


def test_a_task_may_ask_for_some_columns(orders: Sandbox) -> None:
    found = orders.query("SELECT * FROM shop.orders", Annotated[pd.DataFrame, kwtypes(amount=float)])
    assert found.columns.tolist() == ["amount"] and sorted(found["amount"]) == [20, 60, 70]
    with pytest.raises(OutputError, match="has no column price; its columns are customer, amount"):
        orders.query("SELECT * FROM shop.orders", Annotated[pd.DataFrame, kwtypes(price=float)])


def test_a_result_of_several_pages_is_whole(sandbox: Sandbox) -> None:
    found = sandbox.query("SELECT x FROM UNNEST(GENERATE_ARRAY(1, 25000)) AS x", pa.Table)
    assert found.num_rows == 25_000 and pa.compute.sum(found["x"]).as_py() == 25_000 * 25_001 // 2


def test_the_run_says_that_it_is_a_stand_in(sandbox: Sandbox) -> None:
    run = sandbox.start("SELECT 1 AS a")
    run.result(LIMIT)
    assert run.snapshot.stand_in.startswith("bqemulator 1.") and "stand-in for BigQuery" in run.snapshot.stand_in


@pytest.mark.parametrize(
    ("value", "back"),
    [
        (2024, 2024),
        (1.5, 1.5),
        ("a'b", "a'b"),
        (True, True),
        (dt.datetime(2024, 1, 2, 3, 4, 5, 6), dt.datetime(2024, 1, 2, 3, 4, 5, 6)),
        (
            dt.datetime(2024, 1, 2, 3, 4, tzinfo=UTC),
            dt.datetime(2024, 1, 2, 3, 4),
        ),  # the connector's DATETIME has no zone
        (dt.date(2024, 1, 2), dt.datetime(2024, 1, 2)),  # nor has it a DATE
    ],
)
def test_an_input_is_a_parameter_of_its_type(sandbox: Sandbox, value: Any, back: Any) -> None:
    (row,) = sandbox.rows("SELECT @p AS p", inputs={"p": value})
    assert row["p"] == back and type(row["p"]) is type(back)


@pytest.mark.parametrize("column", ["ST_GEOGPOINT(1, 2)", "INTERVAL 1 DAY"])
def test_what_cannot_be_brought_back_is_said_with_the_way_out(sandbox: Sandbox, column: str) -> None:
    with pytest.raises(OutputError, match=r"bring back column here: take a text of it, ST_ASTEXT"):
        sandbox.query(f"SELECT {column} AS here")
    (row,) = sandbox.rows("SELECT ST_ASTEXT(ST_GEOGPOINT(1, 2)) AS g, CAST(INTERVAL 1 DAY AS STRING) AS i")
    assert row["g"] == "POINT (1 2)" and isinstance(row["i"], str)


def test_ddl_and_dml(sandbox: Sandbox) -> None:
    sandbox.query("CREATE SCHEMA IF NOT EXISTS made", None)
    table = sandbox.query("CREATE OR REPLACE TABLE made.t AS SELECT 1 AS a, DATE '2024-01-01' AS d")
    assert table.to_dict("list") == {"a": [1], "d": [dt.date(2024, 1, 1)]}  # what was made is the result
    assert sandbox.query("INSERT INTO made.t (a) VALUES (2), (3)", None) is None
    assert sandbox.query("UPDATE made.t SET a = 4 WHERE a = 3", None) is None
    assert sandbox.query("DELETE FROM made.t WHERE a = 1", None) is None
    assert sandbox.rows("SELECT a FROM made.t ORDER BY a") == [{"a": 2}, {"a": 4}]
    assert sandbox.rows("DECLARE n INT64 DEFAULT 3; CREATE TEMP TABLE u AS SELECT n; SELECT * FROM u") == [{"n": 3}]


# --- projects ---


@pytest.mark.parametrize("project", ["local", "my-project-1", "example.com:mine", "P_1"])
def test_a_loaded_table_is_there_whatever_the_project_is_called(orders: Sandbox, project: str) -> None:
    sql = "SELECT COUNT(*) AS n FROM shop.orders"
    assert orders.rows(sql, ProjectID=project, Location=None) == [{"n": 3}]
    orders.load("shop.orders", pa.table({"customer": ["zoe"]}))
    assert orders.rows(sql, ProjectID=project) == [{"n": 1}]  # loaded anew, it is the new one there too


def test_what_is_written_in_a_project_stays_there(orders: Sandbox) -> None:
    orders.query("DELETE FROM shop.orders WHERE TRUE", None, ProjectID="here")
    counts = [
        orders.rows("SELECT COUNT(*) AS n FROM shop.orders", ProjectID=each)[0]["n"]
        for each in ("here", "there", "local")
    ]
    assert counts == [0, 3, 3]
    assert orders.rows("SELECT COUNT(*) AS n FROM `local.shop.orders`", ProjectID="here") == [{"n": 3}]


def test_a_table_can_be_loaded_into_one_project_alone(sandbox: Sandbox) -> None:
    assert sandbox.load("my-project.one.t", pa.table({"a": [1]})) == "`my-project`.one.t, 1 row"
    assert sandbox.rows("SELECT a FROM one.t", ProjectID="my-project") == [{"a": 1}]
    assert sandbox.rows("SELECT a FROM `my-project`.one.t") == [{"a": 1}]
    assert sandbox.fails("SELECT a FROM one.t", ProjectID="another").startswith("Not found: Dataset another:one")


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELEC 1", "Syntax error: Unexpected identifier"),
        ("SELECT nam FROM shop.orders", 'Query execution failed: Binder Error: Referenced column "nam" not found'),
        ("SELECT * FROM shop.nothing", "Not found: Table local.shop.nothing was not found"),
        ("SELECT ERROR('out of apples')", "Query execution failed: Invalid Input Error: out of apples"),
        ("SELECT ML.PREDICT(1)", "ML.PREDICT is not supported by bqemulator"),
        ("RAISE USING MESSAGE = 'out of pears'", "out of pears"),  # HTTP 500 without words, as bqemulator has it
        ("SELECT @missing", "Query execution failed: Invalid Input Error: Values were not provided"),
    ],
)
def test_the_service_s_own_words_lead(orders: Sandbox, sql: str, words: str) -> None:
    began = time.monotonic()
    assert orders.fails(sql).startswith(words)
    assert time.monotonic() - began < 8  # Google's client repeats for minutes what is answered with HTTP 500


@pytest.mark.parametrize("value", [[1], dt.timedelta(1)])
def test_a_parameter_that_the_connector_has_no_type_for_fails_in_its_words(sandbox: Sandbox, value: Any) -> None:
    with pytest.raises(RunFailedError, match="KeyError"):
        sandbox.workspace.submit(_task_with(value), {"p": value}).result(LIMIT)


def _task_with(value: Any) -> Any:
    kind = list[int] if isinstance(value, list) else type(value)
    config = plugin.BigQueryConfig(ProjectID="local")
    return plugin.BigQueryTask(name="given", query_template="SELECT @p", task_config=config, inputs={"p": kind})


# --- jobs ---


def test_a_query_is_cancelled_and_the_next_one_runs(sandbox: Sandbox) -> None:
    run = sandbox.start(ENDLESS)
    _until(lambda: run.snapshot.phase == "RUNNING")
    waiting = sandbox.start(ENDLESS)  # behind it
    _until(lambda: waiting.snapshot.phase in ("RUNNING", "INITIALIZING"))
    for each in (waiting, run):
        each.cancel()
        with pytest.raises(RunAbortedError):
            each.result(LIMIT)
    assert sandbox.rows("SELECT 1 AS a") == [{"a": 1}]


def test_google_s_own_client_finds_it(orders: Sandbox) -> None:
    from google.api_core.exceptions import BadRequest
    from google.cloud import bigquery

    with bigquery.Client(project="mine") as client:
        assert [tuple(row) for row in client.query("SELECT COUNT(*) FROM shop.orders").result()] == [(3,)]
        assert [tuple(row) for row in client.query_and_wait("SELECT COUNT(*) FROM shop.orders")] == [(3,)]
        assert client.query("SELECT 1", job_config=bigquery.QueryJobConfig(dry_run=True)).state == "DONE"
        with pytest.raises(BadRequest, match="Syntax error"):
            client.query("SELEC 1").result()
        job = client.query(ENDLESS)
        assert job.state in ("PENDING", "RUNNING")
        threading.Timer(0.3, job.cancel).start()
        with pytest.raises(Exception, match="Job execution was cancelled"):
            job.result()
        assert client.get_job(job.job_id).error_result["reason"] == "stopped"


# --- tables ---


def _frames(folder: Path) -> dict[str, Any]:
    pq.write_table(TYPES, folder / "types.parquet")
    plain = TYPES.drop_columns("elsewhere")  # a zone's data base is another matter
    return {"arrow": TYPES, "file": str(folder / "types.parquet"), "polars": pl.from_arrow(plain)}


@pytest.mark.parametrize("kind", ["arrow", "file", "polars"])
def test_every_type_goes_in_and_comes_back(sandbox: Sandbox, tmp_path: Path, kind: str) -> None:
    data = _frames(tmp_path)[kind]
    assert sandbox.load("kept.types", data) == "kept.types, 3 rows"
    found = sandbox.query("SELECT * FROM kept.types", pa.Table)
    assert [str(field.type) for field in found.schema if field.name not in ("many", "inner", "elsewhere")] == [
        *("int64", "int64", "double", "bool", "string", "binary", "date32[day]", "timestamp[us, tz=UTC]"),
        *("timestamp[us]", "time64[us]", "decimal128(38, 9)", "int64" if kind == "file" else "string"),
    ]
    names = [name for name in found.column_names if name not in ("elsewhere", "nothing")]
    assert found.select(names).to_pylist() == TYPES.select(names).to_pylist()


def test_a_dataframe_of_pandas_keeps_its_types(sandbox: Sandbox) -> None:
    frame = pd.DataFrame(
        {
            "n": pd.array([1, None], dtype="Int64"),
            "ok": pd.array([True, None], dtype="boolean"),
            "at": pd.to_datetime(["2024-01-01T00:00:00Z", None]),
            "kind": pd.Categorical(["a", "b"]),
            "price": [Decimal("1.10"), None],
        },
        index=pd.Index([7, 8], name="key"),
    )
    sandbox.load("kept.frame", frame)
    found = sandbox.query("SELECT * FROM kept.frame ORDER BY key", pa.Table)
    assert found.to_pydict() == {
        "key": [7, 8],
        "n": [1, None],
        "ok": [True, None],
        "at": [dt.datetime(2024, 1, 1, tzinfo=UTC), None],
        "kind": ["a", "b"],
        "price": [Decimal("1.10"), None],
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "n,day,at,ok,word\n1,2024-01-01,2024-01-01 10:00:00,true,x\n,,,,\n"),
        (
            "t.jsonl",
            '{"n": 1, "day": "2024-01-01", "at": "2024-01-01 10:00:00", "ok": true, "word": "x"}\n{"n": null}\n',
        ),
        (
            "t.json",
            '[{"n": 1, "day": "2024-01-01", "at": "2024-01-01 10:00:00", "ok": true, "word": "x"},\n {"n": null}]\n',
        ),
    ],
)
def test_the_types_of_a_text_file_are_found(sandbox: Sandbox, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert sandbox.load("files.t", tmp_path / name) == "files.t, 2 rows"
    found = sandbox.rows("SELECT * FROM files.t ORDER BY n DESC")[0]
    at = dt.datetime(2024, 1, 1, 10)
    assert found == {"n": 1, "day": dt.date(2024, 1, 1), "at": at, "ok": True, "word": "x"}


@pytest.mark.parametrize(
    ("table", "data", "words"),
    [
        ("orders", {"a": [1]}, "'orders' is no table of BigQuery's: it is DATASET.TABLE"),
        ("a b.orders", {"a": [1]}, "is no table of BigQuery's"),
        ("shop.", {"a": [1]}, "is no table of BigQuery's"),
        ("shop.t", "none.csv", "there is no file"),
        ("shop.t", "none.xlsx", "is no file that a table can be made of"),
        ("shop.t", 7, "no table can be made of an int"),
        ("shop.t", pd.DataFrame({"a": [1, "x"]}), "no table can be made of the frame"),
        ("shop.t", pd.DataFrame({"a": [10**30]}), "texts for numbers beyond 64 bits"),
        ("shop.t", pl.DataFrame({"a": pl.Series([object()], dtype=pl.Object)}), "column 'a' holds Python objects"),
        ("shop.t", {"took": [dt.timedelta(1)]}, "column 'took' is a duration"),
        ("shop.t", pd.DataFrame({"m": pd.period_range("2024-01", periods=1, freq="M")}), "column 'm' is a period"),
        ("shop.t", {"a": pa.array([Decimal("0.1234567890")])}, "column 'a' is DECIMAL"),
        ("shop.t", {"a": pa.array([[[1]]])}, "column 'a' is a list of lists"),
        ("shop.t", {"a": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64()))}, "column 'a' is MAP"),
        ("shop.t", {"a": [1], "A": [2]}, "two columns are 'A', or differ in their case alone"),
        ("shop.t", {}, "a frame without columns"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_table_that_cannot_be_made_is_told(sandbox: Sandbox, table: str, data: Any, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        sandbox.load(table, pa.table(data) if isinstance(data, dict) else data)
    assert words in str(caught.value) and caught.value.hint


def test_a_broken_file_is_told_in_the_reader_s_words(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(ArgumentError, match=r"no table shop\.t was made: .*broken\.parquet"):
        sandbox.load("shop.t", tmp_path / "broken.parquet")


# --- what is changed in this process ---


def test_it_is_undone(running: Workspace) -> None:
    from flytekit.types.structured.bigquery import BQToArrowDecodingHandler, BQToPandasDecodingHandler

    readers = StructuredDatasetTransformerEngine.DECODERS
    running.sandboxes.stop("bigquery")
    assert type(readers[pd.DataFrame]["bq"][""]) is BQToPandasDecodingHandler
    assert type(readers[pa.Table]["bq"][""]) is BQToArrowDecodingHandler
    assert not any(name in os.environ for name in VARIABLES)
    running.sandboxes.start("bigquery")
    assert type(readers[pd.DataFrame]["bq"][""]) is not BQToPandasDecodingHandler
    assert all(name in os.environ for name in VARIABLES)


def test_only_who_has_the_token_is_let_in(sandbox: Sandbox) -> None:
    for path in ("/healthz", bigquery_server.TABLES, "/bigquery/v2/projects/local/datasets"):
        connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=10)
        connection.request("GET", path, headers={"Authorization": "Bearer sandbox"})
        response = connection.getresponse()
        assert response.status == 403 and "serves one kernel alone" in json.loads(response.read())["error"]["message"]
        connection.close()
    credentials = Path(os.environ["GOOGLE_APPLICATION_CREDENTIALS"])
    for file in (credentials, credentials.with_name(bigquery_server.TOKEN_FILE)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_sandbox_that_does_not_answer_is_told(running: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from flyteagent_nb.sandbox import bigquery

    def gone(*_: object) -> None:
        raise ConnectionRefusedError("nobody is there")

    monkeypatch.setattr(bigquery, "_ask", gone)
    with pytest.raises(ServiceError, match="does not answer: nobody is there"):
        running.sandboxes.load("bigquery", "shop.t", pa.table({"a": [1]}))


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("bq://my-project:shop.orders", ("my-project", "shop", "orders")),
        ("bq://example.com:mine:_anon.anon1f", ("example.com:mine", "_anon", "anon1f")),
        ("bq://my-project.shop.orders", ("my-project", "shop", "orders")),
    ],
)
def test_an_address_has_three_parts(uri: str, parts: tuple[str, str, str]) -> None:
    assert address(uri) == parts
    with pytest.raises(ValueError, match="no table of BigQuery's"):
        address(uri.rpartition(".")[0].replace("example.com:", ""))


def test_an_extension_that_is_not_here_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"install duckdb-extension-none==\d"):
        link_extension("none", tmp_path)


def _until(done: Any) -> None:
    deadline, pace = time.monotonic() + LIMIT, threading.Event()
    while not done():
        assert time.monotonic() < deadline
        pace.wait(0.01)
