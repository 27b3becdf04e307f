from __future__ import annotations

import random
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest

from flyteagent_nb.errors import ArgumentError
from flyteagent_nb.notebook.arguments import (
    AgentArguments,
    AgentTaskArguments,
    hides_output,
    parse_agent,
    parse_agent_task,
)
from flyteagent_nb.notebook.grammar import _ELSEWHERE, VERBS
from flyteagent_nb.notebook.values import config_value, input_values


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("", {}),
        ("bigquery_query_job_task", {"task_type": "bigquery_query_job_task"}),
        ("-b 'my type'", {"task_type": "my type", "background": True}),
        ("-i year=2024 -i zone", {"inputs": (("year", "2024"), ("zone", None))}),
        ("-iyear=2024", {"inputs": (("year", "2024"),)}),
        ("--input=year=2024", {"inputs": (("year", "2024"),)}),
        ("--input year=2024", {"inputs": (("year", "2024"),)}),
        ("""-i d={'a': 1, "b": [1, 2]} t""", {"inputs": (("d", """{'a': 1, "b": [1, 2]}"""),), "task_type": "t"}),
        ("-i s='US west'", {"inputs": (("s", "'US west'"),)}),
        ("-i s=a=b==c", {"inputs": (("s", "a=b==c"),)}),
        ("-i n=-5", {"inputs": (("n", "-5"),)}),
        ('--inputs {"a": 1}', {"inputs_mapping": '{"a": 1}'}),
        ("--inputs dict(a=1, b=2)", {"inputs_mapping": "dict(a=1, b=2)"}),
        ("--inputs=options", {"inputs_mapping": "options"}),
        ("-o df", {"outputs": ("df",)}),
        ("-o a,b", {"outputs": ("a", "b")}),
        ("-o 'a, b'", {"outputs": ("a", "b")}),
        ("-o _,b,_", {"outputs": ("_", "b", "_")}),
        ("-r run", {"run_name": "run"}),
        ("-r 'run'", {"run_name": "run"}),
        ("-bq", {"background": True, "quiet": True}),
        ("-bqrrun", {"background": True, "quiet": True, "run_name": "run"}),
        ("-bqr run", {"background": True, "quiet": True, "run_name": "run"}),
        ("-c ProjectID=my-project -c Location=EU", {"config": (("ProjectID", "my-project"), ("Location", "EU"))}),
        ("-c q='a b' --config-value=x=", {"config": (("q", "'a b'"), ("x", ""))}),
        ("--config cfg.big", {"config_variable": "cfg.big"}),
        ("--returns x:dict[str,int],y:str", {"returns": (("x", "dict[str,int]"), ("y", "str"))}),
        ("--service 'prod' --retries '3' --lang 'sql'", {"service": "prod", "retries": 3, "language": "sql"}),
        ("--service prod --retries=3", {"service": "prod", "retries": 3}),
        ("--timeout 1h30m", {"timeout": timedelta(minutes=90)}),
        ("--lang SQL --code pickle", {"language": "sql", "code": "pickle"}),
        ("--name 'my task' --dry-run", {"name": "my task", "dry_run": True}),
        ("-b -- -x", {"background": True, "task_type": "-x"}),
        ("-h", {"help": True}),
        ("--nonsense --help -i", {"help": True}),
        ("-qh", {"help": True}),
        ("-- -h", {"task_type": "-h"}),
    ],
)
def test_the_line_of_agent_task(line: str, given: dict[str, Any]) -> None:
    found = parse_agent_task(line)
    if given.get("help"):
        assert found.help
    else:
        assert found == AgentTaskArguments(**given)


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("", {}),
        ("types", {"verb": "types"}),
        ("'types'", {"verb": "types"}),
        ("run my_task", {"verb": "run", "task": "my_task"}),
        ("run m.my_task year=2024 z='a b' -b", {
            "verb": "run", "task": "m.my_task", "inputs": (("year", "2024"), ("z", "'a b'")), "background": True,
        }),
        ("run -o a,b t x=1 -r r --service s --retries 0 --timeout 500ms -q --dry-run", {
            "verb": "run", "task": "t", "inputs": (("x", "1"),), "outputs": ("a", "b"), "run_name": "r", "service": "s",
            "retries": 0, "timeout": timedelta(milliseconds=500), "quiet": True, "dry_run": True,
        }),
        ("runs", {"verb": "runs"}),
        ("runs --phase running -n5", {"verb": "runs", "phase": "RUNNING", "limit": 5}),
        ("show last", {"verb": "show", "run_id": "last"}),
        ("logs 3f2 -fn 20", {"verb": "logs", "run_id": "3f2", "follow": True, "lines": 20}),
        ("cancel a b", {"verb": "cancel", "run_ids": ("a", "b")}),
        ("cancel --all", {"verb": "cancel", "all_runs": True}),
        ("serve --port 8000", {"verb": "serve", "port": 8000, "host": "127.0.0.1"}),
        ("serve --port=0 --host ::1 --open", {"verb": "serve", "port": 0, "host": "::1", "open": True}),
        ("stop", {"verb": "stop"}),
        ("stop 127.0.0.1:8000", {"verb": "stop", "address": "127.0.0.1:8000"}),
        ("sandbox", {"verb": "sandbox", "action": "status"}),
        ("sandbox stop", {"verb": "sandbox", "action": "stop"}),
        ("sandbox status", {"verb": "sandbox", "action": "status"}),
        ("sandbox OpenAI", {"verb": "sandbox", "sandbox": "openai", "action": "start"}),
        ("sandbox openai stop", {"verb": "sandbox", "sandbox": "openai", "action": "stop"}),
        ("sandbox stop openai", {"verb": "sandbox", "sandbox": "openai", "action": "stop"}),
        ("sandbox start OpenAI", {"verb": "sandbox", "sandbox": "openai", "action": "start"}),
        (
            "sandbox bigquery --table shop.orders=df --table='shop.more'='a b.csv' start",
            {
                "verb": "sandbox",
                "sandbox": "bigquery",
                "action": "start",
                "tables": (("shop.orders", "df"), ("shop.more", "'a b.csv'")),
            },
        ),
        ("remove my_job", {"verb": "remove", "task_type": "my_job"}),
        ("remove my_job@0", {"verb": "remove", "task_type": "my_job", "version": 0}),
        ("remove my_job@2", {"verb": "remove", "task_type": "my_job", "version": 2}),
        ("nest", {"verb": "nest"}),
        ("-h", {"help": True}),
        ("--help run", {"help": True}),
        ("help", {"help": True}),
        ("help run", {"verb": "run", "help": True}),
        ("help -h", {"verb": "help", "help": True}),
        ("run -h", {"verb": "run", "help": True}),
        ("serve --nonsense -h", {"verb": "serve", "help": True}),
        ("logs -fh", {"verb": "logs", "help": True}),
    ],
)  # fmt: skip
def test_the_line_of_agent(line: str, given: dict[str, Any]) -> None:
    assert parse_agent(line) == AgentArguments(**given)


