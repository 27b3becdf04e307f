"""What a person sees of a failed job: the service's own words first, whatever the agent made of them."""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING, Any

import connector_services as services
import pytest
from flyteidl.core.execution_pb2 import TaskExecution
from flytekit.core.base_task import PythonTask
from flytekit.core.interface import Interface
from flytekit.extend.backend.base_connector import AsyncConnectorBase, Resource, ResourceMeta, SyncConnectorBase
from flytekit.extend.backend.utils import convert_to_flyte_phase
from scripted_tasks import PATIENCE, until

from flyteagent_nb.errors import RunFailedError
from flyteagent_nb.serving.known_faults import UNKNOWN_STATE
from flyteagent_nb.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest_plugins = ("fixtures_workspace",)

SYNTAX = {"reason": "invalidQuery", "location": "query", "message": "Unrecognized name: nam at [1:8]"}


def failure(workspace: Workspace, task: Any) -> RunFailedError:
    error = workspace.submit(task, {}).exception(PATIENCE)
    assert isinstance(error, RunFailedError), error
    return error


def told(error: RunFailedError) -> list[str]:
    """The lines of the error behind the task's name."""
    _, found, rest = str(error).partition("failed: ")
    assert found, error
    return rest.splitlines()


class Task(PythonTask):  # type: ignore[misc]
    def __init__(self, task_type: str) -> None:
        super().__init__(task_type=task_type, name="job", interface=Interface())


class Meta(ResourceMeta):
    def encode(self) -> bytes:
        return b"{}"

    @classmethod
    def decode(cls, data: bytes) -> Meta:
        return cls()


class Answering(AsyncConnectorBase):
    """An agent whose get is the function it is made with."""

    name = "Answering Agent"

    def __init__(self, task_type: str, get: Any) -> None:
        super().__init__(task_type_name=task_type, metadata_type=Meta)
        self.answer = get

    def create(self, **_: Any) -> Meta:
        return Meta()

    def get(self, **_: Any) -> Resource:
        return self.answer()

    def delete(self, **_: Any) -> None:
        pass


@pytest.fixture
def registered(workspace: Workspace) -> Iterator[Any]:
    """Registers an agent until the test ends."""
    before: dict[str, Any] = {}

    def register(agent: Any) -> None:
        kind = agent.task_category.name
        found = [entry.agent for entry in workspace.catalog.entries() if entry.task_type == kind]
        before.setdefault(kind, found)
        workspace.catalog.register(agent)

    yield register
    for kind, agents in before.items():
        workspace.catalog.remove(kind)
        for agent in agents:
            workspace.catalog.register(agent)


@pytest.fixture
def answering(registered: Any) -> Any:
    def make(get: Any, task_type: str = "answering") -> Task:
        registered(Answering(task_type, get))
        return Task(task_type)

    return make


@pytest.fixture
def answers() -> Iterator[services.Answers]:
    with services.http_service() as answers:
        yield answers


# --- the real connectors ---


def test_a_failed_query_of_bigquery_tells_its_own_error(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: services.Answers
) -> None:
    bigquery = pytest.importorskip("flytekitplugins.bigquery")
    services.bigquery(monkeypatch, tmp_path, answers.url)
    answers.by_request["POST /"] = (200, services.bigquery_job("RUNNING"))
    answers.by_request["GET /"] = (200, services.bigquery_job("DONE", SYNTAX))
    config = bigquery.BigQueryConfig(ProjectID="local-proj", Location="EU")
    run = workspace.submit(bigquery.BigQueryTask("q", query_template="SELECT nam", inputs={}, task_config=config), {})
    error = run.exception(PATIENCE)
    assert isinstance(error, RunFailedError) and error.phase == "FAILED"
    first, raw, known, *_ = told(error)
    assert first == SYNTAX["message"] and "invalidQuery" in raw
    assert known.startswith("known fault of flytekitplugins-bigquery ") and "its own error is lost" in known
    assert error.log_links and error.log_links[0][0] == "BigQuery Console"
    logged, note = run.logs()
    assert logged.startswith("ERROR flytekit: failed to run BigQuery job with error: [{")
    assert "of flytekitplugins-bigquery " in note and "In production they are lost" in note


