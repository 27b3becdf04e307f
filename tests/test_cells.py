"""A cell's text -> a task: the language, the options, and what is wrong with either."""

from __future__ import annotations

import ast
import datetime
import linecache
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from flytekit.core.base_sql_task import SQLTask
from flytekit.core.python_function_task import PythonFunctionTask
from flytekit.core.task import TaskPlugins
from flytekit.extend.backend.base_connector import AsyncConnectorExecutorMixin
from scripted_tasks import scripted_task

from flyteagent_nb.errors import ArgumentError, CellError, InputError
from flyteagent_nb.notebook import cells
from flyteagent_nb.notebook.annotations import type_of_value
from flyteagent_nb.notebook.arguments import parse_agent_task
from flyteagent_nb.notebook.values import input_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from flytekit.core.base_task import PythonTask


@dataclass
class StoreConfig:
    database: str
    region: str = "EU"
    slots: int = 1
    share: float = 0.5
    label: str | None = None


class StoreQuery(SQLTask):  # type: ignore[misc]
    _TASK_TYPE = "cells_store"

    def __init__(
        self,
        name: str,
        query_template: str,
        task_config: StoreConfig,
        inputs: Any = None,
        output_schema_type: Any = None,
    ) -> None:
        super().__init__(
            name=name,
            query_template=query_template,
            task_config=task_config,
            inputs=inputs,
            outputs={"results": output_schema_type} if output_schema_type else None,
            task_type=self._TASK_TYPE,
        )


@dataclass
class ClusterConfig:
    conf: dict[str, str] | None = None


@dataclass
class CloudConfig(ClusterConfig):
    instance: str | None = None
    path: str | None = None


class OnCluster(AsyncConnectorExecutorMixin, PythonFunctionTask[ClusterConfig]):  # type: ignore[misc]
    """Its task type is one of two, by the class of its configuration, as with Spark and Databricks."""

    _TASK_TYPE = "cells_cluster"

    def __init__(self, task_config: ClusterConfig, task_function: Callable[..., Any], **kwargs: Any) -> None:
        if isinstance(task_config, CloudConfig):
            task_type = "cells_cloud"
        else:
            task_type = "cells_cluster"
        super().__init__(task_config=task_config, task_type=task_type, task_function=task_function, **kwargs)


TaskPlugins.register_pythontask_plugin(ClusterConfig, OnCluster)
TaskPlugins.register_pythontask_plugin(CloudConfig, OnCluster)


def compile_python(namespace: dict[str, Any]) -> Callable[[str], tuple[ast.Module, Callable[[], Any]]]:
    """What the magic does, without IPython."""

    def compiled(body: str) -> tuple[ast.Module, Callable[[], Any]]:
        tree = ast.parse(body)
        last = tree.body[-1] if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        code = compile(ast.Module(tree.body[:-1] if last else tree.body, []), "cell", "exec")
        # flytekit asks for the source of a task's function, which IPython keeps here too.
        linecache.cache["cell"] = (len(body), None, body.splitlines(keepends=True), "cell")

        def run() -> Any:
            exec(code, namespace)
            return eval(compile(ast.Expression(last.value), "cell", "eval"), namespace) if last else None

        return tree, run

    return compiled


def task_of(line: str, body: str, *, served: dict[str, list[int]] | None = None, **namespace: Any) -> PythonTask[Any]:
    return described(line, body, served=served, **namespace).task


def described(line: str, body: str, *, served: dict[str, list[int]] | None = None, **namespace: Any) -> cells.CellTask:
    namespace = {"scripted_task": scripted_task, "__name__": __name__, **namespace}
    arguments = parse_agent_task(line)
    return cells.task_of_cell(
        arguments,
        body,
        namespace=namespace,
        inputs=input_values(arguments.inputs, arguments.inputs_mapping, namespace),
        compile_python=compile_python(namespace),
        versions=lambda name: (served or {}).get(name, []),
        default_name="job_7",
    )


