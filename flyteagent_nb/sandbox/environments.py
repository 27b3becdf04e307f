"""Where a stand-in's packages are: this environment where they fit, else one of its own in the user's cache, made once.

One of its own is made beside its place and moved there when it is whole, so a half-made one is never used; a lock keeps a second kernel
waiting. It has moved, so the scripts in its ``bin`` do not work: start what is in it with ``python -m``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from flyteagent_nb.errors import ServiceError, TaskStopped
from flyteagent_nb.folders import private_folder
from flyteagent_nb.sandbox.locks import locked
from flyteagent_nb.sandbox.processes import WatchedProcess, never, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from packaging.requirements import Requirement

    from flyteagent_nb.sandbox.stand_in import StandIn

INSTALL = 900.0
"""Seconds that an installation may take."""

_AT = re.compile(r"(Resolved|Collecting|Downloading|Building|Prepared|Installing) [^(:]{1,80}")
"""The lines of an installer that tell a person what it is at."""

_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
"""What would make another environment's Python look into this one."""


@dataclass(frozen=True)
class Environment:
    """Where a stand-in runs.

    Attributes:
        python: the interpreter that has its packages.
        version: the product's version there.
        is_own: whether it is an environment of its own, not the kernel's.
    """

    python: str
    version: str
    is_own: bool

    def variables(self) -> dict[str, str]:
        """The environment variables for a process there: this process's, less what would lead it astray and the user's secrets."""
        return clean(os.environ) if self.is_own else without_secrets(os.environ)


def clean(variables: Mapping[str, str]) -> dict[str, str]:
    """``variables`` for the Python of another environment."""
    return {name: value for name, value in without_secrets(variables).items() if name not in _FOREIGN}


def without_secrets(variables: Mapping[str, str]) -> dict[str, str]:
    """``variables`` without what flytekit reads secrets from: a stand-in has no need of them."""
    return {name: value for name, value in variables.items() if not name.startswith("_FSEC_")}


def cache_folder() -> Path:
    """Where environments of their own are kept."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("flyteagent_nb", appauthor=False), "sandboxes")


def environment_for(
    stand_in: StandIn,
    say: Callable[[str], object],
    *,
    stopped: Callable[[], bool] = never,
    cache: Path | None = None,
    here: bool = True,
) -> Environment:
    """The environment in which a stand-in can run; made where there is none.

    Args:
        stand_in: the stand-in.
        say: told what goes on.
        stopped: whether somebody asked to stop.
        cache: where environments of their own are kept, instead of :func:`cache_folder`.
        here: whether this environment will do.

    Raises:
        ServiceError: it could not be made; the error has the installer's last words.
        TaskStopped: somebody asked to stop.
    """
    if here and (version := fitting_version(stand_in)):
        return Environment(sys.executable, version, is_own=False)
    cache = cache or cache_folder()
    place = cache / _name(stand_in)
    if not _python_in(place).exists():
        try:
            private_folder(cache)  # who may write here could change what runs
            with locked(cache / f"{place.name}.lock", _Waiting(say, stopped)):
                if not _python_in(place).exists():  # another kernel may have made it meanwhile
                    _make(stand_in, place, say, stopped)
        except OSError as error:
            raise ServiceError(
                f"the environment of the {stand_in.service} sandbox could not be made: {error}",
                service=stand_in.name,
                hint=_hint(stand_in),
            ) from error
    return Environment(str(_python_in(place)), _pin(stand_in), is_own=True)


def _hint(stand_in: StandIn) -> str:
    """What to do where none can be made."""
    index = "uv takes its index from UV_DEFAULT_INDEX or uv.toml, not from pip's configuration"
    least, below = stand_in.pythons
    if not least <= sys.version_info[:2] < below:
        return index
    return (
        f"pip install 'flyteagent_nb[sandbox]' puts the stand-ins into this environment, and then none is made; {index}"
    )


# --- this environment ---


def fitting_version(stand_in: StandIn) -> str:
    """The version of a stand-in's product in this environment, where it and all that it needs fit; else an empty string.

    The product must be the pinned release or a later one before the next major release. For the rest it is enough to be there: which
    versions go together is what the user's installer found out.
    """
    from packaging.version import InvalidVersion, Version

    least, below = stand_in.pythons
    if not least <= sys.version_info[:2] < below:
        return ""
    try:
        if not all(_is_here(each) for each in _requirements(stand_in)):
            return ""
        version = metadata.version(stand_in.product)
        pinned, found = Version(_pin(stand_in)), Version(version)
    except (metadata.PackageNotFoundError, InvalidVersion):
        return ""
    return version if found >= pinned and found.major == pinned.major else ""


def _is_here(requirement: Requirement) -> bool:
    """Whether a requirement is installed here, and what its extras bring."""
    from packaging.requirements import Requirement

    try:
        needed = metadata.requires(requirement.name) or ()
    except metadata.PackageNotFoundError:
        return False
    for each in map(Requirement, needed):
        marker = each.marker
        if marker is None or marker.evaluate({"extra": ""}):
            continue
        if any(marker.evaluate({"extra": extra}) for extra in requirement.extras) and not _is_here(each):
            return False
    return True


def _requirements(stand_in: StandIn) -> list[Requirement]:
    """What must be installed on this Python."""
    from packaging.requirements import Requirement

    found = map(Requirement, stand_in.requirements)
    return [each for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]


def _pin(stand_in: StandIn) -> str:
    """The version of the product that its requirements pin."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    for each in map(Requirement, stand_in.requirements):
        if canonicalize_name(each.name) == canonicalize_name(stand_in.product):
            return next((s.version for s in each.specifier if s.operator == "=="), "0")
    raise ValueError(f"the requirements of {stand_in.name} do not name {stand_in.product}")


