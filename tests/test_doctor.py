from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import grpc
import pytest
from flytekit.extend.backend.base_connector import SyncConnectorBase
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from scripted_tasks import scripted_task, until

from flyteagent_nb import wire
from flyteagent_nb.errors import ServiceError
from flyteagent_nb.findings import Finding
from flyteagent_nb.notebook import doctor, environment, requirements
from flyteagent_nb.notebook.doctor import Diagnosis, examine
from flyteagent_nb.notebook.environment import BadPair
from flyteagent_nb.notebook.page import Page
from flyteagent_nb.notebook.views import AgentList
from flyteagent_nb.serving.catalog import BrokenPlugin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)

PAGE: Any = SimpleNamespace(in_kernel=False, connected=False, kernel="")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "grpc_proxy")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs a distribution that has nothing but its metadata."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, version: str, *fields: str) -> None:
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("\n".join([f"Name: {name}", f"Version: {version}", *fields, ""]))

    return install


# --- the environment ---


def test_the_versions_are_told() -> None:
    found = environment.versions()
    assert found.sign == "ok" and "flytekit 1." in found.told and f"grpcio {grpc.__version__}" in found.told


def test_what_is_declared_and_not_so_is_found_through_plugins_and_what_they_need(installed: Any) -> None:
    installed("flytekitplugins_faulty", "1.0", "Requires-Dist: flytekit<1", "Requires-Dist: needed_by_faulty")
    installed("needed_by_faulty", "2.0", "Requires-Dist: no-such-thing>=3", "Requires-Dist: not-here; extra == 'x'")
    found = [f for f in environment.conflicts(["traitlets"]) if f.sign == "bad"]
    assert {f.mend for f in found} == {"pip install 'flytekit<1'", "pip install 'no-such-thing>=3'"}
    wrong = next(f for f in found if "flytekit<1" in f.told)
    assert wrong.told.startswith("flytekitplugins_faulty 1.0 needs flytekit<1, and 1.")
    missing = next(f for f in found if f is not wrong)
    assert missing.told == "needed_by_faulty 2.0 needs no-such-thing>=3, which is not installed"


def test_a_python_that_a_package_does_not_declare_is_told(installed: Any) -> None:
    installed("flytekitplugins_old", "1.0", "Requires-Python: <3")
    (found,) = (f for f in environment.conflicts([]) if "flytekitplugins_old" in f.told)
    assert found.sign == "warn" and "declares Python <3" in found.told


def test_our_own_dependencies_are_in_order() -> None:
    assert [f for f in environment.conflicts(environment.ROOTS) if f.sign == "bad"] == []


def test_a_pair_that_nobody_declares_is_found(installed: Any) -> None:
    installed("left_part", "26.0")
    installed("right_part", "1.9")
    pair = BadPair("left-part>=26", "right-part<2", "one refuses the other", "pip install 'left-part<26'")
    (found,) = environment.bad_pairs([pair])
    assert found == Finding("bad", "packages", "left-part 26.0 and right-part 1.9: one refuses the other", pair.mend)
    assert environment.bad_pairs([pair._replace(one="left-part>=27"), pair._replace(other="not-installed<2")]) == []


def test_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.fork().sign == "ok"
    monkeypatch.setattr(environment, "prepare_fork", lambda: False)
    found = environment.fork()
    assert found.sign == "warn" and "GRPC_ENABLE_FORK_SUPPORT=0" in found.mend


