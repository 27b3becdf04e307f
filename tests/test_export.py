"""``%agent export``: what is written, by the schemas of Kubernetes and by our own reader of propeller's configuration, and the folder."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import re
import resource
import shutil
import signal
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml
from cell_runs import AGENT, HEAD, META, CellRuns
from packaging.requirements import Requirement

from flyteagent_nb.errors import ArgumentError, ExportError, TaskTypeNotFoundError
from flyteagent_nb.notebook.export_verb import Exported
from flyteagent_nb.running.propeller_config import read_propeller_config
from flyteagent_nb.shipping.cells import Cell
from flyteagent_nb.shipping.export import _IMAGE, RECORD, Export, export

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)

KUBERNETES = ("1.28", "1.31", "1.37")

SYNC = """
from flytekit.extend.backend.base_connector import SyncConnectorBase
from flytekit.extend.backend.utils import get_connector_secret
import os

class S(SyncConnectorBase):
    name = "S"
    def __init__(self):
        super().__init__(task_type_name="s")
    def do(self, task_template, output_prefix, inputs=None, **kwargs):
        import google.auth
        os.environ["S_HOME"]
        return Resource(phase=TaskExecution.SUCCEEDED, message=get_connector_secret("S_KEY"))
ConnectorRegistry.register(S(), override=True)
"""
NEWER = 'class A2(A):\n    def __init__(self):\n        Base.__init__(self, metadata_type=Meta, task_type_name="a", task_type_version=2)\n'


SENSOR = """
from flytekit.sensor.base_sensor import BaseSensor
class Tide(BaseSensor):
    async def poke(self) -> bool:
        return True
"""


def cell_runs() -> CellRuns:
    return CellRuns(
        HEAD, META, "LIMIT = 4", AGENT.format(created="LIMIT"), "ConnectorRegistry.register(a, override=True)"
    )


def forget(workspace: Workspace) -> None:
    for entry in workspace.catalog.entries():
        if entry.in_notebook:
            workspace.catalog.remove(entry.task_type, entry.version)


@pytest.fixture
def runs(workspace: Workspace) -> Iterator[CellRuns]:
    forget(workspace)
    yield cell_runs()
    forget(workspace)


def exported(workspace: Workspace, folder: Path, runs: CellRuns, **more: Any) -> Export:
    return export(workspace, folder, cells=runs.ran, variables=runs.namespace, **more)


@pytest.fixture(scope="module")
def made(opened: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Once for all that only look at it: its module is tried in another process."""
    forget(opened)
    runs = cell_runs()
    runs.run(SYNC)
    runs.run(f"{NEWER}ConnectorRegistry.register(A2(), override=True)")
    runs.run(SENSOR)
    folder = tmp_path_factory.mktemp("made") / "My Agents"
    folder.mkdir()  # an empty one will do
    try:
        return exported(opened, folder, runs, image="registry.example.com/team/agents:7", namespace="flyte-prod")
    finally:
        forget(opened)


def test_what_is_written(made: Export) -> None:
    text = {path: (made.folder / path).read_text() for path in made.files}
    assert made.types == (("a", 0), ("a", 2), ("s", 0)) and made.module == "my_agents"
    assert set(text) == {
        *(
            "my_agents.py",
            "requirements.txt",
            "constraints.txt",
            "pyproject.toml",
            "Dockerfile",
            ".dockerignore",
        ),
        *("kubernetes.yaml", "secret.yaml", "helm-values.yaml", "README.md"),
        *("propeller-agent-service.yaml", "propeller-connector-service.yaml"),
    }
    assert {path.name for path in made.folder.iterdir()} == {*text, RECORD}
    ast.parse(text["my_agents.py"])
    assert "LIMIT = 4" in text["my_agents.py"]
    for path, content in text.items():
        assert "{{" not in content and "{%" not in content, path
        assert re.search(r"\n\n\n\n", content) is None, path
    assert [f.told for f in made.findings if f.sign == "ok"] == [
        "my_agents.py imports in a process of its own, and registers its agents"
    ]
    assert not [f for f in made.findings if f.sign == "bad"]


