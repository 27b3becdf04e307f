"""fakesnow's server, made to do what Snowflake does with a connector's queries. Run as a script, by the interpreter that has fakesnow.

fakesnow answers an asynchronous query when it has ended, and what it did not expect with HTTP 500, which Snowflake's client repeats without
end. Here such a query runs behind its id: it can be asked for and cancelled, and what went wrong is told in words. Only who has the
token is let in. A table is made of a file by one more address, TABLES.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import hmac
import json
import logging
import os
import re
import sys
import uuid
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse

TABLES = "/sandbox/tables"
"""Where a table is made: a POST with the token, answered with ``rows`` and ``columns``, or with ``error``."""

TOKEN_PARAMETER = "FLYTEAGENT_NB_TOKEN"
"""The session parameter that brings the token."""

TOKEN_HEADER = "x-flyteagent-nb-token"
"""The header that brings it to TABLES."""

INTERRUPT = 0.05
"""Seconds between two interrupts of a query that was cancelled."""

_CANCEL = re.compile(r"""\bSYSTEM\$CANCEL_QUERY\s*\(\s*'([^']+)'\s*\)""", re.IGNORECASE)
_HIGHLIGHT = re.compile(r"\x1b\[\d*m")
_READERS = {
    "parquet": "read_parquet({})",
    "csv": "read_csv({}, header = true)",
    "json": "read_json({})",
}
# DuckDB's type -> the one that fakesnow, and Snowflake's client behind it, can bring back. What has ( or [ in it is below.
_TYPES = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"), "BIGINT"),
    **dict.fromkeys(("UBIGINT", "HUGEINT", "UHUGEINT"), "DECIMAL(38, 0)"),
    **dict.fromkeys(("FLOAT", "DOUBLE"), "DOUBLE"),
    **dict.fromkeys(("VARCHAR", "UUID"), "VARCHAR"),
    **dict.fromkeys(("TIME", "TIME_NS"), "TIME"),
    # fakesnow counts an instant in microseconds, whatever its unit.
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"), "TIMESTAMP"),
    **{each: each for each in ("BLOB", "BOOLEAN", "DATE", "JSON", "TIMESTAMP WITH TIME ZONE")},
}


