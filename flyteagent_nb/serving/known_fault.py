"""One known fault of a released connector: what is wrong, what a person sees of it here and in production, and the way out."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class KnownFault:
    """A fault of a released connector.

    Attributes:
        name: what the fault is called in tests.
        task_type: the task type that it hits.
        distribution: the package that has it.
        versions: the versions in which it was seen.
        what: what is wrong, in one sentence.
        here: what a person sees in a notebook.
        production: what happens on a cluster.
        remedy: what to do.
        sign: a regular expression that is found in the words of a failure that it explains; empty where no failure shows it.
    """

    name: str
    task_type: str
    distribution: str
    versions: tuple[str, ...]
    what: str
    here: str
    production: str
    remedy: str
    sign: str = ""

    def explains(self, words: str) -> bool:
        """Whether a failure of these words comes of this fault."""
        return bool(self.sign and re.search(self.sign, words))

    def told(self, version: str) -> str:
        """The fault in one line, for the ``version`` that is installed."""
        seen = "" if version in self.versions else f" (seen in {', '.join(self.versions)}; it may be mended in yours)"
        return f"{self.distribution} {version}{seen}: {self.what} In production: {self.production} {self.remedy}"
