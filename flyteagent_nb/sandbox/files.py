"""What a table can be loaded from: a file on this disk, or a frame, which is written as Parquet so that every type goes in as it is."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import ArgumentError, article

if TYPE_CHECKING:
    import pyarrow

FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".ndjson": "json", ".json": "json"}
"""The formats of files, by what their names end with."""

_GIVE = "give a DataFrame of pandas or Polars, an Arrow table, or the path of a CSV, Parquet or JSON file"


def file_of(data: Any, folder: Path) -> tuple[Path, str]:
    """The file that holds ``data``, and its format: ``parquet``, ``csv`` or ``json``.

    Args:
        data: a DataFrame (pandas, Polars), an Arrow table, or the path of a CSV, Parquet or JSON file.
        folder: where the file of a frame is written; the caller removes it.

    Raises:
        ArgumentError: there is no such file, or no table can be made of it.
    """
    if not isinstance(data, (str, os.PathLike)):
        return _written(frame_of(data), folder), "parquet"
    path = Path(data).expanduser().absolute()
    plain = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
    form = FORMATS.get(plain.suffix.lower())
    if form is None:
        raise ArgumentError(f"{path.name} is no file that a table can be made of", hint=_GIVE)
    if not path.is_file():
        raise ArgumentError(f"there is no file {path}", hint=_GIVE)
    return path, form


def frame_of(data: Any) -> pyarrow.Table:
    """A frame as an Arrow table; named indexes of pandas become columns.

    Raises:
        ArgumentError: it is no frame, or a column has values of more than one type.
    """
    import pyarrow

    library = type(data).__module__.partition(".")[0]
    try:
        if library == "polars" and hasattr(data, "collect"):
            data = data.collect()
        if library == "polars" and hasattr(data, "columns"):
            # Of a Python object Arrow would get where it is in memory.
            if objects := [name for name, of in data.schema.items() if str(of) == "Object"]:
                raise TypeError(f"column {objects[0]!r} holds Python objects")
            data = data.to_arrow()
        elif library == "pandas" and hasattr(data, "columns"):
            named = any(name is not None for name in data.index.names)
            data = pyarrow.Table.from_pandas(data.reset_index() if named else data, preserve_index=False)
        elif isinstance(data, pyarrow.RecordBatch):
            data = pyarrow.Table.from_batches([data])
    except (pyarrow.ArrowException, ValueError, TypeError, OverflowError) as error:
        hint = "give each column a name of its own and one type, and texts for numbers beyond 64 bits"
        raise ArgumentError(f"no table can be made of the frame: {error}", hint=hint) from error
    if not isinstance(data, pyarrow.Table):
        raise ArgumentError(f"no table can be made of {article(type(data).__name__)}", hint=_GIVE)
    return data


def _written(frame: pyarrow.Table, folder: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    seen: set[str] = set()
    if not frame.num_columns:
        raise ArgumentError("no table can be made of a frame without columns", hint="give it one")
    for place, field in enumerate(frame.schema):
        if field.name.lower() in seen:
            raise ArgumentError(
                f"two columns are {field.name!r}, or differ in their case alone, and are one to a service",
                hint="rename one of them",
            )
        seen.add(field.name.lower())
        if pyarrow.types.is_duration(field.type) or pyarrow.types.is_interval(field.type):
            # Parquet has no such type: a bare number would come out.
            raise ArgumentError(
                f"column {field.name!r} is a {field.type}, which a table has no type for",
                hint="make it a number of seconds",
            )
        if getattr(field.type, "extension_name", "") == "pandas.period":  # Arrow keeps a bare number of it too
            raise ArgumentError(
                f"column {field.name!r} is a period, which a table has no type for",
                hint="make it a text, or the time at which it begins: .dt.to_timestamp()",
            )
        if pyarrow.types.is_null(field.type):  # of nothing but nulls: a text, as services take it
            frame = frame.set_column(place, field.name, frame.column(place).cast(pyarrow.string()))
    path = folder / f"{secrets.token_hex(8)}.parquet"
    try:
        parquet.write_table(frame, path)
    except (pyarrow.ArrowException, OSError) as error:
        path.unlink(missing_ok=True)
        raise ArgumentError(f"no table can be made of the frame: {error}", hint="change the column it names") from error
    return path
