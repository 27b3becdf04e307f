"""Print how quick the views are and what they cost: python tests/benchmarks/views.py [latency] [share]

It needs what the browser tests need. Both ends of a latency are read from this machine's clock.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from browser.harness import Notebook, Server, Tab, chromium, new_notebook

RUNS = 15
"""Runs for the latencies: each is young, so it is polled often."""

SECONDS = 3.0
"""How long each goes on."""

VIEWS = 100

WATCHED = 10.0
"""Seconds that the share is taken over."""

AGENT = """
%load_ext flyteagent_nb
import json, os, time
from dataclasses import dataclass
import flyteagent_nb
from flyteidl.core.execution_pb2 import TaskExecution
from flytekit.core.base_task import PythonTask
from flytekit.core.interface import Interface
from flytekit.extend.backend.base_agent import AgentRegistry, AsyncAgentBase, AsyncAgentExecutorMixin, Resource, ResourceMeta

@dataclass
class Job(ResourceMeta):
    ends: float
    talks: bool

class Talker(AsyncAgentBase):
    name = "Talker"
    count = 0
    def __init__(self):
        super().__init__(task_type_name="talk", metadata_type=Job)
    async def create(self, task_template, **kwargs):
        return Job(time.time() + task_template.custom["seconds"], task_template.custom["talks"])
    async def get(self, resource_meta, **kwargs):
        Talker.count += resource_meta.talks
        over = time.time() > resource_meta.ends
        return Resource(phase=TaskExecution.SUCCEEDED if over else TaskExecution.RUNNING, message=f"step {Talker.count}.")
    async def delete(self, resource_meta, **kwargs):
        pass

AgentRegistry.register(Talker())

class Talk(AsyncAgentExecutorMixin, PythonTask):
    def __init__(self, seconds, talks=True):
        super().__init__("talk", "talk", interface=Interface())
        self.custom = {"seconds": seconds, "talks": talks}
    def get_custom(self, settings):
        return self.custom

import flyteagent_nb.running.run as running
changes = []  # (when the runner published it, the run's age, its text on the page), in their order
plain_publish = running.Run.publish
def publish(run, snapshot):
    at = time.time()
    plain_publish(run, snapshot)
    text = f"end {run.id}" if run.done else run.message
    if text and all(text != each[2] for each in changes[-1:]):
        changes.append((at, at - snapshot.submitted, text))
running.Run.publish = publish
flyteagent_nb.submit(Talk(0.0)).result()
"""

COMPUTES = f"""
run = flyteagent_nb.submit(Talk({SECONDS}))
display(run)
while not run.done:
    sum(i * i for i in range(1000))
"""

WAITS = f"Talk({SECONDS})()"

WATCH = """() => { window.came = {};
  const look = () => {
    const now = (performance.timeOrigin + performance.now()) / 1000, text = document.querySelector('.jp-Notebook').innerText;
    for (const found of text.matchAll(/step \\d+\\./g)) window.came[found[0]] ??= now;
    for (const over of document.querySelectorAll('.fnb-box:not([data-fa-kernel])'))
      if (over.innerText.includes('Succeeded')) window.came['end ' + over.innerText.match(/[0-9a-f]{10}/)[0]] ??= now;
  };
  new MutationObserver(look).observe(document.querySelector('.jp-Notebook'), {childList: true, subtree: true}); }"""


def main() -> None:
    wanted = set(sys.argv[1:]) or {"latency", "share"}
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder)) as server, chromium() as context:
        new_notebook(server.root / "views.ipynb", "")
        notebook = Tab(context, server).open("views.ipynb")
        notebook.ok(AGENT)
        if "latency" in wanted:
            latency(notebook)
        if "share" in wanted:
            for talks in (False, True):
                share(notebook, talks)


def latency(notebook: Notebook) -> None:
    """From the runner's change to its text on the page, or to a newer one's where it was overtaken."""
    notebook.page.evaluate(WATCH)
    notebook.ok(COMPUTES)  # the page has our widget from here on
    for what, cell, shown_from in (("computes in Python", COMPUTES, 0.0), ("waits on a run", WAITS, 1.1)):
        notebook.value("changes.clear()")
        for _ in range(RUNS):
            notebook.ok(cell)
            notebook.clear()
        came = notebook.page.evaluate("window.came")
        taken, next_came = [], float("inf")
        for at, age, text in reversed(eval(notebook.value("changes"))):
            if text.startswith("end "):
                next_came = float("inf")  # another run begins here
            next_came = min(next_came, came.get(text, float("inf")))
            if age >= shown_from:  # a wait shows itself after a second
                taken.append((next_came - at) * 1e3)
        taken.sort()
        print(
            f"{f'a change in the runner to its text on the page, main {what}':<72} p50 {_at(taken, 0.5):6.0f} ms   "
            f"p99 {_at(taken, 0.99):6.0f} ms   worst {taken[-1]:6.0f} ms   ratio {_at(taken, 0.99) / 150:5.2f}  "
            f"(p99 to the aim, 150 ms; {len(taken)} changes)",
            flush=True,
        )


def _at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


def share(notebook: Notebook, talks: bool) -> None:
    """The share of one processor that the kernel takes for live views, beside what the runs themselves take."""
    used = {}
    for shown in (False, True):
        notebook.ok(f"runs = [flyteagent_nb.submit(Talk(300.0, {talks})) for i in range({VIEWS})]")
        if shown:
            for i in range(0, VIEWS, 50):
                notebook.ok(f"for run in runs[{i}:{i + 50}]: display(run)")
        notebook.page.wait_for_timeout(2000)
        measure = "(sum(__import__('os').times()[:2]), time.monotonic())"
        before = eval(notebook.value(measure))
        notebook.page.wait_for_timeout(WATCHED * 1000)
        after = eval(notebook.value(measure))
        used[shown] = (after[0] - before[0]) / (after[1] - before[1])
        notebook.value("[run.cancel() for run in runs] and [run.exception(60) for run in runs] and None")
        notebook.clear()
    what = "whose message changes with each poll" if talks else "that only go on"
    print(
        f"{f'the kernel with {VIEWS} live views of runs {what}':<72} {used[True] * 100:6.1f} %    "
        f"the same runs, none shown {used[False] * 100:6.1f} %   ratio {used[True] / used[False]:5.2f}  (shares of one processor)",
        flush=True,
    )


if __name__ == "__main__":
    main()
