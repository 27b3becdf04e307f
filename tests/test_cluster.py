"""``--on``: the very same task on a cluster, by flytekit's FlyteRemote, against an AdminService of flyteidl's stubs."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from admin_service import Cluster, cluster, configuration
from flyteidl.core.literals_pb2 import LiteralMap
from flytekit import task
from flytekit.configuration import Config
from flytekit.remote import FlyteRemote
from scripted_tasks import PATIENCE, scripted_task, until

from flyteagent_nb.errors import ArgumentError, CodeLocationError, InputError, RunAbortedError, RunFailedError
from flyteagent_nb.notebook.arguments import parse_agent, parse_agent_task
from flyteagent_nb.notebook.record_verbs import RecordVerbs
from flyteagent_nb.shipping import cluster as cluster_module
from flyteagent_nb.shipping.cluster import submit_to_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)


@pytest.fixture
def served() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture
def config(served: Cluster, tmp_path: Path) -> str:
    return configuration(tmp_path, served.target)


def plus_one(inputs: LiteralMap) -> LiteralMap:
    made = LiteralMap()
    made.literals["b"].scalar.primitive.integer = inputs.literals["a"].scalar.primitive.integer + 1
    return made


TASK = {"inputs": {"a": int}, "outputs": {"b": int}}


def test_the_same_task_runs_there_and_is_followed(workspace: Workspace, served: Cluster, config: str) -> None:
    served.outputs = plus_one
    task = scripted_task("nobody_here_serves_it", name="add", phases=["SUCCEEDED"], **TASK)
    run = submit_to_cluster(workspace, task, {"a": 4}, config)
    assert run.result(PATIENCE) == 5 and run.outputs == {"b": 5}
    assert [change.phase for change in run.phases] == ["QUEUED", "RUNNING", "SUCCEEDED"]
    ((name, request),) = served.executions.items()
    (spec,) = served.tasks.values()
    # What is registered is what an agent here would get: type, custom, interface.
    assert spec.template.type == "nobody_here_serves_it" and spec.template.custom["phases"][0] == "SUCCEEDED"
    assert (request.project, request.domain) == ("flytesnacks", "development")
    ((label, url),) = run.log_links
    assert label == "console" and url.endswith(f"/executions/{name}")
    assert workspace.runner.find(run.id) is run and run in workspace.runner.runs()
    told = f"the log is not here: %agent show {run.id} tells where it ran, and has the log links"
    assert str(RecordVerbs(workspace, None).logs(parse_agent("logs last"))) == told  # it has no agent service
    again = submit_to_cluster(workspace, task, {"a": 1}, config)
    assert again.result(PATIENCE) == 2 and served.registered == ["add"]  # once for both
    assert served.uploads == []
    # What the README says of a kernel that has ended: the link ends with the name, and flytekit fetches the execution by it.
    remote = FlyteRemote(Config.auto(config), "flytesnacks", "development")
    fetched = remote.sync(remote.fetch_execution(name=url.rpartition("/")[2]))
    assert fetched.is_done and fetched.outputs.get("b", int) == 5


def test_a_number_of_numpys_goes_there_too(workspace: Workspace, served: Cluster, config: str) -> None:
    served.outputs = plus_one
    run = submit_to_cluster(workspace, scripted_task("x", **TASK), {"a": np.int64(4)}, config)
    assert run.result(PATIENCE) == 5


def count(a: int) -> int:
    return a


def test_a_python_that_flytekit_has_no_image_for(
    workspace: Workspace, served: Cluster, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = SimpleNamespace(major=3, minor=99)
    monkeypatch.setattr("flytekit.configuration.default_images.sys", SimpleNamespace(version_info=version))
    served.outputs = plus_one
    assert submit_to_cluster(workspace, scripted_task("x", **TASK), {"a": 4}, config).result(PATIENCE) == 5
    monkeypatch.setattr(count, "__module__", "__main__")  # as in a cell
    with pytest.raises(CodeLocationError, match=r"no image to run in.*\n.*container_image="):
        submit_to_cluster(workspace, task(count), {"a": 4}, config)


def test_cancel_terminates_it(workspace: Workspace, served: Cluster, config: str) -> None:
    served.phases = ["RUNNING"]
    run = submit_to_cluster(workspace, scripted_task("x"), {}, config)
    until(lambda: run.phase == "RUNNING")
    run.cancel()
    with pytest.raises(RunAbortedError):
        run.result(PATIENCE)
    assert run.phase == "ABORTED" and list(served.terminated.values()) == ["cancelled from a notebook"]


def test_a_failure_has_the_clusters_words(workspace: Workspace, served: Cluster, config: str) -> None:
    served.phases, served.error = ["RUNNING", "FAILING", "FAILED"], "the table is gone"
    run = submit_to_cluster(workspace, scripted_task("x"), {}, config)
    with pytest.raises(RunFailedError, match="the table is gone") as caught:
        run.result(PATIENCE)
    assert caught.value.code == "USER:Wrong" and run.phase == "FAILED" and not served.terminated


def test_a_cluster_that_is_not_there(workspace: Workspace, tmp_path: Path) -> None:
    run = submit_to_cluster(workspace, scripted_task("x"), {}, configuration(tmp_path, "127.0.0.1:1"))
    with pytest.raises(RunFailedError, match="failed on the cluster") as caught:
        run.result(100)
    assert "the file that --on names" in str(caught.value)


def test_a_cluster_that_goes_away_and_comes_back(workspace: Workspace, served: Cluster, config: str) -> None:
    served.phases = ["RUNNING"]
    runs = [submit_to_cluster(workspace, scripted_task("x"), {}, config) for _ in range(2)]
    until(lambda: all(run.phase == "RUNNING" for run in runs))
    served.stop()
    until(lambda: all("it cannot be asked, for" in run.message for run in runs))
    runs[0].cancel()  # which has to wait
    served.phases = ["SUCCEEDED"]
    served.start()
    with pytest.raises(RunAbortedError):
        runs[0].result(PATIENCE)
    runs[1].result(PATIENCE)
    assert len(served.terminated) == 1


def test_a_cluster_that_keeps_its_answers_back(
    workspace: Workspace, served: Cluster, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "ANSWER", 5.0)
    served.phases = ["RUNNING"]
    run = submit_to_cluster(workspace, scripted_task("x"), {}, config)
    until(lambda: run.phase == "RUNNING")
    served.answers.clear()
    until(lambda: "it cannot be asked, for" in run.message)
    served.phases = ["SUCCEEDED"]
    served.answers.set()
    run.result(PATIENCE)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_cluster_that_goes_away_for_good(workspace: Workspace, served: Cluster, config: str, cancelled: bool) -> None:
    workspace.config.poll_failure_limit = 0.0
    served.phases = ["RUNNING"]
    run = submit_to_cluster(workspace, scripted_task("x"), {}, config)
    until(lambda: run.phase == "RUNNING")
    served.stop()
    if cancelled:
        run.cancel()
    with pytest.raises(RunFailedError, match=r"on a cluster that has not answered for .* may still run") as caught:
        run.result(PATIENCE)
    assert ("was to be terminated" in str(caught.value)) == cancelled
    assert caught.value.log_links and "the console tells" in str(caught.value)


def test_what_is_wrong_is_told_at_once(workspace: Workspace, config: str) -> None:
    with pytest.raises(ArgumentError, match="there is no configuration"):
        submit_to_cluster(workspace, scripted_task("x"), {}, "/nowhere.yaml")
    with pytest.raises(InputError, match="misses input 'a'"):
        submit_to_cluster(workspace, scripted_task("x", **TASK), {}, config)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("c.yaml", "admin: [", "is not YAML: line 1, column 9: "),
        ("c.yml", "admin:\n  endpoint: 'x", "is not YAML: line 2, "),
        ("c.yaml", "{}", "names no endpoint (admin.endpoint)"),
        ("c.yaml", "", "names no endpoint (admin.endpoint)"),
        ("c.yaml", "- admin", "names no endpoint (admin.endpoint)"),
        ("c.yaml", "admin:\n  endpoint:\n", "names no endpoint (admin.endpoint)"),
        ("c.yaml", "admin:\n  endpoint: ü", "cannot be read: "),
        ("config", "[platform]\ninsecure = true\n", "names no endpoint (url under [platform])"),
        ("config", "admin:\n  endpoint: x\n", "is no INI file of flytekit's: File contains no section headers"),
    ],
)
def test_a_file_that_names_no_cluster_is_told_before_anything_is_sent(
    workspace: Workspace, tmp_path: Path, name: str, text: str, told: str
) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ArgumentError, match=re.escape(f"{path} {told}")):
        submit_to_cluster(workspace, scripted_task("x"), {}, str(path))
    path.write_text("[platform]\nurl = localhost:1" if name == "config" else "admin: {endpoint: 'localhost:1'}")
    submit_to_cluster(workspace, scripted_task("x"), {}, str(path)).cancel()  # mended, it is read anew


def test_an_ini_file_of_flytekits_does_too(workspace: Workspace, served: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(f"[platform]\nurl = {served.target}\ninsecure = true\n")
    submit_to_cluster(workspace, scripted_task("x"), {}, str(path)).result(PATIENCE)
    assert served.registered == ["job"]


def test_its_words_on_the_line() -> None:
    assert parse_agent("run t --on c.yaml").on == parse_agent_task("x --on c.yaml").on == "c.yaml"
    for more in ("--service kernel", "--retries 1", "--timeout 5s"):
        with pytest.raises(ArgumentError, match="--on sends the task as it is"):
            parse_agent(f"run t --on c.yaml {more}")
