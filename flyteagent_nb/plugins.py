"""flytekit's connector plug-ins on PyPI: which task types each brings, and the command that installs it.

The table is of release 1.16.31. A plug-in that came later, or from somebody else, is simply not known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata

from flyteagent_nb.errors import closest


@dataclass(frozen=True)
class Plugin:
    """A distribution with connectors.

    Attributes:
        distribution: its name on PyPI.
        packages: the packages under ``flytekitplugins`` that it installs.
        task_types: the task types of its connectors.
        extra: our own extra that installs it, or an empty string.
    """

    distribution: str
    packages: tuple[str, ...]
    task_types: tuple[str, ...]
    extra: str = ""


PLUGINS = (
    Plugin("flytekitplugins-airflow", ("airflow",), ("airflow",)),
    Plugin("flytekitplugins-awsemrserverless", ("awsemrserverless",), ("emr_serverless",)),
    Plugin(
        "flytekitplugins-awssagemaker",
        (
            "awssagemaker_batch_transform",
            "awssagemaker_hyperparameter_tuning",
            "awssagemaker_inference",
            "awssagemaker_inference_recommender",
            "awssagemaker_processing",
            "awssagemaker_training",
        ),
        (
            "boto",
            "sagemaker-endpoint",
            "sagemaker-hyperparameter-tuning-job",
            "sagemaker-inference-recommender-job",
            "sagemaker-processing-job",
            "sagemaker-processing-task",
            "sagemaker-training-job",
            "sagemaker-training-task",
            "sagemaker-transform-job",
        ),
    ),
    Plugin("flytekitplugins-bigquery", ("bigquery",), ("bigquery_query_job_task",), extra="bigquery"),
    Plugin(
        "flytekitplugins-dgxc-lepton",
        ("dgxc_lepton",),
        ("lepton_endpoint_deletion_task", "lepton_endpoint_deployment_task"),
    ),
    Plugin("flytekitplugins-k8sdataservice", ("k8sdataservice",), ("dataservicetask",)),
    Plugin("flytekitplugins-mmcloud", ("mmcloud",), ("mmcloud_task",)),
    Plugin("flytekitplugins-openai", ("openai",), ("chatgpt", "openai-batch"), extra="openai"),
    Plugin("flytekitplugins-perian_job", ("perian_job",), ("perian_task",)),
    Plugin("flytekitplugins-slurm", ("slurm",), ("slurm", "slurm_fn")),
    Plugin("flytekitplugins-snowflake", ("snowflake",), ("snowflake",), extra="snowflake"),
    Plugin("flytekitplugins-spark", ("spark",), ("databricks", "spark")),
)
"""The plug-ins that bring connectors."""

WITH_FLYTEKIT = {"webhook": "flytekit.extras.webhook", "sensor": "flytekit.sensor"}
"""The task types whose connectors come with flytekit itself, and the module that registers each."""

WITH_US = {"duckdb_query": "duckdb"}
"""The task types of our own agents, and the extra that each needs."""

PROPELLERS_OWN = {
    "aws-batch": "flytekitplugins-awsbatch",
    "dask": "flytekitplugins-dask",
    "hive": "flytekitplugins-hive",
    "mpi": "flytekitplugins-kfmpi",
    "presto": "flytekitplugins-athena",
    "pytorch": "flytekitplugins-kfpytorch",
    "ray": "flytekitplugins-ray",
    "tensorflow": "flytekitplugins-kftensorflow",
}
"""Task types that FlytePropeller runs by a plug-in of its own, for which flytekit has no connector; and what has their tasks."""

_CALLED = {"athena": "presto", "awsbatch": "aws-batch", "aws_batch": "aws-batch", "batch": "aws-batch"}
"""What people write for some of them."""

DISTRIBUTIONS = {
    "airflow": "apache-airflow",
    "boto3": "boto3",
    "aioboto3": "aioboto3",
    "duckdb": "duckdb",
    "google.api_core": "google-api-core",
    "google.cloud.bigquery": "google-cloud-bigquery",
    "google.cloud.bigquery_storage": "google-cloud-bigquery-storage",
    "google.auth": "google-auth",
    "kubernetes": "kubernetes",
    "leptonai": "leptonai",
    "openai": "openai",
    "pyspark": "pyspark",
    "snowflake": "snowflake-connector-python",
    "yaml": "pyyaml",
}
"""The distribution of a module, where connectors import it and the names differ or an extra of ours has it."""

_NEEDS = {"flytekitplugins-perian-job": "perian>=0.2.7,<0.3", "flytekitplugins-dgxc-lepton": "leptonai>=0.25,<0.47"}
"""The versions that a plug-in works with, where it declares no bound and the newest do not do."""

_OURS = {"google-cloud-bigquery": "bigquery", "google-cloud-bigquery-storage": "bigquery", "openai": "openai",
         "snowflake-connector-python": "snowflake", "duckdb": "duckdb"}  # fmt: skip
_MISSING = re.compile(r"No module named '([\w.]+)'")


def normal(name: str) -> str:
    """A distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def plugin_of_type(task_type: str) -> Plugin | None:
    """The plug-in that brings the connector of a task type, or None."""
    return next((plugin for plugin in PLUGINS if task_type in plugin.task_types), None)


