"""Values in and out: each type as flytekit's own call of an equivalent task has it, and what is said of those that do not fit."""

from __future__ import annotations

import contextvars
import datetime as dt
import enum
import os
import subprocess
import sys
import textwrap
import threading
import typing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Dict, List, NamedTuple, Optional, Union  # noqa: UP035

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from flyteidl.core.execution_pb2 import TaskExecution
from flyteidl.core.literals_pb2 import LiteralMap
from flytekit import FlyteContextManager, StructuredDataset, task
from flytekit.configuration import Image, ImageConfig, SerializationSettings
from flytekit.core.base_task import PythonTask
from flytekit.core.interface import Interface
from flytekit.core.python_function_task import PythonFunctionTask
from flytekit.extend.backend.base_connector import AsyncConnectorExecutorMixin, Resource, SyncConnectorExecutorMixin
from flytekit.models.literals import LiteralMap as FlytekitLiteralMap
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from scripted import DoAgent, JobMeta, ScriptedAgent
from scripted_tasks import PATIENCE, scripted_task

from flyteagent_nb.errors import CodeLocationError, InputError, OutputError, TemplateError
from flyteagent_nb.running import contexts, tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripted_tasks import Agents

    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)


class Found(NamedTuple):
    n: int
    words: List[str]  # noqa: UP006 - flytekit's older spelling is what people have


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Inner:
    numbers: List[int]  # noqa: UP006
    name: str = "n"


@dataclass
class Outer:
    inner: Inner
    weights: Dict[str, float] = field(default_factory=dict)  # noqa: UP006
    color: Color = Color.RED


@dataclass
class DefinedAgain:
    outer: int


DefinedAgain.__qualname__ = DefinedAgain.__name__ = "Outer"  # as a cell does that is run again after a change

UTC = dt.timezone.utc
VALUES = [
    pytest.param(int, 0, id="int"),
    pytest.param(int, -(2**62), id="large int"),
    pytest.param(float, 1.5, id="float"),
    pytest.param(float, 0.0, id="zero"),
    pytest.param(str, "", id="empty str"),
    pytest.param(str, "ü\n\x00 'x' ✓", id="str"),
    pytest.param(bool, True, id="bool"),
    pytest.param(bool, False, id="false"),
    pytest.param(dt.datetime, dt.datetime(2024, 2, 29, 12, 30, 1, 234567, tzinfo=UTC), id="datetime"),
    pytest.param(
        dt.datetime, dt.datetime(2024, 2, 29, 12, tzinfo=dt.timezone(dt.timedelta(hours=5))), id="datetime of a zone"
    ),
    pytest.param(dt.datetime, dt.datetime(2024, 2, 29, 12), id="naive datetime"),
    pytest.param(dt.timedelta, dt.timedelta(days=-3, microseconds=7), id="timedelta"),
    pytest.param(dt.date, dt.date(1999, 12, 31), id="date"),
    pytest.param(Optional[int], None, id="none"),  # noqa: UP045
    pytest.param(Optional[int], 3, id="optional"),  # noqa: UP045
    pytest.param(Union[int, str], "3", id="union"),  # noqa: UP007
    pytest.param(Union[str, List[int], None], [1], id="union of a list"),  # noqa: UP006, UP007
    pytest.param(List[int], [], id="empty list"),  # noqa: UP006
    pytest.param(list[int], [1, 2, 3], id="list"),
    pytest.param(List[List[Optional[str]]], [["a", None], []], id="nested list"),  # noqa: UP006, UP045
    pytest.param(Dict[str, int], {"a": 1}, id="dict"),  # noqa: UP006
    pytest.param(dict[str, list[dict[str, float]]], {"a": [{"b": 1.5}, {}]}, id="nested dict"),
    pytest.param(dict, {"a": [1, {"b": None}]}, id="untyped dict"),
    pytest.param(dict[int, str], {1: "a"}, id="dict of int keys"),
    pytest.param(Color, Color.BLUE, id="enum"),
    pytest.param(Outer, Outer(Inner([1, 2]), {"w": 0.5}, Color.BLUE), id="dataclass"),
    pytest.param(List[Outer], [Outer(Inner([])), Outer(Inner([3], "m"))], id="list of dataclasses"),  # noqa: UP006
    pytest.param(Optional[Outer], Outer(Inner([1])), id="optional dataclass"),  # noqa: UP045
    pytest.param(Annotated[int, "a note"], 7, id="annotated"),
    pytest.param(typing.Any, {"pickled": (1, 2)}, id="any"),
]