def test_a_value_goes_as_the_type_that_was_chosen_for_it() -> None:
    frame = pd.DataFrame({"n": [1, 2], "amount": [70.0, 20.0], "day": pd.to_datetime(["2024-01-01", "2024-01-02"])})
    values = {"least": frame.amount.mean(), "top": frame.n.max(), "some": list(frame.n.values), "day": frame.day.max()}
    cell = described("kind -i least -i top -i some -i day", "{}", **values)
    assert repr(cell.inputs) == repr({"least": 45.0, "top": 2, "some": [1, 2], "day": datetime.datetime(2024, 1, 2)})
    assert cell.task.python_interface.inputs == {
        "least": float,
        "top": int,
        "some": list[int],
        "day": datetime.datetime,
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array(["ann", "bob"]), ["ann", "bob"]),
        (np.array([1, 2]), [1, 2]),
        (np.array([[1.5], [2.5]]), [[1.5], [2.5]]),
        (np.array(["2024-01-01"], "datetime64[ns]"), [datetime.datetime(2024, 1, 1)]),
        (np.array(3), 3),
        (pd.Series(["ann", "bob"]), ["ann", "bob"]),
        (pd.Series(["ann", "bob"]).unique(), ["ann", "bob"]),
        (pd.Series(pd.to_datetime(["2024-01-01"])), [datetime.datetime(2024, 1, 1)]),
        (pd.Index([1, 2]), [1, 2]),
        (pd.Categorical(["a"]), ["a"]),
        ([np.array([1, 2])], [[1, 2]]),
        ({"a": np.array([1, 2])}, {"a": [1, 2]}),
    ],
)
def test_an_array_is_a_list_for_sql(value: Any, expected: Any) -> None:
    cell = described("cells_store -c database=d -i who", "SELECT 1 WHERE 'a' IN $who", who=value)
    assert repr(cell.inputs["who"]) == repr(expected)
    assert cell.task.python_interface.inputs["who"] == type_of_value(expected, "who")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (pd.Series(["ann", None], dtype=object), "from None"),
        (pd.Series([1, None], dtype="Int64"), "from <NA>"),
        (np.array([1, "a"], dtype=object), "its elements are int, str"),
        (np.array([]), "it is empty"),
        (np.ma.array([1, 2], mask=[True, False]), "from --"),
    ],
)
def test_an_array_that_is_no_list_of_values_is_told_by_its_name(value: Any, told: str) -> None:
    with pytest.raises(InputError) as caught:
        described("cells_store -c database=d -i who", "SELECT $who", who=value)
    assert told in str(caught.value) and caught.value.name == "who"


def test_a_table_stays_a_table_and_an_array_that_is_no_input_of_sql_an_array() -> None:
    frame, array = pd.DataFrame({"a": [1]}), np.array([1])
    assert described("cells_store -c database=d -i x", "SELECT 1", x=frame).inputs["x"] is frame
    assert described("kind -i x", "{}", x=array).inputs["x"] is array


