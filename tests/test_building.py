"""The tasks of plug-ins' classes from a cell: the same template that their own constructor makes, whatever the plug-in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from flytekit import FlyteContextManager, Resources
from flytekit.core.base_sql_task import SQLTask
from flytekit.core.base_task import PythonTask
from flytekit.core.interface import Interface
from flytekit.extend.backend.base_connector import AsyncConnectorExecutorMixin
from flytekit.extras.webhook import WebhookTask
from flytekit.models.task import Sql
from flytekit.sensor.file_sensor import FileSensor
from flytekit.types.file import FlyteFile
from flytekit.types.structured import StructuredDataset
from google.protobuf.json_format import MessageToDict
from test_cells import described, task_of

from flyteagent_nb import tables
from flyteagent_nb.agents.duckdb import DuckDBConfig, DuckDBQuery
from flyteagent_nb.errors import ArgumentError, CellError
from flyteagent_nb.notebook.task_classes import config_fields
from flyteagent_nb.running.tasks import template_of

bigquery = pytest.importorskip("flytekitplugins.bigquery", reason="the extra bigquery")
snowflake = pytest.importorskip("flytekitplugins.snowflake", reason="the extra snowflake")
openai = pytest.importorskip("flytekitplugins.openai", reason="the extra openai")

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class ClusterConfig:
    """As a batch system's plug-in has it."""

    ssh: dict[str, Any]
    queue: Optional[dict[str, str]] = None  # noqa: UP045
    limits: Optional[Resources] = None  # noqa: UP045


@dataclass
class PathConfig(ClusterConfig):
    path: str = field(default="")

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path must be provided")


class ByPath(AsyncConnectorExecutorMixin, PythonTask[PathConfig]):  # type: ignore[misc]
    _TASK_TYPE = "building_cluster"

    def __init__(self, name: str, task_config: PathConfig, **kwargs: Any) -> None:
        super().__init__(self._TASK_TYPE, name, task_config, Interface(), **kwargs)

    def get_custom(self, settings: Any) -> dict[str, Any]:
        return {"ssh": self.task_config.ssh, "path": self.task_config.path}


class Script(AsyncConnectorExecutorMixin, PythonTask[ClusterConfig]):  # type: ignore[misc]
    _TASK_TYPE = "building_cluster"

    def __init__(self, name: str, task_config: ClusterConfig, script: str, inputs: Any = None, **kwargs: Any) -> None:
        super().__init__(self._TASK_TYPE, name, task_config, Interface(inputs), **kwargs)
        self._script = script

    def get_custom(self, settings: Any) -> dict[str, Any]:
        config = self.task_config
        limits = {"cpu": config.limits.cpu} if config.limits else None
        return {"ssh": config.ssh, "queue": config.queue, "limits": limits, "script": self._script}


class NamedQuery(SQLTask[ClusterConfig]):  # type: ignore[misc]
    """SQL with the output named by whoever makes the task."""

    _TASK_TYPE = "building_named"

    def __init__(self, name: str, query_template: str, outputs: Any = None, **kwargs: Any) -> None:
        super().__init__(name=name, query_template=query_template, outputs=outputs, task_type=self._TASK_TYPE, **kwargs)


class FixedQuery(SQLTask[None]):  # type: ignore[misc]
    """SQL with an output of the class's own."""

    _TASK_TYPE = "building_fixed"

    def __init__(self, name: str, sql: str, limit: int = 10) -> None:
        super().__init__(name, sql, task_type=self._TASK_TYPE, outputs={"rows": StructuredDataset})


@dataclass
class AskConfig:
    query: str
    depth: int = 1


class Ask(PythonTask[AskConfig]):  # type: ignore[misc]
    """The query is a field of the configuration."""

    _TASK_TYPE = "building_ask"

    def __init__(self, name: str, task_config: AskConfig) -> None:
        super().__init__(self._TASK_TYPE, name, task_config, Interface(None, {"answer": str}))


class Chat(PythonTask):  # type: ignore[misc]
    """A model with a prompt and something beside it."""

    _TASK_TYPE = "building_chat"

    def __init__(self, name: str, model: str = "small", settings: Optional[dict[str, Any]] = None) -> None:  # noqa: UP045
        super().__init__(self._TASK_TYPE, name, interface=Interface({"system": str, "prompt": str}, {"text": str}))
        self.model, self.settings = model, settings

    def get_custom(self, settings: Any) -> dict[str, Any]:
        return {"model": self.model, "settings": self.settings}


