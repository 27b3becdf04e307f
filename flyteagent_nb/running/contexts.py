"""flytekit's contexts: the caller's, and calls that must not share the list in which flytekit keeps them."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any, TypeVar

from flytekit import FlyteContext, FlyteContextManager
from flytekit.core.context_manager import flyte_context_Var

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def current_context() -> FlyteContext:
    """flytekit's context of the caller."""
    return FlyteContextManager.current_context()


def in_context(context: FlyteContext, work: Callable[..., T], *args: Any) -> T:
    """``work(*args)`` with ``context`` as flytekit's current one.

    flytekit keeps its contexts in a mutable list inside a ContextVar, which copied contexts share: so a list of its own.
    """

    def call() -> T:
        flyte_context_Var.set([context])
        return work(*args)

    return contextvars.copy_context().run(call)


def in_own_contexts(call: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """``call(*args, **kwargs)`` with a list of flytekit's contexts of its own.

    ``asyncio.to_thread`` copies the ContextVar and shares the list in it: calls on several threads would push onto one stack, and take each
    other's context for their own.
    """
    FlyteContextManager.current_context()  # makes one in a thread that has none
    token = flyte_context_Var.set(list(flyte_context_Var.get()))
    try:
        return call(*args, **kwargs)
    finally:
        flyte_context_Var.reset(token)