@pytest.mark.parametrize(
    ("line", "without"),
    [
        ("run t -q;", "run t -q"),
        ("run t x='a' ; ", "run t x='a'"),
        ("run t x='a';", "run t x='a'"),
        ("run t x='a;'", "run t x='a;'"),
        ("run t x='a;';", "run t x='a;'"),
        ("run t x=[1, 2];", "run t x=[1, 2]"),
        ("types;", "types"),
        (";", ""),
    ],
)
def test_a_semicolon_that_ends_the_line_is_none_of_it(line: str, without: str) -> None:
    assert parse_agent(line) == parse_agent(without)
    assert hides_output(line) is (line != without)


def test_a_hash_in_a_value_is_the_value() -> None:
    assert parse_agent_task("t -c colour=#fff -i a='#1'").config == (("colour", "#fff"),)


def test_what_is_not_given() -> None:
    task, agent = parse_agent_task(""), parse_agent("")
    for found in (task, agent):
        assert not (found.background or found.dry_run or found.quiet or found.help)
        assert (found.inputs, found.outputs, found.run_name, found.service) == ((), (), "", "")
        assert (found.retries, found.timeout) == (None, None)
    assert (task.task_type, task.inputs_mapping, task.config, task.config_variable) == ("", "", (), "")
    assert (task.returns, task.language, task.name, task.code) == (None, "auto", "", "")
    assert not (agent.all_runs or agent.follow or agent.open)
    assert (agent.verb, agent.task, agent.phase, agent.run_id, agent.run_ids) == (None, "", "", "", ())
    assert (agent.limit, agent.lines, agent.version) == (None, None, None)
    assert (agent.port, agent.host, agent.address, agent.task_type) == (0, "127.0.0.1", "", "")


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("-i s='US", "the quote ' at column 6 is not closed", "end it with '"),
        ("--qiet", "%%agent_task has no option --qiet", "did you mean --quiet?"),
        ("--back", "has no option --back", "did you mean --background?"),
        ("--retr 3", "has no option --retr", "did you mean --retries?"),
        ("--retry 3", "has no option --retry", "did you mean --retries?"),
        ("-x", "has no option -x", "its options are --input"),
        ("-bx", "has no option -x (in -bx)", ""),
        ("--phase X", "has no option --phase", "it is an option of %agent runs"),
        ("-f", "has no option -f", "it is an option of %agent logs"),
        ("-input x=1", "-input begins with one dash", "write --input"),
        ("-output=x", "-output=x begins with one dash", "write --output=x"),
        ("--quiet=1", "--quiet takes no value", "write --quiet alone"),
        ("--retries=", "--retries needs its N after =", "try again"),
        ("-i", "-i needs its NAME[=VALUE]", "an input: year=2024"),
        ("-o -b", "-o needs its NAMES, and -b is the next option", "put the result into a variable"),
        ("-r -- x", "-r needs its NAME", ""),
        ("-o a -o b", "-o is given twice", "-o a,b takes several"),
        ("-r a --run b", "-r and --run are the same option, given twice", "give it once"),
        ("-b -b", "-b is given twice", "give it once"),
        ("-i a=1 -i a=2", "-i a is given twice", "give each its value once"),
        ("-i a -ia=2", "-i a is given twice", ""),
        ("-c a=1 -c a=2", "-c a is given twice", ""),
        ("--retries x", "--retries: x is not a whole number, 0 or more", "write a number such as 3"),
        ("--retries -1", "--retries: -1 is not a whole number, 0 or more", ""),
        ("--retries 1.5", "--retries: 1.5 is not", ""),
        ("--timeout soon", "--timeout: soon is not a length of time", "write 90s, 10m"),
        ("--lang sq", "--lang: sq is not known here", "did you mean sql? it is one of auto, sql"),
        ("--code here", "--code: here is not known here", "it is one of kernel, pickle, image"),
        ("-i cfg.year", "-i: cfg.year cannot be the name of an input", "such as year=cfg.year"),
        ("-i =5", "-i: =5 has no name before =", "write year=2024"),
        ("-i x=", "-i: x= has no value", "an empty text is x=''"),
        ("-i class=1", "-i: class cannot be the name of an input", ""),
        ("-i year = 2024", "no place for the word =", "no white space around ="),
        ("t -i year= 2024", "-i: year= has no value", "year=2024 without white space"),
        ("t year=2024", "no place for the word year=2024", "an input is written -i year=2024, a setting -c year=2024"),
        ("a b", "%%agent_task has no place for the word b", "--help tells"),
        ("-c Location", "-c: Location has no value", "for a variable Location=$name"),
        ("--config f()", "--config: f() is not the name of a variable", "put it into a variable"),
        ("-o a,", "-o: a, has an empty name", "without white space: a,b"),
        ("-o a, b", "-o: a, has an empty name", "without white space"),
        ("-o a,a", "-o: a is given twice", "or _ for one to drop"),
        ("-o 1a", "-o: 1a cannot be the name of a variable", "such as df"),
        ("-r class", "-r: class cannot be the name of a variable", ""),
        ("--name ''", "--name: it is empty", "leave it out"),
        ("--returns 5:int", "--returns: 5:int is not a list of outputs", "write --returns path:str"),
        ("-r r -o r", "-r r and -o r put the run and its result into the same variable", "-r run -o df"),
        ("-o a,r -r r", "-r r and -o r put", ""),
        ("-q # comment", "%%agent_task takes no comment on its line", "on a line of its own"),
        ("-o df -b", "-o waits for the result, and -b does not wait", "bind the run with -r run"),
    ],
)
def test_a_line_of_agent_task_that_cannot_be_read(line: str, message: str, hint: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        parse_agent_task(line)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.hint


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("rnu", "%agent has no verb rnu", "did you mean %agent run?"),
        ("zzz", "%agent has no verb zzz", "%agent help tells what each does"),
        ("ls", "%agent has no verb ls", "did you mean %agent runs?"),
        ("kill last", "%agent has no verb kill", "did you mean %agent cancel?"),
        ("deploy", "%agent has no verb deploy", "did you mean %agent export?"),
        ("help rnu", "%agent has no verb rnu", "did you mean %agent run?"),
        ("-q runs", "%agent has no option -q", "it is an option of %%agent_task and of %agent run"),
        ("types x", "%agent types has no place for the word x", "%agent types --help"),
        ("run", "%agent run needs TASK: the variable that holds the task", "%agent run --help"),
        ("run f()", "TASK: f() is not the name of a variable", "write f name=value here, or call it in a cell: f()"),
        ("run f, a=1", "TASK: f, is not the name of a variable", "no commas: f name=value"),
        ("run 'f' a=1", "TASK: 'f' is not the name of a variable", "write the name alone: f"),
        ("run $f.g a=1", "TASK: $f.g is not the name of a variable", "write the name alone: f.g"),
        ("run {f} a=1", "TASK: {f} is not the name of a variable", "write the name alone: f"),
        ("run {f[0]} a=1", "TASK: {f[0]} is not the name of a variable", "put it into a variable"),
        (
            "show $run.id",
            "$run.id is taken as it stands",
            "get_ipython().run_line_magic('agent', f'... {run.id}') does that",
        ),
        ("attach {run.id}", "{run.id} is taken as it stands", "{run.id}"),
        ("connect dev {x.address}", "{x.address} is taken as it stands", "{x.address}"),
        ("route {t} dev", "{t} is taken as it stands", "{t}"),
        ("run t year", "NAME=VALUE: year has no value", "year=year for the variable"),
        ("run t year = 1", "NAME=VALUE: year has no value", ""),
        ("run t year=1 = 2", "no place for the word =", "no white space around ="),
        ("run t year=1 year=2", "year is given twice", ""),
        ("run t -i year=1", "%agent run has no option -i", "%agent run my_task year=2024"),
        ("run t --servce s", "%agent run has no option --servce", "did you mean --service?"),
        ("run ./a/flows.py train", "TASK: ./a/flows.py is not the name of a variable", "from flows import my_task"),
        ("run flows.py train n=5", "TASK: flows.py is not the name of a variable", "from flows import my_task"),
        ("run t --n 5", "%agent run has no option --n", "an input is written without dashes: n=VALUE"),
        ("run t --year=5", "%agent run has no option --year", "an input is written without dashes: year=VALUE"),
        ("form t --name x", "has no option --name", "%%agent_task; an input is written without dashes: name=VALUE"),
        ("types year=", "%agent types has no place for the word year=", "no white space around ="),
        ("types 8000", "%agent types has no place for the word 8000", "%agent types --help"),
        ("run t x=1 -o a -b", "-o waits for the result", "-r run"),
        ("runs --phase runing", "--phase: runing is not known here", "did you mean RUNNING?"),
        ("types --all", "%agent types has no option --all", "it is an option of %agent "),
        ("runs -n 0", "-n: 0 is not a whole number, 1 or more", ""),
        ("show", "%agent show needs ID", ""),
        ("show a b", "%agent show has no place for the word b", ""),
        ("cancel", "%agent cancel takes the ids of runs or --all", "%agent cancel last"),
        ("cancel a --all", "%agent cancel takes the ids of runs or --all, not both", ""),
        ("serve", "%agent serve needs --port N", ""),
        ("serve 8000", "no place for the word 8000", "write --port 8000"),
        (
            "serve --port 70000",
            "--port: 70000 is not a whole number, from 0 to 65535",
            "write a number from 0 to 65535",
        ),
        (
            "run t x=1 # comment",
            "%agent run takes no comment on its line",
            "a text that begins with # stands in quotes",
        ),
        ("run t #comment", "%agent run takes no comment on its line", ""),
        ("secret NAME #hunter22", "%agent secret takes one name", "have it replaced"),
        ("sandbox opnai", "NAME: opnai is not known here", "did you mean openai?"),
        ("sandbox start", "NAME: start is not known here", "it is one of bigquery"),
        ("sandbox stop start", "stop and start are both what to do", "write %agent sandbox NAME stop"),
        ("sandbox openai halt", "ACTION: halt is not known here", "it is one of start, stop, status"),
        ("sandbox --table t=df", "--table needs a sandbox", ""),
        ("sandbox openai stop --table t=df", "--table needs a sandbox", ""),
        ("sandbox openai --table t", "--table: t has no value", "write t=df, or t='orders.csv'"),
        ("sandbox openai --table =df", "--table: =df has no name before =", "write shop.orders=df"),
        ("sandbox openai --table t=a --table t=b", "--table t is given twice", ""),
        ("remove", "%agent remove needs TYPE[@VERSION]", ""),
        ("remove my_job@x", "TYPE[@VERSION]: x is not a whole number", ""),
        ("remove @1", "@1 has no task type before @", ""),
    ],
)
def test_a_line_of_agent_that_cannot_be_read(line: str, message: str, hint: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        parse_agent(line)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.hint


def test_a_suggestion_is_an_attribute_too() -> None:
    with pytest.raises(ArgumentError) as caught:
        parse_agent_task("--qiet")
    assert caught.value.suggestion == "--quiet"


FRAGMENTS = [
    *(" ", "  ", "\t", "\n", "\0", "=", "'", '"', "'''", '"""', "\\", "(", ")", "[", "]", "{", "}"),
    *(",", ":", "@", "$", "-", "--", ".", "é", "🚀", "\ud800"),
    *"-i -o -b -c -n -r -h -f -q -x --input --inputs --lang --config --code --returns --retries --timeout".split(),
    *"--phase --all --port --name --service --help --dry-run".split(),
    *"types run runs show logs cancel serve stop sandbox remove help nest".split(),
    *"year year= x=1 cfg.year a,b dict( int x:int sql 8000 90s 1h30m 1.5 -5 None last".split(),
]


def random_lines(count: int) -> list[str]:
    rng = random.Random(20240229)
    return [
        "".join(rng.choice(FRAGMENTS) + rng.choice(["", " "]) for _ in range(rng.randint(0, 12))) for _ in range(count)
    ]


def test_only_argument_errors_come_out_of_random_text() -> None:
    read = {"agent_task": 0, "agent": 0}
    for line in random_lines(5000):
        try:
            found = parse_agent_task(line)
            read["agent_task"] += 1
            input_values(found.inputs, found.inputs_mapping, {"year": 1})
            for _, text in found.config:
                config_value(text, {"year": 1})
        except ArgumentError as error:
            assert error.message and error.hint, line
        for prefix in ("", "run t ", "runs ", "cancel "):
            try:
                parse_agent(prefix + line)
                read["agent"] += 1
            except ArgumentError as error:
                assert error.message and error.hint, line
    assert min(read.values()) > 100  # the fragments do make lines that can be read


def test_importing_it_brings_in_nothing_heavy() -> None:
    code = (
        "import sys, flyteagent_nb.notebook.completion\n"
        "heavy = {'IPython', 'flytekit', 'flyteidl', 'grpc', 'traitlets', 'argparse', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=200)
    if "No module named 'flyteagent_nb'" in done.stderr:  # run from the tree, not installed
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", ["check my_job@1 a=1", "route my_job@1 kernel", "unroute my_job@1", "remove my_job@1"])
def test_a_task_type_with_its_version(line: str) -> None:
    arguments = parse_agent(line)
    assert (arguments.task_type, arguments.version) == ("my_job", 1)


def test_types_to_export() -> None:
    assert parse_agent("export out --types a,b --types c --image r/x:1").types == ("a,b", "c")


def test_a_word_of_another_tool_leads_to_a_verb() -> None:
    assert set(_ELSEWHERE.values()) <= set(VERBS) and not set(_ELSEWHERE) & set(VERBS)
