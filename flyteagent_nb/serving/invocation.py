"""How a method of an agent is called: a coroutine on the loop, a plain function in a pool, and what holds the loop up is seen."""

from __future__ import annotations

import inspect
import logging
import sys
import types
import weakref
from collections.abc import AsyncIterable, Iterable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from flyteagent_nb.loop import WORKERS, ContextExecutor
from flyteagent_nb.serving.thread_state import share_thread_state

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Callable, Generator

    from flyteagent_nb.serving.catalog import AgentEntry

    OnBlocking = Callable[["AgentEntry", str, float], None]

BLOCKING_AFTER = 0.25
"""Seconds that one step of an agent's coroutine may hold the loop before it is reported."""

IMPORTS = 20
"""A step in which so many modules came was slow because of them, and will be once: flytekit's plug-ins import late."""

_LOGGER = logging.getLogger(__name__)
_END = object()


class AgentInvoker:
    """Calls the methods of agents.

    Attributes:
        stepping: the agent's name, its method and the ``perf_counter`` of when it took the loop, while a coroutine of an agent
            holds the loop; else None. Any thread may read it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_blocking: OnBlocking | None = None) -> None:
        self.stepping: tuple[str, str, float] | None = None
        self._loop = loop
        self._on_blocking = on_blocking
        self._reported: weakref.WeakKeyDictionary[type, set[str]] = weakref.WeakKeyDictionary()
        # Pools of their own, so that polls and deletes are answered while every thread of another runs a blocking create or do, and a
        # create, of which a late answer leaves a job behind, does not wait for many a long do.
        self._pools = {
            "create": ContextExecutor(WORKERS, "flyteagent_nb-create"),
            "do": ContextExecutor(WORKERS, "flyteagent_nb-do"),
        }
        self._asking = ContextExecutor(WORKERS, "flyteagent_nb-ask")

    async def call(self, entry: AgentEntry, method: str, **arguments: Any) -> Any:
        """What ``method`` of the entry's agent returns, awaited where that is to be awaited."""
        function = getattr(entry.agent, method)
        if inspect.iscoroutinefunction(function):
            share_thread_state()
            return await self._step(entry, method, _called(function, **arguments))
        returned = await self.in_thread(method, _called, function, **arguments)
        if inspect.iscoroutine(returned):
            return await self._step(entry, method, returned)
        if inspect.isawaitable(returned):
            return await returned
        return returned

    async def each(self, entry: AgentEntry, method: str, **arguments: Any) -> AsyncGenerator[Any, None]:
        """The items that ``method`` returns or yields; one item that cannot be iterated over comes as it is."""
        function = getattr(entry.agent, method)
        if inspect.isasyncgenfunction(function):
            returned = _called(function, **arguments)
        else:
            returned = await self.call(entry, method, **arguments)
        if isinstance(returned, AsyncIterable):
            items = returned.__aiter__()
            try:
                while True:
                    try:
                        item = await self._step(entry, method, items.__anext__())
                    except StopAsyncIteration:
                        return
                    yield item
            finally:
                if inspect.isasyncgen(items):
                    await items.aclose()
        elif isinstance(returned, Iterable) and not isinstance(returned, (str, bytes, dict)):
            iterator = iter(returned)
            while (item := await self.in_thread(method, next, iterator, _END)) is not _END:
                yield item
        else:
            yield returned

    async def in_thread(self, method: str, function: Callable[..., Any], /, *positional: Any, **arguments: Any) -> Any:
        """``function`` in the pool that ``method`` belongs to, in a copy of this context."""

        def work() -> Any:
            try:
                return function(*positional, **arguments)
            except StopIteration as error:  # a future does not take it, and would never be done
                raise RuntimeError(f"{method} raised StopIteration") from error

        return await self._loop.run_in_executor(self._pools.get(method, self._asking), work)

    def close(self) -> None:
        """Let the threads go; one that is in an agent's code ends after it."""
        for pool in (*self._pools.values(), self._asking):
            pool.shutdown(wait=False, cancel_futures=True)

    @types.coroutine
    def _step(self, entry: AgentEntry, method: str, coroutine: Any) -> Generator[Any, Any, Any]:
        """Await ``coroutine`` and measure each of its steps: from one wait to the next it has the loop for itself."""
        value: Any = None
        raised: BaseException | None = None
        while True:
            outer = self.stepping  # not None under a nested loop
            began, modules = perf_counter(), len(sys.modules)
            self.stepping = (entry.name, method, began)
            try:
                if raised is None:
                    awaited = coroutine.send(value)
                else:
                    thrown, raised = raised, None
                    awaited = coroutine.throw(thrown)
            except StopIteration as stop:
                return stop.value
            finally:
                self.stepping = outer
                seconds = perf_counter() - began
                if seconds > BLOCKING_AFTER and len(sys.modules) - modules < IMPORTS:
                    self._report(entry, method, seconds)
            try:
                value = yield awaited
            except GeneratorExit:
                coroutine.close()
                raise
            except (
                BaseException
            ) as error:  # whatever the loop throws in is the agent's to handle, a cancel first of all
                raised = error

    def _report(self, entry: AgentEntry, method: str, seconds: float) -> None:
        reported = self._reported.setdefault(type(entry.agent), set())
        if method in reported or self._on_blocking is None:
            return
        reported.add(method)
        try:
            self._on_blocking(entry, method, seconds)
        except Exception:  # a report that fails must not fail the call that it is about
            _LOGGER.warning("the report of a blocking agent failed", exc_info=True)


def _called(function: Callable[..., Any], /, **arguments: Any) -> Any:
    """What ``function`` returns.

    Raises:
        TypeError: also where it does not take the arguments; then it tells which they are.
    """
    try:
        return function(**arguments)
    except TypeError as error:
        try:
            inspect.signature(function, follow_wrapped=False).bind(**arguments)
        except TypeError:  # it was never entered
            names = ", ".join(arguments)
            told = f"{error}: it is called by keyword, with {names}; **kwargs takes what it has no use for"
            raise TypeError(told).with_traceback(error.__traceback__) from None
        except ValueError:  # a function that shows no signature
            pass
        raise
