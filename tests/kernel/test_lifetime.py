"""A kernel's life: two at once, a restart, and an end that leaves nothing behind; loops inside loops."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scripted_tasks import until

from kernel.harness import LOAD, SCRIPTED, Kernel, children

if TYPE_CHECKING:
    from collections.abc import Callable

    NewKernel = Callable[..., Kernel]

pytestmark = pytest.mark.kernel

JOBS = """
import flyteagent_nb
runs = [flyteagent_nb.submit(scripted_task(phases=["RUNNING"])) for _ in range(3)]
runs.append(flyteagent_nb.submit(scripted_task(hangs=["create"])))
runs.append(flyteagent_nb.submit(scripted_task("do_plain", hangs=["do"])))
until(lambda: len(scripted.open_jobs) == 3 and scripted.count("create") == 4 and agents.plain_do.count("do"))
"""


def loaded(kernel: Kernel) -> Kernel:
    kernel.ok(LOAD)
    kernel.ok(SCRIPTED)
    return kernel


def left_behind(kernel: Kernel) -> list[str]:
    """What is ours in the kernel's temporary folder: flytekit leaves folders there, and ipykernel."""
    return sorted(path.name for path in kernel.temporary.iterdir() if path.name.startswith(("fa-", "flyteagent_nb")))


@pytest.mark.slow
def test_two_kernels_at_once_have_a_service_each(new_kernel: NewKernel) -> None:
    one, two = loaded(new_kernel()), loaded(new_kernel())
    one.ok(JOBS)
    addresses = {
        kernel.value("import flyteagent_nb; flyteagent_nb.get_workspace().host.addresses[0].target")
        for kernel in (one, two)
    }
    assert len(addresses) == 2
    assert two.value("runs = %agent runs\nlen(runs)") == "0"
    assert two.value("scripted_task('echo', inputs={'a': int}, outputs={'a': int})(a=3)") == "3"


def test_a_restart_begins_anew_and_leaves_nothing_behind(new_kernel: NewKernel) -> None:
    kernel = loaded(new_kernel())
    kernel.ok(JOBS)
    assert len(left_behind(kernel)) == 1  # the socket's folder; the runs' are beside the journal
    kernel.restart()
    assert left_behind(kernel) == []
    loaded(kernel)
    assert kernel.value("runs = %agent runs\nlen(runs)") == "0"
    assert kernel.value("scripted_task('echo', inputs={'a': int}, outputs={'a': int})(a=3)") == "3"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["shutdown", "exit"])
def test_the_end_takes_everything_along(new_kernel: NewKernel, how: str) -> None:
    kernel = loaded(new_kernel())
    kernel.ok("%agent serve --port 0")
    kernel.ok("!sleep 0 & echo started")
    kernel.ok(JOBS)
    pid = kernel.pid
    assert [child for child in children(pid) if " Z" in child] == []
    if how == "shutdown":
        kernel.manager.shutdown_kernel()  # asks, waits five seconds, and then kills
    else:
        kernel.start("exit()")
        until(lambda: not kernel.manager.is_alive())
    assert left_behind(kernel) == []
    assert not Path(f"/proc/{pid}").exists() or os.name != "posix"
    assert "Traceback" not in kernel.log, kernel.log
    assert "Fatal" not in kernel.log, kernel.log


# --- loops in loops ---


@pytest.mark.slow
def test_nest_lets_a_cell_run_a_loop_of_its_own(new_kernel: NewKernel) -> None:
    kernel = loaded(new_kernel())
    kernel.ok("import asyncio, flyteagent_nb\necho = scripted_task('echo', inputs={'a': int}, outputs={'a': int})")
    cell = kernel.run("asyncio.run(asyncio.sleep(0, 'slept'))")
    assert cell.status == "error"
    assert "cannot be called from a running event loop" in str(cell) and "%agent nest" in cell.stderr
    cell = kernel.run("asyncio.get_event_loop().run_until_complete(asyncio.sleep(0))")
    assert cell.status == "error" and "%agent nest" in cell.stderr
    assert "%agent nest" not in kernel.run("raise RuntimeError('something else')").stderr

    assert "work now" in kernel.value("%agent nest")
    assert kernel.value("asyncio.run(asyncio.sleep(0, 'slept'))") == "'slept'"
    assert kernel.value("asyncio.get_event_loop().run_until_complete(asyncio.sleep(0, 'slept'))") == "'slept'"
    assert "work already" in kernel.value("%agent nest")
    # What is ours works as before, and in there too.
    assert kernel.value("echo(a=3)") == "3"
    assert kernel.value("await flyteagent_nb.submit(echo, a=4)") == "4"
    kernel.ok("async def both(): return echo(a=5), await flyteagent_nb.submit(echo, a=6)")
    assert kernel.value("asyncio.run(both())") == "(5, 6)"
    assert kernel.value("await both()") == "(5, 6)"
    assert kernel.ok("!echo hi").stdout.strip() == "hi"


@pytest.mark.slow
@pytest.mark.parametrize("library", ["nest_asyncio", "nest_asyncio2"])
def test_nest_leaves_a_loop_alone_that_somebody_has_patched(new_kernel: NewKernel, library: str) -> None:
    kernel = new_kernel()
    if kernel.run(f"import {library}; {library}.apply()").status == "error":
        pytest.skip(f"{library} is not installed")
    loaded(kernel)
    before = kernel.value("import asyncio; asyncio.run.__module__")
    assert "work already" in kernel.value("%agent nest")
    assert kernel.value("asyncio.run.__module__") == before
    assert kernel.value("asyncio.run(asyncio.sleep(0, 'slept'))") == "'slept'"
    assert kernel.value("scripted_task('echo', inputs={'a': int}, outputs={'a': int})(a=3)") == "3"
