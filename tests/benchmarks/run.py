"""Print what the README states: python tests/benchmarks/run.py [overhead] [many] [start]

Every figure is a ratio against a named peer, measured in turns in one process, so that a noisy machine disturbs both alike.
"""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS, CALLS = 7, 200


def main() -> None:
    os.environ.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # an installed package has its bytecode; a kernel below would compile all anew
    wanted = set(sys.argv[1:]) or {"overhead", "many", "start"}
    if "start" in wanted:
        start()  # first: it needs a kernel of its own, and a quiet machine
    if wanted & {"overhead", "many"}:
        from flyteagent_nb import get_workspace

        workspace = get_workspace()
        workspace.wait()
        sys.path.insert(0, __file__.rpartition("/")[0])
        import agents

        agents.register()
        if "overhead" in wanted:
            overhead(workspace, agents)
        if "many" in wanted:
            for number in (100, 1_000, 10_000):
                many(workspace, agents, number)
        workspace.close()


def median(call: Callable[[], Any], calls: int = CALLS) -> float:
    taken = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def in_turns(**calls: Callable[[], float]) -> dict[str, float]:
    """The best of some rounds, the peers measured in turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            taken[name].append(call())
    return {name: min(values) for name, values in taken.items()}


def show(what: str, ours: float, peer: str, theirs: float, aim: str) -> None:
    print(
        f"{what:<44} {ours * 1e3:9.2f} ms   {peer:<34} {theirs * 1e3:9.2f} ms   ratio {ours / theirs:7.2f}  (aim {aim})",
        flush=True,
    )


def bare(workspace: Any, agents: Any) -> tuple[Callable[[], float], Callable[[], float], Callable[[], float]]:
    """The RPCs alone on the very channel that the runs use, timed on the loop: bidi, create, get."""
    from flyteidl.admin.agent_pb2 import (
        CreateRequestHeader,
        CreateTaskRequest,
        ExecuteTaskSyncRequest,
        GetTaskRequest,
        TaskCategory,
    )

    from flyteagent_nb.loop import get_loop_thread

    thread = get_loop_thread()
    service = thread.run(workspace.runner.router.resolve("bench_sync", 0)).service
    call = workspace.call_of(agents.sync_task(), {"a": 1})
    header = ExecuteTaskSyncRequest(header=CreateRequestHeader(template=call.template, output_prefix="x"))
    inputs = ExecuteTaskSyncRequest(inputs=call.inputs)
    job = workspace.call_of(agents.async_task(), {"a": 1})
    create = CreateTaskRequest(template=job.template, inputs=job.inputs, output_prefix="x")
    meta = thread.run(service.create(create, "", 10.0))
    get = GetTaskRequest(task_type="bench_async", task_category=TaskCategory(name="bench_async"), resource_meta=meta)

    async def timed(make: Callable[[], Any]) -> float:
        taken = []
        for _ in range(CALLS):
            began = time.perf_counter()
            await make()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    return (
        lambda: thread.run(timed(lambda: service.execute(header, inputs, "", 10.0))),
        lambda: thread.run(timed(lambda: service.create(create, "", 10.0))),
        lambda: thread.run(timed(lambda: service.get(get, "", 10.0))),
    )


def overhead(workspace: Any, agents: Any) -> None:
    import asyncio

    from flytekit.extend.backend import base_connector

    from flyteagent_nb import submit
    from flyteagent_nb.notebook.local_execution import LocalExecution
    from flyteagent_nb.notebook.page import Page
    from flyteagent_nb.notebook.showing import Showing

    bidi, create, get = bare(workspace, agents)
    sync, asynchronous = agents.sync_task(), agents.async_task()
    local = LocalExecution(workspace, Showing(workspace, Page(None)))

    def plain(ours: bool, task: Any, calls: int) -> float:
        if ours:
            local.install()
        else:
            local.remove()
        try:
            return median(lambda: task(a=1), calls)
        finally:
            local.remove()

    base_connector.local_connector_loop = asyncio.new_event_loop()
    found = in_turns(
        bidi=bidi,
        create=create,
        get=get,
        ours=lambda: median(lambda: submit(sync, a=1).result()),
        ours_async=lambda: median(lambda: submit(asynchronous, a=1).result()),
        ours_plain=lambda: plain(True, sync, CALLS),
        theirs_plain=lambda: plain(False, sync, CALLS),
    )
    theirs_async = plain(False, asynchronous, 3)
    ours_plain_async = plain(True, asynchronous, 50)
    show("sync no-op: submit to result", found["ours"], "bare bidi RPC, same channel", found["bidi"], "1.5")
    show("sync no-op: plain call", found["ours_plain"], "flytekit's own plain call", found["theirs_plain"], "1.0")
    show("async no-op: submit to result", found["ours_async"], "bare create + get", found["create"] + found["get"], "-")
    show("async no-op: plain call", ours_plain_async, "flytekit's own plain call", theirs_async, "1/300 = 0.0033")


def many(workspace: Any, agents: Any, number: int) -> None:
    import psutil

    from flyteagent_nb import submit

    _, create, get = bare(workspace, agents)
    rpc = create() + get()
    seconds = 2.0
    task = agents.async_task(seconds)
    process = psutil.Process()
    agents.timed.gets, agents.timed.ends = 0, []
    seen: list[float] = []
    lock = threading.Lock()

    def ended() -> None:
        now = time.monotonic()
        with lock:
            seen.append(now)

    gc.collect()
    memory = process.memory_info().rss
    cpu, began = process.cpu_times(), time.perf_counter()
    runs = [submit(task, a=1) for _ in range(number)]
    submitted = time.perf_counter() - began
    for run in runs:
        run.on_done(ended)
    for run in runs:
        run.result()
    took = time.perf_counter() - began
    used = process.cpu_times()
    gc.collect()
    each = (process.memory_info().rss - memory) / number / 1024
    floor = seconds + number * rpc
    share = (used.user + used.system - cpu.user - cpu.system) / took
    delays = sorted(s - e for s, e in zip(sorted(seen), sorted(agents.timed.ends), strict=False))
    print(
        f"{number:>6} runs of a {seconds:g} s job  {took:7.2f} s   job + N x (create + get) {floor:7.2f} s   "
        f"ratio {took / floor:5.2f}  (aim 1.3)\n"
        f"       submit {submitted:.2f} s, gets a job {agents.timed.gets / number:.1f}, "
        f"end seen after {statistics.median(delays) * 1e3:.0f} ms "
        f"(p95 {delays[int(len(delays) * 0.95)] * 1e3:.0f} ms), {share:.2f} of a core"
        + (f", {each:.1f} KiB a run" if number >= 1_000 else ""),
        flush=True,
    )


START = """
import time
began = time.perf_counter()
get_ipython().run_line_magic("load_ext", "flyteagent_nb")
blocked = time.perf_counter() - began
"""

FIRST = """
import sys
sys.path.insert(0, {folder!r})
import agents
agents.register()
agents.sync_task()(a=1)
"""


def run(client: Any, code: str, expression: str = "0") -> Any:
    reply = client.execute_interactive(
        code, user_expressions={"x": expression}, output_hook=lambda m: None, timeout=120
    )
    content = reply["content"]
    if content["status"] != "ok":
        raise SystemExit("\n".join(content.get("traceback", [])))
    return content["user_expressions"]["x"]["data"]["text/plain"]


@contextlib.contextmanager
def kernel() -> Iterator[Any]:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def start() -> None:
    blocked, first, bare_import = [], [], []
    for _ in range(3):
        with kernel() as client:
            began = time.perf_counter()
            blocked.append(float(run(client, START, "blocked")))
            run(client, FIRST.format(folder=__file__.rpartition("/")[0]))
            first.append(time.perf_counter() - began)
        with kernel() as client:
            imports = "import time\nb = time.perf_counter()\nimport flytekit, grpc\nb = time.perf_counter() - b"
            bare_import.append(float(run(client, imports, "b")))
    show("%load_ext blocks", min(blocked), "import flytekit, grpc", min(bare_import), "100 ms")
    show("fresh kernel: %load_ext to the first result", min(first), "import flytekit, grpc", min(bare_import), "-")


if __name__ == "__main__":
    main()
