"""Tasks for the scripted agents, and how a test waits."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flytekit.core.base_task import PythonTask, TaskMetadata
from flytekit.core.interface import Interface
from scripted import DoAgent, EchoAgent, NoopAgent, PlainDoAgent, PlainScriptedAgent, ScriptedAgent

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 60.0
"""Seconds until a test that waits for something gives up: so long that only what never comes takes it."""


class ScriptedTask(PythonTask):  # type: ignore[misc]
    """A task whose ``custom`` is the script of the agent that runs it."""

    def __init__(self, script: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.script = script

    def get_custom(self, settings: Any) -> dict[str, Any]:
        return self.script


def scripted_task(
    task_type: str = "scripted",
    *,
    inputs: dict[str, Any] | None = None,
    outputs: dict[str, Any] | None = None,
    output_tuple_name: str | None = None,
    retries: int = 0,
    timeout: float = 0,
    version: int = 0,
    name: str = "job",
    **script: Any,
) -> ScriptedTask:
    """A task of ``task_type``; the script is that of :mod:`scripted`."""
    return ScriptedTask(
        script,
        task_type=task_type,
        name=name,
        interface=Interface(inputs, outputs, output_tuple_name=output_tuple_name),
        metadata=TaskMetadata(retries=retries, timeout=timedelta(seconds=timeout) if timeout else None),
        task_type_version=version,
    )


@dataclass
class Agents:
    """One of each scripted agent, registered anew for each test."""

    scripted: ScriptedAgent = field(default_factory=ScriptedAgent)
    plain: PlainScriptedAgent = field(default_factory=PlainScriptedAgent)
    do: DoAgent = field(default_factory=DoAgent)
    plain_do: PlainDoAgent = field(default_factory=PlainDoAgent)
    echo: EchoAgent = field(default_factory=EchoAgent)
    noop: NoopAgent = field(default_factory=NoopAgent)


def until(condition: Callable[[], Any]) -> Any:
    """Wait for ``condition()`` to be true, and return it."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, "what the test waits for did not come"
        pause.wait(0.002)
    return found
