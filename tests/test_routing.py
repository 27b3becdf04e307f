"""Task type -> agent service: listings over the wire, when they are asked for, and a service that does not answer."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from flyteidl.admin.agent_pb2 import Agent, ListAgentsResponse, TaskCategory
from flyteidl.service.agent_pb2_grpc import AgentMetadataServiceServicer, add_AgentMetadataServiceServicer_to_server
from scripted import ScriptedAgent
from scripted_tasks import PATIENCE, scripted_task

from flyteagent_nb import wire
from flyteagent_nb.errors import ServiceError, ServiceNotFoundError, TaskTypeNotFoundError
from flyteagent_nb.loop import get_loop_thread
from flyteagent_nb.running.routing import Router
from flyteagent_nb.running.services import AgentService

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from scripted_tasks import Agents

    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)


def agent(name: str, *types: str, is_sync: bool = False, version: int = 0) -> Agent:
    categories = [TaskCategory(name=each, version=version) for each in types]
    return Agent(name=name, is_sync=is_sync, supported_task_types=types, supported_task_categories=categories)


class Listing(AgentMetadataServiceServicer):  # type: ignore[misc]
    """A service that lists what a test says, counts how often, and waits or fails on request."""

    def __init__(self, agents: list[Agent]) -> None:
        self.agents = agents
        self.asked = 0
        self.status: grpc.StatusCode | None = None
        self.entered = asyncio.Event()
        self.answer = asyncio.Event()
        self.answer.set()

    async def ListAgents(self, request: Any, context: Any) -> Any:
        self.asked += 1
        self.entered.set()
        listed = list(self.agents)
        await self.answer.wait()
        if self.status is not None:
            await context.abort(self.status, "out of order")
        return ListAgentsResponse(agents=listed)


@contextlib.asynccontextmanager
async def serving(folder: Path, router: Router, **listings: Listing) -> AsyncIterator[None]:
    servers = []
    for name, listing in listings.items():
        server = grpc.aio.server(options=wire.OPTIONS)
        add_AgentMetadataServiceServicer_to_server(listing, server)
        target = f"unix:{folder}/{name}"
        server.add_insecure_port(target)
        await server.start()
        servers.append(server)
        await router.add(AgentService(name, target))
    try:
        yield
    finally:
        await router.close()
        for server in servers:
            await server.stop(None)


def on_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``test`` on the loop's thread, where every channel belongs."""
    get_loop_thread().run(test(), PATIENCE)


def test_the_kind_and_the_service_come_from_the_listing(tmp_path: Path) -> None:
    async def test() -> None:
        router = Router()
        one = Listing([agent("A", "t1", "t2"), agent("S", "s", is_sync=True)])
        async with serving(tmp_path, router, one=one):
            assert router.listed("t1", 0) is None  # nobody has been asked yet
            found = await router.resolve("t2", 0)
            assert (found.service.name, found.agent, found.is_sync) == ("one", "A", False)
            assert (await router.resolve("s", 0)).is_sync
            assert router.listed("t1", 0) == await router.resolve("t1", 0)
            assert router.lists("t1", 0) and not router.lists("t1", 1) and not router.lists("x", 0)
            assert one.asked == 1

    on_loop(test)


def test_the_service_that_was_connected_last_wins(tmp_path: Path) -> None:
    async def test() -> None:
        router = Router()
        async with serving(tmp_path, router, one=Listing([agent("A", "t")]), two=Listing([agent("B", "t", "u")])):
            assert (await router.resolve("t", 0)).agent == "B"
            assert (await router.resolve("u", 0)).agent == "B"
            assert (await router.resolve("t", 0, "one")).agent == "A"
            with pytest.raises(TaskTypeNotFoundError, match="the agent service 'one' serves no task type 'u'"):
                await router.resolve("u", 0, "one")
            with pytest.raises(ServiceNotFoundError, match="no agent service is called 'onne'") as raised:
                await router.resolve("t", 0, "onne")
            assert raised.value.suggestion == "one"

    on_loop(test)


