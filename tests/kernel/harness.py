"""A real kernel of this interpreter or another, driven as a front end drives it: run a cell, press stop, press Tab; with time limits."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from python_path import ROOT, TESTS, python_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

LIMIT = 100.0
"""Seconds that a cell may take: only a bug takes them."""

LOAD = "%load_ext flyteagent_nb"

SCRIPTED = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from flytekit.extend.backend.base_connector import ConnectorRegistry
from scripted_tasks import Agents, scripted_task, until

agents = Agents()
for each in (agents.scripted, agents.plain, agents.do, agents.plain_do, agents.echo, agents.noop):
    ConnectorRegistry.register(each)
scripted = agents.scripted
"""
"""A cell: the agents of ``scripted.py``, registered, and the tasks that script them."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Cell:
    """What a cell did.

    Attributes:
        status: ``ok``, ``error`` or ``aborted``.
        outputs: its outputs in order, as a notebook would save them (nbformat's shapes).
    """

    status: str = ""
    outputs: list[dict[str, Any]] = field(default_factory=list)

    def stream(self, name: str) -> str:
        """All text of ``stdout`` or ``stderr``."""
        return "".join(o["text"] for o in self.outputs if o["output_type"] == "stream" and o["name"] == name)

    @property
    def stdout(self) -> str:
        return self.stream("stdout")

    @property
    def stderr(self) -> str:
        return self.stream("stderr")

    @property
    def result(self) -> dict[str, Any]:
        """The cell's value by MIME type; empty where it has none."""
        found = [o["data"] for o in self.outputs if o["output_type"] == "execute_result"]
        return found[-1] if found else {}

    @property
    def text(self) -> str:
        """The cell's value as text, or an empty string."""
        return str(self.result.get("text/plain", ""))

    @property
    def displays(self) -> list[dict[str, Any]]:
        """What it displayed, by MIME type."""
        return [o["data"] for o in self.outputs if o["output_type"] == "display_data"]

    @property
    def shown(self) -> dict[str, Any]:
        """What it showed last, as its value or as a display, by MIME type."""
        found = [o["data"] for o in self.outputs if o["output_type"] in ("display_data", "execute_result")]
        return found[-1] if found else {}

    @property
    def error(self) -> str:
        """The error as the notebook shows it, without colours; empty where there is none."""
        errors = [o for o in self.outputs if o["output_type"] == "error"]
        return _COLOURS.sub("", "\n".join(errors[-1]["traceback"])) if errors else ""

    @property
    def ename(self) -> str:
        """The error's class, or an empty string."""
        return next((str(o["ename"]) for o in self.outputs if o["output_type"] == "error"), "")

    @property
    def kinds(self) -> list[str]:
        """The outputs' types in order."""
        return [o["output_type"] for o in self.outputs]

    def __str__(self) -> str:
        shown = [f"status {self.status}"]
        for o in self.outputs:
            if o["output_type"] == "stream":
                shown.append(f"[{o['name']}] {o['text']}")
            elif o["output_type"] == "error":
                shown.append("[error] " + _COLOURS.sub("", "\n".join(o["traceback"])))
            else:
                told = _COLOURS.sub("", str(o["data"].get("text/plain")))
                shown.append(f"[{o['output_type']} {sorted(o['data'])}] {told}")
        return "\n".join(shown)


class Kernel:
    """A kernel process and a client of it. Use it in a ``with`` statement.

    Args:
        folder: an empty folder for its kernel spec, its log, its temporary files and, where ``env`` names no other, its journal.
        env: environment variables beside this process's own.
        python: the interpreter; this one where nothing is said.
    """

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None, python: str = sys.executable) -> None:
        spec = folder / "kernels" / "here"
        spec.mkdir(parents=True)
        argv = [python, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "here", "language": "python"}))
        self.temporary = folder / "t"
        self.temporary.mkdir()
        self._log_path = folder / "kernel.log"
        self._log = self._log_path.open("w")
        specs = KernelSpecManager(kernel_dirs=[str(folder / "kernels")], ensure_native_kernel=False)
        self.manager = KernelManager(kernel_name="here", kernel_spec_manager=specs)
        own = {
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": python_path(ROOT),
            "FLYTEAGENT_NB_DATA_FOLDER": str(folder / "data"),
        }
        self._env = {**os.environ, **own, **(env or {})}
        self._env.pop("GRPC_ENABLE_FORK_SUPPORT", None)  # conftest.py sets it; a person has not
        self._cells: dict[str, Cell] = {}
        self._idle: set[str] = set()

    def __enter__(self) -> Kernel:
        self.manager.start_kernel(env=self._env, cwd=str(self.temporary), stderr=self._log, stdout=self._log)
        self._connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self._log.close()

    def _connect(self) -> None:
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        try:
            self.client.wait_for_ready(timeout=LIMIT)
        except RuntimeError as error:  # it tells that the kernel died, and not of what
            raise RuntimeError(f"{error}\n{self.log}") from error

    @property
    def pid(self) -> int:
        """The process's id."""
        pid = self.manager.provisioner.pid  # type: ignore[union-attr]
        assert pid is not None
        return int(pid)

    @property
    def log(self) -> str:
        """What the process wrote to its own stdout and stderr, which no cell shows."""
        return self._log_path.read_text()

    # --- cells ---

    def run(self, code: str, *, limit: float = LIMIT) -> Cell:
        """Run a cell and wait for its end."""
        return self.finish(self.start(code), limit=limit)

    def ok(self, code: str, *, limit: float = LIMIT) -> Cell:
        """Run a cell that must succeed."""
        cell = self.run(code, limit=limit)
        assert cell.status == "ok", f"{code}\n{cell}"
        return cell

    def value(self, code: str, *, limit: float = LIMIT) -> str:
        """The value of a cell as text."""
        return self.ok(code, limit=limit).text

    def fails(self, code: str, *, limit: float = LIMIT) -> Cell:
        """Run a cell that must fail, with nothing but an ``error`` output beside its streams and displays before."""
        cell = self.run(code, limit=limit)
        assert cell.status == "error", f"it did not fail:\n{code}\n{cell}"
        return cell

    def start(self, code: str) -> str:
        """Send a cell; :meth:`finish` takes what this returns."""
        message: str = self.client.execute(code, allow_stdin=False)
        self._cells[message] = Cell()
        return message

    def finish(self, message: str, *, limit: float = LIMIT) -> Cell:
        """Wait for the end of a cell.

        Raises:
            TimeoutError: it has not ended within ``limit`` seconds.
        """
        cell = self._cells[message]
        until = time.monotonic() + limit
        while not cell.status:
            reply = self._get(self.client.get_shell_msg, until, cell)
            sent = reply["parent_header"].get("msg_id")
            if reply["msg_type"] == "execute_reply" and sent in self._cells:
                self._cells[sent].status = reply["content"]["status"]
        while message not in self._idle:
            self._take(self._get(self.client.get_iopub_msg, until, cell))
        return cell

    def wait_for_output(self, message: str, text: str, *, limit: float = LIMIT) -> None:
        """Wait until a running cell has printed ``text``."""
        cell = self._cells[message]
        until = time.monotonic() + limit
        while text not in cell.stdout:
            assert message not in self._idle, f"the cell ended without {text!r}:\n{cell}"
            self._take(self._get(self.client.get_iopub_msg, until, cell))

    def wait_for_display(self, message: str, text: str, *, limit: float = LIMIT) -> None:
        """Wait until what a running cell displays says ``text``."""
        cell = self._cells[message]
        until = time.monotonic() + limit
        while not any(text in str(data.get("text/plain")) for data in cell.displays):
            assert message not in self._idle, f"the cell ended without {text!r}:\n{cell}"
            self._take(self._get(self.client.get_iopub_msg, until, cell))

    def _get(self, receive: Callable[..., Any], until: float, cell: Cell) -> Any:
        while True:
            left = until - time.monotonic()
            assert self.manager.is_alive(), f"the kernel has died:\n{cell}\n{self.log}"
            if left <= 0:
                raise TimeoutError(f"the cell goes on:\n{cell}\n{self.log}")
            try:
                return receive(timeout=min(left, 1.0))
            except queue.Empty:
                continue

    def _take(self, message: dict[str, Any]) -> None:
        sent = message["parent_header"].get("msg_id")
        kind, content = message["msg_type"], message["content"]
        if kind == "status" and content["execution_state"] == "idle":
            self._idle.add(sent)
        if kind == "update_display_data":
            shown = content["transient"]["display_id"]
            for output in (o for cell in self._cells.values() for o in cell.outputs):
                if output.get("transient", {}).get("display_id") == shown:
                    output["data"] = content["data"]
        cell = self._cells.get(sent)
        if cell is None or kind not in ("stream", "execute_result", "display_data", "error"):
            return
        cell.outputs.append({"output_type": kind, **content})

    # --- what else a front end does ---

    def interrupt(self) -> None:
        """Press the stop button."""
        self.manager.interrupt_kernel()

    def restart(self) -> None:
        """Restart the kernel as the button does."""
        self.client.stop_channels()
        self.manager.restart_kernel()
        self._cells, self._idle = {}, set()
        self._connect()

    def complete(self, code: str, cursor: int | None = None) -> list[str]:
        """What the Tab key offers at the cursor, which stands at the end where nothing is said."""
        at = len(code) if cursor is None else cursor
        reply = self.client.complete(code, at, reply=True, timeout=LIMIT)
        return list(reply["content"]["matches"])

    def completed(self, code: str) -> list[str]:
        """The cell with each of the offers taken."""
        reply = self.client.complete(code, len(code), reply=True, timeout=LIMIT)["content"]
        return [code[: reply["cursor_start"]] + match + code[reply["cursor_end"] :] for match in reply["matches"]]

    def inspect(self, code: str) -> str:
        """What Shift-Tab shows at the end of ``code``."""
        reply = self.client.inspect(code, len(code), reply=True, timeout=LIMIT)
        return _COLOURS.sub("", str(reply["content"]["data"].get("text/plain", "")))


def children(pid: int) -> list[str]:
    """The child processes of a process, as ``ps`` shows them."""
    told = subprocess.run(
        ["ps", "--no-headers", "--ppid", str(pid), "-o", "pid,stat,comm"], capture_output=True, text=True
    )
    return told.stdout.splitlines()
