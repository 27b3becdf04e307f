"""The import of flytekit: a hook that runs at its end, and a guard that keeps a broken plug-in from ending it.

``import flytekit`` takes seconds, so it runs on a background thread, and it may as well run first in a cell. What belongs to its
end runs inside the import itself, while Python still holds flytekit's import lock: whoever gets flytekit finds all in place.

Python makes nobody wait for that lock who imports a *part* of flytekit: ``from flytekit.extend.backend.base_agent import ...``
beside an import of flytekit on another thread fails, and makes the other fail, with a deadlock or with half a module. So until
flytekit is imported, an import statement of a part first imports the whole, which waits. The libraries that flytekit pulls in
share the trouble, and the cure. ``importlib.import_module`` of a part is no statement, and gets no help.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import gc
import importlib
import logging
import operator
import sys
import threading
from typing import TYPE_CHECKING, Any

from flyteagent_nb.serving.catalog import BrokenPlugin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from importlib.metadata import EntryPoint
    from types import ModuleType

GROUP = "flytekit.plugins"
"""The entry points that flytekit loads at the end of its own import, unguarded."""

NEEDS_FLYTEKIT = frozenset({"flytekit", "flytekitplugins"})
"""The packages whose parts need the whole of flytekit first."""

log = logging.getLogger("flyteagent_nb")


class FlytekitLoading:
    """The hook on flytekit's import.

    Args:
        on_loaded: runs once flytekit is imported, on whichever thread imports it, before any other thread gets flytekit;
            again after each ``importlib.reload(flytekit)``. Inside somebody's import its errors are logged, not raised.
        on_broken: told of each plug-in that could not be imported, on the same thread.
        on_step: told in words what the import is at, on the same thread.
    """

    def __init__(
        self,
        on_loaded: Callable[[], None],
        on_broken: Callable[[BrokenPlugin], None],
        on_step: Callable[[str], None] | None = None,
    ) -> None:
        self._on_loaded = on_loaded
        self._on_broken = on_broken
        self._on_step = on_step
        self._lock = threading.Lock()
        self._installed = False
        self._ran = False
        self._watching = False
        self._asking = threading.local()
        self._plain_import: Callable[..., Any] | None = None
        self._own_import: Callable[..., Any] | None = None

    def install(self) -> None:
        """Put the hook in place, without importing flytekit.

        Where flytekit is there already, run ``on_loaded`` now; where another thread is importing it, wait for that first.
        """
        with self._lock:
            if self._installed:
                return
            self._installed = True
            self._ran = False
            sys.meta_path.insert(0, self)
            self._watch()
        module = sys.modules.get("flytekit")
        if _is_initializing(module):
            try:
                importlib.import_module("flytekit")  # waits for the other thread, and begins anew where that one failed
            except Exception:  # the hook stays for the next import, which tells its error to whoever asked for flytekit
                return
            module = sys.modules.get("flytekit")
        if module is not None and not self._ran:
            self._ran = True
            try:
                self._on_loaded()
            finally:
                self._unwatch()

    def remove(self) -> None:
        """Take the hook away. An import that is under way stays guarded, and ends without ``on_loaded``."""
        with self._lock:
            self._installed = False
            # A new list: another thread that walks through the old one would skip a finder.
            sys.meta_path = [finder for finder in sys.meta_path if finder is not self]
            self._unwatch()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of flytekit as the finders behind this one know it, with its loader wrapped; None for any other module."""
        if fullname != "flytekit" or getattr(self._asking, "now", False):
            return None
        self._asking.now = True  # another library's hook may ask all finders over again, this one too
        try:
            spec = _ask(_behind(self), fullname, path, target)
        finally:
            self._asking.now = False
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _GuardedLoader(spec.loader, self._execute)  # type: ignore[assignment]  # a stand-in
        return spec

    def _execute(self, module: ModuleType, execute: Callable[[ModuleType], None]) -> None:
        _adopt_submodules(module)
        with guard_plugins(self._tell_broken, self._on_step), _fewer_collections():
            execute(module)
        if not self._installed:
            return
        self._ran = True
        try:
            self._on_loaded()
        except Exception:  # what fails is ours, and the import belongs to somebody else
            log.exception("flyteagent_nb could not be put in place after the import of flytekit")
        self._unwatch()

    def _tell_broken(self, plugin: BrokenPlugin) -> None:
        try:
            self._on_broken(plugin)
        except Exception:  # as above
            log.exception("could not record the broken plug-in %s", plugin.name)

    def _watch(self) -> None:
        self._watching = True
        self._plain_import = builtins.__import__
        self._own_import = self._make_import(self._plain_import)
        builtins.__import__ = self._own_import

    def _unwatch(self) -> None:
        self._watching = False
        if self._plain_import is not None and builtins.__import__ is self._own_import:
            builtins.__import__ = self._plain_import  # else somebody put theirs over ours, which passes on
        self._plain_import = self._own_import = None

    def _make_import(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def __import__(
            name: str,
            globals: Mapping[str, object] | None = None,
            locals: Mapping[str, object] | None = None,
            fromlist: Sequence[str] | None = (),
            level: int = 0,
        ) -> Any:
            __tracebackhide__ = True  # IPython leaves this frame out of a cell's traceback
            if self._watching and level == 0 and "." in name:
                package = name.partition(".")[0]
                if package in NEEDS_FLYTEKIT:
                    plain("flytekit")
                elif _is_initializing(sys.modules.get(package)):
                    plain(package)
            return plain(name, globals, locals, fromlist, level)

        return __import__


class _GuardedLoader:
    """The loader of flytekit until it is asked to execute; then the module gets the real one back."""

    def __init__(self, loader: Any, execute: Callable[[ModuleType, Callable[[ModuleType], None]], None]) -> None:
        self._loader = loader
        self._execute = execute

    def exec_module(self, module: ModuleType) -> None:
        for holder, attribute in ((module, "__loader__"), (module.__spec__, "loader")):
            if getattr(holder, attribute, None) is self:
                setattr(holder, attribute, self._loader)
        self._execute(module, self._loader.exec_module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # What a copy of the spec gets is the real loader: the guard belongs to this process, and to one import.
        return operator.itemgetter(0), ((self._loader,),)


class _GuardedEntryPoint:
    """A plug-in's entry point, whose ``load`` does not raise."""

    def __init__(
        self,
        entry_point: EntryPoint,
        on_broken: Callable[[BrokenPlugin], None],
        on_step: Callable[[str], None] | None,
    ) -> None:
        self._entry_point = entry_point
        self._on_broken = on_broken
        self._on_step = on_step

    def load(self) -> Any:
        if self._on_step is not None:
            self._on_step(f"importing plug-in {self._entry_point.name}")
        try:
            return self._entry_point.load()
        except (Exception, SystemExit) as error:  # a plug-in's module may raise anything, and some call sys.exit
            # Another thread is importing this plug-in and waits for flytekit: it goes on, or tells its own error.
            if type(error).__name__ != "_DeadlockError":
                self._on_broken(_describe(self._entry_point, error))
            return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry_point, name)


@contextlib.contextmanager
def guard_plugins(
    on_broken: Callable[[BrokenPlugin], None], on_step: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Within the block, on this thread, tell ``on_broken`` of each plug-in of flytekit that cannot be loaded, and go on.

    It takes hold where entry points are selected by their group: the classes of the entry points themselves change during flytekit's
    import, which brings in the backport ``importlib_metadata``, which puts its own in the place of Python's.
    """
    from importlib.metadata import EntryPoints

    plain: Callable[..., Any] = EntryPoints.select
    thread: int | None = threading.get_ident()

    @functools.wraps(plain)
    def select(self: EntryPoints, **params: Any) -> Any:
        selected = plain(self, **params)
        if params.get("group") != GROUP or thread != threading.get_ident():
            return selected
        return EntryPoints(_GuardedEntryPoint(entry_point, on_broken, on_step) for entry_point in selected)  # type: ignore[misc]

    EntryPoints.select = select  # type: ignore[method-assign]
    try:
        yield
    finally:
        thread = None
        if EntryPoints.select is select:  # else somebody put theirs over ours, which passes on
            EntryPoints.select = plain  # type: ignore[method-assign]


def _describe(entry_point: EntryPoint, error: BaseException) -> BrokenPlugin:
    distribution = entry_point.dist
    module = entry_point.value.partition(":")[0].strip()
    return BrokenPlugin(
        name=entry_point.name,
        module=module,
        package=f"{distribution.name} {distribution.version}" if distribution is not None else module,
        reason=f"{type(error).__name__}: {error}".rstrip(": "),
    )


@contextlib.contextmanager
def _fewer_collections() -> Iterator[None]:
    """Put off what looks for garbage among all objects: an import makes many objects and no garbage, and a sixth of its time went there."""
    before = gc.get_threshold()
    raised = (*before[:2], max(before[2], 1000))
    gc.set_threshold(*raised)
    try:
        yield
    finally:
        if gc.get_threshold() == raised:  # not set by somebody else meanwhile
            gc.set_threshold(*before)


def _is_initializing(module: ModuleType | None) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def _behind(finder: object) -> list[Any]:
    """The finders that come after ``finder``; those before it were asked already."""
    finders: list[Any] = list(sys.meta_path)
    return finders[finders.index(finder) + 1 :] if finder in finders else finders


def _ask(finders: Sequence[Any], *question: Any) -> ModuleSpec | None:
    for finder in finders:
        find_spec = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = find_spec(*question) if find_spec is not None else None
        if spec is not None:
            return spec
    return None


def _adopt_submodules(package: ModuleType) -> None:
    """Give ``package`` its submodules that outlived a failed import of it: Python sets them once only, when they load."""
    for name, module in list(sys.modules.items()):
        parent, _, child = name.rpartition(".")
        if parent == package.__name__ and child not in vars(package):
            setattr(package, child, module)