def test_a_named_service_goes_over_the_default_one_and_supported_types_fill_gaps(tmp_path: Path) -> None:
    async def test() -> None:
        router = Router()
        one = Listing([agent("x", "b"), agent("y", "b", "n", is_sync=True)])
        every = Listing([agent("d", "a", "b"), agent("s", "s", is_sync=True)])
        async with serving(tmp_path, router, one=one, default=every):
            default = router.connected("default")
            assert default is not None
            await router.add(default, default=True, supported=("b", "c"))  # connected last, and yet overruled

            async def goes(task_type: str) -> tuple[str, str, bool, str]:
                found = await router.resolve(task_type, 0)
                return found.service.name, found.agent, found.is_sync, found.reason

            assert await goes("a") == ("default", "d", False, "listed")
            assert await goes("b") == ("one", "y", True, "listed")
            assert await goes("c") == ("default", "", False, "supported")
            assert await goes("s") == ("default", "s", True, "listed")
            assert await goes("S") == ("default", "", False, "default")
            router.route("b", None, "one")
            router.route("s", None, "one")
            assert await goes("b") == ("one", "y", True, "explicit")  # it keeps the kind that its service lists
            assert await goes("s") == ("one", "", False, "explicit")  # another service's kind does not count

    on_loop(test)


def test_a_version_matches_exactly(tmp_path: Path) -> None:
    async def test() -> None:
        router = Router()
        async with serving(tmp_path, router, one=Listing([agent("A", "t", version=2), agent("B", "t", version=5)])):
            assert (await router.resolve("t", 5)).agent == "B"
            with pytest.raises(TaskTypeNotFoundError, match=r"in version 0\nhint: it is served in version 2, 5"):
                await router.resolve("t", 0)

    on_loop(test)


def test_a_service_without_task_categories(tmp_path: Path) -> None:
    async def test() -> None:
        router = Router()
        old = Agent(name="Old", supported_task_types=["t"])
        async with serving(tmp_path, router, one=Listing([old])):
            assert (await router.resolve("t", 0)).agent == "Old"

    on_loop(test)


def test_a_change_is_seen_by_the_next_resolve(tmp_path: Path) -> None:
    async def test() -> None:
        router = Router()
        one = Listing([agent("A", "t")])
        async with serving(tmp_path, router, one=one):
            await router.resolve("t", 0)
            one.agents = [agent("B", "t", is_sync=True)]
            router.invalidate("one")
            assert router.listed("t", 0) is None
            assert (await router.resolve("t", 0)).is_sync
            assert one.asked == 2

    on_loop(test)


def test_a_change_while_the_listing_is_under_way_is_not_lost(tmp_path: Path) -> None:
    async def test() -> None:
        router = Router()
        one = Listing([agent("A", "t")])
        async with serving(tmp_path, router, one=one):
            one.answer.clear()
            asking = asyncio.ensure_future(router.resolve("u", 0))
            await one.entered.wait()
            one.agents.append(agent("B", "u"))
            router.invalidate("one")
            one.answer.set()
            assert (await asking).agent == "B"

    on_loop(test)


def test_who_comes_while_somebody_asks_waits_for_the_answer(tmp_path: Path) -> None:
    async def test() -> None:
        router = Router()
        one = Listing([agent("A", "t")])
        async with serving(tmp_path, router, one=one):
            one.answer.clear()
            first = asyncio.ensure_future(router.resolve("t", 0))
            await one.entered.wait()
            others = [asyncio.ensure_future(router.resolve("t", 0)) for _ in range(20)]
            await asyncio.sleep(0)
            assert router.listed("t", 0) is None
            one.answer.set()
            found = await asyncio.gather(first, *others)
            assert {each.agent for each in found} == {"A"} and one.asked == 1

    on_loop(test)


