"""The body of a cell as text: the language that it looks like, what an SQL text brings back, YAML and JSON as a mapping."""

from __future__ import annotations

import json
import re
from typing import Any

from flyteagent_nb.errors import CellError

_NO_WORDS = re.compile(r"""--[^\n]*|/\*.*?\*/|'[^']*'|"[^"]*\"""", re.DOTALL)
"""Comments and quoted texts of SQL, in which a semicolon ends nothing."""

_WORD = re.compile(r"[A-Za-z]+")
_READS = frozenset(
    "SELECT WITH FROM VALUES TABLE SHOW DESCRIBE DESC EXPLAIN SUMMARIZE PIVOT PRAGMA CALL".split()
)  # fmt: skip
_PYTHON = re.compile(
    r"(\s*#[^\n]*\n|\s*\n)*(@\w|(async\s+)?def\s+\w+\s*\(|class\s+\w+\s*[(:]|import\s+\w|from\s+[\w.]+\s+import\s)"
)


def looks_like_python(body: str) -> bool:
    """Whether a cell begins with a decorator, ``def``, ``class`` or an import, as Python does, and YAML and prose do not."""
    return _PYTHON.match(body) is not None


def mapping_language(body: str) -> str:
    """``json`` or ``yaml``, by the first sign."""
    return "json" if body.lstrip().startswith("{") else "yaml"


def reads(sql: str) -> bool:
    """Whether the last statement of ``sql`` brings back a table, by its first word."""
    statements = [s for s in _NO_WORDS.sub(" ", sql).split(";") if s.strip()]
    word = _WORD.search(statements[-1]) if statements else None
    return word is not None and word[0].upper() in _READS


def mapping(body: str, language: str) -> dict[str, Any]:
    """The configuration that a cell of YAML or JSON is.

    Raises:
        CellError: it does not parse, is no mapping, or holds what JSON cannot.
    """
    import yaml

    try:
        value = json.loads(body) if language == "json" else yaml.safe_load(body)
    except json.JSONDecodeError as error:
        raise CellError(
            f"the cell is not JSON: line {error.lineno + 1}, column {error.colno}: {error.msg}", line=error.lineno + 1
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 2}, column {mark.column + 1}: " if mark is not None else ""
        raise CellError(
            f"the cell is not YAML: {where}{getattr(error, 'problem', None) or error}",
            line=mark.line + 2 if mark is not None else None,
        ) from None
    if not isinstance(value, dict):
        raise CellError(
            f"the cell is {'empty' if value is None else f'a {type(value).__name__}'}, and the configuration of a task is a mapping",
            hint="write `key: value` lines; for SQL add --lang sql, for Python leave the task type out",
        )
    try:  # what the wire takes: YAML knows dates and sets, a protobuf Struct does not
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:  # an anchor of YAML may lead back to itself
        raise CellError(f"the configuration holds what JSON cannot: {error}", hint="put quotes around dates") from None
    return {str(key): item for key, item in value.items()}