def equivalent(python_type: Any) -> Callable[..., Any]:
    """flytekit's own task that returns what it is given."""

    def identity(x):  # type: ignore[no-untyped-def]
        return x

    identity.__annotations__ = {"x": python_type, "return": python_type}
    made: Callable[..., Any] = task(identity)
    return made


@pytest.mark.parametrize(("python_type", "value"), VALUES)
def test_a_value_is_what_flytekits_own_call_gives(
    workspace: Workspace, agents: Agents, python_type: Any, value: Any
) -> None:
    expected = equivalent(python_type)(x=value)
    run = workspace.submit(scripted_task("echo", inputs={"x": python_type}, outputs={"x": python_type}), {"x": value})
    found = run.result(PATIENCE)
    assert found == expected and type(found) is type(expected)
    assert run.outputs == {"x": found}


@pytest.mark.parametrize(
    ("python_type", "value"),
    [(float, 3), (bool, 1), (int, True), (int, 3.0), (str, 3), (dt.date, dt.datetime(2024, 1, 2, tzinfo=UTC))],
)
def test_a_value_of_a_near_type_is_taken_where_flytekit_takes_it(
    workspace: Workspace, agents: Agents, python_type: Any, value: Any
) -> None:
    echo = scripted_task("echo", inputs={"x": python_type}, outputs={"x": python_type})
    try:
        expected = equivalent(python_type)(x=value)
    except Exception:  # whatever flytekit says: it refuses
        with pytest.raises(InputError, match="input 'x' of task 'job' takes a"):
            workspace.submit(echo, {"x": value}).result(PATIENCE)
    else:
        found = workspace.submit(echo, {"x": value}).result(PATIENCE)
        assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("python_type", "value", "expected"),
    [
        (int, np.int64(3), 3),
        (float, np.float64(1.5), 1.5),
        (bool, np.bool_(True), True),
        (str, np.str_("a"), "a"),
        (dt.datetime, pd.Timestamp("2024-02-29", tz="UTC"), dt.datetime(2024, 2, 29, tzinfo=UTC)),
        (Optional[int], np.int64(3), 3),  # noqa: UP045
        (list[float], [np.float64(1.5), 2.5], [1.5, 2.5]),
        (dict[str, int], {"a": np.int64(1)}, {"a": 1}),
    ],
)
def test_a_scalar_of_numpy_or_pandas_is_taken_as_pythons_own(
    workspace: Workspace, agents: Agents, python_type: Any, value: Any, expected: Any
) -> None:
    run = workspace.submit(scripted_task("echo", inputs={"x": python_type}, outputs={"x": python_type}), {"x": value})
    found = run.result(PATIENCE)
    assert found == expected and type(found) is type(expected)


def test_a_pydantic_model(workspace: Workspace, agents: Agents) -> None:
    pydantic = pytest.importorskip("pydantic")
    inner = pydantic.create_model("Inner", words=(List[str], ...))  # noqa: UP006
    model = pydantic.create_model("Model", n=(int, ...), inner=(Optional[inner], None))  # noqa: UP045
    echo = scripted_task("echo", inputs={"x": model}, outputs={"x": model})
    for value in (model(n=1), model(n=2, inner=inner(words=["a"]))):
        found = workspace.submit(echo, {"x": value}).result(PATIENCE)
        assert found == equivalent(model)(x=value) == value and type(found) is model
    with pytest.raises(InputError, match="takes a Model, not int 3"):
        workspace.submit(echo, {"x": 3}).result(PATIENCE)


# --- files and tables ---