@pytest.mark.parametrize("line", ["kind", "cells_store -c database=d --lang sql"])
@pytest.mark.parametrize(
    ("returns", "told"),
    [
        ("x:list", "--returns x:list: Flyte has no type for it\nhint: write list[int], or what its elements are"),
        ("x:dict[str,list]", "hint: write list[int], or what its elements are"),
        ("x:tuple", "--returns x:tuple: Flyte has no type for it\nhint: write list[int] for elements of one type, or"),
        ("x:tuple[int,str]", "write list[int] for elements of one type, or an output for each: a:int,b:str"),
        ("x:list[tuple]", "write list[int] for elements of one type"),
        ("x:Optional[tuple]", "write list[int] for elements of one type"),
    ],
)
def test_an_output_that_flyte_has_no_type_for_is_told_by_its_name(line: str, returns: str, told: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        task_of(f"{line} --returns {returns}", "{}")
    assert told in str(caught.value)


def test_an_input_that_flyte_has_no_type_for_is_told_by_its_name() -> None:
    for value in ((1, 2), [(1, 2)]):
        for line, body in (("kind", "{}"), ("cells_store -c database=d", "SELECT 1")):
            with pytest.raises(InputError) as caught:
                described(f"{line} -i pair", body, pair=value)
            assert "'pair'" in str(caught.value) and caught.value.name == "pair"


@pytest.mark.parametrize("value", [None, [], (1, 2), [1, "a"]])
def test_an_input_of_a_task_in_python_has_the_type_that_stands_there(value: Any) -> None:
    cell = described("-i x", "scripted_task(inputs={'x': Any})", x=value, Any=Any)
    assert cell.inputs["x"] is value
    cell = described("cells_cluster -i x", "def f(x: Any): ...", x=value, Any=Any)
    assert cell.inputs["x"] is value and cell.task.python_interface.inputs == {"x": Any}


# --- which language ---


@pytest.mark.parametrize(
    ("line", "body", "custom"),
    [
        ("kind", "a: 1", {"a": 1}),
        ("kind", '{"a": 1}', {"a": 1}),
        ("kind", '\n\n  {"a": {"b": [1, 2]}}', {"a": {"b": [1, 2]}}),
        ("kind", "{a: 1}", None),  # it begins as JSON does
        ("kind --lang yaml", "{a: 1}", {"a": 1}),
        ("kind --lang json", '{"a": 1}', {"a": 1}),
        ("kind -c b=2 -c c=text -c d=[1,2]", "a: 1", {"a": 1, "b": 2, "c": "text", "d": [1, 2]}),
        ("kind -c a=2", "a: 1", {"a": 2}),
        ("kind -c a=$x", "{}", {"a": [1]}),
        ("kind", "1: one", None),
        ("kind", "'1': one", {"1": "one"}),
        ("kind -c b=9007199254740993", "a: 1", None),
        ("kind", "text: {{ not a template }}", None),
        ("kind", "text: '{{ .inputs.x }} $y'", {"text": "{{ .inputs.x }} $y"}),
    ],
)
def test_yaml_and_json_are_the_custom_of_the_template(line: str, body: str, custom: dict[str, Any] | None) -> None:
    if custom is None:
        with pytest.raises(CellError):
            task_of(line, body, x=[1])
        return
    task = task_of(line, body, x=[1])
    assert task.get_custom(None) == custom
    assert (task.task_type, task.name) == ("kind", "job_7")


def test_the_interface_is_of_the_inputs_and_of_what_it_returns() -> None:
    task = task_of("kind -i n=3 -i words=['a'] --returns path:str,rows:list[int] --name mine", "{}")
    assert task.python_interface.inputs == {"n": int, "words": list[str]}
    assert task.python_interface.outputs == {"path": str, "rows": list[int]}
    assert task.name == "mine"
    assert task_of("kind --returns None", "{}").python_interface.outputs == {}
    assert task_of("kind --returns int", "{}").python_interface.outputs == {"o0": int}


@pytest.mark.parametrize(("served", "version"), [([], 0), ([0], 0), ([0, 3], 0), ([2], 2), ([3, 1], 3)])
def test_the_version_is_zero_or_the_newest_that_is_served(served: list[int], version: int) -> None:
    assert task_of("kind", "{}", served={"kind": served}).task_type_version == version


# --- SQL ---

SQL = "-- all of them\nSELECT 'a  b',\n\tcount(*) FROM t; "


def test_sql_stands_as_it_was_written() -> None:
    task = task_of("cells_store -c database=main", SQL)
    assert task.query_template == SQL
    assert task.task_config == StoreConfig("main")
    assert set(task.python_interface.outputs) == {"results"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-c database=main -c slots=3", StoreConfig("main", slots=3)),
        ("-c database=7", StoreConfig("7")),
        ("-c database=main -c share=1", StoreConfig("main", share=1.0)),
        ("-c database=main -c label=x", StoreConfig("main", label="x")),
        ("-c database=main -c label=None", StoreConfig("main", label=None)),
        ("-c database=$name", StoreConfig("own")),
        ("--config whole", StoreConfig("w", "US")),
        ("--config part -c region=US", StoreConfig("p", "US")),
    ],
)
def test_a_configuration_is_made_of_what_is_given(line: str, expected: StoreConfig) -> None:
    task = task_of(f"cells_store {line}", SQL, name="own", whole=StoreConfig("w", "US"), part={"database": "p"})
    assert task.task_config == expected


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "StoreConfig needs database"),
        ("-c databse=x", "did you mean database?"),
        ("-c zzz=1 -c database=x", "its fields are: database, region, slots, share, label"),
        ("-c database=x -c slots=many", "not str 'many'"),
        ("-c database=x -c slots=1.5", "not float 1.5"),
        ("--config whole -c slots=1", "-c does not go with a finished --config"),
        ("--config missing", "there is no variable missing"),
        ("-c database=x --returns a:int,b:int", "one output"),
    ],
)
def test_a_configuration_that_does_not_fit_is_told(line: str, told: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        task_of(f"cells_store {line}", SQL, whole=StoreConfig("w"))
    assert told in str(caught.value)


def test_a_statement_that_brings_back_nothing_has_no_output_unless_one_is_wanted() -> None:
    assert task_of("cells_store -c database=x", "INSERT INTO t VALUES (1)").python_interface.outputs == {}
    assert set(task_of("cells_store -c database=x -o rows", "CALL f()").python_interface.outputs) == {"results"}
    assert task_of("cells_store -c database=x --returns None", "SELECT 1").python_interface.outputs == {}


# --- Python ---


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("a = scripted_task(name='a')", "a"),
        ("a = scripted_task(name='a')\nb = scripted_task(name='b')", "b"),
        ("a = scripted_task(name='a')\nb = scripted_task(name='b')\na", "a"),
        ("a = scripted_task(name='a')\nb = 3", "a"),
        ("a: object = scripted_task(name='a')", "a"),
        ("a, b = scripted_task(name='a'), scripted_task(name='b')", "b"),
        ("scripted_task(name='here')", "here"),
        ("there", "there"),
        ("def f():\n    return 1\nx = f()\nthere", "there"),
    ],
)
def test_the_task_is_the_last_that_is_named_or_defined(body: str, name: str) -> None:
    assert task_of("", body, there=scripted_task(name="there")).name == name


