"""Several things that a task type wants, of which one does: a token or a client's id and secret, one cloud's keys or another's."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flyteagent_nb.serving.need import Need, secret, variable

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

OR = "; or "
"""What stands between the ways in the name of a need that is one of them."""


@dataclass(frozen=True)
class Way:
    """One way out of several.

    Attributes:
        needs: what it takes, all of it.
        setting: the variable and the value that choose it, as ``NAME=VALUE``; empty where nothing has to.
    """

    needs: tuple[Need, ...]
    setting: str = ""

    @property
    def met(self) -> bool:
        """Whether all that it takes is there."""
        return all(need.met for need in self.needs)

    def __str__(self) -> str:
        words = " and ".join(f"{need.kind} {need.name}" for need in self.needs)
        return f"{words} with {self.setting}" if self.setting else words


def one_of(ways: Sequence[Way]) -> Need:
    """The ways as one need, which is met where one of them is."""
    name = OR.join(map(str, ways))
    met = next((way for way in ways if way.met), None)
    if met is not None:
        return Need("one of", name, True, True, f"there is {met}")
    lacking = [need for need in ways[0].needs if not need.met]
    mend = "; ".join(need.mend for need in lacking if need.mend)
    secrets = tuple(need.name for way in ways for need in way.needs if need.kind == "secret" and not need.met)
    return Need("one of", name, False, True, "none of them is there", mend, secrets)


# --- of released plug-ins, where a setting chooses the way: the source alone does not tell that they belong together ---


@dataclass(frozen=True)
class _Told:
    secrets: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    value: str = ""


_CHOSEN_BY = "FLYTE_DATABRICKS_AUTH_TYPE"
_DATABRICKS = (
    _Told(secrets=("FLYTE_DATABRICKS_ACCESS_TOKEN",), value="pat"),
    _Told(variables=("DATABRICKS_CLIENT_ID", "DATABRICKS_CLIENT_SECRET"), value="oauth_m2m"),
    _Told(variables=("DATABRICKS_CLIENT_ID", "FLYTE_DATABRICKS_OIDC_TOKEN_FILE"), value="oidc_federation"),
)  # fmt: skip
_RELEASED = {"databricks": _DATABRICKS, "spark": _DATABRICKS}


def with_released_ways(task_type: str, found: Iterable[Need], given: Container[str]) -> list[Need]:
    """Put what a released plug-in wants of a kind that a setting chooses together, where its source reads that setting.

    Args:
        task_type: the task type.
        found: what was read off the source.
        given: the names of the secrets that a person gave.
    """
    needs = list(found)
    told = _RELEASED.get(task_type, ())
    if not told or not any(need.name == _CHOSEN_BY for need in needs):
        return needs
    chosen = os.environ.get(_CHOSEN_BY, "")
    ways = [
        Way(
            tuple(secret("", name, given) for name in each.secrets)
            + tuple(variable(name, required=True) for name in each.variables),
            "" if each is told[0] else f"{_CHOSEN_BY}={each.value}",
        )
        for each in told
        if chosen in ("", each.value)
    ]
    if not ways:  # it chooses what nobody knows: the plug-in itself says so
        return needs
    names = {name for each in told for name in (*each.secrets, *each.variables, _CHOSEN_BY)}
    several = len(ways) > 1
    kept = [replace(need, required=False, alternative=several) if need.name in names else need for need in needs]
    if several:
        return [*kept, one_of(ways)]
    wanted = {need.name for need in ways[0].needs}
    return [*(need for need in kept if need.name not in wanted), *ways[0].needs]
