"""Snowflake's sandbox in a real kernel: a table, a cell of SQL, what comes back, and what a person is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from python_path import ROOT, with_plugins

from kernel.harness import LOAD, Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

TOLD = "fakesnow 0.11.18, a stand-in for Snowflake"
TYPE = "snowflake -c user=u -c account=a -c database=shop -c schema=public -c warehouse=w"
QUERY = "SELECT customer, sum(amount) AS total FROM orders WHERE year = %(year)s GROUP BY 1 ORDER BY 1"
ORDERS = """
import pandas as pd
orders = pd.DataFrame({"customer": ["ann", "bob", "ann"], "amount": [70.0, 20.0, 60.0], "year": [2024, 2024, 2023]})
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with Kernel(tmp_path_factory.mktemp("kernel"), {"PYTHONPATH": with_plugins(ROOT)}) as kernel:
        kernel.ok(LOAD)
        kernel.ok(ORDERS)
        text = kernel.value("%agent sandbox snowflake --table shop.public.orders=orders")
        assert "SHOP.PUBLIC.ORDERS, 3 rows, columns CUSTOMER, AMOUNT, YEAR" in text
        yield kernel
        kernel.ok("%agent sandbox snowflake stop")
        assert kernel.value("import os; [name for name in os.environ if name.startswith('_FSEC_')]") == "[]"
        assert "Traceback" not in kernel.log, kernel.log


def test_a_cell_of_sql_gives_a_data_frame(kernel: Kernel) -> None:
    cell = kernel.ok(f"%%agent_task {TYPE} -i year=2024 -o df\n{QUERY}")
    assert kernel.value("df.to_dict('list')") == "{'CUSTOMER': ['ann', 'bob'], 'TOTAL': [70.0, 20.0]}"
    for shown in (cell.shown["text/plain"], cell.shown["text/html"]):
        assert TOLD in shown
        assert "in production: flytekit" in shown and "known fault of flytekitplugins-snowflake" in shown


@pytest.mark.parametrize("frame", ["pyarrow.Table", "polars.DataFrame"])
def test_the_result_is_the_frame_that_is_asked_for(kernel: Kernel, frame: str) -> None:
    kernel.ok(f"%%agent_task {TYPE} -i year=2024 --returns results:{frame} -o table\n{QUERY}")
    library, name = frame.split(".")
    told = kernel.value("(type(table).__module__.split('.')[0], type(table).__name__, table.shape)")
    assert told == repr((library, name, (2, 2)))


def test_a_statement_has_no_output(kernel: Kernel) -> None:
    cell = kernel.ok(f"%%agent_task {TYPE}\nCREATE TABLE late AS SELECT * FROM orders WHERE year > 2023")
    assert "in production" not in str(cell)
    kernel.ok(f"%%agent_task {TYPE} -o n\nSELECT count(*) AS n FROM late")
    assert kernel.value("n['N'].tolist()") == "[2]"


def test_a_wrong_query_fails_the_cell_with_the_services_words(kernel: Kernel) -> None:
    error = kernel.fails(f"%%agent_task {TYPE}\nSELEC * FROM orders").error
    assert "001003 (42000): SQL compilation error" in error.splitlines()[0]
    assert TOLD in error and "Traceback" not in error


def test_the_users_own_connection(kernel: Kernel) -> None:
    kernel.ok("from snowflake.connector import connect")
    assert kernel.value(
        "connect(database='shop').cursor().execute('SELECT max(year) FROM public.orders').fetchall()"
    ) == ("[(2024,)]")
