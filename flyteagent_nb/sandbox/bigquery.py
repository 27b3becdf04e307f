"""BigQuery's stand-in: bqemulator, a server that speaks BigQuery's HTTP over DuckDB, and what brings its results into frames."""

from __future__ import annotations

import binascii
import contextlib
import http.client
import json
import os
import re
import secrets
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyteagent_nb.bigquery_tables import address
from flyteagent_nb.errors import ArgumentError, ServiceError
from flyteagent_nb.sandbox import bigquery_server
from flyteagent_nb.sandbox.files import file_of
from flyteagent_nb.sandbox.stand_in import Place, StandIn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow

LOAD_TIMEOUT = 600.0
"""Seconds that a table may take."""

ANONYMOUS = "_bqemu_anonymous"
"""The dataset that bqemulator names for the result of a query. It keeps no tables there: the rows are the job's."""

_DATASET = re.compile(r"[A-Za-z0-9_]+")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]*")
_START = "import sys; sys.path.append({folder!r}); import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"


class BigQueryStandIn(StandIn):
    """bqemulator for the connector ``bigquery_query_job_task``, for flytekit's reading of its results, and Google's client in a cell."""

    name = "bigquery"
    service = "BigQuery"
    product = "bqemulator"
    task_types = ("bigquery_query_job_task",)
    requirements = (
        "bqemulator==1.3.0",
        "duckdb==1.5.5",
        "duckdb-extension-spatial==1.5.5",
        "sqlglot==30.17.0",
        "pyarrow==25.0.1",
        "numpy==1.26.4; python_version < '3.13'",
        "numpy==2.5.5; python_version >= '3.13'",
        "fastapi==0.165.0",
        "starlette==1.10.0",
        "uvicorn==0.54.0",
        "pydantic==2.14.3",
        "grpcio==1.85.1",
        "grpcio-health-checking==1.80.1",
        "grpcio-tools==1.80.1",
        "protobuf==6.33.6",
        "opentelemetry-sdk==1.45.2",
        "opentelemetry-exporter-otlp==1.45.2",
        "opentelemetry-instrumentation-fastapi==0.66b2",
        "opentelemetry-instrumentation-grpc==0.66b2",
    )
    pythons = ((3, 11), (3, 15))
    extra = "bigquery"
    connector = "flytekitplugins-bigquery"
    covers = (
        "queries with parameters, scripts, DDL and DML, results as DataFrames, cancelling, the service's errors; "
        "Google's own client in a cell; any project, and a loaded table is there in each"
    )
    misses = (
        "it is DuckDB under BigQuery's SQL: one query at a time, no models, quotas, costs or permissions, some functions are "
        "missing or differ, NUMERIC has 38 digits at the most, GEOGRAPHY and INTERVAL come back as texts only (ST_ASTEXT, CAST), "
        "and a @name in a comment counts as a parameter"
    )

    def command(self, python: str, place: Place) -> Sequence[str]:
        """Serve on the port whoever has the token, which only this user can read."""
        with _private(place.folder / bigquery_server.TOKEN_FILE) as file:
            file.write(secrets.token_urlsafe())
        module = bigquery_server.__name__.rpartition(".")[2]
        start = _START.format(folder=str(Path(bigquery_server.__file__).parent.parent), module=module)
        # -P: the folder that it starts in is not looked into for modules, and ours, with its openai.py, comes last.
        return [python, "-P", "-c", start, str(place.ports[0])]

    def answers(self, place: Place) -> bool:
        """Whether it knows the token."""
        try:
            return _ask(place, "GET", "/healthz", timeout=1)[0] == 200
        except (OSError, ValueError, http.client.HTTPException):
            return False

    def environment(self, place: Place) -> Mapping[str, str]:
        """The address, a project for the client that the connector makes without one, and credentials with which nobody is asked."""
        path = place.folder / "credentials.json"
        with _private(path) as file:
            json.dump(
                {
                    "type": "authorized_user",
                    "client_id": "sandbox",
                    "client_secret": "sandbox",
                    "refresh_token": "sandbox",
                    "token": _token(place),
                    "expiry": "2099-01-01T00:00:00Z",
                    "universe_domain": "googleapis.com",
                    "quota_project_id": bigquery_server.PROJECT,
                },
                file,
            )
        return {
            "BIGQUERY_EMULATOR_HOST": _address(place),
            "GOOGLE_APPLICATION_CREDENTIALS": str(path),
            "GOOGLE_CLOUD_PROJECT": bigquery_server.PROJECT,
        }

    def attach(self, place: Place) -> Callable[[], object]:
        """Let flytekit read the results from the stand-in: its own readers ask a gRPC service, at an address that nothing changes."""
        from flytekit.types.structured import register_bigquery_handlers
        from flytekit.types.structured.structured_dataset import (
            DuplicateHandlerError,
            StructuredDatasetTransformerEngine,
        )

        with contextlib.suppress(DuplicateHandlerError):
            register_bigquery_handlers()  # first, or it would find ours and register none of its own
        readers = StructuredDatasetTransformerEngine.DECODERS
        found = []
        for reader in _readers(place):
            at = readers.setdefault(reader.python_type, {}).setdefault(reader.protocol, {})
            found.append((at, at.get(reader.supported_format), reader))
            at[reader.supported_format] = reader

        def detach() -> None:
            for at, before, reader in found:
                if at.get(reader.supported_format) is not reader:  # somebody has put another one there
                    continue
                if before is None:
                    del at[reader.supported_format]
                else:
                    at[reader.supported_format] = before

        return detach

    def check_table(self, table: str) -> None:
        """Look whether a table may be called so."""
        _names(table)

    def load(self, table: str, data: Any, place: Place) -> str:
        """Make a table of a frame or a file.

        Args:
            table: ``dataset.table``, which queries of every project find, or ``project.dataset.table``. The dataset is made where
                there is none, a table of that name is replaced.
            data: a DataFrame (pandas, Polars), an Arrow table, or the path of a CSV, Parquet or JSON file.
            place: where it runs.

        Returns:
            ``shop.orders, 3 rows``.

        Raises:
            ArgumentError: the name or the data do not do.
            ServiceError: the sandbox does not answer.
        """
        project, dataset, name = names = _names(table)
        path, form = file_of(data, place.folder)
        told = {"path": str(path), "format": form, "project": project or bigquery_server.PROJECT}
        try:
            _, made = _ask(place, "POST", bigquery_server.TABLES, told | {"dataset": dataset, "table": name})
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ServiceError(
                f"the bigquery sandbox does not answer: {error}",
                service=self.name,
                hint="%agent sandbox bigquery start starts it anew",
            ) from error
        finally:
            if path.parent == place.folder:
                path.unlink(missing_ok=True)
        if "error" in made:
            raise ArgumentError(
                f"no table {table} was made: {made['error']}", hint="change the data, or the column that it names"
            )
        written = ".".join(each if each.isidentifier() else f"`{each}`" for each in names if each)
        return f"{written}, {made['rows']:,} row{'' if made['rows'] == 1 else 's'}"


