"""Bodies as a person writes them for plug-ins, in a real kernel: SQL into any frame, a prompt, a script, settings alone."""

from __future__ import annotations

import pytest

from kernel.harness import Kernel

pytestmark = pytest.mark.kernel

PLUGIN = '''
from dataclasses import dataclass
from typing import Any, Dict, Optional
from flyteidl.core.execution_pb2 import TaskExecution
from flytekit.core.base_task import PythonTask
from flytekit.core.interface import Interface
from flytekit.extend.backend.base_connector import Resource, SyncConnectorExecutorMixin

@dataclass
class Limits:
    cpu: int = 1
    memory: str = "1Gi"

@dataclass
class RemoteConfig:
    host: str
    limits: Optional[Limits] = None
    options: Optional[Dict[str, str]] = None

class RemoteScript(SyncConnectorExecutorMixin, PythonTask[RemoteConfig]):
    _TASK_TYPE = "remote_script"
    def __init__(self, name, task_config: RemoteConfig, script: str, inputs=None, **kwargs):
        super().__init__(self._TASK_TYPE, name, task_config, Interface(inputs, {"said": str}), **kwargs)
        self.script = script
    def get_custom(self, settings):
        c = self.task_config
        return {"script": self.script, "host": c.host, "cpu": c.limits.cpu if c.limits else 0, "options": c.options or {}}

class Model(SyncConnectorExecutorMixin, PythonTask):
    _TASK_TYPE = "language_model"
    def __init__(self, name: str, model_config: Dict[str, Any], organization: Optional[str] = None, **kwargs):
        if "model" not in model_config:
            raise ValueError("model_config needs a model")
        super().__init__(self._TASK_TYPE, name, None, Interface({"message": str}, {"o0": str}), **kwargs)
        self.model_config, self.organization = model_config, organization
    def get_custom(self, settings):
        return {"model_config": self.model_config, "organization": self.organization}

class Says(type(agents.do)):
    """Answers with what it was sent."""
    def __init__(self, kind, output):
        super().__init__(kind)
        self.output = output
    async def do(self, task_template, output_prefix, inputs=None, **kwargs):
        import json
        from google.protobuf.json_format import MessageToDict
        given = {k: v.scalar.primitive.string_value for k, v in inputs.literals.items()} if inputs else {}
        return Resource(phase=TaskExecution.SUCCEEDED, outputs={self.output: json.dumps([task_template.custom, given], sort_keys=True)})

ConnectorRegistry.register(Says("remote_script", "said"))
ConnectorRegistry.register(Says("language_model", "o0"))
'''


@pytest.fixture(scope="module", autouse=True)
def plugin(kernel: Kernel) -> None:
    kernel.ok(PLUGIN)


SQL = "SELECT 1::SMALLINT AS n, 'a' AS word UNION ALL SELECT 2, NULL ORDER BY n"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("-o got", "('pandas', 'DataFrame', 2)"),
        ("--returns results:pa.Table -o got", "('pyarrow', 'Table', 2)"),
        ("--returns pyarrow.Table -o got", "('pyarrow', 'Table', 2)"),
        ("--returns arrow -o got", "('pyarrow', 'Table', 2)"),
        ("--returns results:pl.DataFrame -o got", "('polars', 'DataFrame', 2)"),
        ("--returns polars -o got", "('polars', 'DataFrame', 2)"),
    ],
)
def test_a_query_comes_back_in_the_frame_that_is_asked_for(kernel: Kernel, line: str, shown: str) -> None:
    kernel.ok(f"%%agent_task duckdb_query {line}\n{SQL}")
    assert kernel.value("type(got).__module__.split('.')[0], type(got).__name__, len(got)") == shown


def test_a_polars_frame_goes_in_and_comes_back(kernel: Kernel) -> None:
    kernel.ok("import polars as frames\nrows = frames.DataFrame({'n': [1, 2, 3]}, schema={'n': frames.UInt8})")
    kernel.ok("%%agent_task duckdb_query -i rows --returns frames.DataFrame -o got\nSELECT n FROM rows WHERE n > 1")
    assert kernel.value("got.to_dict(as_series=False), got.schema['n'] == frames.UInt8") == "({'n': [2, 3]}, True)"


