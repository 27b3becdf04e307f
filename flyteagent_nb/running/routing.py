"""Task type -> agent service. Listings come over the wire, from each service's ListAgents."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from flyteagent_nb.errors import ServiceError, ServiceNotFoundError, TaskTypeNotFoundError, closest

if TYPE_CHECKING:
    from flyteagent_nb.running.services import AgentService


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
        self._stale: set[str] = set()
        self._refreshing = asyncio.Lock()

    async def add(self, service: AgentService) -> None:
        """Add a service, or put another in the place of one with the same name."""
        self._services[service.name] = service
        self._stale.add(service.name)

    def invalidate(self, name: str) -> None:
        """What a service lists has changed: the next resolve asks it again. Any thread."""
        self._stale.add(name)

    def lists(self, task_type: str, version: int) -> bool:
        """Whether a service listed the type when it was last asked. Any thread."""
        return any((task_type, version) in listing for listing in tuple(self._listings.values()))

    def listed(self, task_type: str, version: int, service: str | None = None) -> Resolved | None:
        """What :meth:`resolve` would answer without asking anybody, or None where it would have to."""
        if self._stale:
            return None
        for name in [service] if service is not None else self._services:
            found = self._listings.get(name, {}).get((task_type, version))
            if found is not None:
                return found
        return None

    async def resolve(self, task_type: str, version: int, service: str | None = None) -> Resolved:
        """The service for a task type, the newest listing considered.

        Raises:
            TaskTypeNotFoundError: no service lists it.
            ServiceNotFoundError: ``service`` is not connected.
            ServiceError: the service that should list it does not answer.
        """
        if self._stale:
            await self._refresh()
        if service is not None and service not in self._services:
            raise ServiceNotFoundError(
                f"no agent service is called '{service}'",
                service=service,
                suggestion=closest(service, self._services),
                hint=f"there is: {', '.join(self._services) or 'none'}",
            )
        found = self.listed(task_type, version, service)
        if found is not None:
            return found
        raise self._not_found(task_type, version, service)

    async def close(self) -> None:
        """Close every channel."""
        await asyncio.gather(*(s.close() for s in self._services.values()))
        self._services.clear()
        self._listings.clear()

    async def _refresh(self) -> None:
        async with self._refreshing:
            while self._stale:
                name = self._stale.pop()
                service = self._services.get(name)
                if service is None:
                    continue
                try:
                    agents = await service.list_agents(deadline=10.0)
                except grpc.aio.AioRpcError as error:
                    self._stale.add(name)
                    raise ServiceError(
                        f"the agent service '{name}' does not list its agents: {error.code().name}: {error.details()}",
                        service=name,
                        address=service.target,
                        hint="%unload_ext flyteagent_nb and %load_ext flyteagent_nb start the kernel's own service anew",
                    ) from error
                listing = {}
                for agent in agents:
                    found = Resolved(service, agent.name, agent.is_sync)
                    for category in agent.supported_task_categories:
                        listing[category.name, category.version] = found
                    if not agent.supported_task_categories:  # a service older than task categories
                        for task_type in agent.supported_task_types:
                            listing[task_type, 0] = found
                self._listings[name] = listing

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
        near = closest(task_type, {t for t, _ in known})
        return TaskTypeNotFoundError(
            f"{where} task type '{task_type}'",
            task_type=task_type,
            version=version,
            suggestion=near,
            hint=(f"did you mean {near}? " if near else "")
            + "%agent types lists what there is; install the plug-in that has the agent, or register one in a cell",
        )
