"""Tables of BigQuery's, read so that what a query says of them holds: its order, its types, and projects of any name.

flytekit's own reader asks for as many streams as the service likes to give, which loses ORDER BY; it puts pandas frames together, which
loses types; and it takes no project with a dot or a colon in its name (flytekit 1.16.31).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow

_ADDRESS = re.compile(r"bq://(?P<project>.+)[:.](?P<dataset>[^:.]+)\.(?P<table>[^:.]+)")


def address(uri: str) -> tuple[str, str, str]:
    """Project, dataset and table of ``bq://project:dataset.table``; a project may have a colon and dots in it.

    Raises:
        ValueError: it is no such address.
    """
    found = _ADDRESS.fullmatch(uri)
    if found is None:
        raise ValueError(f"{uri} is no table of BigQuery's: bq://project:dataset.table")
    return found["project"], found["dataset"], found["table"]


def read(uri: str, columns: Sequence[str] = (), *, client: Any = None, storage: Any = None) -> pyarrow.Table:
    """A table, by the Storage Read API in one stream, or by REST where somebody may query and not use that API.

    Args:
        uri: ``bq://project:dataset.table``.
        columns: those that are wanted; all where it is empty.
        client: of ``google.cloud.bigquery``, instead of one with the credentials of the environment.
        storage: of ``google.cloud.bigquery_storage``, likewise.

    Raises:
        ValueError: it is no such address, or there is no such column.
        google.api_core.exceptions.GoogleAPICallError: the service's refusal, in its words.
    """
    import pyarrow
    from google.api_core.exceptions import PermissionDenied
    from google.cloud import bigquery, bigquery_storage

    project, dataset, table = address(uri)
    session = bigquery_storage.types.ReadSession(
        table=f"projects/{project}/datasets/{dataset}/tables/{table}",
        data_format=bigquery_storage.types.DataFormat.ARROW,
        read_options=bigquery_storage.types.ReadSession.TableReadOptions(selected_fields=list(columns)),
    )
    storage = storage or bigquery_storage.BigQueryReadClient()
    try:
        made = storage.create_read_session(parent=f"projects/{project}", read_session=session, max_stream_count=1)
    except PermissionDenied:
        rows = (client or bigquery.Client(project)).list_rows(f"{project}.{dataset}.{table}")
        found = rows.to_arrow(create_bqstorage_client=False)
        if missing := [name for name in columns if name not in found.column_names]:
            raise ValueError(f"the table has no column {', '.join(missing)}") from None
        return found.select(columns) if columns else found
    schema = pyarrow.ipc.read_schema(pyarrow.py_buffer(made.arrow_schema.serialized_schema))
    batches = [
        pyarrow.ipc.read_record_batch(pyarrow.py_buffer(page.arrow_record_batch.serialized_record_batch), schema)
        for stream in made.streams
        for page in storage.read_rows(stream.name)
    ]
    return pyarrow.Table.from_batches(batches, schema)
