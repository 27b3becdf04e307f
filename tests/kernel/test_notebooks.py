"""Notebooks that run without a person: nbclient and papermill, what they save, and where they stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nbclient
import nbformat
import papermill
import pytest

from kernel.harness import LOAD, ROOT, SCRIPTED

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kernel

SLOW = (
    "phases: [RUNNING, SUCCEEDED]\nseconds: 1.5\noutputs: {x: '<b>bold</b>'}\n"
    "links: {console: 'http://console/x', evil: 'javascript:alert(1)'}"
)
CELLS = [
    LOAD,
    SCRIPTED,
    f"%%agent_task scripted --returns x:str\n{SLOW}",
    "%agent runs",
    "echo = scripted_task('echo', inputs={'a': int}, outputs={'a': int})\necho(a=3)",
    "%agent",
]
FAILING = [*CELLS[:2], "%%agent_task scripted\nphases: [FAILED]\nmessage: it rained", "print('never')"]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("GRPC_ENABLE_FORK_SUPPORT", raising=False)


def notebook(cells: list[str]) -> Any:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return made


def execute(folder: Path) -> Any:
    return papermill.execute_notebook(
        folder / "in.ipynb", folder / "out.ipynb", kernel_name="python3", progress_bar=False, cwd=folder
    )


def check_outputs(made: Any) -> None:
    """What a reader of the saved file finds: text and HTML, without a widget, and nothing of it as code."""
    nbformat.validate(made)
    assert "widgets" not in made.metadata  # the code of our widget, and nbconvert would ask a server for more
    rich = [o for cell in made.cells for o in cell.outputs if o.output_type in ("display_data", "execute_result")]
    assert {kind for output in rich for kind in output.data} == {"text/plain", "text/html"}
    html = "".join(output.data.get("text/html", "") for output in rich)
    assert "<script" not in html and "<b>bold</b>" not in html and 'href="javascript:' not in html
    task, runs, call = made.cells[2], made.cells[3], made.cells[4]
    assert "✓ Succeeded" in task.outputs[0].data["text/plain"]
    assert task.outputs[-1].data["text/plain"] == "'<b>bold</b>'"
    assert 'href="http://console/x"' in task.outputs[0].data["text/html"]
    assert "scripted" in str(runs.outputs[-1].data["text/plain"])
    assert call.outputs[-1].data["text/plain"] == "3"
    assert [o for cell in made.cells for o in cell.outputs if o.output_type == "stream" and o.name == "stderr"] == []


def test_nbclient(tmp_path: Path) -> None:
    made = notebook(CELLS)
    nbclient.NotebookClient(made, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    check_outputs(made)
    assert len(made.cells[0].outputs) == 1 and made.cells[0].outputs[0].text.count("\n") == 1
    assert made.cells[1].outputs == []


def test_nbclient_stops_at_a_failing_task(tmp_path: Path) -> None:
    made = notebook(FAILING)
    with pytest.raises(nbclient.exceptions.CellExecutionError) as caught:
        nbclient.NotebookClient(made, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert caught.value.ename == "RunFailedError" and "it rained" in caught.value.evalue
    error = made.cells[2].outputs[-1]
    assert error.output_type == "error" and len(error.traceback) <= 5
    assert made.cells[3].outputs == [] and made.cells[3].execution_count is None


def test_papermill(tmp_path: Path) -> None:
    nbformat.write(notebook(CELLS), tmp_path / "in.ipynb")
    made = execute(tmp_path)
    check_outputs(nbformat.read(tmp_path / "out.ipynb", as_version=4))
    assert made.cells[2].outputs


def test_papermill_stops_at_a_failing_task(tmp_path: Path) -> None:
    nbformat.write(notebook(FAILING), tmp_path / "in.ipynb")
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        execute(tmp_path)
    assert caught.value.ename == "RunFailedError" and "it rained" in caught.value.evalue
    made = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert [o.output_type for o in made.cells[-2].outputs][-1] == "error"
    assert made.cells[-1].outputs == []
