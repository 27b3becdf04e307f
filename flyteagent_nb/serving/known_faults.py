"""Known faults of released connectors, as a table: what is wrong, what a person sees of it here and in production, and the way out.

An entry goes when its fault is mended: a test for each drives the installed connector, and fails once the fault is no longer there.
"""

from __future__ import annotations

from flyteagent_nb.plugins import version_of
from flyteagent_nb.serving.airflow_faults import AIRFLOW_FAULTS
from flyteagent_nb.serving.job_faults import JOB_FAULTS
from flyteagent_nb.serving.known_fault import KnownFault

UNKNOWN_STATE = "is a state that has no phase of Flyte"
"""Our words for a state that an agent does not know; the sign of the faults that are about it."""

BROKEN_RECORD = "logs what does not fit its text"
"""Our words for a log call with a wrong format; the sign of the faults that are about it."""


PICKLED_OUTPUT = "own service pickles output"
"""Our words for an output that is a literal where a value belongs; the sign of the faults that are about it."""


_SEEN = ("1.16.31",)
_POLLED_ON = "polls that fail are made again; FlytePropeller gives a job up after a few, though it may still run."
_WAIT = "A job that leaves such a state soon goes on; %agent cancel stops one that does not."

FAULTS = (
    KnownFault(
        name="bigquery-lost-error",
        task_type="bigquery_query_job_task",
        distribution="flytekitplugins-bigquery",
        versions=_SEEN,
        what="get logs a failed query's error with a wrong format, and flytekit's log handler raises TypeError there.",
        here="the query's own error: the log call is mended.",
        production="a failed query ends as `TypeError: not all arguments converted`, and its own error is lost.",
        remedy="Set FLYTE_SDK_RICH_TRACEBACKS=0 for the connector service, whose log handler then does not raise.",
        sign=BROKEN_RECORD,
    ),
    KnownFault(
        name="bigquery-default-project",
        task_type="bigquery_query_job_task",
        distribution="flytekitplugins-bigquery",
        versions=_SEEN,
        what="create uses the task's ProjectID, but get and delete look for a default project.",
        here="polls that fail with `Project was not passed` where neither the credentials nor the environment name one.",
        production="the same; the query runs on, as it is neither followed nor cancelled.",
        remedy="Set GOOGLE_CLOUD_PROJECT where the connector runs.",
        sign=r"(?i)project (?:was not passed and )?could not be determined|GOOGLE_CLOUD_PROJECT",
    ),
    KnownFault(
        name="bigquery-job-config",
        task_type="bigquery_query_job_task",
        distribution="flytekitplugins-bigquery",
        versions=_SEEN,
        what="create sends nothing of the task's QueryJobConfig: no default dataset, no labels, no limit of the bytes billed.",
        here="a query that costs more than maximum_bytes_billed runs all the same.",
        production="the same.",
        remedy="Write full table names, and set limits of cost at the project.",
    ),
    KnownFault(
        name="bigquery-parameters",
        task_type="bigquery_query_job_task",
        distribution="flytekitplugins-bigquery",
        versions=_SEEN,
        what="create knows no type for an input that is a list, Optional, timedelta, bytes, a table or a file.",
        here="a KeyError of create.",
        production="the same.",
        remedy="Pass texts, numbers, booleans or datetimes, and convert them in the query; load a table into BigQuery before "
        "(in the sandbox: %agent sandbox bigquery --table shop.orders=df).",
        sign=r"^KeyError: (typing\.|<class '(list|datetime\.timedelta|bytes|flytekit\.types\.[\w.]+)'>|list\[)",
    ),
    KnownFault(
        name="snowflake-lost-error",
        task_type="snowflake",
        distribution="flytekitplugins-snowflake",
        versions=_SEEN,
        what="get logs a failed query's error with a wrong format, where flytekit's log handler raises TypeError, and returns no message.",
        here="the query's own error: the log call is mended, and its words are the message.",
        production="a failed query ends as `TypeError: not all arguments converted`, or without a reason; its own error is lost.",
        remedy="Snowflake's query history has the error, under the query's id.",
        sign=BROKEN_RECORD,
    ),
    KnownFault(
        name="snowflake-states",
        task_type="snowflake",
        distribution="flytekitplugins-snowflake",
        versions=_SEEN,
        what="of a live query only the state RUNNING is known: QUEUED, BLOCKED, RESUMING_WAREHOUSE, QUEUED_REPARING_WAREHOUSE, RESTARTED "
        "and NO_DATA are a ValueError.",
        here="polls that fail with the state's name, and are made again.",
        production=_POLLED_ON,
        remedy=_WAIT,
        sign=UNKNOWN_STATE,
    ),
    KnownFault(
        name="snowflake-outputs",
        task_type="snowflake",
        distribution="flytekitplugins-snowflake",
        versions=_SEEN,
        what="a query's result is put into the reply as a literal where a value belongs, so it arrives as a pickle of the literal.",
        here="the result, as the task declares it: the literal is taken out again.",
        production="the next task gets a pickle instead of a table, and fails on it.",
        remedy="In production let the task write a table (CREATE TABLE ... AS) and have no outputs.",
        sign=PICKLED_OUTPUT,
    ),
    KnownFault(
        name="openai-batch-states",
        task_type="openai-batch",
        distribution="flytekitplugins-openai",
        versions=_SEEN,
        what="a status of a batch that its table lacks is an AttributeError (`'NoneType' object has no attribute 'lower'`); the table has "
        "the eight statuses of OpenAI itself.",
        here="polls that fail with the status, and are made again.",
        production=_POLLED_ON,
        remedy="It takes an API with statuses of its own: use one that keeps to OpenAI's.",
        sign=UNKNOWN_STATE,
    ),
    KnownFault(
        name="chatgpt-ten-seconds",
        task_type="chatgpt",
        distribution="flytekitplugins-openai",
        versions=_SEEN,
        what="an answer that takes more than 10 s is a TimeoutError without words, whatever the task's timeout.",
        here="`TimeoutError`.",
        production="the same.",
        remedy="Ask for less: a smaller model, or max_tokens in the task's configuration.",
        sign=r"^TimeoutError\b",
    ),
    KnownFault(
        name="webhook-only-200",
        task_type="webhook",
        distribution="flytekit",
        versions=_SEEN,
        what="only the HTTP status 200 counts as success: 201, 202 and 204 fail the task, though the request was taken.",
        here="`Webhook failed with status code 201` with the service's answer.",
        production="the same.",
        remedy="Call an endpoint that answers 200, or send the request in a Python task.",
        sign=r"^Webhook failed with status code 2\d\d\b",
    ),
    *(
        KnownFault(
            name=f"{task_type}-states",
            task_type=task_type,
            distribution=distribution,
            versions=_SEEN,
            what=f"states that flytekit's table lacks are a ValueError: {states}.",
            here="polls that fail with the state's name, and are made again.",
            production=_POLLED_ON,
            remedy=_WAIT,
            sign=UNKNOWN_STATE,
        )
        for task_type, distribution, states in (
            ("slurm", "flytekitplugins-slurm", "COMPLETING, CONFIGURING, SUSPENDED, NODE_FAIL, OUT_OF_MEMORY, PREEMPTED"),
            ("slurm_fn", "flytekitplugins-slurm", "COMPLETING, CONFIGURING, SUSPENDED, NODE_FAIL, OUT_OF_MEMORY, PREEMPTED"),
            ("databricks", "flytekitplugins-spark", "QUEUED, BLOCKED, WAITING_FOR_RETRY, MAXIMUM_CONCURRENT_RUNS_REACHED"),
            ("spark", "flytekitplugins-spark", "QUEUED, BLOCKED, WAITING_FOR_RETRY, MAXIMUM_CONCURRENT_RUNS_REACHED"),
        )
    ),
    *AIRFLOW_FAULTS,
    *JOB_FAULTS,
)  # fmt: skip
"""The faults that are known."""


def faults_of(task_type: str) -> tuple[KnownFault, ...]:
    """The known faults of a task type's connector, where it is installed."""
    return tuple(fault for fault in FAULTS if fault.task_type == task_type and version_of(fault.distribution))


def explanation(task_type: str, words: str) -> str:
    """The known fault that a failure of ``words`` comes of, in one line; empty where none is known."""
    for fault in faults_of(task_type):
        if fault.explains(words):
            return fault.told(version_of(fault.distribution))
    return ""
