"""What is shown of runs and agents: the words, and HTML in which nothing that an agent says is code."""

from __future__ import annotations

import os
import time
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
import pytest

from flyteagent_nb.errors import RunAbortedError, RunFailedError
from flyteagent_nb.notebook import bars, previews, render, run_views, views
from flyteagent_nb.running.run import PhaseChange, RunSnapshot

if TYPE_CHECKING:
    from pathlib import Path

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&amp;<b style='position:fixed'>"
LINKS = (
    ("console", "https://console/x?a=1&b=2"),
    (EVIL, "javascript:alert(1)"),
    ("tab", "java\tscript:alert(1)"),
    ("case", "JaVaScRiPt:alert(1)"),
    ("data", "data:text/html,<script>alert(1)</script>"),
    ("evil", f"http://x/{EVIL}"),
    ("broken", "http://[oops"),
    ("file", "file:///etc/passwd"),
    ("s3", "s3://bucket/logs"),
    ("", "https://nameless/"),
)

TAGS = {
    "div",
    "span",
    "b",
    "br",
    "a",
    "button",
    "pre",
    "details",
    "summary",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
}
VOID = {"br"}
ATTRIBUTES = {
    "style",
    "class",
    "title",
    "role",
    "href",
    "target",
    "rel",
    "type",
    "colspan",
    "aria-label",
    "aria-disabled",
    "aria-live",
}
OURS = "data-fa-"


