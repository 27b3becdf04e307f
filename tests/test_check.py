"""``%agent check``: each fault is found, on an agent that has it, over the real channel, and a sound agent has none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import sound
from elsewhere_jobs import TASK_TYPE
from flyteidl.admin.agent_pb2 import Agent, TaskCategory
from flytekit.sensor.file_sensor import FileSensor
from python_path import TESTS, python_path
from scripted_tasks import scripted_task, until
from test_connections import quick

from flyteagent_nb.agents.duckdb import DuckDBQuery
from flyteagent_nb.errors import ArgumentError, CheckError, TaskTypeNotFoundError
from flyteagent_nb.findings import Finding
from flyteagent_nb.loop import get_loop_thread
from flyteagent_nb.notebook.check_verb import CheckReport, check_type
from flyteagent_nb.shipping import judging
from flyteagent_nb.shipping.check import Check, Subject
from flyteagent_nb.shipping.second import MODULE as CELLS
from flyteagent_nb.shipping.second import NotStartedError, ServiceProcess

if TYPE_CHECKING:
    from pathlib import Path

    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)

JOB = {"outputs": {"n": int}}
ALL = (
    *(
        "listed",
        "create",
        "get",
        "phases",
        "end",
        "log links",
        "outputs",
        "get after the end",
        "delete",
        "delete twice",
    ),
    *(
        "restart",
        "delete when finished",
        "delete an unknown job",
        "concurrent creates",
        "failures",
        "loop",
        "elsewhere",
    ),
)
ALL_SYNC = ("listed", "execute", "end", "outputs", "log links", "concurrent calls", "failures", "loop", "elsewhere")


class HereCheck(Check):
    """A check whose second service is a fresh object in this process: a process for each of these agents would take a minute."""

    async def _in_a_process(self, entry: Any, module: Any, stack: Any) -> tuple[None, str]:
        return None, "the test says so"


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(sound.FOLDER, str(tmp_path))
    return tmp_path


def checked(workspace: Workspace, cls: type, *, failing: bool = True, timeout: float = 30.0) -> dict[str, Finding]:
    agent = cls()
    kind = agent.task_category.name
    workspace.catalog.register(agent)
    try:
        subject = Subject(
            kind,
            call=workspace.call_of(scripted_task(kind, name="good", **JOB), {}),
            failing=workspace.call_of(scripted_task(kind, name="bad", **JOB), {}) if failing else None,
            timeout=timeout,
        )
        found = workspace.on_loop(HereCheck(workspace, subject, lambda text: None).run())
    finally:
        workspace.catalog.remove(kind)
    assert len({finding.what for finding in found}) == len(found), found
    return {finding.what: finding for finding in found}


def test_a_sound_agent_has_no_fault(workspace: Workspace, jobs: Path) -> None:
    found = checked(workspace, sound.Sound)
    assert tuple(found) == ALL
    assert [f for f in found.values() if f.sign != "ok"] == []
    assert found["phases"].told == "QUEUED → RUNNING → SUCCEEDED"
    assert found["failures"].told == "FAILED: it rained"
    assert "fresh object" in found["restart"].told
    # What was made is gone: the finished one and those at once were deleted, too.
    assert [path for path in jobs.iterdir() if "bad" not in path.read_text()] == []


FAULTS = (
    (sound.FailsToCreate, "create", "bad", "no quota"),
    (sound.SaysNoMeta, "create", "bad", "the resource meta is empty"),
    (sound.GoesBack, "phases", "bad", "they go back: RUNNING → QUEUED"),
    (sound.SaysNoPhase, "phases", "bad", "RETRYABLE_FAILED"),
    (sound.Fails, "end", "bad", "FAILED: as it should be"),
    (sound.Raises, "failures", "bad", "KeyError: 'state'"),
    (sound.WrongName, "outputs", "bad", "n is declared and was not returned"),
    (sound.WrongType, "outputs", "bad", "n is declared as integer and came as string"),
    (sound.NoOutputs, "outputs", "bad", "neither in the reply nor as outputs.pb"),
    (sound.NoLink, "log links", "bad", "'/jobs/1'"),
    (sound.ForgetsAfterwards, "get after the end", "bad", "LookupError: no such job"),
    (sound.DeletesOnce, "delete twice", "bad", "FileNotFoundError"),
    (sound.MindsTheFinished, "delete when finished", "bad", "job is over"),
    (sound.MindsTheUnknown, "delete an unknown job", "warn", "never heard of it"),
    (sound.Remembers, "restart", "bad", "KeyError"),
    (sound.Shares, "concurrent creates", "bad", "3 at once made 1 job"),
    (sound.Blocks, "loop", "bad", "`async def create` held the event loop for 1."),
    (sound.FailsByRaising, "failures", "bad", "RuntimeError: it rained"),
    (sound.FailsSilently, "failures", "warn", "FAILED without a word"),
    (sound.FailsNever, "failures", "bad", "succeeded"),
)


@pytest.mark.parametrize(("cls", "what", "sign", "told"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_each_fault_is_found(workspace: Workspace, jobs: Path, cls: type, what: str, sign: str, told: str) -> None:
    found = checked(workspace, cls)
    assert found[what].sign == sign and told in found[what].told, found[what]
    assert found[what].mend
    assert set(found) == set(ALL)  # what could not be tried is told, too


def test_a_fault_is_no_other_one(workspace: Workspace, jobs: Path) -> None:
    for cls, what in ((sound.NoLink, "log links"), (sound.DeletesOnce, "delete twice"), (sound.Remembers, "restart")):
        others = {name for name, finding in checked(workspace, cls).items() if finding.sign == "bad"} - {what}
        # One that deletes once minds unknown and finished jobs as well.
        assert others <= ({"delete when finished"} if cls is sound.DeletesOnce else set()), (cls, others)


def test_a_create_past_its_deadline(workspace: Workspace, jobs: Path) -> None:
    workspace.config.deadlines = {"CreateTask": 0.3}
    found = checked(workspace, sound.CreatesSlowly, failing=False)
    assert "longer than its deadline, 0.3 s" in found["create"].told and found["create"].sign == "bad"
    assert found["restart"].sign == "skip"


def test_a_check_that_is_stopped_while_it_creates_leaves_no_job(workspace: Workspace, jobs: Path) -> None:
    agent, thread = sound.AnswersLater(), get_loop_thread()
    workspace.catalog.register(agent)
    try:
        subject = Subject("sound", call=workspace.call_of(scripted_task("sound", name="good", **JOB), {}))
        check = thread.submit(HereCheck(workspace, subject, lambda text: None).run())
        until(lambda: list(jobs.iterdir()))
        check.cancel()
        thread.loop.call_soon_threadsafe(agent.let.set)
        until(lambda: not list(jobs.iterdir()))
    finally:
        workspace.catalog.remove("sound")


def test_a_job_that_does_not_end(workspace: Workspace, jobs: Path) -> None:
    found = checked(workspace, sound.NeverEnds, failing=False, timeout=0.2)
    assert found["end"].sign == "warn" and "RUNNING" in found["end"].told
    assert found["outputs"].sign == found["delete when finished"].sign == "skip"
    assert found["restart"].sign == "ok" and found["failures"].sign == "skip"
    assert list(jobs.iterdir()) == []


def test_a_sound_sync_agent_has_no_fault(workspace: Workspace) -> None:
    found = checked(workspace, sound.SoundDo)
    assert tuple(found) == ALL_SYNC and [f for f in found.values() if f.sign != "ok"] == []


@pytest.mark.parametrize(
    ("cls", "what", "told"),
    [
        (sound.DoesNotEnd, "end", "RUNNING, and nobody polls a sync agent"),
        (sound.DoesTheWrong, "outputs", "n is declared as integer"),
        (sound.DoesRaise, "failures", "RuntimeError: it rained"),
    ],
)
def test_faults_of_sync_agents(workspace: Workspace, cls: type, what: str, told: str) -> None:
    found = checked(workspace, cls)
    assert found[what].sign == "bad" and told in found[what].told and found[what].mend
    assert set(found) == set(ALL_SYNC)


def agent(*categories: tuple[str, int], name: str = "A", is_sync: bool = False, old: bool = True) -> Agent:
    kinds = [TaskCategory(name=kind, version=version) for kind, version in categories]
    return Agent(
        name=name,
        is_sync=is_sync,
        supported_task_categories=kinds,
        supported_task_types=[k.name for k in kinds] if old else [],
    )


@pytest.mark.parametrize(
    ("agents", "sign", "told"),
    [
        ([agent(("t", 0))], "ok", "by A, async"),
        ([agent(("t", 0), ("u", 1), is_sync=True)], "ok", "by A, sync"),
        ([], "bad", "not listed"),
        ([agent(("t", 2))], "bad", "version 2 is"),
        ([agent(("t", 0)), agent(("t", 0), name="B", is_sync=True)], "bad", "as sync and as async, by A, B"),
        ([agent(("t", 0)), agent(("t", 0), name="B")], "warn", "by 2 agents"),
        ([agent(("t", 0), ("t", 0))], "warn", "listed 2 times"),
        ([agent(("t", 0), old=False)], "warn", "an older propeller"),
        ([agent(("t", 0), name="")], "warn", "has no name"),
        ([Agent(name="A", supported_task_types=["t"])], "warn", "without a version"),
    ],
)
def test_the_listing(agents: list[Agent], sign: str, told: str) -> None:
    found = judging.listing(agents, "t", 0)
    assert found.sign == sign and told in found.told and bool(found.mend) == (sign != "ok")


@pytest.mark.parametrize(
    ("one", "other", "made"),
    [
        (b'{"id": "job-1a", "p": "x"}', b'{"id": "job-2a", "p": "x"}', b'{"id": "joz-8z", "p": "x"}'),
        (b'{"id": "17"}', b'{"id": "18"}', b'{"id": "1799"}'),
        (b'{"id": 17, "on": true}', b'{"id": 18, "on": false}', b'{"id": 900018, "on": true}'),
        (b'{"a": [{"id": "x1"}]}', b'{"a": [{"id": "x2"}]}', b'{"a": [{"id": "z8"}]}'),
        (b'{"id": "x"}', b'{"id": "x"}', None),
        (b"\x80\x04", b"\x80\x05", None),
    ],
)
def test_the_meta_of_an_unknown_job(one: bytes, other: bytes, made: bytes | None) -> None:
    assert judging.unknown_meta(one, other) == made


def test_without_a_task(workspace: Workspace) -> None:
    workspace.catalog.register(sound.Sound())
    report = check_type(workspace, "sound")
    assert [(f.sign, f.what) for f in report] == [("ok", "listed"), ("skip", "jobs"), ("ok", "elsewhere")]
    assert report.passed and "but no job was tried" in report.text()
    assert all(name in report[1].told for name in ALL[1:-1])
    report.raise_for_findings()


def test_what_a_report_is() -> None:
    findings = [Finding("ok", "create", "1 ms"), Finding("bad", "restart", "KeyError", "keep nothing in <memory>")]
    report = CheckReport("my_job", 1, findings)
    assert report.text().splitlines() == [
        "my_job (version 1): 1 problem",
        "✓ create   1 ms",
        "✗ restart  KeyError",
        "           → keep nothing in <memory>",
    ]
    assert "&lt;memory&gt;" in report.html() and repr(report) == report.text()
    data = json.loads(json.dumps(report.data()))
    assert data["passed"] is False and data["findings"][1]["mend"] == "keep nothing in <memory>"
    with pytest.raises(CheckError) as caught:
        report.raise_for_findings()
    assert "restart: KeyError" in str(caught.value) and caught.value.findings == tuple(findings)


def test_what_does_not_do(workspace: Workspace) -> None:
    with pytest.raises(TaskTypeNotFoundError):
        check_type(workspace, "nobody_has_it")
    workspace.catalog.register(sound.Sound())
    with pytest.raises(ArgumentError, match="is a other"):
        check_type(workspace, "sound", task=scripted_task("other"))


def test_an_agent_is_taken_into_another_process(workspace: Workspace, jobs: Path) -> None:
    """The module does not register it there, so a fresh object stands in; an entry says so."""
    workspace.catalog.register(sound.Sound())
    report = check_type(workspace, "sound", task=scripted_task("sound", **JOB))
    (restart,) = [f for f in report if f.what == "restart"]
    assert restart.sign == "ok" and "as the module sound does not register it" in restart.told


def test_a_service_that_is_not_ours_is_not_started_again(workspace: Workspace, tmp_path: Path) -> None:
    task = scripted_task(TASK_TYPE, name="good", inputs={"x": int}, outputs={"y": int})
    with quick(tmp_path) as (address, _):
        workspace.connections.connect("dev", address)
        report = check_type(workspace, TASK_TYPE, 0, task=task, inputs={"x": 2}, service="dev", timeout=30.0)
        workspace.connections.disconnect("dev")
    (restart,) = [f for f in report if f.what == "restart"]
    assert restart.sign == "skip" and restart.told == "not tried: the service 'dev' is not ours to start again"
    assert "python -m flyteagent_nb check MODULE:TYPE" in restart.mend


@pytest.mark.slow
def test_flytekits_sensor(workspace: Workspace, tmp_path: Path) -> None:
    """A real one, in another process of its own: it has no job, and keeps nothing."""
    (tmp_path / "there").touch()
    report = check_type(workspace, "sensor", task=FileSensor("wait"), inputs={"path": str(tmp_path / "there")})
    assert report.passed and report.warnings == [], report.text()
    found = {f.what: f for f in report}
    assert "(in another process) says: SUCCEEDED again" in found["restart"].told
    assert "the same each time, as a sensor's" in found["concurrent creates"].told
    assert [f.what for f in report.skipped] == ["delete an unknown job", "failures"]


@pytest.mark.slow
def test_our_own_agent_says_what_it_is(workspace: Workspace) -> None:
    """The agent of duckdb_query works in its process, so another one does not have its jobs; all else is well."""
    good = DuckDBQuery("good", "SELECT $year AS n", inputs={"year": int})
    bad = DuckDBQuery("bad", "SELECT nothing FROM nowhere")
    report = check_type(workspace, "duckdb_query", task=good, failing=bad, inputs={"year": 2024})
    assert [f.what for f in report.bad] == ["restart"] and report.warnings == [], report.text()
    assert "Table with name nowhere does not exist" in {f.what: f.told for f in report}["failures"]


MODULE = """
import sound
from flytekit.extend.backend.base_connector import ConnectorRegistry
from scripted_tasks import scripted_task, until

