"""The agents of a notebook as a module: what is taken along, in which order, and what is named instead."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from cell_runs import AGENT, HEAD, META, CellRuns
from flytekit.extend.backend.base_connector import ConnectorRegistry
from IPython.core.inputtransformer2 import TransformerManager

from flyteagent_nb.shipping.cells import Cell, Cells, needs_of
from flyteagent_nb.shipping.module import AgentModule, make_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REGISTER = "ConnectorRegistry.register(a, override=True)"


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """What the cells register goes again."""
    before, metadata = dict(ConnectorRegistry._REGISTRY), dict(ConnectorRegistry._METADATA)
    yield
    ConnectorRegistry._REGISTRY.clear()
    ConnectorRegistry._REGISTRY.update(before)
    ConnectorRegistry._METADATA = metadata


def made(*cells: str, created: str = "1", secret: str = "") -> AgentModule:
    runs = CellRuns(HEAD, META, *cells, AGENT.format(created=created), REGISTER)
    return make_module(
        runs.entries("a"), runs.cells, runs.namespace, is_secret=lambda text: bool(secret) and secret in text
    )


def imports(module: AgentModule, folder: Path) -> str:
    """What Python says of the module in a process of its own, where create is called once."""
    (folder / "made.py").write_text(module.source)
    call = "import made\nprint(made.a.create(None).job_id if hasattr(made, 'a') else made.ConnectorRegistry)"
    done = subprocess.run(
        [sys.executable, "-c", call], cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, module.source + done.stderr
    return done.stdout.strip()


def test_what_the_agent_needs_comes_along_and_nothing_else(tmp_path: Path) -> None:
    module = made(
        "LIMIT = 4\nUNUSED = 5",
        "def unused():\n    return UNUSED",
        "def helper(x: 'Size'):\n    return math.floor(x) + LIMIT",
        "Size = float",
        "class Base2:\n    factor = len([n for n in range(LIMIT)])",
        "class Late(Base2):\n    pass",
        created="helper(2.5) * Late.factor",
    )
    assert module.complete and module.findings == ()
    assert imports(module, tmp_path) == "24"
    for absent in ("unused", "UNUSED", "op", "json"):
        assert absent not in needs_of(module.source)[0] and f"{absent} =" not in module.source
    assert module.imported == (
        "dataclasses",
        "flyteidl.core.execution_pb2",
        "flytekit.extend.backend.base_connector",
        "math",
    )
    assert module.source.rstrip().endswith(REGISTER)
    assert module.source.index("class Base2") < module.source.index("class Late")


def test_a_cell_that_ran_again_counts(tmp_path: Path) -> None:
    module = made(
        "STEP = 1", "def helper():\n    return STEP", "STEP = 10", "def helper():\n    return -STEP", created="helper()"
    )
    assert imports(module, tmp_path) == "-10"
    assert module.source.count("def helper") == 1 and "STEP = 1\n" not in module.source


@pytest.mark.slow
def test_python_below_a_cell_magic_is_read(tmp_path: Path) -> None:
    runs = CellRuns(HEAD, META, "get_ipython().run_cell_magic('time', '', 'STEP = 7\\n')")
    runs.namespace["STEP"] = 7
    for cell in (AGENT.format(created="STEP"), REGISTER):
        runs.run(cell)
    module = make_module(runs.entries("a"), runs.cells, runs.namespace)
    assert module.complete and imports(module, tmp_path) == "7"


@pytest.mark.parametrize(
    "wrong",
    [
        "def dup(a, a):\n    pass",
        "def f():\n    late = 1\n    global late",
        "nonlocal x",
        "def f(a):\n    global a",
        "def f():\n    from os import *",
        'note: "\\ud800"',
        "many = " + " + ".join("1" for _ in range(2000)),
    ],
)
def test_a_cell_that_python_does_not_compile_is_passed_over(wrong: str) -> None:
    runs = CellRuns(HEAD, META, "STEP = 7", AGENT.format(created="STEP"), REGISTER)
    runs.ran.append(Cell(wrong))
    module = make_module(runs.entries("a"), runs.cells, runs.namespace)
    assert module.complete and "STEP = 7" in module.source and wrong not in module.source


def test_what_stands_before_a_statement_that_is_not_compiled_ran() -> None:
    cells = Cells([Cell("x = 1\ndef dup(a, a):\n    pass\nx = 2")])
    assert [statement.source for statement in cells.statements] == ["x = 1"]


@pytest.mark.parametrize(
    ("cell", "counts"),
    [
        ("%%time\nx = 2\nMyRegistry.register(A())", True),
        ("%%capture out --no-stderr\nx = 2\nMyRegistry.register(A())", True),
        ("%%prun\nx = 2\nMyRegistry.register(A())", True),
        ("%%agent_task\nx = 2\nMyRegistry.register(A())", True),
        ("%%writefile settings.py\nx = 2\nMyRegistry.register(A())", False),
        ("%%timeit\nx = 2\nMyRegistry.register(A())", False),
        ("%%bash\nx=2", False),
        ("%%some_other\nx = 2", False),
        ("x: int", False),
        ("if True:\n    x: int", False),
    ],
)
def test_what_is_below_a_magic_counts_where_it_runs_in_the_notebook(cell: str, counts: bool) -> None:
    source = TransformerManager().transform_cell(cell)
    cells = Cells([Cell("x = 1"), Cell(source, ran_body=True)])
    binding = cells.binding("x")
    assert binding and binding.source == ("x = 2" if counts else "x = 1")
    assert len(cells.registrations()) == counts


def test_what_is_below_an_agent_task_counts_where_it_is_python() -> None:
    sql = TransformerManager().transform_cell("%%agent_task kind\nx = 2")  # it would be Python by its looks
    binding = Cells([Cell("x = 1"), Cell(sql)]).binding("x")
    assert binding and binding.source == "x = 1"


@pytest.mark.slow
def test_what_stars_and_names_in_functions_bring(tmp_path: Path) -> None:
    module = made(
        "from os.path import *",
        "import os.path, os",
        "import xml.dom\nimport xml.sax",
        created="join('x', os.sep) and 5 or xml.dom",
    )
    assert module.complete
    assert "from posixpath import join" in module.source or "from ntpath import join" in module.source
    assert "import xml.dom\nimport xml.sax" in module.source
    assert imports(module, tmp_path) == "5"


@pytest.mark.parametrize(
    ("cells", "created", "told", "mend"),
    [
        (("x = get_ipython() or 3",), "x", "x, which A needs, comes from a magic", "plain Python"),
        (("for x in range(3):\n    pass",), "x", "is bound by a loop", "one assignment"),
        (("x = 1", "x += 1"), "x", "is changed after it was made", "one assignment"),
        ((), "y", "A uses y, which is not defined", "define or import it"),
        ((), "get_ipython().user", "IPython's get_ipython", "log or print"),
        (("API_KEY = 'abcdefghij'",), "API_KEY", "holds a secret", "get_connector_secret"),
        (("place = 'https://me:hunter22@x'",), "place", "holds a secret", "%agent secret"),
    ],
)
def test_what_cannot_be_taken_along_is_named(cells: tuple[str, ...], created: str, told: str, mend: str) -> None:
    module = made(*cells, created=created, secret="hunter22")
    (found,) = module.findings
    assert found.sign == "bad" and told in found.told and mend in found.mend
    assert not module.complete and "hunter22" not in module.source and "abcdefghij" not in module.source


SECRET_AGENT = """
class B(Base):
    name = "B"
    {attribute}
    def __init__(self, key="", *, api_key={default}):
        super().__init__(metadata_type=Meta, task_type_name="b")
    create = get = lambda self, **kwargs: None
    def delete(self, **kwargs):
        {within}