def test_a_file(workspace: Workspace, agents: Agents, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    echo = scripted_task("echo", inputs={"x": FlyteFile}, outputs={"x": FlyteFile})
    for value in (str(tmp_path / "a.txt"), FlyteFile(str(tmp_path / "a.txt"))):
        expected = equivalent(FlyteFile)(x=value)
        found = workspace.submit(echo, {"x": value}).result(PATIENCE)
        assert type(found) is type(expected)
        with open(found) as file:
            assert file.read() == "hello"


def test_a_file_that_is_not_there_fails_the_run(workspace: Workspace, agents: Agents, tmp_path: Path) -> None:
    echo = scripted_task("echo", inputs={"x": FlyteFile})
    run = workspace.submit(echo, {"x": str(tmp_path / "none.txt")})
    with pytest.raises(InputError, match=r"input 'x' of task 'job' takes a FlyteFile, not str '.*\nhint: .*none\.txt"):
        run.result(PATIENCE)
    assert run.phase == "FAILED" and run.done


def test_a_frame_that_cannot_be_written_is_told_as_such(workspace: Workspace, agents: Agents) -> None:
    echo = scripted_task("echo", inputs={"x": pd.DataFrame})
    told = r"input 'x' of task 'job' is a DataFrame that cannot be sent\nhint: .*column c"
    with pytest.raises(InputError, match=told):
        workspace.submit(echo, {"x": pd.DataFrame({"c": [1, "a"]})}).result(PATIENCE)


def test_a_directory(workspace: Workspace, agents: Agents, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    echo = scripted_task("echo", inputs={"x": FlyteDirectory}, outputs={"x": FlyteDirectory})
    found = workspace.submit(echo, {"x": FlyteDirectory(str(tmp_path))}).result(PATIENCE)
    assert isinstance(found, FlyteDirectory)
    assert [path.name for path in Path(found.download()).iterdir()] == ["a.txt"]


FRAME = pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", None]})


def test_a_dataframe(workspace: Workspace, agents: Agents) -> None:
    echo = scripted_task("echo", inputs={"x": pd.DataFrame}, outputs={"x": pd.DataFrame})
    found = workspace.submit(echo, {"x": FRAME}).result(PATIENCE)
    pd.testing.assert_frame_equal(found, equivalent(pd.DataFrame)(x=FRAME))


def test_a_structured_dataset(workspace: Workspace, agents: Agents) -> None:
    echo = scripted_task("echo", inputs={"x": pd.DataFrame}, outputs={"x": StructuredDataset})
    found = workspace.submit(echo, {"x": FRAME}).result(PATIENCE)
    assert isinstance(found, StructuredDataset)
    assert found.open(pa.Table).all().num_rows == 3
    back = scripted_task("echo", inputs={"x": StructuredDataset}, outputs={"x": pd.DataFrame})
    assert len(workspace.submit(back, {"x": found}).result(PATIENCE)) == 3
    assert len(workspace.submit(back, {"x": StructuredDataset(dataframe=FRAME)}).result(PATIENCE)) == 3


# --- how many outputs ---


def test_several_outputs_are_a_named_tuple(workspace: Workspace, agents: Agents) -> None:
    @task
    def plain(n: int, words: List[str]) -> Found:  # noqa: UP006
        return Found(n, words)

    echo = scripted_task(
        "echo",
        inputs=dict(plain.python_interface.inputs),
        outputs=dict(plain.python_interface.outputs),
        output_tuple_name=plain.python_interface.output_tuple_name,
    )
    values = {"n": 3, "words": ["a"]}
    expected, found = plain(**values), workspace.submit(echo, values).result(PATIENCE)
    assert found == expected == (3, ["a"])
    assert (type(found).__name__, found._fields) == (type(expected).__name__, expected._fields)


def test_a_named_tuple_of_one(workspace: Workspace, agents: Agents) -> None:
    @task
    def plain(n: int) -> NamedTuple("One", [("n", int)]):  # type: ignore[valid-type]
        return (n,)

    echo = scripted_task("echo", inputs={"n": int}, outputs={"n": int}, output_tuple_name="One")
    expected, found = plain(n=3), workspace.submit(echo, {"n": 3}).result(PATIENCE)
    assert found == expected == (3,) and type(found).__name__ == type(expected).__name__ == "One"


def test_unnamed_outputs(workspace: Workspace, agents: Agents) -> None:
    @task
    def plain(o0: int, o1: str) -> tuple[int, str]:
        return o0, o1

    echo = scripted_task("echo", inputs={"o0": int, "o1": str}, outputs={"o0": int, "o1": str})
    expected, found = plain(o0=1, o1="a"), workspace.submit(echo, {"o0": 1, "o1": "a"}).result(PATIENCE)
    assert found == expected and type(found).__name__ == type(expected).__name__ and found._fields == expected._fields


# --- inputs ---


def echo_of(**inputs: Any) -> Any:
    types = {name: each[0] if isinstance(each, tuple) else each for name, each in inputs.items()}
    return scripted_task("echo", inputs=inputs, outputs=types)


def test_defaults_are_filled_in(workspace: Workspace, agents: Agents) -> None:
    echo = echo_of(a=(int, 5), b=(str, ""), c=(Optional[int], None), d=Optional[int], e=(bool, False))  # noqa: UP045
    assert tuple(workspace.submit(echo, {}).result(PATIENCE)) == (5, "", None, None, False)
    assert tuple(workspace.submit(echo, {"c": 4, "a": 0}).result(PATIENCE)) == (0, "", 4, None, False)


@pytest.mark.parametrize(
    ("python_type", "is_optional"),
    [
        (Optional[int], True),  # noqa: UP045
        (Union[int, str, None], True),  # noqa: UP007
        (Annotated[Optional[int], "note"], True),  # noqa: UP045
        (List[Optional[int]], False),  # noqa: UP006, UP045
        (Dict[str, type(None)], False),  # type: ignore[misc]  # noqa: UP006
        (int, False),
    ],
)
def test_what_may_be_left_out(workspace: Workspace, python_type: Any, is_optional: bool) -> None:
    optional = scripted_task("echo", inputs={"a": python_type})
    if is_optional:
        workspace.call_of(optional, {})
    else:
        with pytest.raises(InputError, match="task 'job' misses input 'a'"):
            workspace.call_of(optional, {})


@pytest.mark.skipif(sys.version_info < (3, 10), reason="the new spelling of a union")
def test_the_new_spelling_of_a_union_may_be_left_out(workspace: Workspace) -> None:
    workspace.call_of(scripted_task("echo", inputs={"a": int | None}), {})


def test_an_unknown_name(workspace: Workspace) -> None:
    with pytest.raises(InputError) as raised:
        workspace.submit(echo_of(year=int, words=List[str]), {"yaer": 1})  # noqa: UP006
    assert str(raised.value) == (
        "task 'job' has no input 'yaer'\nhint: did you mean year? its inputs are: year: int, words: List[str]"
    )
    assert (raised.value.task, raised.value.name) == ("job", "yaer")
    with pytest.raises(InputError, match="its inputs are: none"):
        workspace.submit(scripted_task(), {"a": 1})


def test_missing_inputs(workspace: Workspace) -> None:
    with pytest.raises(InputError, match=r"misses inputs 'a', 'c'\nhint: its inputs are: a: int, b: int, c: str"):
        workspace.submit(echo_of(a=int, b=(int, 1), c=str), {})
    with pytest.raises(InputError, match="misses input 'a'"):
        workspace.submit(echo_of(a=int), {})


@pytest.mark.parametrize(
    ("python_type", "value", "words"),
    [
        (int, "3", "takes an int, not str '3'"),
        (str, 3, "takes a str, not int 3"),
        (bool, "yes", "takes a bool, not str 'yes'"),
        (dt.datetime, "2024-01-01", "takes a datetime, not str '2024-01-01'"),
        (int, None, "takes an int, not NoneType None"),
        (int, "x" * 500, "..."),
        (float, np.int64(3), "takes a float, not int64 "),  # as it takes no int
        (int, np.float64(3), "takes an int, not float64 "),
        (int, 2**70, "takes an int, not int 1180591620717411303424"),
    ],
)
def test_a_plain_value_of_the_wrong_type_is_refused_at_once(
    workspace: Workspace, python_type: Any, value: Any, words: str
) -> None:
    active = workspace.runner.active
    with pytest.raises(InputError) as raised:
        workspace.submit(echo_of(x=python_type), {"x": value})
    assert "input 'x' of task 'job'" in str(raised.value) and words in str(raised.value)
    assert len(str(raised.value)) < 600 and workspace.runner.active == active


@pytest.mark.parametrize(
    ("python_type", "value", "words"),
    [
        (List[int], 3, "takes a List[int], not int 3"),  # noqa: UP006
        (list[int], ["a"], "takes a list[int], not list ['a']"),
        (Dict[str, int], [1], "takes a Dict[str, int], not list [1]"),  # noqa: UP006
        (Optional[int], "a", "takes an Optional[int], not str 'a'"),  # noqa: UP045
        (Outer, {"inner": 3}, "takes an Outer, not dict"),
        (Outer, DefinedAgain(0), "takes an Outer of another definition of that class, not Outer"),
        (Color, "green", "takes a Color, not str 'green'"),
        (pd.DataFrame, [1], "takes a DataFrame, not list [1]"),
        (list[str], ["\ud800"], "takes a list[str], not list ['\\ud800']"),  # of a file's name that is no UTF-8
    ],
)
def test_another_value_of_the_wrong_type_fails_the_run(
    workspace: Workspace, agents: Agents, python_type: Any, value: Any, words: str
) -> None:
    run = workspace.submit(echo_of(x=python_type, y=(int, 1)), {"x": value})
    with pytest.raises(InputError) as raised:
        run.result(PATIENCE)
    assert words in str(raised.value) and raised.value.name == "x" and raised.value.__cause__ is not None
    assert run.phase == "FAILED" and workspace.runner.attempts(run) == ()


class Unreadable:
    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize("python_type", [int, List[int]])  # noqa: UP006
def test_a_value_that_cannot_be_shown(workspace: Workspace, agents: Agents, python_type: Any) -> None:
    with pytest.raises(InputError, match="not Unreadable"):
        workspace.submit(echo_of(x=python_type), {"x": Unreadable()}).result(PATIENCE)


# --- outputs that do not fit ---


def returning(workspace: Workspace, outputs: Any, **declared: Any) -> Any:
    class Returning(DoAgent):
        name = "Returning"

        async def do(self, task_template: Any, output_prefix: str, inputs: Any = None, **kwargs: Any) -> Resource:
            return Resource(phase=TaskExecution.SUCCEEDED, outputs=outputs)

    workspace.catalog.register(Returning("returning"))
    return workspace.submit(scripted_task("returning", outputs=declared), {})


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({}, r"output 'x' .* is declared and was not returned; nothing was"),
        ({"y": 1}, r"output 'x' .* was not returned; returned: y"),
        ({"x": 1, "y": 1}, r"output 'y' .* was returned and is not declared; declared: x"),
        ({"x": "a"}, r"output 'x' .* is declared as integer and came as string"),
        ({"x": None}, r"output 'x' .* is declared as integer and came as none"),
    ],
)
def test_outputs_that_do_not_fit_name_the_output(workspace: Workspace, outputs: dict[str, Any], words: str) -> None:
    run = returning(workspace, outputs, x=int)
    with pytest.raises(OutputError, match=words) as raised:
        run.result(PATIENCE)
    assert raised.value.task == "job" and "change one of them" in raised.value.hint
    assert run.phase == "FAILED"


