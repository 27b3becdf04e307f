"""Each known fault is still in the connector that is installed; and a run that meets it leads with the service's own words."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import connector_services as services
import httpx
import pytest
from flytekit.extend.backend.utils import convert_to_flyte_phase
from flytekit.models.literals import LiteralMap
from flytekit.types.structured import StructuredDataset
from launch.environments import ROOT, run
from python_path import TESTS

from flyteagent_nb.plugins import version_of
from flyteagent_nb.sandbox.environments import find_uv
from flyteagent_nb.serving import known_faults
from flyteagent_nb.serving.job_faults import JOB_FAULTS
from flyteagent_nb.serving.known_faults import FAULTS, KnownFault, explanation, faults_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SQL_ERROR = {"reason": "invalidQuery", "location": "query", "message": "Unrecognized name: nam at [1:8]"}


class Probe:
    """What a check may use."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, answers: services.Answers) -> None:
        self.monkeypatch = monkeypatch
        self.folder = folder
        self.answers = answers

    def log_calls_that_break(self, call: Callable[[], Any]) -> tuple[int, Any]:
        """How many records of ``call`` have arguments that do not fit their text, and what it returned."""
        logger, broken = logging.getLogger("flytekit"), []

        class Reader(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                try:
                    record.getMessage()
                except TypeError as error:
                    broken.append(error)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logger, "handlers", [Reader()])
            returned = call()
        return len(broken), returned


@pytest.fixture
def answers() -> Iterator[services.Answers]:
    with services.http_service() as answers:
        yield answers


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: services.Answers) -> Probe:
    return Probe(monkeypatch, tmp_path, answers)


def bigquery_get() -> Any:
    from flytekitplugins.bigquery.connector import BigQueryConnector, BigQueryMetadata

    return BigQueryConnector().get(BigQueryMetadata("job-1", "local-proj", "EU"))


def snowflake_get() -> Any:
    from flytekitplugins.snowflake.connector import SnowflakeConnector, SnowflakeJobMetadata

    meta = SnowflakeJobMetadata("u", "a", "d", "s", "w", "0197b-1", has_output=True)
    return asyncio.run(SnowflakeConnector().get(meta))


def bigquery_lost_error(probe: Probe) -> bool:
    services.bigquery(probe.monkeypatch, probe.folder, probe.answers.url)
    probe.answers.by_request["GET /"] = (200, services.bigquery_job("DONE", SQL_ERROR))
    broken, resource = probe.log_calls_that_break(bigquery_get)
    assert SQL_ERROR["message"] in resource.message
    return broken > 0


def bigquery_default_project(probe: Probe) -> bool:
    services.bigquery(probe.monkeypatch, probe.folder, probe.answers.url, project=None)
    probe.answers.by_request["GET /"] = (200, services.bigquery_job("DONE"))
    try:
        bigquery_get()
    except OSError as error:
        return bool(explanation("bigquery_query_job_task", f"OSError: {error}"))
    return False


def bigquery_create(inputs: dict[str, Any] | None = None, custom: dict[str, Any] | None = None) -> None:
    from flytekit.core.context_manager import FlyteContextManager
    from flytekit.core.type_engine import TypeEngine
    from flytekitplugins.bigquery.connector import BigQueryConnector

    context = FlyteContextManager.current_context()
    types = {name: TypeEngine.to_literal_type(type(value)) for name, value in (inputs or {}).items()}
    literals = LiteralMap(
        {
            name: TypeEngine.to_literal(context, value, type(value), types[name])
            for name, value in (inputs or {}).items()
        }
    )
    template = SimpleNamespace(
        custom={"ProjectID": "local-proj", "Location": "EU", **(custom or {})},
        sql=SimpleNamespace(statement="SELECT 1"),
        metadata=SimpleNamespace(runtime=SimpleNamespace(version="1")),
        interface=SimpleNamespace(inputs={name: SimpleNamespace(type=kind) for name, kind in types.items()}),
    )
    BigQueryConnector().create(template, literals if inputs else None)


def bigquery_job_config(probe: Probe) -> bool:
    services.bigquery(probe.monkeypatch, probe.folder, probe.answers.url)
    probe.answers.by_request["POST /"] = (200, services.bigquery_job("DONE"))
    bigquery_create(custom={"maximumBytesBilled": "1234567"})
    return not any(b"1234567" in body for _, body in probe.answers.received)


def bigquery_parameters(probe: Probe) -> bool:
    import datetime

    services.bigquery(probe.monkeypatch, probe.folder, probe.answers.url)
    probe.answers.by_request["POST /"] = (200, services.bigquery_job("DONE"))
    bigquery_create({"n": 1})
    try:
        bigquery_create({"n": datetime.timedelta(1)})
    except KeyError as error:
        # A table fails in the same line, once it is written.
        return all(
            explanation("bigquery_query_job_task", f"KeyError: {lacking}")
            for lacking in (error, KeyError(StructuredDataset))
        )
    return False


