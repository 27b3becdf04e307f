"""``%%agent_task``: each language and each option, as a person would write them."""

from __future__ import annotations

import pytest

from kernel.harness import Kernel

pytestmark = pytest.mark.kernel

PLUGIN = """
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Optional
from flytekit import task, workflow
from flytekit.core.base_sql_task import SQLTask
from flytekit.core.python_function_task import PythonFunctionTask
from flytekit.extend import TaskPlugins
from flytekit.extend.backend.base_connector import AsyncConnectorExecutorMixin

@dataclass
class Script:
    script: dict

class ScriptTask(AsyncConnectorExecutorMixin, PythonFunctionTask):
    def __init__(self, task_config, task_function, **kwargs):
        super().__init__(task_config=task_config, task_type="scripted", task_function=task_function, **kwargs)
    def get_custom(self, settings):
        return self.task_config.script

TaskPlugins.register_pythontask_plugin(Script, ScriptTask)

def gives(**outputs):
    return Script({"outputs": outputs})

@dataclass
class StoreConfig:
    database: str
    region: str = "EU"
    slots: int = 1
    deep: Optional[bool] = None

class StoreQuery(AsyncConnectorExecutorMixin, SQLTask):
    _TASK_TYPE = "store_query"
    def __init__(self, name, query_template, task_config: StoreConfig, inputs=None, output_schema_type=None, **kwargs):
        outputs = {"results": output_schema_type} if output_schema_type else None
        super().__init__(name=name, task_config=task_config, query_template=query_template, inputs=inputs,
                         outputs=outputs, task_type=self._TASK_TYPE, **kwargs)
    def get_custom(self, settings):
        from dataclasses import asdict
        return {"query": self._query_template, **asdict(self.task_config)}

class StoreAgent(type(agents.do)):
    '''Answers with what it was sent.'''
    name = "Store"
    async def do(self, task_template, output_prefix, inputs=None, **kwargs):
        import json
        from flyteidl.core.execution_pb2 import TaskExecution
        from flytekit.extend.backend.base_connector import Resource
        seen.append((task_template.custom, inputs))
        outputs = {"results": json.dumps(task_template.custom)} if task_template.interface.outputs else None
        return Resource(phase=TaskExecution.SUCCEEDED, outputs=outputs)

seen = []
ConnectorRegistry.register(StoreAgent("store_query"))
"""


@pytest.fixture(scope="module", autouse=True)
def plugin(kernel: Kernel) -> None:
    kernel.ok(PLUGIN)


# --- Python ---


def test_a_task_without_a_name_has_the_number_of_its_cell(kernel: Kernel) -> None:
    before = int(kernel.value("len(In) - 1"))
    assert f"  scripted_{before + 1}  " in kernel.ok("%%agent_task scripted\nseconds: 0").shown["text/plain"]


def test_a_decorated_function_runs_and_shows_its_run_and_its_value(kernel: Kernel) -> None:
    cell = kernel.ok("%%agent_task -i a=3\n@task(task_config=gives(o0='7'))\ndef fit(a: int) -> str: return")
    assert cell.kinds == ["display_data", "execute_result"]
    assert cell.text == "'7'"
    assert set(cell.displays[0]) == {"text/plain", "text/html"}
    assert cell.displays[0]["text/plain"].startswith("✓ Succeeded  fit  (scripted)  ")
    assert kernel.value("type(fit).__name__") == "'ScriptTask'"  # the cell's names are the notebook's


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("first = scripted_task(outputs={'x': str}, name='first')\nfirst.script['outputs'] = {'x': '1'}\nfirst", "'1'"),
        ("@task(task_config=gives(o0='a'))\ndef a() -> str: return\n@task(task_config=gives(o0='b'))\ndef b() -> str: return", "'b'"),
        ("@task(task_config=gives(o0='a'))\ndef a() -> str: return\n@task(task_config=gives(o0='b'))\ndef b() -> str: return\na", "'a'"),
        ("import math\ndef two():\n    return str(math.floor(2.5))\n@task(task_config=gives(o0=two()))\ndef c() -> str: return", "'2'"),
        ("@task(task_config=gives(o0='d'))\ndef d() -> str: return\nprint('said')", "'d'"),
        ("e = d = scripted_task(outputs={'x': str}); d.script['outputs'] = {'x': 'both'}", "'both'"),
        ("!echo from the shell\n%time x = 1\n@task(task_config=gives(o0='f'))\ndef f() -> str: return", "'f'"),
        ("# only a comment first\n\n@task(task_config=gives(o0='g'))\ndef g() -> str:\n    'What it does.'\n    return", "'g'"),
    ],
)  # fmt: skip
def test_the_task_is_the_last_that_the_cell_names_or_defines(kernel: Kernel, body: str, value: str) -> None:
    assert kernel.value(f"%%agent_task\n{body}") == value


def test_an_error_in_the_cells_own_python_shows_the_users_frames_and_none_of_ours(kernel: Kernel) -> None:
    cell = kernel.run("%%agent_task\nhelper = 3\ndef boom():\n    return helper / 0\nboom()")
    assert cell.status == "error"
    shown = str(cell)
    assert "ZeroDivisionError" in shown and "return helper / 0" in shown and "in boom" in shown
    assert "flyteagent_nb/" not in shown