# --- task classes that take a function ---

WORK = "def work(n: int = 3) -> int:\n    return n + 1\n"


@pytest.mark.parametrize(
    ("line", "body", "config"),
    [
        ("cells_cluster -c conf.spark.memory=2g", WORK, ClusterConfig({"spark.memory": "2g"})),
        ("cells_cloud -c instance=here -c conf.a=1", WORK, CloudConfig({"a": "1"}, "here")),
        ("cells_cloud", WORK, CloudConfig()),
        ("cells_cloud --config whole", WORK, CloudConfig(None, "w")),
    ],
)
def test_a_plain_function_becomes_a_task_of_the_type_with_the_settings_of_the_line(
    line: str, body: str, config: ClusterConfig
) -> None:
    task = task_of(line, body, whole=CloudConfig(None, "w"))
    assert type(task.task_config) is type(config) and task.task_config == config
    assert task.task_type == line.split()[0] and task.name.endswith("work")
    assert task.python_interface.inputs == {"n": int} and task.python_interface.outputs == {"o0": int}


@pytest.mark.parametrize(
    ("line", "body"),
    [
        ("cells_cloud -i day=2", "instance: here\npath: /nb"),
        ("cells_cloud -i day=2 -c instance=here -c path=/nb", ""),
        ("cells_cloud -i day=2 -c path=/nb", "instance: here"),
    ],
)
def test_settings_alone_are_a_task_whose_function_does_nothing(line: str, body: str) -> None:
    cell = described(line, body)
    assert cell.task.task_config == CloudConfig(None, "here", "/nb") and cell.task.task_type == "cells_cloud"
    assert cell.task.python_interface.inputs == {"day": int} and cell.inputs == {"day": 2}
    assert cell.task.name.endswith("job_7") and cell.task.python_interface.outputs == {}
    assert cell.task.task_function.__module__ == "__main__"  # so that nothing asks how its code gets to the agent


class Bare(AsyncConnectorExecutorMixin, PythonFunctionTask[Any]):
    """A class that takes a function, of whose configuration nothing is known."""

    def __init__(self, task_config: Any, task_function: Callable[..., Any], **kwargs: Any) -> None:
        super().__init__(task_config=task_config, task_type="bare_job", task_function=task_function, **kwargs)


