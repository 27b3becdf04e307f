"""``%agent doctor``: looks at all that a run needs, and tells what is wrong and the command that mends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
import tempfile
import textwrap
import time
from typing import TYPE_CHECKING

from flyteagent_nb import wire
from flyteagent_nb.errors import FlyteAgentNBError
from flyteagent_nb.findings import Finding
from flyteagent_nb.loop import get_loop_thread
from flyteagent_nb.notebook import render
from flyteagent_nb.notebook.environment import SIGNS, environment_findings
from flyteagent_nb.notebook.requirements import plugin_findings, summary_of, type_findings
from flyteagent_nb.notebook.views import View

if TYPE_CHECKING:
    from flyteagent_nb.notebook.page import Page
    from flyteagent_nb.serving.host import Address
    from flyteagent_nb.workspace import Workspace

HEALTH_WAIT = 3.0
"""Seconds that the agent service has to answer."""

SLOW = 0.25
"""Seconds from which on its answer is called slow."""

LITTLE = 256 * 1024 * 1024
"""Bytes of free space that are too few to feel well with."""

WIDTH = 110
"""Columns of its text."""

_COLUMNS = ("", "what", "found", "what mends it")


class Diagnosis(list[Finding], View):
    """What was found: a list that shows itself as a table, what is bad first told in a line."""

    @property
    def bad(self) -> list[Finding]:
        """What does not work."""
        return [finding for finding in self if finding.sign == "bad"]

    @property
    def warnings(self) -> list[Finding]:
        """What may matter."""
        return [finding for finding in self if finding.sign == "warn"]

    def summary(self) -> str:
        """How it is, in a line."""
        bad, warnings = len(self.bad), len(self.warnings)
        if not bad and not warnings:
            return "all is well"
        parts = [f"{bad} problem{'s' if bad > 1 else ''}"] if bad else []
        parts += [f"{warnings} thing{'s' if warnings > 1 else ''} to know"] if warnings else []
        return ", ".join(parts)

    def text(self) -> str:
        """A line for each finding, and what mends it below."""
        width = max((len(finding.what) for finding in self), default=0)
        lines = [self.summary()]
        for finding in self:
            lead = f"{SIGNS[finding.sign][0]} {finding.what.ljust(width)}  "
            indent = " " * len(lead)
            lines += textwrap.wrap(
                finding.told,
                WIDTH,
                initial_indent=lead,
                subsequent_indent=indent,
                break_on_hyphens=False,
                break_long_words=False,
            )
            if finding.mend:  # in one line, to be copied
                lines.append(f"{indent}→ {finding.mend}")
        return "\n".join(lines)

    def html(self) -> str:
        """A table."""
        rows = [(SIGNS[f.sign][0], f.what, f.told, f.mend) for f in self]
        colours = [{0: SIGNS[f.sign][1]} for f in self]
        return f"<div><b>{render.escape(self.summary())}</b></div>" + render.table_html(
            _COLUMNS, rows, "nothing", colours
        )

    __repr__ = View.__repr__


def examine(workspace: Workspace, page: Page, task_type: str = "") -> Diagnosis:
    """Look at everything, or at one task type."""
    service = service_findings(workspace)
    if task_type:
        return Diagnosis([*(f for f in service if f.sign == "bad"), *type_findings(workspace, task_type)])
    types = [summary_of(entry, workspace.secrets.names) for entry in workspace.catalog.entries()]
    return Diagnosis([*environment_findings(), *service, *page_findings(page), *plugin_findings(workspace), *types])


# --- the service ---


def service_findings(workspace: Workspace) -> list[Finding]:
    """The agent service, its socket, the run folder, the journal and the loop."""
    blocked = workspace.blocked_by()
    if blocked is not None:
        agent, operation, seconds = blocked
        told = (
            f"agent '{agent}' has kept the event loop busy for {render.seconds(seconds)} in its `async def {operation}`"
        )
        mend = "await instead, or make it a plain `def`; restarting the kernel ends it"
        return [Finding("bad", "loop", told, mend)]
    try:
        workspace.wait()
    except FlyteAgentNBError as error:
        return [Finding("bad", "service", error.message, error.hint)]
    found = [answering(address) for address in workspace.addresses()]
    found += [privacy(address) for address in workspace.addresses()]
    runner = workspace.runner
    found += [
        Finding("warn", "service", f"'{each.name}' at {each.target} does not answer: {each.trouble}",
                f"%agent connect {each.name} ADDRESS connects it anew, %agent disconnect {each.name} takes it away")
        for each in runner.router.connections()
        if each.trouble
    ]  # fmt: skip
    found.append(folder(str(runner.storage.root)))
    journal = type(runner.journal).__name__
    if trouble := getattr(runner.journal, "trouble", ""):
        told = f"{trouble}; what runs is kept in memory, and forgotten when the kernel ends"
        found.append(
            Finding("warn", "journal", told, "make room, or set FLYTEAGENT_NB_DATA_FOLDER before the kernel starts")
        )
    elif journal == "MemoryJournal":
        found.append(Finding("ok", "journal", "in memory: runs are forgotten when the kernel ends"))
    else:
        found.append(Finding("ok", "journal", journal))
    shelf = getattr(runner.journal, "shelf", None)
    places = {str(runner.storage.root), *([str(shelf.folder)] if shelf is not None else [])}
    return found + [finding for place in sorted(places) for finding in writers(place)]


def answering(address: Address) -> Finding:
    """Whether the service is healthy at an address, asked as a client would."""
    try:
        seconds = _shake(address) if address.certificate else get_loop_thread().run(_ask(address), HEALTH_WAIT)
    except TimeoutError:
        return Finding(
            "bad", "service", f"{address.target} does not answer within {HEALTH_WAIT:g} s", "%reload_ext flyteagent_nb"
        )
    except Exception as error:  # gRPC's own, of many kinds: each means that the service does not answer
        details = error.details() if hasattr(error, "details") else str(error)
        return Finding("bad", "service", f"{address.target} does not answer: {details}", "%reload_ext flyteagent_nb")
    told = f"{address.target} answers in {seconds * 1e3:.1f} ms"
    if seconds > SLOW:
        return Finding("warn", "service", f"{told}, which is slow: the machine is busy, or an agent blocks the loop")
    return Finding("ok", "service", told)


def _shake(address: Address) -> float:
    """Seconds of a TLS handshake. Whether the certificate is good for a name is the caller's to say: it need not be of this machine."""
    import socket
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host = address.target.rpartition(":")[0].strip("[]")
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    began = time.perf_counter()
    with socket.create_connection((local, address.port or 0), HEALTH_WAIT) as plain, context.wrap_socket(plain):
        return time.perf_counter() - began


