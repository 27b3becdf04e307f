"""``%agent`` and its verbs, their results in Python, the settings, and what the Tab key offers."""

from __future__ import annotations

import pytest

from kernel.harness import Kernel

pytestmark = pytest.mark.kernel

BOTH = {"text/plain", "text/html"}


@pytest.fixture(scope="module", autouse=True)
def tasks(kernel: Kernel) -> None:
    kernel.ok(
        "import flyteagent_nb\n"
        "echo = scripted_task('echo', inputs={'year': int, 'region': str}, outputs={'year': int, 'region': str}, name='echo')\n"
        "slow = scripted_task(phases=['RUNNING'], name='slow', links={'console': 'http://console/x'})\n"
        "talks = scripted_task(name='talks', prints={'create': 'one', 'get': 'two'})\n"
        "sad = scripted_task(name='sad', phases=['FAILED'], message='it <b>rained</b>')\n"
        "year, region = 2024, 'EU'"
    )


def test_the_overview_shows_service_agents_and_runs(kernel: Kernel) -> None:
    kernel.ok("talks()")
    cell = kernel.ok("panel = %agent\npanel")
    assert set(cell.shown) == BOTH
    text = cell.shown["text/plain"]
    assert "Serving" in text and "private socket" in text
    assert "Scripted Agent" in text and "talks" in text


def test_types_is_a_list_of_agents(kernel: Kernel) -> None:
    cell = kernel.ok("types = %agent types\ntypes")
    assert set(cell.result) == BOTH
    assert (
        kernel.value(
            "{(t.task_type, t.is_sync) for t in types} >= {('scripted', False), ('echo', True), ('sensor', False)}"
        )
        == "True"
    )


def test_run_takes_inputs_and_gives_the_value(kernel: Kernel) -> None:
    cell = kernel.ok("%agent run echo year=1999 region=region -q")
    assert cell.kinds == ["execute_result"] and cell.text.endswith("(year=1999, region='EU')")
    kernel.ok("%agent run echo year=year region='a b' -o y,r -r run")
    assert kernel.value("y, r, run.outputs") == "(2024, 'a b', {'year': 2024, 'region': 'a b'})"
    cell = kernel.ok("%agent run slow -b -r run")
    assert set(cell.shown) == BOTH
    kernel.ok("run.cancel()")
    assert "nothing was sent" in kernel.value("%agent run echo year=1 region='x' --dry-run")


def test_in_a_function_its_variables_come_first(kernel: Kernel) -> None:
    kernel.ok(
        "def f(year):\n    task, place = echo, 'here'\n    found = %agent run task year=year region=place\n    return found, region"
    )
    assert kernel.value("f(1)") == "(DefaultNamedTupleOutput(year=1, region='here'), 'EU')"


def test_a_semicolon_at_the_end_hides_what_a_line_comes_to(kernel: Kernel) -> None:
    assert kernel.ok("%agent run echo year=1 region='a;' -q;").kinds == []
    assert kernel.ok("%agent types;").kinds == kernel.ok("year\n%agent types ; ").kinds == []
    assert kernel.value("y = %agent run echo year=1 region='a;' -q;\ny.region") == "'a;'"
    kernel.ok("def kinds():\n    found = %agent types;\n    return found")
    assert kernel.value("len(kinds()) > 1") == "True"
    assert kernel.ok("%%agent_task noop -q;\n{}").kinds == []
    assert "takes no comment on its line" in kernel.fails("%agent run echo year=1 region='x' # why").error


def test_a_form_tells_how_its_task_is_run_without_a_browser(kernel: Kernel) -> None:
    told = kernel.ok("%%agent_task noop --form -i year=1\na: 1").shown["text/plain"]
    assert told.endswith("Without one: run the cell without --form, with -i year=...")
    told = kernel.ok("%%agent_task --form\nlater = scripted_task(inputs={'n': int})\nlater").shown["text/plain"]
    assert told.endswith("Without one: %agent run later n=...")
    kernel.ok("from types import SimpleNamespace\nhas = SimpleNamespace(it=scripted_task())")
    assert kernel.ok("%agent form has.it").shown["text/plain"].endswith("Without one: %agent run has.it")


