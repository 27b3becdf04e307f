"""The sandboxes of a process: what they set and put back, how they start, fail and end, and what they say of a run."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import scripted_stand_in
from scripted_stand_in import ScriptedStandIn, ask, running
from scripted_tasks import until

from flyteagent_nb.errors import ArgumentError, ServiceError, ServiceNotFoundError, TaskStopped
from flyteagent_nb.notebook.grammar import SANDBOXES
from flyteagent_nb.sandbox import sandboxes as module
from flyteagent_nb.sandbox.sandboxes import STAND_INS, Sandboxes
from flyteagent_nb.sandbox.variables import Variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TABLE = {"scripted": "scripted_stand_in:ScriptedStandIn"}
VARIABLES = ("SCRIPTED_PORT", "SCRIPTED_KEY")
TOLD = f"packaging {ScriptedStandIn.requirements[0].partition('==')[2]}, a stand-in for Scripted"


@pytest.fixture(autouse=True)
def as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test does: no variable, no file and no process is left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = dict(os.environ)
    yield
    assert {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"} == {
        k: v for k, v in before.items() if k != "PYTEST_CURRENT_TEST"
    }
    assert list(tmp_path.iterdir()) == []
    assert not ScriptedStandIn.attached


@pytest.fixture
def sandboxes() -> Iterator[Sandboxes]:
    made = Sandboxes(TABLE)
    yield made
    made.close()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say how the stand-in behaves."""

    def say(**attributes: Any) -> None:
        for name, value in attributes.items():
            monkeypatch.setattr(ScriptedStandIn, name, value)

    return say


def test_the_grammar_knows_their_names() -> None:
    assert tuple(STAND_INS) == SANDBOXES


def test_start_sets_and_stop_puts_back(sandboxes: Sandboxes) -> None:
    said: list[str] = []
    assert sandboxes.status()[0].state == "stopped" and sandboxes.stand_in_for("scripted") == ""
    status = sandboxes.start("scripted", said.append)
    assert said == [f"starting {TOLD.partition(',')[0]}"]
    assert status == sandboxes.status("scripted")[0]
    assert (status.state, status.is_own, status.variables) == ("running", False, VARIABLES)
    assert os.environ["SCRIPTED_PORT"] == str(status.ports[0]) and ask(status.ports[0]) and ScriptedStandIn.attached
    assert sandboxes.variables() == VARIABLES
    assert sandboxes.stand_in_for("scripted") == sandboxes.stand_in_for("echo") == TOLD
    assert sandboxes.stand_in_for("noop") == ""
    assert sandboxes.stop("scripted") and not sandboxes.stop("scripted")
    assert sandboxes.variables() == ()
    assert not ask(status.ports[0]) and not ScriptedStandIn.attached and "SCRIPTED_PORT" not in os.environ
    assert sandboxes.stand_in_for("scripted") == ""


def test_one_that_runs_is_left_as_it_is(sandboxes: Sandboxes) -> None:
    first = sandboxes.start("scripted")
    assert sandboxes.start("scripted") == first


