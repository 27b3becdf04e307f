"""The owner: it opens and closes everything, and is how Python code gets at it."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from flytekit.extend.backend.base_connector import ConnectorRegistry, Resource
from python_path import ROOT, TESTS, python_path
from scripted import DoAgent, NoopAgent, PlainDoAgent
from scripted_tasks import PATIENCE, Agents, scripted_task, until

import flyteagent_nb
from flyteagent_nb.errors import (
    AddressInUseError,
    ServiceError,
    ServiceNotFoundError,
    TaskTypeNotFoundError,
    WrongThreadError,
)
from flyteagent_nb.loop import get_loop_thread
from flyteagent_nb.running import shelf
from flyteagent_nb.serving.capture import _TAP
from flyteagent_nb.workspace import Workspace, get_workspace

pytest_plugins = ("fixtures_workspace",)


def run_noop(workspace: Workspace) -> Any:
    workspace.catalog.register(NoopAgent())
    return workspace.submit(scripted_task("noop"), {}).result(PATIENCE)


# --- opening and closing ---


def test_there_is_one_in_a_process(workspace: Workspace) -> None:
    assert get_workspace() is workspace is flyteagent_nb.get_workspace()


def test_opening_again_and_again(workspace: Workspace) -> None:
    host, runner = workspace.host, workspace.runner
    workspace.open()
    workspace.wait()
    assert workspace.state == "serving" and workspace.host is host and workspace.runner is runner


def test_many_open_at_once(workspace: Workspace) -> None:
    workspace.close()
    assert (workspace.state, workspace.addresses()) == ("closed", ())
    start = threading.Barrier(8)
    hosts: list[Any] = []

    def open_it() -> None:
        start.wait(PATIENCE)
        workspace.wait(PATIENCE)
        hosts.append(workspace.host)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(hosts) == 8 and len({id(host) for host in hosts}) == 1
    assert run_noop(workspace) is None


def test_closing_and_opening_many_times_leaves_nothing(workspace: Workspace) -> None:
    def around() -> None:
        root, socket = workspace.runner.storage.root, workspace.addresses()[0].target.removeprefix("unix:")
        assert run_noop(workspace) is None
        assert workspace.close() == 0
        assert root.exists() and not os.path.exists(os.path.dirname(socket))
        workspace.wait(PATIENCE)

    stdout = sys.stdout
    around()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    count = threading.active_count()
    for _ in range(10):
        around()
    until(lambda: threading.active_count() <= count)
    if before:
        until(lambda: len(os.listdir("/proc/self/fd")) <= before + 2)
    assert get_loop_thread() is workspace._thread
    workspace.close()
    assert ConnectorRegistry.register.__module__ == "flytekit.extend.backend.base_connector"
    assert sys.stdout is stdout
    workspace.wait(PATIENCE)


def test_closing_while_an_agent_holds_the_loop_goes_on_behind_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flyteagent_nb.workspace.CLOSE_WAIT", 0.01)
    host, held = workspace.host, threading.Event()
    get_loop_thread().call_soon(held.wait, PATIENCE)
    try:
        assert workspace.close() == 0
        assert "takes long to close" in workspace.take_notices()[0]
        # What stays on the streams would be tapped a second time, and then no cell could write any more.
        assert logging.Logger.callHandlers.__module__ == "logging" and _TAP not in vars(sys.stdout)
    finally:
        held.set()
    until(lambda: not host.addresses)
    workspace.wait(PATIENCE)


def test_an_opening_that_fails_at_once_leaves_nobody_waiting(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    workspace.close()
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", none_left)
        with pytest.raises(RuntimeError, match="can't start"):
            workspace.open()
    with pytest.raises(ServiceError, match="did not start: RuntimeError: can't start"):
        workspace.wait(PATIENCE)
    assert workspace.close() == 0
    assert run_noop(workspace) is None


def test_who_opens_it_while_it_closes_waits_for_the_end(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the one that closes takes away what the other has put in place."""
    opener = threading.Thread(target=workspace.open)
    end = workspace._close

    async def close(*parts: Any) -> int:
        opener.start()
        await asyncio.to_thread(opener.join, 0.2)  # it has to wait; only one that does not is done by then
        return await end(*parts)

    monkeypatch.setattr(workspace, "_close", close)
    workspace.close()
    opener.join(PATIENCE)
    monkeypatch.undo()
    assert run_noop(workspace) is None