@pytest.mark.parametrize(
    ("variables", "sign", "told"),
    [
        ({}, "ok", "none is set"),
        ({"http_proxy": "http://me:secret@proxy.org:3128"}, "warn", "http: http://proxy.org:3128; our own channels pass it by"),
        ({"http_proxy": "http://proxy.org", "no_proxy": "localhost,intranet.org"}, "warn", "an agent's HTTP calls to 127.0.0.1 "),
        ({"https_proxy": "http://proxy.org", "no_proxy": "localhost,127.0.0.1"}, "ok", "not for this machine"),
        ({"grpc_proxy": "http://proxy.org:1", "no_proxy": "*"}, "ok", "grpc: http://proxy.org:1"),
        ({"http_proxy": "me:secret@proxy"}, "warn", "http: proxy;"),
    ],
)  # fmt: skip
def test_proxies(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], sign: str, told: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = environment.proxies()
    assert found.sign == sign and told in found.told and "secret" not in repr(found)
    if found.mend:
        environ: dict[str, str] = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("os.environ", environ)
            exec(found.mend, {})
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        assert environment.proxies().sign == "ok"
        assert set(variables.get("no_proxy", "").split(",")) - {""} <= set(environ["no_proxy"].split(","))


def test_our_channels_pass_a_proxy_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")  # nobody is there

    async def ask() -> list[bool]:
        server = grpc.aio.server()
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        answers = []
        for options in (wire.OPTIONS, ()):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                try:
                    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
                except grpc.aio.AioRpcError:
                    answers.append(False)
                else:
                    answers.append(True)
        await server.stop(None)
        return answers

    from flyteagent_nb.loop import get_loop_thread

    assert get_loop_thread().run(ask(), 20) == [True, False]


# --- the service ---


def found_of(workspace: Workspace, what: str) -> Finding:
    (found,) = (f for f in doctor.service_findings(workspace) if f.what == what)
    return found


def test_the_service_answers_on_its_socket(workspace: Workspace) -> None:
    found = doctor.service_findings(workspace)
    assert [f.what for f in found] == ["service", "socket", "run folder", "journal"]
    assert {f.sign for f in found} == {"ok"}, found
    assert " answers in " in found[0].told and "mode 0700" in found[1].told and "GB free" in found[2].told


