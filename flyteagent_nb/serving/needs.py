"""What a task type wants of the machine: secrets, environment variables, packages, credentials of a cloud. Never a value.

It is read off the source of the agent's module, and of the modules of the same plug-in that this one imports: nothing is run or imported.
"""

from __future__ import annotations

import ast
import importlib.util
import linecache
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flyteagent_nb.plugins import PLUGINS
from flyteagent_nb.serving.need_reader import NeedReader
from flyteagent_nb.serving.ways import with_released_ways

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from flyteagent_nb.serving.catalog import AgentEntry
    from flyteagent_nb.serving.need import Need

MODULES: Final = 30
"""Modules of a plug-in that are read at the most."""


_BASES: Final = frozenset({"AsyncAgentBase", "AsyncConnectorBase", "SyncAgentBase", "SyncConnectorBase"})


def needs_of(entry: AgentEntry, given: Container[str] = ()) -> tuple[Need, ...]:
    """What the agent of a task type wants, missing things first. It reads files: not for the loop's thread.

    Args:
        entry: the agent.
        given: the names of the secrets that a person gave.
    """
    found: dict[tuple[str, str], Need] = {}
    for module, tree in _modules(type(entry.agent)):
        for need in NeedReader(module, entry.package, given).read(tree):
            known = found.get((need.kind, need.name))
            if known is None or (need.required and not known.required):
                found[need.kind, need.name] = need
    needs = with_released_ways(entry.task_type, found.values(), given)
    order = ("package", "one of", "secret", "credentials", "variable")
    return tuple(sorted(needs, key=lambda n: (n.met, not n.required, order.index(n.kind), n.name)))


def needs_of_source(source: str) -> tuple[Need, ...]:
    """The same, read off the text of a module that is not imported here."""
    found = {(need.kind, need.name): need for need in NeedReader("__main__", "", ()).read(ast.parse(source))}
    return tuple(sorted(found.values(), key=lambda need: (need.kind, need.name)))


def missing(entry: AgentEntry, given: Container[str] = ()) -> tuple[Need, ...]:
    """What the agent cannot do without and is not there. The arguments are those of :func:`needs_of`."""
    return tuple(need for need in needs_of(entry, given) if need.required and not need.met)


# --- the source ---


def _modules(cls: type) -> Iterator[tuple[str, ast.Module]]:
    """The agent's module and those of its plug-in that it imports, each with its name, parsed."""
    if cls.__module__ == "__main__":
        tree = _cell_of(cls)
        if tree is not None:
            yield "__main__", _without_others(tree, cls.__module__, cls)
        return
    packages = _plugin_packages(cls.__module__)
    names, seen = [cls.__module__], {cls.__module__}
    while names and len(seen) <= MODULES:
        name = names.pop(0)
        path = _source_path(name)
        if path is None:
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        yield name, _without_others(tree, name, cls)
        for imported in _imported(tree, name, is_package=path.name == "__init__.py"):
            if imported.startswith(packages) and imported not in seen:
                seen.add(imported)
                names.append(imported)


def _without_others(tree: ast.Module, module: str, cls: type) -> ast.Module:
    """The module without the classes of other agents: what they want is not wanted by this one."""

    def is_other(node: ast.stmt) -> bool:
        found = vars(sys.modules[module]).get(node.name) if isinstance(node, ast.ClassDef) else None
        return isinstance(found, type) and found not in cls.__mro__ and any(b.__name__ in _BASES for b in found.__mro__)

    return ast.Module([node for node in tree.body if not (module in sys.modules and is_other(node))], [])


def _plugin_packages(module: str) -> tuple[str, ...]:
    """What the modules of a plug-in begin with: ``flytekitplugins.openai.``, and the packages that come with it in one distribution.

    For flytekit's own it is the one module, as flytekit itself is all around it.
    """
    parts = module.split(".")
    if parts[0] == "flytekit":
        return (f"{module}.",)
    if parts[0] != "flytekitplugins" or len(parts) < 2:
        return (f"{parts[0]}.",)
    together = next((plugin.packages for plugin in PLUGINS if parts[1] in plugin.packages), (parts[1],))
    return tuple(f"flytekitplugins.{name}." for name in together)


def _source_path(module: str) -> Path | None:
    """The source of a module that is loaded already, or of one beside it."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    if spec is None and module.rpartition(".")[0] in sys.modules:
        try:
            spec = importlib.util.find_spec(module)  # its parent is loaded, so nothing is executed
        except (ImportError, ValueError, AttributeError):
            return None
    origin = getattr(spec, "origin", None)
    return Path(origin) if origin and origin.endswith(".py") else None


def _cell_of(cls: type) -> ast.Module | None:
    """The cell that defines a class of the notebook; IPython keeps its lines where tracebacks look for them."""
    for function in vars(cls).values():
        code = getattr(getattr(function, "__wrapped__", function), "__code__", None)
        if code is not None and (lines := linecache.getlines(code.co_filename)):
            try:
                return ast.parse("".join(lines))
            except SyntaxError:
                return None
    return None


def _imported(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[str]:
    """The modules that the source imports, those it may take a name from too."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