class Nothing(PythonTask):  # type: ignore[misc]
    _TASK_TYPE = "building_nothing"

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(self._TASK_TYPE, name, interface=Interface({"n": int}, {"n": int}), **kwargs)


def template(task: PythonTask[Any]) -> dict[str, Any]:
    found = MessageToDict(template_of(task, context=FlyteContextManager.current_context()))
    found.pop("id")
    return dict(found)


SQL = "SELECT 'a  b' -- all\nFROM t\n"
SNOW = "-c user=u -c account=a -c database=d -c schema=s -c warehouse=w"
SCRIPT = "#!/bin/bash\necho {{ $HOME }}\n"
OUT = {"name": "job_7"}


def verbatim(task: Any) -> Any:
    task._query_template = SQL
    return task


@pytest.mark.parametrize(
    ("line", "body", "own"),
    [
        (
            "bigquery_query_job_task -c ProjectID=p -c Location=EU -i year=3",
            SQL,
            lambda: verbatim(
                bigquery.BigQueryTask(
                    query_template=SQL,
                    task_config=bigquery.BigQueryConfig("p", "EU"),
                    inputs={"year": int},
                    output_structured_dataset_type=pd.DataFrame,
                    **OUT,
                )
            ),
        ),
        (
            f"snowflake {SNOW} --returns None",
            SQL,
            lambda: verbatim(
                snowflake.SnowflakeTask(
                    query_template=SQL, task_config=snowflake.SnowflakeConfig("u", "a", "d", "s", "w"), **OUT
                )
            ),
        ),
        (
            "duckdb_query -c threads=2 -c settings.TimeZone=UTC",
            SQL,
            lambda: DuckDBQuery(
                query_template=SQL,
                task_config=DuckDBConfig(threads=2, settings={"TimeZone": "UTC"}),
                output_structured_dataset_type=pd.DataFrame,
                **OUT,
            ),
        ),
        (
            "chatgpt -c model=gpt-4o -c temperature=0.2 -c openai_organization=org",
            "Say: {hello}\n",
            lambda: openai.ChatGPTTask(
                chatgpt_config={"model": "gpt-4o", "temperature": 0.2}, openai_organization="org", **OUT
            ),
        ),
        (
            "chatgpt -i message='hi'",
            "model: gpt-4o\nopenai_organization: org",
            lambda: openai.ChatGPTTask(chatgpt_config={"model": "gpt-4o"}, openai_organization="org", **OUT),
        ),
        ("openai-batch -i input_file_id='f'", "", lambda: openai.BatchEndpointTask(config={}, **OUT)),
        (
            "openai-batch -i input_file_id='f'",
            "config:\n  completion_window: 24h\n",
            lambda: openai.BatchEndpointTask(config={"completion_window": "24h"}, **OUT),
        ),
        (
            "building_cluster -c ssh.host=h -c queue.nodes=2 -c limits.cpu=2 -i n=3",
            SCRIPT,
            lambda: Script(
                task_config=ClusterConfig({"host": "h"}, {"nodes": "2"}, Resources(cpu=2)),
                script=SCRIPT,
                inputs={"n": int},
                **OUT,
            ),
        ),
        (
            "building_cluster -c ssh.host=h -c path=/a.sh",
            " \n",
            lambda: ByPath(task_config=PathConfig({"host": "h"}, path="/a.sh"), **OUT),
        ),
        (
            "building_cluster --lang yaml",
            "ssh: {host: h}\nscript: echo",
            lambda: Script(task_config=ClusterConfig({"host": "h"}), script="echo", **OUT),
        ),
        (
            "building_cluster --lang yaml -c ssh.port=22",
            "ssh: {host: h}\npath: /x",
            lambda: ByPath(task_config=PathConfig({"host": "h", "port": 22}, path="/x"), **OUT),
        ),
        (
            "webhook -c url=http://x -c method=GET -i item=3",
            "",
            lambda: WebhookTask(url="http://x", method="GET", dynamic_inputs={"item": int}, **OUT),
        ),
        (
            "webhook",
            '{"url": "http://x", "headers": {"a": "b"}, "timeout": 5}',
            lambda: WebhookTask(url="http://x", headers={"a": "b"}, timeout=5, **OUT),
        ),
        ("sensor -i path='/tmp/x'", "", lambda: FileSensor(**OUT)),
        (
            "building_chat -i system='s' -c heat=1 -c model=big",
            "hi",
            lambda: Chat(model="big", settings={"heat": 1}, **OUT),
        ),
        ("building_nothing -i n=3", "", lambda: Nothing(**OUT)),
        ("building_nothing -i n=3", "{}", lambda: Nothing(**OUT)),
    ],
)
def test_a_cell_makes_the_template_of_the_plugins_own_class(
    line: str, body: str, own: Callable[[], PythonTask[Any]]
) -> None:
    assert template(task_of(line, body)) == template(own())