def test_a_journal_that_cannot_be_written_is_told_of(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = property(lambda journal: "the journal in /full cannot be written: database or disk is full")
    monkeypatch.setattr(type(workspace.runner.journal), "trouble", trouble)
    found = found_of(workspace, "journal")
    assert found.sign == "warn" and found.told.startswith("the journal in /full cannot be written: ") and found.mend


def test_an_address_with_a_token_answers_too_and_an_open_one_is_told_of(workspace: Workspace) -> None:
    token, open_ = workspace.serve(0), workspace.serve(0, open=True)
    try:
        assert [doctor.answering(a).sign for a in (token, open_)] == ["ok", "ok"]
        assert [doctor.privacy(a).sign for a in (token, open_)] == ["ok", "warn"]
        assert doctor.privacy(open_).mend == f"%agent stop {open_.target}"
        assert token.token not in repr([doctor.answering(token), doctor.privacy(token)])
    finally:
        workspace.stop_serving()
    found = doctor.answering(token)
    assert found.sign == "bad" and "does not answer" in found.told


def test_a_folder_that_others_may_enter_is_told_and_mended(workspace: Workspace) -> None:
    (address,) = workspace.addresses()
    folder = os.path.dirname(address.target.removeprefix("unix:"))
    os.chmod(folder, 0o755)
    found = found_of(workspace, "socket")
    assert found.sign == "bad" and "0755" in found.told
    exec(found.mend, {})
    assert found_of(workspace, "socket").sign == "ok"


def test_a_socket_that_is_gone_is_told(workspace: Workspace) -> None:
    (address,) = workspace.addresses()
    path = address.target.removeprefix("unix:")
    os.rename(path, path + ".away")
    try:
        assert found_of(workspace, "socket").sign == "bad"
        assert found_of(workspace, "service").sign == "bad"
    finally:
        os.rename(path + ".away", path)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_a_folder_that_others_may_write_into_is_told_and_mended(workspace: Workspace, tmp_path: Path) -> None:
    root = workspace.runner.storage.root
    assert not [f for f in doctor.service_findings(workspace) if f.what == "folder"]
    root.chmod(0o770)
    try:
        (found,) = (f for f in doctor.service_findings(workspace) if f.what == "folder")
        assert found.sign == "warn" and f"{root} (mode 0770)" in found.told
        exec(found.mend)
        assert root.stat().st_mode & 0o777 == 0o700
    finally:
        root.chmod(0o700)
    tmp_path.chmod(0o755)
    assert doctor.writers(str(tmp_path)) == doctor.writers(str(tmp_path / "missing")) == []


def test_a_run_folder_without_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.folder(str(tmp_path)).sign == "ok"
    missing = doctor.folder(str(tmp_path / "gone"))
    assert missing.sign == "bad" and "FlyteAgentNB.run_folder" in missing.mend
    monkeypatch.setattr(doctor, "LITTLE", 1 << 62)
    assert doctor.folder(str(tmp_path)).sign == "warn"


def test_an_agent_that_holds_the_loop_is_named_and_nothing_waits_for_it(workspace: Workspace) -> None:
    release = threading.Event()

    class Holding(SyncConnectorBase):  # type: ignore[misc]
        name = "Holding Agent"

        async def do(self, **_: Any) -> None:
            release.wait(30)

    workspace.catalog.register(Holding(task_type_name="holding"))
    run = workspace.submit(scripted_task("holding"), {})
    try:
        until(workspace.blocked_by)
        (found,) = doctor.service_findings(workspace)
    finally:
        release.set()
    assert found.sign == "bad" and "'Holding Agent'" in found.told and "`async def do`" in found.told
    run.exception(30)
    workspace.catalog.remove("holding")


def test_a_service_that_does_not_start_is_told_with_its_reason() -> None:
    def wait() -> None:
        raise ServiceError("it did not start: no room", service="kernel", hint="%reload_ext flyteagent_nb tries again")

    broken: Any = SimpleNamespace(blocked_by=lambda: None, wait=wait)
    (found,) = doctor.service_findings(broken)
    assert found == Finding("bad", "service", "it did not start: no room", "%reload_ext flyteagent_nb tries again")


# --- the page ---


@pytest.mark.parametrize(
    ("page", "sign", "told"),
    [
        (Page(SimpleNamespace()), "ok", "a terminal"),
        (Page(SimpleNamespace(kernel=object())), "ok", "not asked yet"),
        (SimpleNamespace(in_kernel=True, connected=False, kernel="x"), "warn", "has not answered"),
        (SimpleNamespace(in_kernel=True, connected=True, kernel="x"), "ok", "connected"),
    ],
)
def test_the_page(page: Any, sign: str, told: str) -> None:
    found, nested = doctor.page_findings(page)
    assert (found.sign, found.what) == (sign, "page") and told in found.told
    assert nested.what == "nested loops" and "%agent nest" in nested.told


def test_nested_loops_are_seen() -> None:
    async def look() -> Finding:
        asyncio.get_running_loop()._nest_patched = True  # type: ignore[attr-defined]
        return doctor.page_findings(PAGE)[1]

    assert asyncio.run(look()).told.startswith("work")


# --- plug-ins and task types ---


@pytest.fixture
def broken(workspace: Workspace) -> Iterator[BrokenPlugin]:
    broken = BrokenPlugin(
        "slurm",
        "flytekitplugins.slurm",
        "flytekitplugins-slurm 1.16.31",
        "ModuleNotFoundError: No module named 'asyncssh'",
    )
    before = dict(workspace.catalog._broken)
    workspace.catalog.record_broken(broken)
    yield broken
    workspace.catalog._broken = before


def test_a_broken_plugin_is_told_with_the_command_that_mends_it(workspace: Workspace, broken: BrokenPlugin) -> None:
    (found,) = (f for f in examine(workspace, PAGE) if f.what == "plug-in")
    assert found.sign == "bad" and broken.reason in found.told
    assert found.mend == "pip install asyncssh, then restart the kernel"
    first, second, *_ = (f for f in examine(workspace, PAGE, "slurm") if f.sign == "bad")
    assert first == found and "nobody here serves the task type 'slurm'" in second.told and not second.mend
    types = AgentList(workspace.catalog.entries(), workspace.catalog.broken)
    assert "→ pip install asyncssh, then restart the kernel" in types.text()
    assert "pip install asyncssh" in types.html()


def test_a_plugin_that_is_installed_and_serves_nothing_is_told(workspace: Workspace) -> None:
    pytest.importorskip("flytekitplugins.snowflake")
    (entry,) = workspace.catalog.remove("snowflake")
    try:
        (found,) = (f for f in requirements.plugin_findings(workspace) if "flytekitplugins-snowflake" in f.told)
        assert found.sign == "warn" and "restart the kernel" in found.mend
    finally:
        workspace.catalog.register(entry.agent)
    assert not any("flytekitplugins-snowflake" in f.told for f in requirements.plugin_findings(workspace))


def test_a_task_type_that_nobody_serves(workspace: Workspace) -> None:
    (found,) = examine(workspace, PAGE, "perian_task")
    assert found.sign == "bad" and found.mend.startswith("pip install flytekitplugins-perian_job")
    (found,) = examine(workspace, PAGE, "nothing")
    assert found.sign == "bad" and not found.mend and "no connector plug-in" in found.told


def test_what_a_task_type_wants_and_its_faults(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flytekitplugins.snowflake")
    secret = "_FSEC_SNOWFLAKE_PRIVATE_KEY"
    monkeypatch.delenv(secret, raising=False)
    found = examine(workspace, PAGE, "snowflake")
    wanted = next(f for f in found if f.what == "secret")
    assert wanted.sign == "warn" and "not set" in wanted.told and secret in wanted.told
    assert wanted.mend == "%agent secret SNOWFLAKE_PRIVATE_KEY"
    workspace.secrets.put("SNOWFLAKE_PRIVATE_KEY", "another value that nobody may see")
    found = examine(workspace, PAGE, "snowflake")
    given = next(f for f in found if f.what == "secret")
    assert given.sign == "ok" and given.told == "snowflake_private_key: set: given to this kernel"
    assert "nobody may see" not in found.text() + found.html()
    workspace.secrets.forget("SNOWFLAKE_PRIVATE_KEY")
    found = examine(workspace, PAGE, "snowflake")
    assert any(f.what == "sandbox" and "%agent sandbox snowflake" in f.told for f in found)
    faults = [f for f in found if f.what == "known fault"]
    assert len(faults) == 3 and all("In production: " in f.told and f.mend for f in faults)
    monkeypatch.setenv(secret, "a value that nobody may see")
    found = examine(workspace, PAGE, "snowflake")
    assert next(f for f in found if f.what == "secret").sign == "ok"
    assert "nobody may see" not in found.text() + found.html()


def test_one_of_several_ways_is_told_in_one_line(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABRICKS_CLIENT_ID", "DATABRICKS_CLIENT_SECRET", "FLYTE_DATABRICKS_AUTH_TYPE"):
        monkeypatch.delenv(name, raising=False)

    class Databricks(SyncConnectorBase):
        name = "needy"

        def do(self, task_template: Any, **_: Any) -> Any:
            from flytekit.extend.backend.utils import get_connector_secret

            return (
                get_connector_secret("FLYTE_DATABRICKS_ACCESS_TOKEN"),
                os.getenv("FLYTE_DATABRICKS_AUTH_TYPE"),
                os.getenv("DATABRICKS_CLIENT_ID"),
            )

    workspace.catalog.register(Databricks("databricks"))
    try:
        found = examine(workspace, PAGE, "databricks")
        (line,) = (f for f in found if "FLYTE_DATABRICKS_ACCESS_TOKEN" in f.told)
        assert (
            line.sign == "warn" and line.what == "one of" and line.mend == "%agent secret FLYTE_DATABRICKS_ACCESS_TOKEN"
        )
        assert "; or variable DATABRICKS_CLIENT_ID and variable DATABRICKS_CLIENT_SECRET with " in line.told
        assert not any(f.what == "variable" and "DATABRICKS_CLIENT_ID" in f.told for f in found)
        (summary,) = (f for f in examine(workspace, PAGE) if f.what == "databricks")
        assert "secret FLYTE_DATABRICKS_ACCESS_TOKEN not set, nor another of 3 ways" in summary.told
        assert "FLYTE_DATABRICKS_ACCESS_TOKEN" in requirements.missing_secrets(workspace)
        monkeypatch.setenv("DATABRICKS_CLIENT_ID", "x")
        monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "a value that nobody may see")
        found = examine(workspace, PAGE, "databricks")
        assert next(f for f in found if f.what == "one of").sign == "ok" and "nobody may see" not in found.text()
    finally:
        workspace.catalog.remove("databricks")


def test_the_list_of_types_marks_what_is_lacking(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flytekitplugins.openai")
    monkeypatch.delenv("_FSEC_FLYTE_OPENAI_API_KEY", raising=False)
    entries = workspace.catalog.entries()
    types = AgentList(entries, (), requirements.notes_of(entries))
    told = " ".join(types.text().partition("\nchatgpt ")[2].split())  # a long cell is folded
    assert told.partition("! ")[2].startswith("secret FLYTE_OPENAI_API_KEY not set, 1 known fault")
    assert next(line for line in types.text().splitlines() if line.startswith("sensor ")).endswith("✓")
    assert types.text().endswith("%agent doctor TYPE tells more of a task type")
    assert "FLYTE_OPENAI_API_KEY not set" in types.html()
    (chatgpt,) = (f for f in examine(workspace, PAGE) if f.what == "chatgpt")
    assert chatgpt.sign == "warn" and "%agent secret FLYTE_OPENAI_API_KEY" in chatgpt.mend


# --- how it is shown ---


def test_a_diagnosis_begins_with_how_it_is() -> None:
    ok, warn, bad = Finding("ok", "a", "x"), Finding("warn", "bb", "y", "do <this>"), Finding("bad", "c", "z " * 80)
    assert Diagnosis([ok]).summary() == "all is well"
    diagnosis = Diagnosis([ok, warn, bad, bad])
    assert diagnosis.summary() == "2 problems, 1 thing to know" and diagnosis.bad == [bad, bad]
    lines = diagnosis.text().splitlines()
    assert lines[:4] == ["2 problems, 1 thing to know", "✓ a   x", "! bb  y", "      → do <this>"]
    assert max(len(line) for line in lines) <= doctor.WIDTH
    assert "do &lt;this&gt;" in diagnosis.html() and repr(diagnosis) == diagnosis.text()


def test_the_package_of_flyte_2_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.flyte_2() == []
    known = environment.version_of
    monkeypatch.setattr(environment, "version_of", lambda name: "2.1.0" if name == "flyte" else known(name))
    (found,) = environment.flyte_2()
    assert found.sign == "warn" and "flyte.connectors" in found.told and "flytekit" in found.mend
    assert found in environment.environment_findings()


def test_the_faults_of_a_plug_in_are_not_those_of_an_agent_of_ones_own(workspace: Workspace) -> None:
    snowflake = pytest.importorskip("flytekitplugins.snowflake")

    class Own(SyncConnectorBase):
        name = "own"

        def do(self, task_template: Any, **_: Any) -> Any: ...

    class Derived(snowflake.SnowflakeConnector):  # it has what it inherits
        ...

    released = workspace.catalog.current("snowflake")

    def told(agent: Any) -> tuple[str, int]:
        entry = replace(released, agent=agent)
        catalog = SimpleNamespace(entries=lambda: (entry,))
        found = requirements.type_findings(
            cast("Workspace", SimpleNamespace(catalog=catalog, secrets=workspace.secrets)), "snowflake"
        )
        return requirements.short_words(entry, ()), sum(f.what == "known fault" for f in found)

    assert told(released.agent) == told(Derived()) == ("3 known faults", 3)
    assert told(Own("snowflake")) == ("", 0)
