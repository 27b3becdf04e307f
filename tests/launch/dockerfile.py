"""The Dockerfile that repo2docker writes: what it sets, and the steps that it does once the repository is there."""

from __future__ import annotations

import re
import shlex
import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_COMMENT = re.compile(r"^\s*#.*\n", re.MULTILINE)
_CONTINUED = re.compile(r"\\\n\s*")


@dataclass
class Dockerfile:
    """What of a Dockerfile concerns the repository.

    Attributes:
        variables: ENV, in order, not expanded.
        steps: the RUN lines after the repository was copied, not expanded; those before it make an image that repositories share.
        before: the RUN lines before that.
    """

    variables: dict[str, str] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)

    def environment(self, base: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
        """The variables, expanded one after the other, upon ``base``; ``given`` are fixed, whatever the file says of them."""
        made = {**base, **given}
        for name, value in self.variables.items():
            made[name] = given.get(name, string.Template(value).safe_substitute(made))
        return made


def parse(text: str) -> Dockerfile:
    """Read a Dockerfile.

    Raises:
        ValueError: the repository is never copied into the image.
    """
    found, is_copied = Dockerfile(), False
    for line in _CONTINUED.sub(" ", _COMMENT.sub("", text)).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "COPY":
            is_copied = is_copied or rest.split()[-2:] == ["src/", "${REPO_DIR}/"]
        elif word == "RUN":
            (found.steps if is_copied else found.before).append(rest)
        elif word == "ENV":
            found.variables.update(part.split("=", 1) for part in shlex.split(rest))
    if not is_copied:
        raise ValueError(f"no COPY of src/ to ${{REPO_DIR}}/:\n{text}")
    return found
