"""Tables: flytekit's structured datasets and the frames that people ask for, also where flytekit has no handler for them.

flytekit reads a table into the frames that somebody registered a decoder for: pandas for all that it knows, Arrow for most,
Polars with a plug-in and for Parquet only. What it cannot read is read as Arrow, or as pandas, and converted from there.
"""

from __future__ import annotations

import importlib
import os
import typing
from typing import TYPE_CHECKING, Any

from flyteagent_nb import bigquery_tables

if TYPE_CHECKING:
    from flytekit import FlyteContext
    from flytekit.models.literals import Literal

LIBRARIES = {"arrow": "pyarrow", "pa": "pyarrow", "pyarrow": "pyarrow", "pandas": "pandas", "pd": "pandas",
             "polars": "polars", "pl": "polars"}  # fmt: skip
"""The libraries that have a table, by the names that people give them."""

TABLES = {"pandas": "DataFrame", "pyarrow": "Table", "polars": "DataFrame"}
"""The class of a library that is its table."""

_PACKAGES = {
    "bq": ("google.cloud.bigquery", "flytekitplugins-bigquery"),
    "snowflake": ("snowflake.connector", "flytekitplugins-snowflake"),
}
"""By the scheme of a table's address: the module that flytekit waits for before it has handlers, and what brings it."""

_FRAMES = frozenset({("pandas", "DataFrame"), ("pyarrow", "Table"), ("polars", "DataFrame"), ("polars", "LazyFrame")})


class Frame:
    """Beside a StructuredDataset in ``Annotated``: the frame that becomes of it, where flytekit knows no handler for that one.

    Attributes:
        cls: the frame's class.
    """

    __slots__ = ("cls",)  # no annotations: flytekit takes whatever has some for the columns of the table

    def __init__(self, cls: type) -> None:
        self.cls = cls

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frame) and other.cls is self.cls

    def __hash__(self) -> int:
        return hash(self.cls)


def is_frame(python_type: Any) -> bool:
    """Whether it is the class of a table: pandas' and Polars' DataFrame, Polars' LazyFrame, Arrow's Table."""
    module = getattr(python_type, "__module__", "")
    return isinstance(python_type, type) and (module.partition(".")[0], python_type.__name__) in _FRAMES


def declared(python_type: Any) -> Any:
    """The type that a task's output is declared with, so that it is a structured dataset whichever frame is wanted."""
    from flytekit.core.type_engine import TypeEngine
    from flytekit.types.structured import StructuredDataset
    from flytekit.types.structured.structured_dataset import StructuredDatasetTransformerEngine

    if not is_frame(python_type):
        return python_type
    TypeEngine.lazy_import_transformers()
    if python_type in StructuredDatasetTransformerEngine.DECODERS:
        return python_type
    return typing.Annotated[StructuredDataset, Frame(python_type)]


def wanted(python_type: Any) -> Any | None:
    """The frame that a declared type asks for; None for any type that asks for none."""
    if typing.get_origin(python_type) is typing.Annotated:
        return next((mark.cls for mark in typing.get_args(python_type)[1:] if isinstance(mark, Frame)), None)
    return python_type if is_frame(python_type) else None


def value_of(context: FlyteContext, literal: Literal, python_type: Any) -> Any:
    """A literal as the Python value that a declared type asks for.

    Raises:
        ValueError: nothing here reads this kind of table.
        Exception: whatever flytekit's type engine raises.
    """
    from flytekit.core.type_engine import TypeEngine

    frame = wanted(python_type)
    table = literal.scalar.structured_dataset if literal.scalar is not None else None
    if frame is None or table is None:
        return TypeEngine.to_python_value(context, literal, python_type)
    if (
        table.uri.startswith("bq://")
        and "BIGQUERY_EMULATOR_HOST" not in os.environ
        and _is_there("google.cloud.bigquery")
    ):
        return converted(bigquery_tables.read(table.uri), frame)
    for source in (frame, *(s for s in _sources(table.uri) if s is not frame)):
        if _decodes(source, table):
            value = TypeEngine.to_python_value(context, literal, source)
            return value if source is frame else converted(value, frame)
    package = _PACKAGES.get(table.uri.partition("://")[0], ("", ""))[1]
    needs = f"reading it takes the package {package}" if package else f"its format is '{_format(table)}'"
    raise ValueError(f"nothing here reads the table {table.uri}: {needs}")


def converted(value: Any, frame: Any) -> Any:
    """A table as another kind of frame, through Arrow, so that the columns keep their types."""
    import pyarrow

    library = frame.__module__.partition(".")[0]
    if not isinstance(value, pyarrow.Table):
        value = pyarrow.Table.from_pandas(value, preserve_index=False)
    if library == "pandas":
        return value.to_pandas()
    if library == "polars":
        made = importlib.import_module("polars").from_arrow(value)
        return made.lazy() if frame.__name__ == "LazyFrame" else made
    return value


def portable(value: Any) -> Any:
    """A frame that flytekit has no encoder for, as an Arrow table, which it has one for; any other value as it is."""
    if not is_frame(type(value)):
        return value
    from flytekit.core.type_engine import TypeEngine
    from flytekit.types.structured.structured_dataset import StructuredDatasetTransformerEngine

    TypeEngine.lazy_import_transformers()
    if type(value) in StructuredDatasetTransformerEngine.ENCODERS:
        return value
    return (value.collect() if type(value).__name__ == "LazyFrame" else value).to_arrow()


def _sources(uri: str) -> list[Any]:
    """The frames that flytekit reads best, the one that keeps most first, with its handlers for such a table in place."""
    from flytekit.core.type_engine import TypeEngine

    found = []
    for library in ("pyarrow", "pandas", _PACKAGES.get(uri.partition("://")[0], ("", ""))[0]):
        try:
            module = importlib.import_module(library) if library else None
        except ImportError:  # without it flytekit has no handler, which is told where none is left
            continue
        if module is not None and library in TABLES:
            found.append(getattr(module, TABLES[library]))
    TypeEngine.lazy_import_transformers()
    return found


def _decodes(frame: Any, table: Any) -> bool:
    """Whether flytekit reads the table into the frame; its own search would read anything unknown as a file of Parquet."""
    import fsspec
    from flytekit.core.data_persistence import get_protocol
    from flytekit.types.structured.structured_dataset import StructuredDatasetTransformerEngine as Engine

    protocol = get_protocol(table.uri)
    if protocol not in fsspec.available_protocols():
        return protocol in Engine.DECODERS.get(frame, {})
    try:
        Engine.get_decoder(frame, protocol, _format(table))
    except ValueError:
        return False
    return True


def _is_there(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def _format(table: Any) -> str:
    return table.metadata.structured_dataset_type.format if table.metadata is not None else ""
