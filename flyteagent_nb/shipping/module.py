"""The agents of a notebook as an importable module: their source, and the imports and definitions that it needs, found from the code.

What cannot be taken along (what a magic made, a closure, a value without source, a secret) is named, with what to do.
"""

from __future__ import annotations

import ast
import copy
import inspect
import os
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import article
from flyteagent_nb.findings import Finding
from flyteagent_nb.shipping.templates import plain, render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from flyteagent_nb.serving.catalog import AgentEntry
    from flyteagent_nb.shipping.cells import Cells, Statement

ELSEWHERE = "elsewhere"
"""What the findings of this module are about: work outside this kernel."""

_SECRET = re.compile(r"(passw(or)?d|secret|api_?key|token|private_?key)$", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
_READ_IT = "read it in the agent: flytekit's get_connector_secret('NAME'); here %agent secret NAME gives it"
_ROWS = (ast.Tuple, ast.List)
_LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith)


@dataclass(frozen=True)
class AgentModule:
    """A module that registers agents when it is imported.

    Attributes:
        source: its text.
        imported: the modules that it imports, whole names.
        findings: what could not be taken along, and what will differ elsewhere.
    """

    source: str
    imported: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def complete(self) -> bool:
        """Whether all that the agents need is in it."""
        return all(finding.sign != "bad" for finding in self.findings)


def make_module(
    entries: Sequence[AgentEntry],
    cells: Cells,
    namespace: Mapping[str, Any],
    *,
    is_secret: Callable[[str], bool] = lambda text: False,
    replaces: Callable[[AgentEntry], bool] = lambda entry: False,
) -> AgentModule:
    """Write the module.

    Args:
        entries: the agents.
        cells: the notebook's cells.
        namespace: the notebook's variables: what names stand for now.
        is_secret: whether a value known as secret is in a text.
        replaces: whether an agent stands in the place of an installed one, which would be there elsewhere too.
    """
    collector = _Collector(cells, namespace, is_secret)
    registrations: list[str] = []
    for cls, group in _by_class([entry for entry in entries if entry.in_notebook]).items():
        registrations += collector.agent(cls, group, replaces)
    installed = [entry for entry in entries if not entry.in_notebook]
    for entry in installed:
        module, _, name = entry.source.partition(":")
        if module.startswith("flyteagent_nb."):  # ours are registered by the workspace, not by their import
            collector.lines.add(f"from {module} import {name}")
            registrations.append(f"{collector.registry()}.register({name}())")
            collector.imported.add(module)
        else:
            collector.lines.add(f"import {module}  # it registers {plain(entry.task_type)}")
            collector.imported.add(module)
    source = render(
        "agents.py.j2",
        types=[f"{e.task_type} (version {e.version})" if e.version else e.task_type for e in entries],
        imports=_grouped(collector.lines),
        statements=[statement.source for statement in collector.ordered],
        registrations=list(dict.fromkeys(registrations)),
    )
    return AgentModule(source, tuple(sorted(collector.imported)), tuple(collector.findings.values()))


