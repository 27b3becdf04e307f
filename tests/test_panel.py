"""The panel: what its two faces show, that nothing in it acts by itself, and how it notices what has changed."""

from __future__ import annotations

import collections
import dataclasses
import html.parser
import re
import threading
import types
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from scripted_tasks import PATIENCE, scripted_task, until

import flyteagent_nb
from flyteagent_nb.errors import RunFailedError
from flyteagent_nb.notebook import panel, panel_words
from flyteagent_nb.notebook.page import Block, Page
from flyteagent_nb.notebook.panel import PanelBlock
from flyteagent_nb.notebook.panel_state import Figure, PanelState, figures
from flyteagent_nb.notebook.panel_views import panel_html, panel_text
from flyteagent_nb.running.routing import Connection
from flyteagent_nb.running.run import PhaseChange, RunSnapshot
from flyteagent_nb.serving.catalog import AgentEntry, BrokenPlugin
from flyteagent_nb.serving.host import Address
from flyteagent_nb.serving.latencies import KEPT, Latency, latency, observe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripted_tasks import Agents

    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)

NOW = 1_700_000_000.0
SOCKET = Address("unix:/run/fa/agent.sock", None, "private", NOW - 60, None)


def snapshot(number: int = 1, *phases: tuple[str, float], ended: float | None = None, **more: Any) -> RunSnapshot:
    """A run; ``phases`` are (phase, seconds ago), ``ended`` is seconds ago."""
    changes = tuple(PhaseChange(phase, NOW - ago) for phase, ago in phases or (("QUEUED", 42.0), ("RUNNING", 41.0)))
    state = {"name": "daily_revenue", "task_type": "bigquery", "agent": "BigQuery", "submitted": changes[0].at} | more
    took = None if ended is None else changes[0].at * -1 + NOW - ended
    end = None if ended is None else NOW - ended
    return RunSnapshot(f"{number:010x}", phase=changes[-1].phase, phases=changes, ended=end, seconds=took, **state)


def succeeded(number: int, began: float = 42.0, ended: float = 30.0, **more: Any) -> RunSnapshot:
    """A run that went well; its times are seconds ago."""
    return snapshot(number, ("QUEUED", began), ("RUNNING", began), ("SUCCEEDED", ended), ended=ended, **more)


def error(message: str) -> RunFailedError:
    return RunFailedError(message, run_id="1", task="t", task_type="t", phase="FAILED")


def agent(task_type: str = "bigquery", **more: Any) -> AgentEntry:
    known = {"version": 0, "name": "BigQuery", "is_sync": False, "package": "flytekitplugins-bigquery 1.16"}
    return AgentEntry(task_type, in_notebook=False, source="m:C", agent=None, **({"generation": 1} | known | more))


def state(*snapshots: RunSnapshot, **more: Any) -> PanelState:
    found = {
        "addresses": (SOCKET,),
        "agents": (agent(),),
        "snapshots": snapshots,
        "phases": collections.Counter(s.phase for s in snapshots),
        "live": sum(not s.done for s in snapshots),
    }
    return PanelState(**({"service": "serving", "now": NOW} | found | more))


