"""The settings: defaults, environment variables, values that are refused, and freezing."""

from __future__ import annotations

import math
import re
from dataclasses import FrozenInstanceError, fields
from typing import TYPE_CHECKING, Any

import pytest
from scripted_tasks import PATIENCE, scripted_task, until
from traitlets import TraitError
from traitlets.config import Config

from flyteagent_nb.config import ENVIRONMENT_PREFIX, LONGEST, FlyteAgentNB, Settings

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


TIMES = ("deadline", "poll_failure_limit", "stop_grace", "poll_rate", "days_kept")
BAD = [
    ("deadline", "inf"),
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
        *((name, value) for name in TIMES for value in (math.inf, math.nan)),
        ("deadline", 1e300),
        ("deadlines", {"GetTask": math.inf}),
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


@pytest.mark.parametrize("value", [math.inf, math.nan, LONGEST + 1])
def test_a_deadline_that_grpc_cannot_send_is_told_how_no_limit_is_written(value: float) -> None:
    config, told = FlyteAgentNB(), r"a finite number of at most 97,200,000 \(0 means no limit\)"
    with pytest.raises(TraitError, match=told):
        config.deadline = value
    with pytest.raises(TraitError, match=told):
        config.deadlines = {"GetTask": value}


def test_the_longest_deadline_is_one(workspace: Workspace, agents: Agents) -> None:
    workspace.config.deadline = LONGEST
    workspace.submit(scripted_task(), {}).result(PATIENCE)


@pytest.mark.parametrize(
    ("name", "told"), [("dedline", "did you mean deadline?"), ("nosuch", "the settings are: calls_in_flight, code, ")]
)
def test_a_setting_that_there_is_not_is_told(name: str, told: str) -> None:
    config = FlyteAgentNB()
    with pytest.raises(TraitError, match=f"there is no setting '{name}'; {re.escape(told)}"):
        config.update_config(Config(FlyteAgentNB={name: 1.0}))
    config.update_config(Config(FlyteAgentNB={"deadline": 3.0}, Other={name: 1.0}))
    assert config.deadline == 3.0


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