def test_an_agent_of_ours_that_was_removed_is_told_how_it_comes_back(kernel: Kernel) -> None:
    kernel.ok("%agent remove duckdb_query")
    cell = "%%agent_task duckdb_query\nSELECT 1 AS n"
    for told in (kernel.fails(cell).error, kernel.value("%agent doctor duckdb_query")):
        assert "where it was removed, %reload_ext flyteagent_nb brings it back" in " ".join(told.split())
    kernel.ok("%reload_ext flyteagent_nb")
    kernel.ok(cell)


def test_runs_is_a_list_of_runs_newest_first(kernel: Kernel) -> None:
    kernel.ok("talks()")
    kernel.fails("sad()")
    cell = kernel.ok("runs = %agent runs\nruns")
    assert set(cell.result) == BOTH
    assert kernel.value(
        "runs[0].id == flyteagent_nb.get_workspace().runner.find('last').id, runs[0].phase, runs[1].name"
    ) == ("(True, 'FAILED', 'talks')")
    assert "it <b>rained</b>" in cell.text and "it &lt;b&gt;rained" in cell.result["text/html"]
    assert kernel.value("failed = %agent runs --phase failed -n 1\n[r.name for r in failed]") == "['sad']"
    assert kernel.value("%agent runs --phase unknown") == "no run is UNKNOWN"


def test_show_tells_all_of_a_run(kernel: Kernel) -> None:
    kernel.fails("sad()")
    for id in ("last", "{}"):
        kernel.ok("id = flyteagent_nb.get_workspace().runner.find('last').id")
        cell = kernel.ok(f"%agent show {id.format(kernel.value('id[:6]').strip(chr(39)))}")
        assert set(cell.result) == BOTH
        for told in ("sad (scripted)", "it <b>rained</b>", "Failed", "job_id"):
            assert told in cell.text
    assert kernel.value("shown = %agent show last\nshown.run.id == id, shown.run.phase") == "(True, 'FAILED')"


def test_logs_are_what_the_agent_printed(kernel: Kernel) -> None:
    cell = kernel.ok("talks()")
    assert "one" not in str(cell)
    assert kernel.value("lines = %agent logs last\nlist(lines)") == "['one', 'two']"
    assert kernel.value("%agent logs last -n 1") == "two"
    cell = kernel.ok("run = %agent run talks -b\n%agent logs last -f")
    assert cell.stdout == "one\ntwo\n"
    kernel.ok("scripted_task('noop')()")
    assert kernel.value("%agent logs last") == "nothing was printed or logged"


def test_two_runs_that_print_at_once_stay_apart(kernel: Kernel) -> None:
    kernel.ok(
        "runs = [flyteagent_nb.submit(scripted_task(prints={'create': f'c{i}', 'get': f'g{i}'}, name=f'n{i}')) for i in range(20)]\n"
        "for run in runs: run.result()"
    )
    assert kernel.value("all(run.logs() == [f'c{i}', f'g{i}'] for i, run in enumerate(runs))") == "True"


def test_cancel_deletes_the_jobs(kernel: Kernel) -> None:
    kernel.ok("runs = [flyteagent_nb.submit(slow) for _ in range(3)]\nuntil(lambda: len(scripted.open_jobs) == 3)")
    cell = kernel.ok("gone = %agent cancel last\ngone")
    assert "Aborted" in cell.text
    assert kernel.value("[r.cancelled for r in runs], len(scripted.open_jobs)") == "([False, False, True], 2)"
    assert kernel.value("gone = %agent cancel --all\nlen(gone), scripted.open_jobs") == "(2, [])"
    assert kernel.fails("runs[0].result()").ename == "RunAbortedError"


