"""What the importing thread has is there on another one; driven for real with Airflow in tests/connectors/test_airflow.py."""

from __future__ import annotations

import sys
import threading
from types import ModuleType, SimpleNamespace

import pytest

from flyteagent_nb.serving.thread_state import share_thread_state


def on_another_thread(sentinel: threading.local) -> object:
    found: list[object] = []

    def look() -> None:
        share_thread_state()
        share_thread_state()  # and again, which changes nothing
        found.append(getattr(sentinel, "callers", None))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0]


def module(monkeypatch: pytest.MonkeyPatch, **names: object) -> None:
    made = ModuleType("airflow.models.baseoperator")
    vars(made).update(names)
    monkeypatch.setitem(sys.modules, made.__name__, made)


def test_airflow_s_safeguard_is_filled_on_each_thread_and_shared_by_none(monkeypatch: pytest.MonkeyPatch) -> None:
    sentinel = threading.local()
    sentinel.callers = mine = {"Operator__sentinel": object()}
    module(monkeypatch, ExecutorSafeguard=SimpleNamespace(_sentinel=sentinel))
    assert on_another_thread(sentinel) == {}
    share_thread_state()
    assert sentinel.callers is mine and len(mine) == 1


@pytest.mark.parametrize(
    "names",
    [{}, {"ExecutorSafeguard": SimpleNamespace()}, {"ExecutorSafeguard": SimpleNamespace(_sentinel=object())}],
    ids=["a module that is being imported", "a version without it", "a version that has no local there"],
)
def test_other_versions_are_left_alone(monkeypatch: pytest.MonkeyPatch, names: dict[str, object]) -> None:
    module(monkeypatch, **names)
    share_thread_state()


def test_without_airflow_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "airflow.models.baseoperator", raising=False)
    share_thread_state()
    assert "airflow.models.baseoperator" not in sys.modules