def test_a_failed_query_of_snowflake_tells_its_own_error(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = pytest.importorskip("flytekitplugins.snowflake")
    from snowflake.connector.errors import ProgrammingError

    def status() -> Any:
        raise ProgrammingError("SQL compilation error: invalid identifier 'NAM'", errno=904, sqlstate="42000")

    services.snowflake(monkeypatch, status)
    first, known, *_ = told(failure(workspace, snowflake_task(plugin)))
    assert "SQL compilation error: invalid identifier 'NAM'" in first
    assert first.endswith("(Failed to get snowflake job status with error)")
    assert known.startswith("known fault of flytekitplugins-snowflake ")


def test_a_state_that_snowflake_s_connector_does_not_know_leads_what_is_shown_and_passes(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = pytest.importorskip("flytekitplugins.snowflake")
    from snowflake.connector.constants import QueryStatus

    now = [QueryStatus.QUEUED]
    services.snowflake(monkeypatch, lambda: now[0])
    run = workspace.submit(snowflake_task(plugin), {})
    until(lambda: UNKNOWN_STATE in run.message)
    assert (
        run.message.startswith(f"QUEUED {UNKNOWN_STATE}")
        and "polled again until they have failed for 60 s" in run.message
    )
    now[0] = QueryStatus.SUCCESS
    run.result(PATIENCE)
    assert run.phase == "SUCCEEDED"


def test_a_state_that_never_passes_fails_the_run_with_its_word(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = pytest.importorskip("flytekitplugins.snowflake")
    from snowflake.connector.constants import QueryStatus

    workspace.config.poll_failure_limit = 0.0
    services.snowflake(monkeypatch, lambda: QueryStatus.NO_DATA)
    error = failure(workspace, snowflake_task(plugin))
    first, phases, known, frame, *_ = told(error)
    assert first.startswith(f"NO_DATA {UNKNOWN_STATE} (ValueError: Unrecognized state: no_data)")
    assert phases.startswith("flytekit has phases for: ") and "internal_error" in phases
    assert known.startswith("known fault of flytekitplugins-snowflake ") and "connector.py" in frame


def snowflake_task(plugin: Any) -> Any:
    config = plugin.SnowflakeConfig(user="u", account="a-b", database="d", schema="s", warehouse="w")
    return plugin.SnowflakeTask("q", query_template="SELECT nam", task_config=config)


def test_a_status_that_the_agent_s_own_table_lacks_is_told_though_it_became_none(
    workspace: Workspace, registered: Any, monkeypatch: pytest.MonkeyPatch, answers: services.Answers
) -> None:
    batch = pytest.importorskip("flytekitplugins.openai.batch.connector")
    services.openai(monkeypatch, answers.url)
    answers.by_request["GET /batches/b1"] = (
        200,
        {"id": "b1", "status": "paused", "object": "batch", "endpoint": "/", "created_at": 0},
    )
    workspace.config.poll_failure_limit = 0.0

    class Made(batch.BatchEndpointConnector):  # type: ignore[misc,name-defined]
        def create(self, **_: Any) -> Any:
            return batch.BatchEndpointMetadata("", "b1")

    registered(Made())
    first, *_ = told(failure(workspace, Task("openai-batch")))
    assert first.startswith(f"paused {UNKNOWN_STATE} (AttributeError: ")


# --- any agent ---


def test_a_failure_without_a_message_is_what_was_logged_in_that_call(workspace: Workspace, answering: Any) -> None:
    rounds = iter((TaskExecution.RUNNING, TaskExecution.FAILED))

    def get() -> Resource:
        phase = next(rounds)
        logger = logging.getLogger("flytekit")
        if phase == TaskExecution.RUNNING:
            logger.error("not of this call")
        else:
            logger.error("quota %s is used up", "gpu")
            logger.info("no error")
        return Resource(phase=phase)

    first, *rest = told(failure(workspace, answering(get)))
    assert first == "quota gpu is used up" and "not of this call" not in "\n".join(rest)


def test_a_message_of_the_agent_stays_as_it_is(workspace: Workspace, answering: Any) -> None:
    def get() -> Resource:
        logging.getLogger("flytekit").error("logged")
        return Resource(phase=TaskExecution.FAILED, message="it [rained]")

    assert told(failure(workspace, answering(get)))[0] == "it [rained]"


def test_a_sync_agent_s_failure_is_completed_too(workspace: Workspace, registered: Any) -> None:
    class Silent(SyncConnectorBase):  # type: ignore[misc]
        name = "Silent Agent"

        def do(self, **_: Any) -> Resource:
            logging.getLogger("flytekit").error("the reason:", "no key")
            return Resource(phase=TaskExecution.FAILED)

    registered(Silent(task_type_name="silent"))
    assert told(failure(workspace, Task("silent")))[0] == "no key (the reason)"


def test_what_was_logged_goes_with_an_exception_that_does_not_tell_it(workspace: Workspace, answering: Any) -> None:
    def get() -> Resource:
        logging.getLogger("flytekit").error("[stderr] no such queue")
        raise RuntimeError("exit status 1")

    workspace.config.poll_failure_limit = 0.0
    first, second, *_ = told(failure(workspace, answering(get)))
    assert (first, second) == ("RuntimeError: exit status 1", "logged: [stderr] no such queue")


class Status(enum.Enum):
    OUT_OF_MEMORY = 1


@pytest.mark.parametrize(
    ("locals_", "state", "word"),
    [
        ({"job_state": "COMPLETING"}, "completing", "COMPLETING"),
        ({"status": Status.OUT_OF_MEMORY}, "out_of_memory", "OUT_OF_MEMORY"),
        ({"x": "COMPLETING"}, "completing", "completing"),
        ({"state": "other"}, "completing", "completing"),
        ({"current_state": "paused"}, None, "paused"),
        ({}, None, "None"),
        ({}, "", "an empty state"),
    ],
)
def test_the_state_is_told_as_the_service_spells_it(
    workspace: Workspace, answering: Any, locals_: dict[str, Any], state: str | None, word: str
) -> None:
    names = ", ".join(locals_)
    source = f"def get({names}):\n    return Resource(phase=convert({state!r}))\n"
    namespace: dict[str, Any] = {"Resource": Resource, "convert": convert_to_flyte_phase}
    exec(source, namespace)
    workspace.config.poll_failure_limit = 0.0
    task = answering(lambda: namespace["get"](**locals_))
    assert told(failure(workspace, task))[0].startswith(f"{word} {UNKNOWN_STATE} (")


def test_another_error_of_the_same_words_is_no_state(workspace: Workspace, answering: Any) -> None:
    def get() -> Resource:
        raise ValueError("Unrecognized state: x")

    workspace.config.poll_failure_limit = 0.0
    assert told(failure(workspace, answering(get)))[0] == "ValueError: Unrecognized state: x"


def test_a_known_fault_is_told_though_the_words_are_many(workspace: Workspace, answering: Any) -> None:
    words = "Webhook failed with status code 201\n" + "\n".join(f"line {n}" for n in range(100))
    lines = told(failure(workspace, answering(lambda: Resource(phase=TaskExecution.FAILED, message=words), "webhook")))
    assert lines[0] == "Webhook failed with status code 201"
    assert any(line.startswith("known fault of flytekit ") for line in lines)
