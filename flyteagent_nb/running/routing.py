"""Task type -> agent service. Listings come over the wire, from each service's ListAgents, and propeller's rules choose among them.

The order: the service that is asked for, an explicit route, an agent defined in this notebook, what the connected services list (rules 1
to 3), what this kernel lists, the connected default service.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from flyteagent_nb import wire
from flyteagent_nb.errors import ServiceError, ServiceNotFoundError, TaskTypeNotFoundError, closest
from flyteagent_nb.plugins import UNSERVED, hint_of_type, is_known

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from flyteidl.admin.agent_pb2 import Agent

    from flyteagent_nb.running.services import AgentService


LIST_DEADLINE = 10.0
"""Seconds that a service has to list its agents."""

ASK_AGAIN = 10.0
"""Seconds until the kernel's own service, where it did not list its agents, is asked again by who needs it."""

POLL = 10.0
"""Seconds between two listings of a connected service, as propeller has it."""

REASONS = {
    "asked": "asked for",
    "explicit": "a route",
    "notebook": "defined in this notebook",
    "listed": "it lists it",
    "supported": "its configuration names it",
    "default": "the default service",
}
"""Why a task goes to a service, in words."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where a task of a type goes.

    Attributes:
        service: the client of the service.
        agent: the agent's name there; empty where the service does not list it.
        is_sync: whether one call does it all.
        reason: a key of :data:`REASONS`.
    """

    service: AgentService
    agent: str
    is_sync: bool
    reason: str = "listed"


@dataclass(frozen=True)
class Connection:
    """A connected service, as a person sees it.

    Attributes:
        name: its name.
        target: its address.
        is_default: whether it takes what nobody else serves.
        types: how many task types it listed last.
        unreachable: since when it does not answer, in seconds since the epoch, or None.
        trouble: its last error, or an empty string.
    """

    name: str
    target: str
    is_default: bool
    types: int
    unreachable: float | None
    trouble: str