def is_known(task_type: str) -> bool:
    """Whether a task type is one of flytekit's plug-ins, of propeller's own or ours, and so no slip of the pen for another."""
    return plugin_of_type(task_type) is not None or _CALLED.get(task_type, task_type) in {**PROPELLERS_OWN, **WITH_US}


def plugin_of_distribution(distribution: str) -> Plugin | None:
    """The plug-in that a distribution is, or None."""
    return next((plugin for plugin in PLUGINS if normal(plugin.distribution) == normal(distribution)), None)


def install_command(plugin: Plugin) -> str:
    """The command that installs a plug-in, with an extra of ours where there is one: it has the bounds that are needed."""
    return f"pip install 'flyteagent_nb[{plugin.extra}]'" if plugin.extra else f"pip install {plugin.distribution}"


UNSERVED = "%agent types lists what there is; install the plug-in that has the agent, or register one in a cell"
"""The way out where nothing is known of a task type."""


def hint_of_type(task_type: str) -> str:
    """How a task type comes to be served: a command or an import; empty where no connector of it is known."""
    if task_type in WITH_FLYTEKIT:
        return f"import {WITH_FLYTEKIT[task_type]} registers its agent"
    if task_type in WITH_US and version_of(WITH_US[task_type]):
        return (
            "its agent comes along with flyteagent_nb: where it was removed, %reload_ext flyteagent_nb brings it back"
        )
    if task_type in WITH_US:
        return f"pip install 'flyteagent_nb[{WITH_US[task_type]}]' brings its agent; restart the kernel afterwards"
    if (own := _CALLED.get(task_type, task_type)) in PROPELLERS_OWN:
        called = "" if own == task_type else f"its task type is '{own}'; "
        return (
            f"{called}flytekit has no connector for it, so no agent service can run it: FlytePropeller does, by a plug-in of its own "
            f"on the cluster. %agent run TASK --on CONFIG sends a task of {PROPELLERS_OWN[own]} there"
        )
    plugin = plugin_of_type(task_type)
    if plugin is None:
        # People write the service's name: bigquery.
        plugin = next((p for p in PLUGINS if task_type.lower() in p.packages), None)
        if plugin is None:
            near = closest(task_type, [t for p in PLUGINS for t in p.task_types])
            plugin = plugin_of_type(near) if near else None
        if plugin is None:
            return ""
        meant = closest(task_type, plugin.task_types) or plugin.task_types[0]
        if version_of(plugin.distribution):
            return f"did you mean {meant}?"
        return f"did you mean {meant}? {install_command(plugin)} brings its agent; restart the kernel afterwards"
    if version_of(plugin.distribution):
        return (
            f"{plugin.distribution} is installed, but has not registered its agent: %agent doctor {task_type} tells why"
        )
    return f"{install_command(plugin)} brings its agent; restart the kernel afterwards"


def mending_command(package: str, reason: str) -> str:
    """The command that mends a plug-in that could not be imported.

    Args:
        package: the distribution and its version, or a module where the distribution is not known.
        reason: the error, as ``ModuleNotFoundError: No module named 'x'``.
    """
    plugin = plugin_of_distribution(package.partition(" ")[0])
    told = re.search(r": (pip install .+)$", reason)
    if told is not None:  # an agent of ours that is missing its library
        return told[1]
    missing = _MISSING.search(reason)
    if missing is not None:
        if missing[1].startswith("flytekitplugins."):
            found = next((p for p in PLUGINS if missing[1].split(".")[1] in p.packages), None)
            if found is not None:
                return install_command(found)
        if plugin is None or normal(plugin.distribution) not in _NEEDS:
            return package_command(missing[1], plugin)
    if plugin is not None:
        if needs := _NEEDS.get(normal(plugin.distribution)):
            return f"pip install '{needs}'"
        command = install_command(plugin)
        return command.replace("pip install", "pip install --upgrade")
    distribution = package.partition(" ")[0]
    return f"pip install --upgrade {distribution}" if version_of(distribution) else ""


def package_command(module: str, plugin: Plugin | None = None) -> str:
    """The command that installs a missing module, for the plug-in that imports it where that is one of ours."""
    names = [module.rsplit(".", n)[0] for n in range(module.count(".") + 1)]
    distribution = next((DISTRIBUTIONS[name] for name in names if name in DISTRIBUTIONS), module.partition(".")[0])
    extra = plugin.extra if plugin is not None and plugin.extra else _OURS.get(distribution, "")
    return f"pip install 'flyteagent_nb[{extra}]'" if extra else f"pip install {distribution.replace('_', '-')}"


def version_of(distribution: str) -> str:
    """The version of a distribution that is installed, or an empty string."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
