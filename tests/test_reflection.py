"""Any gRPC client can drive our service by what reflection tells of it, as grpcurl does: list, describe, and call, with no stubs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from flyteagent_nb import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripted_tasks import Agents

    from flyteagent_nb.serving.host import Address
    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)

ASYNC = "flyteidl.service.AsyncAgentService"


class _Token(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):  # type: ignore[misc]
    """Sends a token with each call."""

    def __init__(self, token: str) -> None:
        self._metadata = [wire.token_metadata(token)]

    def _with(self, details: Any) -> Any:
        return details._replace(metadata=self._metadata)

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._with(details), request)

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(self._with(details), requests)


@pytest.fixture
def address(workspace: Workspace, agents: Agents) -> Iterator[Address]:
    yield workspace.serve(0)
    workspace.stop_serving()


def call(channel: Any, pool: DescriptorPool, service: str, method: str, request: dict[str, Any]) -> dict[str, Any]:
    """A call with JSON in and out, by descriptors alone."""
    described = pool.FindServiceByName(service).methods_by_name[method]
    sent = json_format.ParseDict(request, GetMessageClass(described.input_type)())
    answer = channel.unary_unary(
        f"/{service}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(described.output_type).FromString,
    )(sent, timeout=20)
    told: dict[str, Any] = json_format.MessageToDict(answer)
    return told


def test_list_describe_and_call(address: Address, agents: Agents) -> None:
    with grpc.insecure_channel(address.target) as plain:
        channel = grpc.intercept_channel(plain, _Token(address.token or ""))
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {ASYNC, "flyteidl.service.SyncAgentService", "flyteidl.service.AgentMetadataService", "grpc.health.v1.Health"} < set(
            database.get_services()
        )  # fmt: skip
        pool = DescriptorPool(database)  # empty, but for what the service tells of itself
        methods = pool.FindServiceByName(ASYNC).methods_by_name
        assert {"CreateTask", "GetTask", "DeleteTask", "GetTaskLogs"} <= set(methods)
        assert "resource_meta" in methods["GetTask"].input_type.fields_by_name

        listed = call(channel, pool, "flyteidl.service.AgentMetadataService", "ListAgents", {})
        assert "scripted" in {each["name"] for agent in listed["agents"] for each in agent["supportedTaskCategories"]}
        template = {"type": "scripted", "custom": {"message": "by reflection"}}
        job = call(channel, pool, ASYNC, "CreateTask", {"template": template, "outputPrefix": "nowhere"})
        which = {**job, "taskCategory": {"name": "scripted"}}
        found = call(channel, pool, ASYNC, "GetTask", which)["resource"]
        assert (found["phase"], found["message"]) == ("SUCCEEDED", "by reflection")
        assert call(channel, pool, ASYNC, "DeleteTask", which) == {} and agents.scripted.count("delete") == 1


def test_reflection_asks_for_the_token(address: Address) -> None:
    with grpc.insecure_channel(address.target) as channel, pytest.raises(grpc.RpcError) as e:
        ProtoReflectionDescriptorDatabase(channel).get_services()
    assert e.value.code() is grpc.StatusCode.UNAUTHENTICATED
