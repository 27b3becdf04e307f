"""What the tests here define in their kernels."""

from __future__ import annotations

from kernel.harness import LOAD
from python_path import TESTS

START = f"""
{LOAD}
import sys
sys.path.insert(0, {str(TESTS)!r})
import threading
from pathlib import Path
import flyteagent_nb
from flytekit import workflow
from scripted_tasks import until

def runs():
    return flyteagent_nb.get_workspace().runner.runs()

def logged(run):
    return "\\n".join(run.logs())

def appear(path):
    '''Make a file once a run has looked and goes on: for a cell that waits for it.'''
    def work():
        until(lambda: any(run.phase == "RUNNING" for run in runs()))
        Path(path).touch()
    threading.Thread(target=work, daemon=True).start()
"""
"""The extension, and how a cell sees what an agent does."""
