"""Task type -> agent service. Listings come over the wire, from each service's ListAgents."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from flyteagent_nb.errors import ServiceError, ServiceNotFoundError, TaskTypeNotFoundError, closest
from flyteagent_nb.plugins import hint_of_type, plugin_of_type

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flyteidl.admin.agent_pb2 import Agent

    from flyteagent_nb.running.services import AgentService


LIST_DEADLINE = 10.0
"""Seconds that a service has to list its agents."""

ASK_AGAIN = 10.0
"""Seconds until a service that did not list its agents is asked again, unless a task type is looked for in vain before."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where a task of a type goes.

    Attributes:
        service: the client of the service.
        agent: the agent's name there.
        is_sync: whether one call does it all.
    """

    service: AgentService
    agent: str
    is_sync: bool


class Router:
    """The services and what they list. On the loop's thread, but for :meth:`invalidate` and :meth:`lists`."""

    def __init__(self) -> None:
        self._services: dict[str, AgentService] = {}
        self._listings: dict[str, dict[tuple[str, int], Resolved]] = {}
        # A listing is stale while the number of its service's last change is not the one that it was asked for at.
        self._numbers = itertools.count(1)
        self._changed: dict[str, int] = {}
        self._asked: dict[str, int] = {}
        self._failed: dict[str, tuple[float, grpc.aio.AioRpcError]] = {}  # since when, by the monotonic clock
        self._refreshing = asyncio.Lock()

    async def add(self, service: AgentService) -> None:
        """Add a service, or put another in the place of one with the same name."""
        self._services[service.name] = service
        self.invalidate(service.name)

    def invalidate(self, name: str) -> None:
        """What a service lists has changed: the next resolve asks it again. Any thread."""
        self._changed[name] = next(self._numbers)

    def lists(self, task_type: str, version: int) -> bool:
        """Whether a service listed the type when it was last asked. Any thread."""
        return any((task_type, version) in listing for listing in tuple(self._listings.values()))

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
            raise ServiceNotFoundError(
                f"no agent service is called '{service}'",
                service=service,
                suggestion=closest(service, self._services),
                hint=f"there is: {', '.join(self._services) or 'none'}",
            )
        found = self._find(task_type, version, service)
        if found is None and self._failed:
            await self._refresh(list(self._failed))
            found = self._find(task_type, version, service)
        if found is not None:
            return found
        for name, (_, error) in self._failed.items():
            if service in (None, name):
                raise ServiceError(
                    f"the agent service '{name}' does not list its agents: {error.code().name}: {error.details()}",
                    service=name,
                    address=self._services[name].target,
                    hint="%unload_ext flyteagent_nb and %load_ext flyteagent_nb start the kernel's own service anew",
                ) from error
        raise self._not_found(task_type, version, service)

    async def close(self) -> None:
        """Close every channel."""
        await asyncio.gather(*(s.close() for s in self._services.values()))
        self._services.clear()
        self._listings.clear()

    def _find(self, task_type: str, version: int, service: str | None) -> Resolved | None:
        for name in [service] if service is not None else self._services:
            found = self._listings.get(name, {}).get((task_type, version))
            if found is not None:
                return found
        return None

    def _stale(self) -> list[str]:
        """The services to ask. One that did not answer keeps its last listing, and has a while."""
        return [
            name
            for name in self._services
            if self._asked.get(name) != self._changed[name]
            and (name not in self._failed or time.monotonic() - self._failed[name][0] > ASK_AGAIN)
        ]

    async def _refresh(self, names: list[str]) -> None:
        """Ask services for their agents. Who comes while somebody asks waits for that answer, a failure too."""
        came = time.monotonic()
        async with self._refreshing:
            for name in names:
                service = self._services[name]
                if name in self._failed and self._failed[name][0] >= came:
                    continue
                while self._asked.get(name) != (change := self._changed[name]):
                    try:
                        agents = await service.list_agents(deadline=LIST_DEADLINE)
                    except grpc.aio.AioRpcError as error:
                        self._failed[name] = time.monotonic(), error
                        break
                    self._failed.pop(name, None)
                    self._listings[name] = _listing(service, agents)
                    self._asked[name] = change

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
        near = None if plugin_of_type(task_type) else closest(task_type, {t for t, _ in known})
        return TaskTypeNotFoundError(
            f"{where} task type '{task_type}'",
            task_type=task_type,
            version=version,
            suggestion=near,
            hint=(not near and not service and hint_of_type(task_type))
            or (f"did you mean {near}? " if near else "")
            + "%agent types lists what there is; install the plug-in that has the agent, or register one in a cell",
        )


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
