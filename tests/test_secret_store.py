"""Secrets that a person gave reach what asks flytekit's secrets manager, and nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import flytekit
import pytest
from flytekit.core.context_manager import SecretsManager
from flytekit.extend.backend.utils import get_connector_secret

from flyteagent_nb.errors import ArgumentError
from flyteagent_nb.masking import MASK, Masking
from flyteagent_nb.sandbox.variables import Variables
from flyteagent_nb.serving.secret_store import SecretStore, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VALUE = "a value that nobody may see"
ORIGINAL = SecretsManager.get


@pytest.fixture
def store() -> Iterator[SecretStore]:
    store = SecretStore(Masking())
    store.install()
    yield store
    store.remove()
    assert SecretsManager.get is ORIGINAL


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("API_KEY", "API_KEY"),
        ("api_key", "API_KEY"),
        ("_FSEC_API_KEY", "API_KEY"),
        ("openai/api_key", "OPENAI_API_KEY"),
        ("group/v2/key", "GROUP_V2_KEY"),
        ("private-key/snow.flake", "PRIVATE-KEY_SNOW.FLAKE"),
    ],
)
def test_a_name_as_flytekit_makes_it(text: str, name: str) -> None:
    assert name_of(text) == name
    assert SecretsManager().get_secrets_env_var(*text.removeprefix("_FSEC_").split("/")[:1]).startswith("_FSEC_")


@pytest.mark.parametrize("text", ["", "a b", "key=sk-secret-value", "/a", "a/", "a//b", "é", "sk;secret"])
def test_what_is_no_name_is_not_repeated(text: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        name_of(text)
    assert not text or text not in str(raised.value)


def test_every_way_of_asking_flytekit(store: SecretStore) -> None:
    secrets = flytekit.current_context().secrets
    assert store.put("GROUP_KEY", f" {VALUE}\n")
    store.put("KEY", "other value")
    assert secrets.get("group", "key") == secrets.get(group="group", key="key") == secrets.group.key == VALUE
    assert secrets.get(key="group_key") == get_connector_secret("GROUP_KEY") == VALUE  # as its variables would have it
    assert get_connector_secret("key") == secrets.get("key") == "other value"
    with pytest.raises(ValueError, match="Unable to find secret for key other"):
        secrets.get("group", "other")


def test_flyteagent_nb_sets_no_variable_so_that_no_child_has_it(store: SecretStore) -> None:
    store.put("KEY", VALUE)
    assert get_connector_secret("KEY") == VALUE
    assert VALUE not in str(os.environ)
    child = "import os; print(any('nobody may see' in v for v in os.environ.values()))"
    assert subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout == "False\n"


def test_what_flytekit_finds_elsewhere_is_known_as_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = Masking()
    store = SecretStore(known)
    store.install()
    try:
        monkeypatch.setenv("_FSEC_FROM_VARIABLE", "variable-value")
        (tmp_path / "from_file").write_text("file-value\n")
        (tmp_path / "binary").write_bytes(b"binary-value")
        manager = SecretsManager(flytekit.configuration.SecretsConfig(default_dir=str(tmp_path)))
        assert known.text("variable-value file-value") == "variable-value file-value"
        assert manager.get(key="from_variable") == "variable-value"
        assert manager.get(key="from_file") == "file-value"
        assert manager.get(key="binary", encode_mode="rb") == b"binary-value"
        assert known.text("variable-value file-value binary-value") == f"{MASK} {MASK} {MASK}"
    finally:
        store.remove()


def test_it_comes_before_a_variable_but_not_before_that_of_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = Variables()
    store = SecretStore(Masking(), lambda name: name in variables.names())
    store.install()
    try:
        monkeypatch.setenv("_FSEC_KEY", "of the environment")
        store.put("KEY", VALUE)
        assert get_connector_secret("KEY") == VALUE
        variables.set("sandbox", {"_FSEC_KEY": "of the sandbox"})  # a person's key must not go to a stand-in
        assert get_connector_secret("KEY") == "of the sandbox"
        monkeypatch.setenv("_FSEC_KEY", "changed by the user meanwhile")
        assert get_connector_secret("KEY") == VALUE
        variables.put_back("sandbox")
        assert get_connector_secret("KEY") == VALUE
    finally:
        store.remove()


def test_forgetting(store: SecretStore) -> None:
    store.put("KEY", VALUE)
    store.put("SAME", VALUE)
    assert store.names == ("KEY", "SAME")
    assert store.forget("KEY") and not store.forget("KEY")
    with pytest.raises(ValueError, match="Unable to find secret"):
        get_connector_secret("KEY")
    assert store._masking.text(VALUE) == MASK  # the other one is the same value
    assert store.forget("SAME") and store._masking.text(VALUE) == VALUE


def test_a_new_value_takes_the_place_of_the_old_one(store: SecretStore) -> None:
    store.put("KEY", VALUE)
    assert not store.put("KEY", "short")
    assert get_connector_secret("KEY") == "short" and not store._masking.active


def test_removal_leaves_nothing_also_where_somebody_wrapped_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SecretStore(Masking())
    store.install()
    store.install()
    ours = SecretsManager.get
    with monkeypatch.context() as patch:
        patch.setattr(SecretsManager, "get", lambda self, *args, **kwargs: ours(self, *args, **kwargs))
        store.put("KEY", VALUE)
        assert get_connector_secret("KEY") == VALUE
        store.remove()
        with pytest.raises(ValueError, match="Unable to find secret"):
            get_connector_secret("KEY")
    SecretsManager.get = ORIGINAL
    store.remove()
    assert store.names == () and VALUE not in f"{vars(store)} {vars(store._masking)}"


def test_it_shows_names_only(store: SecretStore) -> None:
    store.put("KEY", VALUE)
    assert repr(store) == "<SecretStore of KEY>" and repr(SecretStore(Masking())) == "<SecretStore of nothing>"