# --- an environment of its own ---


def _name(stand_in: StandIn) -> str:
    """The name of its folder: other requirements or another Python make another environment."""
    told = "\n".join([*sorted(stand_in.requirements), _python_spec(stand_in), sys.base_prefix, sys.platform])
    return f"{stand_in.product}-{_pin(stand_in)}-{hashlib.sha256(told.encode()).hexdigest()[:10]}"


def _python_spec(stand_in: StandIn) -> str:
    """Which Python it gets, as uv writes it: this one's version where that will do."""
    least, below = stand_in.pythons
    if least <= sys.version_info[:2] < below:
        return ".".join(map(str, sys.version_info[:2]))
    return f">={least[0]}.{least[1]},<{below[0]}.{below[1]}"


def _python_in(place: Path) -> Path:
    return place / "Scripts" / "python.exe" if os.name == "nt" else place / "bin" / "python"


class _Waiting:
    """What is done while another kernel has the lock: it is told once."""

    def __init__(self, say: Callable[[str], object], stopped: Callable[[], bool]) -> None:
        self._say = say
        self._stopped = stopped
        self._told = False

    def __call__(self) -> None:
        if self._stopped():
            raise TaskStopped("stopped by the user, while another kernel was installing")
        if not self._told:
            self._told = True
            self._say("another kernel is installing it: waiting for that")


def _make(stand_in: StandIn, place: Path, say: Callable[[str], object], stopped: Callable[[], bool]) -> None:
    what = f"{stand_in.product} {_pin(stand_in)}"
    _forget(place)
    for left in place.parent.glob(f"{place.name}.half-*"):  # we have the lock: nobody works on it
        _forget(left)
    half = place.with_name(f"{place.name}.half-{secrets.token_hex(4)}")
    uv = find_uv()
    steps = _with_uv(uv, stand_in, half) if uv else _with_pip(stand_in, half)
    for step, command in steps:
        say(f"{step} for {what}, once, in {place.parent}")
        _install(stand_in, command, half, say, stopped)
    half.rename(place)


