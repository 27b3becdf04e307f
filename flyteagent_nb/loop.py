"""The one daemon thread with its event loop, the bridge into it, and what keeps a fork from killing it.

Every gRPC server and every client call of ours lives on this one loop: several grpc.aio loops in a process disturb each other, and
agents keep objects that are bound to the loop they first ran on. So the thread is made once and kept for the life of the process.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import logging
import os
import queue
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

from flyteagent_nb.errors import WrongThreadError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

T = TypeVar("T")

logger = logging.getLogger(__name__)

WORKERS = 32
"""Threads for the blocking parts of agents; asyncio's own default is 6 on two cores."""

FORK_WAIT = 1.0
"""Seconds that a fork waits for calls in flight to end."""


_here = threading.local()
"""The pool that a thread belongs to."""


class ContextExecutor(concurrent.futures.ThreadPoolExecutor):
    """A pool of daemon threads; work runs in a copy of the context of whoever submits it, as ``asyncio.to_thread`` does.

    Daemons, because Python would wait at its end for an agent's ``do`` that never returns. asyncio takes no other class than this
    base for a default executor; nothing of its threads is used.

    Args:
        workers: how many threads at the most; they are started as they are needed.
        name: the beginning of the threads' names.
    """

    def __init__(self, workers: int, name: str) -> None:
        super().__init__(1)
        self._most = workers
        self._name = name
        self._work: queue.SimpleQueue[tuple[concurrent.futures.Future[Any], Callable[[], None]] | None] = (
            queue.SimpleQueue()
        )
        self._idle = threading.Semaphore(0)
        self._servants: list[threading.Thread] = []
        self._starting = threading.Lock()
        self._is_shut = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        """Schedule ``fn(*args, **kwargs)`` in a copy of the caller's context.

        Raises:
            RuntimeError: the pool was shut down; or it has no thread, and the system none to give.
        """
        if self._is_shut:
            raise RuntimeError(f"the threads of {self._name} have been let go")
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        context = contextvars.copy_context()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(context.run(fn, *args, **kwargs))
            except BaseException as error:  # an agent may raise anything, SystemExit too; the future holds it
                future.set_exception(error)

        self._work.put((future, run))
        if not self._idle.acquire(blocking=False):
            try:
                self._add()
            except RuntimeError:
                future.cancel()  # told as failed, it must not be done by a later thread
                raise
        return future

    @staticmethod
    @contextlib.contextmanager
    def lending() -> Iterator[None]:
        """While the block waits, on a thread of a pool, for what other threads do: the pool has one more of them.

        Else tasks of an agent that run tasks themselves could fill a pool and all wait for their turn in it.
        """
        pool: ContextExecutor | None = getattr(_here, "pool", None)
        if pool is None:
            yield
            return
        with pool._starting:
            pool._most += 1
        if not pool._work.empty():
            pool._add()
        try:
            yield
        finally:
            with pool._starting:
                pool._most -= 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end once they have nothing left to do, and wait for that where asked."""
        self._is_shut = True
        if cancel_futures:
            with contextlib.suppress(queue.Empty):
                while (dropped := self._work.get_nowait()) is not None:
                    dropped[0].cancel()
        servants = tuple(self._servants)
        for _ in servants:
            self._work.put(None)
        if wait:
            for thread in servants:
                thread.join()

    def _add(self) -> None:
        with self._starting:
            if len(self._servants) < self._most:
                name = f"{self._name}-{len(self._servants) + 1}"
                thread = threading.Thread(target=self._serve, name=name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    # A container's limit: those that there are do it, and a later one may be had again.
                    if not self._servants:
                        raise
                else:
                    self._servants.append(thread)

    def _serve(self) -> None:
        _here.pool = self
        while (work := self._next()) is not None:
            work[1]()
            del work  # what it holds must not wait for the next one
            if len(self._servants) > self._most and self._leaves():
                return

    def _next(self) -> tuple[concurrent.futures.Future[Any], Callable[[], None]] | None:
        """The next work; a thread counts as idle only while there is none, or whoever submits some would take a busy one for it."""
        with contextlib.suppress(queue.Empty):
            return self._work.get_nowait()
        self._idle.release()
        return self._work.get()

    def _leaves(self) -> bool:
        """Whether this thread goes: one was lent for a wait that is over."""
        with self._starting:
            if too_many := len(self._servants) > self._most:
                self._servants.remove(threading.current_thread())
        return too_many


class ForkGate:
    """Keeps a fork and the calls in flight apart.

    grpcio that was imported with its fork support on kills a child that is forked while a call is in flight. So before a fork the
    gate closes, waits until no call is left, and opens again in the parent. On the loop's thread only, but for the two hooks.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self._opened = asyncio.Event()
        self._opened.set()
        self._drained = threading.Event()
        self._warned = False

    @contextlib.asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Hold one call: waits while the gate is closed."""
        while not self._opened.is_set():  # another fork may close it again before who waited comes to run
            await self._opened.wait()
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight and not self._opened.is_set():
                self._drained.set()

    def _close(self) -> None:
        self._opened.clear()
        if not self.in_flight:
            self._drained.set()

    def _open(self) -> None:
        self._opened.set()

    def before_fork(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the gate and wait until no call is in flight, at most FORK_WAIT seconds."""
        self._drained.clear()
        loop.call_soon_threadsafe(self._close)
        if self._drained.wait(FORK_WAIT):
            time.sleep(0.002)  # grpc's own threads finish what the last call left them
        elif not self._warned:
            self._warned = True
            warnings.warn(
                "this process forks while an agent call is in flight, and gRPC was imported with its fork support on: the child may "
                "die. Load flyteagent_nb before anything imports grpc or flytekit, or use multiprocessing's spawn.",
                RuntimeWarning,
                stacklevel=3,
            )

    def after_fork(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the gate again, in the parent."""
        loop.call_soon_threadsafe(self._open)


class LoopThread:
    """A daemon thread that runs one event loop.

    Attributes:
        loop: the event loop; touch it from other threads with the methods here only.
        gate: what a call must pass where a fork could kill it, or None where it cannot.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.gate: ForkGate | None = None
        self._pid = os.getpid()
        self.loop.set_default_executor(ContextExecutor(WORKERS, "flyteagent_nb-agent"))
        self._thread = threading.Thread(target=self._main, name="flyteagent_nb", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        while True:
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                # A task that an agent made for itself called sys.exit: asyncio lets that through, and every other call would hang.
                logger.warning("a task on the agents' event loop tried to end the process; it goes on", exc_info=True)

    @property
    def is_current(self) -> bool:
        """Whether the caller is on the loop's thread."""
        return threading.get_ident() == self._thread.ident

    @property
    def forked(self) -> bool:
        """Whether this process is a forked child, in which the thread does not exist."""
        return os.getpid() != self._pid

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Run ``callback(*args)`` on the loop's thread, soon."""
        self.check_alive()
        self.loop.call_soon_threadsafe(callback, *args)

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start ``work`` on the loop; the future holds what it returns."""
        try:
            self.check_alive()
        except BaseException:
            work.close()
            raise
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run ``work`` on the loop and wait for it.

        Raises:
            WrongThreadError: on the loop's own thread, which would wait for itself.
            TimeoutError: after ``timeout`` seconds; ``work`` is then cancelled.
        """
        try:
            self.check_may_block()
        except BaseException:
            work.close()
            raise
        future = self.submit(work)
        try:
            return future.result(timeout)
        except BaseException as error:
            future.cancel()
            # Python 3.10 has a TimeoutError of its own for each of its libraries.
            if sys.version_info < (3, 11) and isinstance(error, concurrent.futures.TimeoutError):
                raise TimeoutError(*error.args) from None
            raise

    def check_may_block(self) -> None:
        """Raise WrongThreadError on the loop's own thread, and in a forked child, where a wait would never end."""
        self.check_alive()
        if self.is_current:
            raise WrongThreadError(
                "a blocking wait inside an agent would stop the thread that has to do the work",
                hint="use `await run` there, or submit and return",
            )

    def check_alive(self) -> None:
        """Raise WrongThreadError in a forked child, in which the thread does not exist."""
        if self.forked:
            raise WrongThreadError(
                "this process was forked from the kernel, and the agent service stayed behind",
                hint="use multiprocessing's spawn, and load flyteagent_nb in the child",
            )


_lock = threading.Lock()
_thread: LoopThread | None = None
_fork_safe: bool | None = None


def get_loop_thread() -> LoopThread:
    """The loop's thread of this process; it is started on the first call and kept."""
    global _thread
    with _lock:
        if _thread is None or _thread.forked:
            _thread = LoopThread()
        return _thread


def prepare_fork() -> bool:
    """Make forks safe, as well as the order of imports allows. Call it before anything of ours imports grpc.

    Returns:
        True where grpc runs with its fork support off, which is the whole cure; False where it was imported with it: call
        :func:`guard_forks` then.
    """
    global _fork_safe
    if _fork_safe is None:
        if "grpc" not in sys.modules:  # set after its import it would change nothing
            os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        _fork_safe = os.environ.get("GRPC_ENABLE_FORK_SUPPORT") == "0"
    return _fork_safe


def guard_forks(thread: LoopThread) -> None:
    """Put the gate before every fork of this process. The hooks stay, as Python has no way to take them back."""
    if thread.gate is not None or not hasattr(os, "register_at_fork"):
        return
    thread.gate = gate = ForkGate()

    def before() -> None:
        if not thread.forked and not thread.is_current:
            gate.before_fork(thread.loop)

    def after() -> None:
        if not thread.forked and not thread.is_current:
            gate.after_fork(thread.loop)

    os.register_at_fork(before=before, after_in_parent=after)
