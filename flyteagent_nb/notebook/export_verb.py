"""``%agent export``: which agents, where to, and how it is told what was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import TaskStopped
from flyteagent_nb.notebook import render
from flyteagent_nb.notebook.doctor import Diagnosis
from flyteagent_nb.notebook.views import View
from flyteagent_nb.shipping.export import Export, export

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flyteagent_nb.findings import Finding
    from flyteagent_nb.notebook.arguments import AgentArguments
    from flyteagent_nb.notebook.showing import Showing
    from flyteagent_nb.shipping.cells import Cell
    from flyteagent_nb.workspace import Workspace


class Exported(View):
    """What was written, and what a person should know of it.

    Attributes:
        folder: where it is.
        module: the module's name.
        files: the files, by their names in the folder.
        types: the task types and versions that it serves.
        findings: what could not be taken along, and what will differ.
    """

    def __init__(self, made: Export) -> None:
        self.folder = made.folder
        self.module = made.module
        self.files = made.files
        self.types = made.types
        self.findings: list[Finding] = list(made.findings)
        types = ", ".join(f"{name}@{version}" if version else name for name, version in made.types)
        self._rows = [
            ("written", str(made.folder)),
            ("serves", types),
            ("image", made.image),
            ("files", ", ".join(made.files)),
            ("go on", f"{made.folder / 'README.md'} has the commands"),
        ]

    def text(self) -> str:
        """What was written, and the findings below."""
        return f"{render.pairs_text(self._rows)}\n\n{Diagnosis(self.findings).text()}"

    def html(self) -> str:
        """The same."""
        return render.pairs_html(self._rows) + Diagnosis(self.findings).html()


def run_export(
    arguments: AgentArguments,
    workspace: Workspace,
    showing: Showing,
    namespace: Mapping[str, Any],
    cells: Sequence[Cell],
) -> Exported:
    """Do what the line says.

    Raises:
        ArgumentError: no image or no namespace can have that name.
        ExportError: there is no agent to export, or the folder holds something else.
        TaskTypeNotFoundError: no agent here serves one of the types.
        TaskStopped: the stop button.
    """
    types = [name for text in arguments.types for name in text.split(",") if name]
    try:
        with showing.work(f"Exporting to {arguments.folder}", done=f"Export to {arguments.folder}"):
            return Exported(
                export(
                    workspace, Path(arguments.folder), types=types, image=arguments.image, namespace=arguments.namespace,
                    cells=cells, variables=namespace,
                )
            )  # fmt: skip
    except KeyboardInterrupt:
        raise TaskStopped(f"the export to {arguments.folder} was stopped before anything was put there") from None
