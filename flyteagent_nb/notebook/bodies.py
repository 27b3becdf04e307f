"""The body of a cell as text: the language that it looks like, what an SQL text brings back, YAML and JSON as a mapping."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from flyteagent_nb.errors import CellError, article

_NO_WORDS = re.compile(r"""--[^\n]*|/\*.*?\*/|'[^']*'|"[^"]*\"""", re.DOTALL)
"""Comments and quoted texts of SQL, in which a semicolon ends nothing."""

_WORD = re.compile(r"[A-Za-z]+")
_READS = frozenset(
    "SELECT WITH FROM VALUES TABLE SHOW DESCRIBE DESC EXPLAIN SUMMARIZE PIVOT PRAGMA CALL".split()
)  # fmt: skip
_PYTHON = re.compile(
    r"(\s*#[^\n]*\n|\s*\n)*(@\w|(async\s+)?def\s+\w+\s*\(|class\s+\w+\s*[(:]|import\s+\w|from\s+[\w.]+\s+import\s)"
)


DEPTH = 30
"""How deep a configuration may be nested: gRPC's messages bear 100 levels, of which a mapping takes three."""

_LARGEST = 2**1000
"""An integer that is a float, if not the same; beyond it Python makes none."""

_KINDS = {"bool": "a truth value", "int": "a number", "float": "a number", "null": "nothing", "timestamp": "a date"}
"""What a word without quotes is to YAML."""

_OTHERS = "write `key: value` lines; for SQL add --lang sql, for Python leave the task type out"


def looks_like_python(body: str) -> bool:
    """Whether a cell begins with a decorator, ``def``, ``class`` or an import, as Python does, and YAML and prose do not."""
    return _PYTHON.match(body) is not None


def _calls(body: str) -> bool:
    """Whether a cell is Python that calls something: ``job(x={'a': 1})`` is a key and its value to YAML."""
    try:
        tree = ast.parse(body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(each, ast.Expr) and isinstance(each.value, ast.Call) for each in tree.body)


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
        CellError: it does not parse, is no mapping, has a key twice or one that is no text, or holds what JSON or a Struct cannot.
    """
    try:
        value = _json(body) if language == "json" else _yaml(body)
        if language == "yaml" and _calls(body):
            raise CellError("the cell is Python, and the configuration of a task is a mapping", hint=_OTHERS)
        if not isinstance(value, dict):
            raise CellError(
                f"the cell is {'empty' if value is None else article(type(value).__name__)}, and the configuration of a task is a mapping",
                hint=_OTHERS,
            )
        _check(value)
    except RecursionError:
        raise _too_deep() from None
    return value


def check_numbers(value: Any) -> None:
    """Refuse an integer that a protobuf Struct, whose numbers are floats, would make another one of.

    Raises:
        CellError: there is one.
    """
    todo, seen = [value], set()
    while todo:
        each = todo.pop()
        if type(each) is int and (abs(each) > _LARGEST or float(each) != each):
            raise CellError(
                f"the configuration holds a number that would be sent as another one: {str(each)[:40]}",
                hint="numbers go as floats, which have 15 digits; write it as a text, in quotes",
            )
        if isinstance(each, (dict, list)) and id(each) not in seen:
            seen.add(id(each))
            todo.extend(each.values() if isinstance(each, dict) else each)


def _check(value: dict[str, Any]) -> None:
    """Refuse what the wire does not take: YAML knows dates, sets and aliases, a protobuf Struct does not."""
    try:
        json.dumps(value)
    except ValueError:
        raise CellError(
            "the configuration holds itself", hint="an alias (*name) cannot stand within what its anchor (&name) marks"
        ) from None
    except TypeError as error:
        raise CellError(f"the configuration holds what JSON cannot: {error}", hint="put quotes around dates") from None
    check_numbers(value)
    level: list[Any] = [value]
    for _ in range(DEPTH):
        inner = (each for outer in level for each in (outer.values() if isinstance(outer, dict) else outer))
        level = [each for each in inner if isinstance(each, (dict, list))]
    if level:
        raise _too_deep()


def _too_deep() -> CellError:
    return CellError(
        f"the configuration is nested more than {DEPTH} levels deep, which gRPC does not take",
        hint="write what is further inside as a text",
    )


def _json(body: str) -> Any:
    try:
        return json.loads(body, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise CellError(
            f"the cell is not JSON: line {error.lineno + 1}, column {error.colno}: {error.msg}", line=error.lineno + 1
        ) from None
    except CellError:
        raise
    except ValueError as error:  # as below
        raise CellError(f"the cell is not JSON: {error}", hint="write it as a text, in quotes") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _twice(key)
        found[key] = value
    return found


def _twice(key: str, line: int | None = None) -> CellError:
    where = "" if line is None else f"line {line}: "
    return CellError(f"{where}the key {key!r:.60} is given twice", hint="give it once", line=line)


def _yaml(body: str) -> Any:
    import yaml

    try:
        loader = yaml.SafeLoader(body)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_keys(node)
        return loader.construct_document(node)
    except CellError:
        raise
    except ValueError as error:  # a date that there is not, more digits than Python reads
        raise CellError(f"the cell is not YAML: {error}", hint="write it as a text, in quotes") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 2}, column {mark.column + 1}: " if mark is not None else ""
        raise CellError(
            f"the cell is not YAML: {where}{getattr(error, 'problem', None) or error}",
            hint=_OTHERS,
            line=mark.line + 2 if mark is not None else None,
        ) from None


def _check_keys(root: Any) -> None:
    """Refuse what YAML passes over: a key given twice, and one that is no text, as it would be sent as another."""
    import yaml

    todo, seen = [root], set()
    while todo:
        node = todo.pop()
        if isinstance(node, yaml.ScalarNode) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += node.value
            continue
        keys = set()
        for key, value in node.value:
            todo.append(value)
            kind, line = key.tag.rpartition(":")[2], key.start_mark.line + 2
            if kind == "merge":
                continue
            if not isinstance(key, yaml.ScalarNode) or kind not in ("str", "value"):
                written = f"`{key.value}`" if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise CellError(
                    f"line {line}: the key {written} is {_KINDS.get(kind, 'no text')} to YAML, and a key is a text",
                    hint="put quotes around it",
                    line=line,
                )
            if key.value in keys:
                raise _twice(key.value, line)
            keys.add(key.value)
