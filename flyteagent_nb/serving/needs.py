"""What a task type wants of the machine: secrets, environment variables, packages, credentials of a cloud. Never a value.

It is read off the source of the agent's module, and of the modules of the same plug-in that this one imports: nothing is run or imported.
"""

from __future__ import annotations

import ast
import importlib.util
import linecache
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from flyteagent_nb.plugins import PLUGINS, package_command, plugin_of_distribution
from flyteagent_nb.serving.secret_store import name_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from flyteagent_nb.serving.catalog import AgentEntry

MODULES: Final = 30
"""Modules of a plug-in that are read at the most."""

_SECRET_CALLS: Final = frozenset({"get_connector_secret", "get_agent_secret"})
_IMPORT_ERRORS: Final = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
_LOOKUP_ERRORS: Final = frozenset({"ValueError", "KeyError", "LookupError", "Exception", "BaseException"})
_CLOUDS: Final = {
    "google.cloud": "google",
    "google.auth": "google",
    "boto3": "aws",
    "aioboto3": "aws",
    "botocore": "aws",
}


@dataclass(frozen=True)
class Need:
    """One thing that a task type wants.

    Attributes:
        kind: ``secret``, ``variable``, ``package`` or ``credentials``.
        name: what the agent calls it.
        met: whether it is there.
        required: whether the agent cannot do without it, as far as its source tells.
        told: where it is looked for, in words.
        mend: what provides it: a line of Python or a command; empty where it is met.
    """

    kind: Literal["secret", "variable", "package", "credentials"]
    name: str
    met: bool
    required: bool
    told: str
    mend: str = ""


def needs_of(entry: AgentEntry, given: Container[str] = ()) -> tuple[Need, ...]:
    """What the agent of a task type wants, missing things first. It reads files: not for the loop's thread.

    Args:
        entry: the agent.
        given: the names of the secrets that a person gave.
    """
    found: dict[tuple[str, str], Need] = {}
    for module, tree in _modules(type(entry.agent)):
        for need in _Reader(module, entry.package, given).read(tree):
            known = found.get((need.kind, need.name))
            if known is None or (need.required and not known.required):
                found[need.kind, need.name] = need
    order = ("package", "secret", "credentials", "variable")
    return tuple(sorted(found.values(), key=lambda n: (n.met, not n.required, order.index(n.kind), n.name)))


def needs_of_source(source: str, given: Container[str] = ()) -> tuple[Need, ...]:
    """The same, read off the text of a module that is not imported here."""
    found = {(need.kind, need.name): need for need in _Reader("__main__", "", given).read(ast.parse(source))}
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
            yield "__main__", tree
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
        yield name, tree
        for imported in _imported(tree, name, is_package=path.name == "__init__.py"):
            if imported.startswith(packages) and imported not in seen:
                seen.add(imported)
                names.append(imported)


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


# --- what it says ---


class _Reader:
    """Reads one module."""

    def __init__(self, module: str, package: str, given: Container[str]) -> None:
        self._module = module
        self._given = given
        self._plugin = plugin_of_distribution(package.partition(" ")[0])
        self._constants: dict[str, str] = {}
        self._guarded: dict[int, set[str]] = {}

    def read(self, tree: ast.Module) -> Iterator[Need]:
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
                for target in statement.targets:
                    if isinstance(target, ast.Name) and isinstance(statement.value.value, str):
                        self._constants[target.id] = statement.value.value
        for node in ast.walk(tree):
            # What stands in a `try` that takes its error may be missing: the agent has another way.
            if isinstance(node, ast.Try):
                taken = {_path(kind) for handler in node.handlers for kind in _kinds(handler)}
                for inner in (inner for part in node.body for inner in ast.walk(part)):
                    self._guarded[id(inner)] = self._guarded.get(id(inner), set()) | taken
        for node in ast.walk(tree):
            taken = self._guarded.get(id(node), set())
            errors = _IMPORT_ERRORS if isinstance(node, (ast.Import, ast.ImportFrom)) else _LOOKUP_ERRORS
            yield from self._needs(node, required=not taken & errors)

    def _needs(self, node: ast.AST, *, required: bool) -> Iterator[Need]:
        if isinstance(node, ast.Call):
            yield from self._call(node, required=required)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and _path(node.value) == "os.environ":
            if name := self._text(node.slice):
                yield variable(name, required=required)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from self._import(alias.name, required=required)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from self._import(node.module, required=required)
            for alias in node.names:
                yield from _cloud(f"{node.module}.{alias.name}")

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
        yield from _cloud(name)
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top == self._module.partition(".")[0]:
            return
        if _is_there(name):
            return
        if not _is_there(top):
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