JOBS = {}

class Forgetful(sound.Sound):
    name = "Forgetful"
    async def create(self, task_template, inputs=None, **kwargs):
        meta = await super().create(task_template, inputs, **kwargs)
        JOBS[meta.job_id] = True
        return meta
    async def get(self, resource_meta, **kwargs):
        JOBS[resource_meta.job_id]
        return await super().get(resource_meta, **kwargs)

ConnectorRegistry.register(sound.Sound(), override=True)
ConnectorRegistry.register(Forgetful("forgetful"), override=True)
good = scripted_task("sound", name="good", inputs={"a": int}, outputs={"n": int})
forgotten = scripted_task("forgetful", name="good", outputs={"n": int})
"""


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("sound", "--task", "good", "-i", "a=1"), 0, "a second service (in another process) says: SUCCEEDED again"),
        # The memory of a module: a fresh object would not show it, another process does.
        (("forgetful", "--task", "forgotten"), 1, "a second service (in another process) cannot get the job: KeyError"),
    ],
)
def test_on_a_command_line(jobs: Path, tmp_path: Path, words: tuple[str, ...], code: int, told: str) -> None:
    (tmp_path / "my_agents.py").write_text(MODULE)
    kind, *rest = words
    command = [sys.executable, "-m", "flyteagent_nb", "check", f"my_agents:{kind}", "--json", *rest]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": python_path(TESTS)}, cwd=tmp_path, capture_output=True,
        text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    data = json.loads(done.stdout)
    (restart,) = [f for f in data["findings"] if f["what"] == "restart"]
    assert told in restart["told"] and data["passed"] is (code == 0)


WRONG = {
    ("my_agents",): "is not MODULE:TYPE",
    ("no_such_module_here:x",): "cannot be imported",
    ("flytekit.sensor:sensr",): "did you mean sensor?",
    ("flytekit.sensor:sensor", "--task", "no"): "there is no variable no\nhint: --task and --failing take what flytekit.sensor",
    # A text is taken, with its quotes and white space: what is told is the next that does not do.
    ("flytekit.sensor:sensor", "-i", "where='New York'", "-i", "n=[1, 2]", "--task", "no"): "there is no variable no",
    ("flytekit.sensor:sensor", "-i", "where=US"): "a shell takes quotes away, so a text has others around them",
}  # fmt: skip


@pytest.mark.slow
def test_a_second_service_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a kernel has it
    service = ServiceProcess()
    with pytest.raises(NotStartedError) as raised:
        service.start([CELLS], source="int('no number ' * 12)")
    service.close()
    assert str(raised.value) == f"ValueError: invalid literal for int() with base 10: {'no number ' * 12!r}"


def test_a_command_line_that_does_not_do() -> None:
    # One process for all: importing flytekit takes most of the time of each.
    each = "import sys; from flyteagent_nb.__main__ import main\nfor words in {}: print(main(['check', *words]), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", each.format([*WRONG])], capture_output=True, text=True, timeout=200, check=True
    )
    said = done.stderr.split("\n1\n")
    assert len(said) == len(WRONG) + 1 and said.pop() == "" and "Traceback" not in done.stderr, done.stderr
    for one, told in zip(said, WRONG.values(), strict=True):
        assert told in one