class _Collector:
    """Follows names from the agents' classes to all that they need."""

    def __init__(self, cells: Cells, namespace: Mapping[str, Any], is_secret: Callable[[str], bool]) -> None:
        self.lines: set[str] = set()  # imports
        self.imported: set[str] = set()
        self.ordered: list[Statement] = []
        self.findings: dict[str, Finding] = {}
        self._cells = cells
        self._namespace = namespace
        self._is_secret = is_secret
        self._seen: set[str] = set()
        self._later: list[tuple[str, str]] = []

    def agent(self, cls: type, entries: Sequence[AgentEntry], replaces: Callable[[AgentEntry], bool]) -> list[str]:
        """Take a class of agents along; the statements that register it."""
        registering = self._registering(cls, entries)
        if "<locals>" in cls.__qualname__ and not registering:
            maker = cls.__qualname__.partition(".<locals>")[0]
            self._bad(
                cls.__name__, f"the class {cls.__name__} is made inside {maker}(), and no cell says how it was called",
                f"define the class in a cell, or register the agent by ConnectorRegistry.register({maker}(...))",
            )  # fmt: skip
            return []
        if "<locals>" not in cls.__qualname__:
            self._need(cls.__name__, "the notebook")
        texts = []
        for statement, call in registering:
            for name in sorted(statement.eager - statement.binds):
                self._closure(name, "the registration")
            if statement.uses_magic:
                self._bad(cls.__name__, f"{cls.__name__} is registered by a magic", "register it in a plain cell")
            if self._holds_secret(statement):
                self._bad(
                    cls.__name__, f"{cls.__name__} is registered with a secret, which belongs into no file", _READ_IT
                )
                continue
            texts.append(_with_override(statement, call) if any(map(replaces, entries)) else statement.source)
            self._scan(statement)
        if not registering:
            if _takes_arguments(cls):
                self._bad(
                    cls.__name__, f"no cell says how the agent {cls.__name__} is made, and its class takes arguments",
                    f"register it in a cell: ConnectorRegistry.register({cls.__name__}(...))",
                )  # fmt: skip
                return []
            override = ", override=True" if any(map(replaces, entries)) else ""
            texts.append(f"{self.registry()}.register({cls.__name__}(){override})")
        self._drain()
        return texts

    def registry(self) -> str:
        """The name of flytekit's registry, imported."""
        self.lines.add("from flytekit.extend.backend.base_connector import ConnectorRegistry")
        self.imported.add("flytekit.extend.backend.base_connector")
        return "ConnectorRegistry"

    def _registering(self, cls: type, entries: Sequence[AgentEntry]) -> list[tuple[Statement, ast.Call]]:
        maker = cls.__qualname__.partition(".<locals>")[0]
        agents = [entry.agent for entry in entries]
        found: dict[str, tuple[Statement, ast.Call]] = {}
        for statement, call in self._cells.registrations():
            given = [*call.args[:1], *(word.value for word in call.keywords if word.arg in ("agent", "connector"))]
            for argument in given:
                if isinstance(argument, ast.Call) and isinstance(argument.func, ast.Name):
                    name = argument.func.id
                    fits = self._namespace.get(name) is cls or ("<locals>" in cls.__qualname__ and name == maker)
                elif isinstance(argument, ast.Name):
                    value = self._namespace.get(argument.id)
                    fits = any(value is agent for agent in agents)
                else:
                    fits = False
                if fits:
                    found.pop(statement.source, None)  # a cell that ran again
                    found[statement.source] = statement, call
        return list(found.values())[-len(entries) :]

    def _closure(self, name: str, user: str) -> None:
        """A name that a statement needs when it runs, and all that what it stands for needs: it is called then."""
        self._need(name, user)
        self._drain()

    def _drain(self) -> None:
        while self._later:
            self._need(*self._later.pop(0))

    def _need(self, name: str, user: str) -> None:
        if name in self._seen:
            return
        self._seen.add(name)
        value = self._namespace.get(name)
        statement = self._cells.binding(name, value)
        if statement is None:
            self._derive(name, value, user)
        elif statement.is_import:
            self._import(name)
        elif reason := self._not_portable(name, statement, value):
            self._bad(name, f"{name}, which {user} needs, {reason[0]}", reason[1])
        else:
            self._take(name, statement, value)

    def _take(self, name: str, statement: Statement, value: Any) -> None:
        self._seen |= statement.binds
        for each in sorted(statement.eager - statement.binds):
            if statement.is_definition:
                self._need(each, name)
            else:
                self._closure(each, name)
        if self._cells.quotes_annotations(statement):
            self.lines.add("from __future__ import annotations")
        self.ordered.append(statement)
        self._later += [(each, name) for each in sorted(statement.lazy - statement.binds)]
        self._scan(statement)
        literal = _literal(statement.node, name)
        if literal is None or (type(literal[0]) is type(value) and literal[0] == value):
            return
        begins = ast.unparse(statement.node)[:60]
        if isinstance(literal[0], (dict, list, set)):
            told, mend = (
                f"{name} is filled while it runs",
                "a second service does not have what is in it: put it into the resource meta",
            )
        else:
            told, mend = f"{name} is not any more what its cell says", "write its value into one cell"
        self._warn(name, f"{told}; elsewhere it begins as {begins}", mend)

    def _not_portable(self, name: str, statement: Statement, value: Any) -> tuple[str, str] | None:
        """Why a statement cannot be taken along, and what to do."""
        if statement.uses_magic and not statement.is_definition:
            return "comes from a magic", "compute it in plain Python, or give it to the task as an input"
        if isinstance(statement.node, _LOOPS):
            return "is bound by a loop or a with block", "bind it in one assignment, or inside a function"
        if isinstance(statement.node, (ast.AugAssign, ast.Delete, ast.Expr)):
            return "is changed after it was made", "bind it in one assignment"
        return ("holds a secret, which belongs into no file", _READ_IT) if self._holds_secret(statement) else None

    def _holds_secret(self, statement: Statement) -> bool:
        """Whether a value known as secret is in it, or a text stands where a name says that it is one."""
        named = [
            found[0] for each in statement.binds if (found := _literal(statement.node, each)) and _SECRET.search(each)
        ]
        named += [
            value.value
            for name, value in _given(statement.node)
            if isinstance(value, ast.Constant) and _SECRET.search(name)
        ]
        return self._is_secret(statement.source) or any(map(_is_secret_text, named))

    def _import(self, name: str) -> None:
        """The imports that bind a name, each reduced to it."""
        found: dict[str, str] = {}
        for statement in self._cells.statements:
            node = statement.node
            if not isinstance(node, (ast.Import, ast.ImportFrom)) or name not in statement.binds:
                continue
            for alias in node.names:
                if (alias.asname or alias.name.partition(".")[0]) != name:
                    continue
                as_name = f" as {alias.asname}" if alias.asname and alias.asname != alias.name else ""
                if isinstance(node, ast.ImportFrom):
                    found = {
                        f"from {'.' * node.level}{node.module or ''} import {alias.name}{as_name}": node.module or ""
                    }
                elif alias.asname or "." not in alias.name:
                    found = {f"import {alias.name}{as_name}": alias.name}
                else:  # parts of one package add up
                    found[f"import {alias.name}"] = alias.name
        self.lines |= set(found)
        self.imported |= set(found.values())

    def _derive(self, name: str, value: Any, user: str) -> None:
        """An import for a name that no cell binds: from a star, or what IPython put there."""
        module = str(getattr(value, "__name__" if inspect.ismodule(value) else "__module__", None) or "__main__")
        attribute = getattr(value, "__name__", name)
        if name in ("get_ipython", "display"):
            self._bad(name, f"{user} uses IPython's {name}, which is there in a notebook only", "log or print instead")
        elif name not in self._namespace:
            self._bad(name, f"{user} uses {name}, which is not defined", "define or import it in a cell")
        elif inspect.ismodule(value):
            self.lines.add(f"import {module}" + (f" as {name}" if module != name else ""))
            self.imported.add(module)
        elif module != "__main__" and _is_there(module, attribute, value):
            self.lines.add(f"from {module} import {attribute}" + (f" as {name}" if attribute != name else ""))
            self.imported.add(module)
        else:
            self._bad(
                name, f"{name}, which {user} needs, is {article(type(value).__name__)} that no cell makes",
                "bind it in a cell, by an assignment or a definition",
            )  # fmt: skip

    def _scan(self, statement: Statement) -> None:
        """Warn of files of this machine."""
        for part in ast.walk(statement.node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str) and _is_local_path(part.value):
                self._warn(
                    part.value, f"{part.value!r} is a file or folder of this machine",
                    "give it to the task as an input (FlyteFile), or put it into the image",
                )  # fmt: skip

    def _bad(self, about: str, told: str, mend: str) -> None:
        self.findings[about] = Finding("bad", ELSEWHERE, told, mend)

    def _warn(self, about: str, told: str, mend: str) -> None:
        self.findings.setdefault(about, Finding("warn", ELSEWHERE, told, mend))


