"""The connector of Snowflake against its stand-in, through the kernel's own gRPC service; and Snowflake's own client beside it."""

from __future__ import annotations

import datetime as dt
import decimal
import gc
import gzip
import json
import os
import socket
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import snowflake.connector as client
from flytekit import kwtypes
from flytekitplugins.snowflake import SnowflakeConfig, SnowflakeTask
from scripted_tasks import PATIENCE, until
from snowflake.connector.errors import DatabaseError, ProgrammingError

from flyteagent_nb.errors import ArgumentError, OutputError, RunFailedError, ServiceError
from flyteagent_nb.sandbox.sandboxes import Sandboxes
from flyteagent_nb.sandbox.snowflake import CONNECTOR_SECRET, READER_SECRET, SnowflakeStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyteagent_nb.running.run import Run
    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)
# The connector makes a connection for each call, and closes none.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

TOLD = "fakesnow 0.11.18, a stand-in for Snowflake"
CONFIG = SnowflakeConfig(user="me", account="acme-eu", database="shop", schema="public", warehouse="small")
ORDERS = pd.DataFrame({"customer": ["ann", "bob", "ann"], "amount": [70.0, 20.0, 60.0], "year": [2024, 2024, 2023]})
# Minutes of work that neither the optimizer nor a shortcut can take away.
ENDLESS = "SELECT sum(hash(a.range * b.range) % 7) AS s FROM range(10000000) a, range(100000) b"


@pytest.fixture(scope="module")
def sandbox(opened: Workspace) -> Iterator[Workspace]:
    before = {name: os.environ.get(name) for name in (CONNECTOR_SECRET, READER_SECRET)}
    connect = client.connect
    status = opened.sandboxes.start("snowflake")
    assert status.state == "running" and not status.is_own
    assert set(status.variables) >= set(before)
    assert client.connect is not connect and client.Connect is client.connect
    yield opened
    assert opened.sandboxes.stop("snowflake")
    assert client.connect is connect and client.Connect is connect
    assert {name: os.environ.get(name) for name in before} == before
    gc.collect()  # the connector's connections, while their warnings are let pass


def start(
    workspace: Workspace, sql: str, *, output: Any = pd.DataFrame, types: dict[str, Any] | None = None, **inputs: Any
) -> Run:
    """A run of a query; ``output=None`` for a task that has none."""
    task = SnowflakeTask("query", query_template=sql, task_config=CONFIG, inputs=types, output_schema_type=output)
    return workspace.submit(task, inputs)


def rows(workspace: Workspace, sql: str, **options: Any) -> list[dict[str, Any]]:
    """What a query brings back."""
    return start(workspace, sql, **options).result(PATIENCE).to_dict("records")


# --- the connector ---


def test_a_query_with_parameters_is_a_data_frame(sandbox: Workspace) -> None:
    sandbox.sandboxes.load("snowflake", "shop.public.orders", ORDERS)
    sql = "SELECT customer, sum(amount) AS total FROM orders WHERE year = %(year)s GROUP BY 1 ORDER BY 1"
    run = start(sandbox, sql, types=kwtypes(year=int), year=2024)
    frame = run.result(PATIENCE)
    assert isinstance(frame, pd.DataFrame)
    assert frame.to_dict("list") == {"CUSTOMER": ["ann", "bob"], "TOTAL": [70.0, 20.0]}
    assert (run.snapshot.agent, run.snapshot.stand_in) == ("Snowflake Connector", TOLD)
    assert run.outputs is not None and list(run.outputs) == ["results"]


def test_the_run_says_that_production_would_lose_the_result(sandbox: Workspace) -> None:
    run = start(sandbox, "SELECT 1 AS x")
    run.result(PATIENCE)
    (note,) = run.snapshot.notes
    assert note.startswith("in production: flytekit ")
    assert "own service pickles output 'results'" in note
    assert "known fault of flytekitplugins-snowflake 1.16.31" in note and "CREATE TABLE" in note
    assert run.message == ""
    assert [line for line in run.logs() if note in line]


def test_every_type_of_input_goes_in(sandbox: Workspace) -> None:
    types = kwtypes(n=int, f=float, s=str, b=bool, t=dt.datetime, d=dt.date)
    values: dict[str, Any] = {
        "n": 7,
        "f": 0.5,
        "s": "O'Brien 50% \\ \n",
        "b": True,
        "t": dt.datetime(2024, 2, 3, 4, 5, 6, tzinfo=dt.timezone.utc),
    }
    values["d"] = dt.date(2024, 2, 3)
    sql = "SELECT %(n)s n, %(f)s f, %(s)s s, %(b)s b, %(t)s::timestamp_tz t, %(d)s::date d"
    (row,) = rows(sandbox, sql, types=types, **values)
    assert row.pop("F") == decimal.Decimal("0.5")
    assert row == {name.upper(): value for name, value in values.items() if name != "f"}