def test_an_agent_does_not_open_the_service_that_was_closed_under_it(workspace: Workspace) -> None:
    inside, go_on = threading.Event(), threading.Event()
    raised: list[Exception] = []

    class Submits(PlainDoAgent):
        def do(self, *args: Any, **kwargs: Any) -> Any:
            inside.set()
            go_on.wait(PATIENCE)
            try:
                flyteagent_nb.submit(scripted_task("noop"))
            except Exception as error:
                raised.append(error)
            return super().do(*args, **kwargs)

    workspace.catalog.register(Submits("submits"))
    run = workspace.submit(scripted_task("submits"), {})
    assert inside.wait(PATIENCE)
    workspace.close()
    go_on.set()
    until(lambda: raised)
    assert isinstance(raised[0], ServiceError) and "was closed meanwhile" in str(raised[0])
    assert workspace.state == "closed" and run.cancelled
    workspace.remove("submits")


def test_waiting_on_the_loops_own_thread_before_it_serves(workspace: Workspace) -> None:
    workspace.close()

    async def inside() -> None:
        with pytest.raises(WrongThreadError):
            workspace.wait()

    get_loop_thread().run(inside(), PATIENCE)
    workspace.wait(PATIENCE)


def with_plugin(folder: Path, source: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process that finds a plug-in of flytekit's whose module is ``source``."""
    info = folder / "asks-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: asks\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[flytekit.plugins]\nasks = asks\n")
    (folder / "asks.py").write_text(source)
    code = f"import flyteagent_nb, flyteagent_nb.workspace\nw = flyteagent_nb.get_workspace()\n{code}"
    env = {**os.environ, "PYTHONPATH": python_path(folder)}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=2 * PATIENCE)


def test_a_plugin_that_waits_for_the_service_at_its_import_does_not_wait_for_itself(tmp_path: Path) -> None:
    """It would end as a kernel whose service starts for ever."""
    waits = "import flyteagent_nb\nflyteagent_nb.get_workspace().wait()\n"
    done = with_plugin(
        tmp_path, waits, f"w.wait({PATIENCE})\nprint([(each.name, each.reason) for each in w.catalog.broken])"
    )
    assert "('asks', 'WrongThreadError: the agent service of this kernel starts while" in done.stdout, done