def read(uri: str, columns: Sequence[str], place: Place) -> pyarrow.Table:
    """A table of the stand-in's, or the rows of a job where it is the result of one.

    Args:
        uri: ``bq://project:dataset.table``.
        columns: those that are wanted; all where it is empty.
        place: where it runs.

    Raises:
        ValueError: there is no such column, or the values of one cannot be brought back.
        google.api_core.exceptions.GoogleAPICallError: there is no such table, as the service says it.
    """
    from google.cloud import bigquery
    from google.oauth2.credentials import Credentials

    project, dataset, table = address(uri)
    client = bigquery.Client(project, Credentials(_token(place)), client_options={"api_endpoint": _address(place)})
    with contextlib.closing(client):
        if dataset == ANONYMOUS:
            rows = client.get_job(_job(table), project).result()
        else:
            rows = client.list_rows(f"{project}.{dataset}.{table}")
        names = [field.name for field in rows.schema]
        if missing := [name for name in columns if name not in names]:
            raise ValueError(f"the table has no column {', '.join(missing)}; its columns are {', '.join(names)}")
        unread = [field.name for field in rows.schema if field.field_type == "INTERVAL"]
        try:
            read = None if unread else rows.to_arrow(create_bqstorage_client=False)
        except binascii.Error:  # of geographies it says that they are bytes, and gives texts
            unread = [field.name for field in rows.schema if field.field_type == "BYTES"]
            read = None
        if read is None:
            raise ValueError(
                f"the stand-in does not bring back column {', '.join(unread)}: take a text of it, ST_ASTEXT(...) of a GEOGRAPHY, "
                "CAST(... AS STRING) of an INTERVAL"
            )
    return read.select(columns) if columns else read


def _readers(place: Place) -> list[Any]:
    """flytekit's readers of ``bq://`` for pandas and Arrow, that read from the stand-in."""
    import pandas
    import pyarrow
    from flytekit.types.structured.structured_dataset import StructuredDatasetDecoder

    class Reader(StructuredDatasetDecoder[Any]):  # type: ignore[misc]
        """One that gives an Arrow table."""

        def __init__(self, python_type: type) -> None:
            super().__init__(python_type, "bq", "")

        def decode(self, ctx: Any, flyte_value: Any, current_task_metadata: Any) -> Any:
            """The table, with the columns that the task asks for."""
            asked = current_task_metadata.structured_dataset_type
            return read(flyte_value.uri, [each.name for each in (asked.columns if asked else None) or ()], place)

    class PandasReader(Reader):
        """One that makes a DataFrame of it, as flytekit's own does."""

        def decode(self, ctx: Any, flyte_value: Any, current_task_metadata: Any) -> Any:
            """The table, with the columns that the task asks for."""
            return super().decode(ctx, flyte_value, current_task_metadata).to_pandas()

    return [Reader(pyarrow.Table), PandasReader(pandas.DataFrame)]


def _job(table: str) -> str:
    """The id of the job that a result's table is of: it is the table's name, without the id's hyphens."""
    name = table.removeprefix("anon")
    try:
        return str(uuid.UUID(name)) if len(name) == 32 else name
    except ValueError:
        return name


def _names(table: str) -> tuple[str, str, str]:
    """Project (an empty string where there is none), dataset and table."""
    head, _, name = table.strip("`").rpartition(".")
    project, _, dataset = head.rpartition(".")
    if not (_NAME.fullmatch(name) and _DATASET.fullmatch(dataset) and (not project or _PROJECT.fullmatch(project))):
        example = name if _NAME.fullmatch(name) else "orders"
        raise ArgumentError(
            f"{table!r} is no table of BigQuery's: it is DATASET.TABLE, each of letters, digits and _",
            hint=f"write shop.{example}, and FROM shop.{example} in the query",
        )
    return project, dataset, name


def _address(place: Place) -> str:
    return f"http://127.0.0.1:{place.ports[0]}"


def _private(path: Path) -> Any:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w")


def _token(place: Place) -> str:
    return (place.folder / bigquery_server.TOKEN_FILE).read_text()


def _ask(
    place: Place, method: str, path: str, told: Mapping[str, Any] | None = None, timeout: float = LOAD_TIMEOUT
) -> tuple[int, Any]:
    """Ask the server; its status and answer."""
    connection = http.client.HTTPConnection("127.0.0.1", place.ports[0], timeout=timeout)
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {_token(place)}"}
        connection.request(method, path, json.dumps(told or {}), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()