def test_the_versions_are_those_in_use(made: Export) -> None:
    lines = [
        r for path in ("requirements.txt", "constraints.txt") for r in (made.folder / path).read_text().splitlines()
    ]
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    for pin in pins:
        assert pin.specifier.contains(metadata.version(pin.name).partition("+")[0], prereleases=True), pin
    direct = (made.folder / "requirements.txt").read_text()
    assert "flytekit==" in direct and "grpcio-health-checking==" in direct and "ipykernel" not in direct
    assert {"protobuf", "pyyaml"} <= {pin.name for pin in pins}


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_the_manifests(made: Export, version: str) -> None:
    documents = [*yaml.safe_load_all((made.folder / "kubernetes.yaml").read_text())]
    documents += yaml.safe_load_all((made.folder / "secret.yaml").read_text())
    assert [d["kind"] for d in documents] == ["ServiceAccount", "Service", "Deployment", "Secret"]
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)
        assert document["metadata"]["namespace"] == "flyte-prod" and document["metadata"]["name"] == "my-agents"
    broken = json.loads(json.dumps(documents[2]))
    broken["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["grpc"]["prot"] = 8000
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


def test_the_deployment_is_what_an_operator_would_want(made: Export) -> None:
    _, service, deployment = yaml.safe_load_all((made.folder / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["targetPort"] in {port["name"] for port in container["ports"]}
    assert deployment["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert deployment["spec"]["replicas"] == 2 and pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container["image"] == "registry.example.com/team/agents:7"
    assert container["envFrom"] == [{"secretRef": {"name": "my-agents"}}]
    assert [each["name"] for each in container["env"]] == ["S_HOME"]
    assert {container[f"{probe}Probe"]["grpc"]["port"] for probe in ("startup", "readiness", "liveness")} == {8000}
    assert container["resources"]["requests"] and container["resources"]["limits"]
    secret = yaml.safe_load((made.folder / "secret.yaml").read_text())
    assert secret["stringData"] == {"_FSEC_S_KEY": ""}
    values = yaml.safe_load((made.folder / "helm-values.yaml").read_text())
    assert values["image"] == {
        "repository": "registry.example.com/team/agents",
        "tag": "7",
        "pullPolicy": "IfNotPresent",
    }
    assert [each["name"] for each in values["podEnv"]] == ["_FSEC_S_KEY", "S_HOME"]
    dockerfile = (made.folder / "Dockerfile").read_text()
    assert 'CMD ["pyflyte", "serve", "connector", "--port", "8000"]' in dockerfile and "\nUSER 10001\n" in dockerfile
    assert "my_agents.py" in dockerfile and "my_agents.py" in (made.folder / ".dockerignore").read_text()


@pytest.mark.parametrize("spelling", ["agent", "connector"])
def test_propellers_configuration_is_what_our_own_reader_reads(made: Export, spelling: str) -> None:
    name = f"propeller-{spelling}-service.yaml"
    config = read_propeller_config((made.folder / name).read_text(), name)
    assert list(config.unknown) == []
    (service,) = config.services.values()
    assert service.endpoint == "dns:///my-agents.flyte-prod.svc.cluster.local:8000" and service.insecure
    assert service.timeouts["CreateTask"] == 10.0
    assert dict(config.routes) == {"a": "my-agents"}  # neither a version nor a sync agent
    whole = yaml.safe_load((made.folder / name).read_text())
    plugins = whole["tasks"]["task-plugins"]
    assert plugins["default-for-task-types"]["a"] == f"{spelling}-service"
    # Lists and routes replace what is there where a chart's values are merged: what flyte-core has by itself is among them.
    assert {"container", "sidecar", "k8s-array", "echo", f"{spelling}-service"} == set(plugins["enabled-plugins"])
    assert {"container", "sidecar", "container_array"} <= set(plugins["default-for-task-types"])


def test_what_propeller_cannot_be_told_is_named(made: Export) -> None:
    told = [f.told for f in made.findings if f.what == "routes"]
    assert len(told) == 2
    assert any("a in version 2 has no explicit route" in each for each in told)
    assert any("s is sync" in each and "make propeller call CreateTask" in each for each in told)


def test_a_sensor_of_the_notebook_is_named(made: Export) -> None:
    """flytekit's agent would import it from ``__main__``."""
    ((told, mend),) = [(f.told, f.mend) for f in made.findings if f.what == "sensors"]
    assert (
        told.startswith("Tide is a sensor of this notebook and not taken along")
        and "a module that the service's image has" in mend
    )


def test_a_variable_whose_value_is_not_taken_along_is_named(made: Export) -> None:
    ((told, mend),) = [(f.told, f.mend) for f in made.findings if f.what == "variables"]
    assert told.startswith("S_HOME: ") and "kubernetes.yaml" in mend
    readme = (made.folder / "README.md").read_text()
    assert "\n# 3. The service. First write the value of S_HOME into kubernetes.yaml" in readme


def test_credentials_of_a_cloud_are_named(made: Export) -> None:
    ((told, mend),) = [(f.told, f.mend) for f in made.findings if f.what == "credentials"]
    assert told.startswith("Google: ") and "ServiceAccount" in mend


def test_the_readme_has_five_commands(made: Export) -> None:
    block = re.search(r"```bash\n(.*?)```", (made.folder / "README.md").read_text(), re.DOTALL)
    assert block is not None
    commands = [line for line in block[1].splitlines() if line and not line.startswith("#")]
    # From 2 on the chart starts Flyte 2's server.
    assert "flyteorg/flyteconnector --version '<2' -n flyte-prod" in (made.folder / "README.md").read_text()
    assert "kubectl -n flyte rollout restart deployment/flytepropeller" in commands  # which is not where the agents are
    assert len(commands) == 5 and '--from-literal=_FSEC_S_KEY="$VALUE_OF_FSEC_S_KEY"' in commands[1]


def test_a_secret_whose_name_is_no_variables_of_a_shell(
    workspace: Workspace, runs: CellRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flyteagent_nb.shipping.export._tried", lambda *_: [])
    runs.run(SYNC.replace("S_KEY", "private-key.v1"))
    readme = (exported(workspace, tmp_path / "out", runs).folder / "README.md").read_text()
    assert '--from-literal=_FSEC_PRIVATE-KEY.V1="$VALUE_OF_FSEC_PRIVATE_KEY_V1"' in readme


def test_the_name_of_a_type_is_no_code(
    workspace: Workspace, runs: CellRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flyteagent_nb.shipping.export._tried", lambda *_: [])  # a process of its own: others try that
    names = [f"x{ends}\nraise SystemExit: 1" for ends in ('"""', "\n", "\\", "`")]
    for letter, name in zip("STUV", names, strict=True):
        agent = SYNC.replace('task_type_name="s"', f"task_type_name={name!r}")
        runs.run(agent.replace("class S(", f"class {letter}(").replace("(S(), override", f"({letter}(), override"))
    made = exported(workspace, tmp_path / "out", runs)
    assert {kind for kind, _ in made.types} == {"a", *names}
    text = {path: (made.folder / path).read_text() for path in made.files}
    module = ast.parse(text["out_agents.py"])
    assert (ast.get_docstring(module) or "").count("raise SystemExit") == len(names)
    assert not any(isinstance(node, ast.Raise) for node in module.body)
    for spelling in ("agent", "connector"):
        (read,) = yaml.safe_load_all(text[f"propeller-{spelling}-service.yaml"])
        assert set(read) == {"plugins", "tasks"}
    assert len([line for line in text["README.md"].splitlines() if "raise SystemExit" in line]) == len(names)


@pytest.mark.slow
def test_a_class_that_is_not_complete_is_said(workspace: Workspace, runs: CellRuns, tmp_path: Path) -> None:
    runs.run(AGENT.format(created="nowhere").replace('"a"', '"b"').replace("A", "B").replace("BgentB", "AgentB"))
    runs.namespace["B"].create.__globals__["nowhere"] = object()
    runs.run("ConnectorRegistry.register(a, override=True)")
    made = exported(workspace, tmp_path / "out", runs)
    assert [f.told for f in made.findings if f.sign == "bad"] == [
        "nowhere, which B needs, is an object that no cell makes"
    ]
    text = Exported(made).text()
    assert "nowhere, which B needs" in text and "1 problem" in text and "out" in Exported(made).html()


def test_an_import_that_fails_is_found_out(
    workspace: Workspace, runs: CellRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a kernel has it
    runs.run("PLACE = 5")
    runs.run(AGENT.format(created="PLACE"))
    runs.run("ConnectorRegistry.register(a, override=True)")
    runs.ran[runs.ran.index(Cell("PLACE = 5"))] = Cell(
        "PLACE = int('no number ' * 12)"
    )  # as where it worked in this kernel only
    (bad,) = [f for f in exported(workspace, tmp_path / "out", runs).findings if f.sign == "bad"]
    assert f"does not import: ValueError: invalid literal for int() with base 10: {'no number ' * 12!r}" in bad.told


def test_the_folder(workspace: Workspace, made: Export, runs: CellRuns, tmp_path: Path) -> None:
    folder = shutil.copytree(made.folder, tmp_path / "out")  # that of an earlier export
    (folder / "notes.txt").write_text("mine")  # beside ours, it stays
    exported(workspace, folder, runs)
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "Dockerfile").write_text("FROM mine")
    with pytest.raises(ExportError, match="Dockerfile changed since"):
        exported(workspace, folder, runs)
    assert (folder / "Dockerfile").read_text() == "FROM mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    with pytest.raises(ExportError, match="is not empty, and no earlier export"):
        exported(workspace, other, runs)
    with pytest.raises(ExportError, match="is a file"):
        exported(workspace, other / "thesis.tex", runs)
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("folder", ["~nobody-has-that-name/out", "loop/out", "x" * 300])
def test_a_folder_that_cannot_be_is_an_error_of_ours(
    workspace: Workspace, runs: CellRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(ExportError, match=r"cannot be (used|written): "):
        exported(workspace, Path(folder), runs)


@pytest.mark.parametrize("told", ["thesis.tex", "../thesis.tex", "sub/../../thesis.tex"])
def test_a_record_that_names_files_elsewhere_is_none(
    told: str, workspace: Workspace, runs: CellRuns, tmp_path: Path
) -> None:
    folder, mine = tmp_path / "cloned", tmp_path / "thesis.tex"
    folder.mkdir()
    mine.write_text("mine")
    named = str(tmp_path / told) if "/" not in told else told
    (folder / RECORD).write_text(json.dumps({"files": {named: hashlib.sha256(b"mine").hexdigest()}}))
    with pytest.raises(ExportError, match="is not empty, and no earlier export"):
        exported(workspace, folder, runs)
    (folder / RECORD).write_text(json.dumps({"files": [named]}))
    with pytest.raises(ExportError, match="is not empty, and no earlier export"):
        exported(workspace, folder, runs)
    assert mine.read_text() == "mine"


@contextlib.contextmanager
def full(size: int) -> Iterator[None]:
    """No file may grow past a size: what a disk without room does to the first large one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_nothing_half_written_is_left(workspace: Workspace, runs: CellRuns, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "out"
    with full(1_500), pytest.raises(ExportError, match="cannot be written: File too large"):
        exported(workspace, folder, runs)
    assert list(folder.parent.iterdir()) == []
    made = exported(workspace, folder, runs)
    assert {path.name for path in folder.iterdir()} == {*made.files, RECORD}
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with full(1_500), pytest.raises(ExportError, match="cannot be written: File too large"):
        exported(workspace, folder, runs, image="another:2")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    # One that is ended while the module is tried, by the stop button or for good.
    runs.run("PLACE = 5")
    runs.run(AGENT.format(created="PLACE"))
    runs.run("ConnectorRegistry.register(a, override=True)")
    stop = "[__import__('os').kill(__import__('os').getppid(), 2), __import__('time').sleep(60)]"
    runs.ran[runs.ran.index(Cell("PLACE = 5"))] = Cell(f"PLACE = {stop}")
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started pytest may have had it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            exported(workspace, folder, runs)
    finally:
        signal.signal(signal.SIGINT, earlier)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"image": "a b"}, "--image: a b is no name of an image"),
        ({"image": "Agents:1"}, "is no name of an image"),
        ({"image": "agents:"}, "is no name of an image"),
        ({"image": "agents:1\nRUN x"}, "is no name of an image"),
        ({"image": "registry.example.com/Team/agents"}, "is no name of an image"),
        ({"image": "agents@sha256:" + "0" * 64}, "is no name of an image"),
        ({"image": "a" * 256}, "is no name of an image"),
        ({"namespace": "A_B"}, "--namespace: A_B is no name of a namespace"),
        ({"namespace": "flyte-"}, "is no name of a namespace"),
        ({"namespace": ""}, "is no name of a namespace"),
        ({"namespace": "a" * 64}, "is no name of a namespace"),
    ],
)
def test_names_that_nothing_there_can_have(
    workspace: Workspace, runs: CellRuns, tmp_path: Path, given: dict[str, str], told: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        exported(workspace, tmp_path / "x", runs, **given)
    assert told in str(caught.value) and caught.value.hint and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "image",
    [
        *(
            "agents",
            "agents:2",
            "team/agents:2.0-rc_1",
            "localhost:5000/agents",
            "registry.example.com:443/a/b__c/d-e.f:7",
        ),
        *("123456789012.dkr.ecr.eu-central-1.amazonaws.com/agents:latest", "ghcr.io/team/my--agents:V1"),
    ],
)
def test_names_of_images_that_docker_takes(image: str) -> None:
    assert _IMAGE.fullmatch(image)


@pytest.mark.slow
def test_which_agents(workspace: Workspace, runs: CellRuns, tmp_path: Path) -> None:
    with pytest.raises(TaskTypeNotFoundError, match="did you mean sensor"):
        exported(workspace, tmp_path / "x", runs, types=["sensr"])
    made = exported(workspace, tmp_path / "x", runs, types=["duckdb_query", "sensor"])
    assert made.types == (("duckdb_query", 0), ("sensor", 0))
    source = (made.folder / "x_agents.py").read_text()
    assert "import flytekit.sensor" in source and "ConnectorRegistry.register(DuckDBAgent())" in source
    assert "flyteagent-nb[duckdb]==" in (made.folder / "requirements.txt").read_text()
    # A query is in the process that runs it: another replica could not get it.
    assert "replicas: 1" in (made.folder / "kubernetes.yaml").read_text() and "one replica" in str(made.findings)
    assert "duckdb==" in (made.folder / "requirements.txt").read_text() + (made.folder / "constraints.txt").read_text()
    workspace.catalog.remove("a")
    with pytest.raises(ExportError, match="no cell of this notebook defines an agent"):
        exported(workspace, tmp_path / "y", runs)


@pytest.mark.slow
def test_an_agent_that_replaces_an_installed_one(workspace: Workspace, runs: CellRuns, tmp_path: Path) -> None:
    before = workspace.catalog.current("sensor").agent
    runs.run(AGENT.format(created="1").replace('task_type_name="a"', 'task_type_name="sensor"'))
    runs.run("ConnectorRegistry.register(a)")
    try:
        made = exported(workspace, tmp_path / "z", runs, types=["sensor"])
    finally:
        workspace.catalog.register(before)
    assert "ConnectorRegistry.register(a, override=True)" in (made.folder / "z_agents.py").read_text()
    assert replace(made, findings=()).types == (("sensor", 0),)