def test_a_function_with_a_body_needs_a_word_on_where_its_code_is(kernel: Kernel) -> None:
    body = "@task(task_config=gives(o0='7'))\ndef work(a: int) -> str:\n    return str(a + 1)"
    cell = kernel.fails(f"%%agent_task -i a=3\n{body}")
    assert cell.ename == "CodeLocationError" and "--code pickle" in cell.error
    for place in ("kernel", "pickle", "image"):
        assert kernel.value(f"%%agent_task -i a=3 --code {place}\n{body}") == "'7'"
    kernel.ok("%config FlyteAgentNB.code = 'pickle'")
    assert kernel.value("work(a=1)") == "'7'"
    kernel.ok("%config FlyteAgentNB.code = ''")


# --- YAML and JSON ---


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("%%agent_task scripted --returns path:str\noutputs:\n  path: /tmp/x", "'/tmp/x'"),
        ('%%agent_task scripted --returns path:str\n{"outputs": {"path": "/tmp/x"}}', "'/tmp/x'"),
        ("%%agent_task scripted --returns str --lang yaml\n{outputs: {o0: flow}}", "'flow'"),
        ("%%agent_task scripted -c outputs={'x':'set'} --returns x:str\nmessage: the line adds to the cell", "'set'"),
        ("%%agent_task echo -i n=3 --returns n:int\n# nothing to set\n{}", "3"),
        ("%%agent_task echo --inputs {'n':[1,2]} --returns n:list[int]\n{}", "[1, 2]"),
        ("%%agent_task echo --inputs dict(n={'a':1.5}) --returns n:dict[str,float]\n{}", "{'a': 1.5}"),
        ("%%agent_task echo -i s='a b' -i t=True --returns s:str,t:bool\n{}", "DefaultNamedTupleOutput(s='a b', t=True)"),
    ],
)  # fmt: skip
def test_yaml_and_json_are_the_configuration(kernel: Kernel, cell: str, value: str) -> None:
    assert kernel.value(cell) == value


def test_inputs_come_from_variables(kernel: Kernel) -> None:
    kernel.ok("year = 2024\nclass cfg:\n    depth = 7\nmany = {'year': 1, 'depth': 2}")
    assert kernel.value("%%agent_task echo -i year -i depth=cfg.depth --returns year:int,depth:int\n{}").endswith(
        "(year=2024, depth=7)"
    )
    assert kernel.value("%%agent_task echo --inputs many --returns year:int,depth:int\n{}").endswith(
        "(year=1, depth=2)"
    )


def test_a_dataframe_goes_in_and_comes_back(kernel: Kernel) -> None:
    kernel.ok("import pandas as pd\nrows = pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})")
    assert kernel.ok("%%agent_task echo -i rows --returns rows:DataFrame -o back\n{}").result == {}
    assert kernel.value("back.equals(rows), type(back).__name__") == "(True, 'DataFrame')"


def test_the_outputs_go_into_variables(kernel: Kernel) -> None:
    two = '{"outputs": {"x": "1", "y": "2"}}'
    cell = kernel.ok(f"%%agent_task scripted --returns x:str,y:str -o a,b\n{two}")
    assert cell.kinds == ["display_data"]  # the run, and no value
    assert kernel.value("a, b") == "('1', '2')"
    kernel.ok(f"%%agent_task scripted --returns x:str,y:str -o both\n{two}")
    assert kernel.value("both.x, both.y") == "('1', '2')"
    kernel.ok(f"%%agent_task scripted --returns x:str,y:str -o _,only\n{two}")
    assert kernel.value("only, '_' in get_ipython().user_ns and _ == '1'") == "('2', False)"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--returns x:str,y:str -o a,b,c", "names 3 variables, and task"),
        ("--returns x:str -o a,b", "has one output: x"),
        ("-o a", "has no outputs"),
    ],
)
def test_outputs_that_cannot_be_bound_are_refused_before_anything_is_sent(kernel: Kernel, line: str, told: str) -> None:
    before = kernel.value("scripted.count('create')")
    cell = kernel.fails(f"%%agent_task scripted {line}\n{{}}")
    assert cell.ename == "ArgumentError" and told in cell.error and "hint: " in cell.error
    assert kernel.value("scripted.count('create')") == before


def test_the_run_is_bound_also_when_it_fails(kernel: Kernel) -> None:
    cell = kernel.fails("%%agent_task scripted -r run --name sad\nphases: [FAILED]\nmessage: it rained")
    assert cell.ename == "RunFailedError" and "it rained" in cell.error
    assert kernel.value("run.name, run.phase, run.error.agent_message") == "('sad', 'FAILED', 'it rained')"


def test_in_the_background_the_value_is_the_run(kernel: Kernel) -> None:
    cell = kernel.ok(
        "%%agent_task scripted -b -r run --returns x:str\nphases: [RUNNING, SUCCEEDED]\nseconds: 0.3\noutputs: {x: later}"
    )
    assert set(cell.shown) == {"text/plain", "text/html"}
    assert kernel.value("_ is run, run.result(), run.done") == "(True, 'later', True)"
    assert kernel.value("await run") == "'later'"