def main() -> None:
    """Serve on the loopback port that the command line says; the token is in the file ``token`` of the folder that it starts in."""
    here = Path(__file__).resolve().parent  # where a snowflake.py lies, which is not Snowflake's package
    sys.path[:] = [path for path in sys.path if Path(path or os.curdir).resolve() != here]
    import uvicorn

    token = Path("token").read_text()
    uvicorn.run(application(token), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", lifespan="off")


@dataclass(eq=False)
class _Query:
    """A query that runs in the background, or did."""

    connection: Any
    status: str = "RUNNING"
    code: str = ""
    state: str = ""
    message: str = ""
    works: bool = False  # it has the connection, and an interrupt would reach it
    cancelled: bool = False


class Server:
    """fakesnow's server with queries in the background.

    Args:
        fakesnow: the module ``fakesnow.server``.
        token: what a login must bring.
    """

    def __init__(self, fakesnow: Any, token: str) -> None:
        from starlette.responses import JSONResponse

        self._fakesnow = fakesnow
        self._token = token
        self._reply = JSONResponse
        self._queries: dict[str, _Query] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # A session's cursors share one connection of DuckDB, whose result the next query would take away.
        self._locks: weakref.WeakKeyDictionary[Any, asyncio.Lock] = weakref.WeakKeyDictionary()

    async def login(self, request: Request) -> JSONResponse:
        """A login of who has the token."""
        told = (await _body(request)).get("data", {}).get("SESSION_PARAMETERS", {}).get(TOKEN_PARAMETER)
        if not self._is_token(told):
            return self._failed("390100", "", "this sandbox serves one kernel alone, and this login is not its own")
        try:
            return await self._fakesnow.login_request(request)  # type: ignore[no-any-return]
        except Exception as error:  # a name that DuckDB does not take, for one: Starlette would say 500
            names = ", ".join(
                f"{kind} {name}" for kind in ("database", "schema") if (name := request.query_params.get(f"{kind}Name"))
            )
            return self._failed("390201", "", f"the sandbox cannot make {names}: {_words(error)}")

    async def query(self, request: Request) -> JSONResponse:
        """A query; one in the background is answered at once, with its id."""
        body = await _body(request)
        try:
            connection = self._fakesnow.to_conn(self._fakesnow.to_token(request))
        except self._fakesnow.ServerError:
            return await self._fakesnow.query_request(request)  # type: ignore[no-any-return]  # which says what is wrong
        if cancel := _CANCEL.search(body.get("sqlText", "")):
            self._cancel(cancel[1])  # the query itself is nothing to fakesnow: the session's nop_regexes take it
        if not body.get("asyncExec"):
            return await self._run(request, connection, body)
        query_id = str(uuid.uuid4())
        query = self._queries[query_id] = _Query(connection)
        self._behind(self._run_behind(request, query_id, query, body))
        data = {"queryId": query_id, "getResultUrl": f"/queries/{query_id}/result", "queryAbortsAfterSecs": 300}
        message = "Query execution in progress. Asynchronous request."
        return self._reply({"data": data, "code": "333334", "message": message, "success": True})

    async def status(self, request: Request) -> JSONResponse:
        """How a query is."""
        query = self._queries.get(request.path_params["sfqid"])
        if query is None:
            return self._fakesnow.monitoring_query(request)  # type: ignore[no-any-return]
        found = {"status": query.status, "errorCode": query.code or "-1", "errorMessage": query.message}
        data = {"queries": [found], "sqlState": query.state or None}
        return self._reply({"data": data, "success": True})

    async def load(self, request: Request) -> JSONResponse:
        """Make a table of a file: ``path``, ``format``, ``database``, ``schema``, ``table``."""
        if not self._is_token(request.headers.get(TOKEN_HEADER)):
            return self._reply({"error": "the token is missing"}, status_code=401)
        told = await request.json()
        try:
            session = self._fakesnow.shared_fs.connect(told["database"], told["schema"])  # which makes them
            names = (told["database"], told["schema"], told["table"])
            work = functools.partial(make_table, session._duck_conn, names, told["path"], told["format"])
            return self._reply(await asyncio.get_running_loop().run_in_executor(None, work))
        except Exception as error:  # DuckDB's own word on the file or its columns
            return self._reply({"error": _words(error)})

    def _is_token(self, told: object) -> bool:
        return isinstance(told, str) and hmac.compare_digest(told.encode(), self._token.encode())

    def _cancel(self, query_id: str) -> None:
        query = self._queries.get(query_id)
        if query is not None and query.status == "RUNNING":
            query.cancelled = True
            self._behind(self._interrupt(query))

    async def _interrupt(self, query: _Query) -> None:
        while query.works:  # an interrupt that comes before DuckDB has begun is lost
            query.connection._duck_conn.interrupt()
            await asyncio.sleep(INTERRUPT)

    def _behind(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the loop alone would let it go
        task.add_done_callback(self._tasks.discard)

    async def _run_behind(self, request: Request, query_id: str, query: _Query, body: dict[str, Any]) -> None:
        reply = json.loads(bytes((await self._run(request, query.connection, body, query)).body))
        if query.cancelled:
            reply = {"code": "000604", "message": "SQL execution canceled", "data": {"sqlState": "57014"}}
        data = reply.get("data") or {}
        if reply.get("success"):
            results = query.connection.results_cache
            results[query_id] = results[data["queryId"]]  # under the id that the client knows
            query.status = "SUCCESS"
        else:
            query.code, query.message = str(reply.get("code") or "-1"), str(reply.get("message") or "")
            query.state = str(data.get("sqlState") or "")
            query.status = "FAILED_WITH_ERROR"

    async def _run(
        self, request: Request, connection: Any, body: dict[str, Any], query: _Query | None = None
    ) -> JSONResponse:
        """What fakesnow answers; what it does not expect as an error in words, with status 200, so that no client repeats it."""
        async with self._locks.setdefault(connection, asyncio.Lock()):
            if query is not None and query.cancelled:
                return self._failed("000604", "57014", "SQL execution canceled")
            if query is not None:
                query.works = True
            try:
                if problem := _unreadable(body.get("sqlText", "")):
                    return self._failed(*problem)
                return await self._fakesnow.query_request(request)  # type: ignore[no-any-return]
            except Exception as error:  # a fault of fakesnow's, or what it has not: Starlette would say 500
                return self._failed("000001", "XX000", _words(error))
            finally:
                if query is not None:
                    query.works = False

    def _failed(self, code: str, state: str, message: str) -> JSONResponse:
        data = {"errorCode": code, "sqlState": state}
        return self._reply({"data": data, "code": code, "message": message, "success": False})


def application(token: str) -> Starlette:
    """The server as an ASGI application."""
    import fakesnow.server as fakesnow
    from starlette.applications import Starlette
    from starlette.routing import Route

    _mend(fakesnow)
    server = Server(fakesnow, token)
    ours = [
        Route("/session/v1/login-request", server.login, methods=["POST"]),
        Route("/queries/v1/query-request", server.query, methods=["POST"]),
        Route("/monitoring/queries/{sfqid}", server.status, methods=["GET"]),
        Route(TABLES, server.load, methods=["POST"]),
    ]
    return Starlette(routes=[*ours, *fakesnow.routes])


def make_table(connection: Any, names: tuple[str, str, str], path: str, form: str) -> dict[str, Any]:
    """Make a table of a file, its columns in upper case.

    Args:
        connection: DuckDB's.
        names: database, schema and table, as DuckDB has them.
        path: the file.
        form: ``parquet``, ``csv`` or ``json`` (a line for each row, or a list of all).

    Returns:
        ``rows``, how many, and ``columns``, their names.

    Raises:
        ValueError: a column that Snowflake has no type for.
        Exception: DuckDB's error.
    """
    quoted = path.replace("'", "''")
    source = _READERS[form].format(f"'{quoted}'")
    described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    columns = {name.upper(): _column(name, kind) for name, kind, *_ in described}
    selected = ", ".join(f"{value} AS {_quoted(upper)}" for upper, value in columns.items())
    table = ".".join(map(_quoted, names))
    connection.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT {selected} FROM {source}")
    (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return {"rows": rows, "columns": list(columns)}


def _column(name: str, kind: str) -> str:
    if kind.endswith("]") or kind.startswith(("STRUCT(", "MAP(")):
        return f"to_json({_quoted(name)})"  # Snowflake's VARIANT
    to = _TYPES.get(kind) or (kind if kind.startswith("DECIMAL(") else "VARCHAR" if kind.startswith("ENUM(") else "")
    if not to:
        raise ValueError(f"column {name!r} is {kind}, which Snowflake has no type for: make it a number or a text")
    return f"CAST({_quoted(name)} AS {to})"


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def _mend(fakesnow: Any) -> None:
    """Let fakesnow say what it cannot do as an error of the query, and bring back results of more than one batch."""
    import duckdb
    from snowflake.connector.errors import Error, ProgrammingError

    def in_words(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except Error:
                raise
            except duckdb.InterruptException:
                raise ProgrammingError("SQL execution canceled", errno=604, sqlstate="57014") from None
            except Exception as error:  # fakesnow's server would answer each with HTTP 500 and without the words
                raise ProgrammingError(_words(error), errno=1, sqlstate="XX000") from error

        return call

    cursor = fakesnow.FakeSnowflakeCursor
    cursor.execute = in_words(cursor.execute)
    fakesnow.describe_as_rowtype = in_words(fakesnow.describe_as_rowtype)
    fakesnow.logger.setLevel(logging.WARNING)  # else it tells each login
    to_ipc = fakesnow.to_ipc
    fakesnow.to_ipc = lambda table: to_ipc(table.combine_chunks())
    _mend_values()


def _mend_values() -> None:
    """Leave what is nothing among times as it is, where fakesnow makes 1970 of it, and sum numbers as they are, not as floats."""
    import fakesnow.arrow as arrow
    import fakesnow.transforms as transforms
    import pyarrow as pa
    from sqlglot import exp

    to_struct, cast = arrow.timestamp_to_sf_struct, transforms.numeric_agg_implicit_cast

    def with_nothing(times: Any) -> Any:
        made = to_struct(times)
        times = times.combine_chunks() if isinstance(times, pa.ChunkedArray) else times
        return pa.StructArray.from_arrays(made.flatten(), fields=list(made.type), mask=times.is_null())

    def uncast(expression: Any) -> Any:
        summed = expression.this if isinstance(expression, exp.Sum) else None
        made: Any = cast(expression)
        if summed is not None and not isinstance(summed, (exp.Cast, exp.TryCast)):
            made.find(exp.Sum).set("this", summed)
        return made

    arrow.timestamp_to_sf_struct = with_nothing  # type: ignore[assignment]
    transforms.numeric_agg_implicit_cast = uncast


def _unreadable(sql: str) -> tuple[str, str, str] | None:
    """What is wrong with a text that is not one statement: code, state, words; None where it is one."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        statements = [s for s in sqlglot.parse(sql, read="snowflake") if s and not isinstance(s, exp.Semicolon)]
    except SqlglotError as error:
        return "001003", "42000", f"SQL compilation error:\n{_words(error)}"
    if len(statements) > 1:
        words = f"Actual statement count {len(statements)} did not match the desired statement count 1."
        return "000008", "0A000", words
    return None if statements else ("000900", "42601", "SQL compilation error:\nEmpty SQL statement.")


def _words(error: BaseException) -> str:
    text = _HIGHLIGHT.sub("", str(error)).strip()
    return text if text and not isinstance(error, (AssertionError, KeyError)) else f"{type(error).__name__}: {text}"


async def _body(request: Request) -> dict[str, Any]:
    body = await request.body()  # kept by the request, which fakesnow reads again
    if request.headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    told: dict[str, Any] = json.loads(body)
    return told


if __name__ == "__main__":
    main()
