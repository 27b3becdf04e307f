from __future__ import annotations

from importlib import metadata

import pytest

from flyteagent_nb import plugins
from flyteagent_nb.errors import TaskTypeNotFoundError
from flyteagent_nb.plugins import PLUGINS
from flyteagent_nb.serving.catalog import Catalog


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "version_of", lambda distribution: "")


INSTALLED = [plugin for plugin in PLUGINS if plugins.version_of(plugin.distribution)]


@pytest.mark.parametrize("plugin", INSTALLED, ids=lambda plugin: plugin.distribution)
def test_an_installed_plugin_has_the_packages_and_the_task_types_of_the_table(plugin: plugins.Plugin) -> None:
    distribution = metadata.distribution(plugin.distribution)
    files = {
        file.parts[1] for file in distribution.files or () if file.parts[0] == "flytekitplugins" and len(file.parts) > 2
    }
    assert files == set(plugin.packages)
    import flytekit  # noqa: F401 - loads the plug-ins
    from flytekit.extend.backend.base_connector import ConnectorRegistry

    served = {
        category.name
        for category, agent in ConnectorRegistry._REGISTRY.items()
        if type(agent).__module__.startswith("flytekitplugins.")
        and type(agent).__module__.split(".")[1] in plugin.packages
    }
    assert served == set(plugin.task_types)


def test_the_extras_are_our_own() -> None:
    extras = metadata.metadata("flyteagent_nb").get_all("Provides-Extra") or ()
    assert {plugin.extra for plugin in PLUGINS if plugin.extra} <= set(extras)
    types = [t for plugin in PLUGINS for t in plugin.task_types]
    assert len(types) == len(set(types))


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("task_type", "hint"),
    [
        (
            "bigquery_query_job_task",
            "pip install 'flyteagent_nb[bigquery]' brings its agent; restart the kernel afterwards",
        ),
        ("slurm_fn", "pip install flytekitplugins-slurm brings its agent; restart the kernel afterwards"),
        ("bigquery", "did you mean bigquery_query_job_task? pip install 'flyteagent_nb[bigquery]' brings its agent"),
        ("databrick", "did you mean databricks? pip install flytekitplugins-spark brings its agent"),
        ("webhook", "import flytekit.extras.webhook registers its agent"),
        ("duckdb_query", "pip install 'flyteagent_nb[duckdb]' brings its agent; restart the kernel afterwards"),
        ("presto", "flytekit has no connector for it, so no agent service can run it: FlytePropeller does"),
        ("athena", "its task type is 'presto'; flytekit has no connector for it"),
        ("hive", "flytekit has no connector for it"),
        ("awsbatch", "its task type is 'aws-batch'; flytekit has no connector for it"),
        ("nothing of the kind", ""),
    ],
)
def test_a_task_type_tells_how_it_comes_to_be_served(task_type: str, hint: str) -> None:
    assert plugins.hint_of_type(task_type).startswith(hint) and bool(plugins.hint_of_type(task_type)) == bool(hint)


def test_what_is_installed_is_not_installed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "version_of", lambda distribution: "1.0")
    assert plugins.hint_of_type("snowflake") == (
        "flytekitplugins-snowflake is installed, but has not registered its agent: %agent doctor snowflake tells why"
    )
    assert plugins.hint_of_type("bigquery") == "did you mean bigquery_query_job_task?"


@pytest.mark.parametrize("task_type", plugins.PROPELLERS_OWN)
def test_what_propeller_runs_by_itself_has_no_connector(task_type: str) -> None:
    """It goes from the table when a plug-in comes with one, where that is installed."""
    import flytekit  # noqa: F401 - loads the plug-ins
    from flytekit.extend.backend.base_connector import ConnectorRegistry

    assert all(category.name != task_type for category in ConnectorRegistry._REGISTRY)
    with pytest.raises(TaskTypeNotFoundError) as caught:
        Catalog().current(task_type)
    assert caught.value.suggestion is None and "FlytePropeller does" in caught.value.hint


@pytest.mark.usefixtures("nothing_installed")
def test_the_catalogue_s_error_tells_the_command() -> None:
    catalog = Catalog()
    with pytest.raises(TaskTypeNotFoundError) as caught:
        catalog.current("bigquery_query_job_task")
    assert caught.value.hint.startswith("pip install 'flyteagent_nb[bigquery]'") and caught.value.suggestion is None


@pytest.mark.parametrize(
    ("package", "reason", "command"),
    [
        ("flytekitplugins-bigquery 1.0", "ModuleNotFoundError: No module named 'google.cloud'", "pip install 'flyteagent_nb[bigquery]'"),
        ("flytekitplugins-spark 1.16.31", "ModuleNotFoundError: No module named 'pyspark.sql'", "pip install pyspark"),
        ("flytekitplugins-airflow 1.16.31", "ModuleNotFoundError: No module named 'airflow'", "pip install apache-airflow"),
        ("acme 2.0", "ModuleNotFoundError: No module named 'flytekitplugins.slurm'", "pip install flytekitplugins-slurm"),
        ("acme 2.0", "ModuleNotFoundError: No module named 'acme_client.core'", "pip install acme-client"),
        ("flytekitplugins_openai 1.0", "ImportError: cannot import name 'X'", "pip install --upgrade 'flyteagent_nb[openai]'"),
        ("flytekitplugins-slurm 1.0", "AttributeError: x", "pip install --upgrade flytekitplugins-slurm"),
        ("flytekitplugins-perian_job 1.16.31", "ImportError: cannot import name 'JobStatus' from 'perian'", "pip install 'perian>=0.2.7,<0.3'"),  # noqa: E501
        ("flytekitplugins-dgxc-lepton 1.16.31", "ModuleNotFoundError: No module named 'leptonai.api.v1'", "pip install 'leptonai>=0.25,<0.47'"),  # noqa: E501
        ("flyteagent_nb", "the DuckDB agent needs duckdb: pip install 'flyteagent_nb[duckdb]'", "pip install 'flyteagent_nb[duckdb]'"),
        ("pytest 1.0", "AttributeError: x", "pip install --upgrade pytest"),
        ("a_module", "AttributeError: x", ""),
    ],
)  # fmt: skip
def test_a_broken_plugin_tells_what_mends_it(package: str, reason: str, command: str) -> None:
    assert plugins.mending_command(package, reason) == command
