"""The hook on flytekit's import, in processes of their own: each imports the real flytekit, beside plug-ins made for the test."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from importlib.metadata import EntryPoints, entry_points
from typing import TYPE_CHECKING

import pytest
from python_path import python_path

from flyteagent_nb.serving.catalog import BrokenPlugin
from flyteagent_nb.serving.loading import GROUP, guard_plugins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEALTHY = """
from flytekit.extend.backend.base_agent import AgentRegistry, SyncAgentBase
class Healthy(SyncAgentBase):
    name = "Healthy"
    def __init__(self): super().__init__(task_type_name="healthy")
    def do(self, **kwargs): ...
AgentRegistry.register(Healthy())
"""

BROKEN = {
    "aa_missing": "import no_such_module_at_all",
    "bb_raising": "raise RuntimeError('no licence')",
    "cc_leaving": "import sys; sys.exit(3)",
}

PREAMBLE = """
import gc, importlib, importlib.util, inspect, logging, pickle, sys, threading, builtins, time
from importlib.metadata import EntryPoints
from flyteagent_nb.serving.catalog import Catalog
from flyteagent_nb.serving.loading import FlytekitLoading
plain_import, plain_select, plain_thresholds = builtins.__import__, EntryPoints.select, gc.get_threshold()
catalog = Catalog()
events = []
def on_loaded():
    events.append(("loaded", threading.current_thread().name))
    catalog.take_over()
def check_clean(finders=0):
    assert builtins.__import__ is plain_import
    assert EntryPoints.select is plain_select
    assert gc.get_threshold() == plain_thresholds
    assert sum(isinstance(finder, FlytekitLoading) for finder in sys.meta_path) == finders
hook = FlytekitLoading(on_loaded, catalog.record_broken)
"""


def make_plugins(folder: Path, sources: dict[str, str]) -> None:
    """A package and a distribution for each source, with an entry point of flytekit's."""
    for name, source in sources.items():
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(source)
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {name}\n")


