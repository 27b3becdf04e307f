"""Cells that run as a notebook's do: in one namespace called ``__main__``, their lines kept where Python looks for them."""

from __future__ import annotations

import itertools
import linecache
from typing import TYPE_CHECKING, Any

from flyteagent_nb.serving.catalog import AgentEntry
from flyteagent_nb.shipping.cells import Cell, Cells

if TYPE_CHECKING:
    from collections.abc import Sequence

_numbers = itertools.count(1)


class CellRuns:
    """The namespace, and what ran in it."""

    def __init__(self, *sources: str) -> None:
        self.ran: list[Cell] = []
        self.namespace: dict[str, Any] = {"__name__": "__main__", "get_ipython": lambda: None}
        for source in sources:
            self.run(source)

    def run(self, source: str) -> None:
        name = f"<cell run {next(_numbers)}>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        self.ran.append(Cell(source))
        if "run_cell_magic" not in source:
            exec(compile(source, name, "exec", dont_inherit=True), self.namespace)

    @property
    def cells(self) -> Cells:
        return Cells(self.ran)

    def entries(self, *names: str, source: Sequence[str] = ()) -> list[AgentEntry]:
        """Entries of the agents that variables hold."""
        agents = [self.namespace[name] for name in names]
        return [
            AgentEntry(
                a.task_category.name, a.task_category.version, a.name, False, "this notebook", True, "__main__:A", a, 1
            )
            for a in agents
        ]


HEAD = """
import json, math
import os.path as op
from dataclasses import dataclass
from flyteidl.core.execution_pb2 import TaskExecution
from flytekit.extend.backend.base_connector import AsyncConnectorBase as Base, ConnectorRegistry, Resource, ResourceMeta
"""
META = """
@dataclass
class Meta(ResourceMeta):
    job_id: str
"""
AGENT = """
class A(Base):
    name = "A"
    def __init__(self, size: int = 1):
        super().__init__(metadata_type=Meta, task_type_name="a")
        self.size = size
    def create(self, task_template, **kwargs):
        return Meta(str({created}))
    def get(self, resource_meta, **kwargs):
        return Resource(phase=TaskExecution.SUCCEEDED)
    def delete(self, resource_meta, **kwargs):
        pass
a = A(size=3)
"""