@pytest.mark.parametrize("line", ["bigquery_query_job_task -c ProjectID=p", f"snowflake {SNOW}", "duckdb_query"])
@pytest.mark.parametrize(
    ("returns", "frame"),
    [
        ("-o df", pd.DataFrame),
        ("--returns pandas", pd.DataFrame),
        ("--returns results:pa.Table", pa.Table),
        ("--returns pyarrow.Table", pa.Table),
        ("--returns arrow", pa.Table),
        ("--returns results:pl.DataFrame", pl.DataFrame),
        ("--returns polars", pl.DataFrame),
        ("--returns results:polars.LazyFrame", pl.LazyFrame),
        ("--returns StructuredDataset", None),
    ],
)
def test_an_sql_task_takes_every_frame_without_an_import(line: str, returns: str, frame: Any) -> None:
    task = task_of(f"{line} {returns}", SQL)
    assert tables.wanted(task.python_interface.outputs["results"]) is frame
    variables = template(task)["interface"]["outputs"]["variables"]
    assert variables["results"]["type"] == {"structuredDatasetType": {}}


def test_an_sql_task_may_return_a_file() -> None:
    task = task_of("bigquery_query_job_task -c ProjectID=p --returns results:FlyteFile", SQL)
    assert task.python_interface.outputs == {"results": FlyteFile}


@pytest.mark.parametrize(
    ("line", "outputs"),
    [
        ("building_named -o df", {"results": pd.DataFrame}),
        ("building_named --returns o0:int", {"results": int}),
        ("building_named --returns rows:arrow", {"rows": pa.Table}),
        ("building_named --returns a:int,b:str", {"a": int, "b": str}),
        ("building_named --returns None", {}),
        ("building_fixed -o df -c limit=3", {"rows": StructuredDataset}),
        ("building_fixed --returns rows:StructuredDataset", {"rows": StructuredDataset}),
    ],
)
def test_the_output_has_the_name_that_the_class_or_the_line_gives_it(line: str, outputs: dict[str, Any]) -> None:
    assert task_of(line, "SELECT 1").python_interface.outputs == outputs


def test_a_query_in_the_configuration_is_the_body_too() -> None:
    task = task_of("building_ask -c depth=2", SQL)
    assert task.task_config == AskConfig(SQL, 2)


def test_sql_for_an_agent_without_a_task_class_is_the_sql_of_the_template() -> None:
    task = task_of("kind --lang sql -c place=here -i n=3", SQL, served={"kind": [2]})
    assert task.get_sql(None) == Sql(SQL, Sql.Dialect.ANSI)
    assert (task.get_custom(None), task.task_type_version) == ({"place": "here"}, 2)
    assert task.python_interface.outputs == {"results": pd.DataFrame}


@pytest.mark.parametrize(
    ("line", "body", "inputs"),
    [
        ("chatgpt -c model=m", "a\n\nb: c\n", {"message": "a\n\nb: c"}),
        ("chatgpt -c model=m", "  {x}", {"message": "  {x}"}),
        ("chatgpt -c model=m", "import the text\nfrom here\n", {"message": "import the text\nfrom here"}),
        ("chatgpt -c model=m -i message='hi'", "", {"message": "hi"}),
        ("chatgpt --config cfg", "hi", {"message": "hi"}),
        ("chatgpt -i message='hi' --returns o0:str", "chatgpt_config: {model: m}", {"message": "hi"}),
        ("building_chat -i system='s'", "p\n", {"system": "s", "prompt": "p"}),
        ("building_chat -i system='s' -i prompt='q'", "model: big", {"system": "s", "prompt": "q"}),
        ("openai-batch --lang prompt", "file-1\n", {"input_file_id": "file-1"}),
        ("building_nothing -i n=3", "", {"n": 3}),
    ],
)
def test_the_body_is_the_input_that_is_a_prompt(line: str, body: str, inputs: dict[str, Any]) -> None:
    assert described(line, body, cfg={"model": "m"}).inputs == inputs