def run(folder: Path, code: str) -> str:
    """What ``code`` prints to stderr, after the preamble, in a process that sees the plug-ins in ``folder``."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": python_path(folder)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_cell_beside_the_background_import(tmp_path: Path) -> None:
    """The cell imports parts of flytekit while a thread imports the whole; three plug-ins are broken and one is not."""
    make_plugins(tmp_path, {**BROKEN, "dd_healthy": HEALTHY})
    run(
        tmp_path,
        """
        def seconds(call):
            began = time.perf_counter(); call(); return time.perf_counter() - began
        times = []
        for _ in range(5):
            times.append(seconds(hook.install)); hook.install(); hook.remove(); hook.remove()
            check_clean()
        hook.install()
        assert min(times) < 0.005 and "flytekit" not in sys.modules, times

        spec = importlib.util.find_spec("flytekit")
        assert spec.origin.endswith("__init__.py") and spec.submodule_search_locations
        assert "load_implicit_plugins" in spec.loader.get_source("flytekit")
        assert type(pickle.loads(pickle.dumps(spec)).loader) is importlib.machinery.SourceFileLoader
        assert importlib.util.find_spec("flytekit_of_nobody") is None

        class Spy:
            begun = threading.Event()
            def find_spec(self, name, path=None, target=None):
                if name == "flytekit._version": self.begun.set()
        sys.meta_path.insert(0, Spy())
        failed = []
        def background():
            try: import flytekit
            except BaseException as error: failed.append(error)
        thread = threading.Thread(target=background, name="background")
        thread.start()
        assert Spy.begun.wait(60)
        from flytekit.extend.backend.base_agent import AgentRegistry, SyncAgentBase
        assert events == [("loaded", "background")], events
        class Mine(SyncAgentBase):
            name = "Mine"
            def __init__(self): super().__init__(task_type_name="mine")
            def do(self, **kwargs): ...
        AgentRegistry.register(Mine()); AgentRegistry.register(Mine())
        thread.join()
        assert not failed, failed

        broken = [(p.name, p.module, p.package, p.reason) for p in sorted(catalog.broken, key=lambda p: p.name)]
        assert broken == [
            ("aa_missing", "aa_missing", "aa_missing 1.0", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
            ("bb_raising", "bb_raising", "bb_raising 1.0", "RuntimeError: no licence"),
            ("cc_leaving", "cc_leaving", "cc_leaving 1.0", "SystemExit: 3"),
        ], broken
        found = {e.task_type: (e.package, e.in_notebook, e.generation) for e in catalog.entries()}
        assert found["healthy"] == ("dd_healthy 1.0", False, 1) and found["mine"] == ("this notebook", True, 2), found

        import flytekit
        check_clean(finders=1)
        assert type(flytekit.__loader__) is type(flytekit.__spec__.loader) is importlib.machinery.SourceFileLoader
        assert "def load_implicit_plugins" in inspect.getsource(flytekit)
        assert pickle.loads(pickle.dumps(flytekit.task)) is flytekit.task

        assert importlib.reload(flytekit) is flytekit
        assert events == [("loaded", "background"), ("loaded", "MainThread")] and len(catalog.broken) == 3
        assert catalog.current("mine").generation == 2
        assert type(flytekit.__spec__.loader) is importlib.machinery.SourceFileLoader
        check_clean(finders=1)
        hook.remove()
        check_clean()
        """,
    )


@pytest.mark.slow
def test_an_import_that_died_before(tmp_path: Path) -> None:
    """A hook that comes after an import that a plug-in ended; and what goes wrong in it does not end the import."""
    make_plugins(tmp_path, {"aa_missing": BROKEN["aa_missing"], "dd_healthy": HEALTHY})
    stderr = run(
        tmp_path,
        """
        try: import flytekit
        except ImportError as error: assert error.name == "no_such_module_at_all"
        assert "flytekit" not in sys.modules and "flytekit.extend.backend" in sys.modules
        def fail(*args): raise ZeroDivisionError("ours")
        failing = FlytekitLoading(fail, fail)
        failing.install()
        import flytekit.sensor
        check_clean(finders=1)
        failing.remove()
        assert flytekit.extend.backend.base_agent.AgentRegistry and flytekit.configuration.Config
        hook.install()
        assert {"healthy", "sensor"} <= {e.task_type for e in catalog.entries()}
        importlib.reload(flytekit)
        assert events == [("loaded", "MainThread")] * 2
        assert [p.name for p in catalog.broken] == ["aa_missing"]
        hook.remove()
        check_clean()
        """,
    )
    assert stderr.count("ZeroDivisionError: ours") == 2, stderr


@pytest.mark.slow
def test_flytekit_first(tmp_path: Path) -> None:
    """flytekit is there already: the hook runs at once, and its error is the caller's. A plug-in takes it away during a reload."""
    make_plugins(tmp_path, {"remover": "import sys; sys.modules['__main__'].hook.remove()"})
    run(
        tmp_path,
        """
        import flytekit
        hook.install()
        assert events == [("loaded", "MainThread")] and catalog.current("sensor")
        check_clean(finders=1)
        hook.remove()
        check_clean()
        hook.install()
        assert len(events) == 2
        del sys.modules["remover"]
        importlib.reload(flytekit)
        assert len(events) == 2
        check_clean()
        failing = FlytekitLoading(lambda: 1 / 0, print)
        try: failing.install()
        except ZeroDivisionError: pass
        else: raise AssertionError
        check_clean(finders=1)
        """,
    )


@pytest.mark.parametrize("end", ["", pytest.param("raise RuntimeError('no licence')", marks=pytest.mark.slow)])
def test_an_import_under_way_is_waited_for(tmp_path: Path, end: str) -> None:
    """Another thread is in the middle of an import that began without the hook; where that one fails, ours begins anew."""
    gate = "import sys\nm = sys.modules['__main__']\nm.reached.set()\nassert m.go.wait(60)\nm.events.append('gate')\n"
    make_plugins(tmp_path, {"gate": gate + end})
    run(
        tmp_path,
        """
        reached, go, began, ended = (threading.Event() for _ in range(4))
        failed = []
        def background():
            try: import flytekit
            except RuntimeError as error: failed.append(str(error))
        thread = threading.Thread(target=background)
        thread.start()
        assert reached.wait(60)
        def install():
            began.set(); hook.install(); ended.set()
        installer = threading.Thread(target=install, name="installer")
        installer.start()
        assert began.wait(60) and not ended.wait(0.3) and events == []
        go.set()
        installer.join(); thread.join()
        assert events == ["gate"] * (1 + len(failed)) + [("loaded", "installer")], events
        assert [p.reason for p in catalog.broken] == ["RuntimeError: no licence"] * len(failed)
        assert len(failed) == FAILURES and catalog.current("sensor")
        check_clean(finders=1)
        """.replace("FAILURES", "1" if end else "0"),
    )


def test_a_plugin_that_a_cell_is_importing_is_not_broken(tmp_path: Path) -> None:
    """The cell holds the plug-in's import lock and waits for flytekit, whose import comes to that plug-in last."""
    first = "import sys\nmain = sys.modules['__main__']\nmain.start()\n"
    make_plugins(tmp_path, {"dd_healthy": first + HEALTHY})
    run(
        tmp_path,
        """
        begun = threading.Event()
        class Spy:
            def find_spec(self, name, path=None, target=None):
                if name == "flytekit._version": begun.set()
        sys.meta_path.insert(0, Spy())
        failed = []
        def background():
            try: import flytekit
            except BaseException as error: failed.append(error)
        thread = threading.Thread(target=background)
        def start():
            thread.start()
            assert begun.wait(60)
        hook.install()
        import dd_healthy
        thread.join()
        assert not failed and not catalog.broken, (failed, catalog.broken)
        assert len(events) == 1 and catalog.current("healthy").package == "dd_healthy 1.0"
        """,
    )


def load(name: str, group: str = GROUP) -> object:
    """What the entry point ``name`` loads, found as flytekit finds it."""
    (entry_point,) = (e for e in entry_points(group=group) if e.name == name)
    return entry_point.load()


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path whose plug-ins are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [n for n in sys.modules if (tmp_path / n).is_dir()]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('no wheel')", "ImportError: no wheel"),
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("raise RuntimeError", "RuntimeError"),
        ("def broken(:", "SyntaxError: invalid syntax (__init__.py, line 1)"),
        ("import sys; sys.exit('no')", "SystemExit: no"),
    ],
)
def test_what_a_plugin_may_raise(plugins: Path, source: str, reason: str) -> None:
    make_plugins(plugins, {"guarded_plugin": source, "healthy_plugin": "answer = 42"})
    told: list[BrokenPlugin] = []
    with guard_plugins(told.append):
        assert load("guarded_plugin") is None
        assert getattr(load("healthy_plugin"), "answer", None) == 42
    assert told == [BrokenPlugin("guarded_plugin", "guarded_plugin", "guarded_plugin 1.0", reason)]


def test_the_guard_touches_nothing_else(plugins: Path) -> None:
    make_plugins(plugins, {"interrupting_plugin": "raise KeyboardInterrupt", "missing_plugin": BROKEN["aa_missing"]})
    (plugins / "missing_plugin-1.0.dist-info" / "entry_points.txt").write_text(
        f"[{GROUP}]\nmissing_plugin = missing_plugin\n[another.group]\nmissing_plugin = missing_plugin\n"
    )
    plain = EntryPoints.select
    told: list[BrokenPlugin] = []
    elsewhere: list[str] = []

    def load_elsewhere() -> None:
        try:
            load("missing_plugin")
        except ImportError as error:
            elsewhere.append(str(error))

    with pytest.raises(KeyboardInterrupt), guard_plugins(told.append):
        with pytest.raises(ModuleNotFoundError):
            load("missing_plugin", "another.group")
        thread = threading.Thread(target=load_elsewhere)
        thread.start()
        thread.join()
        load("interrupting_plugin")
    assert elsewhere == ["No module named 'no_such_module_at_all'"]
    assert told == []
    assert EntryPoints.select is plain
    with pytest.raises(ModuleNotFoundError):
        load("missing_plugin")