def _kinds(handler: ast.ExceptHandler) -> list[ast.expr]:
    if handler.type is None:
        return [ast.Name("Exception")]
    return handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]


def _path(node: ast.AST) -> str:
    """``a.b.c`` of a chain of attributes, whatever it begins with."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
    return ".".join(reversed(parts))


# --- whether it is there ---


def secret(group: str, key: str, given: Container[str] = (), *, required: bool = True) -> Need:
    """A secret of flytekit's, as an agent asks for it; ``given`` are those of a person."""
    from flytekit.core.context_manager import SecretsManager

    manager = SecretsManager()
    named = manager.get_secrets_env_var(group or None, key or None)
    file = manager.get_secrets_file(group or None, key or None)
    called = "/".join(part for part in (group, key) if part)
    name = name_of(called)
    met = name in given or named in os.environ or os.path.exists(file)
    told = "given to this kernel" if name in given else f"variable {named} or file {file}"
    return Need("secret", called, met, required, told, "" if met else f"%agent secret {name}")


def variable(name: str, *, required: bool) -> Need:
    """An environment variable that the agent reads."""
    met = name in os.environ
    mend = "" if met or not required else f"import os; os.environ['{name}'] = '...'"
    return Need("variable", name, met, required, "environment variable", mend)


def _is_there(name: str) -> bool:
    """Whether a module could be imported, found out without running anything: of a dotted name what is loaded already is looked into."""
    if name in sys.modules:
        return sys.modules[name] is not None
    top, _, rest = name.partition(".")
    try:
        if not rest or top not in sys.modules:
            return importlib.util.find_spec(top) is not None
        parent = name.rpartition(".")[0]
        if parent in sys.modules:
            found: Any = importlib.util.find_spec(name)
            # The name of a class or function that is imported from its module is no module.
            return found is not None or hasattr(sys.modules[parent], name.rpartition(".")[2])
    except (ImportError, ValueError, AttributeError):
        return False
    return True


def _cloud(module: str) -> Iterator[Need]:
    for name, cloud in _CLOUDS.items():
        if module == name or module.startswith(f"{name}."):
            yield _google() if cloud == "google" else _aws()
            return


def _google() -> Need:
    file = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    folder = os.environ.get("CLOUDSDK_CONFIG") or os.path.join(
        os.environ.get("APPDATA", "") if os.name == "nt" else os.path.expanduser("~/.config"), "gcloud"
    )
    default = os.path.join(folder, "application_default_credentials.json")
    met = os.path.isfile(file) if file else os.path.isfile(default)
    told = (
        "the file that GOOGLE_APPLICATION_CREDENTIALS names, or gcloud's own; a machine in Google's cloud needs neither"
    )
    if file and not met:
        told = "GOOGLE_APPLICATION_CREDENTIALS names a file that is not there"
    return Need("credentials", "Google", met, True, told, "" if met else "gcloud auth application-default login")


def _aws() -> Need:
    names = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or os.path.expanduser("~/.aws/credentials")
    config = os.environ.get("AWS_CONFIG_FILE") or os.path.expanduser("~/.aws/config")
    met = any(name in os.environ for name in names) or os.path.isfile(file) or os.path.isfile(config)
    told = "AWS_ACCESS_KEY_ID, AWS_PROFILE or ~/.aws; a machine in AWS needs none"
    return Need("credentials", "AWS", met, True, told, "" if met else "aws configure")