def test_serve_and_stop(kernel: Kernel) -> None:
    cell = kernel.ok("served = %agent serve --port 0\nserved")
    token = kernel.value("str(served.token)").strip("'")
    assert len(token) > 20 and token not in str(cell) + cell.result["text/html"]
    assert kernel.value("overview = %agent\nserved.address in repr(overview)") == "True"
    port = kernel.value("served.address.rpartition(':')[2]").strip("'")
    taken = kernel.fails(f"%agent serve --port {port}")
    assert taken.ename == "AddressInUseError" and port in taken.error
    assert "open: whoever reaches" in kernel.value("%agent serve --port 0 --open")
    assert kernel.value("gone = %agent stop\nlen(gone.rows)") == "2"
    assert "nothing" in kernel.value("%agent stop")
    assert kernel.value("scripted_task('noop')()") == ""


def test_remove_forgets_an_agent(kernel: Kernel) -> None:
    kernel.ok(
        "from scripted import NoopAgent\nConnectorRegistry.register(NoopAgent('short_lived'))\nt = scripted_task('short_lived')\nt()"
    )
    kernel.ok("%agent remove short_lived")
    assert "short_lived" not in kernel.value("%agent types")
    assert "no agent" in kernel.fails("%agent run t").error
    kernel.ok("ConnectorRegistry.register(NoopAgent('short_lived'))\nt()")


def test_an_agent_that_is_registered_again_is_the_one_that_runs(kernel: Kernel) -> None:
    agent = (
        "from flyteidl.core.execution_pb2 import TaskExecution\n"
        "from flytekit.extend.backend.base_agent import AgentRegistry, Resource, SyncAgentBase\n"
        "class Mine(SyncAgentBase):\n"
        "    name = 'Mine'\n"
        "    def __init__(self): super().__init__(task_type_name='mine')\n"
        "    async def do(self, task_template, output_prefix, inputs=None, **kw):\n"
        "        return Resource(phase=TaskExecution.SUCCEEDED, outputs={{'x': '{}'}})\n"
        "AgentRegistry.register(Mine())\n"
        "scripted_task('mine', outputs={{'x': str}})()"
    )
    assert [kernel.value(agent.format(i)) for i in range(3)] == ["'0'", "'1'", "'2'"]
    assert kernel.value("types = %agent types\n[t.task_type for t in types].count('mine')") == "1"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("%agent bogus", "%agent has no verb bogus"),
        ("%agent rnus", "did you mean %agent run"),
        ("%agent show", "needs ID"),
        ("%agent show zz", "no run's id begins with 'zz'"),
        ("%agent logs last -n 0", "not a whole number"),
        ("%agent cancel", "takes the ids of runs or --all"),
        ("%agent run", "needs TASK"),
        ("%agent run nobody", "there is no variable nobody"),
        ("%agent run ech year=1", "did you mean echo?"),
        ("%agent run region", "region is not a task but a str"),
        ("%agent run echo yaer=1 region='x'", "did you mean year?"),
        ("%agent run echo year=1", "misses input 'region'"),
        ("%agent run echo year='x' region='x'", "input 'year' of task 'echo'"),
        ("%agent run echo -i year=1", "inputs are written without it"),
        ("%agent remove nothing", "no agent here serves the task type 'nothing'"),
        ("%agent serve", "needs --port"),
        ("%agent stop 127.0.0.1:1", "does not listen at '127.0.0.1:1'"),
        ("%agent runs --phase LATE", "it is one of"),
    ],
)
def test_bad_lines(kernel: Kernel, line: str, told: str) -> None:
    cell = kernel.fails(line)
    assert cell.kinds == ["error"]
    assert told in cell.error, cell.error


def test_every_verb_has_its_help(kernel: Kernel) -> None:
    for verb in ("types", "run", "runs", "show", "logs", "cancel", "serve", "stop", "remove", "nest"):
        asked = kernel.value(f"%agent {verb} --help")
        assert asked.startswith(f"%agent {verb}") and "Examples:" in asked
        assert kernel.value(f"%agent help {verb}") == asked
        assert verb in kernel.value("%agent --help")


# --- settings ---