def test_a_plugin_whose_import_hangs_does_not_hold_up_the_end_of_the_process(tmp_path: Path) -> None:
    hangs = "import pathlib, threading\npathlib.Path(__file__).with_name('here').touch()\nthreading.Event().wait()\n"
    began = f"import pathlib, time\nwhile not pathlib.Path({str(tmp_path / 'here')!r}).exists():\n    time.sleep(0.01)"
    done = with_plugin(tmp_path, hangs, f"flyteagent_nb.workspace.EXIT_WAIT = 0.1\nw.open()\n{began}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_service_that_cannot_start_says_so_and_may_be_tried_again(workspace: Workspace, tmp_path: Path) -> None:
    workspace.close()
    (tmp_path / "file").write_text("")
    workspace.config.run_folder = str(tmp_path / "file" / "runs")
    for _ in range(2):
        with pytest.raises(
            ServiceError, match="the agent service of this kernel did not start: NotADirectoryError"
        ) as e:
            workspace.wait(PATIENCE)
        assert "%reload_ext flyteagent_nb" in e.value.hint and workspace.state == "failed"
    with pytest.raises(ServiceError):
        flyteagent_nb.submit(scripted_task("noop"))
    assert workspace.close() == 0 and workspace.addresses() == ()
    workspace.config.run_folder = ""
    workspace.wait(PATIENCE)
    assert run_noop(workspace) is None


def test_a_folder_of_the_users_own(workspace: Workspace, tmp_path: Path) -> None:
    workspace.close()
    workspace.config.run_folder = str(tmp_path / "runs")
    workspace.wait(PATIENCE)
    agents = Agents()
    workspace.catalog.register(agents.scripted)
    run = workspace.submit(scripted_task(), {})
    run.result(PATIENCE)
    workspace.close()
    assert os.listdir(tmp_path / "runs") == [f"{run.id}-1"]
    workspace.config.run_folder = ""
    workspace.wait(PATIENCE)


def opened_with(workspace: Workspace, folder: Path) -> list[str]:
    """What is said when it is opened with its data in a folder, and runs a task."""
    before = workspace.config.data_folder
    workspace.close()
    workspace.take_notices()
    workspace.config.data_folder = str(folder)
    try:
        workspace.wait(PATIENCE)
        assert run_noop(workspace) is None
        return workspace.take_notices()
    finally:
        workspace.close()
        workspace.config.data_folder = before
        workspace.wait(PATIENCE)


def test_a_journal_on_a_network_file_system_is_told(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shelf, "is_remote", lambda folder: True)
    (said,) = opened_with(workspace, tmp_path / "far")
    assert f"the journal in {tmp_path / 'far'} is on a network file system, so it is written without WAL" in said
    assert "FLYTEAGENT_NB_DATA_FOLDER takes a local folder" in said and (tmp_path / "far" / "journal.db").exists()


def test_a_folder_that_cannot_be_made_is_told_and_runs_go_on(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (said,) = opened_with(workspace, tmp_path / "file" / "data")
    assert "cannot be used: Not a directory. Runs are kept in memory until the kernel ends." in said


def test_where_there_is_no_home_folder_it_opens_all_the_same(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (said,) = opened_with(workspace, Path("~nobody-has-that-name/data"))
    assert "the folder of the journal cannot be used: there is no home folder. Runs are kept in memory" in said
    monkeypatch.setattr(workspace.config, "data_folder", "~nobody-has-that-name/data")
    assert workspace.left_open() == ([], 0)  # %load_ext asks, before anything is open


def test_whoever_wants_to_know_of_flytekit_is_told(workspace: Workspace) -> None:
    workspace.close()
    told: list[str] = []
    workspace.open(on_flytekit=lambda: told.append("here"))
    workspace.wait(PATIENCE)
    assert told == ["here"]
    workspace.open(on_flytekit=lambda: told.append("later"))  # as %load_ext behind a submit
    assert told == ["here", "later"]
    workspace.close()
    workspace.open()
    workspace.wait(PATIENCE)
    assert told == ["here", "later"]


def test_reading_while_it_is_closed(workspace: Workspace) -> None:
    workspace.close()
    assert not workspace.serves("noop", 0)
    assert workspace.captured("ab12") == [] and workspace.captured_since("ab12", 0) == ([], 0)
    assert workspace.blocked_by() is None and workspace.addresses() == ()
    workspace.wait(PATIENCE)


# --- serving ---


def test_serving_on_a_port_and_stopping(workspace: Workspace) -> None:
    (private,) = workspace.addresses()
    address = workspace.serve(0)
    assert address.port and address.token and workspace.addresses() == (private, address)
    with pytest.raises(AddressInUseError, match=str(address.port)):
        workspace.serve(address.port)
    opened = workspace.serve(0, open=True)
    assert opened.token is None
    assert workspace.stop_serving(str(opened.port)) == [opened]
    with pytest.raises(ServiceNotFoundError):
        workspace.stop_serving(str(opened.port))
    assert workspace.stop_serving() == [address] and workspace.addresses() == (private,)
    assert workspace.stop_serving() == []
    assert run_noop(workspace) is None


def test_removing_a_type_that_is_not_there(workspace: Workspace) -> None:
    with pytest.raises(TaskTypeNotFoundError):
        workspace.remove("never")


# --- what a person should hear ---


def test_notices_are_taken_once(workspace: Workspace) -> None:
    workspace.notice("one")
    workspace.notice("two")
    assert workspace.take_notices() == ["one", "two"] and workspace.take_notices() == []


def test_no_notice_is_lost_between_threads(workspace: Workspace) -> None:
    taken: list[str] = []
    stop = threading.Event()

    def take() -> None:
        while not stop.is_set():
            taken.extend(workspace.take_notices())

    taker = threading.Thread(target=take)
    taker.start()
    for number in range(20_000):
        workspace.notice(str(number))
    stop.set()
    taker.join(PATIENCE)
    taken += workspace.take_notices()
    assert len(taken) == 20_000


def test_an_agent_that_blocks_the_loop_is_named(workspace: Workspace) -> None:
    release, seen = threading.Event(), []

    class Blocking(DoAgent):
        name = "Blocking"

        async def do(self, task_template: Any, output_prefix: str, inputs: Any = None, **kwargs: Any) -> Resource:
            release.wait(PATIENCE)
            return Resource(phase=3)

    workspace.catalog.register(Blocking("blocking"))
    workspace.config.deadline = 0.0
    run = workspace.submit(scripted_task("blocking"), {})
    seen.append(until(workspace.blocked_by))
    release.set()
    run.result(PATIENCE)
    name, operation, seconds = seen[0]
    assert (name, operation) == ("Blocking", "do") and seconds > 1.0
    assert workspace.blocked_by() is None
    (notice,) = workspace.take_notices()
    assert notice.startswith("warning: agent 'Blocking'") and "`async def do`" in notice


def test_lines_since_a_position(workspace: Workspace) -> None:
    agents = Agents()
    workspace.catalog.register(agents.do)
    run = workspace.submit(scripted_task("do", prints={"do": "one\ntwo"}), {})
    run.result(PATIENCE)
    lines, position = workspace.captured_since(run.id, 0)
    assert lines == ["one", "two"] and workspace.captured_since(run.id, position) == ([], position)


# --- the end of a process ---

ENDING = """
import sys, time
import flyteagent_nb
from scripted_tasks import Agents, scripted_task, until
workspace = flyteagent_nb.get_workspace()
workspace.wait()
agents = Agents()
for agent in (agents.scripted, agents.do, agents.plain_do, agents.noop):
    workspace.catalog.register(agent)
workspace.config.deadline = 0.0
runs = [workspace.submit(scripted_task(phases=["RUNNING"]), {}) for _ in range(3)]
runs.append(workspace.submit(scripted_task("do", hangs=["do"]), {}))
until(lambda: all(run.phase == "RUNNING" for run in runs))
print(workspace.runner.storage.root)
print(workspace.addresses()[0].target.removeprefix("unix:"))
"""


@pytest.mark.parametrize("ending", ["", pytest.param("workspace.close()", marks=pytest.mark.slow)])
def test_a_process_ends_quietly_with_runs_under_way(tmp_path: Path, ending: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(ENDING + ending + "\n")
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": python_path(ROOT, TESTS)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 90
    root, socket = done.stdout.splitlines()
    assert os.path.exists(root) and not os.path.exists(os.path.dirname(socket))


def test_submit_opens_the_service_where_nobody_did(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import flyteagent_nb
            from scripted_tasks import scripted_task
            from scripted import NoopAgent
            from flytekit.extend.backend.base_connector import ConnectorRegistry
            ConnectorRegistry.register(NoopAgent())
            print(flyteagent_nb.get_workspace().state)
            print(flyteagent_nb.submit(scripted_task("noop")).result(60))
            print(flyteagent_nb.get_workspace().state)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": python_path(ROOT, TESTS)},
    )
    assert (done.stdout.split(), done.stderr) == (["closed", "None", "serving"], "")
