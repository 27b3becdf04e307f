"""The record of a run's attempts."""

from __future__ import annotations

import asyncio

from flyteagent_nb.running.journal import AttemptRecord, Journal, MemoryJournal


def record(number: int) -> AttemptRecord:
    return AttemptRecord(number, "kernel", f"/runs/r-{number}")


def test_the_steps_of_an_attempt() -> None:
    journal: Journal = MemoryJournal()

    async def steps() -> None:
        await journal.intend("r", record(1))
        assert [(a.outcome, a.resource_meta) for a in journal.attempts("r")] == [("intended", None)]
        await journal.created("r", b"meta")
        assert [(a.outcome, a.resource_meta) for a in journal.attempts("r")] == [("created", b"meta")]
        await journal.ended("r", "RETRYABLE_FAILED", "no quota")
        await journal.intend("r", record(2))
        await journal.created("r", b"")
        await journal.ended("r", "SUCCEEDED")

    asyncio.run(steps())
    first, second = journal.attempts("r")
    assert (first.outcome, first.message, first.resource_meta) == ("RETRYABLE_FAILED", "no quota", b"meta")
    assert (second.number, second.outcome, second.resource_meta) == (2, "SUCCEEDED", b"")


def test_runs_are_apart_and_can_be_forgotten() -> None:
    journal = MemoryJournal()
    asyncio.run(journal.intend("a", record(1)))
    asyncio.run(journal.intend("b", record(1)))
    journal.forget(["a"])
    journal.forget(["never"])
    assert journal.attempts("a") == () and len(journal.attempts("b")) == 1


def test_what_a_reader_holds_does_not_grow() -> None:
    journal = MemoryJournal()
    asyncio.run(journal.intend("a", record(1)))
    held = journal.attempts("a")
    asyncio.run(journal.intend("a", record(2)))
    assert len(held) == 1
