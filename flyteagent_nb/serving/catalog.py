"""The agents of this process: flytekit's registration taken over, so that an agent can be replaced, listed and removed.

flytekit's ``ConnectorRegistry._REGISTRY`` stays the truth of what is current, also for whoever writes into it directly: each
reading here compares first. ``_METADATA`` is built anew from it after each change, as flytekit only ever appends to it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import AgentDefinitionError, AgentNotFoundError, TaskTypeNotFoundError, closest
from flyteagent_nb.plugins import UNSERVED, hint_of_type, is_known

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from importlib.metadata import Distribution

    from flyteidl.admin.agent_pb2 import Agent

GENERATIONS_KEPT = 5
"""How many agents of one task category are remembered, the current one among them."""

NOTEBOOK = "this notebook"
"""The package of an agent whose class was defined in a cell."""

log = logging.getLogger("flyteagent_nb")


@dataclass(frozen=True)
class AgentEntry:
    """One registration of an agent.

    Attributes:
        task_type: the type it serves.
        version: the version of that type; a version is matched exactly.
        name: the agent's own name.
        is_sync: whether it answers in one call.
        package: distribution and version that its class comes from ("flytekit 1.16.31"), or "this notebook", or its module.
        in_notebook: whether its class was defined in ``__main__``.
        source: its class, as "module:qualname".
        agent: the agent object.
        generation: 1 for the first one of its task type and version in this process, counting up.
    """

    task_type: str
    version: int
    name: str
    is_sync: bool
    package: str
    in_notebook: bool
    source: str
    agent: Any = field(repr=False)
    generation: int


@dataclass(frozen=True)
class BrokenPlugin:
    """A plug-in of flytekit that could not be imported.

    Attributes:
        name: its entry point's name.
        module: the module that the entry point names.
        package: the distribution and version that declares it.
        reason: the error, as "ImportError: No module named 'x'".
    """

    name: str
    module: str
    package: str
    reason: str


class Catalog:
    """The agents of this process. Any thread may call any method; before :meth:`take_over` there are no agents."""

    def __init__(self) -> None:
        # Never held while flytekit is imported: the end of that import waits for it, in take_over.
        self._lock = threading.RLock()
        self._callbacks: list[Callable[[], None]] = []
        self._broken: dict[tuple[str, str], BrokenPlugin] = {}
        self._current: dict[tuple[str, int], AgentEntry] = {}  # in the registry's order; replaced, never changed
        self._history: dict[tuple[str, int], tuple[AgentEntry, ...]] = {}  # newest first
        self._registry: Any = None  # flytekit's ConnectorRegistry
        self._sync_base: Any = None  # flytekit's SyncConnectorBase
        self._plain_register: Any = None  # flytekit's register as it stood in the class, while ours stands there
        self._own_register: Any = None

    @property
    def broken(self) -> tuple[BrokenPlugin, ...]:
        """The plug-ins that could not be imported, in the order they were met."""
        with self._lock:
            return tuple(self._broken.values())

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after each change, on the thread that made the change or found it in flytekit's registry."""
        with self._lock:
            self._callbacks.append(callback)

    def take_over(self) -> None:
        """Stand in for flytekit's ``register`` and adopt what is registered already. Imports flytekit. May be called again."""
        self._bind()
        with self._lock:
            if self._own_register is None:
                self._plain_register = self._registry.__dict__["register"]
                plain = getattr(self._plain_register, "__func__", self._plain_register)
                self._own_register = staticmethod(self._make_register(plain))
                self._registry.register = self._own_register
        self._compare(rebuild=True)

    def release(self) -> None:
        """Put flytekit's own ``register`` back. Its registry and metadata keep what is registered now."""
        self._compare()
        with self._lock:
            self._give_back()

    def entries(self) -> tuple[AgentEntry, ...]:
        """The current agents, by task type and version."""
        current = self._compare()
        return tuple(current[key] for key in sorted(current))

    def current(self, task_type: str, version: int = 0) -> AgentEntry:
        """The agent of ``task_type`` in exactly that ``version``.

        Raises:
            TaskTypeNotFoundError: no agent serves it; tells the nearest name, or the versions that are served.
        """
        current = self._compare()
        entry = current.get((task_type, version))
        if entry is None:
            raise _not_found(task_type, version, current)
        return entry

    def generations(self, task_type: str, version: int = 0) -> tuple[AgentEntry, ...]:
        """The agents that ``task_type`` has had, newest first, at most GENERATIONS_KEPT; those of a removed type too."""
        self._compare()
        with self._lock:
            return self._history.get((task_type, version), ())

    def by_name(self, name: str) -> Agent:
        """The metadata of the agent called ``name``; where two kinds share the name, of the one that was registered first.

        Raises:
            AgentNotFoundError: no current agent has that name.
        """
        agents = {agent.name: agent for agent in reversed(self.metadata())}
        if name not in agents:
            raise AgentNotFoundError(f"no agent is called {name!r} here", name=name, suggestion=closest(name, agents))
        return agents[name]

    def metadata(self) -> list[Agent]:
        """What ListAgents answers: a message for each name and kind, with each task category once."""
        return _describe(self._compare().values())

    def register(self, agent: Any, package: str | None = None) -> AgentEntry:
        """Make ``agent`` the current one of its task type and version, in place of whichever is.

        Registering the current object again is no new generation. ``package`` stands for what is found out about its origin.

        Raises:
            AgentDefinitionError: ``agent`` is no agent.
        """
        self._bind()
        _check(agent)
        category = agent.task_category
        key = (category.name, category.version)
        # Kept from then on: reading the installed distributions is no work to do under the lock.
        _package_of(type(agent))
        with self._lock:
            self._registry._REGISTRY[category] = agent
            changed = self._adopt(key, agent, package)
            if changed:
                self._write_metadata()
            entry = self._current[key]
        if changed:
            self._notify()
        return entry

    def remove(self, task_type: str, version: int | None = None) -> tuple[AgentEntry, ...]:
        """Take the agents of ``task_type`` out, in one ``version`` or in all, and return them. Their generations are kept.

        Raises:
            TaskTypeNotFoundError: no agent serves it.
        """
        current = self._compare()
        keys = sorted(key for key in current if key[0] == task_type and version in (None, key[1]))
        if not keys:
            raise _not_found(task_type, version or 0, current)
        with self._lock:
            registry = self._registry._REGISTRY
            for category in list(registry):
                if (category.name, category.version) in keys:
                    registry.pop(category, None)
        self._compare()
        return tuple(current[key] for key in keys)

    def record_broken(self, plugin: BrokenPlugin) -> None:
        """Remember a plug-in that could not be imported; a later record of the same one replaces it."""
        with self._lock:
            self._broken[plugin.name, plugin.module] = plugin
        self._notify()

    def _bind(self) -> None:
        from flytekit.extend.backend.base_connector import ConnectorRegistry, SyncConnectorBase

        with self._lock:
            if ConnectorRegistry is not self._registry:
                self._give_back()  # flytekit was purged from sys.modules and imported anew
                self._registry = ConnectorRegistry
                self._sync_base = SyncConnectorBase

    def _make_register(self, plain: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(plain)
        def register(connector: Any, override: bool = False) -> None:
            if self._own_register is None:  # released, and somebody kept this function
                plain(connector, override)
            else:
                self.register(connector)

        return register

    def _give_back(self) -> None:
        if self._own_register is None:
            return
        # Where somebody put theirs over ours, it stays, and ours passes on.
        if self._registry.__dict__["register"] is self._own_register:
            self._registry.register = self._plain_register
        self._own_register = self._plain_register = None

    def _compare(self, *, rebuild: bool = False) -> dict[tuple[str, int], AgentEntry]:
        """Bring the entries in step with flytekit's registry, and return the current ones."""
        with self._lock:
            if self._registry is None:
                return {}
            found = {
                (category.name, category.version): agent for category, agent in list(self._registry._REGISTRY.items())
            }
            changed = any([self._adopt(key, agent) for key, agent in found.items()])
            if changed or len(self._current) != len(found):
                self._current = {key: self._current[key] for key in found}
                changed = rebuild = True
            if rebuild:
                self._write_metadata()
            current = self._current
        if changed:
            self._notify()
        return current

    def _adopt(self, key: tuple[str, int], agent: Any, package: str | None = None) -> bool:
        """Note the agent that is current in the registry; whether anything about it is new."""
        name = str(getattr(agent, "name", type(agent).__name__))
        known = self._current.get(key)
        same = known if known is not None and known.agent is agent else None
        if same is not None and same.name == name and package in (None, same.package):
            return False
        history = self._history.get(key, ())
        cls = type(agent)
        entry = AgentEntry(
            task_type=key[0],
            version=key[1],
            name=name,
            is_sync=isinstance(agent, self._sync_base),
            package=package or (same.package if same else _package_of(cls)),
            in_notebook=cls.__module__ == "__main__",
            source=f"{cls.__module__}:{cls.__qualname__}",
            agent=agent,
            generation=same.generation if same else history[0].generation + 1 if history else 1,
        )
        older = [e for e in history if e.agent is not agent]  # an object that comes back is not tried twice
        self._history[key] = (entry, *older)[:GENERATIONS_KEPT]
        self._current = {**self._current, key: entry}
        return True

    def _write_metadata(self) -> None:
        """Set flytekit's own metadata, one agent to a name: a second kind of that name stands under a key of its own."""
        metadata: dict[str, Agent] = {}
        for agent in _describe(self._current.values()):
            key = agent.name if agent.name not in metadata else f"{agent.name} ({'sync' if agent.is_sync else 'async'})"
            metadata[key] = agent
        self._registry._METADATA = metadata  # one assignment: readers on other threads see the old one or the new one

    def _notify(self) -> None:
        with self._lock:
            callbacks = list(self._callbacks)
        for callback in callbacks:
            try:
                callback()
            except Exception:  # whoever registers an agent has nothing to do with who listens
                log.exception("a subscriber of the catalogue failed")


def _check(agent: Any) -> None:
    """Raise AgentDefinitionError where ``agent`` cannot be registered."""
    from flytekit.extend.backend.base_connector import AsyncConnectorBase, SyncConnectorBase

    bases = (AsyncConnectorBase, SyncConnectorBase)
    subclass = "subclass AsyncAgentBase or SyncAgentBase of flytekit"
    kind = agent if isinstance(agent, type) else type(agent)
    if any(each.__module__.partition(".")[0] == "flyte" for each in kind.__mro__):
        raise AgentDefinitionError(
            f"{kind.__name__} is a connector of Flyte 2 (flyte.connectors), another interface, which does not run here",
            hint=f"{subclass} for FlytePropeller; Flyte 2's own documentation tells how its connectors are run",
        )
    if isinstance(agent, type):
        hint = f"register({agent.__name__}())" if issubclass(agent, bases) else subclass
        raise AgentDefinitionError(f"{agent.__name__} is a class, and an agent is an object", hint=hint)
    cls = type(agent).__name__
    if not isinstance(agent, bases):
        raise AgentDefinitionError(f"an object of type {cls} is no agent", hint=subclass)
    category = getattr(agent, "_task_category", None)
    if category is None or not isinstance(category.name, str) or not category.name:
        hint = f'call super().__init__(task_type_name="...") in {cls}.__init__'
        raise AgentDefinitionError(f"the agent {cls} has no task type", hint=hint)
    if not isinstance(category.version, int):
        raise AgentDefinitionError(f"the task type version of the agent {cls} is no whole number: {category.version!r}")
    if not isinstance(agent.name, str) or not agent.name:
        raise AgentDefinitionError(f"the agent {cls} has no name", hint=f'set name = "..." in the class {cls}')
    if isinstance(agent, AsyncConnectorBase):
        _check_metadata_type(cls, agent.metadata_type)


def _check_metadata_type(cls: str, kind: Any) -> None:
    """Raise AgentDefinitionError where a job's resource meta would not come back from the wire as what ``create`` returned."""
    from flytekit.extend.backend.base_connector import ResourceMeta

    if not isinstance(kind, type) or not hasattr(kind, "encode") or not hasattr(kind, "decode"):
        told = kind.__name__ if isinstance(kind, type) else f"an object of type {type(kind).__name__}"
        raise AgentDefinitionError(
            f"the metadata_type of the agent {cls}, {told}, is no class of a ResourceMeta",
            hint="it is a dataclass that holds a job's id: @dataclass above class JobMeta(ResourceMeta)",
        )
    # ResourceMeta encodes a dataclass's fields, and is one without any.
    own = vars(kind)
    plain = "__dataclass_fields__" not in own and ("__init__" in own or own.get("__annotations__"))
    if plain and kind.encode is ResourceMeta.encode:
        raise AgentDefinitionError(
            f"the metadata_type of the agent {cls}, {kind.__name__}, is no dataclass: get would not have what create put into it",
            hint=f"write @dataclass above the class {kind.__name__}",
        )


def _describe(entries: Iterable[AgentEntry]) -> list[Agent]:
    from flyteidl.admin.agent_pb2 import Agent, TaskCategory

    agents: dict[tuple[str, bool], Agent] = {}
    for entry in entries:
        agent = agents.setdefault((entry.name, entry.is_sync), Agent(name=entry.name, is_sync=entry.is_sync))
        agent.supported_task_categories.append(TaskCategory(name=entry.task_type, version=entry.version))
        if entry.task_type not in agent.supported_task_types:
            agent.supported_task_types.append(entry.task_type)
    return list(agents.values())


def _not_found(task_type: str, version: int, known: Iterable[tuple[str, int]]) -> TaskTypeNotFoundError:
    known = sorted(known)
    versions = [str(v) for name, v in known if name == task_type]
    if versions:
        served = f"version {versions[0]} is" if len(versions) == 1 else f"versions {', '.join(versions)} are"
        message = f"no agent here serves version {version} of the task type {task_type!r}; {served} served"
        return TaskTypeNotFoundError(message, task_type=task_type, version=version)
    near = None if is_known(task_type) else closest(task_type, (name for name, _ in known))
    return TaskTypeNotFoundError(
        f"no agent here serves the task type {task_type!r}",
        task_type=task_type,
        version=version,
        suggestion=near,
        hint="" if near else hint_of_type(task_type) or UNSERVED,
    )


def _package_of(cls: type) -> str:
    return NOTEBOOK if cls.__module__ == "__main__" else distribution_of(cls.__module__) or cls.__module__


@functools.lru_cache(maxsize=256)
def distribution_of(module: str) -> str | None:
    """Name and version of the distribution that ``module`` comes from, or None."""
    from importlib import metadata

    package = module.partition(".")[0]
    with contextlib.suppress(metadata.PackageNotFoundError):
        return f"{package} {metadata.version(package)}"
    path = module.replace(".", "/")
    files = tuple(f"\n{path}{end}," for end in (".py", "/__init__.py"))
    named = []
    for found in metadata.distributions():
        # Several share a namespace package, as flytekitplugins. The text as it stands: its parsed files cost a second.
        record = "\n" + (found.read_text("RECORD") or "")
        if any(file in record for file in files):
            return _name_of(found)
        # A class may name a module that is no such file, and an editable distribution lists none of its files.
        if f"\n{package}/" in record or package in (found.read_text("top_level.txt") or "").split():
            named.append(found)
    return _name_of(named[0]) if len(named) == 1 else None


def _name_of(distribution: Distribution) -> str:
    return f"{distribution.metadata['Name']} {distribution.version}"
