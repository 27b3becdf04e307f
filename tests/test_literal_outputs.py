"""Outputs that an agent returns as literals: passed on as what they are, with a word on what flytekit's own service does to them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import errno
from typing import TYPE_CHECKING, Any

import flytekit
import numpy as np
import pandas as pd
import pytest
from flyteidl.core.execution_pb2 import TaskExecution
from flytekit.core.base_task import PythonTask
from flytekit.core.context_manager import FlyteContextManager
from flytekit.core.interface import Interface
from flytekit.core.type_engine import TypeEngine
from flytekit.exceptions.user import FlyteTypeException
from flytekit.extend.backend.base_connector import Resource, SyncConnectorBase
from scripted_tasks import PATIENCE

from flyteagent_nb.errors import OutputError
from flyteagent_nb.running.wording import output_hint, said_and_notes, secret_hint, sign_in_hint

if TYPE_CHECKING:
    from flytekit.models.literals import Literal

    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)


def literal(value: Any) -> Literal:
    kind = type(value)
    context = FlyteContextManager.current_context()
    return TypeEngine.to_literal(context, value, kind, TypeEngine.to_literal_type(kind))


class Literals(SyncConnectorBase):
    """Returns what the test says."""

    name = "Literals"

    def __init__(self) -> None:
        super().__init__(task_type_name="literals")
        self.returns = Resource(phase=TaskExecution.SUCCEEDED)

    def do(self, task_template: Any, output_prefix: str, inputs: Any = None, **_: Any) -> Resource:
        return self.returns


@pytest.fixture
def agent(workspace: Workspace) -> Literals:
    agent = Literals()
    workspace.catalog.register(agent)
    return agent


def task(**outputs: Any) -> PythonTask[Any]:
    return PythonTask(task_type="literals", name="job", task_config=None, interface=Interface({}, outputs))


NOTE = (
    f"in production: flytekit {flytekit.__version__}'s own service pickles output 'n', and the next task cannot use it: "
    "Literals.do returned a Literal where a value belongs"
)


def test_flytekit_itself_pickles_a_literal() -> None:
    """What this is all about; where it fails, flytekit has mended it."""
    resource = Resource(phase=TaskExecution.SUCCEEDED, outputs={"n": literal(5)})
    blob = asyncio.run(resource.to_flyte_idl()).outputs.literals["n"].scalar.blob
    assert blob.metadata.type.format == "PythonPickle"


def test_a_literal_is_the_output_and_the_run_says_what_production_does(workspace: Workspace, agent: Literals) -> None:
    outputs = {"n": literal(5), "s": "text", "many": {"a": 1}}
    agent.returns = Resource(phase=TaskExecution.SUCCEEDED, outputs=outputs, message="well")
    run = workspace.submit(task(n=int, s=str, many=dict), {})
    run.result(PATIENCE)
    assert run.outputs == {"n": 5, "s": "text", "many": {"a": 1}}
    assert run.snapshot.notes == (NOTE,) and run.message == "well"
    assert f"WARNING flyteagent_nb: {NOTE}" in run.logs()
    assert agent.returns.outputs is outputs and len(outputs) == 3  # the agent's own object is left alone


def test_values_need_no_note(workspace: Workspace, agent: Literals) -> None:
    agent.returns = Resource(phase=TaskExecution.SUCCEEDED, outputs={"n": 5})
    run = workspace.submit(task(n=int), {})
    assert run.result(PATIENCE) == 5
    assert run.snapshot.notes == () and run.logs() == []


def test_a_literal_of_another_type_is_an_output_that_does_not_fit(workspace: Workspace, agent: Literals) -> None:
    agent.returns = Resource(phase=TaskExecution.SUCCEEDED, outputs={"n": literal("five")})
    error = workspace.submit(task(n=int), {}).exception(PATIENCE)
    assert isinstance(error, OutputError) and "is declared as integer and came as string" in error.message


def test_a_failure_keeps_its_own_words(workspace: Workspace, agent: Literals) -> None:
    agent.returns = Resource(phase=TaskExecution.FAILED, outputs={"n": literal(5)}, message="no luck")
    run = workspace.submit(task(n=int), {})
    error = run.exception(PATIENCE)
    assert error is not None and error.message.endswith("failed: no luck") and run.snapshot.notes == ()


def test_a_value_that_does_not_convert_is_named_beside_a_literal(workspace: Workspace, agent: Literals) -> None:
    agent.returns = Resource(phase=TaskExecution.SUCCEEDED, outputs={"n": literal(5), "bad": lambda: (yield)})
    error = workspace.submit(task(n=int, bad=str), {}).exception(PATIENCE)
    assert error is not None and "'bad'" in error.message


@pytest.mark.parametrize(
    ("value", "plain", "how"),
    [
        (np.float64(1.5), 1.5, "numpy.float64: let Literals.do return a plain float"),
        (np.float32(1.5), 1.5, "numpy.float32: let Literals.do return a plain float"),
        (np.int64(3), 3, "numpy.int64: let Literals.do return a plain int"),
        (np.bool_(True), True, "let Literals.do return a plain bool"),
        (np.str_("a"), "a", "let Literals.do return a plain str"),
        (
            pd.Timestamp("2024-01-01", tz="UTC"),
            datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
            "pandas.Timestamp: let Literals.do return a plain datetime",
        ),
        (
            pd.Series(pd.to_datetime(["2024-01-01"])).to_numpy(dtype="datetime64[ns]").max(),
            datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
            "numpy.datetime64: let Literals.do return a plain datetime",
        ),
        (
            pd.Timestamp("2024-01-01T00:00:00.000001002", tz="UTC"),
            datetime.datetime(2024, 1, 1, microsecond=1, tzinfo=datetime.timezone.utc),
            "pandas.Timestamp: let Literals.do return a plain datetime",
        ),
        (
            pd.Timedelta("3s"),
            datetime.timedelta(seconds=3),
            "pandas.Timedelta: let Literals.do return a plain timedelta",
        ),
    ],
)
def test_a_scalar_of_numpy_or_pandas_is_the_plain_value_and_the_run_says_what_production_does(
    workspace: Workspace, agent: Literals, value: Any, plain: Any, how: str
) -> None:
    agent.returns = Resource(phase=TaskExecution.SUCCEEDED, outputs={"n": value, "s": "text"})
    run = workspace.submit(task(n=type(plain), s=str), {})
    run.result(PATIENCE)
    assert run.outputs == {"n": plain, "s": "text"} and type(run.outputs["n"]) is type(plain)
    (note,) = run.snapshot.notes
    assert note.startswith(f"in production: flytekit {flytekit.__version__}'s own service does not take output 'n', a ")
    assert note.endswith(how) and agent.returns.outputs["n"] is value
    literals = None
    with contextlib.suppress(FlyteTypeException):  # what this is all about, as above; else it is pickled
        literals = asyncio.run(agent.returns.to_flyte_idl()).outputs.literals
    assert literals is None or literals["n"].scalar.blob.metadata.type.format == "PythonPickle"


def test_what_numpy_and_pandas_call_missing_is_none(workspace: Workspace, agent: Literals) -> None:
    for missing in (pd.NaT, pd.NA, np.datetime64("NaT", "s")):
        agent.returns = Resource(phase=TaskExecution.SUCCEEDED, outputs={"n": missing})
        run = workspace.submit(task(n=datetime.datetime | None), {})
        assert run.result(PATIENCE) is None and run.snapshot.notes[0].endswith("let Literals.do return None")


class Text(str):
    """A text, and no plain one."""


def test_a_value_that_its_type_refuses_is_told_in_the_words_of_the_type(workspace: Workspace, agent: Literals) -> None:
    agent.returns = Resource(phase=TaskExecution.SUCCEEDED, outputs={"n": Text("a")})
    error = workspace.submit(task(n=str), {}).exception(PATIENCE)
    assert error is not None and "Task" not in error.message.partition("a value of")[2]
    assert (
        "a value of type Text, that flytekit cannot turn into a literal: TypeTransformerFailedError: Expected"
        in error.message
    )


def test_a_list_is_told_how_it_is_returned_and_that_does(workspace: Workspace, agent: Literals) -> None:
    agent.returns = Resource(phase=TaskExecution.SUCCEEDED, outputs={"n": [1, 2]})
    error = workspace.submit(task(n=list[int]), {}).exception(PATIENCE)
    assert error is not None
    way = "TypeEngine.dict_to_literal_map(FlyteContextManager.current_context(), {'n': ...}, {'n': list[int]})"
    assert (
        "an output 'n', a value of type list, that flytekit cannot turn into a literal: it has to be told"
        in error.message
    )
    assert f": outputs={way}" in error.message

    class Lists(Literals):
        async def do(self, task_template: Any, output_prefix: str, inputs: Any = None, **_: Any) -> Resource:
            return Resource(phase=TaskExecution.SUCCEEDED, outputs=eval(way.replace("...", "[1, 2]")))

    workspace.catalog.register(Lists())
    assert workspace.submit(task(n=list[int]), {}).result(PATIENCE) == [1, 2]


@pytest.mark.parametrize(
    ("message", "said", "notes"),
    [
        ("", "", []),
        ("done", "done", []),
        ("it is in production: well", "it is in production: well", []),
        ("done\nin production: not\nall of it", "done\nall of it", ["in production: not"]),
    ],
)
def test_notes_are_taken_out_of_a_message(message: str, said: str, notes: list[str]) -> None:
    assert said_and_notes(message) == (said, notes)


@pytest.mark.parametrize(
    ("group", "key", "name"),
    [("private-key", "snowflake", "PRIVATE-KEY_SNOWFLAKE"), (None, "api_key", "API_KEY")],
)
def test_the_variable_of_a_missing_secret_is_the_one_that_flytekit_reads(
    group: str | None, key: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = flytekit.current_context().secrets
    with pytest.raises(ValueError) as missing:
        secrets.get(group, key)
    assert f"%agent secret {name} " in secret_hint(str(missing.value))
    monkeypatch.setenv(f"_FSEC_{name}", "found")
    assert secrets.get(group, key) == "found"


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (MemoryError("malloc of size 160000000 failed"), "no memory left for it"),
        (OSError(errno.EMFILE, "Too many open files"), "has no room for what it returned"),
        (OSError(errno.ENOSPC, "No space left on device"), "has no room for what it returned"),
        (OSError(errno.ENOENT, "No such file"), "the task's interface disagree"),
        (ValueError("no number"), "the task's interface disagree"),
    ],
)
def test_what_this_machine_lacks_is_no_fault_of_a_type(cause: Exception, told: str) -> None:
    with pytest.raises(TypeError) as raised:
        try:
            raise cause
        except Exception as error:
            raise TypeError("cannot convert") from error
    assert told in output_hint(raised.value, "task") and told in output_hint(cause, "task")


def test_other_words_are_no_missing_secret() -> None:
    assert secret_hint("no such file") == "" and sign_in_hint("no such file", "bigquery_query_job_task") == ""


def test_missing_credentials_of_google_have_a_way_out() -> None:
    words = "google.auth.exceptions.DefaultCredentialsError: Your default credentials were not found."
    doctor, sandbox = (
        "%agent doctor bigquery_query_job_task tells what it signs in with",
        "%agent sandbox bigquery does",
    )
    assert sign_in_hint(words, "bigquery_query_job_task").startswith(f"{doctor}, {sandbox}")
    assert sign_in_hint(words, "mine") == "%agent doctor mine tells what it signs in with"
