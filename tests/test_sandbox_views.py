"""What is shown of sandboxes, and of runs that went to one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from flyteagent_nb.errors import RunFailedError
from flyteagent_nb.notebook import run_views
from flyteagent_nb.notebook.panel_state import PanelState
from flyteagent_nb.notebook.panel_views import panel_html, panel_text
from flyteagent_nb.notebook.sandbox_views import SandboxList, SandboxView, sandbox_rows, stopped_view
from flyteagent_nb.running.run import PhaseChange, RunSnapshot
from flyteagent_nb.sandbox.sandboxes import SandboxStatus

if TYPE_CHECKING:
    from typing import Any

NOW = 1_750_000_000.0
EVIL = "<script>alert(1)</script>"
STOPPED = SandboxStatus(
    "openai", "OpenAI", "llmock", "", "stopped", ("chatgpt", "openai-batch"), covers="chat", misses="no model"
)
RUNNING = replace(
    STOPPED, version="0.2.2", state="running", ports=(4242,), variables=("OPENAI_BASE_URL",), since=NOW - 120
)
ENDED = replace(RUNNING, state="ended", last_words="no such luck")


def test_one_that_runs() -> None:
    own = replace(RUNNING, is_own=True, tables=("a.b, 3 rows", "a.c, 1 row"))
    assert sandbox_rows(own, NOW) == [
        ("sandbox", "openai: ● running on 127.0.0.1:4242, since 2 min ago"),
        ("stand-in", "llmock 0.2.2 in an environment of its own: not OpenAI itself, and no account is used"),
        ("task types", "chatgpt, openai-batch: their runs go to it, and say so"),
        ("it covers", "chat"),
        ("it differs", "no model"),
        ("tables", "a.b, 3 rows\na.c, 1 row"),
        ("variables", "OPENAI_BASE_URL: set for this kernel and what it starts"),
        ("stop it", "%agent sandbox openai stop"),
    ]


def test_one_that_does_not_run() -> None:
    assert sandbox_rows(STOPPED, NOW) == [
        ("sandbox", "openai: ○ stopped"),
        ("stand-in", "llmock: not OpenAI itself, and no account is used"),
        ("task types", "chatgpt, openai-batch"),
        ("it covers", "chat"),
        ("it differs", "no model"),
        ("start it", "%agent sandbox openai start"),
    ]


def test_one_that_ended_by_itself() -> None:
    rows = dict(sandbox_rows(ENDED, NOW))
    assert rows["sandbox"] == "openai: ✗ ended, since 2 min ago" and rows["last words"] == "no such luck"


def test_all_of_them() -> None:
    shown = SandboxList([STOPPED, RUNNING, ENDED])
    assert shown[1].state == "running" and len(shown) == 3
    lines = repr(shown).splitlines()
    assert lines[1] == "openai   ○ stopped  llmock for OpenAI        chatgpt, openai-batch"
    assert lines[2] == "openai   ● running  llmock 0.2.2 for OpenAI  chatgpt, openai-batch"
    assert lines[4].startswith("%agent sandbox NAME starts one")
    assert shown._repr_html_().count("<tr>") == 4


def test_what_was_stopped() -> None:
    assert stopped_view([RUNNING]).rows == [
        ("openai", "stopped: the variables are as they were, and runs of chatgpt, openai-batch go to OpenAI again")
    ]
    assert stopped_view([]).rows == [("stopped", "nothing: no sandbox was running")]


def test_last_words_that_fill_a_screen_are_cut() -> None:
    words = dict(sandbox_rows(replace(ENDED, last_words="one\n" + "x" * 2000), NOW))["last words"]
    assert words.startswith("one\nxxx") and words.endswith("x…") and len(words) == 304


def test_the_words_of_a_server_are_no_code() -> None:
    evil = replace(ENDED, last_words=EVIL, tables=(EVIL,))
    assert EVIL in SandboxView(evil).text() and "<script" not in SandboxView(evil).html()


# --- runs ---

TOLD = f"llmock 0.2.2, a stand-in for OpenAI {EVIL}"


def run(stand_in: str = TOLD, **more: Any) -> RunSnapshot:
    phases = (PhaseChange("QUEUED", NOW), PhaseChange("RUNNING", NOW + 1), PhaseChange("SUCCEEDED", NOW + 3))
    given = {"phase": "SUCCEEDED", "phases": phases, "submitted": NOW, "ended": NOW + 3, "seconds": 3.0, **more}
    return RunSnapshot("3f2a000000", "ask", "chatgpt", stand_in=stand_in, **given)


def group(s: RunSnapshot) -> str:
    return run_views.group_html("wf", [s], summary="", began=NOW, end=NOW + 3, shown=5, kernel="", block="")


def panel(s: RunSnapshot) -> PanelState:
    return PanelState("serving", NOW + 9, snapshots=[s], phases={s.phase: 1})


@pytest.mark.parametrize("live", [True, False])
def test_a_run_says_what_it_ran_on_wherever_it_is_shown(live: bool) -> None:
    more: dict[str, Any] = (
        {"phase": "RUNNING", "ended": None, "seconds": None, "phases": run().phases[:2]} if live else {}
    )
    on, off = run(**more), run("", **more)
    assert f"on {TOLD}" in run_views.run_text(on)
    assert ("stand-in", f"it ran on {TOLD}") in run_views.details(on, (), ())
    assert run_views.run_row(on, NOW)[2] == "chatgpt (stand-in)" and run_views.run_row(off, NOW)[2] == "chatgpt"
    pages = {
        "run": lambda s: run_views.run_html(s, kernel="k", block="b"),
        "group": group,
        "panel": lambda s: panel_html(panel(s), kernel="k", block="b"),
    }
    for name, page in pages.items():
        assert "a stand-in for OpenAI" in page(on), name
        assert "stand-in" not in page(off) and "<script" not in page(on), name
    assert "(chatgpt, stand-in)" in panel_text(panel(on)) and "stand-in" not in panel_text(panel(off))
    assert "stand-in" not in run_views.run_text(off) + str(run_views.details(off, (), ()))


def test_an_error_ends_with_what_it_ran_on() -> None:
    about: dict[str, Any] = {"run_id": "3f2a", "task": "ask", "task_type": "chatgpt", "phase": "FAILED"}
    error = RunFailedError("it failed", stand_in="llmock 0.2.2, a stand-in for OpenAI", hint="look", **about)
    assert str(error).splitlines() == [
        "it failed",
        "it ran on llmock 0.2.2, a stand-in for OpenAI: %agent sandbox tells what that does not do",
        "hint: look",
    ]
    assert str(RunFailedError("it failed", **about)) == "it failed"
