"""What a run says of the sandbox that it goes to, from its submit to its end, over the channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scripted_stand_in import ask
from scripted_tasks import PATIENCE, scripted_task

from flyteagent_nb.errors import RunFailedError
from flyteagent_nb.running.services import AgentService
from flyteagent_nb.sandbox.sandboxes import Sandboxes
from flyteagent_nb.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripted_tasks import Agents

pytest_plugins = ("fixtures_workspace",)

ECHO = {"inputs": {"a": int}, "outputs": {"a": int}}


@pytest.fixture
def told(workspace: Workspace, agents: Agents) -> Iterator[str]:
    """A sandbox that stands in for the scripted agents' service runs; what is told of it."""
    before = workspace.sandboxes
    workspace.sandboxes = Sandboxes({"scripted": "scripted_stand_in:ScriptedStandIn"})
    workspace.sandboxes.start("scripted")
    yield workspace.sandboxes.stand_in_for("scripted")
    workspace.sandboxes.close()
    workspace.sandboxes = before


def test_runs_say_it_while_it_runs_and_keep_it(workspace: Workspace, told: str) -> None:
    run = workspace.submit(scripted_task("echo", **ECHO), {"a": 1})
    assert run.snapshot.stand_in == told
    assert run.result(PATIENCE) == 1 and run.snapshot.stand_in == told
    other = workspace.submit(scripted_task("noop"), {})
    assert other.snapshot.stand_in == ""
    workspace.sandboxes.stop("scripted")
    assert run.snapshot.stand_in == told
    assert workspace.submit(scripted_task("echo", **ECHO), {"a": 1}).snapshot.stand_in == ""


def test_literals_too(workspace: Workspace, told: str) -> None:
    from flytekit import FlyteContextManager
    from flytekit.models.literals import LiteralMap

    run = workspace.submit_literals(scripted_task(), LiteralMap({}), FlyteContextManager.current_context())
    run.result(PATIENCE)
    assert run.snapshot.stand_in == told


def test_an_error_says_it(workspace: Workspace, told: str) -> None:
    run = workspace.submit(scripted_task(phases=["FAILED"], message="no"), {})
    error = run.exception(PATIENCE)
    assert isinstance(error, RunFailedError) and error.stand_in == told and told in str(error)


def test_a_run_on_another_service_does_not_go_there(workspace: Workspace, told: str) -> None:
    address = workspace.serve(0)
    router = workspace.runner.router

    async def connect() -> AgentService:
        service = AgentService("far", address.target, token=address.token)
        await router.add(service)
        return service

    far = workspace._on_loop(connect())
    try:
        run = workspace.submit(scripted_task("echo", **ECHO), {"a": 1}, service="far")
        assert run.result(PATIENCE) == 1 and run.service == "far" and run.snapshot.stand_in == ""
    finally:
        del router._services["far"]
        workspace._on_loop(far.close())
        workspace.stop_serving(address.target)


def test_closing_the_workspace_ends_it() -> None:
    workspace = Workspace()
    workspace.sandboxes = Sandboxes({"scripted": "scripted_stand_in:ScriptedStandIn"})
    (port,) = workspace.sandboxes.start("scripted").ports
    assert ask(port)
    workspace.close()  # though it was never opened
    assert not ask(port)