@pytest.mark.slow
def test_statements_without_outputs(sandbox: Workspace) -> None:
    for sql in (
        "CREATE OR REPLACE TABLE made AS SELECT 1 AS n",
        "INSERT INTO made VALUES (2), (3)",
        "UPDATE made SET n = 30 WHERE n = 3",
        "DELETE FROM made WHERE n = 1",
    ):
        run = start(sandbox, sql, output=None)
        assert run.result(PATIENCE) is None
        assert run.phase == "SUCCEEDED" and run.snapshot.notes == ()
    assert rows(sandbox, "SELECT n FROM made ORDER BY n") == [{"N": 2}, {"N": 30}]


@pytest.mark.slow
def test_no_rows_and_rows_of_more_than_one_batch(sandbox: Workspace) -> None:
    many = 1_000_001
    sandbox.sandboxes.load("snowflake", "shop.public.many", pa.table({"n": range(many)}))
    assert len(start(sandbox, "SELECT n FROM many").result(PATIENCE)) == many
    nothing = start(sandbox, "SELECT n FROM many WHERE n < 0").result(PATIENCE)
    assert list(nothing.columns) == ["N"] and len(nothing) == 0


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELEC 1", "001003 (42000): SQL compilation error:"),
        ("SELECT * FROM nowhere", "002003 (42S02): Catalog Error: Table with name NOWHERE does not exist!"),
        ("SELECT nam FROM (SELECT 1 AS name)", '002043 (02000): Binder Error: Referenced column "NAM" not found'),
        ("SELECT 'x'::int AS n", "100035 (22007): Conversion Error: Could not convert string 'x'"),
        ("SELECT 1; SELECT 2", "000008 (0A000): Actual statement count 2 did not match"),
        ("-- nothing", "000900 (42601): SQL compilation error"),
        ("SELECT INTERVAL '1 day' AS i", "000001 (XX000): for column type INTERVAL"),
    ],
)
def test_a_wrong_query_fails_with_the_services_own_words(sandbox: Workspace, sql: str, words: str) -> None:
    error = start(sandbox, sql).exception(PATIENCE)
    assert isinstance(error, RunFailedError)
    assert error.message.startswith(f"task 'query' (snowflake) failed: {words}")
    assert error.stand_in == TOLD and str(error).count(TOLD) == 1


def test_a_cancelled_query_is_cancelled_there(sandbox: Workspace) -> None:
    run = start(sandbox, ENDLESS)
    until(lambda: run.phase == "RUNNING" and run.log_links)
    meta = json.loads(sandbox.runner.attempts(run)[-1].resource_meta or b"")
    assert meta["has_output"] is True
    run.cancel()
    assert run.exception(PATIENCE) is not None and run.cancelled
    with client.connect() as connection:

        def ended() -> str:
            try:
                return "" if connection.get_query_status_throw_if_error(meta["query_id"]).name == "RUNNING" else "well"
            except ProgrammingError as error:
                return str(error.msg)

        assert until(ended) == "000604 (57014): SQL execution canceled"
    assert rows(sandbox, "SELECT 1 AS x") == [{"X": 1}]


@pytest.mark.slow
def test_queries_run_side_by_side(sandbox: Workspace) -> None:
    slow = start(sandbox, ENDLESS)
    until(lambda: slow.phase == "RUNNING")
    assert rows(sandbox, "SELECT 1 AS x") == [{"X": 1}]
    assert not slow.done
    slow.cancel()
    slow.exception(PATIENCE)


