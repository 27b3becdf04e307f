"""A real JupyterLab and Notebook 7 in a headless Chromium, driven as a person does: run a cell, click, type, save, look.

One server serves both, on loopback with a token of its own; whatever else a page asks for is refused and noted.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import nbformat
from jupyter_client.blocking import BlockingKernelClient
from kernel.harness import LOAD, SCRIPTED
from python_path import ROOT, python_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from playwright.sync_api import BrowserContext, Locator, Page

LIMIT = 60.0
"""Seconds that anything on a page may take: only a bug takes them."""

CHROMIUM_ARGUMENTS = (
    "--no-sandbox",  # it does not work in a container, and nothing but loopback is shown
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

SETTINGS: dict[str, dict[str, Any]] = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is on the page, and can be looked at
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "docmanager-extension/plugin": {"autosave": False},  # the tests say when
}

THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}

NOT_OURS = re.compile(
    # Notebook 7.6 at each start; and what a front end says of the message that a kernel was sending when it was ended.
    r"Cannot read properties of undefined \(reading 'schema'\)|Kernel message validation error: Unexpected token"
    r"|Command 'filebrowser:open-path' not registered"  # the same, after JupyterLab was open in the same browser
    r"|\"stream.stderr\" is not valid JSON"  # the server, which replays what a kernel said while it was restarted
    r"|Canceled future for create_subshell_request"  # JupyterLab, whose kernel is restarted
    r"|Window name candidate \"null\" already exists"  # JupyterLab, where several pages are open
)

DEAD_WIDGET = re.compile(r"Error (displaying|creating) widget|Loading widget")


def find_chromium() -> str | None:
    """The browser: what the variable CHROMIUM names, or where Debian and Google put it."""
    named = os.environ.get("CHROMIUM")
    found = (shutil.which(name) for name in ([named] if named else ["chromium", "chromium-browser", "google-chrome"]))
    return next((path for path in found if path), None)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Server:
    """A Jupyter server with JupyterLab and Notebook 7. Use it in a ``with`` statement.

    Args:
        folder: an empty folder for its settings, its log and the notebooks.
        kernels: interpreters by the name of the kernel that is made of each.

    Attributes:
        root: where the notebooks are.
        base: its address.
    """

    def __init__(self, folder: Path, kernels: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self.root = folder / "root"
        self.root.mkdir()
        for name, value in SETTINGS.items():
            file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(value))
        for name, python in {"here": sys.executable, **(kernels or {})}.items():
            spec = folder / "data" / "kernels" / name
            spec.mkdir(parents=True)
            argv = [python, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            (spec / "kernel.json").write_text(
                json.dumps({"argv": argv, "display_name": name, "language": "python", "metadata": {"debugger": False}})
            )
        self.base = f"http://127.0.0.1:{_free_port()}"
        self.token = secrets.token_hex(16)
        self._log_path = folder / "server.log"
        self._clients: list[BlockingKernelClient] = []

    def __enter__(self) -> Server:
        folder = self._folder
        env = {
            **os.environ,
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            "PYTHONPATH": python_path(ROOT),
        }
        env.pop("GRPC_ENABLE_FORK_SUPPORT", None)  # conftest.py sets it; a person has not
        command = [
            *(sys.executable, "-m", "jupyter_server"),
            *("--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={self.base.rpartition(':')[2]}"),
            *(
                "--ServerApp.port_retries=0",
                f"--IdentityProvider.token={self.token}",
                f"--ServerApp.root_dir={self.root}",
            ),
            *("--LabApp.expose_app_in_browser=True", "--JupyterNotebookApp.expose_app_in_browser=True"),
            "--LabApp.extension_manager=readonly",
            "--ServerApp.jpserver_extensions={'jupyterlab': True, 'notebook': True}",
        ]
        self._log = self._log_path.open("wb")
        self._process = subprocess.Popen(
            command, env=env, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )
        until = time.monotonic() + LIMIT
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(OSError):
                self.ask("status")
                return self
            time.sleep(0.1)
        self.__exit__()
        raise RuntimeError(f"the server did not start:\n{self._log_path.read_text()[-3000:]}")

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.stop_channels()
        self._process.send_signal(signal.SIGTERM)  # it ends its kernels first
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def ask(self, what: str, method: str = "GET", content: Any = None) -> Any:
        """An answer of its REST interface."""
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        sent = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.base}/api/{what}", method=method, headers=headers, data=sent)
        with urllib.request.urlopen(request, timeout=LIMIT) as reply:
            body = reply.read()
        return json.loads(body) if body else None

    def warm_kernel(self, name: str = "here") -> str:
        """Start a kernel that no notebook has, and let it load what :func:`prepare` loads; that is not waited for.

        Returns:
            Its id, for :func:`open_on`.
        """
        kernel_id = str(self.ask("kernels", "POST", {"name": name})["id"])
        file = self._folder / "runtime" / f"kernel-{kernel_id}.json"
        client = BlockingKernelClient(connection_file=str(file))
        client.load_connection_file()
        client.start_channels()
        self._clients.append(client)
        for code in (LOAD, SCRIPTED + TASKS):
            client.execute(code)
        return kernel_id

    def give(self, name: str, kernel_id: str) -> None:
        """Let a notebook have a kernel that runs already, when it is opened: several may have the same."""
        content = {"path": name, "name": name, "type": "notebook", "kernel": {"id": kernel_id}}
        self.ask("sessions", "POST", content)

    def end_kernels(self) -> None:
        """Shut all kernels down."""
        for kernel in self.ask("kernels"):
            self.ask(f"kernels/{kernel['id']}", "DELETE")


def new_notebook(path: Path, *sources: str, kernel: str = "here") -> None:
    """Write a notebook. With ``kernel=""`` it opens without one."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    if kernel:
        notebook.metadata = {"kernelspec": {"display_name": kernel, "language": "python", "name": kernel}}
    nbformat.write(notebook, path)


