"""A value known as secret does not show, wherever an agent says it: not in the run, its record, its files, nor to other callers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flytekit
import grpc
import pytest
from flyteidl.admin import agent_pb2 as pb
from flyteidl.core.errors_pb2 import ContainerError, ErrorDocument
from flyteidl.core.execution_pb2 import TaskExecution, TaskLog
from flyteidl.service import agent_pb2_grpc as services
from flytekit.extend.backend.base_connector import AsyncConnectorBase, Resource, ResourceMeta, SyncConnectorBase
from flytekit.extend.backend.utils import get_connector_secret
from scripted import template
from scripted_tasks import PATIENCE, scripted_task, until

from flyteagent_nb import wire
from flyteagent_nb.errors import FlyteAgentNBError, RunFailedError
from flyteagent_nb.masking import MASK
from flyteagent_nb.notebook.run_views import details
from flyteagent_nb.notebook.views import run_details
from flyteagent_nb.running.run import SECRET_IN_META
from flyteagent_nb.running.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyteagent_nb.running.run import Run
    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)

VALUE = "sk-nobody-may-see-this"


@dataclass
class TalkativeMeta(ResourceMeta):
    job: str


class Talkative(AsyncConnectorBase):
    """An agent that says its secret wherever it can. Its job's end is the input ``how``."""

    name = "Talkative"

    def __init__(self) -> None:
        super().__init__(metadata_type=TalkativeMeta, task_type_name="talkative")

    def create(self, task_template: Any, output_prefix: str, inputs: Any = None, **kwargs: Any) -> TalkativeMeta:
        secret = get_connector_secret("talk_key")
        assert secret == VALUE
        how = (task_template.custom or {}).get("how", "")
        print("stdout", secret)  # noqa: T201
        sys.stdout.write(f"split {secret[:7]}")
        sys.stdout.write(f"{secret[7:]}\n")
        sys.stderr.write(f"stderr {secret}\n")
        logging.getLogger("talkative").error("log %s", secret)
        if how == "create":
            try:
                raise OSError(f"cause {secret}")
            except OSError as error:
                raise ValueError(f"no job for {secret}") from error
        if how == "document":
            document = ErrorDocument(error=ContainerError(code="X", message=f"document {secret}"))
            (Path(output_prefix) / "error.pb").write_bytes(document.SerializeToString())
        return TalkativeMeta(f"{how} {secret}" if how == "meta" else how)

    def get(self, resource_meta: TalkativeMeta, **kwargs: Any) -> Resource:
        secret = get_connector_secret("talk_key")
        how = resource_meta.job.partition(" ")[0]
        if how == "get":
            raise RuntimeError(f"no state for {secret}")
        return Resource(
            phase=TaskExecution.FAILED if how == "failed" else TaskExecution.SUCCEEDED,
            message=f"the key is {secret}",
            log_links=[TaskLog(name=f"log {secret}", uri=f"https://example.com/?key={secret}")],
            custom_info={"a": {"key": secret, "n": [secret]}},
            outputs={"o": secret} if how == "output" else None,
        )

    def delete(self, resource_meta: TalkativeMeta, **kwargs: Any) -> None:
        return None

    async def get_logs(self, resource_meta: TalkativeMeta, **kwargs: Any) -> pb.GetTaskLogsResponse:
        body = pb.GetTaskLogsResponseBody(results=[f"line {get_connector_secret('talk_key')}"])
        return pb.GetTaskLogsResponse(body=body)


class TalkativeDo(SyncConnectorBase):
    name = "Talkative Do"

    def __init__(self) -> None:
        super().__init__(task_type_name="talkative_do")

    def do(self, task_template: Any, output_prefix: str, inputs: Any = None, **kwargs: Any) -> Resource:
        if (task_template.custom or {}).get("how") == "raises":
            raise ValueError(f"not with {VALUE}")
        return Resource(phase=TaskExecution.SUCCEEDED, message=f"with {VALUE}")


@pytest.fixture
def talkative(workspace: Workspace) -> Iterator[Workspace]:
    for agent in (Talkative(), TalkativeDo()):
        workspace.catalog.register(agent)
    assert workspace.secrets.put("TALK_KEY", VALUE)
    yield workspace
    workspace.secrets.forget("TALK_KEY")
    for task_type in ("talkative", "talkative_do"):
        workspace.remove(task_type)