async def _ask(address: Address) -> float:
    """Seconds of a health check on a warm channel."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    metadata = (wire.token_metadata(address.token),) if address.token else ()
    gate = get_loop_thread().gate
    async with contextlib.AsyncExitStack() as stack:
        if gate is not None:
            await stack.enter_async_context(gate.call())
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address.target, options=wire.OPTIONS))
        check = health_pb2_grpc.HealthStub(channel).Check
        began = 0.0
        for _ in range(2):  # the first one connects
            began = time.perf_counter()
            reply = await check(health_pb2.HealthCheckRequest(), timeout=HEALTH_WAIT, metadata=metadata)
        seconds = time.perf_counter() - began
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise RuntimeError(f"its health is {health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)}")
    return seconds


def privacy(address: Address) -> Finding:
    """Who can reach an address."""
    if address.kind == "open":
        told = f"{address.target} asks nobody for a token: whoever reaches it can run code in this kernel"
        return Finding("warn", "address", told, f"%agent stop {address.target}")
    if not address.target.startswith("unix:"):
        if not address.certificate and not address.target.startswith(("127.", "[::1]", "localhost:")):
            told = (
                f"{address.target} asks for its token, which travels in plain text: whoever is on the way can read it"
            )
            return Finding("warn", "address", told, "%agent serve --cert FILE --key FILE")
        return Finding(
            "ok", "address", f"{address.target} asks for its token{', over TLS' if address.certificate else ''}"
        )
    path = address.target.removeprefix("unix:")
    holder = os.path.dirname(path)
    try:
        mode = stat.S_IMODE(os.stat(holder).st_mode)
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError as error:
        return Finding("bad", "socket", f"{path} is gone: {error.strerror}", "%reload_ext flyteagent_nb")
    if not is_socket or mode & 0o077:
        told = f"the folder of {path} has mode {mode:04o}: others of this machine may reach the service"
        return Finding("bad", "socket", told, f"import os; os.chmod({holder!r}, 0o700)")
    return Finding("ok", "socket", f"{path}, in a folder of mode {mode:04o}")


def folder(path: str) -> Finding:
    """Whether runs have room for their inputs and outputs."""
    setting = "FlyteAgentNB.run_folder (or FLYTEAGENT_NB_RUN_FOLDER), then %reload_ext flyteagent_nb"
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
        free = shutil.disk_usage(path).free
    except OSError as error:
        return Finding("bad", "run folder", f"{path} cannot be written to: {error.strerror}", setting)
    told = f"{path}, {free / 1e9:.1f} GB free"
    return Finding("warn", "run folder", told, setting) if free < LITTLE else Finding("ok", "run folder", told)


def writers(path: str) -> list[Finding]:
    """Whether others of this machine may write into a folder of ours; nothing where they may not."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError:  # not made yet, or told elsewhere
        return []
    if os.name != "posix" or not mode & 0o022:
        return []
    told = (
        f"others of this machine may write into {path} (mode {mode:04o}), and put what they like in the place of ours"
    )
    return [Finding("warn", "folder", told, f"import os; os.chmod({path!r}, 0o700)")]


def page_findings(page: Page) -> list[Finding]:
    """The page that shows the notebook, and the kernel's own loop."""
    if not page.in_kernel:
        found = Finding("ok", "page", "a terminal: runs show themselves as text")
    elif page.connected:
        found = Finding("ok", "page", "connected: live views have buttons that act")
    elif page.kernel:
        told = "has not answered: views are live, but for their buttons (nobody has the notebook open, or it runs no widgets)"
        found = Finding("warn", "page", told, "pip install anywidget where the server runs, and reload the page")
    else:
        found = Finding("ok", "page", "not asked yet: the first live view asks it")
    nested = hasattr(_loop_here(), "_nest_patched")
    told = (
        "work: the kernel's loop is patched"
        if nested
        else "not asked for; %agent nest lets cells run loops of their own"
    )
    return [found, Finding("ok", "nested loops", told)]


def _loop_here() -> object:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
