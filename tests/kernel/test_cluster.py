"""``--on`` in a kernel: a cell of SQL, a table that is uploaded, a function that is sent along, the live view, the stop button."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from admin_service import Cluster, cluster, configuration
from flyteidl.core.literals_pb2 import LiteralMap
from scripted_tasks import until

from kernel.harness import LOAD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kernel.harness import Kernel

pytestmark = pytest.mark.kernel


@pytest.fixture
def served() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


def seven(inputs: LiteralMap) -> LiteralMap:
    made = LiteralMap()
    made.literals["results"].scalar.primitive.integer = 7
    return made


def test_cells_go_to_a_cluster(kernel: Kernel, served: Cluster, tmp_path: Path) -> None:
    kernel.ok(LOAD)
    config = configuration(tmp_path, served.target)
    served.outputs = seven
    cell = kernel.ok(
        f"%%agent_task duckdb_query --on {config} --returns results:int -i year=2024 -o n\nSELECT 1 + $year AS n"
    )
    assert "console: http" in str(cell.outputs) or "/executions/f00000001" in str(cell.outputs), cell
    assert kernel.value("n") == "7"
    (spec,) = served.tasks.values()
    assert spec.template.type == "duckdb_query" and spec.template.sql.statement.strip() == "SELECT 1 + $year AS n"
    assert served.executions["f00000001"].inputs.literals["year"].scalar.primitive.integer == 2024
    assert served.uploads == []  # SQL takes nothing along


def test_a_function_is_sent_along(kernel: Kernel, served: Cluster, tmp_path: Path) -> None:
    kernel.ok(LOAD)
    config = configuration(tmp_path, served.target)

    def answer(inputs: LiteralMap) -> LiteralMap:
        made = LiteralMap()
        made.literals["o0"].scalar.primitive.integer = 2
        return made

    served.outputs = answer
    kernel.ok("import pandas as pd\nfrom flytekit import task\nrows = pd.DataFrame({'a': [1, 2]})")
    image = "" if sys.version_info < (3, 13) else "(container_image='x:1')"  # flytekit has no default one there
    kernel.ok(f"@task{image}\ndef count(rows: pd.DataFrame) -> int:\n    return len(rows)")
    assert kernel.ok(f"%agent run count rows=rows --on {config}").text == "2"
    (spec,) = served.tasks.values()
    assert "pyflyte-fast-execute" in spec.template.container.args  # flytekit's way to code that is not in the image
    assert len(served.uploads) >= 2 and any("pkl" in name for name in served.uploads)  # the code, and the table
    dataset = served.executions["f00000001"].inputs.literals["rows"].scalar.structured_dataset
    assert dataset.uri.startswith(("s3://", "flyte://"))


def test_the_stop_button_terminates(kernel: Kernel, served: Cluster, tmp_path: Path) -> None:
    kernel.ok(LOAD)
    served.phases = ["RUNNING"]
    config = configuration(tmp_path, served.target)
    message = kernel.start(f"%%agent_task their_batch --on {config} --lang yaml\nimage: x")
    until(lambda: served.executions)
    kernel.wait_for_display(message, "Running")
    kernel.interrupt()
    cell = kernel.finish(message)
    assert cell.ename == "TaskStopped" and list(served.terminated.values()) == ["cancelled from a notebook"]
    assert "their_batch" in kernel.ok("%agent runs").text