class Checked(HTMLParser):
    """Reads HTML and complains of what ours never has.

    Attributes:
        text: what a reader sees, and what stands in titles and labels.
        links: where its links lead.
    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.links: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        for name, value in attrs:
            assert name in ATTRIBUTES or name.startswith(OURS), (tag, name)
            if name == "href":
                assert (value or "").startswith(("http://", "https://")), value
                self.links.append(value or "")
            if name == "style":
                assert EVIL not in (value or "")
                # JupyterLab takes these away in a notebook that is not trusted.
                assert "var(" not in (value or "") and "url(" not in (value or "")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def snapshot(**changes: Any) -> RunSnapshot:
    """A run in full, with an evil word wherever somebody else has one."""
    now = 1_700_000_000.0
    values: dict[str, Any] = {
        "id": "0123456789",
        "name": EVIL,
        "task_type": EVIL,
        "service": EVIL,
        "agent": EVIL,
        "phase": "RUNNING",
        "phases": (PhaseChange("QUEUED", now), PhaseChange("RUNNING", now + 1)),
        "message": EVIL,
        "log_links": LINKS,
        "custom_info": {EVIL: EVIL},
        "attempt": 1,
        "attempts": 3,
        "submitted": now,
        "notes": (EVIL,),
    }
    return RunSnapshot(**{**values, **changes})


def failed(kind: type[RunFailedError] = RunFailedError) -> RunSnapshot:
    now = 1_700_000_000.0
    error = kind(
        f"task '{EVIL}' (x) failed: {EVIL}",
        run_id="0123456789",
        task=EVIL,
        task_type=EVIL,
        phase="FAILED",
        agent_message=EVIL,
        frames=(f"{EVIL}:3 in {EVIL}",),
        log_links=LINKS,
        hint=EVIL,
    )
    return snapshot(
        phase="FAILED",
        phases=(PhaseChange("QUEUED", now), PhaseChange("RUNNING", now + 1), PhaseChange("FAILED", now + 76)),
        ended=now + 76,
        seconds=76.0,
        error=error,
        error_code=EVIL,
    )


SNAPSHOTS = [
    pytest.param(snapshot(), id="running"),
    pytest.param(snapshot(stopping=True), id="stopping"),
    pytest.param(snapshot(phase="QUEUED", phases=(PhaseChange("QUEUED", 1_700_000_000.0),)), id="queued"),
    pytest.param(snapshot(phase=EVIL, phases=(PhaseChange(EVIL, 1_700_000_000.0),)), id="unheard-of"),
    pytest.param(failed(), id="failed"),
    pytest.param(failed(RunAbortedError), id="aborted"),
    pytest.param(snapshot(phase="SUCCEEDED", ended=1_700_000_002.0, seconds=2.0), id="succeeded"),
]


class FakeRun:
    """What a list shows of a run."""

    def __init__(self, s: RunSnapshot) -> None:
        self.snapshot = s


@pytest.mark.parametrize("s", SNAPSHOTS)
@pytest.mark.parametrize("kernel", ["", "abc"])
def test_a_run_is_never_code(s: RunSnapshot, kernel: str) -> None:
    outputs = previews.outputs_html(
        {EVIL: EVIL, "table": pd.DataFrame({EVIL: [EVIL]}), "long": EVIL * 50, "map": {EVIL: EVIL}}
    )
    read = Checked(
        run_views.run_html(s, captured=[EVIL, EVIL], outputs=outputs, kernel=kernel, block=EVIL, attach=EVIL)
    )
    assert EVIL in read.text  # it is told, as it stands
    assert set(read.links) == {LINKS[0][1], f"http://x/{EVIL}", LINKS[-1][1]}
    assert "javascript:alert(1)" in read.text  # as text


@pytest.mark.parametrize("s", SNAPSHOTS)
def test_neither_are_lists_groups_and_details(s: RunSnapshot) -> None:
    record = SimpleNamespace(
        number=1, resource_meta=b"\xff" + EVIL.encode(), outcome=EVIL, service=EVIL, output_prefix=EVIL
    )
    rows = run_views.details(s, [record], [EVIL] * 12)
    assert EVIL in Checked(render.pairs_html(rows)).text
    html = views.RunList([cast("Any", FakeRun(s))]).html()
    assert "<script>" in Checked(html).text
    group = run_views.group_html(
        EVIL, [s, s, s], summary=EVIL, began=1_700_000_000.0, end=1_700_000_100.0, shown=2, kernel=EVIL, block=EVIL
    )
    read = Checked(group)
    assert EVIL in read.text and "and 1 more" in read.text


@pytest.mark.parametrize(
    ("meta", "told"),
    [
        (b'{"job_id": "1"}', 'resource meta {"job_id": "1"}, outputs'),
        ("{'naïve': '名'}".encode(), "resource meta {'naïve': '名'}, outputs"),
        (b"", "resource meta , outputs"),
        (b"\x80\x95" + b"a" * 98, f"resource meta hex:8095{'61' * 22}… (100 bytes that are no text), outputs"),
        (b"a\x00b", "resource meta hex:610062 (3 bytes that are no text), outputs"),
    ],
)
def test_a_resource_meta_that_is_no_text_is_told_as_such(meta: bytes, told: str) -> None:
    """SageMaker's connectors pickle theirs."""
    record = SimpleNamespace(number=1, resource_meta=meta, outcome="DONE", service="s", output_prefix="/o")
    assert told in dict(run_views.details(snapshot(), [record], []))["attempt 1"]


def test_neither_are_agents_lines_and_what_is_served() -> None:
    entry = SimpleNamespace(task_type=EVIL, version=0, is_sync=True, name=EVIL, package=EVIL)
    broken = SimpleNamespace(name=EVIL, package=EVIL, reason=EVIL)
    read = Checked(views.AgentList([cast("Any", entry)], [cast("Any", broken)]).html())
    assert read.text.count("<script>") == 6
    assert Checked(views.Lines([EVIL, EVIL]).html()).text == f"{EVIL}\n{EVIL}"
    assert EVIL in Checked(views.DryRun(EVIL, EVIL).html()).text
    served = views.Served(cast("Any", SimpleNamespace(target=EVIL, token="secret-token", certificate=EVIL)))
    assert "secret-token" not in served.html() + served.text() and served.token == "secret-token"
    assert EVIL in Checked(served.html()).text


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("task 'it (1)' (x) failed: no such table: x", "no such table: x"),
        ("task 'it (1)' (x) failed after 3 attempts: task 'it (1)' (x) failed: y", "task 'it (1)' (x) failed: y"),
        ("task 'it (1)' (x) was cancelled", "task 'it (1)' (x) was cancelled"),
        ("task 'other' (x) failed: no", "task 'other' (x) failed: no"),
    ],
)
def test_a_failed_run_is_told_in_the_agents_own_words(message: str, told: str) -> None:
    error = RunFailedError(message, run_id="abc", task="it (1)", task_type="x", phase="FAILED")
    s = snapshot(name="it (1)", task_type="x", phase="FAILED", ended=9.0, error=error)
    assert run_views.reason(s) == told
    assert f">{render.escape(told)}</div>" in run_views.run_html(s)
    assert run_views.run_row(s, 9.0)[-1] == told


