"""What an exported service has to install, with the versions that are in use here, read from what is installed."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

from packaging.requirements import InvalidRequirement, Requirement

from flyteagent_nb.plugins import normal, version_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SERVER = ("flytekit", "flyteidl", "grpcio", "grpcio-health-checking", "prometheus-client", "httpx")
"""What flytekit's own server needs. Not its extra ``connector``, which would force an old health-checking."""


EXTRAS = {"flyteagent-nb": "duckdb"}
"""The extra that an agent of a distribution wants, where it is one."""


class Pins(NamedTuple):
    """What to install.

    Attributes:
        direct: what the agents and the server import, pinned.
        beneath: what those bring, pinned too.
        local: those of them that no index has in this version: they were installed from a folder or a repository.
        unknown: modules that are imported and in no distribution.
    """

    direct: tuple[str, ...]
    beneath: tuple[str, ...]
    local: tuple[str, ...]
    unknown: tuple[str, ...]


def pins_of(modules: Iterable[str]) -> Pins:
    """What modules need, beside flytekit's server.

    Args:
        modules: their full names.
    """
    owners = metadata.packages_distributions()
    direct, unknown = {normal(name) for name in SERVER}, set()
    for module in modules:
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or not top:
            continue
        found = owner_of(module, owners)
        if found:
            direct.add(found)
        else:
            unknown.add(top)
    beneath = _beneath(direct) - direct
    named = {name: f"{name}{_extra(name)}=={version}" for name in direct | beneath if (version := release_of(name))}
    return Pins(
        tuple(sorted(named[name] for name in direct if name in named)),
        tuple(sorted(named[name] for name in beneath if name in named)),
        tuple(sorted(name for name in direct if _is_local(name))),
        tuple(sorted(unknown)),
    )


def owner_of(module: str, owners: Mapping[str, list[str]] | None = None) -> str:
    """The distribution that a module comes from, as an index spells it; empty where it is in none."""
    found = (owners or metadata.packages_distributions()).get(module.partition(".")[0], [])
    if len(set(found)) > 1:  # a namespace that several share: google, flytekitplugins
        path = module.replace(".", "/")
        for name in found:
            files = metadata.files(name) or ()
            if any(str(file) in (f"{path}.py", f"{path}/__init__.py") for file in files):
                return normal(name)
    if not found and version_of(module.partition(".")[0]):  # installed from a folder, without a list of its files
        return normal(module.partition(".")[0])
    return normal(found[0]) if found else ""


def release_of(name: str) -> str:
    """The version that is installed, without a local part; empty where there is none."""
    return version_of(name).partition("+")[0]


def _beneath(names: Iterable[str]) -> set[str]:
    """All that distributions need, themselves with it, by their own declarations for this machine."""
    seen: set[str] = set()
    waiting = [(name, extra) for name in names for extra in ("", EXTRAS.get(name, ""))]
    done: set[tuple[str, str]] = set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in done:
            continue
        done.add((name, extra))
        try:
            declared = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        seen.add(name)
        for line in declared:
            try:
                requirement = Requirement(line)
            except InvalidRequirement:
                continue
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                other = normal(requirement.name)
                waiting += [(other, each) for each in ("", *requirement.extras)]
    return seen


def _extra(name: str) -> str:
    return f"[{EXTRAS[name]}]" if name in EXTRAS else ""


def _is_local(name: str) -> bool:
    try:
        text = metadata.distribution(name).read_text("direct_url.json")
        return text is not None and bool(json.loads(text))
    except (metadata.PackageNotFoundError, ValueError):
        return False