def snowflake_lost_error(probe: Probe) -> bool:
    services.snowflake(probe.monkeypatch, snowflake_error)
    broken, resource = probe.log_calls_that_break(snowflake_get)
    return broken > 0 or not resource.message


def snowflake_error() -> Any:
    from snowflake.connector.errors import ProgrammingError

    raise ProgrammingError("SQL compilation error: invalid identifier 'NAM'", errno=904, sqlstate="42000")


def snowflake_states(probe: Probe) -> bool:
    from snowflake.connector.constants import QueryStatus

    fails = set()
    for status in QueryStatus:
        services.snowflake(probe.monkeypatch, lambda status=status: status)
        try:
            snowflake_get()
        except ValueError:
            fails.add(status.name)
    errors = {
        "ABORTING",
        "FAILED_WITH_ERROR",
        "ABORTED",
        "FAILED_WITH_INCIDENT",
        "DISCONNECTED",
    }  # raised by the client
    return states_named("snowflake-states") == fails - errors


def snowflake_outputs(probe: Probe) -> bool:
    from snowflake.connector.constants import QueryStatus

    services.snowflake(probe.monkeypatch, lambda: QueryStatus.SUCCESS)
    message = asyncio.run(snowflake_get().to_flyte_idl())
    return message.outputs.literals["results"].scalar.WhichOneof("value") != "structured_dataset"


def openai_batch_states(probe: Probe) -> bool:
    from typing import get_args

    from flytekitplugins.openai.batch.connector import BatchEndpointConnector, BatchEndpointMetadata, State
    from openai.types import Batch

    services.openai(probe.monkeypatch, probe.answers.url)
    batch = {"id": "b1", "status": "paused", "object": "batch", "endpoint": "/", "created_at": 0}
    probe.answers.by_request["GET /batches/b1"] = (200, batch)
    known = {status for state in State for status in state.value}
    assert known == set(get_args(Batch.model_fields["status"].annotation)), "OpenAI has other statuses: mend the entry"
    try:
        asyncio.run(BatchEndpointConnector().get(BatchEndpointMetadata("", "b1")))
    except AttributeError:
        return True
    return False


def chatgpt_ten_seconds(probe: Probe) -> bool:
    from flytekitplugins.openai.chatgpt import connector

    services.openai(probe.monkeypatch, probe.answers.url)
    assert connector.TIMEOUT_SECONDS == 10
    probe.monkeypatch.setattr(connector, "TIMEOUT_SECONDS", 0.05)
    probe.answers.go.clear()
    template = SimpleNamespace(custom={"chatgpt_config": {"model": "m"}, "openai_organization": ""})
    from flytekit.core.context_manager import FlyteContextManager
    from flytekit.core.type_engine import TypeEngine

    inputs = TypeEngine.dict_to_literal_map(FlyteContextManager.current_context(), {"message": "hello"})
    try:
        asyncio.run(connector.ChatGPTConnector().do(template, inputs))
    except asyncio.TimeoutError as error:
        return not str(error)
    return False


def webhook_only_200(probe: Probe) -> bool:
    from flytekit.extras.webhook import WebhookTask
    from flytekit.extras.webhook.connector import WebhookConnector

    probe.answers.by_request["POST /"] = (201, {"id": 7})
    task = WebhookTask(name="create", url=probe.answers.url)

    async def call() -> Any:
        async with httpx.AsyncClient() as client:
            template = SimpleNamespace(custom=task.get_custom(None))
            return await WebhookConnector(client).do(template, output_prefix="", inputs=LiteralMap({}))

    resource = asyncio.run(call())
    return bool(explanation("webhook", resource.message)) and "201" in resource.message


def states_named(name: str) -> set[str]:
    fault = next(fault for fault in FAULTS if fault.name == name)
    return set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)*\b", fault.what)) - {"RUNNING"}


def flytekit_s_table_lacks_them(probe: Probe, name: str) -> bool:
    """The connector hands the service's state to flytekit's table, which is what is at fault."""
    lacking = set()
    for state in (states := states_named(name)):
        try:
            convert_to_flyte_phase(state)
        except ValueError:
            lacking.add(state)
    return bool(states) and lacking == states


HERE = [fault for fault in FAULTS if fault.task_type != "airflow" and fault not in JOB_FAULTS]
"""Airflow's have an environment of their own, and tests there: connectors/test_airflow.py."""

