"""Snowflake's stand-in: fakesnow, a server that speaks Snowflake's HTTP over DuckDB, and what makes Snowflake's own client call it."""

from __future__ import annotations

import functools
import http.client
import json
import os
import re
import secrets
import socket
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import ArgumentError, ServiceError
from flyteagent_nb.sandbox import snowflake_server
from flyteagent_nb.sandbox.files import file_of
from flyteagent_nb.sandbox.stand_in import Place, StandIn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CONNECTOR_SECRET = "_FSEC_SNOWFLAKE_PRIVATE_KEY"
"""The variable from which the connector takes the private key."""

READER_SECRET = "_FSEC_PRIVATE-KEY_SNOWFLAKE"
"""The variable from which flytekit takes it when it reads a result: group ``private-key``, key ``snowflake``."""

LOGIN_TIMEOUT = 5
"""Seconds that a login may take, and a request be repeated: without it Snowflake's client tries for minutes, on the agents' loop."""

LOAD_TIMEOUT = 600.0
"""Seconds that a table may take."""

_NOTHING = r".*SYSTEM\$CANCEL_QUERY.*"  # the server cancels by itself; fakesnow has no such function
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# How else a person would log in; each of them would ask a browser, a file or another service.
_OTHER_LOGINS = ("authenticator", "connection_name", "connections_file_path", "private_key_file", "token")


