"""The sandboxes of this process: which stand-ins run, what they have set for this kernel, and how all of it is undone."""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import ServiceError, ServiceNotFoundError, TaskStopped, closest
from flyteagent_nb.sandbox.environments import environment_for
from flyteagent_nb.sandbox.processes import WatchedProcess, free_ports, in_use, never, wait_until
from flyteagent_nb.sandbox.stand_in import Place
from flyteagent_nb.sandbox.variables import Variables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flyteagent_nb.sandbox.environments import Environment
    from flyteagent_nb.sandbox.stand_in import StandIn

STAND_INS = {
    "bigquery": "flyteagent_nb.sandbox.bigquery:BigQueryStandIn",
    "snowflake": "flyteagent_nb.sandbox.snowflake:SnowflakeStandIn",
    "openai": "flyteagent_nb.sandbox.openai:OpenAIStandIn",
}
"""The stand-ins by name: where their classes are."""

START = 60.0
"""Seconds that a server has to answer."""

TRIES = 3
"""How often a server is started where somebody else took its port."""

_LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class SandboxStatus:
    """A sandbox at one moment.

    Attributes:
        name: the word in ``%agent sandbox NAME``.
        service: what it stands in for.
        product: what does it.
        version: its version; an empty string while it does not run.
        state: ``stopped``, ``running``, or ``ended`` where the server ended by itself.
        task_types: the task types whose runs go to it.
        covers: what works on it.
        misses: what it does not do.
        ports: the loopback ports that it listens on.
        is_own: whether it runs in an environment of its own.
        variables: the names of the environment variables that are set for it.
        tables: what was loaded, as a query must write it, with its size.
        since: seconds since the epoch, or None.
        last_words: the end of its log, where it ended by itself.
    """

    name: str
    service: str
    product: str
    version: str
    state: str
    task_types: tuple[str, ...]
    covers: str
    misses: str
    ports: tuple[int, ...] = ()
    is_own: bool = False
    variables: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    since: float | None = None
    last_words: str = ""


class _Running:
    """A stand-in that was started."""

    def __init__(self, stand_in: StandIn, environment: Environment, place: Place, process: WatchedProcess) -> None:
        self.stand_in = stand_in
        self.environment = environment
        self.place = place
        self.process = process
        self.since = time.time()
        self.variables: Mapping[str, str] = {}
        self.tables: dict[str, str] = {}
        self.detach: Callable[[], object] = _nothing