def test_reading_a_result_without_the_readers_secret_tells_which_it_is(
    sandbox: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(READER_SECRET)
    error = start(sandbox, "SELECT 1 AS x").exception(PATIENCE)
    assert isinstance(error, OutputError)
    assert f"%agent secret {READER_SECRET.removeprefix('_FSEC_')}" in error.hint


def test_a_name_that_the_sandbox_cannot_make_is_told(sandbox: Workspace) -> None:
    config = SnowflakeConfig(user="me", account="a", database="my-shop", schema="public", warehouse="w")
    task = SnowflakeTask("query", query_template="SELECT 1", task_config=config)
    error = sandbox.submit(task, {}).exception(PATIENCE)
    assert error is not None and "the sandbox cannot make database my-shop, schema public" in error.message


# --- tables ---

FRAME = pd.DataFrame(
    {
        "i8": np.array([1, 2], "int8"),
        "u64": np.array([1, 2**63 + 5], "uint64"),
        "f4": np.array([1.5, np.nan], "float32"),
        "s": ["a", None],
        "cat": pd.Categorical(["x", "y"]),
        "b": [True, False],
        "day": [dt.date(2024, 1, 1), None],
        "at": pd.to_datetime(["2024-01-01 10:00:00.123456", "2024-01-02 00:00:00.5"]),
        "tz": pd.to_datetime(["2024-01-01 10:00", "2024-01-02 00:00"]).tz_localize("Europe/Berlin"),
        "clock": [dt.time(10, 30), None],
        "exact": [decimal.Decimal("1.25"), None],
        "raw": [b"x", None],
        "items": [[1, 2], [3]],
        "record": [{"a": 1}, {"a": 2}],
        "order date": [1, 2],
    }
)


def test_nothing_among_times_is_nothing(sandbox: Workspace) -> None:
    query = (
        "SELECT * FROM (SELECT '2024-02-29 10:00'::TIMESTAMP_NTZ ntz, '2024-02-29 10:00:00 +00:00'::TIMESTAMP_TZ tz "
        "UNION ALL SELECT NULL, NULL) ORDER BY ntz"
    )
    frame = start(sandbox, query).result(PATIENCE)
    assert frame["NTZ"].tolist() == [pd.Timestamp("2024-02-29 10:00"), pd.NaT]
    assert frame["TZ"].tolist() == [pd.Timestamp("2024-02-29 10:00", tz="UTC"), pd.NaT]
    assert rows(sandbox, "SELECT NULL::TIMESTAMP_NTZ a, NULL::TIMESTAMP_TZ b") == [{"A": pd.NaT, "B": pd.NaT}]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("9007199254740993), (0", decimal.Decimal(9007199254740993)),
        ("0.1::NUMBER(10,2)), (0.2", decimal.Decimal("0.30")),
        ("1.5::FLOAT), (2", 3.5),
    ],
)
def test_sums_are_exact(sandbox: Workspace, values: str, expected: object) -> None:
    table = f"(SELECT column1 x FROM VALUES ({values}))"
    (row,) = rows(sandbox, f"SELECT SUM(x), SUM(DISTINCT x) AS d FROM {table}")
    assert row == {"SUM(X)": expected, "D": expected}


def test_types_are_kept(sandbox: Workspace) -> None:
    told = sandbox.sandboxes.load("snowflake", "shop.public.types", FRAME)
    columns = ", ".join(name.upper() for name in FRAME)
    assert told == f"SHOP.PUBLIC.TYPES, 2 rows, columns {columns}"
    frame = start(sandbox, "SELECT * FROM types").result(PATIENCE)
    assert list(frame.columns) == [name.upper() for name in FRAME]
    first, second = (
        {k: None if v is pd.NaT or v != v else v for k, v in row.items()} for row in frame.to_dict("records")
    )
    assert first == {
        "I8": 1,
        "U64": decimal.Decimal(1),
        "F4": 1.5,
        "S": "a",
        "CAT": "x",
        "B": True,
        "DAY": dt.date(2024, 1, 1),
        "AT": pd.Timestamp("2024-01-01 10:00:00.123456"),
        "TZ": pd.Timestamp("2024-01-01 09:00", tz="UTC"),
        "CLOCK": dt.time(10, 30),
        "EXACT": decimal.Decimal("1.25"),
        "RAW": b"x",
        "ITEMS": "[1,2]",
        "RECORD": '{"a":1}',
        "ORDER DATE": 1,
    }
    assert second["U64"] == decimal.Decimal(2**63 + 5)
    assert [name for name, value in second.items() if value is None] == ["F4", "S", "DAY", "CLOCK", "EXACT", "RAW"]
    kinds = {row["name"]: row["type"] for row in rows(sandbox, "DESCRIBE TABLE types")}
    assert kinds["I8"] == "NUMBER(38,0)" and kinds["EXACT"] == "NUMBER(3,2)" and kinds["ITEMS"] == "VARIANT"
    assert rows(
        sandbox, 'SELECT record:a::int AS a, items[0]::int AS l, "ORDER DATE" AS o FROM types WHERE i8 = 2'
    ) == [{"A": 2, "L": 3, "O": 2}]


