"""What was looked at and found, as the doctor and the check tell it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Sign = Literal["ok", "warn", "bad", "skip"]


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        sign: ``ok``, ``warn`` for what may matter, ``bad`` for what does, ``skip`` for what could not be looked at.
        what: what was looked at.
        told: what was found.
        mend: the command or the line that mends it, or an empty string.
    """

    sign: Sign
    what: str
    told: str
    mend: str = ""
