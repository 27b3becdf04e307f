"""BigQuery's sandbox in a real kernel: a table, a cell of SQL, what comes back, and what a person is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from python_path import ROOT, with_plugins

from kernel.harness import LOAD, Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("flytekitplugins.bigquery", reason="its numpy has no Python 3.13")
pytest.importorskip("bqemulator", reason="it has no Python 3.10")
pytestmark = [pytest.mark.kernel, pytest.mark.slow]

TOLD = "bqemulator 1.3.0, a stand-in for BigQuery"
TYPE = "bigquery_query_job_task -c ProjectID=local -c Location=US"
QUERY = "SELECT customer, SUM(amount) AS total FROM shop.orders WHERE year = @year GROUP BY 1 ORDER BY 1"
ORDERS = """
import pandas as pd
orders = pd.DataFrame({"customer": ["ann", "bob", "ann"], "amount": [70.0, 20.0, 60.0], "year": [2024, 2024, 2023]})
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with Kernel(tmp_path_factory.mktemp("kernel"), {"PYTHONPATH": with_plugins(ROOT)}) as kernel:
        kernel.ok(LOAD)
        kernel.ok(ORDERS)
        assert "shop.orders, 3 rows" in kernel.value("%agent sandbox bigquery --table shop.orders=orders")
        yield kernel
        kernel.ok("%agent sandbox bigquery stop")
        names = "('BIGQUERY_EMULATOR_HOST', 'GOOGLE_APPLICATION_CREDENTIALS', 'GOOGLE_CLOUD_PROJECT')"
        assert kernel.value(f"import os; [name for name in {names} if name in os.environ]") == "[]"
        assert "Traceback" not in kernel.log, kernel.log


def test_a_cell_of_sql_gives_a_data_frame(kernel: Kernel) -> None:
    cell = kernel.ok(f"%%agent_task {TYPE} -i year=2024 -o df\n{QUERY}")
    assert kernel.value("df.to_dict('list')") == "{'customer': ['ann', 'bob'], 'total': [70.0, 20.0]}"
    assert TOLD in cell.shown["text/plain"] and TOLD in cell.shown["text/html"]


@pytest.mark.parametrize("frame", ["pyarrow.Table", "polars.DataFrame"])
def test_the_result_is_the_frame_that_is_asked_for(kernel: Kernel, frame: str) -> None:
    kernel.ok(f"%%agent_task {TYPE} -i year=2024 --returns results:{frame} -o table\n{QUERY}")
    library, name = frame.split(".")
    told = kernel.value("(type(table).__module__.split('.')[0], type(table).__name__, table.shape)")
    assert told == repr((library, name, (2, 2)))


def test_another_project_has_the_table_too(kernel: Kernel) -> None:
    kernel.ok(
        "%%agent_task bigquery_query_job_task -c ProjectID=my-project -o n\nSELECT COUNT(*) AS n FROM shop.orders"
    )
    assert kernel.value("n['n'].tolist()") == "[3]"


def test_a_wrong_query_leads_with_the_service_s_words(kernel: Kernel) -> None:
    cell = kernel.fails(f"%%agent_task {TYPE} -o df\nSELECT nam FROM shop.orders")
    (first, *_), words = cell.error.splitlines(), 'Referenced column "nam" not found'
    assert cell.ename == "RunFailedError" and words in first and "TypeError" not in first
    assert TOLD in cell.error


def test_the_connector_does_as_propeller_needs_it(kernel: Kernel) -> None:
    """A connector that keeps nothing: another process, which inherits where the stand-in is, follows its jobs."""
    kernel.ok("from flytekitplugins.bigquery import BigQueryConfig, BigQueryTask")
    kernel.ok(
        "count = BigQueryTask('count', 'SELECT COUNT(*) AS n FROM shop.orders', "
        "task_config=BigQueryConfig(ProjectID='local', Location='US'))"
    )
    cell = kernel.ok("%agent check bigquery_query_job_task --task count")
    assert "✓ restart                a second service (in another process) says: SUCCEEDED again" in cell.text, (
        cell.text
    )
    assert "✓ concurrent creates     3 at once, each with a job of its own" in cell.text