def test_whoever_asks_may_be_cancelled(tmp_path: Path) -> None:
    async def test() -> None:
        router = Router()
        one = Listing([agent("A", "t")])
        async with serving(tmp_path, router, one=one):
            one.answer.clear()
            asking = asyncio.ensure_future(router.resolve("t", 0))
            await one.entered.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            one.answer.set()
            assert (await router.resolve("t", 0)).agent == "A"

    on_loop(test)


def test_a_service_that_fails_is_skipped_and_keeps_its_last_listing(tmp_path: Path) -> None:
    async def test() -> None:
        router = Router()
        one, two = Listing([agent("A", "t")]), Listing([agent("B", "u")])
        async with serving(tmp_path, router, one=one, two=two):
            await router.resolve("t", 0)
            one.status = grpc.StatusCode.UNIMPLEMENTED
            router.invalidate("one")
            assert (await router.resolve("u", 0)).agent == "B"
            assert (await router.resolve("t", 0)).agent == "A"
            asked = one.asked
            assert router.listed("t", 0) is not None  # it is left in peace for a while
            with pytest.raises(ServiceError, match="'one' does not list its agents: UNIMPLEMENTED: out of order") as e:
                await router.resolve("new", 0)
            assert (e.value.service, one.asked) == ("one", asked + 1)
            with pytest.raises(TaskTypeNotFoundError):
                await router.resolve("new", 0, "two")
            one.status = None
            one.agents.append(agent("C", "new"))
            assert (await router.resolve("new", 0)).agent == "C"
            with pytest.raises(TaskTypeNotFoundError):  # it is well again: the type is what is missing
                await router.resolve("newer", 0)

    on_loop(test)


def test_a_service_that_nobody_runs(tmp_path: Path) -> None:
    async def test() -> None:
        router = Router()
        await router.add(AgentService("gone", f"unix:{tmp_path}/nobody"))
        with pytest.raises(ServiceError, match="'gone' does not list its agents: UNAVAILABLE") as raised:
            await router.resolve("t", 0)
        assert raised.value.address == f"unix:{tmp_path}/nobody"
        await router.close()

    on_loop(test)


def test_a_service_of_the_same_name_takes_the_place(tmp_path: Path) -> None:
    async def test() -> None:
        router = Router()
        one, two = Listing([agent("A", "t")]), Listing([agent("B", "t")])
        async with serving(tmp_path, router, one=one, two=two):
            await router.resolve("t", 0)
            other = AgentService("one", f"unix:{tmp_path}/two")
            before = router._services["one"]
            await router.add(other)
            found = await router.resolve("t", 0)
            assert (found.agent, found.service) == ("B", other)
            await before.close()

    on_loop(test)


def test_two_runs_of_a_type_that_was_registered_just_now(workspace: Workspace, agents: Agents) -> None:
    """The first one's question for the new listing is under way when the second one looks."""
    for number in range(20):
        workspace.catalog.register(ScriptedAgent(f"fresh_{number}"))
        runs = [workspace.submit(scripted_task(f"fresh_{number}"), {}) for _ in range(8)]
        for run in runs:
            run.result(PATIENCE)


def test_a_run_goes_to_the_service_that_was_asked_for(workspace: Workspace, agents: Agents) -> None:
    assert workspace.submit(scripted_task("noop"), {}, service="kernel").result(PATIENCE) is None
    with pytest.raises(ServiceNotFoundError, match="no agent service is called 'prod'\nhint: there is: kernel"):
        workspace.submit(scripted_task("noop"), {}, service="prod").result(PATIENCE)


def test_serves_never_waits(workspace: Workspace, agents: Agents) -> None:
    workspace.submit(scripted_task("noop"), {}).result(PATIENCE)
    assert workspace.serves("noop", 0) and not workspace.serves("noop", 1) and not workspace.serves("other", 0)
