"""Opens what the launch opens, in a real browser with nothing but loopback, and runs each notebook there from top to bottom.

``python -m launch.visit`` in ``tests/``. It reads a :class:`Launch` as JSON and writes :class:`Visit` objects, one for each notebook. It is
a process of its own because the server, the kernels and the browser must all be where there is no network.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from browser.harness import Notebook, Tab, chromium

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import BrowserContext

LIMIT = 120.0
"""Seconds that a notebook may take: only a bug takes them."""

SLOW = re.compile(r"warning: agent .* blocked the event loop for ")
"""What is said of released connectors on a busy machine, and is so."""

NEWS = re.compile(r"/lab/api/(news|update)")
"""What JupyterLab's pages ask its server for, which then asks others."""


@dataclass(frozen=True)
class Launch:
    """What is launched.

    Attributes:
        command: what starts JupyterLab, as the launch starts it; the address is added.
        env: its environment.
        folder: where it runs: the repository.
        notebooks: the paths of those to run; the first is the one that must open by itself.
    """

    command: list[str]
    env: dict[str, str]
    folder: str
    notebooks: list[str]


@dataclass(frozen=True)
class Visit:
    """What came of one notebook.

    Attributes:
        notebook: its path.
        cells: how many of its code cells ran, and how many it has.
        errors: what they failed with, and what they wrote to stderr.
        problems: what went wrong on the page: its console, requests off loopback, dialogs, questions for news.
        trusted: whether the outputs that it was committed with were shown as they are.
        seconds: from the start of the kernel's process to the end of the last cell.
        megabytes: memory of the server, the kernel and what they started, at the end.
        outside: whether anything but loopback could be reached.
    """

    notebook: str
    cells: tuple[int, int]
    errors: list[str]
    problems: list[str]
    trusted: bool
    seconds: float
    megabytes: int
    outside: bool


@dataclass
class Server:
    """The launched server, as the pages need it."""

    base: str
    token: str
    root: Path
    process: subprocess.Popen[bytes]

    def processes(self) -> Iterator[dict[str, Any]]:
        """It and all that it started, as psutil tells of them."""
        whole = psutil.Process(self.process.pid)
        for process in (whole, *whole.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                yield process.as_dict(["cmdline", "create_time", "memory_info"])

    def began(self, kernel: str) -> float:
        """When the process of a kernel was started; its forks, which are started later, have its command line too."""
        return float(min(p["create_time"] for p in self.processes() if kernel in " ".join(p["cmdline"] or ())))

    def megabytes(self) -> int:
        """Memory of it and all that it started."""
        return round(sum(p["memory_info"].rss for p in self.processes() if p["memory_info"]) / 1e6)


@contextmanager
def launched(launch: Launch) -> Iterator[Server]:
    """The server, while it runs."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = int(s.getsockname()[1])
    base, token = f"http://127.0.0.1:{port}", secrets.token_hex(16)
    address = ["--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    # The first two because no person is here, the last because the pages are driven through JupyterLab's own objects.
    more = ["--no-browser", "--allow-root", "--LabApp.expose_app_in_browser=True"]
    process = subprocess.Popen(
        [*launch.command, *address, *more], cwd=launch.folder, env=launch.env, stdout=sys.stderr, start_new_session=True
    )
    try:
        until = time.monotonic() + LIMIT
        request = urllib.request.Request(f"{base}/api/status", headers={"Authorization": f"token {token}"})
        while process.poll() is None and time.monotonic() < until:
            with suppress(OSError), urllib.request.urlopen(request, timeout=LIMIT):
                yield Server(base, token, Path(launch.folder), process)
                return
            time.sleep(0.05)
        raise RuntimeError("the server did not start")
    finally:
        process.send_signal(signal.SIGTERM)  # it ends its kernels first
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def visit(server: Server, browser: BrowserContext, path: str, *, by_itself: bool) -> Visit:
    """Open a notebook, by the bare address of the server or by its own, and run it."""
    tab = Tab(browser, server)  # type: ignore[arg-type]  # all that it uses of a server is here
    tab.page.set_default_timeout(LIMIT * 1000)
    news: list[str] = []
    tab.page.on("request", lambda request: news.append(request.url) if NEWS.search(request.url) else None)
    place = "?" if by_itself else f"lab/tree/{path}?reset&"  # reset, or what was open before opens beside it
    tab.page.goto(f"{server.base}/{place}token={server.token}")
    tab.page.wait_for_function(
        "path => window.jupyterapp?.shell.currentWidget?.context?.path === path"
        " && window.jupyterapp.shell.currentWidget.sessionContext?.session?.kernel?.connectionStatus === 'connected'",
        arg=path,
    )
    notebook = Notebook(tab, path)
    trusted = notebook.evaluate("panel => panel.content.widgets.every(c => c.model.type !== 'code' || c.model.trusted)")
    notebook.evaluate("async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    notebook.wait_idle()
    now = time.time()
    began = server.began(notebook.evaluate("panel => panel.sessionContext.session.kernel.id"))
    cells = [c for c in notebook.evaluate("panel => panel.model.toJSON().cells") if c["cell_type"] == "code"]
    made = Visit(
        notebook=path,
        cells=(sum(cell["execution_count"] is not None for cell in cells), len(cells)),
        errors=[error for cell in cells for error in _errors(cell["outputs"])],
        problems=[*tab.problems(), *news, *tab.page.locator(".jp-Dialog, .Toastify__toast").all_inner_texts()],
        trusted=trusted,
        seconds=round(now - began, 2),
        megabytes=server.megabytes(),
        outside=is_outside_reachable(),
    )
    notebook.close()
    tab.close()
    return made


def _errors(outputs: list[dict[str, Any]]) -> Iterator[str]:
    for output in outputs:
        if output["output_type"] == "error":
            yield f"{output['ename']}: {output['evalue']}"
        elif output["output_type"] == "stream" and output["name"] == "stderr":
            yield from (line for line in "".join(output["text"]).splitlines() if not SLOW.match(line))


def raise_loopback() -> None:
    """Switch the interface ``lo`` on, which is down in a new network namespace; nothing happens where that is not ours to do."""
    get_flags, set_flags, up, name = 0x8913, 0x8914, 0x1, b"lo"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, suppress(OSError):
        _, flags = struct.unpack("16sh", fcntl.ioctl(s, get_flags, struct.pack("16sh", name, 0)))
        fcntl.ioctl(s, set_flags, struct.pack("16sh", name, flags | up))


def is_outside_reachable() -> bool:
    """Whether there is a way to any other host: a datagram socket finds its route and sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))  # an address that is kept for examples
        except OSError:
            return False
    return True


def main() -> None:
    """Visit each notebook."""
    launch = Launch(**json.load(sys.stdin))
    raise_loopback()
    with launched(launch) as server, chromium() as browser:
        visits = [visit(server, browser, path, by_itself=not n) for n, path in enumerate(launch.notebooks)]
    json.dump([dataclasses.asdict(each) for each in visits], sys.stdout)


if __name__ == "__main__":
    main()
