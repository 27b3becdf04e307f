"""A canary: what tells two values apart, and two runs side by side on two real services, one of them elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from flytekit.types.file import FlyteFile
from scripted import ScriptedAgent
from scripted_tasks import PATIENCE, scripted_task
from test_connections import elsewhere

from flyteagent_nb.errors import ArgumentError
from flyteagent_nb.notebook.arguments import parse_agent
from flyteagent_nb.notebook.comparing import Comparison, difference

if TYPE_CHECKING:
    from pathlib import Path

    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)

FRAME = pd.DataFrame({"a": [1, 2, None], "b": ["x", "y", "z"]})


class Unlike:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("never")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (1, 1, ""),
        (1, 2, "≠"),
        (1, 1.0, "≠ int and float"),
        (float("nan"), float("nan"), ""),
        ([1, {"a": 2}], [1, {"a": 2}], ""),
        (FRAME, FRAME.copy(), ""),
        (FRAME, FRAME.set_axis([5, 6, 7]), ""),  # an index that is numbers is no part of a result
        (FRAME.set_index("b"), FRAME.set_index("b"), ""),
        (FRAME.set_index("b"), FRAME.assign(b=["x", "y", "-"]).set_index("b"), "≠ labels of rows"),
        (FRAME[["a"]], FRAME.set_index("b"), "≠ labels of rows"),
        (FRAME, FRAME.assign(b=["x", "-", "-"]), "≠ 2 of 3 rows"),
        (FRAME, FRAME.head(2), "≠ 3 and 2 rows"),
        (FRAME, FRAME.rename(columns={"a": "c"}), "≠ columns"),
        (FRAME[["b"]].head(1), FRAME[["b"]].head(1).astype("category"), "≠ types of columns"),
        (FRAME["a"].to_numpy(), FRAME["a"].to_numpy() + 1, "≠"),
        (FRAME["a"].to_numpy(), FRAME["a"].to_numpy(), ""),
        (np.ones(1), np.ones(3), "≠"),
        (np.array(["a", None]), np.array(["a", None]), ""),
        ({"loss": [float("nan"), 1.0]}, {"loss": [float("nan"), 1.0]}, ""),
        ({"loss": [float("nan"), 1.0]}, {"loss": [float("nan"), 2.0]}, "≠"),
        ([1], [1, 1], "≠"),
        (pa.table({"a": [1]}), pa.table({"a": [1]}), ""),
        (pa.table({"a": [1]}), pa.table({"a": [2]}), "≠"),
        (Unlike(), Unlike(), "not compared: RuntimeError"),
    ],
)
def test_a_difference(first: Any, second: Any, told: str) -> None:
    assert difference(first, second) == told


def test_files_are_told_apart_by_what_is_in_them(tmp_path: Path) -> None:
    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(text)
    a, b, c = (FlyteFile(str(tmp_path / name)) for name in "abc")
    assert (difference(a, b), difference(a, c)) == ("", "≠ contents")


def compared(workspace: Workspace, **script: Any) -> Comparison:
    """The agent of this process takes its outputs from the script as it is; the one elsewhere too, unless the type is its own."""
    task = scripted_task("scripted", outputs={"x": str})
    task.script = {"outputs": {"x": "1"}, **script}
    runs = [workspace.submit(task, {}, service=name) for name in ("dev", "kernel")]
    for run in runs:
        run.exception(PATIENCE)
    return Comparison(runs[0], runs[1], ("dev", "kernel"))


class NextAgent(ScriptedAgent):
    """The next version: it answers something else, or not at all."""

    async def create(self, task_template: Any, inputs: Any = None, **kwargs: Any) -> Any:
        for change in (task_template.custom or {}).pop("next", []):
            task_template.custom.update(change)
        return await super().create(task_template, inputs, **kwargs)


def test_two_services(workspace: Workspace) -> None:
    workspace.catalog.register(NextAgent())
    with elsewhere() as (address, _):
        workspace.connections.connect("dev", address)
        same = compared(workspace)
        assert same.same and same.differences == {} and same.outputs == {"x": ("1", "1")}
        assert "✓ the same phase and outputs" in same.text() and "✓ the same phase and outputs" in same.html()
        other = compared(workspace, next=[{"outputs": {"x": "<b>2"}}])
        assert not other.same and other.differences == {"output x": "≠"} and other.outputs == {"x": ("1", "<b>2")}
        assert "≠ what differs: output x" in other.text() and "&lt;b&gt;2" in other.html()
        one = compared(workspace, next=[{"phases": ["FAILED"], "message": "it rained"}])
        assert one.differences == {"phase": "≠", "error": "kernel only"} and one.outputs == {"x": ("1", None)}
        text = one.text()
        assert "✓ Succeeded     ✗ Failed" in text and "\nkernel: it rained\n" in text and "'1'" in text
        workspace.connections.disconnect("dev")
    workspace.remove("scripted")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("run t --compare", "--compare needs its A B"),
        ("run t --compare a", "--compare needs A B, and a is the first of them"),
        ("run t --compare a -q", "--compare needs A B, and a is the first of them"),
        ("run t --compare a a", "is one service"),
        ("run t --compare a b --service c", "--service is for one run"),
        ("run t --compare a b -b", "-b is for one run"),
        ("run t --compare a b --compare c d", "--compare is given twice"),
    ],
)
def test_what_does_not_do(line: str, told: str) -> None:
    with pytest.raises(ArgumentError) as e:
        parse_agent(line)
    assert told in e.value.message


def test_the_line() -> None:
    arguments = parse_agent("run t --compare a b x=1")
    assert (arguments.compare, arguments.inputs, arguments.task) == (("a", "b"), (("x", "1"),), "t")
    assert parse_agent("run t --compare=a b").compare == ("a", "b")