def test_quiet_shows_the_value_alone(kernel: Kernel) -> None:
    assert kernel.ok("%%agent_task scripted -q --returns x:str\noutputs: {x: quiet}").kinds == ["execute_result"]
    assert kernel.ok("%%agent_task scripted -q\n{}").kinds == []


def test_a_retry_is_made_and_counted(kernel: Kernel) -> None:
    flaky = "raises: {create: 'ValueError: not yet'}\ntimes: {create: 1}"
    kernel.ok("scripted._times.clear()")
    cell = kernel.ok(f"%%agent_task scripted --retries 2 -r run\n{flaky}")
    assert "try 2 of 3" in cell.displays[0]["text/plain"]
    kernel.ok("scripted._times.clear()")
    assert "not yet" in kernel.fails(f"%%agent_task scripted\n{flaky}").error


def test_an_attempt_that_takes_too_long_is_ended_and_its_job_deleted(kernel: Kernel) -> None:
    cell = kernel.fails("%%agent_task scripted --timeout 300ms -r run\nphases: [RUNNING]")
    assert cell.ename == "RunTimedOutError"
    assert kernel.value("scripted.open_jobs") == "[]"


def test_a_dry_run_sends_nothing(kernel: Kernel) -> None:
    before = kernel.value("scripted.calls")
    cell = kernel.ok("%%agent_task scripted -i n=3 --dry-run --retries 4 -r nobody\nsecret: sauce")
    assert cell.kinds == ["execute_result"]
    assert (
        "nothing was sent" in cell.text
        and "sauce" in cell.text
        and "retries: 4" in cell.text
        and "integer: 3" in cell.text
    )
    assert kernel.value("scripted.calls") == before
    assert kernel.value("'nobody' in globals()") == "False"


@pytest.mark.parametrize(
    "asked", ["%%agent_task --help", "%%agent_task -h\n\n", "%%agent_task scripted?", "%agent_task --help"]
)
def test_help_needs_no_body(kernel: Kernel, asked: str) -> None:
    cell = kernel.ok(asked)
    assert cell.text.startswith("%%agent_task [TASK_TYPE] [-i NAME[=VALUE]]...") and "Examples:" in cell.text


def test_it_can_be_inspected(kernel: Kernel) -> None:
    assert "--returns" in kernel.inspect("%%agent_task")
    assert "Verbs:" in kernel.inspect("%agent")


# --- SQL ---


def test_sql_goes_to_the_plugins_task_class_as_it_stands(kernel: Kernel) -> None:
    sql = "SELECT 'a  b', -- two blanks\n       @year\nFROM t"
    kernel.ok(f"year = 2024\nseen.clear()\nbody = {sql!r}")
    kernel.ok(
        f"%%agent_task store_query -i year -c database=main -c slots=4 -c deep=True --returns results:str -o answer\n{sql}"
    )
    assert kernel.value("seen[0][0]['query'].rstrip() == body") == "True"
    assert kernel.value("sorted((k, v) for k, v in seen[0][0].items() if k != 'query')") == (
        "[('database', 'main'), ('deep', True), ('region', 'EU'), ('slots', 4.0)]"
    )
    assert (
        kernel.value("seen[0][1].literals['year'].scalar.primitive.integer, type(answer).__name__") == "(2024, 'str')"
    )


def test_a_whole_configuration_comes_from_a_variable(kernel: Kernel) -> None:
    kernel.ok("conf = StoreConfig('own', region='US')\nseen.clear()\nname = 'mine'\nplain = {'database': 'dict'}")
    kernel.ok("%%agent_task store_query --config conf\nINSERT INTO t VALUES (1)")
    kernel.ok("%%agent_task store_query --config plain -c region=$name\nINSERT INTO t VALUES (1)")
    assert kernel.value("[(c['database'], c['region']) for c, _ in seen]") == "[('own', 'US'), ('dict', 'mine')]"


def test_the_tab_key_offers_the_configurations_fields(kernel: Kernel) -> None:
    assert kernel.completed("%%agent_task store_query -c da") == ["%%agent_task store_query -c database="]
    assert "%%agent_task store_query" in kernel.completed("%%agent_task store")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "StoreConfig needs database"),
        ("-c databse=x", "did you mean database?"),
        ("-c database=x -c slots=many", "takes an int, not str 'many'"),
        ("--config nothing", "there is no variable nothing"),
        ("--config conf -c slots=2", "-c does not go with a finished --config"),
        ("-c database=x --returns a:int,b:int", "an SQL task has one output"),
        ("-c database=x --lang json", "the cell is not JSON"),
    ],
)
def test_a_configuration_that_does_not_fit_is_told(kernel: Kernel, line: str, told: str) -> None:
    kernel.ok("conf = StoreConfig('own')")
    cell = kernel.fails(f"%%agent_task store_query {line}\nINSERT INTO t VALUES (1)")
    assert told in cell.error, cell.error
    assert cell.kinds == ["error"]
