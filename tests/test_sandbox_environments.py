"""Where a stand-in's packages are: this environment, or one of its own, made once, whole or not at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from scripted_stand_in import ScriptedStandIn, ask
from scripted_tasks import until

from flyteagent_nb.errors import ServiceError, TaskStopped
from flyteagent_nb.sandbox import environments
from flyteagent_nb.sandbox.environments import Environment, cache_folder, environment_for, find_uv, fitting_version
from flyteagent_nb.sandbox.sandboxes import Sandboxes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

posix = pytest.mark.skipif(os.name != "posix", reason="a script as uv")
HERE = sys.version_info[:2]


def stand_in(*requirements: str, product: str = "", pythons: Any = ((3, 10), (3, 99))) -> ScriptedStandIn:
    found = ScriptedStandIn()
    found.requirements = requirements
    found.product = product or requirements[0].partition("==")[0]
    found.pythons = pythons
    return found


# --- this environment ---


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs distributions that are nothing but their metadata."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, version: str, *needed: str) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "Provides-Extra: more"]
        (folder / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {n}" for n in needed), ""]))

    return install


@pytest.mark.parametrize(
    ("pin", "version", "fits"),
    [
        ("1.3.0", "1.3.0", True),
        ("1.3.0", "1.4.2", True),
        ("1.3.0", "1.3.1rc1", True),
        ("1.3.0", "1.2.9", False),
        ("1.3.0", "2.0", False),
        ("0.2.2", "0.3", True),
        ("1.3.0", "nonsense", False),
    ],
)
def test_a_release_that_fits(installed: Any, pin: str, version: str, fits: bool) -> None:
    installed("fa-server", version)
    assert fitting_version(stand_in(f"fa-server=={pin}")) == (version if fits else "")


def test_all_that_it_needs_must_be_there(installed: Any) -> None:
    installed("fa-server", "1.0", "fa-part", "fa-web; extra == 'more'", "fa-other; extra == 'other'")
    assert fitting_version(stand_in("fa-server==1.0")) == "1.0"
    assert fitting_version(stand_in("fa-server==1.0", "fa-gone==1")) == ""
    assert fitting_version(stand_in("fa-server==1.0", "fa-gone==1; python_version < '3'")) == "1.0"
    assert fitting_version(stand_in("fa-server[more]==1.0", product="fa-server")) == ""
    installed("fa-web", "9", "fa-deep; extra == 'more'")
    assert fitting_version(stand_in("fa-server[more]==1.0", product="fa-server")) == "1.0"
    assert fitting_version(stand_in("Fa_Server[more]==1.0", "fa-web[more]==1", product="fa-server")) == ""
    assert fitting_version(stand_in("fa-gone==1.0")) == ""


@pytest.mark.parametrize(
    ("pythons", "fits"),
    [
        ((HERE, (3, 99)), True),
        (((3, 8), HERE), False),
        (((HERE[0], HERE[1] + 1), (3, 99)), False),
    ],
)
def test_the_python_must_fit(installed: Any, pythons: Any, fits: bool) -> None:
    installed("fa-server", "1.0")
    assert fitting_version(stand_in("fa-server==1.0", pythons=pythons)) == ("1.0" if fits else "")


def test_where_it_fits_none_is_made(installed: Any, tmp_path: Path) -> None:
    installed("fa-server", "1.5")
    said: list[str] = []
    found = environment_for(stand_in("fa-server==1.0"), said.append, cache=tmp_path / "cache")
    assert found == Environment(sys.executable, "1.5", is_own=False)
    assert said == [] and not (tmp_path / "cache").exists()


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder().is_relative_to(Path.home()) and cache_folder().name == "sandboxes"


def test_the_python_of_another_environment_is_not_led_astray(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "_FSEC_SECRET", "FA_OTHER"):
        monkeypatch.setenv(name, "x")
    own, here = (Environment(sys.executable, "1", is_own=own).variables() for own in (True, False))
    assert not {"PYTHONPATH", "VIRTUAL_ENV", "_FSEC_SECRET"} & set(own) and own["FA_OTHER"] == "x"
    assert "_FSEC_SECRET" not in here and here["PYTHONPATH"] == "x"


# --- one of its own, made by a script that stands for uv ---

UV = """#!{python}
import os, sys, time
from pathlib import Path
log = Path({log!r})
with log.open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1] == "venv":
    place = Path(sys.argv[-1], "bin")
    place.mkdir(parents=True)
    (place / "python").symlink_to(sys.executable)
