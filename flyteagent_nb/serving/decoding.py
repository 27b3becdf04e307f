"""What a caller sends that is no message of the method: INVALID_ARGUMENT, where gRPC would say UNKNOWN and log a traceback."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


class Malformed:
    """Takes the place of a message that cannot be read.

    Attributes:
        told: what is wrong, for the caller.
    """

    __slots__ = ("told",)

    def __init__(self, error: Exception) -> None:
        self.told = f"the request cannot be read: {error}"


class Decoding(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Answers what cannot be read. A coroutine that reads its stream by itself gets a :class:`Malformed`, and answers."""

    def __init__(self) -> None:
        self._handlers: dict[str, Any] = {}  # those that there are, so no caller can make it grow

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """The handler of a method, around which it is looked at what comes."""
        found = self._handlers.get(details.method)
        if found is None:
            handler = await continuation(details)
            if handler is None:
                return None
            found = self._handlers[details.method] = _checked(handler)
        return found


def _checked(handler: Any) -> Any:
    decode = handler.request_deserializer

    def read(data: bytes) -> Any:
        try:
            return decode(data)
        except (
            Exception
        ) as error:  # protobuf's implementations differ in what they raise, and all of it is the caller's
            return Malformed(error)

    how = {"request_deserializer": read, "response_serializer": handler.response_serializer}
    if handler.request_streaming:
        stream = handler.stream_stream
        if not handler.response_streaming or not inspect.isasyncgenfunction(stream):
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.response_streaming
                else grpc.stream_unary_rpc_method_handler
            )
            return make(stream or handler.stream_unary, **how)

        async def answers(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            async for answer in stream(_good(requests, context), context):
                yield answer

        return grpc.stream_stream_rpc_method_handler(answers, **how)
    behaviour = handler.unary_stream if handler.response_streaming else handler.unary_unary
    if inspect.isasyncgenfunction(behaviour):
        raise TypeError(f"{behaviour} is an async generator, which none of ours is")

    async def answer(request: Any, context: Any) -> Any:
        if type(request) is Malformed:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, request.told)
        return await behaviour(request, context)

    make = grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
    return make(answer, **how)


async def _good(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
    async for request in requests:
        if type(request) is Malformed:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, request.told)
        yield request