b = B({given})
"""


@pytest.mark.parametrize("registered", ["b", "B({given})"])
@pytest.mark.parametrize(
    ("attribute", "default", "given", "within", "known"),
    [
        ("pass", "''", "'hunter22'", "pass", True),
        ("pass", "''", "api_key='abcdefghij'", "pass", False),
        ("pass", "'abcdefghij'", "", "pass", False),
        ("password = 'abcdefghij'", "''", "", "pass", False),
        ("password: str = 'abcdefghij'", "''", "", "pass", False),
        ("client = dict(password='abcdefghij')", "''", "", "pass", False),
        ("pass", "''", "", "return dict(password='abcdefghij')", False),
    ],
)
def test_a_secret_in_an_agents_class_or_in_how_it_is_made(
    attribute: str, default: str, given: str, within: str, known: bool, registered: str
) -> None:
    cell = SECRET_AGENT.format(attribute=attribute, default=default, given=given, within=within)
    runs = CellRuns(HEAD, META, cell, f"ConnectorRegistry.register({registered.format(given=given)}, override=True)")
    module = make_module(
        runs.entries("b"), runs.cells, runs.namespace, is_secret=lambda text: known and "hunter22" in text
    )
    assert "hunter22" not in module.source and "abcdefghij" not in module.source
    assert not module.complete and any("secret, which belongs into no file" in f.told for f in module.findings)


def test_the_name_of_a_secret_is_none() -> None:
    cell = SECRET_AGENT.format(
        attribute="token = 'SLURM_TOKEN'", default="'OPENAI_API_KEY'", given="api_key='short'", within="dict(token=self.name)"
    )  # fmt: skip
    runs = CellRuns(HEAD, META, cell, "ConnectorRegistry.register(b, override=True)")
    assert make_module(runs.entries("b"), runs.cells, runs.namespace).complete


def test_a_value_without_source_is_named() -> None:
    runs = CellRuns(HEAD, META, AGENT.format(created="client.x"), REGISTER)
    runs.namespace["client"] = object()
    (found,) = make_module(runs.entries("a"), runs.cells, runs.namespace).findings
    assert "client, which A needs, is an object that no cell makes" in found.told and found.sign == "bad"


def test_files_and_values_that_changed_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").touch()
    runs = CellRuns(
        HEAD, META, "LIMIT = 1\nDATA = 'data.csv'", AGENT.format(created="LIMIT, DATA, 'none.csv', '/tmp'"), REGISTER
    )
    runs.namespace["LIMIT"] = 2
    found = make_module(runs.entries("a"), runs.cells, runs.namespace).findings
    assert [f.sign for f in found] == ["warn", "warn"]
    told = " ".join(f.told for f in found)
    assert (
        "'data.csv' is a file or folder of this machine" in told and "LIMIT is not any more what its cell says" in told
    )


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("x, y = 3, 4", []),
        ("[x, y], z = (3, 4), 5", []),
        ("x, y = (3, 4)\ny = 5", []),
        ("x = y = 3", []),
        (
            "x, y = 3, 4\nglobals()['x'] = 2",
            ["x is not any more what its cell says; elsewhere it begins as x, y = (3, 4)"],
        ),
        ("x, y = [], 4\nx.append(1)", ["x is filled while it runs; elsewhere it begins as x, y = ([], 4)"]),
        ("x, password = 3, 'abcdefghij'\ny = 4", ["x, which A needs, holds a secret, which belongs into no file"]),
    ],
)
def test_several_names_in_one_assignment(cell: str, told: list[str]) -> None:
    findings = made(cell, created="x, y").findings
    assert [finding.told.replace("(x, y) =", "x, y =") for finding in findings] == told  # as Python 3.10 writes it


def test_an_agent_made_in_a_function(tmp_path: Path) -> None:
    body = "".join(f"    {line}\n" for line in AGENT.format(created="factor").strip().splitlines()[:-1])
    runs = CellRuns(
        HEAD,
        META,
        f"def make(factor):\n{body}    return A()\n",
        "a = make(6)",
        "ConnectorRegistry.register(a, override=True)",
    )
    module = make_module(runs.entries("a"), runs.cells, runs.namespace)
    assert module.complete and imports(module, tmp_path) == "6"
    hidden = CellRuns(
        HEAD,
        META,
        f"def make(factor):\n{body}    return A()\n",
        "a = [make(6)][0]",
        "[ConnectorRegistry.register(x, override=True) for x in [a]]",
    )
    (found,) = make_module(hidden.entries("a"), hidden.cells, hidden.namespace).findings
    assert "is made inside make()" in found.told


def test_one_class_for_two_versions() -> None:
    agent = AGENT.format(created="1").replace('task_type_name="a")', 'task_type_name="a", task_type_version=size)')
    runs = CellRuns(
        HEAD, META, agent, "b = A(size=4)",
        "ConnectorRegistry.register(A(size=9), override=True)", "for v in (a, b):\n    pass",
        "ConnectorRegistry.register(A(size=3), override=True)\nConnectorRegistry.register(A(size=4), override=True)",
    )  # fmt: skip
    module = make_module(runs.entries("a", "b"), runs.cells, runs.namespace)
    assert module.complete and "size=9" not in module.source
    assert module.source.count("ConnectorRegistry.register(") == 2
