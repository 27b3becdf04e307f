"""Runs as the journal is told of them, with nothing of flytekit: for processes that write at once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flyteagent_nb.running.journal import AttemptRecord, Sent
from flyteagent_nb.running.run import PhaseChange, RunSnapshot

if TYPE_CHECKING:
    from flyteagent_nb.running.sqlite_journal import SQLiteJournal

SENT = Sent(b"template", b"inputs", {"n": {"is": "builtins:int"}})


def snapshot(run_id: str = "aaaaaaaaaa", **changes: Any) -> RunSnapshot:
    return RunSnapshot(
        run_id, "my_task", "scripted", phases=(PhaseChange("QUEUED", 1.0),), submitted=time.time()
    )._replace(**changes)


async def start(journal: SQLiteJournal, s: RunSnapshot, meta: bytes | None = b"meta") -> None:
    """A run up to its resource meta, or up to its intent."""
    journal.begin(s, SENT)
    await journal.intend(s.id, AttemptRecord(1, "kernel", "/prefix"))
    if meta is not None:
        await journal.created(s.id, meta)