class SnowflakeStandIn(StandIn):
    """fakesnow for the connector ``snowflake``, for flytekit's reader of its results, and for Snowflake's own client in a cell."""

    name = "snowflake"
    service = "Snowflake"
    product = "fakesnow"
    task_types = ("snowflake",)
    requirements = (
        "fakesnow[server]==0.11.18",
        "duckdb==1.5.5",
        "sqlglot==30.17.0",
        "pyarrow==25.0.1",
        "numpy==1.26.4; python_version < '3.13'",
        "numpy==2.5.5; python_version >= '3.13'",
        "pandas==3.0.6; python_version >= '3.11'",
        "pandas==2.3.3; python_version < '3.11'",
        "snowflake-connector-python==4.8.1; python_version >= '3.11'",
        "snowflake-connector-python==4.8.0; python_version < '3.11'",
        "starlette==1.10.0; python_version >= '3.11'",
        "starlette==1.7.0; python_version < '3.11'",
        "uvicorn==0.54.0",
    )
    pythons = ((3, 10), (3, 15))
    extra = "snowflake"
    connector = "flytekitplugins-snowflake"
    covers = (
        "queries with parameters, DDL and DML, results as DataFrames, cancelling, the service's errors; "
        "Snowflake's own client in a cell; a database and a schema are made when they are first named"
    )
    misses = (
        "it is DuckDB under Snowflake's SQL: no warehouses, roles, procedures or stages (so no write_pandas); some functions are "
        "missing or differ (1/0 is no error); times end at microseconds; nobody's key is checked"
    )

    def command(self, python: str, place: Place) -> Sequence[str]:
        """Serve on the port whoever has the token, which only this user can read."""
        token = os.open(place.folder / "token", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(token, "w") as file:
            file.write(secrets.token_urlsafe())
        return [python, snowflake_server.__file__, str(place.ports[0])]

    def answers(self, place: Place) -> bool:
        """Whether it asks for the token."""
        try:
            status, _ = _post(place, {}, token="", timeout=1)
        except (OSError, ValueError, http.client.HTTPException):
            return False
        return status == 401

    def environment(self, place: Place) -> Mapping[str, str]:
        """A private key, made anew, under both of its names: the connector's, and that of flytekit's reader of results."""
        key = _private_key()
        return {CONNECTOR_SECRET: key, READER_SECRET: key}

    def attach(self, place: Place) -> Callable[[], object]:
        """Let ``snowflake.connector.connect`` call the stand-in, whatever account it is asked for."""
        import snowflake.connector as package

        token = _token(place)
        original = package.connect
        attached = True

        @functools.wraps(original)
        def connect(*args: Any, **given: Any) -> Any:
            if not attached:  # somebody has kept it
                return original(*args, **given)
            _check_alive(place)
            return original(*args, **_redirected(given, place.ports[0], token))

        names = [name for name in ("connect", "Connect") if getattr(package, name, None) is original]
        for name in names:
            setattr(package, name, connect)

        def detach() -> None:
            nonlocal attached
            attached = False
            for name in names:
                if getattr(package, name) is connect:  # else somebody has wrapped ours, which now passes on
                    setattr(package, name, original)

        return detach

    def check_table(self, table: str) -> None:
        """Look whether a table may be called so."""
        _names(table)

    def load(self, table: str, data: Any, place: Place) -> str:
        """Make a table of a frame or a file; its columns are in upper case, as Snowflake's are.

        Args:
            table: ``DATABASE.SCHEMA.TABLE``; database and schema are made where there is none, a table of that name is replaced.
            data: a DataFrame (pandas, Polars), an Arrow table, or the path of a CSV, Parquet or JSON file.
            place: where it runs.

        Returns:
            ``SHOP.PUBLIC.ORDERS, 3 rows, columns CUSTOMER, AMOUNT``.

        Raises:
            ArgumentError: the name or the data do not do.
            ServiceError: the sandbox does not answer.
        """
        names = _names(table)
        path, form = file_of(data, place.folder)
        told = dict(zip(("database", "schema", "table"), names, strict=True), path=str(path), format=form)
        try:
            _, made = _post(place, told, token=_token(place), timeout=LOAD_TIMEOUT)
        except (OSError, ValueError, http.client.HTTPException) as error:  # it has ended, or hangs
            raise ServiceError(
                f"the snowflake sandbox does not answer: {error}",
                service=self.name,
                hint="%agent sandbox snowflake start starts it anew",
            ) from error
        finally:
            if path.parent == place.folder:
                path.unlink(missing_ok=True)
        if "error" in made:
            raise ArgumentError(
                f"no table {table} was made: {made['error']}", hint="change the data, or the column that it names"
            )
        rows, columns = made["rows"], made["columns"]
        return f"{'.'.join(names)}, {rows:,} row{'' if rows == 1 else 's'}, columns {', '.join(columns)}"


def _redirected(given: Mapping[str, Any], port: int, token: str) -> dict[str, Any]:
    """The arguments of a connection, changed so that it is one to the stand-in."""
    kept = {name: value for name, value in given.items() if name not in _OTHER_LOGINS}
    if not kept.get("private_key"):
        kept["password"] = "sandbox"
    parameters = {
        **(given.get("session_parameters") or {}),
        "nop_regexes": [_NOTHING],
        snowflake_server.TOKEN_PARAMETER: token,
        # Or it would report to Snowflake.
        "CLIENT_OUT_OF_BAND_TELEMETRY_ENABLED": False,
    }
    return {
        "user": "sandbox",
        "account": "sandbox",
        "login_timeout": LOGIN_TIMEOUT,
        "network_timeout": LOGIN_TIMEOUT,
        **kept,
        "host": "127.0.0.1",
        "port": port,
        "protocol": "http",
        "session_parameters": parameters,
    }


def _check_alive(place: Place) -> None:
    """Say at once that it has ended: Snowflake's client would try for seconds, on the agents' loop."""
    try:
        socket.create_connection(("127.0.0.1", place.ports[0]), timeout=1).close()
    except OSError as error:
        raise ServiceError(
            "the snowflake sandbox has ended",
            service="snowflake",
            hint="%agent sandbox snowflake start starts it anew, without its tables",
        ) from error


def _private_key() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return encoded.decode()


def _names(table: str) -> tuple[str, str, str]:
    parts = table.split(".")
    if len(parts) != 3 or not all(_NAME.fullmatch(part) for part in parts):
        example = parts[-1] if _NAME.fullmatch(parts[-1]) else "orders"
        raise ArgumentError(
            f"{table!r} is no table of Snowflake's: it is DATABASE.SCHEMA.TABLE, each of letters, digits and _",
            hint=f"write shop.public.{example}, where -c database=shop -c schema=public is what the query has",
        )
    database, schema, name = (part.upper() for part in parts)
    return database, schema, name


def _token(place: Place) -> str:
    return (place.folder / "token").read_text()


def _post(place: Place, told: Mapping[str, Any], *, token: str, timeout: float) -> tuple[int, Any]:
    """Ask the server for a table; its status and answer."""
    connection = http.client.HTTPConnection("127.0.0.1", place.ports[0], timeout=timeout)
    try:
        headers = {"Content-Type": "application/json", snowflake_server.TOKEN_HEADER: token}
        connection.request("POST", snowflake_server.TABLES, json.dumps(told), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()
