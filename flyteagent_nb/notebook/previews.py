"""Outputs of a run -> a preview by their type: the first rows of a table, a file's size and path, a number as it is, long text folded."""

from __future__ import annotations

import datetime
import os
import reprlib
import time
from typing import TYPE_CHECKING, Any

from flyteagent_nb.notebook.render import GREY, MONO, escape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Table = tuple[str, list[str], list[list[str]]]
"""What a table is in words, its columns, its first rows."""

ROWS = 5
COLUMNS = 12
FOLD = 300
"""Characters of text that are shown without folding the rest away."""

ENTRIES, LOOK = 10_000, 0.2
"""Files and folders, and seconds, after which a folder is large enough to say no more of it: a walk may take any time on a file server."""

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200
_short.maxdict = _short.maxlist = 12

_CELL = "padding:2px 12px 2px 0;text-align:right;border:0"


def outputs_text(outputs: Mapping[str, Any]) -> str:
    """A line or a few for each output."""
    return "\n".join(f"  {name}: {told(value)}" for name, value in outputs.items())


def outputs_html(outputs: Mapping[str, Any]) -> str:
    """A block for each output. Values that cannot be looked at are named by their type."""
    return "".join(_output_html(name, value) for name, value in outputs.items())


def _output_html(name: str, value: Any) -> str:
    label = f'<span class="fnb-soft" style="{MONO}">{escape(name)}: '
    if isinstance(value, str) and (len(value) > FOLD or value.count("\n") > 5):
        head = value[:FOLD].rstrip()
        return (
            f"<details><summary>{label}{len(value):,} characters</span> {escape(' '.join(head.split())[:100])}…</summary>"
            f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;{MONO}">{escape(value[:20_000])}</div></details>'
        )
    table = _table(value)
    if table is not None:
        size, columns, rows = table
        head = "".join(f'<th class="fnb-soft" style="{_CELL};color:{GREY}">{escape(c)}</th>' for c in columns)
        body = "".join(
            '<tr style="background:none">' + "".join(f'<td style="{_CELL}">{escape(c)}</td>' for c in row) + "</tr>"
            for row in rows
        )
        return (
            f"<div>{label}{escape(size)}</span>"
            '<table style="font-size:12px;font-variant-numeric:tabular-nums;margin:2px 0">'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
    return f"<div>{label}</span>{escape(told(value))}</div>"


def told(value: Any) -> str:
    """A value in one line."""
    table = _table(value)
    if table is not None:
        return table[0]
    path = getattr(value, "path", None)
    if isinstance(path, (str, os.PathLike)) and type(value).__module__.startswith("flytekit."):
        source = getattr(value, "remote_source", None) or path
        return f"{type(value).__name__} {source}{_size_of(path)}"
    if type(value) is datetime.datetime or type(value) is datetime.date:
        return value.isoformat(*(" ",) * isinstance(value, datetime.datetime))
    if type(value) is datetime.timedelta:
        return str(value)
    uri = getattr(value, "uri", None)
    if isinstance(uri, str):
        return f"{type(value).__name__} {uri}"
    try:
        return _short.repr(value)
    except Exception as error:  # a class of the user's whose repr raises must not cost the view of its run
        return f"{type(value).__name__} (its repr raises {type(error).__name__})"


def _size_of(path: str | os.PathLike[str]) -> str:
    """The size of a file, or how many files a folder has and theirs; empty for what is not on this machine."""
    try:
        if os.path.isfile(path):
            return f", {os.path.getsize(path):,} bytes"
        return _size_of_folder(path) if os.path.isdir(path) else ""
    except (OSError, ValueError):  # it went meanwhile, may not be read, or is no path at all
        return ""


def _size_of_folder(path: str | os.PathLike[str]) -> str:
    files = size = seen = 0
    until = time.monotonic() + LOOK
    folders = [os.fspath(path)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                seen += 1
                if seen > ENTRIES or time.monotonic() > until:
                    return f", more than {files:,} files, {size:,} bytes"
                if entry.is_dir(follow_symlinks=False):  # links may lead round in a circle
                    folders.append(entry.path)
                else:
                    files += 1
                    size += entry.stat(follow_symlinks=False).st_size
    return f", {files:,} file{'' if files == 1 else 's'}, {size:,} bytes"


def _table(value: Any) -> Table | None:
    """What a table is in words, its columns and its first rows; None for what is none."""
    reader = _READERS.get(f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}")
    if reader is None:
        return None
    try:
        return reader(value)
    except Exception:  # a frame that cannot be read here is named, not shown
        return None


def _pandas(frame: Any) -> Table:
    """With the labels of its rows, unless they are nothing but numbers from 0 on: those of a groupby tell what a row is of."""
    head = frame.iloc[:ROWS, :COLUMNS]
    columns = [str(c) for c in head.columns]
    rows = [[_cell(v) for v in row] for row in head.itertuples(index=False, name=None)]
    index = head.index
    if type(index).__name__ != "RangeIndex":
        columns = ["" if name is None else str(name) for name in index.names] + columns
        labels = [[_cell(label) for label in (each if index.nlevels > 1 else (each,))] for each in index]
        rows = [[*told, *row] for told, row in zip(labels, rows or [[]] * len(labels), strict=True)]
    return _size("DataFrame", *frame.shape), columns, rows


def _arrow(table: Any) -> Table:
    names = list(table.column_names[:COLUMNS])
    head = table.select(names).slice(0, ROWS).to_pylist()
    return (
        _size("Arrow table", table.num_rows, table.num_columns),
        names,
        [[_cell(row[n]) for n in names] for row in head],
    )


def _polars(frame: Any) -> Table:
    names = list(frame.columns[:COLUMNS])
    rows = [[_cell(v) for v in row] for row in frame.select(names).head(ROWS).rows()]
    return _size("Polars DataFrame", frame.height, frame.width), names, rows


def _size(kind: str, rows: int, columns: int) -> str:
    return f"{kind}, {rows:,} row{'s' if rows != 1 else ''}, {columns:,} column{'s' if columns != 1 else ''}"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.6g}"
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"


_READERS: dict[str, Callable[[Any], Table]] = {
    "pandas.DataFrame": _pandas,
    "pyarrow.Table": _arrow,
    "polars.DataFrame": _polars,
}