def test_the_settings_explain_themselves(kernel: Kernel) -> None:
    told = kernel.ok("%config FlyteAgentNB").stdout
    assert (
        "FlyteAgentNB.pace=<Enum>" in told
        and "FlyteAgentNB.stop_grace=<Float>" in told
        and "Seconds that a stopped cell waits" in told
    )
    assert "FlyteAgentNB" in kernel.ok("%config").stdout
    kernel.ok("%config FlyteAgentNB.pace = 'propeller'")
    assert kernel.value("flyteagent_nb.get_workspace().config.freeze().pace") == "'propeller'"
    assert "expected any of" in kernel.run("%config FlyteAgentNB.pace = 'slow'").stderr
    kernel.ok("%config FlyteAgentNB.pace = 'adaptive'")


# --- Tab ---


@pytest.mark.parametrize(
    ("typed", "offered", "never"),
    [
        ("%agent ca", {"%agent cancel"}, {"%agent runs"}),
        ("%agent ru", {"%agent run", "%agent runs"}, set()),
        ("%agent run ec", {"%agent run echo"}, {"%agent run region"}),
        ("%agent run echo ye", {"%agent run echo year="}, set()),
        ("%agent run echo year=ye", {"%agent run echo year=year"}, set()),
        ("%agent run echo --re", {"%agent run echo --retries"}, {"%agent run echo --returns"}),
        ("%agent runs --phase SUC", {"%agent runs --phase SUCCEEDED"}, set()),
        ("%agent show la", {"%agent show last"}, set()),
        ("%agent remove scri", {"%agent remove scripted", "%agent remove scripted_plain"}, set()),
        ("%agent help ca", {"%agent help cancel"}, set()),
        ("x = %agent lo", {"x = %agent logs"}, set()),
        ("%%agent_task scri", {"%%agent_task scripted"}, set()),
        ("%%agent_task scripted --ret", {"%%agent_task scripted --returns", "%%agent_task scripted --retries"}, set()),
        ("%%agent_task scripted -i ye", {"%%agent_task scripted -i year"}, set()),
        *(
            (typed, {f"{typed}year"}, {f"{typed}{name}" for name in ("sys", "until", "ConnectorRegistry")})
            for typed in ("%%agent_task scripted -i ", "%agent run echo year=")
        ),
        ("%%agent_task scripted -i a=reg", {"%%agent_task scripted -i a=region"}, set()),
        ("%%agent_task --lang p", {"%%agent_task --lang python"}, set()),
        ("%%agent_t", {"%%agent_task"}, set()),
        ("%age", {"%agent"}, set()),
    ],
)
def test_the_tab_key(kernel: Kernel, typed: str, offered: set[str], never: set[str]) -> None:
    found = set(kernel.completed(typed))
    assert offered <= found, found
    assert not never & found


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("%agent run zzz", ["%agent run zzz"]),
        ("%agent logs -n ", ["%agent logs -n "]),
        ("%%agent_task zzz", ["%%agent_task zzz"]),
        ("%%agent_task scripted --name zzz", ["%%agent_task scripted --name zzz"]),
        ("%agent connect --from zzz", ["%agent connect --from zzz.yaml"]),
        ("%agent serve --port 0 --cert=zzz", ["%agent serve --port 0 --cert=zzz.yaml"]),
        ("%agent export zzz", ["%agent export zzz.yaml"]),
    ],
)
def test_the_tab_key_offers_files_where_one_is_wanted_only(kernel: Kernel, typed: str, offered: list[str]) -> None:
    kernel.ok("import pathlib\n_ = pathlib.Path('zzz.yaml').write_text('')")
    assert kernel.completed(typed) == offered


def test_the_tab_key_knows_the_runs_and_leaves_other_lines_alone(kernel: Kernel) -> None:
    kernel.ok("scripted_task('noop')()\nid = flyteagent_nb.get_workspace().runner.find('last').id")
    id = kernel.value("id").strip("'")
    assert f"%agent show {id}" in kernel.completed(f"%agent show {id[:4]}")
    assert "x = regi" not in kernel.completed("x = regi") and "x = region" in kernel.completed("x = regi")
    assert "%%agent_task\nregion" in kernel.completed("%%agent_task\nregi")  # the body is the user's own Python
