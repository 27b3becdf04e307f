"""The views with something to look at in them.

``python -m browser.pictures`` in ``tests/`` makes the pictures of the README anew, in ``notebooks/pictures/``; a test makes one of each
view in each theme, in ``screenshots/``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from python_path import ROOT

from browser.harness import Notebook, Server, Tab, chromium, new_notebook

if TYPE_CHECKING:
    from browser.harness import Cell

PICTURES = ROOT / "notebooks" / "pictures"

STORY = """
%load_ext flyteagent_nb
import datetime, enum, time
from dataclasses import dataclass
import pandas as pd
from flyteidl.core.execution_pb2 import TaskExecution, TaskLog
from flytekit import workflow
from flytekit.core.base_task import PythonTask, TaskMetadata
from flytekit.core.interface import Interface
from flytekit.extend.backend.base_agent import AgentRegistry, AsyncAgentBase, AsyncAgentExecutorMixin, Resource, ResourceMeta

@dataclass
class Job(ResourceMeta):
    began: float
    script: str

STEPS = {  # seconds, phase, message
    "revenue": [(0.6, "QUEUED", ""), (1.4, "INITIALIZING", "slot reservation"), (120, "RUNNING", "stage 2 of 4, 1.2 GB read")],
    "quick": [(0.3, "QUEUED", ""), (0.7, "INITIALIZING", ""), (1.9, "RUNNING", ""), (9e9, "SUCCEEDED", "")],
    "wrong": [(0.3, "INITIALIZING", ""), (0.8, "RUNNING", ""), (9e9, "FAILED", "Unrecognized name: revnue; did you mean revenue?")],
    "waits": [(120, "WAITING_FOR_RESOURCES", "no GPU is free in europe-west4")],
}
LINES = ["submitted job bq-9c1e to EU", "slot reservation granted", "shuffle 61 %"]

class Warehouse(AsyncAgentBase):
    name = "Warehouse Agent"
    said = set()
    def __init__(self):
        super().__init__(task_type_name="warehouse_query", metadata_type=Job)
    async def create(self, task_template, inputs=None, **kwargs):
        print(LINES[0])
        return Job(time.time(), task_template.custom["script"])
    async def get(self, resource_meta, **kwargs):
        age = time.time() - resource_meta.began
        until, phase, message = next(step for step in STEPS[resource_meta.script] if age < step[0])
        for number, after in ((1, 0.7), (2, 1.5)):
            if resource_meta.script == "revenue" and age > after and (resource_meta.began, number) not in self.said:
                self.said.add((resource_meta.began, number))
                print(LINES[number])
        outputs = {"revenue": orders} if phase == "SUCCEEDED" else None
        links = [TaskLog(name="Console", uri="https://example.com/jobs/bq-9c1e")]
        return Resource(phase=getattr(TaskExecution, phase), message=message, outputs=outputs, log_links=links)
    async def delete(self, resource_meta, **kwargs):
        pass

days = [datetime.date(2024, 1, day) for day in range(1, 32)]
until = days[-1]
numbers = range(31)
orders = pd.DataFrame({"day": days, "orders": [1204 + 31 * i % 170 for i in numbers], "revenue": [48113.2 + 977.5 * i for i in numbers]})
AgentRegistry.register(Warehouse())

class Query(AsyncAgentExecutorMixin, PythonTask):
    def __init__(self, name, script, inputs=None, retries=0):
        super().__init__("warehouse_query", name, interface=Interface(inputs or {}, {"revenue": pd.DataFrame}),
                         metadata=TaskMetadata(retries=retries))
        self.script = script
    def get_custom(self, settings):
        return {"script": self.script}

class Mode(enum.Enum):
    BALANCED = "balanced"
    FAST = "fast"

daily_revenue = Query("daily_revenue", "revenue", {"year": int}, retries=2)
summary = Query("summary", "quick")
typo = Query("typo", "wrong")
train = Query("train", "waits", dict(rows=pd.DataFrame, rate=float, mode=Mode, until=datetime.date, tags=list[str], dry_run=bool))

@workflow
def report(year: int) -> pd.DataFrame:
    daily_revenue(year=year)
    summary()
    return summary()
"""
"""A cell: a warehouse whose jobs wait, run, succeed and fail."""


WORK = """
from flyteagent_nb.notebook.extension import _extension
from flyteagent_nb.notebook.progress import Work
work = Work("Starting the BigQuery sandbox", _extension._page)
_extension._page.show(work)
work.say("installing bqemulator 1.3.0")
time.sleep(1.2)
work.say("waiting for it to answer", part=0.4)
"""
"""A cell: work that goes on after it, so that its picture can be taken."""


def tell(notebook: Notebook) -> dict[str, Cell]:
    """Run the story in a new notebook, up to where the views are worth a look."""
    notebook.ok(STORY)
    shown = {
        "succeeded": notebook.ok("%agent run summary -o revenue"),
        "failed": notebook.ok("%agent run typo -b"),
        "live": notebook.ok("%agent run daily_revenue year=2024 -b"),
        "waiting": notebook.ok(
            "%agent run train rows=orders rate=0.1 mode=Mode.FAST until=until tags=[] dry_run=False -b"
        ),
        "form": notebook.ok("%agent form train rows=orders mode=Mode.FAST"),
        "panel": notebook.ok("%agent"),
        "work": notebook.ok(WORK),
    }
    form = shown["form"]
    form.output.locator("[data-fa-field][name=tags]").fill("[one")
    form.button("Run").click()
    form.output.locator("[aria-invalid=true]").first.wait_for()
    shown["failed"].shows("Unrecognized name")
    shown["live"].shows("shuffle 61 %")
    shown["workflow"] = notebook.start("report(year=2024)")
    shown["workflow"].shows("daily_revenue")
    notebook.page.wait_for_timeout(2500)
    return shown


def main() -> None:
    """Make the pictures of the README."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder)) as server, chromium(scale=2) as context:
        new_notebook(server.root / "story.ipynb")
        tab = Tab(context, server)
        notebook = tab.open("story.ipynb")
        shown = tell(notebook)
        for name, cell in (("run", shown["live"]), ("panel", shown["panel"])):
            cell.html.locator("[data-fa-block]").screenshot(path=PICTURES / f"{name}.png", animations="disabled")


if __name__ == "__main__":
    main()
