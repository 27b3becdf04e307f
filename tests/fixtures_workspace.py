"""An open workspace and scripted agents, as fixtures. A test module says ``pytest_plugins = ("fixtures_workspace",)``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from flytekit.extend.backend.base_connector import ConnectorRegistry
from scripted_tasks import PATIENCE, Agents, until

from flyteagent_nb.config import FlyteAgentNB
from flyteagent_nb.workspace import Workspace, get_workspace

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """The workspace of the process, open for a module: to open it again takes milliseconds."""
    registry, metadata = dict(ConnectorRegistry._REGISTRY), dict(ConnectorRegistry._METADATA)
    workspace = get_workspace()
    workspace.config.data_folder = str(tmp_path_factory.mktemp("data"))
    workspace.wait(PATIENCE)
    yield workspace
    workspace.close()
    workspace.config.data_folder = ""
    ConnectorRegistry._REGISTRY.clear()
    ConnectorRegistry._REGISTRY.update(registry)
    ConnectorRegistry._METADATA = metadata


@pytest.fixture
def workspace(opened: Workspace) -> Iterator[Workspace]:
    """The open workspace; afterwards its runs are stopped and its settings are the defaults again."""
    assert opened.state == "serving"
    yield opened
    for run in opened.runner.runs():
        run.cancel()
    until(lambda: not opened.runner.active)
    for name, trait in FlyteAgentNB.class_traits(config=True).items():
        setattr(opened.config, name, trait.make_dynamic_default() if name == "deadlines" else trait.default_value)
    opened.take_notices()


@pytest.fixture
def agents(workspace: Workspace) -> Iterator[Agents]:
    """The scripted agents, registered."""
    agents = Agents()
    for agent in (agents.scripted, agents.plain, agents.do, agents.plain_do, agents.echo, agents.noop):
        workspace.catalog.register(agent)
    yield agents
    agents.plain.released.set()
    agents.plain_do.released.set()