def test_a_value_that_its_type_does_not_take(workspace: Workspace) -> None:
    """The shapes agree, so that only the conversion finds out."""
    outputs = LiteralMap()
    outputs.literals["x"].scalar.blob.uri = "/nowhere"
    from flyteidl.core.types_pb2 import BlobType

    outputs.literals["x"].scalar.blob.metadata.type.dimensionality = BlobType.SINGLE
    outputs.literals["x"].scalar.blob.metadata.type.format = "PythonPickle"
    run = returning(workspace, FlytekitLiteralMap.from_flyte_idl(outputs), x=typing.Any)
    with pytest.raises(OutputError, match="output 'x' of task 'job' does not become an Any") as raised:
        run.result(PATIENCE)
    assert raised.value.__cause__ is not None and run.phase == "FAILED"


# --- literals in, literals out ---


def test_literals_stay_literals(workspace: Workspace, agents: Agents) -> None:
    context = FlyteContextManager.current_context()
    echo = echo_of(a=int, b=(str, "d"))
    inputs = LiteralMap()
    inputs.literals["a"].scalar.primitive.integer = 4
    run = workspace.submit_literals(echo, FlytekitLiteralMap.from_flyte_idl(inputs), context)
    found = run.result(PATIENCE)
    assert isinstance(found, FlytekitLiteralMap)
    assert found.literals["a"].scalar.primitive.integer == 4
    assert found.literals["b"].scalar.primitive.string_value == "d"
    with pytest.raises(InputError, match="misses input 'a'"):
        workspace.submit_literals(echo, FlytekitLiteralMap({}), context)