def test_what_comes_out_of_a_frame_goes_in_as_an_input(kernel: Kernel) -> None:
    kernel.ok(
        "import pandas\nsold = pandas.DataFrame({'n': [1, 2, 3], 'day': pandas.date_range('2024-01-01', periods=3)})"
    )
    kernel.ok("least, day, some = sold.n.mean(), sold.day.max(), list(sold.n.values[:2])")
    kernel.ok(
        "%%agent_task duckdb_query -i sold -i least -i day -i some -o got\n"
        "SELECT n FROM sold WHERE n >= $least AND n IN $some AND day < $day"
    )
    assert kernel.value("got.n.tolist()") == "[2]"
    kernel.ok("who, years = sold.n.unique(), sold.day.dt.year")
    kernel.ok(
        "%%agent_task duckdb_query -i sold -i who -i years -o got\nSELECT n FROM sold WHERE n IN $who AND year(day) IN $years"
    )
    assert kernel.value("got.n.tolist()") == "[1, 2, 3]"


def test_a_prompt_is_the_cell_as_it_stands(kernel: Kernel) -> None:
    prompt = "Why is {x} blue?\n\nanswer: $short"
    kernel.ok(f"prompt = {prompt!r}\nimport json")
    kernel.ok(f"%%agent_task language_model -c model=small -c temperature=0.5 -o answer\n{prompt}")
    assert kernel.value("json.loads(answer)[1] == {'message': prompt}") == "True"
    assert kernel.value("json.loads(answer)[0]['model_config'] == {'model': 'small', 'temperature': 0.5}") == "True"
    kernel.ok("%%agent_task language_model -i message='hi' -c model=small -o answer")
    assert kernel.value("json.loads(answer)[1]") == "{'message': 'hi'}"
    kernel.ok("%%agent_task language_model -i message=prompt -o answer\nmodel: large\norganization: us")
    assert kernel.value("json.loads(answer)[0]") == "{'model_config': {'model': 'large'}, 'organization': 'us'}"


def test_a_script_is_the_cell_as_it_stands(kernel: Kernel) -> None:
    kernel.ok(
        "%%agent_task remote_script -c host=h -c limits.cpu=4 -c options.queue=7 -o said\n#!/bin/sh\necho ${HOME}  # {{ x }}\n"
    )
    assert kernel.value("json.loads(said)[0] == " + repr({
        "script": "#!/bin/sh\necho ${HOME}  # {{ x }}\n", "host": "h", "cpu": 4.0, "options": {"queue": "7"},
    })) == "True"  # fmt: skip


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("language_model -i message='x'\nWhy?", "model_config needs a model"),
        ("language_model -c model=m", "write the message into the cell"),
        ("language_model -c organisation=x\nWhy?", "did you mean organization?"),
        ("remote_script -c limits.cpus=4 -c host=h\necho", "Limits has no field 'cpus'\nhint: did you mean cpu?"),
        ("remote_script -c limits.cpu=many -c host=h\necho", "-c limits.cpu takes an int, not str 'many'"),
        ("remote_script\necho", "RemoteConfig needs host\nhint: write -c host=..."),
        ("remote_script -c host=h", "the cell is empty\nhint: write the script of the task into it"),
        ("duckdb_query --returns pl.DataFram\nSELECT 1", "pl has no DataFram"),
        ("duckdb_query -c thread=1\nSELECT 1", "DuckDBConfig has no field 'thread'\nhint: did you mean threads?"),
    ],
)
def test_what_does_not_fit_is_told(kernel: Kernel, line: str, told: str) -> None:
    cell = kernel.fails(f"%%agent_task {line}")
    assert told in cell.error, cell.error
    assert cell.kinds == ["error"]


def test_the_tab_key_offers_the_settings_and_what_is_inside_one(kernel: Kernel) -> None:
    line = "%%agent_task remote_script -c "
    assert kernel.completed(line) == [line + name for name in ("host=", "limits=", "options=")]
    assert kernel.completed(line + "limits.") == [line + "limits.cpu=", line + "limits.memory="]
    assert kernel.completed("%%agent_task language_model -c m") == ["%%agent_task language_model -c model_config="]