class Elements(html.parser.HTMLParser):
    """What a browser makes of HTML.

    Attributes:
        found: (tag, attributes, the attributes of what is around it) in order.
        text: the text of the page.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[dict[str, str | None]]]] = []
        self.text = ""
        self._around: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert not self._around, "an element was not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), [around for _, around in self._around]))
        if tag != "input":
            self._around.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._around.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def having(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes, _ in self.found if name in attributes]


def live(shown: PanelState) -> Elements:
    return Elements(panel_html(shown, kernel="k1", block="b1"))


def static(shown: PanelState) -> Elements:
    return Elements(panel_html(shown, kernel="", block="b1"))


# --- what is shown ---

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "\"'><script>alert(1)</script>",
    "</table><style>*{}</style>",
    "a&lt;b>&amp;",
)
TAGS = frozenset(
    "div span b table thead tbody tr th td a button input select option details summary".split()
)  # no style, script, svg, img


@pytest.mark.parametrize("text", HOSTILE)
def test_what_agents_and_users_say_is_text(text: str) -> None:
    links = ((text, "https://x.io/?" + text), ("js", "javascript:alert(1)"), ("data", "data:text/html,x"), (text, text))
    shown = state(
        snapshot(1, name=text, task_type=text, agent=text, message=text, log_links=links),
        snapshot(2, ("FAILED", 9), ended=9, error=error(text), name="n"),
        snapshot(3, (text, 5)),
        agents=(agent(text, name=text, package=text),),
        broken=(BrokenPlugin(text, text, text, text),),
        reason=text,
        figures=(Figure(text, text, 1, 0, Latency(0.1, 0.2)),),
        addresses=(Address(text, None, "open", NOW, 1),),
    )
    for seen in (live(shown), static(shown)):
        assert {tag for tag, _, _ in seen.found} <= TAGS
        assert not [name for _, attributes, _ in seen.found for name in attributes if name.startswith("on")]
        hrefs = [attributes["href"] or "" for attributes in seen.having("href")]
        assert len(hrefs) == 1 and hrefs[0].startswith("https://x.io/?")
        assert "javascript:" not in seen.text and "data:text" not in seen.text
        # As name, type, message, error, agent and package, broken plug-in, reason, figure and address.
        assert seen.text.count(" ".join(text.split())) >= 11


def test_the_head_tells_health_addresses_and_counts() -> None:
    shown = state(
        succeeded(1),
        addresses=(
            SOCKET,
            Address("127.0.0.1:8000", "s3cret", "token", NOW, 8000),
            Address("0.0.0.0:81", None, "open", NOW - 86400, 81),
        ),
        phases={"RUNNING": 3, "SUCCEEDED": 4_990, "FAILED": 5, "RETRYABLE_FAILED": 2, "NEW_ONE": 1},
        broken=(BrokenPlugin("b", "m", "p", "r"),),
    )
    for text in (live(shown).text, panel_text(shown)):
        assert "● Serving" in text
        assert "private socket, since " in text and "127.0.0.1:8000 with a token" in text
        assert re.search(r"0\.0\.0\.0:81 open to whoever reaches it, since \d{4}-\d\d-\d\d \d\d:\d\d", text)
        assert "1 agent" in text and "1 agents" not in text
        assert "3 running" in text and "4,990 succeeded" in text and "7 failed" in text and "1 new one" in text
        assert "s3cret" not in text
    assert "5,001 runs:" in panel_text(shown)
    words = " ".join(live(shown).text.split())  # as where the page takes the style off
    assert words.startswith("Agent service ● Serving private socket, since ") and "4,990 succeeded ✗ 7 failed" in words


@pytest.mark.parametrize(
    ("service", "told"),
    [("closed", "○ Closed"), ("starting", "◔ Starting"), ("serving", "● Serving"), ("failed", "✗ Failed")],
)
def test_each_state_of_the_service_has_a_word_and_a_sign(service: str, told: str) -> None:
    shown = PanelState(service, NOW, reason="why it is so" if service == "failed" else "")
    for text in (static(shown).text, panel_text(shown)):
        assert told in text
        assert ("why it is so" in text) == (service == "failed")


def test_a_row_has_all_of_a_run() -> None:
    links = (("console", "https://x.io/job"), ("logs", "https://x.io/logs"))
    seen = live(state(snapshot(0x3F2A, attempt=2, attempts=3, message="stage\n2 of 4", log_links=links)))
    for told in ("0000003f2a", "daily_revenue", "bigquery", "▶ Running", "try 2 of 3", "console · logs stage 2 of 4"):
        assert told in seen.text
    [row] = seen.having("data-fa-row")
    assert row["data-fa-phase"] == "RUNNING"
    assert row["data-fa-row"] == "0000003f2a daily_revenue bigquery running bigquery stage 2 of 4"
    assert len(seen.having("data-fa-elapsed")) == 1
    assert not live(state(succeeded(1))).having("data-fa-elapsed")
    assert "try 1 of 1" not in live(state(snapshot(1))).text


def test_a_failure_has_the_agents_own_words_and_the_private_socket_no_place() -> None:
    said = error("task 'daily_revenue' (bigquery) failed after 3 attempts: no such table")
    for shown in (live, static):
        seen = shown(state(snapshot(1, ("FAILED", 9), ended=9, error=said)))
        assert "no such table" in seen.text and "failed: no such" not in seen.text
        assert not [title for title in seen.having("title") if "/run/fa" in (title["title"] or "")]


def test_filters_are_made_of_the_phases_that_are_there() -> None:
    shown = state(
        succeeded(1, name="TRAIN"),
        snapshot(2, ("QUEUED", 3), ("RETRYABLE_FAILED", 2), ended=2, error=error("No")),
        snapshot(3, stopping=True),
    )
    seen = live(shown)
    assert [row["data-fa-phase"] for row in seen.having("data-fa-row")] == ["SUCCEEDED", "FAILED", "RUNNING"]
    assert (seen.having("data-fa-row")[0]["data-fa-row"] or "").startswith("0000000001 train bigquery succeeded")
    options = [attributes["value"] for tag, attributes, _ in seen.found if tag == "option"]
    assert options == ["", "QUEUED", "RUNNING", "SUCCEEDED", "FAILED"]
    assert {a["data-fa-filter"] for a in seen.having("data-fa-filter")} == {"phase", "text"}
    assert len(seen.having("data-fa-none")) == 1


def test_only_what_is_live_can_be_cancelled() -> None:
    seen = live(state(snapshot(1), succeeded(2), snapshot(3, stopping=True)))
    cancels = [a for a in seen.having("data-fa-do") if a["data-fa-do"] == "cancel"]
    assert [(a["data-fa-id"], a.get("aria-disabled")) for a in cancels] == [
        ("0000000001", None),
        ("0000000003", "true"),
    ]
    assert len([a for a in seen.having("aria-disabled") if a["aria-disabled"] == "true"]) == 1
    assert len([a for a in seen.having("data-fa-do") if a["data-fa-do"] == "cancel-all"]) == 1
    assert "cancel-all" not in panel_html(state(snapshot(1), succeeded(2)), kernel="k1", block="b1")


def test_a_page_without_a_kernel_has_no_controls() -> None:
    shown = state(snapshot(1), snapshot(2), broken=(BrokenPlugin("b", "m", "p", "r"),))
    assert [(a["data-fa-kernel"], a["data-fa-block"]) for a in live(shown).having("data-fa-kernel")] == [("k1", "b1")]
    seen = static(shown)
    assert not {tag for tag, _, _ in seen.found} & {"button", "input", "select"}
    for name in ("data-fa-kernel", "data-fa-block", "data-fa-do", "data-fa-elapsed", "data-fa-filter"):
        assert not seen.having(name)
    assert re.search(r"as of \d{4}-\d\d-\d\d \d\d:\d\d:\d\d: %agent", seen.text)


def test_controls_are_hidden_until_the_page_shows_them() -> None:
    seen = live(state(snapshot(1), snapshot(2)))
    controls = [(a, around) for tag, a, around in seen.found if tag in ("button", "input", "select")]
    assert len(controls) == 5
    for attributes, around in controls:
        hidden = [a for a in (attributes, *around) if "fnb-live" in (a.get("class") or "")]
        assert len(hidden) == 1 and (hidden[0]["style"] or "").startswith("display:none")


def test_agents_are_open_where_there_are_no_runs_and_folded_where_there_are() -> None:
    def fold(shown: PanelState) -> dict[str, str | None]:
        return next(a for a in live(shown).having("data-fa-fold") if a["data-fa-fold"] == "agents")

    assert "open" in fold(state()) and "No runs yet" in live(state()).text and "No runs yet" in panel_text(state())
    assert "open" not in fold(state(succeeded(1))) and "No runs yet" not in live(state(succeeded(1))).text
    entry = agent("my_job", version=2, is_sync=True, name="Mine", package="this notebook", generation=3)
    for text in (live(state(agents=(entry,))).text, panel_text(state(agents=(entry,)))):
        for told in ("my_job", "2", "sync", "Mine", "this notebook, definition 3"):
            assert told in text
    assert not live(state(agents=())).having("data-fa-fold")


def test_what_is_broken_is_never_folded() -> None:
    plugin = BrokenPlugin("k8s", "flytekitplugins.k8s", "flytekitplugins-k8s 1.16", "ImportError: no 'CRD'")
    source = panel_html(state(succeeded(1), broken=(plugin,)), kernel="k1", block="b1")
    before = Elements(source[: source.index("<details")] + "</div>").text
    assert "1 broken" in before
    assert "✗ k8s" in before and "flytekitplugins-k8s 1.16" in before and "ImportError: no 'CRD'" in before
    assert "✗ k8s is broken (flytekitplugins-k8s 1.16): ImportError: no 'CRD'" in panel_text(state(broken=(plugin,)))


def test_figures_are_told_by_agent_and_operation() -> None:
    shown = state(
        figures=(Figure("bigquery", "create", 1204, 3, Latency(0.0021, 0.31)), Figure("gone", "do", 2, 0, None)),
        rate=12.3,
    )
    for text in (static(shown).text, panel_text(shown)):
        assert "1,206 calls, 3 failed, now 12.3 a second" in text
        for told in ("BigQuery", "create", "1,204", "2.1 ms", "0.3 s", "gone", "do"):
            assert told in text
    assert "a second" not in panel_text(dataclasses.replace(shown, rate=None))


def test_the_text_fits_80_columns() -> None:
    long = "word " * 40
    shown = state(
        *(snapshot(i, ("INITIALIZING", 9), name="n" * 60, task_type="t" * 60, attempts=3) for i in range(30)),
        snapshot(99, ("FAILED", 9), ended=9, error=error(long)),
        agents=(agent("t" * 60, name=long, package=long), agent("short", version=12, package="p 1")),
        broken=(BrokenPlugin("b", "m", "p", long),),
        reason=long,
        addresses=(Address("unix:" + "/x" * 50, None, "private", NOW, 4711), SOCKET),
        figures=(Figure("t" * 60, "create", 1_234_567, 1_000, Latency(12.0, 3600.0)),),
    )
    text = panel_text(shown)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "and 11 older: %agent runs" in text
    assert re.search(r"^  short v12 +BigQuery \(async\), p 1$", text, re.M)


# --- the time axis ---


@pytest.mark.parametrize(
    ("snapshots", "length", "until", "name"),
    [
        ([snapshot(1, ("QUEUED", 75))], 120, NOW, "last 2 min"),
        ([snapshot(1, ("QUEUED", 7))], 10, NOW, "last 10 s"),
        ([snapshot(1, ("QUEUED", 0.2))], 1, NOW, "last 1 s"),
        ([snapshot(1, ("QUEUED", 9000))], 600, NOW, "last 10 min"),  # it began before the axis does
        ([snapshot(1, ("QUEUED", 5)), succeeded(2, 9000, 8000)], 5, NOW, "last 5 s"),  # one that could not be on it
        ([succeeded(1, 90, 80), succeeded(2, 99, 70)], 30, NOW - 70, "30 s until "),
        ([*(succeeded(i, 8, 7) for i in range(50)), succeeded(99, 500, 7)], 1, NOW - 7, "1 s until "),  # the 51st
        ([succeeded(1, 100_000, 99_000)], 600, NOW - 99_000, "10 min until 2"),  # with its date
    ],
)
def test_the_axis_covers_the_newest_runs(snapshots: list[RunSnapshot], length: float, until: float, name: str) -> None:
    began, end, told = panel_words.axis(snapshots, NOW)
    assert (end - began, end) == (length, pytest.approx(until))
    assert told.startswith(name)
    assert f"{told}" in live(state(*snapshots)).text


def test_what_ended_before_the_axis_tells_when_it_was() -> None:
    seen = live(state(snapshot(1, ("QUEUED", 5)), succeeded(2, 9000, 8000)))
    assert "◂ " in seen.text
    assert len([a for a in seen.having("role") if a["role"] == "img"]) == 1


# --- many ---


def test_many_runs_are_bounded_and_those_under_way_are_in_sight() -> None:
    runs = [succeeded(i, began=i + 2, ended=i + 1) for i in range(5000)]
    runs[4000] = snapshot(4000, ("QUEUED", 4002), ("RUNNING", 4001))
    chosen = panel._chosen(runs)
    assert len(chosen) == panel.ROWS
    assert list(chosen) == [*runs[:199], runs[4000]]
    phases = collections.Counter(s.phase for s in runs)
    source = panel_html(state(*chosen, phases=phases, live=1), kernel="k1", block="b1")
    assert len(Elements(source).having("data-fa-row")) == panel.ROWS
    assert "and 4,800 older: %agent runs" in source
    assert "None of these 200 runs fits the filter." in source  # one of the others may
    assert len(source) < 450_000
    live_runs = [snapshot(i, ("RUNNING", i)) for i in range(5000)]
    assert panel._chosen(live_runs) == tuple(live_runs[: panel.ROWS])
    assert panel._chosen(runs[:3]) == tuple(runs[:3])


# --- the block, on a real workspace ---


class Shell:
    """A shell that keeps what is displayed. (What a kernel does with it is tested in real ones.)"""

    def __init__(self) -> None:
        self.kernel = SimpleNamespace(get_parent=lambda: {"metadata": {"cellId": "1"}})
        self.display_pub = self
        self.published: list[dict[str, Any]] = []
        self.came = threading.Condition()

    def publish(self, data: dict[str, str], **about: Any) -> None:
        with self.came:
            self.published.append(data | about)
            self.came.notify_all()

    def until(self, condition: Any) -> None:
        with self.came:
            assert self.came.wait_for(condition, PATIENCE), self.published[-1:]


@pytest.fixture
def shell() -> Shell:
    return Shell()


@pytest.fixture
def page(shell: Shell) -> Iterator[Page]:
    page = Page(shell)
    yield page
    page.close()


@pytest.fixture
def block(workspace: Workspace, agents: Agents, page: Page) -> PanelBlock:
    return PanelBlock(workspace, page)


def counted(task_type: str) -> dict[str, Figure]:
    return {figure.operation: figure for figure in figures() if figure.task_type == task_type}


def test_figures_come_from_the_services_own_metrics(block: PanelBlock) -> None:
    task_type = "scripted"
    before = collections.defaultdict(lambda: Figure("", "", 0, 0, None), counted(task_type))
    for _ in range(2):
        flyteagent_nb.submit(scripted_task(task_type, phases=["RUNNING", "SUCCEEDED"])).result(PATIENCE)
    failing = scripted_task(task_type, raises={"create": "ValueError: no"})
    assert isinstance(flyteagent_nb.submit(failing).exception(PATIENCE), RunFailedError)
    after = counted(task_type)
    assert after["create"].calls - before["create"].calls == 3
    assert after["create"].failures - before["create"].failures == 1
    assert after["get"].calls - before["get"].calls == 4
    assert after["get"].failures == before["get"].failures
    took = after["get"].latency
    assert took is not None and 0 < took.median <= took.slowest < PATIENCE
    assert f"{after['get'].calls:,}" in block.text() and "Scripted Agent" in block.text()


def test_failures_of_each_kind_count() -> None:
    from flytekit.extend.backend import connector_service as metrics

    for code in ("404", "500", "500"):
        metrics.request_latency.labels("panel_failures", "do").observe(0.5)
        metrics.request_failure_count.labels("panel_failures", "do", code).inc()
    assert counted("panel_failures") == {"do": Figure("panel_failures", "do", 3, 3, None)}


def test_the_median_is_of_the_latest_and_the_slowest_of_all() -> None:
    assert latency("panel_latency", "get") is None
    for seconds in (9.0, *(0.001 * i for i in range(1, KEPT + 1))):
        observe("panel_latency", "get", seconds)
    assert latency("panel_latency", "get") == pytest.approx((0.0505, 9.0))
    for _ in range(1000):
        observe("panel_latency", "get", 0.2)
    assert latency("panel_latency", "get") == pytest.approx((0.2, 9.0))
    assert latency("panel_latency", "create") is None


def test_the_rate_is_the_difference_of_two_looks(block: PanelBlock, workspace: Workspace) -> None:
    assert "a second" not in block.text()
    flyteagent_nb.submit(scripted_task("noop")).result(PATIENCE)
    until(lambda: "a second" in block.text())
    assert float(re.findall(r"now ([\d.]+) a second", block.text())[0]) > 0


def test_it_knows_whether_it_has_changed(
    block: PanelBlock, workspace: Workspace, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "_count", lambda: None)  # figures and rate change as time goes by
    assert block.changed()
    changes = (
        lambda: flyteagent_nb.submit(scripted_task("noop")).result(PATIENCE),
        lambda: workspace.catalog.register(type(agents.noop)()),
        lambda: workspace.catalog.record_broken(BrokenPlugin("panel", "m", "p", "r")),
        lambda: workspace.catalog._broken.pop(("panel", "m")),
        lambda: workspace.serve(0),
        lambda: workspace.stop_serving(),
    )
    for change in changes:
        block.html("k1")
        assert block._shown is not None
        block._shown = dataclasses.replace(block._shown, now=block._shown.now - 1.0)  # for a full table it waits
        assert not block.changed()
        change()
        assert block.changed()


def test_the_lane_of_a_live_run_grows(block: PanelBlock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block, "_count", lambda: None)  # the polls of the run are calls
    run = flyteagent_nb.submit(scripted_task("scripted", phases=["RUNNING"]))
    until(lambda: run.phase == "RUNNING")
    block.html("k1")
    shown = block._shown
    assert shown is not None
    assert not block.changed()
    block._shown = dataclasses.replace(shown, now=shown.now - 1.0)
    assert block.changed()
    run.cancel()
    until(lambda: run.done)
    block.html("k1")
    assert block._shown is not None
    block._shown = dataclasses.replace(block._shown, now=block._shown.now - 1.0)
    assert not block.changed()


def test_cancel_all_cancels_what_is_under_way(block: PanelBlock) -> None:
    runs = [flyteagent_nb.submit(scripted_task("scripted", phases=["RUNNING"])) for _ in range(3)]
    assert "Cancel all" in block.html("k1")
    block.act({"do": "something else"})
    assert not any(run.snapshot.stopping for run in runs)
    block.act({"do": "cancel-all"})
    for run in runs:
        assert run.exception(PATIENCE) is not None and run.cancelled


def show(block: Block, page: Page, *, browser: bool = True) -> None:
    """Show a block, and wait until the page leaves it alone."""
    page.show(block)
    page._browser.ready = browser
    page.touch(block)
    until(lambda: not page._touched)
    polled = block.polled
    until(lambda: block.polled > polled)  # what was under way before this look has been sent


def test_a_closed_panel_stays_as_it_was(block: PanelBlock, shell: Shell, page: Page) -> None:
    run = flyteagent_nb.submit(scripted_task("scripted", phases=["RUNNING"], name="before"))
    show(block, page)
    assert block.live and "data-fa-kernel" in shell.published[-1]["text/html"]
    block.poll = None  # else it might be that which renders it
    block.close()
    shell.until(lambda: "data-fa-kernel" not in shell.published[-1]["text/html"])
    assert not block.live and "<button" not in shell.published[-1]["text/html"]
    flyteagent_nb.submit(scripted_task("noop", name="later")).result(PATIENCE)
    assert "later" not in block.html("") and "before" in block.html("") and run.id in block.text()


def test_the_page_looks_for_changes_by_itself(block: PanelBlock, shell: Shell, page: Page) -> None:
    show(block, page)
    run = flyteagent_nb.submit(scripted_task("noop"))
    run.result(PATIENCE)
    shell.until(lambda: run.id in shell.published[-1]["text/html"])
    assert shell.published[-1]["update"] and shell.published[-1]["transient"] == {"display_id": block.id}


class Counter(Block):
    """A block that changes when it is told to, and counts how often it is asked."""

    poll = 0.01

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.number = 0
        self.shown = -1

    live = True

    def changed(self) -> bool:
        self.asked += 1
        return self.number != self.shown

    def text(self) -> str:
        return ""

    def html(self, kernel: str) -> str:
        self.shown = self.number
        return f"number {self.number}"


def test_a_block_that_has_not_changed_is_not_sent_again(shell: Shell, page: Page) -> None:
    counter = Counter()
    show(counter, page)
    sent, asked = len(shell.published), counter.asked
    until(lambda: counter.asked > asked + 20)
    assert len(shell.published) == sent
    counter.number = 1
    shell.until(lambda: shell.published[-1]["text/html"] == "number 1")
    asked = counter.asked
    until(lambda: counter.asked > asked + 20)
    assert len(shell.published) == sent + 1


def test_without_a_browser_it_is_sent_when_it_has_changed_only(shell: Shell, page: Page) -> None:
    counter = Counter()
    show(counter, page, browser=False)
    sent, asked = len(shell.published), counter.asked
    until(lambda: counter.asked > asked + 150)  # longer than other blocks are left alone
    assert len(shell.published) == sent
    counter.number = 1
    shell.until(lambda: shell.published[-1]["text/html"] == "number 1")


def test_it_does_not_open_a_service_that_is_closed(page: Page) -> None:
    workspace = types.SimpleNamespace(
        state="closed",
        addresses=tuple,
        catalog=types.SimpleNamespace(entries=tuple, broken=()),
    )
    block = PanelBlock(workspace, page)  # type: ignore[arg-type]  # it has no runner that could be asked for
    assert "○ Closed" in block.html("k1")
    block.act({"do": "cancel-all"})


def test_other_services_are_told_with_what_is_wrong_with_them() -> None:
    good = Connection("dev", "127.0.0.1:8000", True, 12, None, "")
    bad = Connection("gpu", "127.0.0.1:9", False, 0, NOW, "UNAVAILABLE: <b>refused")
    shown = state(connections=[good, bad])
    html, text = panel_html(shown, kernel="k", block="b"), panel_text(shown)
    for told in ("127.0.0.1:8000, 12 task types, the default one", "✗ Unreachable", "127.0.0.1:9, 0 task types"):
        assert told in html and told in text
    assert "&lt;b&gt;refused" in html and "UNAVAILABLE: <b>refused" in text
