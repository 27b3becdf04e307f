"""The phases of a run as a bar, as a lane on a time axis, and in words. Pure."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flyteagent_nb.notebook.render import escape, look_of, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flyteagent_nb.running.run import RunSnapshot

PAUSE = 0.1
"""Seconds between two tries that are worth a word."""

_FINAL = frozenset({"SUCCEEDED", "FAILED", "RETRYABLE_FAILED", "ABORTED"})

TRACK = "background:#8882;border-radius:2px;height:8px"


def segments(s: RunSnapshot, now: float) -> list[tuple[str, float, float]]:
    """The phases as (phase, begin, end), in seconds since the epoch; what ran well is told as its end."""
    end = s.ended if s.ended is not None else now
    found = []
    for change, after in zip(s.phases, (*s.phases[1:], None), strict=False):
        phase = (
            s.phase
            if s.done and change.phase == "RUNNING" and after is not None and after.phase == s.phase
            else change.phase
        )
        upto = after.at if after is not None else end
        if upto > change.at:
            found.append((phase, change.at, upto))
    return found


def bar(s: RunSnapshot) -> str:
    """The phases so far as one bar, each as long as it took. Always as high, so that nothing jumps."""
    now = time.time()
    pieces = []
    found = segments(s, now)
    whole = sum(end - begin for _, begin, end in found)
    for phase, begin, end in found:
        seen = look_of(phase)
        title = f"{seen.word.lower()} {seconds(end - begin)}"
        pieces.append(
            f'<span class="fnb-bg-{seen.kind}" title="{escape(title)}" '
            f'style="width:{(end - begin) / whole * 100:.1f}%;background-color:{seen.colour}"></span>'
        )
    pieces.append(_cap(s, found))
    return (
        f'<div class="fnb-bg-none" role="img" aria-label="{escape(phases_text(s))}" '
        f'style="display:flex;height:4px;margin:6px 0;border-radius:2px;overflow:hidden">{"".join(pieces)}</div>'
    )


def _cap(s: RunSnapshot, found: Sequence[tuple[str, float, float]]) -> str:
    """The end of a bar whose run ended in a phase that took no time: one that failed before it ran."""
    if not s.done or (found and found[-1][0] == s.phase):
        return ""
    seen = look_of(s.phase)
    return f'<span class="fnb-bg-{seen.kind}" style="flex:0 0 4px;background-color:{seen.colour}"></span>'


def phases_text(s: RunSnapshot) -> str:
    """The phases with how long each took: ``queued 1.0 s, running 76 s``; of several tries, each try's."""
    end = s.ended if s.ended is not None else time.time()
    tries: dict[int, list[str]] = {}
    for change, after in zip(s.phases, (*(later.at for later in s.phases[1:]), None), strict=False):
        if after is None and s.done:
            break
        took = max(0.0, (end if after is None else after) - change.at)  # the clock may have been set meanwhile
        told = tries.setdefault(change.attempt, [])
        if change.phase not in _FINAL:  # a try that failed waits for the next one, if at all
            told.append(f"{look_of(change.phase).word.lower()} {seconds(took)}")
        elif took >= PAUSE:
            told.append(f"then waited {seconds(took)}")
    if len(tries) < 2:
        return ", ".join(told for each in tries.values() for told in each)
    return "; ".join(f"try {number}: {', '.join(told)}" for number, told in tries.items() if told)


def lane(s: RunSnapshot, began: float, end: float) -> str:
    """The phases of a run on an axis from ``began`` to ``end``, both in seconds since the epoch."""
    whole = max(end - began, 1e-6)
    at = began
    pieces = []
    for phase, start, stop in segments(s, end):
        start, stop = max(start, began), min(stop, end)
        if stop <= start:
            continue
        seen = look_of(phase)
        if start > at:
            pieces.append(f'<span style="width:{(start - at) / whole * 100:.2f}%"></span>')
        width = max((stop - start) / whole * 100, 0.6)
        title = f"{seen.word.lower()} {seconds(stop - start)}"
        pieces.append(
            f'<span class="fnb-bg-{seen.kind}" title="{escape(title)}" style="width:{width:.2f}%;background-color:{seen.colour}"></span>'
        )
        at = stop
    pieces.append(_cap(s, segments(s, end)))
    label = escape(f"{phases_text(s)}, from {seconds(max(s.submitted - began, 0.0))} on")
    return f'<div role="img" aria-label="{label}" style="display:flex;height:8px;border-radius:2px;overflow:hidden">{"".join(pieces)}</div>'