# --- flytekit's context ---


def test_the_callers_context_is_used(workspace: Workspace, agents: Agents, tmp_path: Path) -> None:
    from flytekit.core.data_persistence import FileAccessProvider

    class Keeping(ScriptedAgent):
        name = "Keeping"
        template: Any = None

        async def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> JobMeta:
            self.template = task_template
            return await super().create(task_template, inputs, **kwargs)

    agent = Keeping("keeping")
    workspace.catalog.register(agent)
    context = FlyteContextManager.current_context()
    settings = SerializationSettings(
        ImageConfig(Image("i", "img", "1")), project="my-project", domain="my-domain", version="v7"
    )
    access = FileAccessProvider(str(tmp_path / "sandbox"), str(tmp_path / "raw"))
    with FlyteContextManager.with_context(context.with_serialization_settings(settings).with_file_access(access)):
        run = workspace.submit(scripted_task("keeping", inputs={"x": pd.DataFrame}, outputs={}, name="t"), {"x": FRAME})
    run.result(PATIENCE)
    assert (agent.template.id.project, agent.template.id.domain, agent.template.id.version) == (
        "my-project",
        "my-domain",
        "v7",
    )
    assert list((tmp_path / "raw").rglob("*"))  # the frame was written where the caller's context says
    assert FlyteContextManager.current_context() is context