def test_words_stand_apart_where_a_page_takes_the_style_off() -> None:
    s = snapshot(name="revenue", task_type="query", agent="Warehouse", message="", notes=())
    words = Checked(run_views.run_html(s)).text.split()
    assert {"revenue", "query", "▶", "Running", "Warehouse", s.id} <= set(words)
    group = run_views.group_html("flow", [s], summary="1 running", began=0.0, end=2.0, shown=9, kernel="", block="b")
    assert Checked(group).text.split()[:4] == ["flow", "1", "running", "2.0"]


@pytest.mark.parametrize("phase", [*render.PHASES, "UNDEFINED", "SOMETHING_NEW"])
def test_each_phase_is_told_by_a_word_and_a_shape(phase: str) -> None:
    seen = render.look_of(phase)
    assert len(seen.sign) == 1 and seen.word[0].isupper() and "_" not in seen.word
    assert seen.colour.startswith("#") and len(seen.colour) == 7
    html = run_views.run_html(snapshot(phase=phase, name="n", task_type="t"))
    assert f"{seen.sign} {seen.word}" in Checked(html).text
    assert f"{seen.sign} {seen.word}  n  (t)" in run_views.run_text(snapshot(phase=phase, name="n", task_type="t"))


def test_a_run_in_text() -> None:
    now = 1_700_000_000.0
    done = snapshot(
        name="fit",
        task_type="k",
        phase="SUCCEEDED",
        ended=now + 2,
        seconds=2.0,
        message="",
        log_links=LINKS[:1],
        notes=(),
        attempt=2,
    )
    assert run_views.run_text(done).splitlines() == [
        "✓ Succeeded  fit  (k)  2.0 s  try 2 of 3  run 0123456789",
        "  log: console: https://console/x?a=1&b=2",
    ]
    assert run_views.run_text(snapshot(name="fit")).splitlines()[-1] == "  %agent show 0123456789 tells more"
    assert "Stopping" in run_views.run_text(snapshot(stopping=True))
    assert "Stopping" not in run_views.run_text(done._replace(stopping=True))
    assert max(map(len, run_views.run_text(snapshot(message="x" * 10_000, log_links=(), notes=())).splitlines())) < 400
    assert "\n" not in run_views.run_row(snapshot(message="two\nlines"), now)[-1]


def test_only_what_lives_in_a_kernel_has_buttons() -> None:
    for html, buttons in (
        (run_views.run_html(snapshot(), kernel="k", attach="x"), 2),
        (run_views.run_html(snapshot(), kernel=""), 0),
        (run_views.run_html(failed(), kernel="k", attach="x"), 0),
    ):
        assert html.count("<button") == buttons
        assert ("data-fa-kernel" in html) is bool(buttons)


def test_a_bar_has_its_phases_in_proportion() -> None:
    html = bars.bar(failed())
    assert html.count("<span") == 2
    assert "width:1.3%" in html and "width:98.7%" in html
    assert bars.phases_text(failed()) == "queued 1.0 s, running 1:15"
    # A phase that took no time, and a clock that was set back, divide by nothing.
    now = 1_700_000_000.0
    for phases in ((PhaseChange("QUEUED", now),), (PhaseChange("QUEUED", now), PhaseChange("FAILED", now - 5))):
        Checked(run_views.run_html(snapshot(phase="FAILED", phases=phases, ended=now - 5, seconds=0.0)))


