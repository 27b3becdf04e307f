"""``%agent doctor`` in a kernel: with a page and without, and where the agent service cannot start at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from python_path import ROOT, with_plugins

from kernel.harness import LOAD, Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.kernel

NEEDY = """
import os
from flytekit.extend.backend.base_connector import ConnectorRegistry, SyncConnectorBase
from flytekit.extend.backend.utils import get_connector_secret

class Needy(SyncConnectorBase):
    name = "Needy Agent"
    def __init__(self):
        super().__init__(task_type_name="needy")
    def do(self, **_):
        os.environ["NEEDY_HOME"]
        return get_connector_secret(secret_key="NEEDY_KEY")

ConnectorRegistry.register(Needy())
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with Kernel(tmp_path_factory.mktemp("kernel"), {"PYTHONPATH": with_plugins(ROOT)}) as kernel:
        kernel.ok(LOAD)
        yield kernel


def test_it_looks_at_everything_and_is_a_list(kernel: Kernel) -> None:
    cell = kernel.ok("%agent doctor")
    assert set(cell.result) == {"text/plain", "text/html"}
    for what in (
        "versions",
        "packages",
        "forks",
        "proxy",
        "service",
        "socket",
        "run folder",
        "journal",
        "page",
        "sensor",
    ):
        assert f" {what} " in cell.text, cell
    assert kernel.value("diagnosis = %agent doctor\\n[f.what for f in diagnosis.bad]".replace("\\n", "\n")) == "[]"


def test_an_agent_of_the_notebook_tells_what_it_wants(kernel: Kernel) -> None:
    kernel.ok(NEEDY)
    cell = kernel.ok("%agent doctor needy")
    assert "NEEDY_KEY: not set" in cell.text and "NEEDY_HOME: not set" in cell.text
    kernel.ok("os.environ['_FSEC_NEEDY_KEY'] = os.environ['NEEDY_HOME'] = 'nobody may see this'")
    cell = kernel.ok("%agent doctor needy")
    assert cell.text.startswith("all is well") and "nobody may see" not in str(cell.result)
    assert "! " not in next(line for line in kernel.ok("%agent types").text.splitlines() if line.startswith("needy "))
    kernel.ok("%agent remove needy")


def test_a_type_that_nobody_serves_is_told_with_the_command(kernel: Kernel) -> None:
    cell = kernel.fails("%%agent_task perian_task\nx: 1")
    assert "pip install flytekitplugins-perian_job" in cell.error
    assert "pip install flytekitplugins-perian_job" in kernel.ok("%agent doctor perian_task").text


def test_it_tells_why_the_service_does_not_start(new_kernel: Callable[..., Kernel]) -> None:
    kernel = new_kernel(PYTHONPATH=with_plugins(ROOT))
    kernel.ok(
        "import flyteagent_nb.serving.host as host\nasync def start(*_, **__): raise OSError('no room for a socket')"
    )
    kernel.ok("host.AgentHost.start = start")
    kernel.ok(LOAD)
    assert "no room for a socket" in kernel.fails("%agent types").error
    cell = kernel.ok("%agent doctor")
    assert cell.text.startswith("1 problem") and "no room for a socket" in cell.text and "%reload_ext" in cell.text
    assert "versions" in cell.text and "forks" in cell.text
