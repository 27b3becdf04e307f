from __future__ import annotations

import contextvars
import importlib
import sys
import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from flytekit.core.context_manager import flyte_context_Var
from flytekit.extend.backend.utils import get_connector_secret

from flyteagent_nb.masking import Masking
from flyteagent_nb.notebook.arguments import parse_agent
from flyteagent_nb.serving.catalog import AgentEntry, Catalog
from flyteagent_nb.serving.needs import _modules, missing, needs_of
from flyteagent_nb.serving.secret_store import SecretStore
from flyteagent_nb.serving.servicers import base_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEAD = """
import os
import flytekit
from flytekit import current_context, lazy_module
from flytekit.extend.backend.utils import get_connector_secret

class Agent:
    pass
"""


@pytest.fixture
def entry_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the entry of an agent whose plug-in has these modules; the agent is the class Agent of the first."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(source: str, package: str = "needy", **modules: str) -> AgentEntry:
        folder = tmp_path / package
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        for name, text in {"connector": HEAD + textwrap.dedent(source), **modules}.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        agent = importlib.import_module(f"{package}.connector").Agent()
        return AgentEntry("needy", 0, "Needy", False, f"{package} 1.0", False, "", agent, 1)

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] == "needy"]:
        del sys.modules[name]


def test_packages_of_one_distribution_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SageMaker's training agent takes its client from the package of the inference agent."""
    import flytekitplugins

    monkeypatch.setattr(flytekitplugins, "__path__", [*flytekitplugins.__path__, str(tmp_path)])
    for package, module, text in (
        ("awssagemaker_inference", "boto3_mixin", "import aioboto3_of_a_test"),
        (
            "awssagemaker_training",
            "connector",
            "from flytekitplugins.awssagemaker_inference import boto3_mixin\n" + HEAD,
        ),
    ):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
        (tmp_path / package / f"{module}.py").write_text(text)
    (tmp_path / "aioboto3_of_a_test.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    connector = importlib.import_module("flytekitplugins.awssagemaker_training.connector")
    try:
        assert [name for name, _ in _modules(connector.Agent)] == [
            "flytekitplugins.awssagemaker_training.connector",
            "flytekitplugins.awssagemaker_inference.boto3_mixin",
        ]
    finally:
        for name in [name for name in sys.modules if name.startswith("flytekitplugins.awssagemaker")]:
            del sys.modules[name]


def told(entry: AgentEntry) -> set[tuple[str, str, bool, bool]]:
    return {(need.kind, need.name, need.required, need.met) for need in needs_of(entry)}


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("def f(): get_connector_secret('K')", {("secret", "K", True, False)}),
        ("def f(): get_connector_secret(secret_key='K')", {("secret", "K", True, False)}),
        ("KEY = 'K'\ndef f(): flytekit.extend.backend.utils.get_agent_secret(KEY)", {("secret", "K", True, False)}),
        ("def f(): current_context().secrets.get('G', 'K')", {("secret", "G/K", True, False)}),
        ("def f():\n  secrets = current_context().secrets\n  secrets.get(key='K')", {("secret", "K", True, False)}),
        ("def f():\n  try:\n    get_connector_secret('K')\n  except ValueError:\n    pass", {("secret", "K", False, False)}),
        ("def f():\n  try:\n    get_connector_secret('K')\n  except OSError:\n    raise", {("secret", "K", True, False)}),
        ("def f():\n  try:\n    get_connector_secret('K')\n  except ValueError:\n    raise RuntimeError", {("secret", "K", True, False)}),
        ("def f():\n  try:\n    import no_such_lib\n  except ImportError:\n    raise", {("package", "no_such_lib", False, False)}),
        ("def f(key): get_connector_secret(key)", set()),
        ("def f(): os.environ['NEEDY_X']", {("variable", "NEEDY_X", True, False)}),
        ("def f(): os.getenv('NEEDY_X'), os.environ.get('NEEDY_X', '1')", {("variable", "NEEDY_X", False, False)}),
        ("def f(): os.getenv('NEEDY_X'), os.environ['NEEDY_X']", {("variable", "NEEDY_X", True, False)}),
        ("def f(): os.environ['NEEDY_X'] = '1'", set()),
        ("def f(): os.environ['NEEDY_HERE']", {("variable", "NEEDY_HERE", True, True)}),
        ("lib = lazy_module('no_such_lib')", {("package", "no_such_lib", True, False)}),
        ("lib = lazy_module('json')\nother = lazy_module('pytest')", set()),
        ("def f():\n  import no_such_lib.core", {("package", "no_such_lib", True, False)}),
        ("def f():\n  from no_such_lib import x", {("package", "no_such_lib", True, False)}),
        ("try:\n  import no_such_lib\nexcept ImportError:\n  pass", {("package", "no_such_lib", False, False)}),
        ("def f():\n  from flytekit import task, no_such_name", set()),
        ("def f():\n  import boto3", {("package", "boto3", True, False), ("credentials", "AWS", True, False)}),
        ("def f():\n  from google.cloud import bigquery", {("credentials", "Google", True, False)}),
    ],
)  # fmt: skip
def test_what_an_agent_wants_is_read_off_its_source(
    entry_of: Callable[..., AgentEntry], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, wanted: set[Any]
) -> None:
    pytest.importorskip("google.cloud.bigquery")
    monkeypatch.setenv("NEEDY_HERE", "a value that nobody may see")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "none"))
    if "boto3" in source:
        monkeypatch.setitem(sys.modules, "boto3", None)
    entry = entry_of(source)
    assert told(entry) == wanted
    assert "nobody may see" not in repr(needs_of(entry))
    assert {need.name for need in missing(entry)} == {name for _, name, required, met in wanted if required and not met}
    assert all(need.mend for need in missing(entry))