def test_details_leave_out_what_is_not_known() -> None:
    rows = dict(run_views.details(snapshot(custom_info=None, log_links=(), notes=(), message="", attempts=1), [], []))
    assert set(rows) == {"run", "task", "agent", "phase", "submitted", "so far"}
    rows = dict(run_views.details(failed(), [], [f"line {i}" for i in range(12)]))
    assert rows["took"] == "1:16 (queued 1.0 s, running 1:15)"
    assert rows["output"].splitlines() == [
        "[2 lines before: %agent logs 0123456789]",
        *(f"line {i}" for i in range(2, 12)),
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 ms"), (0.0123, "12 ms"), (0.0994, "99 ms"), (0.1, "0.1 s"), (0.8, "0.8 s"), (9.94, "9.9 s"), (9.95, "10 s"),
        (12.4, "12 s"), (59.4, "59 s"), (59.6, "1:00"), (76, "1:16"), (185, "3:05"), (3599.7, "1:00:00"), (3753, "1:02:33"),
        (90_000, "25:00:00"),
    ],
)  # fmt: skip
def test_seconds(value: float, text: str) -> None:
    assert render.seconds(value) == text


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        (-5, "now"),
        (0.5, "now"),
        (5, "5 s ago"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (3600, "1 h ago"),
        (90_000, "1 d ago"),
    ],
)
def test_ago(passed: float, text: str) -> None:
    now = time.time()
    assert render.ago(now - passed, now) == text


@pytest.mark.parametrize(("name", "uri"), LINKS)
def test_links_are_of_the_web_or_text(name: str, uri: str) -> None:
    html = render.link(name, uri)
    read = Checked(html)
    if uri.startswith(("http://x", "https://")):
        assert read.links == [uri] and 'rel="noopener noreferrer"' in html
        assert read.text == (name or uri)
    else:
        assert read.links == [] and read.text == f"{name}: {uri}"


def test_tables_are_aligned_and_say_when_they_are_empty() -> None:
    assert render.table_text(["a", "long"], [["1", "2"], ["three", "4"]], "none") == "a      long\n1      2\nthree  4"
    assert render.table_text(["a"], [], "none yet") == "none yet"


def test_the_last_column_is_folded_at_a_terminals_width() -> None:
    lines = render.table_text(["name", "state"], [["x" * 20, "word " * 40], ["y", "short"]], "none").splitlines()
    assert max(map(len, lines)) <= 120 and len(lines) == 5
    assert lines[2].startswith(" " * 22 + "word") and " ".join(lines[1:4]).split().count("word") == 40
    assert Checked(render.table_html(["a"], [], "none <yet>")).text == "none <yet>"
    assert render.pairs_text([("a", "1\n2"), ("long", "x")]) == "a     1\n      2\nlong  x"
    assert render.pairs_text([]) == ""


@pytest.mark.parametrize(
    ("text", "width", "clipped"),
    [("short", 10, "short"), ("a\n b\t c", 10, "a b c"), ("x" * 11, 10, "x" * 9 + "…"), ("", 3, "")],
)
def test_clip(text: str, width: int, clipped: str) -> None:
    assert render.clip(text, width) == clipped


def test_outputs_are_told_by_their_kind() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("not now")

    frame = pd.DataFrame({"a": range(1000), "b": ["x"] * 1000})
    text = previews.outputs_text({"frame": frame, "n": 3, "shy": Shy(), "big": "x" * 10_000})
    lines = text.splitlines()
    assert lines[0] == "  frame: DataFrame, 1,000 rows, 2 columns"
    assert lines[1] == "  n: 3"
    assert lines[2].startswith("  shy: <Shy instance at ")  # its repr raises, and that is its own affair
    assert len(lines[3]) < 300
    read = Checked(previews.outputs_html({"frame": frame, "big": "x" * 10_000, "shy": Shy()}))
    assert "1,000 rows" in read.text and "10,000 characters" in read.text and "Shy" in read.text