@pytest.mark.slow
def test_every_kind_of_frame_and_file_makes_a_table(sandbox: Workspace, tmp_path: Path) -> None:
    table = pa.table({"n": [1, 2], "day": [dt.date(2024, 1, 1), dt.date(2024, 1, 2)], "s": ["x", "it's"]})
    lines = '{"n": 1, "day": "2024-01-01", "s": "x"}\n{"n": 2, "day": "2024-01-02", "s": "it\'s"}\n'
    csv = "n,day,s\n1,2024-01-01,x\n2,2024-01-02,it's\n"
    (tmp_path / "it's.csv").write_text(csv)
    (tmp_path / "zipped.csv.gz").write_bytes(gzip.compress(csv.encode()))
    (tmp_path / "lines.jsonl").write_text(lines)
    (tmp_path / "list.json").write_text(f"[{','.join(lines.splitlines())}]")
    pq.write_table(table, tmp_path / "file.parquet")
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    for data in (
        table,
        table.to_batches()[0],
        table.to_pandas(),
        frame,
        frame.lazy(),
        tmp_path / "it's.csv",
        str(tmp_path / "zipped.csv.gz"),
        tmp_path / "lines.jsonl",
        tmp_path / "list.json",
        tmp_path / "file.parquet",
    ):
        assert sandbox.sandboxes.load("snowflake", "Fresh.Made.T", data) == "FRESH.MADE.T, 2 rows, columns N, DAY, S", (
            data
        )
        assert rows(sandbox, "SELECT * FROM fresh.made.t WHERE s = 'it''s'") == [
            {"N": 2, "DAY": dt.date(2024, 1, 2), "S": "it's"}
        ], data
    (status,) = sandbox.sandboxes.status("snowflake")
    assert "FRESH.MADE.T, 2 rows, columns N, DAY, S" in status.tables


def test_an_index_with_a_name_is_a_column_and_a_number_names_one(sandbox: Workspace) -> None:
    frame = pd.DataFrame({1: [1.5]}, index=pd.Index(["a"], name="key"))
    assert sandbox.sandboxes.load("snowflake", "shop.public.named", frame) == "SHOP.PUBLIC.NAMED, 1 row, columns KEY, 1"