def test_where_nothing_is_known_of_its_configuration_settings_are_sent_as_they_stand() -> None:
    task = task_of("bare_job", "phases: [FAILED]", served={"bare_job": [0]})
    assert not isinstance(task, Bare) and task.get_custom(None) == {"phases": ["FAILED"]}  # type: ignore[arg-type]


def test_with_returns_settings_go_past_the_plug_in() -> None:
    assert task_of("cells_cloud --returns path:str", "any: thing").get_custom(None) == {"any": "thing"}


@pytest.mark.parametrize(
    ("line", "body", "told"),
    [
        ("cells_cloud -c instanc=x", WORK, "CloudConfig has no field 'instanc'; did you mean instance?"),
        ("cells_cloud", "instanc: x", "did you mean instance?"),
        ("cells_cluster", "instance: x", "ClusterConfig has no field 'instance'"),
        ("cells_cloud -c instance=x", "@scripted_task\ndef work() -> None: ...", "-c does not go with Python"),
        ("cells_cloud", "", "the cell is empty"),
        ("cells_cloud --config other", WORK, "OnCluster makes a cells_cluster of these settings, not a cells_cloud"),
    ],
)
def test_settings_of_a_function_that_do_not_fit_are_told(line: str, body: str, told: str) -> None:
    with pytest.raises((ArgumentError, CellError)) as caught:
        task_of(line, body, other=ClusterConfig())
    assert told.partition(";")[0] in str(caught.value) and told.partition("; ")[2] in str(caught.value)


@pytest.mark.parametrize(
    ("line", "body", "told", "at"),
    [
        ("", "", "the cell is empty", None),
        ("kind", " \n\t\n", "the cell is empty", None),
        ("", "x = 1", "the cell defines no task", None),
        ("", "there", "the cell defines no task", None),
        ("", "SELECT 1 FROM t", "the cell is not Python: line 2", 2),
        ("", "x = 1\n\ny = (", "the cell is not Python: line 4", 4),
        ("other --lang python", "scripted_task(name='a')", "is a scripted, not a other", None),
        ("kind", '{"a":\n}', "the cell is not JSON: line 3, column 1", 3),
        ("kind", "a: 1\n b: 2", "the cell is not YAML: line 3", 3),
        ("kind", "a: [1", "the cell is not YAML: line", None),
        ("kind", "job(inputs={'a': int}, x='y')", "the cell is Python, and", None),
        ("kind", "job(\n    inputs={'a': int}, x='y')", "for Python leave the task type out", None),
        ("kind", "job('x', inputs={}, outputs={'x': str}, a='y')", "for Python leave the task type out", None),
        ("kind", "- 1", "the cell is a list", None),
        ("kind", "just text", "the cell is a str", None),
        ("kind", "# nothing", "the cell is empty, and the configuration of a task is a mapping", None),
        ("kind", "a: 2024-01-01", "what JSON cannot", None),
        ("kind", "a: !!python/object:os.system {}", "the cell is not YAML", None),
        ("kind --lang sql", "SELECT 1", "no installed plug-in has an SQL task for 'kind'", None),
        ("cells_stor --lang sql", "SELECT 1", "did you mean cells_store?", None),
    ],
)
def test_a_cell_that_is_no_task_is_told(line: str, body: str, told: str, at: int | None) -> None:
    with pytest.raises(CellError) as caught:
        task_of(line, body, there=3)
    assert told in str(caught.value)
    if at is not None:
        assert caught.value.line == at


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("-c a=1", "-c does not go with Python"),
        ("--config there", "--config does not go with Python"),
        ("--returns int", "--returns does not go with Python"),
        ("--name x", "--name does not go with Python"),
        ("--lang sql", "needs its task type"),
        ("--lang json", "needs its task type"),
        ("kind --lang yaml --config there", "--config goes with SQL"),
        ("kind --returns x:strr", "did you mean str?"),
    ],
)
def test_an_option_that_does_not_go_with_the_language_is_told(line: str, told: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        task_of(line, "{}", there=scripted_task())
    assert told in str(caught.value)


def test_what_the_cells_own_python_raises_passes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        task_of("", "1 / 0")
    with pytest.raises(NameError):
        task_of("", "nobody")