class Sandboxes:
    """The sandboxes of this process. Any thread may call it.

    Args:
        stand_ins: the stand-ins by name: ``module:Class``.
        cache: where environments of their own are kept, instead of the user's cache.
    """

    def __init__(self, stand_ins: Mapping[str, str] = STAND_INS, *, cache: Path | None = None) -> None:
        self._stand_ins = dict(stand_ins)
        self._cache = cache
        self._owner = os.getpid()
        self._locks = {name: threading.RLock() for name in self._stand_ins}
        self._running: dict[str, _Running] = {}
        self._variables = Variables()

    @property
    def names(self) -> tuple[str, ...]:
        """The names that there are."""
        return tuple(self._stand_ins)

    def start(
        self, name: str, say: Callable[[str], object] = lambda text: None, *, stopped: Callable[[], bool] = never
    ) -> SandboxStatus:
        """Start a stand-in, and let the connectors of this process find it. One that runs is left as it is.

        Args:
            name: which.
            say: told what goes on, in a few words.
            stopped: asked some times a second whether to give it up.

        Raises:
            ServiceNotFoundError: there is none of that name.
            ServiceError: its connector is missing, its packages cannot be installed, or it does not start: with its last words.
            TaskStopped: it was given up. Nothing of it is left.
        """
        stand_in = self._stand_in(name)
        with self._locks[name]:
            running = self._running.get(name)
            if running is not None and running.process.exit_code is None:
                return _status(stand_in, running)
            _check_connector(stand_in)
            self.stop(name)
            environment = environment_for(stand_in, say, stopped=stopped, cache=self._cache)
            running = self._launch(stand_in, environment, say, stopped)
            try:
                running.variables = self._with_loopback(stand_in.environment(running.place))
                self._variables.set(name, running.variables)
                running.detach = stand_in.attach(running.place)
                self._running[name] = running
            except BaseException:  # an interrupt too: the environment must be as it was
                self._undo(name, running)
                raise
            return _status(stand_in, running)

    def stop(self, name: str) -> bool:
        """Stop a stand-in, remove its files, and put back what was set for it.

        Returns:
            Whether there was something to stop.

        Raises:
            ServiceNotFoundError: there is none of that name.
        """
        self._stand_in(name)
        with self._locks[name]:
            running = self._running.pop(name, None)
            if running is not None:
                self._undo(name, running)
            return running is not None

    def status(self, name: str | None = None) -> tuple[SandboxStatus, ...]:
        """How they are: that one, or all.

        Raises:
            ServiceNotFoundError: there is none of that name.
        """
        names = self.names if name is None else (name,)
        return tuple(_status(self._stand_in(each), self._running.get(each)) for each in names)

    def check_table(self, name: str, table: str) -> None:
        """Look whether a table of a sandbox may be called so; it need not run.

        Raises:
            ArgumentError: it may not.
            ServiceNotFoundError: there is no such sandbox.
        """
        self._stand_in(name).check_table(table)

    def load(self, name: str, table: str, data: Any) -> str:
        """Make a table in a running sandbox of a DataFrame (pandas, Polars), an Arrow table, or a file's path.

        Returns:
            The table's name as a query must write it, and its size: ``shop.orders, 3 rows``.

        Raises:
            ArgumentError: the name or the data do not do.
            ServiceError: the sandbox does not run.
            ServiceNotFoundError: there is none of that name.
        """
        self._stand_in(name)
        with self._locks[name]:
            running = self._running.get(name)
            if running is None or running.process.exit_code is not None:
                raise ServiceError(
                    f"the {name} sandbox does not run", service=name, hint=f"%agent sandbox {name} start starts it"
                )
            told = running.stand_in.load(table, data, running.place)
            running.tables[table] = told
            return told

    def stand_in_for(self, task_type: str) -> str:
        """What runs of a task type go to while its sandbox is on: ``bqemulator 1.3.0, a stand-in for BigQuery``, else an empty string."""
        for running in list(self._running.values()):
            if task_type in running.stand_in.task_types:
                s = running.stand_in
                ended = (
                    "" if running.process.exit_code is None else f", which has ended (%agent sandbox {s.name} start)"
                )
                return f"{s.product} {running.environment.version}, a stand-in for {s.service}{ended}"
        return ""

    def variables(self) -> tuple[str, ...]:
        """The names of the environment variables that are set for sandboxes now."""
        return self._variables.names() if self._running else ()

    def close(self) -> None:
        """Stop all of them. Idempotent; in a forked child it does nothing."""
        if os.getpid() == self._owner:
            for name in list(self._running):
                self.stop(name)

    # --- inside ---

    def _stand_in(self, name: str) -> StandIn:
        where = self._stand_ins.get(name)
        if where is None:
            near = closest(name, self._stand_ins)
            hint = "" if near else f"there are {', '.join(self._stand_ins)}"
            raise ServiceNotFoundError(f"there is no sandbox {name}", service=name, suggestion=near, hint=hint)
        module, _, attribute = where.partition(":")
        stand_in: StandIn = getattr(importlib.import_module(module), attribute)()
        return stand_in

    def _launch(
        self,
        stand_in: StandIn,
        environment: Environment,
        say: Callable[[str], object],
        stopped: Callable[[], bool],
    ) -> _Running:
        """Start the server and wait until it answers."""
        for tried in range(1, TRIES + 1):
            say(f"starting {stand_in.product} {environment.version}")
            state = Path(tempfile.mkdtemp(prefix="fa-sandbox-"))
            place = Place(free_ports(stand_in.ports), state / "data")
            place.folder.mkdir(mode=0o700)
            process = WatchedProcess(
                stand_in.command(environment.python, place),
                state=state,
                cwd=place.folder,
                environment=environment.variables(),
            )
            try:
                outcome = wait_until(process, partial(stand_in.answers, place), seconds=START, stopped=stopped)
                if outcome == "ready":
                    return _Running(stand_in, environment, place, process)
                words, code = process.tail(), process.exit_code
            except BaseException:  # an interrupt too: no server is left behind
                process.close()
                raise
            process.close()
            if outcome == "stopped":
                raise TaskStopped(f"stopped by the user; the {stand_in.service} sandbox was not started")
            if outcome == "ended" and tried < TRIES and any(in_use(port) for port in place.ports):
                continue
            what = (
                f"ended with exit code {code} at its start" if outcome == "ended" else f"gave no answer in {START:g} s"
            )
            raise ServiceError(
                f"{stand_in.product} {environment.version}, which stands in for {stand_in.service}, {what}"
                + (f"; its last words:\n{words}" if words else ""),
                service=stand_in.name,
                hint=f"it ran in an environment of its own: remove {Path(environment.python).parent.parent} to have it made anew"
                if environment.is_own
                else "it ran on the packages of this environment: pip check tells which do not go together",
            )
        raise AssertionError("unreachable")

    def _with_loopback(self, variables: Mapping[str, str]) -> dict[str, str]:
        """``variables``, and that a proxy, where the user has one, is not asked for what is on this machine."""
        found = dict(variables)
        if any(
            os.environ.get(name) for each in ("http_proxy", "https_proxy", "all_proxy") for name in (each, each.upper())
        ):
            for name in ("no_proxy", "NO_PROXY"):
                before = [host for host in (self._variables.before(name) or "").split(",") if host.strip()]
                found[name] = ",".join([*before, *(host for host in _LOOPBACK if host not in before)])
        return found

    def _undo(self, name: str, running: _Running) -> None:
        with contextlib.ExitStack() as undo:  # each of it, whatever the one before raises
            undo.callback(running.process.close)
            undo.callback(self._variables.put_back, name)
            undo.callback(running.detach)


def _nothing() -> None:
    """What there is to put back where nothing was changed."""


def _check_connector(stand_in: StandIn) -> None:
    try:
        metadata.version(stand_in.connector)
    except metadata.PackageNotFoundError:
        raise ServiceError(
            f"the {stand_in.service} sandbox has nobody to stand in for: {stand_in.connector}, the connector, is not installed",
            service=stand_in.name,
            hint=f"%pip install 'flyteagent_nb[{stand_in.extra}]', then restart the kernel",
        ) from None


def _status(stand_in: StandIn, running: _Running | None) -> SandboxStatus:
    about = {
        field: getattr(stand_in, field) for field in ("name", "service", "product", "task_types", "covers", "misses")
    }
    if running is None:
        return SandboxStatus(**about, version="", state="stopped")
    ended = running.process.exit_code is not None
    return SandboxStatus(
        **about,
        version=running.environment.version,
        state="ended" if ended else "running",
        ports=running.place.ports,
        is_own=running.environment.is_own,
        variables=tuple(running.variables),
        tables=tuple(running.tables.values()),
        since=running.since,
        last_words=running.process.tail() if ended else "",
    )
