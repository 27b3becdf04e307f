"""Another language: agents written in JavaScript, driven as any other, and a JavaScript client that drives ours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from node_service import node_client, node_service
from scripted_tasks import PATIENCE, Agents, scripted_task, until

from flyteagent_nb.errors import RunAbortedError, RunFailedError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flyteagent_nb.running.run import Run
    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace", "fixtures_node")

OUTPUTS = {"words": int, "loud": str}
TEXT = "as the wind\n  blows"


@pytest.fixture
def connected(workspace: Workspace, node_folder: Path) -> Iterator[Workspace]:
    """The workspace, with the service in JavaScript as ``js``."""
    with node_service(node_folder) as (address, _):
        workspace.connections.connect("js", address)
        yield workspace
        workspace.connections.disconnect("js")


def start(workspace: Workspace, task_type: str, **script: object) -> Run:
    task = scripted_task(task_type, inputs={"text": str}, outputs=OUTPUTS, **script)  # type: ignore[arg-type]
    return workspace.submit(task, {"text": TEXT})


def test_it_is_listed_and_routed(connected: Workspace) -> None:
    table = connected.connections.table()
    shown = {name: (r.agent, r.is_sync, r.service.name, r.reason) for (name, _), r in table.items()}
    assert shown["js_words"] == ("Words in JavaScript", True, "js", "listed")
    assert shown["js_job"] == ("Jobs in JavaScript", False, "js", "listed")


@pytest.mark.parametrize("task_type", ["js_words", "js_job"])
def test_sync_and_async(connected: Workspace, task_type: str) -> None:
    run = start(connected, task_type, seconds=0.05)
    run.result(PATIENCE)
    assert run.outputs == {"words": 4, "loud": "AS THE WIND BLOWS"} and run.service == "js"
    with pytest.raises(RunFailedError, match="out of words"):
        start(connected, task_type, fails="out of words").result(PATIENCE)


def test_outputs_as_a_file(connected: Workspace) -> None:
    run = start(connected, "js_job", file=True)
    run.result(PATIENCE)
    assert run.outputs == {"words": 4, "loud": "AS THE WIND BLOWS"}
    assert run.log_links == (("console", "http://localhost/console"),)


def test_a_create_that_is_refused(connected: Workspace) -> None:
    with pytest.raises(RunFailedError, match="not today"):
        start(connected, "js_job", refuses="not today").result(PATIENCE)


def test_its_log_and_its_cancel(connected: Workspace) -> None:
    run = start(connected, "js_job", seconds=600)
    until(lambda: run.phase == "RUNNING" and run.message == "counting")
    (line,) = run.logs()
    assert line.endswith("created")
    run.cancel()
    with pytest.raises(RunAbortedError):
        run.result(PATIENCE)
    assert run.logs() == [line, "deleted"]


def test_a_service_that_ended(workspace: Workspace, node_folder: Path) -> None:
    with node_service(node_folder) as (address, process):
        workspace.connections.connect("js", address)
        run = start(workspace, "js_job")
        run.result(PATIENCE)
        process.kill()
        process.wait()
        with pytest.raises(ServiceError, match=r"'js' does not hand out the log of run \w+: UNAVAILABLE") as e:
            run.logs()
        assert e.value.hint == "its console may: http://localhost/console"
        workspace.connections.disconnect("js")


def test_a_client_in_javascript_drives_ours(workspace: Workspace, agents: Agents, node_folder: Path) -> None:
    address = workspace.serve(0)
    try:
        done = node_client(node_folder, address.target, address.token or "")
        told = json.loads(done.stdout)
        assert {"scripted", "echo", "noop"} <= set(told.pop("types")), told
        code, details = told.pop("unknown")
        assert code == "NOT_FOUND" and "scripted" in details  # the nearest
        expected = {"meta": '{"job_id": "job-1"}', "phase": "SUCCEEDED", "message": "done", "logs": "UNIMPLEMENTED"}
        assert told == {**expected, "outputs": 3}
        assert agents.scripted.count("delete") == 1
        refused = node_client(node_folder, address.target)
        assert refused.returncode == 1 and json.loads(refused.stdout)["error"] == "UNAUTHENTICATED"
    finally:
        workspace.stop_serving()