PANEL = """path => {
  const app = window.jupyterapp, all = [...app.shell.widgets('main')].filter(w => w.content && w.content.widgets);
  return all.find(w => w.context && w.context.path === path);
}"""
"""JavaScript: the widget of an open notebook."""


class Tab:
    """A page of the browser with JupyterLab or Notebook 7 in it, and what went wrong there.

    Attributes:
        page: Playwright's.
        console: its errors.
        offsite: what was asked of anything but the server.
    """

    def __init__(self, context: BrowserContext, server: Server, app: str = "lab") -> None:
        self.server, self.app = server, app
        self.console: list[str] = []
        self.offsite: list[str] = []
        self.page: Page = context.new_page()
        self.page.set_default_timeout(LIMIT * 1000)
        self.page.on("request", self._requested)
        self.page.on(
            "console", lambda m: self.console.append(f"{m.text} ({m.location})") if m.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.console.append(f"page error: {error}"))

    def _requested(self, request: Any) -> None:
        local = self.server.base.replace("http", "ws", 1), self.server.base, "data:", "blob:"
        if not request.url.startswith(local):
            self.offsite.append(request.url)

    def open(self, name: str, *, kernel: bool = True) -> Notebook:
        """Open a notebook of the server's root as the page's own."""
        place = "doc/tree" if self.app == "lab" else "notebooks"
        reset = "&reset" if self.app == "lab" else ""
        self.page.goto(f"{self.server.base}/{place}/{name}?token={self.server.token}{reset}")
        return self._opened(name, kernel)

    def open_beside(self, name: str, *, kernel: bool = True) -> Notebook:
        """Open another notebook in the same JupyterLab."""
        self.page.evaluate("() => { window.jupyterapp.shell.mode = 'multiple-document'; }")
        self.command("docmanager:open", {"path": name, "factory": "Notebook", "options": {"mode": "split-right"}})
        return self._opened(name, kernel)

    def _opened(self, name: str, kernel: bool) -> Notebook:
        self.page.wait_for_function(f"path => window.jupyterapp && ({PANEL})(path)", arg=name)
        notebook = Notebook(self, name)
        notebook.evaluate("async panel => { await panel.context.ready; await panel.revealed; }")
        if kernel:
            notebook.wait_idle()
        return notebook

    def command(self, name: str, arguments: Mapping[str, Any] | None = None) -> None:
        """A command of the application, as its menus run it, waited for."""
        self.page.evaluate(
            "([n, a]) => window.jupyterapp.commands.execute(n, a).then(() => null)", [name, dict(arguments or {})]
        )

    def theme(self, name: str) -> None:
        """Switch to ``light`` or ``dark``."""
        self.command("apputils:change-theme", {"theme": THEMES[name]})
        self.page.wait_for_function("n => document.body.dataset.jpThemeName === n", arg=THEMES[name])

    def problems(self) -> list[str]:
        """What a page must not have: errors in its console, requests off loopback, dead widgets."""
        found = [f"console: {text}" for text in self.console if not NOT_OURS.search(text)]
        found += [f"request off loopback: {url}" for url in self.offsite]
        shown = DEAD_WIDGET.search(self.page.locator("body").inner_text())
        return found + ([f"on the page: {shown[0]}"] if shown else [])

    def close(self) -> None:
        """Close it; kernels go on."""
        self.page.close()