def shown(workspace: Workspace, run: Run) -> str:
    """All that a person can see of a run."""
    error = run.error
    behind = [] if error is None else [error, error.__cause__, error.__context__]
    details_ = run_details(workspace, run)
    kept = workspace.kept.runs(-1)
    return "\n".join(
        map(
            str,
            [
                run.snapshot,
                run.logs(),
                workspace.captured_since(run.id, 0),
                workspace.captured_tail(run.id, 99),
                details_.text(),
                details_.html(),
                [b and (str(b), repr(b), vars(b)) for b in behind],
                [k.snapshot for k in kept if k.id == run.id],
            ],
        )
    )


def journal(workspace: Workspace) -> dict[str, bytes]:
    """All that is on disk of runs, by file: what is in memory is written first."""
    written = workspace.runner.journal
    written.flush()  # type: ignore[attr-defined]
    folder = workspace.runner.storage.root.parent
    assert (folder / "journal.db").exists()
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def found(files: dict[str, bytes]) -> list[str]:
    # error.pb is the job's own file.
    return [name for name, data in files.items() if VALUE.encode() in data and not name.endswith("error.pb")]


def output(workspace: Workspace, run: Run) -> str:
    """The kept output of a run, once all of it is there."""
    path = workspace.runner.storage.root / f"{run.id}.log"
    until(lambda: path.exists() and "ERROR talkative: log" in path.read_text())
    return path.read_text()


@pytest.mark.parametrize("how", ["", "failed", "create", "document"])
def test_a_run_of_an_agent_that_says_its_secret(talkative: Workspace, how: str) -> None:
    run = talkative.submit(scripted_task("talkative", name="talk", how=how, retries=int(how == "create")), {})
    error = run.exception(PATIENCE)
    assert (error is None) == (how in ("", "document")), error
    told = shown(talkative, run)
    assert VALUE not in told
    for line in ("stdout", "split", "stderr", "ERROR talkative: log"):
        assert f"{line} {MASK}" in run.logs()
    if how == "create":
        assert f"no job for {MASK}" in told and f"cause {MASK}" in told and isinstance(error, RunFailedError)
    else:
        assert run.message == f"the key is {MASK}" and run.custom_info == {"a": {"key": MASK, "n": [MASK]}}
        assert run.log_links == ((f"log {MASK}", f"https://example.com/?key={MASK}"),)
    assert MASK in output(talkative, run)
    assert not found(journal(talkative))


def test_a_document_of_a_job(talkative: Workspace) -> None:
    task = scripted_task("talkative", name="talk", how="document", outputs={"o": str})
    error = talkative.submit(task, {}).exception(PATIENCE)
    assert error is not None and f"document {MASK}" in str(error) and VALUE not in str(error)