@pytest.mark.slow
def test_conversions_on_threads_leave_the_contexts_alone(workspace: Workspace, agents: Agents, tmp_path: Path) -> None:
    context = FlyteContextManager.current_context()
    depth = FlyteContextManager.size()
    echo = echo_of(x=List[Outer])  # noqa: UP006
    value = [Outer(Inner([n])) for n in range(5)]
    stop = threading.Event()
    wrong: list[str] = []

    def push_and_pop() -> None:
        while not stop.is_set():
            with FlyteContextManager.with_context(FlyteContextManager.current_context().new_builder()) as inner:
                if FlyteContextManager.current_context() is not inner:
                    wrong.append("another thread's context is on top")

    other = threading.Thread(target=push_and_pop)
    other.start()
    runs = []
    for _ in range(60):
        with FlyteContextManager.with_context(FlyteContextManager.current_context().new_builder()) as inner:
            runs.append(workspace.submit(echo, {"x": value}))
            assert FlyteContextManager.current_context() is inner
    for run in runs:
        assert run.result(PATIENCE) == value
    stop.set()
    other.join(PATIENCE)
    assert wrong == []
    assert FlyteContextManager.size() == depth and FlyteContextManager.current_context() is context


def test_work_in_a_context_has_it_for_itself() -> None:
    """flytekit keeps its contexts in one list, which copies of a thread's context share."""
    context = FlyteContextManager.current_context().new_builder().build()
    before, depth = FlyteContextManager.current_context(), FlyteContextManager.size()
    inside, leave = threading.Barrier(5), threading.Barrier(5)

    def work() -> tuple[bool, int]:
        found = FlyteContextManager.current_context() is context
        with FlyteContextManager.with_context(context.new_builder()) as inner:
            inside.wait(PATIENCE)
            found = found and FlyteContextManager.current_context() is inner
            leave.wait(PATIENCE)
        return found, FlyteContextManager.size()

    copied = contextvars.copy_context()
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(copied.copy().run, contexts.in_context, context, work) for _ in range(4)]
        inside.wait(PATIENCE)
        assert FlyteContextManager.current_context() is before and FlyteContextManager.size() == depth
        leave.wait(PATIENCE)
        assert [future.result(PATIENCE) for future in futures] == [(True, 1)] * 4
    assert FlyteContextManager.current_context() is before


# --- functions of the notebook ---


class AgentFunctionTask(AsyncConnectorExecutorMixin, PythonFunctionTask[None]):  # type: ignore[misc]
    """A function task that an agent runs, as flytekit's plug-ins make them."""

    def __init__(self, function: Any, **kwargs: Any) -> None:
        super().__init__(task_config=None, task_function=function, task_type="scripted", **kwargs)


def in_notebook(function: Any) -> Any:
    function.__module__ = "__main__"
    return function


def real(a: int) -> int:
    return a + 1


def constant(a: int) -> int:
    return 3


def raises(a: int) -> None:
    raise NotImplementedError


def calls(a: int) -> None:
    print(a)  # noqa: T201


def assigns(a: int) -> None:
    b = a  # noqa: F841


async def async_real(a: int) -> int:
    return a


async def async_calls(a: int) -> None:
    print(a)  # noqa: T201


FULL = [real, constant, raises, calls, assigns, async_real, async_calls]


def dots(a: int) -> None: ...


def passes(a: int) -> None:
    pass


