"""The start of the agent service in a real kernel, made slow by a plug-in: what a cell that needs it shows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from python_path import ROOT, python_path
from test_loading import make_plugins

from kernel.harness import LOAD, Kernel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.kernel

SLOW = """
import os, pathlib, threading
flag = pathlib.Path(os.environ["SLOW_PLUGIN"])
wait = threading.Event()
for _ in range(600):
    if flag.exists():
        break
    wait.wait(0.05)
"""
"""A plug-in whose import goes on until a file is there."""


def test_a_cell_that_waits_for_the_start_says_so(new_kernel: Callable[..., Kernel], tmp_path: Path) -> None:
    make_plugins(tmp_path, {"slow_one": SLOW})
    flag = tmp_path / "go"
    kernel = new_kernel(PYTHONPATH=python_path(ROOT, tmp_path), SLOW_PLUGIN=str(flag))
    kernel.ok(LOAD)
    for code in ("%agent types", "import flyteagent_nb\nflyteagent_nb.submit(1)"):
        message = kernel.start(code)
        kernel.wait_for_display(message, "importing plug-in slow_one")
        kernel.interrupt()  # the stop button ends the wait, not the start
        cell = kernel.finish(message)
        assert cell.error == "TaskStopped: stopped by the user; the agent service goes on starting in the background"
    message = kernel.start("types = %agent types")
    kernel.wait_for_display(message, "Starting the agent service")
    flag.touch()
    cell = kernel.finish(message)
    assert cell.status == "ok", cell
    (shown,) = cell.displays
    assert re.fullmatch(r"✓ Agent service, [\d.:]+ ?s?", shown["text/plain"])
    assert "importing" not in shown["text/html"]
    assert kernel.ok("types = %agent types").kinds == []


@pytest.mark.slow
def test_a_quick_wait_shows_nothing(kernel: Kernel) -> None:
    assert kernel.ok("types = %agent types").kinds == []