def test_the_variables_of_the_user_come_back(sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("SCRIPTED_KEY", "the user's")
        sandboxes.start("scripted")
        assert os.environ["SCRIPTED_KEY"] == "key"
        sandboxes.stop("scripted")
        assert os.environ["SCRIPTED_KEY"] == "the user's"
        sandboxes.start("scripted")
        os.environ["SCRIPTED_KEY"] = "changed meanwhile"
        sandboxes.stop("scripted")
        assert os.environ["SCRIPTED_KEY"] == "changed meanwhile"


def test_the_server_gets_no_secrets(sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch, script: Any) -> None:
    spy = "import os; print(sorted(n for n in os.environ if n.startswith('_FSEC_')), flush=True)\n"
    monkeypatch.setattr(scripted_stand_in, "SERVER", spy + scripted_stand_in.SERVER)
    script(words=("dies",))
    with monkeypatch.context() as patch:
        patch.setenv("_FSEC_MINE", "secret")
        with pytest.raises(ServiceError, match=r"\[\]"):
            sandboxes.start("scripted")


def test_a_proxy_is_not_asked_for_what_is_here(sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("HTTPS_PROXY", "http://proxy:3128")
        patch.setenv("NO_PROXY", "example.org")
        patch.delenv("no_proxy", raising=False)
        sandboxes.start("scripted")
        assert os.environ["NO_PROXY"] == "example.org,127.0.0.1,localhost"
        assert os.environ["no_proxy"] == "127.0.0.1,localhost"
        sandboxes.stop("scripted")
        assert os.environ["NO_PROXY"] == "example.org" and "no_proxy" not in os.environ


def test_two_processes_worth_of_them_are_apart(sandboxes: Sandboxes) -> None:
    other = Sandboxes(TABLE)
    one, two = sandboxes.start("scripted"), other.start("scripted")
    assert one.ports != two.ports and ask(one.ports[0]) and ask(two.ports[0])
    other.close()
    assert ask(one.ports[0]) and not ask(two.ports[0])


# --- what goes wrong ---


@pytest.mark.parametrize(("name", "hint"), [("scriptd", "did you mean scripted?"), ("oracle", "there are scripted")])
def test_an_unknown_name(sandboxes: Sandboxes, name: str, hint: str) -> None:
    for ask_for in (sandboxes.start, sandboxes.stop, sandboxes.status, lambda n: sandboxes.load(n, "t", [])):
        with pytest.raises(ServiceNotFoundError) as caught:
            ask_for(name)
        assert caught.value.hint == hint


def test_without_its_connector_nothing_starts(sandboxes: Sandboxes, script: Any) -> None:
    script(connector="flytekitplugins-nowhere", extra="nowhere")
    with pytest.raises(ServiceError, match="flytekitplugins-nowhere") as caught:
        sandboxes.start("scripted")
    assert "%pip install 'flyteagent_nb[nowhere]'" in caught.value.hint


def test_a_server_that_dies_at_its_start_tells_its_last_words(sandboxes: Sandboxes, script: Any) -> None:
    script(words=("dies",))
    with pytest.raises(ServiceError, match="ended with exit code 1 at its start") as caught:
        sandboxes.start("scripted")
    assert caught.value.message.endswith("no such luck")
    assert sandboxes.status()[0].state == "stopped" and "SCRIPTED_PORT" not in os.environ


def test_a_server_that_never_answers(sandboxes: Sandboxes, script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START", 2.0)
    script(words=("silent",))
    with pytest.raises(ServiceError, match=r"gave no answer in 2 s; its last words:\nhello from") as caught:
        sandboxes.start("scripted")
    assert not running(int(caught.value.message.rpartition(" ")[2]))


def test_a_port_that_somebody_took_meanwhile(sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as theirs:
        theirs.bind(("127.0.0.1", 0))
        ports = iter([(theirs.getsockname()[1],), *(module.free_ports(1) for _ in range(2))])
        monkeypatch.setattr(module, "free_ports", lambda count: next(ports))
        status = sandboxes.start("scripted")
        assert status.ports != theirs.getsockname()[1:] and ask(status.ports[0])


def test_ports_that_are_taken_again_and_again(sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as theirs:
        theirs.bind(("127.0.0.1", 0))
        monkeypatch.setattr(module, "free_ports", lambda count: (theirs.getsockname()[1],))
        with pytest.raises(ServiceError, match="ddress already in use"):
            sandboxes.start("scripted")


def test_a_start_that_is_given_up_leaves_nothing(sandboxes: Sandboxes, script: Any) -> None:
    script(words=("silent", "child"))
    looks: list[int] = []
    with pytest.raises(TaskStopped, match="the Scripted sandbox was not started"):
        sandboxes.start("scripted", stopped=lambda: looks.append(1) or len(looks) > 5)
    assert sandboxes.status()[0].state == "stopped" and "SCRIPTED_PORT" not in os.environ


def test_an_interrupt_in_its_start_leaves_nothing(sandboxes: Sandboxes, script: Any) -> None:
    def interrupt() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sandboxes.start("scripted", stopped=interrupt)
    assert sandboxes.status()[0].state == "stopped"


def test_an_attach_that_fails_leaves_nothing(sandboxes: Sandboxes, script: Any) -> None:
    script(attach_fails=True)
    with pytest.raises(RuntimeError, match="does not attach"):
        sandboxes.start("scripted")
    assert "SCRIPTED_PORT" not in os.environ and sandboxes.status()[0].state == "stopped"


def test_a_server_that_ends_later_is_told_and_its_variables_stay(sandboxes: Sandboxes) -> None:
    """They stay, so that a run fails on it: the service itself is not what the user meant, and may cost money."""
    before = sandboxes.start("scripted")
    ask(before.ports[0], b"q")
    until(lambda: sandboxes.status()[0].state == "ended")
    assert sandboxes.status()[0].last_words.endswith("asked to quit")
    assert sandboxes.stand_in_for("scripted") == f"{TOLD}, which has ended (%agent sandbox scripted start)"
    assert os.environ["SCRIPTED_PORT"] == str(before.ports[0])
    with pytest.raises(ServiceError, match="does not run"):
        sandboxes.load("scripted", "t", [])
    after = sandboxes.start("scripted")
    assert after.state == "running" and os.environ["SCRIPTED_PORT"] == str(after.ports[0]) and ask(after.ports[0])


# --- tables ---


def test_tables_are_loaded_and_told(sandboxes: Sandboxes) -> None:
    with pytest.raises(ServiceError, match="does not run") as caught:
        sandboxes.load("scripted", "t", [1])
    assert caught.value.hint == "%agent sandbox scripted start starts it"
    sandboxes.start("scripted")
    assert sandboxes.load("scripted", "t", [1, 2]) == "t, 2 rows"
    sandboxes.load("scripted", "u", [])
    sandboxes.load("scripted", "t", [1])
    assert sandboxes.status()[0].tables == ("t, 1 rows", "u, 0 rows")


# --- threads ---


def test_many_threads_start_one(sandboxes: Sandboxes) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: sandboxes.start("scripted").ports, range(8)))
    assert len(found) == 1


def test_a_close_waits_for_a_start_and_ends_it(sandboxes: Sandboxes) -> None:
    started = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(sandboxes.start, "scripted", lambda text: started.set())
        started.wait(30)
        sandboxes.close()
        port = future.result(30).ports[0]
    sandboxes.close()
    assert not ask(port)


def test_in_a_forked_child_they_are_left_alone(sandboxes: Sandboxes) -> None:
    status = sandboxes.start("scripted")
    sandboxes._owner += 1  # as a child sees it
    sandboxes.close()
    assert ask(status.ports[0])
    sandboxes._owner -= 1


# --- the layers of variables ---


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize("before", [{}, {"X": "0", "Y": "0"}])
def test_two_owners_of_one_variable_go_in_any_order(before: dict[str, str], order: str) -> None:
    environment = {**before, "Z": "z"}
    variables = Variables(environment)
    variables.set("a", {"X": "a", "Y": "a"})
    variables.set("b", {"X": "b"})
    assert environment == {"X": "b", "Y": "a", "Z": "z"}
    assert variables.before("X") == before.get("X") and variables.before("Z") == "z"
    variables.put_back(order[0])
    left = {"a": {"X": "b", **({"Y": "0"} if before else {})}, "b": {"X": "a", "Y": "a"}}[order[0]]
    assert environment == {**left, "Z": "z"}
    variables.put_back(order[1])
    variables.put_back(order[1])
    assert environment == {**before, "Z": "z"}


def test_what_the_user_changes_or_removes_meanwhile_stays() -> None:
    environment = {"X": "0", "Y": "0"}
    variables = Variables(environment)
    variables.set("a", {"X": "a", "Y": "a"})
    environment["X"] = "mine"
    del environment["Y"]
    variables.put_back("a")
    assert environment == {"X": "mine"}
    variables.set("a", {"X": "a"})
    environment["X"] = "mine again"
    variables.set("b", {"X": "b"})
    variables.put_back("b")
    assert environment == {"X": "a"}


@pytest.mark.parametrize(
    ("name", "table", "told"),
    [
        ("snowflake", "shop.orders", "is no table of Snowflake's"),
        ("bigquery", "orders", "is no table of BigQuery's"),
        ("openai", "shop.orders", "has no tables"),
    ],
)
def test_a_table_s_name_is_looked_at_where_nothing_runs(name: str, table: str, told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        Sandboxes().check_table(name, table)
    for good, fits in (("snowflake", "shop.public.orders"), ("bigquery", "shop.orders")):
        Sandboxes().check_table(good, fits)
