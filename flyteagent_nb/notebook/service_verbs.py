"""The verbs about other agent services: connect, disconnect, route, unroute, and which service does which type."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flyteagent_nb import wire
from flyteagent_nb.errors import ArgumentError
from flyteagent_nb.notebook import render
from flyteagent_nb.notebook.panel_words import clock
from flyteagent_nb.notebook.views import Pairs, View
from flyteagent_nb.running.channels import TLS, is_here
from flyteagent_nb.running.propeller_config import OPERATIONS, go_duration, read_propeller_config
from flyteagent_nb.running.routing import REASONS

if TYPE_CHECKING:
    from flyteagent_nb.notebook.arguments import AgentArguments
    from flyteagent_nb.running.routing import Connection, Resolved
    from flyteagent_nb.workspace import Workspace

SERVICE_COLUMNS = ("service", "address", "types", "state")
ROUTE_COLUMNS = ("task type", "version", "kind", "agent", "service", "why")


class ServiceVerbs:
    """What the magics dispatch to."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def connect(self, arguments: AgentArguments) -> View:
        """Connect one service, or those of propeller's configuration; list them without either."""
        connections = self._workspace.connections
        if arguments.source:
            if arguments.service_name or arguments.address:
                raise ArgumentError("--from names the services itself", hint="leave NAME and ADDRESS out")
            for option, given in (("--token-file", arguments.token_file), ("--deadline", arguments.deadline)):
                if given:
                    raise ArgumentError(
                        f"{option} is for one service, and --from connects those of a configuration",
                        hint="timeouts stand in the file, and propeller sends no token; "
                        f"%agent connect NAME ADDRESS {option} ... connects one by itself",
                    )
            config = read_propeller_config(_text_of(arguments.source), arguments.source)
            made = connections.connect_all(config, _tls(arguments), outputs=arguments.output_prefix)
            for unknown in config.unknown:
                self._workspace.notice(f"note: {arguments.source}, {unknown} is not known here, and does nothing")
        elif arguments.service_name and arguments.address:
            token = _token(arguments.token_file) if arguments.token_file else None
            if token is not None:
                self._workspace.masking.add(token)
            made = [
                connections.connect(
                    arguments.service_name,
                    arguments.address,
                    tls=_tls(arguments),
                    token=token,
                    deadlines=dict(_deadline(*each) for each in arguments.deadline),
                    outputs=arguments.output_prefix,
                )
            ]
        elif not arguments.service_name:
            self._workspace.connections.table()  # each is asked: what is shown is so now
            return ServiceList(self._workspace.runner.router.connections())
        else:
            raise ArgumentError(
                f"connect {arguments.service_name} needs an address", hint="%agent connect NAME HOST:PORT"
            )
        for each in made:
            if not arguments.output_prefix and not is_here(each.target):
                self._workspace.notice(
                    f"note: '{each.name}' is on another machine, and cannot write into a folder of this one: where its agents leave "
                    "outputs as files, --outputs s3://... (or gs://...) names a place that both reach"
                )
        return ServiceList(made)

    def disconnect(self, arguments: AgentArguments) -> View:
        """Take a service away."""
        if arguments.service_name == wire.KERNEL_SERVICE:
            raise ArgumentError(
                f"{wire.KERNEL_SERVICE} is this notebook's own service, and stays",
                hint="%unload_ext flyteagent_nb ends it",
            )
        self._workspace.connections.disconnect(arguments.service_name)
        return Pairs([("disconnected", arguments.service_name)])

    def route(self, arguments: AgentArguments) -> View:
        """Send a task type to a service, whoever lists it."""
        self._workspace.connections.route(arguments.task_type, arguments.version, arguments.service_name)
        return Pairs([("route", f"{_named(arguments)} goes to {arguments.service_name}")])

    def unroute(self, arguments: AgentArguments) -> View:
        """Let propeller's rules choose again."""
        self._workspace.connections.route(arguments.task_type, arguments.version, None)
        return Pairs([("route", f"{_named(arguments)} goes where the listings say")])

    def table(self) -> View | None:
        """The service of each type, and why; None where there is this notebook's own service only."""
        if len(self._workspace.runner.router.connections()) == 1:
            return None
        return RouteList(self._workspace.connections.table())


class ServiceList(list["Connection"], View):
    """Connected services, as they are now."""

    def text(self) -> str:
        """The table."""
        return render.table_text(SERVICE_COLUMNS, self._rows(), "no services")

    def html(self) -> str:
        """The table."""
        colours = [{3: render.RED if each.trouble else render.GREEN} for each in self]
        return render.table_html(SERVICE_COLUMNS, self._rows(), "no services", colours)

    def _rows(self) -> list[tuple[str, ...]]:
        now = time.time()
        rows: list[tuple[str, ...]] = []
        for each in self:
            state = ("✓ serves" if each.types else "✓ answers, and lists no types") + (
                ", takes what nobody else does" if each.is_default else ""
            )
            if each.trouble:
                since = f" since {clock(each.unreachable, now, '%H:%M:%S')}" if each.unreachable else ""
                state = f"✗ unreachable{since}: {each.trouble}"
            rows.append((each.name, each.target, str(each.types), state))
        return rows

    __repr__ = View.__repr__


class RouteList(dict[tuple[str, int], "Resolved"], View):
    """Where each task type and version goes."""

    def text(self) -> str:
        """The table."""
        return render.table_text(ROUTE_COLUMNS, self._rows(), "no agents")

    def html(self) -> str:
        """The table."""
        return render.table_html(ROUTE_COLUMNS, self._rows(), "no agents")

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (name, str(version), "sync" if r.is_sync else "async", r.agent, r.service.name, REASONS[r.reason])
            for (name, version), r in self.items()
        ]

    __repr__ = View.__repr__


def _named(arguments: AgentArguments) -> str:
    return arguments.task_type + (f"@{arguments.version}" if arguments.version is not None else "")


def _tls(arguments: AgentArguments) -> TLS | None:
    if not (arguments.tls or arguments.authorities or arguments.certificate or arguments.key):
        return None
    return TLS(arguments.authorities, arguments.certificate, arguments.key)


def _text_of(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _token(path: str) -> str:
    token = _text_of(path).removeprefix("\ufeff").strip()
    if not token:
        raise ArgumentError(f"{path} is empty", hint="it has to hold the token and nothing else")
    if os.name == "posix" and stat.S_IMODE(Path(path).expanduser().stat().st_mode) & 0o077:
        raise ArgumentError(f"others can read {path}, which holds a token", hint=f"chmod 600 {path}")
    if not token.isascii() or not token.isprintable():
        what = "several lines" if "\n" in token else "a character that no token has"
        raise ArgumentError(f"{path} has {what}", hint="it has to hold the token and nothing else")
    return wire.Token(token)


def _deadline(operation: str, text: str) -> tuple[str, float]:
    name = next((each for each in OPERATIONS if each.lower() == operation.lower()), None)
    if name is None:
        raise ArgumentError(
            f"--deadline {operation}: there is no such operation", hint=f"one of {', '.join(OPERATIONS[:5])}"
        )
    try:
        return name, go_duration(text.strip("'\""))
    except ValueError as error:
        raise ArgumentError(f"--deadline {operation}: {error}") from None