def documented(a: int) -> None:
    """Only words."""


def documented_dots(a: int) -> None:
    """Words and dots."""
    ...


def returns_none(a: int) -> None:
    return None


# With outputs flytekit wants to read the word return.


def returns(a: int) -> int:
    """A docstring, too."""
    return  # type: ignore[return-value]


def returns_dots(a: int) -> int:
    return ...  # type: ignore[return-value]


async def async_dots(a: int) -> None: ...


async def async_documented(a: int) -> None:
    """Only words."""


async def async_returns(a: int) -> int:
    return ...  # type: ignore[return-value]


EMPTY = [dots, passes, documented, documented_dots, returns_none, returns, returns_dots, async_dots, async_documented]
EMPTY.append(async_returns)


def fresh(function: Any) -> Any:
    """A copy, so that what a test sets stays its own."""
    import types

    copied = types.FunctionType(function.__code__, function.__globals__, function.__name__)
    copied.__annotations__ = {k: v for k, v in typing.get_type_hints(function).items() if v is not type(None)}
    copied.__module__ = function.__module__
    return copied


@pytest.mark.parametrize("function", FULL, ids=lambda f: f.__name__)
def test_a_function_of_the_notebook_needs_a_way_to_the_agent(workspace: Workspace, function: Any) -> None:
    made = AgentFunctionTask(in_notebook(fresh(function)))
    with pytest.raises(CodeLocationError) as raised:
        workspace.call_of(made, {"a": 1})
    assert "--code kernel" in raised.value.hint and "`...`" in raised.value.hint
    assert raised.value.task == made.name
    for code in ("kernel", "image"):
        assert workspace.call_of(made, {"a": 1}, code=code).template.container.args
    workspace.config.code = "kernel"
    workspace.call_of(made, {"a": 1})


@pytest.mark.parametrize("function", EMPTY, ids=lambda f: f.__name__)
def test_a_function_without_a_body_needs_none(workspace: Workspace, function: Any) -> None:
    workspace.call_of(AgentFunctionTask(in_notebook(fresh(function))), {"a": 1})


def test_a_function_of_a_module_needs_none(workspace: Workspace) -> None:
    workspace.call_of(AgentFunctionTask(fresh(real)), {"a": 1})


def test_a_container_image_says_where_the_code_is(workspace: Workspace) -> None:
    call = workspace.call_of(AgentFunctionTask(in_notebook(fresh(real)), container_image="acme/x:1"), {"a": 1})
    assert call.template.container.image == "acme/x:1"


