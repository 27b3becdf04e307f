"""A module with an agent: a job of ``writes`` leaves its outputs as a file under the output prefix, wherever that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flyteidl.core.execution_pb2 import TaskExecution
from flyteidl.core.literals_pb2 import LiteralMap
from flytekit import FlyteContextManager
from flytekit.extend.backend.base_connector import AsyncConnectorBase, ConnectorRegistry, Resource, ResourceMeta


@dataclass
class Place(ResourceMeta):
    prefix: str


class WritingAgent(AsyncConnectorBase):
    name = "Writing Agent"

    def __init__(self) -> None:
        super().__init__(metadata_type=Place, task_type_name="writes")

    def create(self, task_template: Any, output_prefix: str, inputs: Any = None, **kwargs: Any) -> Place:
        outputs = LiteralMap()
        outputs.literals["prefix"].scalar.primitive.string_value = output_prefix
        access = FlyteContextManager.current_context().file_access
        with access.get_filesystem_for_path(output_prefix).open(f"{output_prefix}/outputs.pb", "wb") as file:
            file.write(outputs.SerializeToString())
        return Place(output_prefix)

    def get(self, resource_meta: Place, **kwargs: Any) -> Resource:
        return Resource(phase=TaskExecution.SUCCEEDED)

    def delete(self, resource_meta: Place, **kwargs: Any) -> None:
        pass


ConnectorRegistry.register(WritingAgent(), override=True)
