"""``%agent sandbox``: start a stand-in, load its tables, stop it; with the stop button heeded while it starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import ArgumentError, TaskStopped
from flyteagent_nb.notebook.sandbox_views import SandboxList, SandboxView, stopped_view
from flyteagent_nb.notebook.values import input_value
from flyteagent_nb.notebook.waiting import stop_class, stop_guard
from flyteagent_nb.sandbox.files import FORMATS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flyteagent_nb.notebook.arguments import AgentArguments
    from flyteagent_nb.notebook.showing import Showing
    from flyteagent_nb.notebook.views import View
    from flyteagent_nb.workspace import Workspace


def run_sandbox(
    arguments: AgentArguments, workspace: Workspace, showing: Showing, namespace: Mapping[str, Any]
) -> View:
    """Do what the line says.

    Raises:
        ArgumentError: a table's name or value does not do.
        ServiceError: it does not start.
        TaskStopped: the stop button was pressed while it started; nothing of it is left.
    """
    sandboxes, name = workspace.sandboxes, arguments.sandbox
    if arguments.action == "status":
        return SandboxView(sandboxes.status(name)[0]) if name else SandboxList(sandboxes.status())
    if arguments.action == "stop":
        stopped = [s for s in sandboxes.status(name or None) if sandboxes.stop(s.name)]
        return stopped_view(stopped)
    tables = [(table, table_value(text, namespace, table)) for table, text in arguments.tables]
    for table, _ in tables:  # before a server is started for nothing
        sandboxes.check_table(name, table)
    _start(name, workspace, showing)
    for table, value in tables:
        with showing.work(f"Loading {table}", done=f"Table {table}"):
            sandboxes.load(name, table, value)
    return SandboxView(sandboxes.status(name)[0])


def table_value(text: str, namespace: Mapping[str, Any], name: str) -> Any:
    """What a table is made of: a variable's value, or the path of a file, in quotes or not.

    Args:
        text: as written.
        namespace: the user's variables.
        name: the table's name, for the error's hint.

    Raises:
        ArgumentError: it is neither.
    """
    try:
        return input_value(text, namespace, name)
    except ArgumentError:
        path = Path(text)
        if path.is_file():  # orders.csv reads like an attribute
            return text
        first = text.partition(".")[0]
        ending = Path(text.removesuffix(".gz").removesuffix(".zst")).suffix
        if ending.lower() in FORMATS and first not in namespace:
            raise ArgumentError(
                f"there is no file {text} in {Path.cwd()}, and no variable {first}",
                hint="give the path of a CSV, Parquet or JSON file, or a variable that holds a frame",
            ) from None
        raise


def _start(name: str, workspace: Workspace, showing: Showing) -> None:
    sandboxes = workspace.sandboxes
    before = sandboxes.status(name)[0]
    if before.state == "running":
        return
    with (
        showing.work(f"Starting the {before.service} sandbox") as work,
        stop_guard(workspace.config.stop_grace) as guard,
    ):

        def stopped() -> bool:
            showing.page.beat()
            return guard.stops > 0

        try:
            sandboxes.start(name, work.say, stopped=stopped)
        except TaskStopped as stop:
            raise stop_class()(stop.message) from None
        if guard.stops:  # pressed when it had just started
            sandboxes.stop(name)
            raise stop_class()(f"stopped by the user; the {before.service} sandbox was stopped again")
