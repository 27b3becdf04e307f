"""The settings: defaults, environment variables, values that are refused, and freezing."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import TYPE_CHECKING, Any

import pytest
from scripted_tasks import PATIENCE, scripted_task, until
from traitlets import TraitError

from flyteagent_nb.config import ENVIRONMENT_PREFIX, FlyteAgentNB, Settings

if TYPE_CHECKING:
    from scripted_tasks import Agents

    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)

TRAITS = FlyteAgentNB.class_traits(config=True)


def test_every_setting_is_frozen_and_has_a_help_text() -> None:
    assert set(TRAITS) == {field.name for field in fields(Settings)}
    assert FlyteAgentNB().freeze() == Settings()
    assert all(len(trait.help) > 10 for trait in TRAITS.values())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("pace", "propeller", "propeller"),
        ("deadline", "2.5", 2.5),
        ("deadline", "0", 0.0),
        ("deadlines", "{'GetTask': 60, 'CreateTask': 1.5}", {"GetTask": 60.0, "CreateTask": 1.5}),
        ("deadlines", "GetTask=60", {"GetTask": 60.0}),
        ("poll_failure_limit", "7", 7.0),
        ("stop_grace", "0", 0.0),
        ("calls_in_flight", "8", 8),
        ("poll_rate", "50", 50.0),
        ("runs_kept", "10", 10),
        ("code", "pickle", "pickle"),
        ("code", "", ""),
        ("run_folder", "/somewhere", "/somewhere"),
        ("project", "mine", "mine"),
        ("domain", "production", "production"),
    ],
)
def test_an_environment_variable_sets(monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: Any) -> None:
    monkeypatch.setenv(ENVIRONMENT_PREFIX + name.upper(), text)
    assert getattr(FlyteAgentNB().freeze(), name) == value


BAD = [
    ("pace", "quick"),
    ("deadline", "-1"),
    ("deadline", "soon"),
    ("deadlines", "{'Create': 1.0}"),
    ("deadlines", "{'GetTask': -1.0}"),
    ("deadlines", "{'GetTask': 'x'}"),
    ("calls_in_flight", "0"),
    ("calls_in_flight", "many"),
    ("poll_rate", "0.5"),
    ("runs_kept", "0"),
    ("code", "zip"),
]


@pytest.mark.parametrize(("name", "text"), BAD)
def test_an_environment_variable_that_is_refused_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(ENVIRONMENT_PREFIX + name.upper(), text)
    with pytest.raises(TraitError, match=ENVIRONMENT_PREFIX + name.upper()):
        FlyteAgentNB()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pace", "quick"),
        ("deadline", -0.1),
        ("deadlines", {"Create": 1.0}),
        ("deadlines", {"GetTask": -1.0}),
        ("deadlines", {"GetTask": None}),
        ("calls_in_flight", 0),
        ("calls_in_flight", 1.5),
        ("code", None),
        ("run_folder", 3),
    ],
)
def test_a_value_that_is_refused_changes_nothing(name: str, value: Any) -> None:
    config = FlyteAgentNB()
    with pytest.raises(TraitError, match=name):
        setattr(config, name, value)
    assert config.freeze() == Settings()


def test_an_argument_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYTEAGENT_NB_PACE", "propeller")
    monkeypatch.setenv("FLYTEAGENT_NB_PROJECT", "mine")
    config = FlyteAgentNB(pace="adaptive")
    assert (config.pace, config.project) == ("adaptive", "mine")


def test_frozen_settings_stay() -> None:
    config = FlyteAgentNB()
    config.deadlines = {"GetTask": 5.0}
    frozen = config.freeze()
    config.deadlines["GetTask"] = 6.0
    config.deadlines = {}
    config.pace = "propeller"
    assert (frozen.deadlines, frozen.pace) == ({"GetTask": 5.0}, "adaptive")
    with pytest.raises(FrozenInstanceError):
        frozen.pace = "propeller"  # type: ignore[misc]


def test_a_run_keeps_the_settings_that_it_was_submitted_with(workspace: Workspace, agents: Agents) -> None:
    workspace.config.deadlines = {"GetTask": PATIENCE}
    workspace.config.poll_failure_limit = 0.0
    run = workspace.submit(scripted_task(phases=["RUNNING", "SUCCEEDED"], sleeps={"get": 0.2}), {})
    workspace.config.deadlines = {"GetTask": 0.01}
    until(lambda: agents.scripted.count("get") >= 2)
    run.result(PATIENCE)
    assert agents.scripted.count("get") == 2