def test_the_labels_of_a_frames_rows_are_shown_where_they_tell_something() -> None:
    frame = pd.DataFrame({"customer": ["ann", "bob"], "year": [2023, 2024], "x": [1.5, 2.0]})
    plain, grouped = frame[["x"]], frame.groupby("customer")[["x"]].sum()
    assert previews._table(plain) == ("DataFrame, 2 rows, 1 column", ["x"], [["1.5"], ["2"]])
    assert previews._table(grouped) == (
        "DataFrame, 2 rows, 1 column",
        ["customer", "x"],
        [["ann", "1.5"], ["bob", "2"]],
    )
    by_two = frame.set_index(["customer", "year"])
    assert previews._table(by_two) == (
        "DataFrame, 2 rows, 1 column",
        ["customer", "year", "x"],
        [["ann", "2023", "1.5"], ["bob", "2024", "2"]],
    )
    assert previews._table(grouped[[]]) == ("DataFrame, 2 rows, 0 columns", ["customer"], [["ann"], ["bob"]])


def test_files_and_folders_are_told_with_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flytekit.types.directory import FlyteDirectory
    from flytekit.types.file import FlyteFile

    folder = tmp_path / "out"
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "a.txt").write_text("x" * 3000)
    (folder / "deep" / "deeper" / "b.txt").write_text("y" * 300)
    (folder / "round").symlink_to(folder)  # a walk that follows it does not end
    link = os.lstat(folder / "round").st_size
    assert previews.told(FlyteFile(str(folder / "a.txt"))) == f"FlyteFile {folder}/a.txt, 3,000 bytes"
    assert previews.told(FlyteDirectory(str(folder))) == f"FlyteDirectory {folder}, 3 files, {3300 + link:,} bytes"
    assert previews.told(FlyteDirectory(str(folder / "deep"))) == f"FlyteDirectory {folder}/deep, 1 file, 300 bytes"
    assert f"{folder}/deep, 1 file, 300 bytes" in previews.outputs_html({"o": FlyteDirectory(str(folder / "deep"))})
    assert previews.told(FlyteDirectory(str(tmp_path / "gone"))) == f"FlyteDirectory {tmp_path}/gone"
    remote = FlyteDirectory(str(tmp_path / "to come"), remote_directory=False)
    remote._remote_source = "s3://bucket/out"
    assert previews.told(remote) == "FlyteDirectory s3://bucket/out"
    monkeypatch.setattr(previews, "ENTRIES", 2)
    assert previews.told(FlyteDirectory(str(folder))).startswith(f"FlyteDirectory {folder}, more than ")
    monkeypatch.setattr(previews, "LOOK", -1.0)  # a file server that takes its time
    assert previews.told(FlyteDirectory(str(folder))) == f"FlyteDirectory {folder}, more than 0 files, 0 bytes"


def test_words_that_turn_the_direction_of_those_after_them() -> None:
    for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A)):
        assert render.escape(f"a{chr(code)}<b") == "a�&lt;b"
    assert render.escape("שלום \u200f · é") == "שלום \u200f · é"  # what a script of its own direction needs
    link = render.link("\u202ea", "https://x/\u202eb")
    assert "\u202e" not in link


def test_the_colours_of_a_terminal_are_left_out() -> None:
    assert render.escape("\x1b[1;31merror\x1b[0m: [0m") == "error: [0m"  # as dbt and others write their lines


COMMANDS = "\x1b]0;title\x07 \x1b]52;c;cm0=\x07 \x1b[2J \x9b2J \r over \x00\x08\x7f"