@pytest.mark.parametrize(
    ("line", "body", "told"),
    [
        ("chatgpt", "hi there", "The 'model' configuration variable is required in chatgpt_config\nhint: -c KEY=VALUE sets "),
        ("chatgpt -c model=m", "", "the cell is empty\nhint: write the message into the cell, or give it with -i message=..."),
        ("chatgpt -c model=m -i message='x'", "hi", "-i message gives the text already, so the cell is the configuration"),
        ("chatgpt -c model=m -i message='x' --lang prompt", "hi", "'message' is given twice: by -i and by the cell"),
        ("chatgpt -c openai_organisation=x", "hi", "did you mean openai_organization? a key of chatgpt_config that is"),
        ("chatgpt -c model=m --config cfg -i message='x'", "a: 1", "--config goes with SQL, a script or a prompt"),
        ("chatgpt --config three", "hi", "--config takes a dict for ChatGPTTask, not an int"),
        ("openai-batch", "just text", "the cell is a str"),
        ("building_cluster", SCRIPT, "ClusterConfig needs ssh\nhint: write -c ssh.KEY=..."),
        ("building_cluster -c ssh.host=h", "", "path must be provided"),
        ("building_cluster -c ssh.host=h", "", "or write the script into the cell"),
        ("building_cluster -c sh.host=h", SCRIPT, "did you mean ssh?"),
        ("building_cluster -c ssh.host=h --returns x:int", SCRIPT, "the outputs of Script are not those of --returns; they are: none"),
        ("building_cluster --lang sql", SQL, "no installed plug-in has an SQL task for 'building_cluster'"),
        ("building_clust --lang shell", SCRIPT, "no installed plug-in has a task with a shell script for 'building_clust'"),
        ("building_clust --lang shell", SCRIPT, "did you mean building_cluster?"),
        ("building_nothing -i n=3 --lang prompt", "hi", "no input of 'building_nothing' takes a prompt"),
        ("webhook", "url: http://x\nmethd: GET", "WebhookTask has no field 'methd'\nhint: did you mean method?"),
        ("webhook", "method: GET", "WebhookTask needs url\nhint: write -c url=..."),
        ("webhook", "url: x\nmethod: PUT", "WebhookTask does not take this cell: Method should be either GET or POST"),
        ("duckdb_query", "", "the cell is empty\nhint: write the query_template of the task into it"),
        ("duckdb_query --returns rows:arrow", SQL, "they are: results: Table\nhint: --returns results:TYPE"),
        ("building_fixed --returns other:int", SQL, "they are: rows: StructuredDataset\nhint: leave --returns out"),
        ("bigquery_query_job_task -c ProjectID=p -c QueryJobConfig.labls={}", SQL, "QueryJobConfig has no field 'labls'"),
        ("bigquery_query_job_task -c Projectid=p", SQL, "did you mean ProjectID?"),
        ("bigquery_query_job_task", SQL, "BigQueryConfig needs ProjectID\nhint: write -c ProjectID=..."),
        ("kind", "", "the cell is empty"),
    ],
)  # fmt: skip
def test_what_a_class_does_not_take_is_told(line: str, body: str, told: str) -> None:
    with pytest.raises((ArgumentError, CellError)) as caught:
        task_of(line, body, cfg={"model": "m"}, three=3)
    assert told in str(caught.value)


def test_with_returns_a_mapping_goes_past_the_class() -> None:
    task = task_of("webhook --returns info:str", "anything: 1")
    assert task.get_custom(None) == {"anything": 1} and task.python_interface.outputs == {"info": str}


def test_a_class_without_settings_leaves_a_mapping_as_it_is() -> None:
    assert task_of("building_nothing -i n=3", "a: 1").get_custom(None) == {"a": 1}


def test_the_line_alone_is_a_configuration_where_no_class_is_known() -> None:
    assert task_of("kind -c a=1 -c b.c=2", "").get_custom(None) == {"a": 1, "b.c": 2}


def test_a_polars_input_is_a_table_to_sql() -> None:
    cell = described("duckdb_query -i rows", "SELECT * FROM rows", rows=pl.DataFrame({"a": [1]}))
    assert cell.inputs["rows"].to_pydict() == {"a": [1]}
    assert cell.task.python_interface.inputs == {"rows": pa.Table}


def test_the_fields_of_released_plugins_are_offered() -> None:
    fields = config_fields("bigquery_query_job_task")
    assert fields[:3] == ["ProjectID", "Location", "QueryJobConfig"] and "QueryJobConfig.maximum_bytes_billed" in fields
    assert config_fields("snowflake") == ["user", "account", "database", "schema", "warehouse"]
    assert config_fields("chatgpt") == ["chatgpt_config", "openai_organization"]
    assert "limits.cpu" in config_fields("building_cluster")