elif sys.argv[1] == "pip":
    words = log.with_name("words").read_text() if log.with_name("words").exists() else ""
    print("Resolved 3 packages (in 2 ms)", flush=True)
    time.sleep(0.3)  # longer than a beat of whoever looks
    if "fails" in words:
        sys.exit("no such package: " + sys.argv[-1])
    while "hangs" in words and not log.with_name("go").exists():
        time.sleep(0.02)
"""


class ScriptedUv:
    """What was asked of it, and how it behaves."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.path, self._folder, self._log = folder / "uv", folder, folder / "log"
        self.path.write_text(UV.format(python=sys.executable, log=str(self._log)))
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)

    def says(self, words: str) -> None:
        (self._folder / "words").write_text(words)

    def go(self) -> None:
        (self._folder / "go").touch()

    @property
    def asked(self) -> list[str]:
        return [line.split()[0] for line in self._log.read_text().splitlines()] if self._log.exists() else []


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedUv]:
    made = ScriptedUv(tmp_path / "scripted-uv")
    monkeypatch.setattr(environments, "find_uv", lambda: str(made.path))
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    yield made
    assert list((tmp_path / "t").iterdir()) == []  # no log of an installer is left


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def left(cache: Path) -> list[str]:
    """What is in the cache but for locks."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


@posix
def test_it_is_made_once(uv: ScriptedUv, cache: Path) -> None:
    said: list[str] = []
    found = environment_for(stand_in("fa-own==3.1"), said.append, cache=cache)
    assert uv.asked == ["venv", "pip"] and found.is_own and found.version == "3.1"
    assert said == [
        f"making an environment with uv for fa-own 3.1, once, in {cache}",
        f"installing packages with uv for fa-own 3.1, once, in {cache}",
        "Resolved 3 packages",
    ]
    (name,) = left(cache)
    assert name.startswith("fa-own-3.1-") and Path(found.python) == cache / name / "bin" / "python"
    assert environment_for(stand_in("fa-own==3.1"), said.append, cache=cache) == found
    assert uv.asked == ["venv", "pip"]
    environment_for(stand_in("fa-own==3.1", "fa-more==1"), said.append, cache=cache)  # other requirements
    assert uv.asked == ["venv", "pip"] * 2 and len(left(cache)) == 2


@posix
def test_one_that_fails_tells_the_installers_words_and_leaves_nothing(uv: ScriptedUv, cache: Path) -> None:
    uv.says("fails")
    with pytest.raises(ServiceError, match=r"fa-own 3\.1") as caught:
        environment_for(stand_in("fa-own==3.1"), str, cache=cache)
    assert caught.value.message.endswith("no such package: fa-own==3.1")
    assert "flyteagent_nb[sandbox]" in caught.value.hint
    assert left(cache) == []
    uv.says("")
    assert environment_for(stand_in("fa-own==3.1"), str, cache=cache).is_own


@posix
def test_one_that_is_stopped_leaves_nothing(uv: ScriptedUv, cache: Path) -> None:
    uv.says("hangs")
    with pytest.raises(TaskStopped, match="fa-own is not installed"):
        environment_for(stand_in("fa-own==3.1"), str, cache=cache, stopped=lambda: uv.asked == ["venv", "pip"])
    assert left(cache) == []


@posix
def test_a_second_kernel_waits_and_uses_it(uv: ScriptedUv, cache: Path) -> None:
    uv.says("hangs")
    said: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        try:
            first = pool.submit(environment_for, stand_in("fa-own==3.1"), str, cache=cache)
            until(lambda: uv.asked == ["venv", "pip"])
            second = pool.submit(environment_for, stand_in("fa-own==3.1"), said.append, cache=cache)
            until(lambda: said)
            assert said == ["another kernel is installing it: waiting for that"]
            with pytest.raises(TaskStopped):
                environment_for(stand_in("fa-own==3.1"), str, cache=cache, stopped=lambda: True)
        finally:
            uv.go()
        assert first.result(30) == second.result(30)
    assert uv.asked == ["venv", "pip"]


@posix
def test_a_broken_or_half_made_one_is_made_anew(uv: ScriptedUv, cache: Path) -> None:
    found = environment_for(stand_in("fa-own==3.1"), str, cache=cache)
    Path(found.python).unlink()  # as when the Python that it was made with goes
    place = Path(found.python).parent.parent
    (place.with_name(f"{place.name}.half-dead") / "bin").mkdir(parents=True)
    assert environment_for(stand_in("fa-own==3.1"), str, cache=cache) == found
    assert Path(found.python).exists() and left(cache) == [place.name]


@posix
def test_a_cache_that_cannot_be_written(uv: ScriptedUv, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServiceError, match="could not be made"):
        environment_for(stand_in("fa-own==3.1"), str, cache=tmp_path / "file" / "cache")


KERNEL = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from flyteagent_nb.sandbox import environments
from scripted_stand_in import ScriptedStandIn
environments.find_uv = lambda: {uv!r}
stand_in = ScriptedStandIn()
stand_in.product, stand_in.requirements = "fa-own", ("fa-own==3.1",)
environments.environment_for(stand_in, print, cache=Path({cache!r}))
"""