def test_a_pickled_function_leaves_its_task_alone(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    made = AgentFunctionTask(in_notebook(fresh(real)))
    resolver, meanwhile = made.task_resolver, []

    def get_custom(task: Any, settings: SerializationSettings) -> dict[str, Any]:
        if settings.should_fast_serialize():  # another thread may call the same task
            meanwhile.append((made.task_resolver, workspace.call_of(made, {"a": 1}, code="kernel").template))
        return {}

    monkeypatch.setattr(AgentFunctionTask, "get_custom", get_custom, raising=False)
    pickled = workspace.call_of(made, {"a": 1}, code="pickle").template.container.args
    assert any(arg.endswith(".default_notebook_task_resolver") for arg in pickled)
    ((seen, template),) = meanwhile
    assert seen is resolver and made.task_resolver is resolver
    assert any(arg.endswith(".default_task_resolver") for arg in template.container.args)


def test_pickled_code_that_a_job_may_be_reading_is_not_written_again(workspace: Workspace) -> None:
    made = AgentFunctionTask(in_notebook(fresh(real)))
    for _ in range(2):
        workspace.call_of(made, {"a": 1}, code="pickle")

    def files() -> set[tuple[str, int]]:
        return {(str(file), file.stat().st_mtime_ns) for file in workspace.runner.storage.root.glob("code-*/*")}

    before = files()
    workspace.call_of(made, {"a": 1}, code="pickle")
    assert before and files() == before


def test_a_task_that_its_plug_in_cannot_put_into_a_template_is_told(workspace: Workspace) -> None:
    class Unfit(AsyncConnectorExecutorMixin, PythonTask[None]):  # type: ignore[misc]
        """As Slurm's script with inputs is."""

        def get_custom(self, settings: Any) -> dict[str, Any]:
            return {"python_input_types": {"n": int}}

    with pytest.raises(TemplateError) as raised:
        workspace.call_of(Unfit("unfit", "job", None, Interface()), {})
    assert "task 'job' (unfit)" in raised.value.message and "is not JSON serializable" in raised.value.message
    assert raised.value.task == "job" and isinstance(raised.value.__cause__, TypeError)
    assert "without inputs (-i)" in raised.value.hint


def test_a_setting_that_a_plug_in_misses_is_told_with_its_line(workspace: Workspace) -> None:
    class Missing(AsyncConnectorExecutorMixin, PythonTask[None]):  # type: ignore[misc]
        """As Databricks' without databricks_conf is."""

        def get_custom(self, settings: Any) -> dict[str, Any]:
            return dict(self.task_config.items())

    with pytest.raises(TemplateError) as raised:
        workspace.call_of(Missing("missing", "job", None, Interface()), {})
    assert "(-i)" not in raised.value.hint and "-c KEY=VALUE" in raised.value.hint
    assert "`return dict(self.task_config.items())`" in raised.value.hint


def test_what_runs_on_an_agent() -> None:
    class SyncTask(SyncConnectorExecutorMixin, PythonFunctionTask[None]):  # type: ignore[misc]
        pass

    assert tasks.runs_on_agent(AgentFunctionTask(fresh(real)))
    assert tasks.runs_on_agent(SyncTask(task_config=None, task_function=fresh(real)))
    assert not tasks.runs_on_agent(task(fresh(real)))


PICKLING = """
import subprocess, sys, os
from dataclasses import dataclass
from flytekit.core.python_function_task import PythonFunctionTask
from flytekit.extend.backend.base_connector import AsyncConnectorBase, AsyncConnectorExecutorMixin, Resource, ResourceMeta
from flyteidl.core.execution_pb2 import TaskExecution
from flyteagent_nb import get_workspace

@dataclass
class Meta(ResourceMeta):
    code: int

class Executing(AsyncConnectorBase):
    name = "Executing"

    def __init__(self):
        super().__init__(metadata_type=Meta, task_type_name="executing")

    def create(self, task_template, output_prefix, inputs=None, **kwargs):
        os.makedirs(output_prefix + "/work")
        done = subprocess.run(task_template.container.args, cwd=output_prefix + "/work", capture_output=True, text=True)
        print(done.stdout, done.stderr)
        return Meta(done.returncode)

    def get(self, resource_meta, **kwargs):
        return Resource(phase=TaskExecution.SUCCEEDED if resource_meta.code == 0 else TaskExecution.FAILED)

    def delete(self, resource_meta, **kwargs):
        pass

class Task(AsyncConnectorExecutorMixin, PythonFunctionTask):
    def execute(self, **kwargs):  # as the plug-ins do it: in the container, the function
        return PythonFunctionTask.execute(self, **kwargs)

factor = 10
del __file__  # the main module of a kernel has none

def times(a: int, words: list[str]) -> tuple[int, str]:
    return a * factor, "-".join(words)

workspace = get_workspace()
workspace.wait()
workspace.config.deadline = 0.0
workspace.catalog.register(Executing())
made = Task(task_config=None, task_function=times, task_type="executing")
resolver = made.task_resolver
run = workspace.submit(made, {"a": 4, "words": ["x", "y"]}, code="pickle")
try:
    print("RESULT", tuple(run.result(90)))
except Exception as error:
    print(error)
    print(run.logs())
assert made.task_resolver is resolver
location = next(a for a in workspace.call_of(made, {"a": 4, "words": []}, code="pickle").template.container.args if "pkl" in a)
print("MODE", oct(os.stat(os.path.dirname(location)).st_mode & 0o777))
workspace.close()
print("THERE", os.path.exists(location))
"""


@pytest.mark.slow
def test_a_pickled_function_runs_as_a_container_would(tmp_path: Path) -> None:
    """``pyflyte-fast-execute`` itself loads it, in a process of its own, and its outputs.pb are the run's outputs."""
    script = tmp_path / "notebook.py"
    script.write_text(textwrap.dedent(PICKLING))
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=200,
        cwd=tmp_path,
    )
    assert "RESULT (40, 'x-y')" in done.stdout, done.stdout[-6000:] + done.stderr[-2000:]
    assert "MODE 0o700" in done.stdout and "THERE True" in done.stdout  # its job may outlive the kernel