def test_polls_that_fail(talkative: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    run = talkative.submit(scripted_task("talkative", name="talk", how="get"), {})
    until(lambda: "polls fail" in run.message)
    assert f"no state for {MASK}" in run.message and VALUE not in shown(talkative, run)
    run.cancel()
    run.exception(PATIENCE)
    assert VALUE not in shown(talkative, run) and not found(journal(talkative))


@pytest.mark.parametrize("how", ["", "raises"])
def test_a_sync_run(talkative: Workspace, how: str) -> None:
    run = talkative.submit(scripted_task("talkative_do", name="talk", how=how), {})
    error = run.exception(PATIENCE)
    assert (f"not with {MASK}" in str(error)) if how else (error is None and run.message == f"with {MASK}")
    assert VALUE not in shown(talkative, run) and not found(journal(talkative))


def test_inputs_template_and_outputs_go_as_they_are_and_are_on_record_without(talkative: Workspace) -> None:
    task = scripted_task(
        "talkative", name="talk", how="output", key=VALUE, inputs={"s": str, "d": dict}, outputs={"o": str}
    )
    run = talkative.submit(task, {"s": f"in {VALUE}", "d": {"k": VALUE}})
    assert run.result(PATIENCE) == VALUE
    assert any("the journal has stars" in note for note in run.snapshot.notes)
    assert not found(journal(talkative))
    assert talkative.attach(run.id).result(PATIENCE) == VALUE  # this kernel's own
    assert talkative.attach(run.id, task).result(PATIENCE) == MASK  # what is on record
    record = talkative.runner.journal.shelf.record(run.id)  # type: ignore[attr-defined]
    for data in (record.sent.template, record.sent.inputs, record.outputs):
        assert data and b"***" in data


def test_an_error_of_ours_before_there_is_a_run(talkative: Workspace) -> None:
    talkative.notice(f"a notice with {VALUE}")
    assert talkative.take_notices() == [f"a notice with {MASK}"]


def test_a_bug_of_the_runner(talkative: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: Any, driven: Any) -> Any:
        raise LookupError(f"a bug with {VALUE}")

    monkeypatch.setattr(Runner, "_attempts", broken)
    error = talkative.submit(scripted_task("talkative", name="talk"), {}).exception(PATIENCE)
    assert isinstance(error, FlyteAgentNBError) and MASK in error.message
    assert VALUE not in f"{error} {error!r} {error.__cause__} {error.__cause__!r}"


def test_values_of_variables_are_known_when_a_run_begins(
    workspace: Workspace, agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_FSEC_SET_IN_A_CELL", VALUE)
    run = workspace.submit(scripted_task(message=f"m {VALUE}", prints={"get": f"p {VALUE}"}), {})
    run.result(PATIENCE)
    assert run.message == f"m {MASK}" and run.logs() == [f"p {MASK}"]
    workspace.masking.discard(VALUE)


def test_with_no_secret_known_nothing_is_touched(workspace: Workspace, agents: Any) -> None:
    for value in tuple(workspace.masking._values):
        workspace.masking.discard(value)
    run = workspace.submit(scripted_task(message=f"m {VALUE}"), {})
    run.result(PATIENCE)
    assert run.message == f"m {VALUE}"


# --- who calls from outside ---


def test_a_caller_from_outside_sees_none_either(talkative: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    address = talkative.serve(0)

    async def ask() -> list[str]:
        said = []
        how = {"timeout": PATIENCE, "metadata": (wire.token_metadata(address.token or ""),)}
        async with grpc.aio.insecure_channel(address.target, options=wire.OPTIONS) as channel:
            stub = services.AsyncAgentServiceStub(channel)
            for end in ("", "failed", "output"):
                request = pb.CreateTaskRequest(template=template("talkative", how=end), output_prefix="/nowhere")
                meta = (await stub.CreateTask(request, **how)).resource_meta
                reply = await stub.GetTask(pb.GetTaskRequest(task_type="talkative", resource_meta=meta), **how)
                said.append(f"{reply.resource.message} {reply.resource.log_links} {reply.resource.custom_info}")
                if end == "output":
                    assert VALUE in str(reply.resource.outputs)  # it is the user's data
                call = stub.GetTaskLogs(pb.GetTaskLogsRequest(task_type="talkative", resource_meta=meta), **how)
                async for item in call:
                    said.append(str(item))
            for request_ in (pb.CreateTaskRequest(template=template("talkative", how="create")),):
                with contextlib.suppress(grpc.aio.AioRpcError):
                    try:
                        await stub.CreateTask(request_, **how)
                    except grpc.aio.AioRpcError as error:
                        said.append(str(error.details()))
                        raise
        return said

    with caplog.at_level(logging.INFO, "flyteagent_nb"):
        said = asyncio.run(ask())
    talkative.stop_serving(address.target)
    assert VALUE not in str(said) and sum(MASK in each for each in said) == len(said) == 7
    assert f"no job for {MASK}" in said[-1] and f"cause {MASK}" in said[-1]
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("flyteagent_nb")]
    assert any("Traceback" in line for line in ours) and VALUE not in str(ours)


def test_the_token_of_an_address_is_masked_too(workspace: Workspace, agents: Any) -> None:
    address = workspace.serve(0)
    assert address.token
    run = workspace.submit(scripted_task(message=f"called with {address.token!s}"), {})
    run.result(PATIENCE)
    assert run.message == f"called with {MASK}"
    assert address.token not in f"{address} {address!r} {workspace.host.addresses} {[address.token]}"
    workspace.stop_serving(address.target)


def test_flytekit_is_as_it_was_before(workspace: Workspace) -> None:
    manager = flytekit.current_context().secrets
    os.environ["_FSEC_PLAIN"] = "plain"
    try:
        assert manager.get(key="plain") == "plain"
    finally:
        del os.environ["_FSEC_PLAIN"]


# --- last, as it stays in the journal ---


def test_a_resource_meta_is_kept_as_it_is_and_not_shown(talkative: Workspace) -> None:
    run = talkative.submit(scripted_task("talkative", name="talk", how="meta"), {})
    run.result(PATIENCE)
    assert VALUE not in shown(talkative, run)
    (attempt,) = talkative.runner.attempts(run)
    assert attempt.resource_meta is not None and VALUE.encode() in attempt.resource_meta
    assert SECRET_IN_META in run.snapshot.notes
    # Also in a kernel that does not know the secret.
    rows = dict(details(run.snapshot, [attempt], []))
    assert "resource meta not shown" in rows["attempt 1"] and VALUE not in str(rows) + repr(attempt)
    talkative.runner.journal.flush()  # type: ignore[attr-defined]
    record = talkative.runner.journal.shelf.record(run.id)  # type: ignore[attr-defined]
    assert record.attempts[0].resource_meta == attempt.resource_meta
