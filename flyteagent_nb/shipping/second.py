"""A second service that knows nothing of the first: the same agents in a process of their own, or a fresh object where that cannot be."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from flyteagent_nb.serving.catalog import AgentEntry, Catalog

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

START = 90.0
"""Seconds that the process has to serve: flytekit's import alone takes up to fifteen."""

MODULE = "agents_of_this_notebook"
"""What the module is called that holds a notebook's agents."""


def whole_words() -> dict[str, str]:
    """The environment of a process whose last line is told: rich, in which flytekit has tracebacks end, breaks it where a terminal would
    end, and in a kernel it is coloured.
    """
    environment = {**os.environ, "COLUMNS": "10000"}
    environment.pop("FORCE_COLOR", None)
    return environment


class NotStartedError(Exception):
    """The process does not serve. The text says why."""


class ServiceProcess:
    """``python -m flyteagent_nb serve MODULE`` with a private token. Its methods block, each on any thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._folder = tempfile.TemporaryDirectory(prefix="fa-second-")

    def start(
        self, modules: Sequence[str], source: str = "", variables: Mapping[str, str] | None = None
    ) -> tuple[str, str]:
        """Start it.

        Args:
            modules: the modules to import.
            source: the text of the module MODULE; empty where it is not among them.
            variables: environment variables beside this process's own.

        Returns:
            Its address and its token.

        Raises:
            NotStartedError: it ended, or does not serve in time.
        """
        folder = Path(self._folder.name)
        if source:
            (folder / f"{MODULE}.py").write_text(source, encoding="utf-8")
        paths = (str(folder), *(path or os.getcwd() for path in sys.path))
        environment = {**whole_words(), **(variables or {}), "PYTHONPATH": os.pathsep.join(paths)}
        environment.pop("PYTHONSTARTUP", None)
        token = folder / "token"
        with self._lock:
            if self._closed:
                raise NotStartedError("it was not wanted any more")
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "flyteagent_nb", "serve", *modules, "--token-to", str(token), "--until-eof"],
                env=environment,
                stdin=subprocess.PIPE,  # never written to: it ends with this process, however that goes
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        errors: list[str] = []
        reader = threading.Thread(target=_read, args=(process, errors), daemon=True)
        reader.start()
        late = threading.Timer(START, process.kill)
        late.daemon = True
        late.start()
        try:
            assert process.stdout is not None
            # What modules print while they are imported comes before.
            line = next((line for line in process.stdout if " serves " in line), "")
        finally:
            late.cancel()
        if not line:
            process.wait()
            reader.join(5)
            said = [line for line in "".join(errors).splitlines() if line.strip()]
            raise NotStartedError(said[-1].strip()[:300] if said else f"it ended with code {process.returncode}")
        return line.partition(" serves ")[0].strip(), token.read_text()

    def close(self) -> None:
        """End it. Idempotent."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._folder.cleanup()


def _read(process: subprocess.Popen[str], lines: list[str]) -> None:
    assert process.stderr is not None
    with contextlib.suppress(ValueError):  # closed
        for line in process.stderr:
            lines[:] = [*lines[-50:], line]


class OneAgent(Catalog):
    """A catalogue of one agent, which is not flytekit's current one."""

    def __init__(self, entry: AgentEntry) -> None:
        super().__init__()
        self._entry = entry

    def _compare(self, *, rebuild: bool = False) -> dict[tuple[str, int], AgentEntry]:
        return {(self._entry.task_type, self._entry.version): self._entry}

    def generations(self, task_type: str, version: int = 0) -> tuple[AgentEntry, ...]:
        """The agent, where it serves the type."""
        return (self._entry,) if (task_type, version) == (self._entry.task_type, self._entry.version) else ()