def _grouped(lines: Iterable[str]) -> list[str]:
    """Imports in order, ``from __future__`` first, the names of one module on one line."""
    whole: list[str] = []
    names: dict[str, list[str]] = {}
    for line in sorted(lines):
        head, found, name = line.partition(" import ")
        if found and line.startswith("from "):
            names.setdefault(head, []).append(name)
        else:
            whole.append(line)
    whole += [f"{head} import {', '.join(each)}" for head, each in names.items()]
    return sorted(whole, key=lambda line: (not line.startswith("from __future__"), line.split()[1], line))


def _by_class(entries: Iterable[AgentEntry]) -> dict[type, list[AgentEntry]]:
    groups: dict[type, list[AgentEntry]] = {}
    for entry in entries:
        groups.setdefault(type(entry.agent), []).append(entry)
    return groups


def _takes_arguments(cls: type) -> bool:
    try:
        parameters = list(inspect.signature(cls).parameters.values())
    except (TypeError, ValueError):
        return True
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(p.default is p.empty and p.kind not in variadic for p in parameters)


def _with_override(statement: Statement, call: ast.Call) -> str:
    if any(word.arg == "override" for word in call.keywords):
        return statement.source
    node = copy.deepcopy(statement.node)
    for each in ast.walk(node):
        if isinstance(each, ast.Call) and (each.lineno, each.col_offset) == (call.lineno, call.col_offset):
            each.keywords.append(ast.keyword("override", ast.Constant(True)))
    return ast.unparse(node)