CHECKS: dict[str, Callable[[Probe], bool]] = {
    "bigquery-lost-error": bigquery_lost_error,
    "bigquery-default-project": bigquery_default_project,
    "bigquery-job-config": bigquery_job_config,
    "bigquery-parameters": bigquery_parameters,
    "snowflake-lost-error": snowflake_lost_error,
    "snowflake-states": snowflake_states,
    "snowflake-outputs": snowflake_outputs,
    "openai-batch-states": openai_batch_states,
    "chatgpt-ten-seconds": chatgpt_ten_seconds,
    "webhook-only-200": webhook_only_200,
    **{
        name: lambda probe, name=name: flytekit_s_table_lacks_them(probe, name)
        for name in ("slurm-states", "slurm_fn-states", "databricks-states", "spark-states")
    },
}


@pytest.mark.parametrize("fault", HERE, ids=lambda fault: fault.name)
def test_the_fault_is_still_there(fault: KnownFault, probe: Probe) -> None:
    needs_connector = not fault.name.endswith("-states") or fault.name == "openai-batch-states"
    if needs_connector and not version_of(fault.distribution):
        pytest.skip(f"{fault.distribution} is not installed")
    assert CHECKS[fault.name](probe), f"mended: remove the entry {fault.name} of serving/known_faults.py"


@pytest.fixture(scope="module")
def job_faults(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The faults that Slurm's and Databricks' plug-ins were driven into, by plug-in; without pyspark, which the connector does not need."""
    folder = tmp_path_factory.mktemp("plugins")
    plugins, home = folder / "plugins", folder / "home"
    home.mkdir()
    installer = [find_uv(), "pip"] if find_uv() else [sys.executable, "-m", "pip"]
    more = ["--python", sys.executable] if find_uv() else []
    wanted = ["flytekitplugins-slurm", "flytekitplugins-spark", "asyncssh"]
    install = [
        *installer,
        "install",
        "--quiet",
        "--no-deps",
        *more,
        "--target",
        plugins,
        "-c",
        ROOT / "constraints.txt",
    ]
    run([*install, *wanted], cwd=folder)
    told = run([sys.executable, TESTS / "plugin_faults.py", plugins, home], cwd=folder)
    found = json.loads(told.splitlines()[-1])
    return {plugin: {name for name, there in faults.items() if there} for plugin, faults in found.items()}


@pytest.mark.slow
@pytest.mark.registry
def test_the_faults_of_jobs_are_still_there(job_faults: dict[str, set[str]]) -> None:
    listed: dict[str, set[str]] = {"slurm": set(), "databricks": set()}
    for fault in JOB_FAULTS:
        plugin = "slurm" if fault.distribution == "flytekitplugins-slurm" else "databricks"
        listed[plugin].add(fault.name.removeprefix(f"{fault.task_type}-"))
    assert job_faults == listed, "mended, or new: bring serving/job_faults.py up to date"


@pytest.mark.parametrize(
    ("task_type", "words", "name"),
    [
        ("slurm", "SystemExit: 1", "exit"),
        ("slurm", "NameError: name 'SFTPNoSuchFile' is not defined", "unread-output"),
        ("slurm_fn", "NameError: name 'logger' is not defined", "no-logger"),
        ("databricks", "RuntimeError: Failed to get databricks job 7 with error: Bad Request", "poll-error"),
        ("spark", "ContentTypeError: 403, message='Attempt to decode JSON with unexpected mimetype: text/html'", "create-error"),
    ],
)  # fmt: skip
def test_the_words_of_a_failure_lead_to_its_fault(task_type: str, words: str, name: str) -> None:
    faults = [fault for fault in FAULTS if fault.task_type == task_type and fault.explains(words)]
    assert [fault.name for fault in faults] == [f"{task_type}-{name}"]


def test_every_fault_has_a_check_and_all_its_words() -> None:
    assert {fault.name for fault in HERE} == set(CHECKS) and len(HERE) == len(CHECKS)
    for fault in FAULTS:
        assert fault.versions and all((fault.what, fault.here, fault.production, fault.remedy)), fault.name
        assert fault.what.endswith(".") and fault.production.endswith(".") and fault.remedy.endswith("."), fault.name
        re.compile(fault.sign)


def test_faults_are_found_by_task_type_where_the_connector_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"flytekitplugins-snowflake": "1.16.31", "flytekit": "1"}
    monkeypatch.setattr(known_faults, "version_of", lambda name: versions.get(name, ""))
    assert {fault.task_type for fault in faults_of("snowflake")} == {"snowflake"}
    assert faults_of("chatgpt") == () and faults_of("none") == ()
    assert [fault.name for fault in faults_of("webhook")] == ["webhook-only-200"]


def test_another_version_than_those_seen_may_be_mended() -> None:
    (fault,) = faults_of("webhook")
    assert "may be mended" in fault.told("1.99.0") and "may be mended" not in fault.told(fault.versions[0])


def test_a_failure_is_explained_by_its_own_fault_alone() -> None:
    assert "only the HTTP status 200" in explanation("webhook", "Webhook failed with status code 204, response: ")
    assert explanation("webhook", "Webhook failed with status code 500, response: no") == ""
    assert explanation("sensor", "Webhook failed with status code 204") == ""