@posix
def test_a_kernel_that_is_killed_meanwhile_leaves_nothing(uv: ScriptedUv, cache: Path) -> None:
    uv.says("hangs")
    code = KERNEL.format(tests=str(Path(__file__).parent), uv=str(uv.path), cache=str(cache))
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": tempfile.gettempdir()},
    ) as kernel:
        until(lambda: uv.asked == ["venv", "pip"])
        assert len(left(cache)) == 1
        kernel.send_signal(signal.SIGKILL)
    until(lambda: left(cache) == [] and not os.listdir(tempfile.gettempdir()))
    uv.go()
    assert environment_for(stand_in("fa-own==3.1"), str, cache=cache).is_own


@posix
def test_another_python_is_asked_for_where_this_one_does_not_fit(uv: ScriptedUv, cache: Path) -> None:
    environment_for(stand_in("fa-own==3.1", pythons=((3, 8), (3, 9))), str, cache=cache)
    assert "--python >=3.8,<3.9 " in (uv.path.parent / "log").read_text()


def test_without_uv_and_without_a_python_that_fits(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "find_uv", lambda: "")
    with pytest.raises(ServiceError, match=r"needs Python 3\.5 to 3\.5") as caught:
        environment_for(stand_in("fa-own==3.1", pythons=((3, 5), (3, 6))), str, cache=cache)
    assert "pip install uv" in caught.value.hint and left(cache) == []


# --- for real ---


@pytest.mark.slow
@pytest.mark.registry
@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_one_of_its_own_for_real(installer: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of another major version than the one that runs the tests, so that it must be the environment's own."""
    if installer == "pip":
        monkeypatch.setattr(environments, "find_uv", lambda: "")
    elif not find_uv():
        pytest.skip("there is no uv")
    monkeypatch.setattr(ScriptedStandIn, "product", "iniconfig")
    monkeypatch.setattr(ScriptedStandIn, "requirements", ("iniconfig==1.1.1",))
    assert not metadata.version("iniconfig").startswith("1.")
    sandboxes, said = Sandboxes({"scripted": "scripted_stand_in:ScriptedStandIn"}, cache=cache), list[str]()
    try:
        status = sandboxes.start("scripted", said.append)
        assert (status.version, status.is_own) == ("1.1.1", True) and ask(status.ports[0])
        assert said[1].startswith(f"installing packages with {installer} for iniconfig 1.1.1")
        assert sandboxes.stand_in_for("scripted") == "iniconfig 1.1.1, a stand-in for Scripted"
    finally:
        sandboxes.close()
    (place,) = (path for path in cache.iterdir() if path.is_dir())
    python = environment_for(ScriptedStandIn(), str, cache=cache).python
    told = subprocess.run(
        [python, "-c", "import iniconfig, sys; print(iniconfig.__file__, sys.prefix)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(Path(each).is_relative_to(place) for each in told.stdout.split())


@pytest.mark.registry
def test_a_requirement_that_the_registry_does_not_have(cache: Path) -> None:
    if not find_uv():
        pytest.skip("there is no uv")
    with pytest.raises(ServiceError, match=r"iniconfig 0\.0\.99") as caught:
        environment_for(stand_in("iniconfig==0.0.99"), str, cache=cache)
    assert len(caught.value.message.splitlines()) > 1 and left(cache) == []