def test_a_column_of_nothing_but_nulls_is_a_text(sandbox: Workspace) -> None:
    frame = pd.DataFrame({"n": [1], "nothing": [None]})
    sandbox.sandboxes.load("snowflake", "shop.public.nulls", frame)
    assert rows(sandbox, "SELECT n FROM nulls WHERE nothing IS NULL AND coalesce(nothing, 'x') = 'x'") == [{"N": 1}]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("orders", ORDERS, "'orders' is no table of Snowflake's: it is DATABASE.SCHEMA.TABLE"),
        ("shop.public.my-orders", ORDERS, "is no table of Snowflake's"),
        ("shop.public.x", pd.DataFrame(), "a frame without columns"),
        ("shop.public.x", pa.table({"a": [1], "A": [2]}), "two columns are 'A', or differ in their case alone"),
        ("shop.public.x", pd.DataFrame({"took": [pd.Timedelta(1)]}), r"column 'took' is a duration\[ns\]"),
        ("shop.public.x", pd.DataFrame({"mixed": [1, "x"]}), "column mixed"),
        ("shop.public.x", 5, "no table can be made of an int"),
        ("shop.public.x", "nowhere.csv", r"there is no file .*nowhere\.csv"),
        ("shop.public.x", "sheet.xlsx", "sheet.xlsx is no file that a table can be made of"),
    ],
)
def test_what_makes_no_table(sandbox: Workspace, name: str, data: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        sandbox.sandboxes.load("snowflake", name, data)


def test_a_file_that_cannot_be_read_tells_why(sandbox: Workspace, tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_text("no parquet")
    with pytest.raises(ArgumentError, match=r"No magic bytes found|too small to be a Parquet file"):
        sandbox.sandboxes.load("snowflake", "shop.public.x", broken)
    assert broken.exists()


# --- Snowflake's own client ---


@pytest.mark.parametrize(
    "login",
    [
        {},
        {"user": "me", "account": "acme", "authenticator": "externalbrowser"},
        {"connection_name": "work"},
        {"password": "p"},
    ],
)
def test_a_connection_in_a_cell_goes_to_the_sandbox_however_it_logs_in(
    sandbox: Workspace, login: dict[str, Any]
) -> None:
    sandbox.sandboxes.load("snowflake", "shop.public.orders", ORDERS)
    with client.connect(
        database="shop", schema="public", session_parameters={"QUERY_TAG": "mine"}, **login
    ) as connection:
        assert connection.host == "127.0.0.1"
        cursor = connection.cursor()
        assert cursor.execute("SELECT count(*) FROM orders").fetchall() == [(3,)]
        cursor.execute_async("SELECT customer FROM orders WHERE year = %s", (2023,))
        query_id = cursor.sfqid
        assert query_id is not None
        cursor.get_results_from_sfqid(query_id)
        assert cursor.fetchall() == [("ann",)]
        with pytest.raises(ProgrammingError, match="Table with name NOWHERE does not exist"):
            cursor.execute("SELECT * FROM nowhere")


def test_only_this_kernel_gets_in(sandbox: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = sandbox.sandboxes.status("snowflake")[0].ports
    with pytest.raises(DatabaseError, match="this login is not its own"):
        client.connect.__wrapped__(  # type: ignore[attr-defined]
            user="u", account="a", password="p", host="127.0.0.1", port=port, protocol="http", login_timeout=5
        )
    monkeypatch.setattr("flyteagent_nb.sandbox.snowflake._token", lambda place: "guessed")
    with pytest.raises(ArgumentError, match="the token is missing"):
        sandbox.sandboxes.load("snowflake", "shop.public.x", ORDERS)


def test_an_unknown_query_is_not_found(sandbox: Workspace) -> None:
    with client.connect() as connection:
        assert connection.get_query_status(str(uuid.uuid4())).name == "NO_DATA"


def test_what_was_wrapped_or_kept_goes_to_the_real_service_after_the_end(
    sandbox: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``attach`` once more, over a connect of ours, as somebody else might have put one in."""
    called: list[dict[str, Any]] = []
    monkeypatch.setattr(client, "connect", lambda **given: called.append(given))
    running = sandbox.sandboxes._running["snowflake"]
    detach = SnowflakeStandIn().attach(running.place)
    kept = client.connect
    monkeypatch.setattr(client, "connect", wrapped := lambda **given: kept(**given))
    client.connect(account="acme")
    assert (called[-1]["account"], called[-1]["host"]) == ("acme", "127.0.0.1")
    detach()
    assert client.connect is wrapped
    client.connect(account="acme")
    assert called[-1] == {"account": "acme"}


def test_a_sandbox_that_has_ended_says_so_at_once(sandbox: Workspace) -> None:
    other = Sandboxes()
    try:
        other.start("snowflake")
        process = other._running["snowflake"].process
        os.kill(int((process.state / "pid").read_text()), 9)
        until(lambda: process.exit_code is not None)
        with pytest.raises(ServiceError, match="the snowflake sandbox has ended"):
            client.connect()
        error = start(sandbox, "SELECT 1").exception(PATIENCE)
        assert error is not None and "the snowflake sandbox has ended" in error.message
        with pytest.raises(ServiceError, match="does not answer"):
            other._running["snowflake"].stand_in.load("shop.public.x", ORDERS, other._running["snowflake"].place)
    finally:
        other.close()
    assert rows(sandbox, "SELECT 1 AS x") == [{"X": 1}]


# --- the stand-in ---


def test_nobody_answers_where_nobody_or_somebody_else_listens(tmp_path: Path) -> None:
    from flyteagent_nb.sandbox.stand_in import Place

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        place = Place((listener.getsockname()[1],), tmp_path)
        assert not SnowflakeStandIn().answers(place)


def test_its_token_is_for_this_user_alone(tmp_path: Path) -> None:
    from flyteagent_nb.sandbox.stand_in import Place

    command = SnowflakeStandIn().command("python", Place((1234,), tmp_path))
    token = tmp_path / "token"
    assert command[-1] == "1234" and token.read_text() not in command
    assert os.name == "nt" or token.stat().st_mode & 0o777 == 0o600


def test_every_pin_is_what_the_tests_ran_with() -> None:
    """The pins of an environment of its own are those of ``constraints.txt``."""
    from packaging.requirements import Requirement

    root = Path(__file__).resolve().parent.parent
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {(r.name, str(r.specifier)) for r in map(Requirement, lines)}
    assert [
        r for r in SnowflakeStandIn.requirements if (Requirement(r).name, str(Requirement(r).specifier)) not in pins
    ] == []