def test_a_terminal_obeys_no_word_of_an_agent() -> None:
    for told in ("one\ttwo\r\nthree é 𝄞\n", "\x1b[1;31mred\x1b[0m"):
        assert render.for_terminal(told) == told
    shown = render.for_terminal(COMMANDS)
    assert "title" in shown and not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    error = RunFailedError(COMMANDS, run_id="1", task="t", task_type="t", phase="FAILED")
    s = snapshot(phase="FAILED", error=error, message=COMMANDS, log_links=((COMMANDS, COMMANDS),), notes=(COMMANDS,))
    shown = repr(views.Pairs(run_views.details(s, [], [COMMANDS])))
    assert "title" in shown and not {"\x1b", "\x9b", "\x07", "\r"} & set(shown)


def test_no_line_of_it_is_empty() -> None:
    """In Markdown it would be over there: what an agent says after that would be markup, links and pictures."""
    text = "one\n\n# two\r\n\r\n![](https://example.com)\r\r[three](javascript:1)\n \n"
    error = RunFailedError(text, task="a", task_type="b", run_id="r", phase="FAILED")
    shown = [
        run_views.run_html(
            snapshot(name=text, message=text), captured=text.split("\n"), kernel="k", block="b", attach=text
        ),
        run_views.run_html(
            snapshot(error=error, phase="FAILED", ended=2.0), outputs=previews.outputs_html({"o": text})
        ),
        views.Lines([text]).html(),
        render.pairs_html([("a", text)]),
    ]
    for source in shown:
        assert all(line.strip() for line in source.splitlines())
        assert "javascript:1" in Checked(source).text


def test_names_that_are_too_long_for_a_row() -> None:
    s = snapshot(name="w" * 500, task_type="t" * 500, log_links=(("l" * 500, "https://x"),))
    assert max(map(len, run_views.run_row(s, time.time()))) <= 80
    assert max(len(label) for label, _ in run_views.details(s, [], [])) <= 45


def test_what_a_service_says_too_much_of() -> None:
    links = tuple((f"task {n}", f"https://x/{n}") for n in range(5_000))
    long = {"message": "m" * 1_000_000, "custom_info": {"k": "v" * 1_000_000}, "notes": ("n" * 1_000_000,)}
    s = snapshot(log_links=links, **long)
    for shown in (run_views.run_text(snapshot(log_links=links)), run_views.run_html(snapshot(log_links=links))):
        assert "https://x/9" in shown and "https://x/10" not in shown and "and 4,990 more log links" in shown
    assert "\n  and 1 more log link: the run's" in run_views.run_text(snapshot(log_links=links[:11]))
    rows = run_views.details(s, [], [])
    assert [text for label, text in rows if label.startswith("log task")] == [f"https://x/{n}" for n in range(10)]
    assert ("logs", "and 4,990 more log links: the run's log_links has all") in rows
    assert sum(len(text) for _, text in rows) < 100_000
    assert dict(rows)["message"].endswith("mm… (1,000,000 characters)")
    error = RunFailedError("no", run_id="1", task="t", task_type="t", phase="FAILED", log_links=links)
    assert error.details()[-2:] == ["log: task 9: https://x/9", "log: and 4,990 more: the attribute log_links has all"]


def test_each_try_of_a_run_is_told_and_its_end_is_in_the_bar() -> None:
    phases = (
        PhaseChange("QUEUED", 0.0, 1),
        PhaseChange("RETRYABLE_FAILED", 1.0, 1),
        PhaseChange("QUEUED", 3.0, 2),
        PhaseChange("FAILED", 4.0, 2),
    )
    s = snapshot(phase="FAILED", phases=phases, submitted=0.0, ended=4.0, seconds=4.0, attempt=2, attempts=2)
    assert bars.phases_text(s) == "try 1: queued 1.0 s, then waited 2.0 s; try 2: queued 1.0 s"
    assert render.RED in bars.bar(s).rpartition("<span")[2]
    assert render.RED in bars.lane(s, 0.0, 8.0).rpartition("<span")[2]