class Notebook:
    """One open notebook."""

    def __init__(self, tab: Tab, name: str) -> None:
        self.tab, self.name = tab, name
        self.page = tab.page
        self.path = tab.server.root / name
        self.root = tab.page.locator(f"#{self.evaluate('panel => panel.id')}")
        self.cells = self.root.locator(".jp-Notebook .jp-CodeCell")

    def evaluate(self, script: str, argument: Any = None) -> Any:
        """Run JavaScript, ``(panel, argument) => ...``."""
        return self.page.evaluate(f"([path, argument]) => ({script})(({PANEL})(path), argument)", [self.name, argument])

    def wait_idle(self) -> None:
        """Wait until the kernel is there and no cell runs or waits."""
        self.page.wait_for_function(
            f"""path => {{ const panel = ({PANEL})(path), kernel = panel.sessionContext.session?.kernel;
            return kernel?.status === 'idle' && kernel.connectionStatus === 'connected'
              && panel.content.widgets.every(c => c.model.type !== 'code' || c.model.executionState !== 'running'); }}""",
            arg=self.name,
        )

    def activate(self) -> None:
        """Make it the one that commands and keys go to."""
        self.evaluate("panel => window.jupyterapp.shell.activateById(panel.id)")
        self.page.wait_for_function(f"path => window.jupyterapp.shell.currentWidget === ({PANEL})(path)", arg=self.name)

    # --- cells ---

    def clear(self) -> None:
        """Take all cells away."""
        self.evaluate(
            "panel => { const m = panel.content.model.sharedModel; m.deleteCellRange(0, m.cells.length);"
            " m.insertCell(0, {cell_type: 'code', source: ''}); }"
        )

    def start(self, code: str) -> Cell:
        """Add a cell at the end and run it as the toolbar does; its end is not waited for."""
        self.activate()
        number = self.evaluate(
            """(panel, source) => { const nb = panel.content, m = nb.model.sharedModel, n = m.cells.length;
            m.insertCell(n, {cell_type: 'code', source}); nb.deselectAll(); nb.activeCellIndex = n;
            void window.jupyterapp.commands.execute('notebook:run-cell'); return n; }""",
            code,
        )
        cell = Cell(self, number)
        self.page.wait_for_function(
            f"([path, n]) => /\\d|\\*/.test(({PANEL})(path).content.widgets[n].node.querySelector('.jp-InputPrompt').innerText)",
            arg=[self.name, number],
        )
        return cell

    def run(self, code: str) -> Cell:
        """Add a cell, run it and wait for its end."""
        return self.start(code).ended()

    def ok(self, code: str) -> Cell:
        """The same; it must not fail."""
        cell = self.run(code)
        assert not cell.error, cell.error
        return cell

    def value(self, expression: str) -> str:
        """The value of an expression in the kernel as ``repr`` shows it; waits for the kernel."""
        reply = self.evaluate(
            """async (panel, x) => { const f = panel.sessionContext.session.kernel.requestExecute(
            {code: '', silent: true, user_expressions: {x}, stop_on_error: false}); return (await f.done).content; }""",
            expression,
        )["user_expressions"]["x"]
        assert reply["status"] == "ok", reply
        return str(reply["data"]["text/plain"])

    def set(self, name: str, expression: str) -> None:
        """Bind a variable in the kernel, without a cell."""
        self.value(f"globals().__setitem__({name!r}, {expression})")

    # --- what else a person does ---

    def stop(self) -> None:
        """Click the toolbar's stop button."""
        self.root.locator("[data-jp-item-name='interrupt'] :is(jp-button, button)").first.click()

    def save(self) -> dict[str, Any]:
        """Save it through the application's command, and read the file."""
        self.activate()
        self.tab.command("docmanager:save")
        saved: dict[str, Any] = json.loads(self.path.read_text())
        return saved

    def close(self) -> None:
        """End its kernel."""
        self.evaluate("panel => panel.sessionContext.shutdown()")


