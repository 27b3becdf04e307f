"""Reads off the source of one module what its agent wants. Nothing is run or imported."""

from __future__ import annotations

import ast
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from flyteagent_nb.plugins import package_command, plugin_of_distribution
from flyteagent_nb.serving.need import Need, cloud, is_there, secret, variable
from flyteagent_nb.serving.ways import Way, one_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

_SECRET_CALLS: Final = frozenset({"get_connector_secret", "get_agent_secret"})
_IMPORT_ERRORS: Final = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
_LOOKUP_ERRORS: Final = frozenset({"ValueError", "KeyError", "LookupError", "Exception", "BaseException"})


class NeedReader:
    """Reads one module.

    Args:
        module: its name.
        package: the distribution of the agent and its version; empty where there is none.
        given: the names of the secrets that a person gave.
    """

    def __init__(self, module: str, package: str, given: Container[str]) -> None:
        self._module = module
        self._given = given
        self._plugin = plugin_of_distribution(package.partition(" ")[0])
        self._constants: dict[str, str] = {}

    def read(self, tree: ast.Module) -> Iterator[Need]:
        """What the module wants; a thing may come more than once."""
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
                for target in statement.targets:
                    if isinstance(target, ast.Name) and isinstance(statement.value.value, str):
                        self._constants[target.id] = statement.value.value
        imports: set[int] = set()
        lookups: set[int] = set()
        alternatives: set[int] = set()
        for node in ast.walk(tree):
            for body in _bodies(node):
                if len(ways := self._ways(body)) > 1:
                    alternatives.update(id(inner) for way in ways for each in way for inner in ast.walk(each))
                    yield one_of([Way(tuple(self._lookups(way))) for way in ways])
            # What stands in a `try` that takes its error may be missing: the agent has another way.
            if isinstance(node, ast.Try):
                inside = {id(inner) for statement in node.body for inner in ast.walk(statement)}
                if _handlers(node, _IMPORT_ERRORS):
                    imports |= inside
                # A handler that ends in `raise` says what is missing, and goes no other way.
                if any(not _raises(handler.body) for handler in _handlers(node, _LOOKUP_ERRORS)):
                    lookups |= inside
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                yield from self._imports(node, required=id(node) not in imports)
            elif id(node) in alternatives:
                yield from (replace(need, alternative=True) for need in self._lookup(node, required=False))
            else:
                yield from self._lookup(node, required=id(node) not in lookups)

    # --- one of several ---

    def _ways(self, body: Sequence[ast.stmt]) -> list[list[ast.stmt]]:
        """The statements of each way, where a body tries one thing after the other and raises when none is there; else nothing."""
        ways: list[list[ast.stmt]] = []
        for statement in body:
            handler = next(iter(_handlers(statement, _LOOKUP_ERRORS)), None) if isinstance(statement, ast.Try) else None
            if isinstance(statement, ast.Try) and handler is not None and self._lookups(statement.body):
                ways.append(statement.body)
                if self._lookups(handler.body):
                    inner = self._ways(handler.body) or ([] if _tries(handler.body) else [handler.body])
                    return [*ways, *inner] if inner else []
                if _raises(handler.body):
                    return ways
            elif isinstance(statement, ast.Raise):
                return ways
        return []

    def _lookups(self, body: Sequence[ast.stmt]) -> list[Need]:
        """The secrets and variables that statements look up and cannot do without."""
        found = [need for each in body for node in ast.walk(each) for need in self._lookup(node, required=True)]
        return [need for need in dict.fromkeys(found) if need.required]

    # --- one thing ---

    def _lookup(self, node: ast.AST, *, required: bool) -> Iterator[Need]:
        if isinstance(node, ast.Call):
            yield from self._call(node, required=required)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and _path(node.value) == "os.environ":
            if name := self._text(node.slice):
                yield variable(name, required=required)

    def _imports(self, node: ast.Import | ast.ImportFrom, *, required: bool) -> Iterator[Need]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from self._import(alias.name, required=required)
        elif node.module and not node.level:
            yield from self._import(node.module, required=required)
            for alias in node.names:
                yield from cloud(f"{node.module}.{alias.name}")

    def _call(self, node: ast.Call, *, required: bool) -> Iterator[Need]:
        path = _path(node.func)
        called = path.rpartition(".")[2]
        keywords = {word.arg: self._text(word.value) for word in node.keywords if word.arg}
        first = self._text(node.args[0]) if node.args else ""
        if called in _SECRET_CALLS:
            if key := first or keywords.get("secret_key", ""):
                yield secret("", key, self._given, required=required)
        elif path.endswith("secrets.get"):
            key = (self._text(node.args[1]) if len(node.args) > 1 else "") or keywords.get("key", "")
            group = first or keywords.get("group", "")
            if key or group:
                yield secret(group, key, self._given, required=required)
        elif path in ("os.getenv", "os.environ.get", "getenv", "environ.get") and first:
            yield variable(first, required=False)
        elif called == "lazy_module" and first:
            yield from self._import(first, required=required)

    def _import(self, name: str, *, required: bool) -> Iterator[Need]:
        yield from cloud(name)
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top == self._module.partition(".")[0]:
            return
        if is_there(name):
            return
        if not is_there(top):
            name = top
        yield Need("package", name, False, required, "it cannot be imported", package_command(name, self._plugin))

    def _text(self, node: ast.AST) -> str:
        """The text that an expression stands for, where that can be told: a literal, or a constant of the module."""
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else ""
        if isinstance(node, ast.Name):
            loaded = vars(sys.modules[self._module]).get(node.id) if self._module in sys.modules else None
            return self._constants.get(node.id) or (loaded if isinstance(loaded, str) else "")
        return ""


def _bodies(node: ast.AST) -> Iterator[Sequence[ast.stmt]]:
    """The bodies in which a search for ways begins: not those of handlers, which belong to the `try` before them."""
    if not isinstance(node, ast.ExceptHandler):
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if isinstance(body, list):
                yield body


def _handlers(node: ast.Try, errors: frozenset[str]) -> list[ast.ExceptHandler]:
    """The handlers of a `try` that take one of these errors."""
    return [handler for handler in node.handlers if errors.intersection(_path(kind) for kind in _kinds(handler))]


def _kinds(handler: ast.ExceptHandler) -> list[ast.expr]:
    if handler.type is None:
        return [ast.Name("Exception")]
    return handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]


def _raises(body: Sequence[ast.stmt]) -> bool:
    return isinstance(body[-1], ast.Raise)


def _tries(body: Sequence[ast.stmt]) -> bool:
    return any(isinstance(statement, ast.Try) for statement in body)


def _path(node: ast.AST) -> str:
    """``a.b.c`` of a chain of attributes, whatever it begins with."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
    return ".".join(reversed(parts))
