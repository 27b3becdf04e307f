"""BigQuery's tables, read from a Storage Read API of its own stubs on loopback, and by REST from the stand-in's client elsewhere."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("google.cloud.bigquery_storage")

import grpc
import pyarrow as pa
from google.api_core.exceptions import NotFound
from google.cloud.bigquery_storage import BigQueryReadClient
from google.cloud.bigquery_storage_v1 import types
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

from flyteagent_nb.bigquery_tables import address, read

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLE = pa.table({"n": pa.array([3, None, 1], pa.int64()), "day": pa.array([None, None, None], pa.date32())})


class ReadService:
    """The two calls of the Storage Read API, for one table."""

    def __init__(self, table: pa.Table, refuses: bool = False) -> None:
        self.table = table
        self.refuses = refuses
        self.asked: list[Any] = []

    def create(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.asked.append(request)
        if self.refuses:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "needs bigquery.readsessions.create")
        if not request.read_session.table.endswith("/tables/t"):
            context.abort(grpc.StatusCode.NOT_FOUND, "Not found: Table")
        columns = list(request.read_session.read_options.selected_fields)
        self.sent = self.table.select(columns) if columns else self.table
        streams = [types.ReadStream(name="s/0")] if len(self.sent) else []
        schema = types.ArrowSchema(serialized_schema=self.sent.schema.serialize().to_pybytes())
        return types.ReadSession(name="s", streams=streams, arrow_schema=schema, data_format=types.DataFormat.ARROW)

    def rows(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        for batch in self.sent.to_batches(max_chunksize=2):
            data = types.ArrowRecordBatch(serialized_record_batch=batch.serialize().to_pybytes())
            yield types.ReadRowsResponse(arrow_record_batch=data, row_count=len(batch))


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Iterator[tuple[ReadService, BigQueryReadClient]]:
    service = getattr(request, "param", None) or ReadService(TABLE)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    handlers = {
        "CreateReadSession": grpc.unary_unary_rpc_method_handler(
            service.create, types.CreateReadSessionRequest.deserialize, types.ReadSession.serialize
        ),
        "ReadRows": grpc.unary_stream_rpc_method_handler(
            service.rows, types.ReadRowsRequest.deserialize, types.ReadRowsResponse.serialize
        ),
    }
    name = "google.cloud.bigquery.storage.v1.BigQueryRead"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield service, BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))
    server.stop(None).wait()


def test_a_table_keeps_its_order_and_its_types(service: tuple[ReadService, BigQueryReadClient]) -> None:
    assert read("bq://example.com:mine:d.t", storage=service[1]) == TABLE
    (asked,) = service[0].asked
    assert asked.max_stream_count == 1 and asked.read_session.table == "projects/example.com:mine/datasets/d/tables/t"
    assert asked.parent == "projects/example.com:mine"


def test_columns_and_what_is_not_there(service: tuple[ReadService, BigQueryReadClient]) -> None:
    assert read("bq://p:d.t", ["day"], storage=service[1]) == TABLE.select(["day"])
    with pytest.raises(NotFound, match="Not found: Table"):
        read("bq://p:d.other", storage=service[1])


@pytest.mark.parametrize("service", [ReadService(TABLE.slice(0, 0))], indirect=True)
def test_a_table_without_rows_has_its_columns(service: tuple[ReadService, BigQueryReadClient]) -> None:
    assert read("bq://p:d.t", storage=service[1]) == TABLE.slice(0, 0)


class Rows:
    """What ``list_rows`` of a client gives; the stand-in's tests read from a real one."""

    def to_arrow(self, *, create_bqstorage_client: bool) -> pa.Table:
        assert not create_bqstorage_client
        return TABLE


class Client:
    def list_rows(self, table: str) -> Rows:
        assert table == "p.d.t"
        return Rows()


@pytest.mark.parametrize("service", [ReadService(TABLE, refuses=True)], indirect=True)
def test_who_may_not_use_that_service_reads_by_rest(service: tuple[ReadService, BigQueryReadClient]) -> None:
    assert read("bq://p:d.t", client=Client(), storage=service[1]) == TABLE
    assert read("bq://p:d.t", ["n"], client=Client(), storage=service[1]) == TABLE.select(["n"])
    with pytest.raises(ValueError, match="no column m"):
        read("bq://p:d.t", ["m"], client=Client(), storage=service[1])


def test_an_address() -> None:
    assert address("bq://p:d.t") == ("p", "d", "t")
    with pytest.raises(ValueError, match="no table of BigQuery's"):
        address("bq://p")
