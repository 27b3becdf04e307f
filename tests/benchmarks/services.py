"""What N service processes behind one name do: runs per second of an agent that does nothing, and of one that computes, on 1, 2 and 4.

``python tests/benchmarks/services.py [RUNS]``. The notebook's side is one process, this one, however many serve; with few cores
it is what the figures show.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(__file__)))
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from scripted_tasks import scripted_task

from flyteagent_nb.workspace import Workspace, get_workspace

ROUNDS = 3
COUNTS = (1, 2, 4)
MODULE = """
import time
from flytekit.extend.backend.base_connector import ConnectorRegistry
from scripted import NoopAgent


class BusyAgent(NoopAgent):
    name = "Busy Agent"

    async def do(self, task_template, output_prefix, inputs=None, **kwargs):
        until = time.thread_time() + 0.005
        while time.thread_time() < until:
            pass
        return await super().do(task_template, output_prefix, inputs)


ConnectorRegistry.register(BusyAgent("busy_there"), override=True)
ConnectorRegistry.register(NoopAgent("noop_there"), override=True)
"""


@contextlib.contextmanager
def serving(folder: str, count: int):
    """So many service processes, and their addresses as one name has them."""
    with open(os.path.join(folder, "noop_module.py"), "w") as file:
        file.write(MODULE)
    path = os.pathsep.join((folder, os.path.dirname(os.path.dirname(__file__)), os.environ.get("PYTHONPATH", "")))
    command = [sys.executable, "-m", "flyteagent_nb", "serve", "noop_module", "--open"]
    processes = [
        subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        yield [process.stdout.readline().partition(" ")[0] for process in processes], processes
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def cpu(processes) -> float:
    """Seconds of the processor that processes used so far (Linux)."""
    ticks = 0
    for process in processes:
        with open(f"/proc/{process.pid}/stat") as file:
            ticks += sum(int(each) for each in file.read().rpartition(")")[2].split()[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(workspace: Workspace, task_type: str, runs: int, processes) -> tuple[float, float, float]:
    """Runs per second, and the cores that this process and the services used meanwhile."""
    task = scripted_task(task_type)
    began, here, there = time.perf_counter(), time.process_time(), cpu(processes)
    for run in [workspace.submit(task, {}, service="many") for _ in range(runs)]:
        run.result(120)
    took = time.perf_counter() - began
    return runs / took, (time.process_time() - here) / took, (cpu(processes) - there) / took


def main(runs: int) -> None:
    """Print a row for each number of processes, measured in turns."""
    workspace = get_workspace()
    workspace.config.journal = False
    workspace.wait()
    kinds = (("noop_there", runs, "does nothing"), ("busy_there", runs // 5, "computes for 5 ms"))
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, serving(folder, max(COUNTS)) as (addresses, processes):
        for _ in range(ROUNDS):
            for count in COUNTS:
                workspace.connections.connect("many", ",".join(addresses[:count]))
                for task_type, how_many, _ in kinds:
                    measure(workspace, task_type, how_many // 10, processes)  # the connections are made
                    found.setdefault((task_type, count), []).append(measure(workspace, task_type, how_many, processes))
    workspace.close()
    print(f"{os.cpu_count()} cores; medians of {ROUNDS} rounds in turns")
    print(
        "| An agent that | Service processes | Runs a second | Against one | Cores here | Cores there |\n|---|---|---|---|---|---|"
    )
    for task_type, _, does in kinds:
        one = statistics.median(rate for rate, _, _ in found[task_type, 1])
        for count in COUNTS:
            columns = zip(*found[task_type, count], strict=True)
            rate, here, there = (statistics.median(column) for column in columns)
            print(f"| {does} | {count} | {rate:,.0f} | {rate / one:.2f} | {here:.2f} | {there:.2f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
