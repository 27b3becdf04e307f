"""What an agent prints and logs goes to its run, instead of landing in whatever cell runs now.

The run that code works for stands in a ContextVar: it follows ``await``, tasks and the pools of this package; a thread
that an agent starts by itself is outside. :class:`Capture` taps the *objects* that ``sys.stdout`` and ``sys.stderr`` are,
because handlers of logging and progress bars hold them; what is written inside a run goes to a sink, everything else
passes as before.
"""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from flyteagent_nb.serving import records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Sink = Callable[[str, str, str], None]

_MUTED: Final = "\0muted"  # no run has this id: what is written there is dropped
_TAP: Final = "_flyteagent_nb_tap"
_INNER: Final = "_flyteagent_nb_inner"
_METHODS: Final = ("write", "writelines", "flush")
_PLACES_KEPT: Final = 1_000


def in_agent_code() -> bool:
    """Whether this code is an agent's, or was started by it, in a call that a run has made."""
    return bool(_run.get())


_run: contextvars.ContextVar[str | None] = contextvars.ContextVar("flyteagent_nb_run", default=None)
_formatter = logging.Formatter()


class Capture:
    """Sends what is printed and logged inside a run to ``sink(run_id, stream, text)``, on whichever thread that happens.

    ``stream`` is ``stdout``, ``stderr``, ``log`` (whole lines, ``LEVEL logger: message``) or ``traceback``.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._taps: list[_Tap] = []
        self._proxies: list[tuple[str, _Proxy]] = []
        self._logging: _LogTap | None = None
        self._lock = threading.Lock()
        self._writes: tuple[Any, Any] = (None, None)  # what write of stdout and stderr are while they are tapped

    def install(self) -> None:
        """Tap stdout, stderr and logging."""
        with self._lock:
            if self._logging is None:
                self._logging = _LogTap(self.sink)
                self._tap_streams()

    def remove(self) -> None:
        """Leave stdout, stderr and logging as they were found."""
        with self._lock:
            if self._logging is None:
                return
            self._logging.remove()
            self._logging = None
            for tap in self._taps:
                tap.remove()
            for name, proxy in self._proxies:
                if getattr(sys, name) is proxy:
                    setattr(sys, name, proxy.stream)
            self._taps, self._proxies, self._writes = [], [], (None, None)

    def run(self, run_id: str | None) -> _Scope:
        """A context manager: what is printed inside belongs to ``run_id``; to nobody, where that is None."""
        # A cell under %%capture has another object there, and whoever patches write may have wiped ours.
        if self._logging is not None and self._writes != (_write_of(sys.stdout), _write_of(sys.stderr)):
            with self._lock:
                if self._logging is not None:
                    self._tap_streams()
        return _Scope(run_id)

    def _tap_streams(self) -> None:
        self._taps = [tap for tap in self._taps if tap.stream() is not None]
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:
                continue
            for tap in self._taps:
                if tap.stream() is stream:
                    tap.renew()
                    break
            else:
                try:
                    tap = _Tap(stream, name, self.sink)
                except (AttributeError, TypeError):  # an object that takes no attributes
                    proxy = _Proxy(stream)
                    tap = _Tap(proxy, name, self.sink)
                    self._proxies.append((name, proxy))
                    setattr(sys, name, proxy)
                self._taps.append(tap)
        self._writes = (_write_of(sys.stdout), _write_of(sys.stderr))


def _write_of(stream: Any) -> Any:
    return None if stream is None else stream.write


class _Scope:
    # A class and not a generator, because each call of an agent passes here.
    __slots__ = ("_records", "_run_id", "_token")

    def __init__(self, run_id: str | None) -> None:
        self._run_id = run_id

    def __enter__(self) -> records.CallRecords:
        self._token = _run.set(self._run_id)
        self._records, call = records.begin()
        return call

    def __exit__(self, *_: object) -> None:
        records.end(self._records)
        _run.reset(self._token)


class _Proxy:
    """Stands for a stream that takes no attributes."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Tap:
    """Routes ``write``, ``writelines`` and ``flush`` of one stream. It does not keep the stream alive.

    IPython patches ``write`` of sys.stdout for each cell, to keep the cell's output, and puts back at the cell's end what it found: an
    attribute of ours would be wiped, and an agent's text would end up in the cell's history. So where Python allows it the stream
    gets a subclass in which the three are properties: a patch is set *beneath* ours. A stream of C (a terminal's) gets attributes,
    and :meth:`renew` sets them again.
    """

    def __init__(self, stream: Any, name: str, sink: Sink) -> None:
        self.sink: Sink | None = sink  # None after removal, for a patch of somebody else's that still calls ours
        self.stream = weakref.ref(stream)
        self._name = name
        self._class: type | None = type(stream)
        methods = {method: getattr(stream, method) for method in _METHODS if hasattr(stream, method)}
        vars(stream)[_TAP] = routes = _Routes(self, methods)
        try:
            stream.__class__ = _tapped(type(stream), methods)
        except TypeError:
            self._class = None
            for method, routed in routes.items():
                setattr(stream, method, routed)

    def renew(self) -> None:
        """Be on top again, where somebody has patched over ours or has wiped it."""
        stream = self.stream()
        if stream is None or self._class is not None:
            return
        routes = vars(stream)[_TAP]
        for method in list(routes):
            if (there := getattr(stream, method)) is not routes[method]:
                routes.put(method, there)
                setattr(stream, method, routes[method])

    def remove(self) -> None:
        self.sink = None
        stream = self.stream()
        if stream is None or (routes := vars(stream)[_TAP]).tap is not self:
            return
        if self._class is not None:
            stream.__class__ = self._class
        del vars(stream)[_TAP]
        for method, routed in routes.items():
            there = vars(stream).pop(method, routed)
            if there is not routed and self._class is None:  # somebody patched over ours
                setattr(stream, method, there)
            elif _bare(routed) != getattr(stream, method):
                setattr(stream, method, _bare(routed))

    def route(self, method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        """``method`` of the stream, which calls ``inner`` outside of runs."""
        current, name = _run.get, self._name

        def write(text: str) -> Any:
            run_id = current()
            if run_id is None or (sink := self.sink) is None or not isinstance(text, str):
                return inner(text)
            if run_id is not _MUTED:
                sink(run_id, name, text)
            return len(text)

        def writelines(lines: Iterable[str]) -> None:
            if current() is None or self.sink is None:
                inner(lines)
            else:
                write("".join(lines))

        def flush() -> None:
            # A kernel's stream waits for its I/O thread; nothing of a run is in there.
            if current() is None or self.sink is None:
                inner()

        routes: dict[str, Callable[..., Any]] = {"write": write, "writelines": writelines, "flush": flush}
        routed = routes[method]
        setattr(routed, _INNER, inner)
        return routed


class _Routes(dict[str, "Callable[..., Any]"]):
    """The routed methods of a stream; the stream itself holds them, so that they go with it."""

    def __init__(self, tap: _Tap, methods: dict[str, Callable[..., Any]]) -> None:
        super().__init__()
        self.tap = tap
        for method, function in methods.items():
            self.put(method, function)

    def put(self, method: str, inner: Callable[..., Any]) -> None:
        self[method] = self.tap.route(method, _bare(inner))


class _Property:
    """A method of a tapped stream: reads as ours, and takes a patch to call beneath."""

    def __init__(self, method: str) -> None:
        self._method = method

    def __get__(self, stream: Any, owner: type) -> Any:
        if stream is None:
            return self
        if (routes := vars(stream).get(_TAP)) is not None:
            return routes[self._method]
        # Another thread took the tap away between the look at the class and this one.
        return getattr(owner.__base__, self._method).__get__(stream, owner.__base__)

    def __set__(self, stream: Any, value: Callable[..., Any]) -> None:
        vars(stream)[_TAP].put(self._method, value)

    def __delete__(self, stream: Any) -> None:
        vars(stream)[_TAP].put(self._method, getattr(super(type(stream), stream), self._method))


def _bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a routed function calls outside of runs; ``function`` itself, where it is none of ours."""
    while (inner := getattr(function, _INNER, None)) is not None:
        function = inner
    return function


def _tapped(cls: type, methods: Iterable[str]) -> type:
    return type(cls.__name__, (cls,), {"__module__": cls.__module__, **{m: _Property(m) for m in methods}})


class _LogTap:
    """Routes ``logging.Logger.callHandlers``, which every record passes, also one of a logger that does not propagate.

    No log call of an agent fails its job: a broken record is mended, and a handler that raises is told of in the run's output.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink: Sink | None = sink
        self._told: set[tuple[str, str, int]] = set()
        original = logging.Logger.callHandlers

        def routed(logger: logging.Logger, record: logging.LogRecord) -> None:
            call, sink = records.of_call(), self.sink
            if call is None or sink is None:
                return original(logger, record)
            run_id = _run.get()
            note = call.take(record)
            if run_id is not None and run_id is not _MUTED:
                sink(run_id, "log", _line(record))
                if note and self._is_new(run_id, record):
                    sink(run_id, "log", f"WARNING flyteagent_nb: {note}\n")
            token = _run.set(run_id and _MUTED)  # files get the record, streams do not
            try:
                if run_id is not None and original.__module__ == "logging":
                    _hand_on(logger, record)
                else:  # a call that belongs to no run, or somebody else listens there too
                    original(logger, record)
            except Exception as error:  # a handler's fault is no reason for the agent's job to fail
                if run_id is not None and run_id is not _MUTED:
                    said = f"a log handler raised {type(error).__name__}: {error}"
                    sink(
                        run_id,
                        "log",
                        f"WARNING flyteagent_nb: {said}; in production the agent's method fails with it\n",
                    )
            finally:
                _run.reset(token)

        self._original, self._routed = original, routed
        logging.Logger.callHandlers = routed  # type: ignore[method-assign,assignment]

    def remove(self) -> None:
        self.sink = None
        if logging.Logger.callHandlers is self._routed:
            logging.Logger.callHandlers = self._original  # type: ignore[method-assign]

    def _is_new(self, run_id: str, record: logging.LogRecord) -> bool:
        """Whether the run has not been told of this place in the code: a job is polled again and again."""
        place = (run_id, record.pathname, record.lineno)
        if place in self._told:
            return False
        if len(self._told) >= _PLACES_KEPT:
            self._told.clear()
        self._told.add(place)
        return True


def _line(record: logging.LogRecord) -> str:
    lines = [f"{record.levelname} {record.name}: {record.getMessage()}"]
    if record.exc_info:
        lines.append(_formatter.formatException(record.exc_info))
    if record.stack_info:
        lines.append(record.stack_info)
    return "\n".join(lines) + "\n"


def _hand_on(logger: logging.Logger, record: logging.LogRecord) -> None:
    """What Logger.callHandlers does, less the last resort and handlers that show a record in a notebook without a stream."""
    at: logging.Logger | None = logger
    while at is not None:
        for handler in at.handlers:
            if record.levelno >= handler.level and not getattr(getattr(handler, "console", None), "is_jupyter", False):
                handler.handle(record)
        at = at.parent if at.propagate else None
