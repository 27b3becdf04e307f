"""What the doctor finds out about the Python environment: versions, what is declared and not kept, forks, proxies."""

from __future__ import annotations

import os
import platform
import re
import urllib.request
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from flyteagent_nb.findings import Finding, Sign
from flyteagent_nb.loop import prepare_fork
from flyteagent_nb.notebook.render import GREEN, GREY, ORANGE, RED
from flyteagent_nb.plugins import PLUGINS, normal, version_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SIGNS: dict[Sign, tuple[str, str]] = {"ok": ("✓", GREEN), "warn": ("!", ORANGE), "bad": ("✗", RED), "skip": ("–", GREY)}
"""How each is shown: a character and its colour."""

SHOWN = (
    "flyteagent_nb", "flytekit", "flyteidl", "grpcio", "protobuf", "ipykernel", "ipywidgets", "anywidget",
)  # fmt: skip
"""The distributions whose versions are told."""

ROOTS = (*SHOWN, "grpcio-health-checking", "grpcio-reflection", "httpx", "prometheus-client", "nest-asyncio")
"""Where the search for broken declarations begins; the plug-ins that are installed come to it."""


class BadPair(NamedTuple):
    """Two distributions that do not live together in these versions, though neither declares it."""

    one: str
    other: str
    why: str
    mend: str


BAD_PAIRS = (
    BadPair("pyarrow>=26", "numpy<2", "pyarrow refuses numpy 1 at its import, and does not declare it", "pip install 'pyarrow<26'"),
)  # fmt: skip
"""Measured combinations that fail."""


def environment_findings(environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """All of them, in the order in which they are shown."""
    return [versions(), *flyte_2(), *conflicts(), *bad_pairs(), fork(environ), proxies()]


def versions() -> Finding:
    """The versions of what matters."""
    told = ", ".join(f"{name} {version_of(name) or 'not installed'}" for name in SHOWN)
    return Finding("ok", "versions", f"Python {platform.python_version()}, {told}")


def flyte_2() -> list[Finding]:
    """A word about connectors of Flyte 2, where its package is installed beside: they look alike, and register elsewhere."""
    version = version_of("flyte")
    if not version:
        return []
    told = f"flyte {version} is installed too: its connectors (flyte.connectors) are another interface, which does not run here"
    return [Finding("warn", "Flyte 2", told, "write the class with flytekit: flytekit.extend.backend.base_agent")]


def conflicts(roots: Sequence[str] = ROOTS) -> list[Finding]:
    """What our distributions, the plug-ins and all that they need declare and is not so; one ``ok`` where all is kept."""
    names = [*roots, *sorted(_plugins())]
    seen: set[str] = set()
    found: list[Finding] = []
    while names:
        name = normal(names.pop(0))
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found += _python(distribution)
        for requirement in _requirements(distribution):
            installed = version_of(requirement.name)
            names.append(requirement.name)
            if not installed:
                told = f"{distribution.name} {distribution.version} needs {_plain(requirement)}, which is not installed"
                found.append(Finding("bad", "packages", told, f"pip install '{_plain(requirement)}'"))
            elif not requirement.specifier.contains(installed, prereleases=True):
                told = f"{distribution.name} {distribution.version} needs {_plain(requirement)}, and {installed} is installed"
                found.append(Finding("bad", "packages", told, f"pip install '{_plain(requirement)}'"))
    return found or [Finding("ok", "packages", f"{len(seen)} are as they are declared")]


def _plugins() -> set[str]:
    return {
        name
        for distribution in metadata.distributions()
        if (name := _field(distribution, "Name")) and normal(name).startswith("flytekitplugins-")
    }


def _requirements(distribution: metadata.Distribution) -> Iterator[Requirement]:
    """What a distribution requires here: also of those extras of ours whose plug-in is installed."""
    extras = [""]
    if normal(distribution.name) == normal("flyteagent_nb"):
        extras += [plugin.extra for plugin in PLUGINS if plugin.extra and version_of(plugin.distribution)]
    for text in distribution.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            yield requirement


def _python(distribution: metadata.Distribution) -> Iterator[Finding]:
    wanted = _field(distribution, "Requires-Python")
    try:
        if not wanted or SpecifierSet(wanted).contains(platform.python_version(), prereleases=True):
            return
    except InvalidSpecifier:
        return
    told = (
        f"{distribution.name} {distribution.version} declares Python {wanted}, and this is {platform.python_version()}"
    )
    if distribution.name == "flytekit":
        told += "; it works all the same"
    yield Finding("warn", "packages", told)


def _field(distribution: metadata.Distribution, name: str) -> str:
    # The backport importlib_metadata, which flytekit brings in, raises where a field is missing.
    return distribution.metadata[name] if name in distribution.metadata else ""


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def bad_pairs(pairs: Sequence[BadPair] = BAD_PAIRS) -> list[Finding]:
    """The combinations of BAD_PAIRS that are installed."""
    found = []
    for pair in pairs:
        one, other = Requirement(pair.one), Requirement(pair.other)
        if all((v := version_of(r.name)) and r.specifier.contains(v, prereleases=True) for r in (one, other)):
            told = f"{one.name} {version_of(one.name)} and {other.name} {version_of(other.name)}: {pair.why}"
            found.append(Finding("bad", "packages", told, pair.mend))
    return found


def fork(environ: Mapping[str, str] = os.environ) -> Finding:
    """Whether a fork, as ``!command`` makes one, can kill the child while a call is under way."""
    if prepare_fork():
        value = environ.get("GRPC_ENABLE_FORK_SUPPORT")
        return Finding("ok", "forks", f"safe: GRPC_ENABLE_FORK_SUPPORT={value} since before grpc was imported")
    return Finding(
        "warn",
        "forks",
        "grpc was imported before the extension, with its own fork support on: forks wait for calls under way, "
        "a second at the most, and !command goes through subprocess",
        "restart the kernel and load the extension first, or set GRPC_ENABLE_FORK_SUPPORT=0 before",
    )


def proxies() -> Finding:
    """Whether a proxy stands between an agent and a service on this machine. Our own channels never use one."""
    set_here = {name: url for name, url in urllib.request.getproxies().items() if name != "no"}
    # Read by gRPC alone; our channels are told not to, an agent's own may follow it.
    if url := os.environ.get("grpc_proxy"):
        set_here["grpc"] = url
    if not set_here:
        return Finding("ok", "proxy", "none is set")
    told = ", ".join(f"{name}: {_without_password(url)}" for name, url in sorted(set_here.items()))
    caught = [host for host in ("127.0.0.1", "localhost") if not urllib.request.proxy_bypass(host)]
    if not caught:
        return Finding("ok", "proxy", f"{told}; not for this machine, and never for our own channels")
    # Hosts that the user has there stay.
    before = filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY")])
    return Finding(
        "warn",
        "proxy",
        f"{told}; our own channels pass it by, but an agent's HTTP calls to {' and '.join(caught)} (a sandbox, a local service) "
        "would go through it",
        f"import os; os.environ['no_proxy'] = os.environ['NO_PROXY'] = {','.join([*before, *caught])!r}",
    )


def _without_password(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "a proxy whose address cannot be read"
    if not parts.hostname:
        return re.sub(r".*@", "", url)
    return f"{parts.scheme}://{parts.hostname}{port}"