def _literal(node: ast.stmt, name: str) -> tuple[Any] | None:
    """The value that an assignment gives to a name, alone or as one of several, where it is a literal."""
    if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
        return None
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        parts: Iterable[tuple[ast.expr, ast.expr]] = [(target, node.value)]
        if isinstance(target, _ROWS) and isinstance(node.value, _ROWS) and len(target.elts) == len(node.value.elts):
            parts = zip(target.elts, node.value.elts, strict=True)
        for each, value in parts:
            if isinstance(each, ast.Name) and each.id == name:
                try:
                    return (ast.literal_eval(value),)
                except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                    return None
    return None


def _is_secret_text(value: object) -> bool:
    """Whether a value that is called as a secret is one, not too short for it, and not the name of one."""
    return isinstance(value, str) and len(value) >= 8 and not _VARIABLE.fullmatch(value)


def _given(statement: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """What calls in a statement give by keywords, classes to their attributes, and functions to their parameters."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Call):
            yield from ((word.arg, word.value) for word in node.keywords if word.arg)
        elif isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.Assign):
                    yield from ((target.id, each.value) for target in each.targets if isinstance(target, ast.Name))
                elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and each.value is not None:
                    yield each.target.id, each.value
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            plain = [*node.args.posonlyargs, *node.args.args]
            behind = plain[len(plain) - len(node.args.defaults) :]
            yield from ((each.arg, value) for each, value in zip(behind, node.args.defaults, strict=True))
            named = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            yield from ((each.arg, value) for each, value in named if value is not None)


def _is_there(module: str, attribute: str, value: Any) -> bool:
    return getattr(sys.modules.get(module), attribute, None) is value


def _is_local_path(text: str) -> bool:
    """Whether a text names a file of this machine that a container would not have."""
    if not 1 < len(text) < 300 or "\n" in text or text in (".", ".."):
        return False
    if os.path.isabs(text):
        return os.path.exists(text) and not text.startswith(("/dev", "/etc", "/proc", "/sys", "/tmp", "/usr", "/var"))
    return (os.sep in text or "." in text) and os.path.isfile(text)
