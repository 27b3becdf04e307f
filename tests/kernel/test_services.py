"""Several agent services, as a person meets them: connected in a cell, one in JavaScript, and one task on two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from node_service import node_service
from test_connections import elsewhere

from kernel.test_stop import stopped

if TYPE_CHECKING:
    from pathlib import Path

    from kernel.harness import Kernel

pytestmark = pytest.mark.kernel
pytest_plugins = ("fixtures_node",)


@pytest.mark.slow
def test_one_in_javascript(kernel: Kernel, node_folder: Path) -> None:
    with node_service(node_folder) as (address, process):
        assert "✓ serves" in kernel.value(f"%agent connect js {address}")
        types = kernel.value("%agent types")
        assert "Words in JavaScript" in types and "it lists it" in types
        for typed, offered in (
            ("%%agent_task js_j", ["%%agent_task js_job"]),
            ("%agent route js_j", ["%agent route js_job"]),
            ("%agent route js_job j", ["%agent route js_job js"]),
            ("%agent disconnect ", ["%agent disconnect js"]),
        ):
            assert kernel.completed(typed) == offered
        kernel.ok("%agent route js_job js")
        assert kernel.completed("%agent unroute j") == ["%agent unroute js_job"]
        kernel.ok("%agent unroute js_job")
        cell = kernel.ok('%%agent_task js_job --returns words:int,loud:str -i text="a b" -b -r run\nseconds: 600')
        assert "js_job" in str(cell)
        kernel.ok("until(lambda: run.message == 'counting')")
        assert kernel.value("%agent logs last") == "job-1 created"
        kernel.ok("%agent cancel last")
        assert kernel.value("run.phase, run.logs()[-1]") == "('ABORTED', 'deleted')"
        kernel.ok('%%agent_task js_job --returns words:int,loud:str -i text="a b" -b -r run\nseconds: 1.5')
        assert kernel.ok("%agent logs last -f").stdout.splitlines()[:2] == ["job-2 created", "counted"]
        answer = kernel.ok('%%agent_task js_words --returns words:int,loud:str -i text="a b" -o words,loud\nseconds: 0')
        assert kernel.value("words, loud, run.service") == "(2, 'A B', 'js')", answer
        process.kill()
        process.wait()
        assert "✗ unreachable since" in kernel.value("%agent connect")  # it asks now, and not ten seconds ago
        kernel.ok("%agent disconnect js")


@pytest.mark.slow
def test_one_task_on_two_services(kernel: Kernel) -> None:
    with elsewhere() as (address, _):
        kernel.ok(f"%agent connect dev {address}")
        kernel.ok("canary = scripted_task(outputs={'x': str})\ncanary.script = {'outputs': {'x': 'one'}}")
        cell = kernel.ok("%agent run canary --compare dev kernel")
        assert "✓ the same phase and outputs" in cell.shown["text/plain"] and "<table" in cell.shown["text/html"]
        assert kernel.value("c = %agent run canary --compare dev kernel -q\nc.same, [r.service for r in c.runs]") == (
            "(True, ['dev', 'kernel'])"
        )
        wrong = kernel.fails("%agent run canary --compare dve kernel")
        assert wrong.ename == "ServiceNotFoundError" and "dev" in wrong.error
        assert "noop goes to dev" in kernel.value("%agent route noop dev")
        assert "noop@1 goes to kernel" in kernel.value("%agent route noop@1 kernel")
        routes = "flyteagent_nb.get_workspace().runner.router.routes()"
        assert kernel.value(f"import flyteagent_nb\n{routes}") == "{('noop', None): 'dev', ('noop', 1): 'kernel'}"
        kernel.ok("noop = scripted_task('noop')\n%agent run noop -q -r run")
        assert kernel.value("run.service") == "'dev'"
        kernel.ok("%agent unroute noop\n%agent unroute noop@1")
        assert kernel.value(routes) == "{}"
        kernel.ok("slow = scripted_task(phases=['RUNNING'])\nscripted.jobs.clear()")
        cell = stopped(kernel, "%agent run slow --compare dev kernel")
        assert cell.ename == "TaskStopped", cell
        assert kernel.value("scripted.open_jobs") == "[]"
        phases = "[(r.service, r.phase) for r in flyteagent_nb.get_workspace().runner.runs()[:2]]"
        assert kernel.value(f"import flyteagent_nb\nsorted({phases})") == "[('dev', 'ABORTED'), ('kernel', 'ABORTED')]"
        wrong = kernel.fails("%agent disconnect kernel")
        assert wrong.error.startswith("ArgumentError: kernel is this notebook's own service, and stays")
        kernel.ok("%agent disconnect dev")