class Cell:
    """One code cell."""

    def __init__(self, notebook: Notebook, number: int) -> None:
        self.notebook, self.number = notebook, number
        self.root: Locator = notebook.root.locator(".jp-Notebook .jp-Cell").nth(number)
        self.output: Locator = self.root.locator(".jp-OutputArea").first
        self.html: Locator = self.output.locator(".jp-RenderedHTML")
        self.blocks: Locator = self.output.locator("[data-fa-block]")

    @property
    def busy(self) -> bool:
        """Whether it runs or waits to."""
        return "*" in self.root.locator(".jp-InputPrompt").inner_text()

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """Its outputs as the notebook would save them."""
        found: list[dict[str, Any]] = self.notebook.evaluate(
            "(panel, n) => panel.content.widgets[n].model.outputs.toJSON()", self.number
        )
        return found

    @property
    def error(self) -> str:
        """The error that it ended with, or an empty string."""
        return next((f"{o['ename']}: {o['evalue']}" for o in self.outputs if o["output_type"] == "error"), "")

    @property
    def text(self) -> str:
        """What a person reads under it."""
        return self.output.inner_text()

    def ended(self) -> Cell:
        """Wait for its end."""
        self.notebook.page.wait_for_function(
            f"([path, n]) => /\\d/.test(({PANEL})(path).content.widgets[n].node.querySelector('.jp-InputPrompt').innerText)",
            arg=[self.notebook.name, self.number],
        )
        self.notebook.wait_idle()
        return self

    def shows(self, text: str, *, limit: float = LIMIT) -> Cell:
        """Wait until ``text`` stands under it."""
        self.output.get_by_text(text).locator("visible=true").first.wait_for(timeout=limit * 1000)
        return self

    def button(self, name: str) -> Locator:
        """A button under it that a person can see, by its accessible name or a part of it."""
        return self.output.get_by_role("button", name=name)


TASKS = """
LONG = dict(phases=["RUNNING", "SUCCEEDED"], seconds=300.0)
slow = scripted_task(inputs={"a": int}, name="slow", message="stage 2 of 4", links={"Console": "https://example.com/x"},
                     prints={"create": "submitted job 17"}, **LONG)
from flytekit import workflow

@workflow
def flow(a: int):
    slow(a=a)
    slow(a=a)

def job_of(seconds, **more):
    task = scripted_task(inputs={"a": int}, outputs={"o": str}, name="job", message="stage 2 of 4", prints={"get": "looked"},
                         links={"Console": "https://example.com/x"}, phases=["RUNNING", "SUCCEEDED"], seconds=seconds, **more)
    task.script["outputs"] = {"o": "seven"}
    return task
"""
"""A cell: a task that goes on until it is stopped, a workflow of it, and tasks that take some seconds."""


RESET = """(lambda runs: ([run.cancel() for run in runs], [run.exception(30) for run in runs],
[each.clear() for each in (scripted.jobs, scripted.calls)]) and None)([run for run in
__import__('flyteagent_nb').get_workspace().runner.runs() if not run.done])"""
"""An expression: ends all runs, and lets the scripted agents forget what was asked of them."""


def open_on(tab: Tab, name: str, kernel_id: str, *, kernel: str = "here") -> Notebook:
    """Open a new notebook on a warm kernel (:meth:`Server.warm_kernel`), with nothing under way."""
    new_notebook(tab.server.root / name, "", kernel=kernel)
    tab.server.give(name, kernel_id)
    notebook = tab.open(name)
    notebook.value(RESET)  # it waits for what is being loaded; and fails where that has failed
    return notebook


def prepare(notebook: Notebook) -> None:
    """Load the extension, the scripted agents and their tasks."""
    notebook.ok(LOAD)
    notebook.ok(SCRIPTED + TASKS)


@contextlib.contextmanager
def chromium(scale: float = 1.0) -> Iterator[BrowserContext]:
    """A headless browser with a profile of its own, which keeps what a page has loaded and compiled. ``scale`` is pixels by CSS pixel."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=find_chromium(),
            headless=True,
            args=list(CHROMIUM_ARGUMENTS),
            viewport={"width": 1300, "height": 900},
            device_scale_factor=scale,
        )
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        try:
            yield context
        finally:
            context.close()