@pytest.mark.parametrize(
    "source",
    [
        """
        def f():
            try:
                return get_connector_secret('A')
            except ValueError:
                pass
            try:
                return get_connector_secret('B'), get_connector_secret('C')
            except ValueError:
                pass
            raise RuntimeError('neither')
        """,
        """
        def f():
            try:
                key = get_connector_secret('A')
            except ValueError:
                key = get_connector_secret('B') + get_connector_secret('C')
        """,
        """
        def f():
            try:
                return get_connector_secret('A')
            except ValueError:
                try:
                    return get_connector_secret('B'), get_connector_secret('C')
                except ValueError as error:
                    raise RuntimeError('neither') from error
        """,
    ],
)
def test_of_things_that_are_tried_one_after_the_other_one_does(
    entry_of: Callable[..., AgentEntry], monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    entry = entry_of(source)
    (need,) = missing(entry)
    assert (need.kind, need.name) == ("one of", "secret A; or secret B and secret C")
    assert need.mend == "%agent secret A" and need.secrets == ("A", "B", "C")
    assert {n.name for n in needs_of(entry) if n.alternative} == {"A", "B", "C"}  # no line of their own
    assert missing(entry, ["B"]) and not missing(entry, ["A"]) and not missing(entry, ["B", "C"])
    assert next(n.told for n in needs_of(entry, ["B", "C"]) if n.kind == "one of") == "there is secret B and secret C"


def test_what_may_be_left_out_altogether_is_no_choice(entry_of: Callable[..., AgentEntry]) -> None:
    two = "try: a = get_connector_secret('{}')\n  except ValueError: a = None"
    assert missing(entry_of(f"def f():\n  {two.format('A')}\n  {two.format('B')}")) == ()


DATABRICKS = """
AUTH_TYPE = "FLYTE_DATABRICKS_AUTH_TYPE"

def token():
    try:
        return get_connector_secret("FLYTE_DATABRICKS_ACCESS_TOKEN")
    except Exception as error:
        raise ValueError("no token") from error

def oauth():
    return os.getenv("DATABRICKS_CLIENT_ID"), os.getenv("DATABRICKS_CLIENT_SECRET")
"""


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, {"one of"}),
        ({"DATABRICKS_CLIENT_ID": "x"}, {"one of"}),
        ({"DATABRICKS_CLIENT_ID": "x", "DATABRICKS_CLIENT_SECRET": "x"}, set()),  # a task may choose it
        ({"_FSEC_FLYTE_DATABRICKS_ACCESS_TOKEN": "x"}, set()),
        ({"FLYTE_DATABRICKS_AUTH_TYPE": "pat"}, {"FLYTE_DATABRICKS_ACCESS_TOKEN"}),
        ({"FLYTE_DATABRICKS_AUTH_TYPE": "oauth_m2m"}, {"DATABRICKS_CLIENT_ID", "DATABRICKS_CLIENT_SECRET"}),
        ({"FLYTE_DATABRICKS_AUTH_TYPE": "oidc_federation", "DATABRICKS_CLIENT_ID": "x"}, {"FLYTE_DATABRICKS_OIDC_TOKEN_FILE"}),
    ],
)  # fmt: skip
def test_databricks_wants_one_of_its_ways_of_signing_in_and_the_one_that_is_chosen(
    entry_of: Callable[..., AgentEntry], monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], wanted: set[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    entry = replace(entry_of(DATABRICKS + "def way(): return os.getenv(AUTH_TYPE, 'pat')\n"), task_type="databricks")
    lacking = missing(entry)
    assert {need.name if need.kind != "one of" else need.kind for need in lacking} == wanted
    assert all(need.mend for need in lacking)


def test_a_databricks_connector_that_knows_its_token_only_wants_that(entry_of: Callable[..., AgentEntry]) -> None:
    entry = replace(entry_of(DATABRICKS), task_type="databricks")  # the setting is not read
    assert [need.name for need in missing(entry)] == ["FLYTE_DATABRICKS_ACCESS_TOKEN"]


def test_what_another_agent_of_the_module_wants_is_not_wanted(entry_of: Callable[..., AgentEntry]) -> None:
    entry = entry_of(
        """
        from flytekit.extend.backend.base_connector import SyncConnectorBase
        class Base(SyncConnectorBase):
            def f(self): get_connector_secret('BASE')
        class Agent(Base):
            def do(self, **_): get_connector_secret('OWN')
            def __init__(self): pass
        class Other(Base):
            def do(self, **_): get_connector_secret('OTHER')
        class Helper:
            def g(self): get_connector_secret('HELPER')
        """
    )
    assert {name for _, name, *_ in told(entry)} == {"BASE", "OWN", "HELPER"}


def test_modules_of_the_plugin_are_read_with_it_and_no_others(entry_of: Callable[..., AgentEntry]) -> None:
    entry = entry_of(
        "from .auth import token\nfrom needy import deep\nfrom .names import KEY\ndef f(): get_connector_secret(KEY)",
        auth="import os\ndef token(): return os.environ['NEEDY_TOKEN']",
        deep="def f():\n  from needy import deeper",
        deeper="import os\ndef f(): os.environ['NEEDY_DEEP']",
        names="KEY = 'NEEDY_KEY'",
        aside="import os\nos.environ.get('NEEDY_ASIDE')",
    )
    assert {name for _, name, *_ in told(entry)} == {"NEEDY_TOKEN", "NEEDY_DEEP", "NEEDY_KEY"}
    assert "needy.deeper" not in sys.modules  # it was read, not imported


def test_a_secret_counts_as_set_where_flytekit_finds_it(
    entry_of: Callable[..., AgentEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the agent service, which is no local execution to flytekit: the bare name of the variable does not do."""

    def found() -> bool:
        flyte_context_Var.set([base_context()])
        try:
            return get_connector_secret("needy_key") == "x"
        except ValueError:
            return False

    entry = entry_of("def f(): get_connector_secret('needy_key')")
    for name, met in (("NOTHING", False), ("NEEDY_KEY", False), ("_FSEC_NEEDY_KEY", True)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, "x")
            assert contextvars.copy_context().run(found) is met
            assert [need.met for need in needs_of(entry)] == [met]
    monkeypatch.delenv("_FSEC_NEEDY_KEY", raising=False)
    (need,) = missing(entry)
    name = parse_agent(need.mend.removeprefix("%agent ")).secret
    store = SecretStore(Masking())
    store.put(name, "x")
    store.install()
    try:
        assert contextvars.copy_context().run(found)
    finally:
        store.remove()
    assert missing(entry, [name]) == () and needs_of(entry, [name])[0].told == "given to this kernel"


def test_a_source_that_cannot_be_read_wants_nothing() -> None:
    entry = AgentEntry("t", 0, "n", False, "p", False, "", object(), 1)
    assert needs_of(entry) == ()


def test_the_connectors_that_are_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    for name in ("_FSEC_FLYTE_OPENAI_API_KEY", "_FSEC_SNOWFLAKE_PRIVATE_KEY"):
        monkeypatch.delenv(name, raising=False)
    catalog = Catalog()
    catalog.take_over()
    try:
        wants = {e.task_type: {(n.kind, n.name) for n in missing(e)} for e in catalog.entries()}
    finally:
        catalog.release()
    expected = {
        "bigquery_query_job_task": {("credentials", "Google")},
        "chatgpt": {("secret", "FLYTE_OPENAI_API_KEY")},
        "openai-batch": {("secret", "FLYTE_OPENAI_API_KEY")},
        "snowflake": {("secret", "snowflake_private_key")},
        "sensor": set(),
    }
    assert {t: wants[t] for t in expected if t in wants} == {t: w for t, w in expected.items() if t in wants}
    assert "sensor" in wants
