"""Tables in the frame that is asked for: by what flytekit reads, and converted where it does not."""

from __future__ import annotations

import datetime as dt
import decimal
import sys
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from flytekit import FlyteContextManager, StructuredDataset, kwtypes
from flytekit.core.type_engine import TypeEngine
from flytekit.models import literals, types
from flytekit.types.structured.structured_dataset import StructuredDatasetDecoder, StructuredDatasetTransformerEngine

from flyteagent_nb import tables
from flyteagent_nb.agents.duckdb import DuckDBQuery

pytest_plugins = ("fixtures_workspace",)

if TYPE_CHECKING:
    from flyteagent_nb.workspace import Workspace

STAMP = dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.timezone.utc)


class ShelfDecoder(StructuredDatasetDecoder):  # type: ignore[misc]
    """A store of tables that flytekit reads into pandas only, as it does Snowflake's."""

    def __init__(self) -> None:
        super().__init__(pd.DataFrame, "shelf", supported_format="")

    def decode(self, *args: Any) -> pd.DataFrame:
        frame = pd.DataFrame({"n": [1, 2], "when": [STAMP, None], "price": [decimal.Decimal("1.50"), None]})
        return frame.set_index(pd.Index([7, 7]))


@pytest.fixture(scope="module", autouse=True)
def shelf() -> None:
    StructuredDatasetTransformerEngine.register(ShelfDecoder())


def literal_at(uri: str, kind: str = "") -> literals.Literal:
    metadata = literals.StructuredDatasetMetadata(types.StructuredDatasetType(format=kind))
    return literals.Literal(literals.Scalar(structured_dataset=literals.StructuredDataset(uri, metadata)))


def value_of(literal: literals.Literal, python_type: Any) -> Any:
    return tables.value_of(FlyteContextManager.current_context(), literal, python_type)


@pytest.mark.parametrize("frame", [pd.DataFrame, pa.Table, pl.DataFrame, pl.LazyFrame])
def test_what_flytekit_reads_into_pandas_only_comes_in_any_frame(frame: Any) -> None:
    value = value_of(literal_at("shelf://a/b"), tables.declared(frame))
    assert isinstance(value, frame)
    if frame is pl.LazyFrame:
        value = value.collect()
    assert list(value.columns if frame is not pa.Table else value.column_names) == ["n", "when", "price"]
    if frame is not pd.DataFrame:
        value = value if frame is pa.Table else value.to_arrow()
        assert pa.types.is_decimal(value.schema.field("price").type)
        assert value.schema.field("when").type.tz == "UTC"
        assert value.to_pylist()[0] == {"n": 1, "when": STAMP, "price": decimal.Decimal("1.50")}


def test_a_frame_that_flytekit_has_no_handler_for_is_declared_as_a_structured_dataset() -> None:
    for frame in (pl.DataFrame, pl.LazyFrame):
        declared = tables.declared(frame)
        assert tables.wanted(declared) is frame
        assert TypeEngine.to_literal_type(declared).structured_dataset_type.columns == []
        assert hash(declared) == hash(tables.declared(frame)) and declared == tables.declared(frame)
    for plain in (pd.DataFrame, pa.Table, StructuredDataset, int, list[int]):
        assert tables.declared(plain) is plain


@pytest.mark.parametrize(
    ("python_type", "frame"),
    [
        (pd.DataFrame, pd.DataFrame),
        (pa.Table, pa.Table),
        (int, None),
        (StructuredDataset, None),
        (Annotated[pd.DataFrame, kwtypes(a=int)], None),
        (list[pd.DataFrame], None),
        (pd.Series, None),
    ],
)
def test_which_frame_a_type_asks_for(python_type: Any, frame: Any) -> None:
    assert tables.wanted(python_type) is frame


def test_a_table_that_nothing_reads_is_told_with_what_would() -> None:
    with pytest.raises(ValueError, match="nothing here reads the table nowhere://x: its format is 'odd'"):
        value_of(literal_at("nowhere://x", "odd"), pa.Table)


def test_the_package_that_reads_a_table_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tables._PACKAGES, "nowhere", ("no.such_module", "flytekitplugins-nowhere"))
    with pytest.raises(ValueError, match="takes the package flytekitplugins-nowhere"):
        value_of(literal_at("nowhere://x"), pd.DataFrame)


def test_what_is_no_table_is_left_to_flytekit() -> None:
    context = FlyteContextManager.current_context()
    literal = TypeEngine.to_literal(context, 3, int, TypeEngine.to_literal_type(int))
    assert value_of(literal, int) == 3
    dataset = value_of(literal_at("shelf://a/b"), StructuredDataset)
    assert isinstance(dataset, StructuredDataset) and len(dataset.open(pd.DataFrame).all()) == 2


def test_a_polars_frame_goes_in_as_an_arrow_table() -> None:
    frame = pl.DataFrame({"a": [1, 2]})
    for value in (frame, frame.lazy()):
        assert tables.portable(value).to_pydict() == {"a": [1, 2]}
    pandas = pd.DataFrame({"a": [1]})
    for value in (pandas, 3, "x", None):
        assert tables.portable(value) is value


SQL = """SELECT 1::TINYINT AS small, 2.50::DECIMAL(9, 2) AS price, DATE '2024-02-29' AS day, 'é' AS word, [1, 2] AS list,
TIMESTAMPTZ '2024-02-29 12:30:00+00' AS at UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL"""


@pytest.mark.parametrize("frame", [pd.DataFrame, pa.Table, pl.DataFrame, pl.LazyFrame])
def test_duckdbs_table_comes_over_the_channel_in_the_frame_that_is_asked_for(workspace: Workspace, frame: Any) -> None:
    task = DuckDBQuery(name="types", query_template=SQL, output_structured_dataset_type=tables.declared(frame))
    value = workspace.submit(task, {}).result(60)
    assert isinstance(value, frame)
    if frame is pd.DataFrame:
        assert value["word"].iloc[0] == "é"
        return
    table = (
        pl.DataFrame.to_arrow(value.collect() if frame is pl.LazyFrame else value) if frame is not pa.Table else value
    )
    types_by_name = {f.name: str(f.type) for f in table.schema}
    assert types_by_name["small"] == "int8" and types_by_name["price"] == "decimal128(9, 2)"
    assert types_by_name["day"] == "date32[day]" and "int32" in types_by_name["list"]
    assert table.to_pylist()[0]["at"] == STAMP and table.to_pylist()[1]["small"] is None


def test_an_output_that_nothing_reads_names_itself_and_the_frame(workspace: Workspace) -> None:
    from flyteagent_nb.errors import OutputError
    from flyteagent_nb.running.tasks import convert_outputs

    task = DuckDBQuery(
        name="lost", query_template="SELECT 1", output_structured_dataset_type=tables.declared(pl.DataFrame)
    )
    outputs = literals.LiteralMap({"results": literal_at("nowhere://x", "odd")}).to_flyte_idl()
    with pytest.raises(
        OutputError, match="output 'results' of task 'lost' does not become a DataFrame: nothing here reads"
    ):
        convert_outputs(task, FlyteContextManager.current_context(), outputs)


def test_polars_is_not_imported_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)  # an import of it raises
    assert value_of(literal_at("shelf://a/b"), pa.Table).num_rows == 2
