"""A file's rows with types that BigQuery has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_READERS = {
    "parquet": "read_parquet({})",
    "csv": "read_csv({}, header = true)",
    "json": "read_json({})",
}
# DuckDB's type -> BigQuery's, and the one that it is written as.
_TYPES = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT"), ("INT64", "BIGINT")),
    **dict.fromkeys(("UTINYINT", "USMALLINT", "UINTEGER"), ("INT64", "BIGINT")),
    **dict.fromkeys(("UBIGINT", "HUGEINT", "UHUGEINT"), ("NUMERIC", "DECIMAL(38, 9)")),
    **dict.fromkeys(("FLOAT", "DOUBLE"), ("FLOAT64", "DOUBLE")),
    **dict.fromkeys(("VARCHAR", "UUID"), ("STRING", "VARCHAR")),
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"), ("DATETIME", "TIMESTAMP")),
    **dict.fromkeys(("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS"), ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE")),
    **dict.fromkeys(("TIME", "TIME_NS"), ("TIME", "TIME")),
    "BOOLEAN": ("BOOL", "BOOLEAN"),
    "BLOB": ("BYTES", "BLOB"),
    "DATE": ("DATE", "DATE"),
    "JSON": ("JSON", "JSON"),
}


def convert(path: str, form: str, to: Path) -> list[dict[str, Any]]:
    """Write a file's rows as Parquet, with types that BigQuery has.

    Args:
        path: the file.
        form: ``parquet``, ``csv`` or ``json`` (a line for each row, or a list of all).
        to: the Parquet file.

    Returns:
        The columns, as ``fields`` of a table's schema.

    Raises:
        ValueError: a column that BigQuery has no type for.
        Exception: DuckDB's error.
    """
    import duckdb

    source = _READERS[form].format(_quoted(path, "'"))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        relation = connection.sql(f"SELECT * FROM {source}")
        fields, selected = [], []
        for name, kind in zip(relation.columns, relation.types):  # noqa: B905 - one type for each
            made, written = column(name, kind)
            fields.append(made)
            selected.append(f"CAST({_quoted(name)} AS {written}) AS {_quoted(name)}")
        target = _quoted(str(to), "'")
        connection.execute(f"COPY (SELECT {', '.join(selected)} FROM {source}) TO {target} (FORMAT parquet)")
    return fields


def column(name: str, kind: Any) -> tuple[dict[str, Any], str]:
    """A column of one of DuckDB's types as one of BigQuery's, and the type of DuckDB's that it is written as.

    Raises:
        ValueError: BigQuery has none for it.
    """
    if kind.id in ("list", "array"):
        made, written = column(name, dict(kind.children)["child"])
        if made["mode"] == "REPEATED":
            raise ValueError(f"column {name!r} is a list of lists, which BigQuery has not: make it a list of structs")
        return {**made, "mode": "REPEATED"}, f"{written}[]"
    if kind.id == "struct":
        inner = [(each, *column(each, of)) for each, of in kind.children]
        written = ", ".join(f"{_quoted(each)} {as_}" for each, _, as_ in inner)
        fields = [each for _, each, _ in inner]
        return {"name": name, "type": "RECORD", "mode": "NULLABLE", "fields": fields}, f"STRUCT({written})"
    of, written = ("STRING", "VARCHAR") if kind.id == "enum" else _TYPES.get(str(kind), ("", ""))
    if kind.id == "decimal":
        size = dict(kind.children)
        if size["scale"] > 9 or size["precision"] - size["scale"] > 29:
            raise ValueError(
                f"column {name!r} is {kind}, and a NUMERIC here has 29 digits before the point and 9 behind it: make it a float or a text"
            )
        of, written = "NUMERIC", "DECIMAL(38, 9)"
    if not of:
        raise ValueError(f"column {name!r} is {kind}, which BigQuery has no type for: make it a number or a text")
    return {"name": name, "type": of, "mode": "NULLABLE"}, written


def _quoted(text: str, mark: str = '"') -> str:
    return mark + text.replace(mark, mark * 2) + mark