def _with_uv(uv: str, stand_in: StandIn, half: Path) -> list[tuple[str, list[str]]]:
    least, below = stand_in.pythons
    python = sys.executable if least <= sys.version_info[:2] < below else _python_spec(stand_in)
    return [
        ("making an environment with uv", [uv, "venv", "--no-project", "--python", python, str(half)]),
        (
            "installing packages with uv",
            [uv, "pip", "install", "--python", str(_python_in(half)), *stand_in.requirements],
        ),
    ]


def _with_pip(stand_in: StandIn, half: Path) -> list[tuple[str, list[str]]]:
    python = _another_python(stand_in)
    pip = [str(_python_in(half)), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    return [
        ("making an environment", [python, "-m", "venv", str(half)]),
        ("installing packages with pip", [*pip, *stand_in.requirements]),
    ]


def _another_python(stand_in: StandIn) -> str:
    """An interpreter that the stand-in runs on: this one, or one that the PATH has.

    Raises:
        ServiceError: there is none.
    """
    (major, least), (_, below) = stand_in.pythons
    if (major, least) <= sys.version_info[:2] < stand_in.pythons[1]:
        return sys.executable
    for minor in range(least, below):
        found = shutil.which(f"python{major}.{minor}")
        if found and _runs([found, "-c", f"import sys, venv; sys.exit(sys.version_info[:2] != ({major}, {minor}))"]):
            return found
    raise ServiceError(
        f"the {stand_in.service} sandbox needs Python {major}.{least} to {major}.{below - 1} ({stand_in.product} runs on no other), "
        f"and this kernel has {sys.version_info[0]}.{sys.version_info[1]}",
        service=stand_in.name,
        hint="pip install uv: it brings a Python that fits; or put one on the PATH",
    )


def find_uv() -> str:
    """The path of a uv that runs, or an empty string."""
    here = Path(sys.executable).parent
    places = (str(here), os.environ.get("PATH", ""), str(Path.home() / ".local/bin"), str(Path.home() / ".cargo/bin"))
    for place in places:
        found = shutil.which("uv", path=place)
        if found and _runs([found, "--version"]):  # it may be a shim with nothing behind it
            return found
    return ""


def _runs(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=20, stdin=subprocess.DEVNULL).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _install(
    stand_in: StandIn,
    command: Sequence[str],
    half: Path,
    say: Callable[[str], object],
    stopped: Callable[[], bool],
) -> None:
    """Run one command of an installer, which ends with this kernel.

    Raises:
        ServiceError: it failed or took too long.
        TaskStopped: somebody asked to stop.
    """
    variables = clean(os.environ) | {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "UV_NO_PROGRESS": "1"}
    state = Path(tempfile.mkdtemp(prefix="fa-install-"))
    with contextlib.ExitStack() as undo:
        undo.callback(_forget, half)
        process = WatchedProcess(command, state=state, cwd=half.parent, environment=variables, remove=[half])
        undo.callback(process.close)

        told = ""

        def tell() -> bool:
            """Tell what it is at; it is ready when it has ended."""
            nonlocal told
            found = _AT.match(process.tail(1).strip())
            if found and found[0] != told:
                told = found[0]
                say(told.strip())
            return False

        outcome = wait_until(process, tell, seconds=INSTALL, stopped=stopped)
        if outcome == "stopped":
            raise TaskStopped(f"stopped by the user; {stand_in.product} is not installed")
        if outcome == "late" or process.exit_code:
            how = f"took more than {INSTALL:g} s" if outcome == "late" else "failed"
            raise ServiceError(
                f"the installation of {stand_in.product} {_pin(stand_in)} for the {stand_in.service} sandbox {how}:\n{process.tail()}",
                service=stand_in.name,
                hint=_hint(stand_in),
            )
        process.close(keep=True)
        undo.pop_all()


def _forget(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