class Router:
    """The services and what they list. On the loop's thread, but for :meth:`invalidate`, :meth:`lists` and what is read."""

    def __init__(
        self,
        in_notebook: Callable[[str, int], bool] = lambda task_type, version: False,
        mask: Callable[[str], str] = lambda text: text,
    ) -> None:
        """Nobody is asked yet.

        Args:
            in_notebook: whether an agent that was defined in this notebook serves a task type and version. Any thread.
            mask: takes the values known as secret out of what a service says. Any thread.
        """
        self._in_notebook = in_notebook
        self._mask = mask
        self._services: dict[str, AgentService] = {}
        self._listings: dict[str, dict[tuple[str, int], Resolved]] = {}
        self._routes: dict[tuple[str, int | None], str] = {}
        self._supported: dict[str, Sequence[str]] = {}
        self._default = ""
        self._merged: dict[tuple[str, int], Resolved] = {}  # what the connected services list, by propeller's rules
        # A listing is stale while the number of its service's last change is not the one that it was asked for at.
        self._numbers = itertools.count(1)
        self._changed: dict[str, int] = {}
        self._asked: dict[str, int] = {}
        self._failed: dict[str, tuple[float, grpc.aio.AioRpcError]] = {}  # since when, by the monotonic clock
        self._silent: dict[str, float] = {}  # since when a service does not answer, in seconds since the epoch
        self._refreshing = asyncio.Lock()
        self._polling: asyncio.Task[None] | None = None

    # --- who is there ---

    async def add(self, service: AgentService, *, default: bool = False, supported: Sequence[str] = ()) -> None:
        """Add a service, or put another in the place of one with the same name, whose calls under way go on to their end.

        Args:
            service: its client.
            default: whether it takes what nobody else serves, as propeller's default service.
            supported: the task types that are its own where nobody lists them.
        """
        self._services.pop(service.name, None)  # what is connected last is asked first
        self._services[service.name] = service
        self._listings.pop(service.name, None)
        self._failed.pop(service.name, None)
        self._silent.pop(service.name, None)
        self._supported[service.name] = supported
        if default:
            self._default = service.name
        elif self._default == service.name:
            self._default = ""
        self.invalidate(service.name)
        self._rebuild()
        if service.name != wire.KERNEL_SERVICE and self._polling is None:
            self._polling = asyncio.get_running_loop().create_task(self._poll())

    async def remove(self, name: str) -> None:
        """Take a service away, and the routes to it. Its runs go on: its channel closes when the last of them lets go of it.

        Raises:
            ServiceNotFoundError: it is not connected.
        """
        if name == wire.KERNEL_SERVICE or name not in self._services:
            raise self._no_service(name)
        del self._services[name]
        for known in (self._listings, self._failed, self._silent, self._supported, self._changed, self._asked):
            known.pop(name, None)
        self._routes = {key: target for key, target in self._routes.items() if target != name}
        if self._default == name:
            self._default = ""
        self._rebuild()

    def route(self, task_type: str, version: int | None, name: str | None) -> None:
        """Send a task type to a service, whoever lists it; None takes the route away.

        Args:
            task_type: the task type.
            version: its version, or None for every version.
            name: the service's name.

        Raises:
            ServiceNotFoundError: it is not connected.
            TaskTypeNotFoundError: there is no such route to take away.
        """
        if name is not None:
            self.check(name)
            self._routes[task_type, version] = name
        elif self._routes.pop((task_type, version), None) is None:
            told = ", ".join(each if v is None else f"{each}@{v}" for each, v in self._routes)
            raise TaskTypeNotFoundError(
                f"there is no route of '{task_type}'", task_type=task_type, version=version or 0,
                hint=f"the routes are of: {told}" if told else "there are no routes",
            )  # fmt: skip

    def invalidate(self, name: str) -> None:
        """What a service lists has changed: the next resolve asks it again. Any thread."""
        self._changed[name] = next(self._numbers)

    # --- what is known; any thread ---

    def lists(self, task_type: str, version: int) -> bool:
        """Whether a service listed the type when it was last asked, or a route names it."""
        key = (task_type, version)
        if key in self._routes or (task_type, None) in self._routes:
            return True
        return any(key in listing for listing in tuple(self._listings.values())) or any(
            task_type in types for types in tuple(self._supported.values())
        )

    def versions(self, task_type: str) -> list[int]:
        """The versions of a task type that any service listed when it was last asked, or a route or a configuration names."""
        known = {key for listing in tuple(self._listings.values()) for key in listing}
        known |= {(name, version or 0) for name, version in tuple(self._routes)}
        known |= {(name, 0) for types in tuple(self._supported.values()) for name in types}
        return sorted(version for name, version in known if name == task_type)

    def connections(self) -> list[Connection]:
        """The connected services; the kernel's own is the first."""
        return [
            Connection(
                name, service.target, name == self._default, len(self._listings.get(name, ())), self._silent.get(name),
                self._mask(_told(self._failed[name][1])) if name in self._failed else "",
            )
            for name, service in tuple(self._services.items())
        ]  # fmt: skip

    def check(self, name: str) -> None:
        """Raise ServiceNotFoundError where no service is called so."""
        if name not in self._services:
            raise self._no_service(name)

    def connected(self, name: str) -> AgentService | None:
        """The client of a connected service, or None."""
        return self._services.get(name)

    def routes(self) -> dict[tuple[str, int | None], str]:
        """The explicit routes: service by task type and version, None for every version."""
        return dict(self._routes)

    def table(self) -> dict[tuple[str, int], Resolved]:
        """Where each task type and version goes that anybody is known to serve."""
        keys = {key for listing in tuple(self._listings.values()) for key in listing} | set(self._merged)
        keys |= {(task_type, version or 0) for task_type, version in self._routes}
        return {key: found for key in sorted(keys) if (found := self._find(*key, None)) is not None}

    # --- where a task goes ---

    def listed(self, task_type: str, version: int, service: str | None = None) -> Resolved | None:
        """What :meth:`resolve` would answer without asking anybody, or None where it would have to."""
        if self._stale():
            return None
        return self._find(task_type, version, service)

    async def resolve(self, task_type: str, version: int, service: str | None = None) -> Resolved:
        """The service for a task type, the newest listing considered.

        Raises:
            TaskTypeNotFoundError: no service lists it.
            ServiceNotFoundError: ``service`` is not connected.
            ServiceError: no service lists it, and one does not answer.
        """
        stale = self._stale()
        if stale:
            await self._refresh(stale)
        if service is not None and service not in self._services:
            raise self._no_service(service)
        found = self._find(task_type, version, service)
        if found is None and self._failed:
            await self._refresh(list(self._failed))
            found = self._find(task_type, version, service)
        if found is not None:
            return found
        for name, (_, error) in self._failed.items():
            if service in (None, name):
                raise ServiceError(
                    f"the agent service '{name}' does not list its agents: {self._mask(_told(error))}",
                    service=name,
                    address=self._services[name].target,
                    hint="%unload_ext flyteagent_nb and %load_ext flyteagent_nb start the kernel's own service anew"
                    if name == wire.KERNEL_SERVICE
                    else f"%agent connect {name} ADDRESS connects it anew, %agent disconnect {name} takes it away",
                ) from error
        raise self._not_found(task_type, version, service)

    async def refresh(self) -> None:
        """Ask every service for its agents now. Nobody else waits for one that does not answer."""
        await asyncio.gather(*(self._ask(name) for name in list(self._services)))

    async def close(self) -> None:
        """Close every channel."""
        if self._polling is not None:
            self._polling.cancel()
        await asyncio.gather(*(s.close() for s in self._services.values()))
        for known in (self._services, self._listings, self._merged):
            known.clear()

    def _find(self, task_type: str, version: int, service: str | None) -> Resolved | None:
        key = (task_type, version)
        if service is not None:
            found = self._listings.get(service, {}).get(key)
            if found is None and task_type in self._supported.get(service, ()):
                return Resolved(self._services[service], "", False, "supported")
            if found is None and self._route(key) == service:
                return Resolved(self._services[service], "", False, "explicit")
            return None if found is None else _because(found, "asked")
        name = self._route(key)
        if name is not None and name in self._services:
            found = self._listings.get(name, {}).get(key)  # it keeps its own kind, which propeller would not look at
            return Resolved(
                self._services[name], found.agent if found else "", bool(found and found.is_sync), "explicit"
            )
        own = self._listings.get(wire.KERNEL_SERVICE, {}).get(key)
        if own is not None and len(self._services) == 1:
            return own
        if own is not None and self._in_notebook(task_type, version):
            return _because(own, "notebook")
        found = self._merged.get(key, own)
        if found is not None:
            return found
        if self._default in self._services:
            return Resolved(self._services[self._default], "", False, "default")
        return None

    def _route(self, key: tuple[str, int]) -> str | None:
        return self._routes.get(key) or self._routes.get((key[0], None))

    def _rebuild(self) -> None:
        """Apply propeller's rule 1: each service over the ones before it, the default one first; what a configuration names fills gaps.

        Ours: all versions of a task type are kept, where propeller keeps the last one listed.
        """
        names = [name for name in self._services if name not in (wire.KERNEL_SERVICE, self._default)]
        merged = {key: found for name in (self._default, *names) for key, found in self._listings.get(name, {}).items()}
        listed = {task_type for task_type, _ in merged}
        for name, types in self._supported.items():
            for task_type in types:
                if task_type not in listed:
                    merged.setdefault((task_type, 0), Resolved(self._services[name], "", False, "supported"))
        self._merged = merged

    async def _poll(self) -> None:
        """Ask the connected services every POLL seconds, one that is slow beside the others."""
        while True:
            await asyncio.sleep(POLL)
            names = [name for name in self._services if name != wire.KERNEL_SERVICE]
            await asyncio.gather(*(self._ask(name) for name in names), return_exceptions=True)

    def _stale(self) -> list[str]:
        """The services to ask before a task is routed. One that did not answer keeps its last listing, and is asked beside the runs."""
        return [
            name
            for name in self._services
            if self._asked.get(name) != self._changed[name]
            and (
                name not in self._failed
                or (name == wire.KERNEL_SERVICE and self._failed[name][0] + ASK_AGAIN < time.monotonic())
            )
        ]

    async def _refresh(self, names: list[str]) -> None:
        """Ask services for their agents. Who comes while somebody asks waits for that answer, a failure too."""
        came = time.monotonic()
        async with self._refreshing:
            open_names = [n for n in names if not (n in self._failed and self._failed[n][0] >= came)]
            await asyncio.gather(*(self._ask_changed(name) for name in open_names))

    async def _ask_changed(self, name: str) -> None:
        while name in self._services and self._asked.get(name) != self._changed[name]:
            if not await self._ask(name):
                break

    async def _ask(self, name: str) -> bool:
        """Ask one service; whether it answered."""
        service = self._services.get(name)
        if service is None:  # taken away meanwhile
            return False
        change = self._changed[name]
        try:
            agents = await service.list_agents(deadline=LIST_DEADLINE)
        except grpc.aio.AioRpcError as error:
            is_old = error.code() is grpc.StatusCode.UNIMPLEMENTED and name != wire.KERNEL_SERVICE
            if is_old and not self._listings.get(name):
                # Older than the listing of agents: it serves what a route or a configuration sends there, as propeller has it.
                self._take(service, {}, change)
                return True
            if self._services.get(name) is service:
                self._failed[name] = time.monotonic(), error
                self._silent.setdefault(name, time.time())
            return False
        self._take(service, _listing(service, agents), change)
        return True

    def _take(self, service: AgentService, listing: dict[tuple[str, int], Resolved], change: int) -> None:
        """Know what a service lists, where it was not replaced meanwhile."""
        name = service.name
        if self._services.get(name) is service:
            self._failed.pop(name, None)
            self._silent.pop(name, None)
            self._listings[name] = listing
            self._asked[name] = change
            self._rebuild()

    def _no_service(self, name: str) -> ServiceNotFoundError:
        return ServiceNotFoundError(
            f"no agent service is called '{name}'",
            service=name,
            suggestion=closest(name, self._services),
            hint=f"there is: {', '.join(self._services) or 'none'}",
        )

    def _not_found(self, task_type: str, version: int, service: str | None) -> TaskTypeNotFoundError:
        listings = [self._listings.get(service, {})] if service else list(self._listings.values())
        known = {key for listing in listings for key in listing}
        versions = sorted(v for t, v in known if t == task_type)
        where = f"the agent service '{service}' serves no" if service else "no agent serves the"
        if versions:
            return TaskTypeNotFoundError(
                f"{where} task type '{task_type}' in version {version}",
                task_type=task_type,
                version=version,
                hint=f"it is served in version {', '.join(map(str, versions))}; a version matches exactly, as in FlytePropeller",
            )
        near = None if is_known(task_type) else closest(task_type, {t for t, _ in known})
        return TaskTypeNotFoundError(
            f"{where} task type '{task_type}'",
            task_type=task_type,
            version=version,
            suggestion=near,
            hint=(not near and not service and hint_of_type(task_type))
            or (f"did you mean {near}? " if near else "") + UNSERVED,
        )


def _because(found: Resolved, reason: str) -> Resolved:
    return Resolved(found.service, found.agent, found.is_sync, reason)


def _told(error: grpc.aio.AioRpcError) -> str:
    # Of several addresses gRPC tells the last one's error; where there is one, the words around it are in the way.
    details = (error.details() or "").rpartition("connections to all backends failing; last error: ")[2]
    return f"{error.code().name}: {details.removeprefix('UNKNOWN: ')}"


def _listing(service: AgentService, agents: Iterable[Agent]) -> dict[tuple[str, int], Resolved]:
    listing = {}
    for agent in agents:
        found = Resolved(service, agent.name, agent.is_sync)
        for category in agent.supported_task_categories:
            listing[category.name, category.version] = found
        if not agent.supported_task_categories:  # a service older than task categories
            for task_type in agent.supported_task_types:
                listing[task_type, 0] = found
    return listing
