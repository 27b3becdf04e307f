"""The words of the magics: one table of arguments for each command, from which parsing, help and completion are made."""

from __future__ import annotations

from flyteagent_nb.errors import ArgumentError, closest
from flyteagent_nb.notebook.commands import Argument, Command, Kind

PHASES = (
    "QUEUED", "WAITING_FOR_RESOURCES", "INITIALIZING", "RUNNING",
    "SUCCEEDED", "FAILED", "RETRYABLE_FAILED", "ABORTED", "UNKNOWN",
)  # fmt: skip
LANGUAGES = ("auto", "sql", "prompt", "shell", "python", "yaml", "json")
CODE_LOCATIONS = ("kernel", "pickle", "image")
OPERATIONS = ("CreateTask", "GetTask", "DeleteTask", "ExecuteTaskSync", "GetTaskLogs", "ListAgents")
SANDBOXES = ("bigquery", "snowflake", "openai")
SANDBOX_ACTIONS = ("start", "stop", "status")

# fmt: off
_OUTPUTS = Argument("outputs", Kind.NEW_NAMES, ("-o", "--output"), "NAMES",
    "put the result into a variable; a,b unpacks it into two")
_RUN_NAME = Argument("run_name", Kind.NEW_NAME, ("-r", "--run"), "NAME",
    "put the run into a variable, also when it fails: it has the phase, the logs and the result")
_BACKGROUND = Argument("background", Kind.FLAG, ("-b", "--background"),
    help="do not wait: the result is the run, which goes on in the background")
_SERVICE = Argument("service", Kind.SERVICE, ("--service",), "NAME",
    "which agent service does it; kernel is the one in this notebook")
_ON = Argument("on", Kind.FILE, ("--on",), "CONFIG",
    "send it to a Flyte cluster instead: the configuration file of flytectl, or sandbox")
_RETRIES = Argument("retries", Kind.COUNT, ("--retries",), "N", "try again up to N times where a failure may pass")
_TIMEOUT = Argument("timeout", Kind.DURATION, ("--timeout",), "TIME", "end an attempt that takes longer: 90s, 10m, 1h30m")
_DRY_RUN = Argument("dry_run", Kind.FLAG, ("--dry-run",), help="show what would be sent to the agent, and send nothing")
_QUIET = Argument("quiet", Kind.FLAG, ("-q", "--quiet"), help="show no progress; an error shows all the same")
_HELP = Argument("help", Kind.FLAG, ("-h", "--help"), help="show this text")
_RUN_ID = Argument("run_id", Kind.RUN_ID, (), "ID",
    "a run: its id, the beginning of its id, or last for the newest", required=True)

AGENT_TASK = Command(
    "%%agent_task",
    "Run the cell as a task of a Flyte agent",
    "An agent is a small service that hands work to another system (a data warehouse, a batch cluster, a web API), "
    "watches it there, and brings the result back. The cell says what the work is: what the plug-in of TASK_TYPE takes "
    "(SQL, a prompt, a shell script), its settings as YAML or JSON, or a Python function under @task. It is sent as it "
    "stands; values go in as inputs. With --returns, YAML and JSON are sent as they stand too, past the plug-in.",
    (
        Argument("task_type", Kind.TASK_TYPE, (), "TASK_TYPE",
            "the kind of work, as %agent types lists them; not needed where the cell's @task says it"),
        Argument("inputs", Kind.INPUT, ("-i", "--input"), "NAME[=VALUE]",
            "an input: year=2024, region='US', rows=a_variable; year alone takes the variable year", repeats=True),
        Argument("inputs_mapping", Kind.INPUTS, ("--inputs",), "DICT",
            "many inputs: {'year': 2024}, dict(year=2024), or a variable that holds a dict"),
        _OUTPUTS,
        _RUN_NAME,
        _BACKGROUND,
        Argument("config", Kind.CONFIG, ("-c", "--config-value"), "KEY=VALUE",
            "a setting of the task: Location=EU; $name takes a variable, a.b=1 sets b in a", repeats=True),
        Argument("config_variable", Kind.VARIABLE, ("--config",), "VAR",
            "a variable that holds the task's whole configuration"),
        Argument("returns", Kind.RETURNS, ("--returns",), "NAME:TYPE,...",
            "the outputs that the task has: path:str or n:int,rows:list[str]; for SQL pandas (the default), arrow or polars"),
        _SERVICE,
        _ON,
        _RETRIES,
        _TIMEOUT,
        Argument("language", Kind.CHOICE, ("--lang",), "LANG",
            "what the cell is written in: auto (find out; the default), sql, prompt, shell, python, yaml or json", choices=LANGUAGES),
        Argument("name", Kind.TEXT, ("--name",), "N", "the task's name in lists of runs and in errors"),
        Argument("code", Kind.CHOICE, ("--code",), "PLACE",
            "where the agent finds a function of this notebook: kernel (in this process), pickle (sent along) or image "
            "(in the task's container image)", choices=CODE_LOCATIONS),
        _DRY_RUN,
        Argument("form", Kind.FLAG, ("--form",), help="show a form for the inputs, filled with those given, and run from there"),
        _QUIET,
        _HELP,
    ),
    (
        ("%%agent_task duckdb_query -i year=2024 -o df", "run the cell's SQL with the input year; the table is in df"),
        ("%%agent_task bigquery_query_job_task -c ProjectID=my-project -c Location=EU",
            "the same in a data warehouse, with two settings of its task"),
        ("%%agent_task chatgpt -c model=gpt-4o-mini -o answer", "the cell is the prompt; the answer is in answer"),
        ("%%agent_task -i rows=train -o score", "run the cell's @task function; its input rows is the variable train"),
    ),
)

OVERVIEW = Command(
    "%agent",
    "Show the agents of this notebook and their runs",
    "An agent is a small service that hands work to another system and brings the result back. A run is one piece of "
    "such work. Without a verb, %agent shows the services, the kinds of work that they do, and the runs.",
    (Argument("verb", Kind.VERB, (), "VERB", "what to do"), _HELP),
    (("%agent", "the overview"), ("%agent run my_task year=2024", "run a task"), ("%agent help run", "what run can do")),
)

_VERBS = (
    Command("%agent types", "List the kinds of work that the agents do", "", (_HELP,), (
        ("%agent types", "each task type, its agent, and the service that it is on"),
        ("types = %agent types", "the same, kept in a variable"),
    )),
    Command("%agent run", "Run a task that a variable holds", "", (
        Argument("task", Kind.TASK, (), "TASK", "the variable that holds the task", required=True),
        Argument("inputs", Kind.ASSIGNMENT, (), "NAME=VALUE",
            "an input: year=2024, region='US' or rows=a_variable", repeats=True),
        _OUTPUTS, _RUN_NAME, _BACKGROUND, _SERVICE, _ON,
        Argument("compare", Kind.SERVICE, ("--compare",), "A B",
            "run it on two agent services, and show side by side what came of it", words=2),
        _RETRIES, _TIMEOUT, _DRY_RUN, _QUIET, _HELP,
    ), (
        ("%agent run my_task year=2024 -o df", "wait for the task; its result is in df"),
        ("run = %agent run my_task year=2024 -b", "do not wait; run has the phase and the result"),
        ("%agent run my_task year=2024 --dry-run", "only show what would be sent"),
        ("%agent run my_task year=2024 --on ~/.flyte/config.yaml", "the same task on a Flyte cluster"),
        ("%agent run my_task year=2024 --compare prod kernel", "on both services: what differs?"),
    )),
    Command("%agent form", "Show a form that runs a task", "A field for each input, by its type. It needs a browser.", (
        Argument("task", Kind.TASK, (), "TASK", "the variable that holds the task", required=True),
        Argument("inputs", Kind.ASSIGNMENT, (), "NAME=VALUE", "what a field begins with: year=2024", repeats=True),
        _SERVICE, _RETRIES, _TIMEOUT, _HELP,
    ), (
        ("%agent form my_task", "a field for each of its inputs"),
        ("%agent form my_task year=2024", "the same, one of them filled in"),
    )),
    Command("%agent runs", "List the runs, newest first", "", (
        Argument("phase", Kind.CHOICE, ("--phase",), "PHASE",
            "only those in this phase, such as RUNNING, SUCCEEDED or FAILED", choices=PHASES),
        Argument("limit", Kind.POSITIVE, ("-n",), "N", "the newest N only"),
        Argument("all_runs", Kind.FLAG, ("--all",), help="those of other kernels too, as far as they are on record"),
        Argument("prune", Kind.FLAG, ("--prune",),
            help="list what is old or too much by the settings days_kept and runs_kept, and would be forgotten; with --yes forget it"),
        Argument("yes", Kind.FLAG, ("--yes",), help="with --prune: forget it, with its inputs, outputs and logs"),
        _HELP,
    ), (
        ("%agent runs", "all runs"),
        ("%agent runs --phase FAILED -n 5", "the last five that failed"),
        ("%agent runs --all", "of every kernel, which is open and who follows it"),
    )),
    Command("%agent show", "Show one run: its state, inputs, outputs and error", "", (_RUN_ID, _HELP), (
        ("%agent show last", "the newest run"),
        ("shown = %agent show 3f2", "the run whose id begins with 3f2; shown.run has its outputs and logs"),
    )),
    Command("%agent logs", "Show what a run printed and logged", "", (
        _RUN_ID,
        Argument("follow", Kind.FLAG, ("-f", "--follow"), help="go on until the run ends"),
        Argument("lines", Kind.POSITIVE, ("-n",), "LINES", "the last LINES only"),
        _HELP,
    ), (
        ("%agent logs last", "all that it printed so far"),
        ("%agent logs last -f -n 20", "its last 20 lines, then each new one"),
    )),
    Command("%agent cancel", "Stop runs, and the work that they started elsewhere", "", (
        Argument("run_ids", Kind.RUN_ID, (), "ID", _RUN_ID.help, repeats=True),
        Argument("all_runs", Kind.FLAG, ("--all",), help="every run that has not ended"),
        _HELP,
    ), (
        ("%agent cancel last", "the newest run"),
        ("%agent cancel 3f2 a41", "two runs, by the beginnings of their ids"),
        ("%agent cancel --all", "all that have not ended"),
    )),
    Command("%agent attach", "Follow a run that another kernel began",
        "A job goes on when its kernel ends. What is known of it is on record, so that another kernel can follow it to its end. Nothing is "
        "created, and a job that fails is not tried again.", (
        Argument("run_id", Kind.RUN_ID, (), "ID", _RUN_ID.help),
        Argument("all_runs", Kind.FLAG, ("--all",), help="every run that is open and that no kernel follows"),
        Argument("task", Kind.TASK, ("--task",), "TASK",
            "the variable that holds its task, which knows the Python types of the outputs"),
        _RUN_NAME, _HELP,
    ), (
        ("run = %agent attach 3f2", "follow the run whose id begins with 3f2; await run gives its outputs"),
        ("%agent attach --all", "all that are open"),
    )),
    Command("%agent settle", "Say what became of a job whose kernel ended while it was being created",
        "Such a run is unknown: there may be a job or not, and only the service itself can tell.", (
        _RUN_ID,
        Argument("job", Kind.TEXT, ("--job",), "META",
            "there is one: its resource meta as text, mostly JSON such as {\"job_id\": \"x\"}, or hex:... for bytes"),
        Argument("gone", Kind.FLAG, ("--gone",), help="there is none"),
        _HELP,
    ), (
        ("%agent settle 3f2 --job '{\"job_id\": \"x1\"}'", "the job is x1; %agent attach follows it"),
        ("%agent settle 3f2 --gone", "there is no job; the run has ended"),
    )),
    Command("%agent serve", "Let others use this notebook's agents, over a network port",
        "Opens one more address on the agent service of this notebook. A caller needs its token, unless --open is "
        "given; no notebook keeps it: it is the attribute token of the result.", (
        Argument("port", Kind.PORT, ("--port",), "N", "the port, 1 to 65535; 0 takes a free one", required=True),
        Argument("host", Kind.TEXT, ("--host",), "ADDRESS",
            "where to listen; if not given 127.0.0.1, which only this machine reaches"),
        Argument("open", Kind.FLAG, ("--open",),
            help="ask for no token, as a Flyte cluster needs it: whoever reaches the port can run code in this kernel"),
        Argument("certificate", Kind.FILE, ("--cert",), "FILE",
            "speak TLS with the certificate in this file (PEM, those that vouch for it below)"),
        Argument("key", Kind.FILE, ("--key",), "FILE", "the certificate's private key (PEM, without a password)"),
        _HELP,
    ), (
        ("served = %agent serve --port 8000", "for another notebook on this machine, which needs served.token"),
        ("%agent serve --port 8000 --host 0.0.0.0 --open", "for a Flyte cluster that reaches this machine"),
        ("served = %agent serve --port 8000 --host 0.0.0.0 --cert tls.crt --key tls.key", "for another machine, with TLS"),
    )),
    Command("%agent stop", "Close an address that serve opened", "", (
        Argument("address", Kind.ADDRESS, (), "ADDRESS",
            "which one, as %agent shows it; if not given, all that serve opened"),
        _HELP,
    ), (
        ("%agent stop", "all of them"),
        ("%agent stop 127.0.0.1:8000", "this one"),
    )),
    Command("%agent sandbox", "Try connectors with no account, on stand-ins for their services",
        "A stand-in is a server on this machine that speaks as the service does, as far as it goes. While it runs, the "
        "connectors of this notebook go to it instead of the service, and each run says so. When it stops, or the "
        "kernel ends, everything is as it was.", (
        Argument("sandbox", Kind.CHOICE, (), "NAME",
            "bigquery, snowflake or openai; if not given, all of them", choices=(*SANDBOXES, *SANDBOX_ACTIONS[1:])),
        Argument("action", Kind.CHOICE, (), "ACTION",
            "start (what NAME alone does), stop or status", choices=SANDBOX_ACTIONS),
        Argument("tables", Kind.TABLE, ("--table",), "NAME=VALUE",
            "make a table of a variable (a DataFrame, an Arrow table) or of a file: shop.orders=df, "
            "shop.orders='orders.csv'", repeats=True),
        _HELP,
    ), (
        ("%agent sandbox", "what there is, and what runs"),
        ("%agent sandbox bigquery --table shop.orders=df", "start one, with a table of the variable df"),
        ("%agent sandbox openai stop", "stop it"),
    )),
    Command("%agent secret", "Give a secret to the agents of this notebook, or list their names",
        "Asks for it without showing it, and keeps it in this kernel's memory until the kernel ends or %unload_ext. Agents and "
        "tasks that run in this kernel get it from flytekit's secrets manager. It is not an environment variable: a child "
        "process, code that reads os.environ, and agents on another service do not have it. For a child process there is "
        "os.environ['_FSEC_NAME'] only, which every child inherits. The value is masked in what runs print and say, and in "
        "their record.", (
        Argument("secret", Kind.SECRET, (), "NAME",
            "KEY or GROUP/KEY, as %agent doctor tells it; if not given, list the names"),
        Argument("forget", Kind.FLAG, ("--forget",), help="drop it"),
        _HELP,
    ), (
        ("%agent secret FLYTE_OPENAI_API_KEY", "ask for it"),
        ("%agent secret FLYTE_OPENAI_API_KEY --forget", "drop it"),
        ("%agent secret", "the names of those that there are; never a value"),
    )),
    Command("%agent connect", "Connect another agent service, or list those that are connected",
        "Tasks then go to it by their type: %agent types tells which goes where, and why. Without a name it lists the services.", (
        Argument("service_name", Kind.TEXT, (), "NAME", "what it is to be called"),
        Argument("address", Kind.TEXT, (), "ADDRESS",
            "where it listens: HOST:PORT, dns:///HOST:PORT, unix:/PATH; several with commas take turns"),
        Argument("source", Kind.FILE, ("--from",), "FILE",
            "connect those of FlytePropeller's own configuration, its ConfigMap or the values of its Helm chart"),
        Argument("tls", Kind.FLAG, ("--tls",), help="encrypt, and trust the authorities that this system trusts"),
        Argument("authorities", Kind.FILE, ("--ca",), "FILE", "trust the authorities in this file (PEM) instead"),
        Argument("certificate", Kind.FILE, ("--cert",), "FILE", "a certificate for a service that asks for one (PEM)"),
        Argument("key", Kind.FILE, ("--key",), "FILE", "the certificate's private key (PEM)"),
        Argument("token_file", Kind.FILE, ("--token-file",), "FILE", "a file that holds the token that the service asks for"),
        Argument("deadline", Kind.CONFIG, ("--deadline",), "OP=TIME",
            "how long a call of it may take, as propeller's configuration has it: GetTask=5s", repeats=True,
            choices=OPERATIONS),
        Argument("output_prefix", Kind.TEXT, ("--outputs",), "PREFIX",
            "where its agents leave outputs that are files: s3://bucket/runs; a service elsewhere cannot write into a folder here"),
        _HELP,
    ), (
        ("%agent connect dev 127.0.0.1:8000", "a service on this machine"),
        ("%agent connect prod agents.example.com:443 --tls", "one elsewhere"),
        ("%agent connect --from propeller.yaml", "those that a cluster has"),
    )),
    Command("%agent disconnect", "Take a connected agent service away", "", (
        Argument("service_name", Kind.CONNECTED, (), "NAME", "its name, as %agent connect lists it", required=True), _HELP,
    ), (("%agent disconnect dev", "tasks go to the other services again"),)),
    Command("%agent route", "Send a task type to one agent service, whoever else serves it", "", (
        Argument("task_type", Kind.TASK_TYPE_VERSION, (), "TYPE[@VERSION]", "the task type", required=True),
        Argument("service_name", Kind.SERVICE, (), "NAME", "the service", required=True), _HELP,
    ), (("%agent route my_job dev", "every version of my_job"), ("%agent route my_job@1 kernel", "version 1, here"))),
    Command("%agent unroute", "Take a route away", "", (
        Argument("task_type", Kind.ROUTE, (), "TYPE[@VERSION]", "the task type", required=True), _HELP,
    ), (("%agent unroute my_job", "my_job goes where it is listed"),)),
    Command("%agent check", "Find out how an agent would fare under FlytePropeller",
        "Drives the agent over the wire as FlytePropeller does: creates, gets and deletes up to six jobs of the task, gets them from a "
        "second service process, and tells what would go wrong and what mends it. Without a task it looks at what needs no job.", (
        Argument("task_type", Kind.TASK_TYPE_VERSION, (), "TYPE[@VERSION]",
            "the agent's task type", required=True),
        Argument("inputs", Kind.ASSIGNMENT, (), "NAME=VALUE", "an input of the tasks: year=2024", repeats=True),
        Argument("task", Kind.TASK, ("--task",), "TASK", "the variable that holds a task to run; it ought to succeed"),
        Argument("failing", Kind.TASK, ("--failing",), "TASK", "the variable that holds a task that ought to fail"),
        _SERVICE,
        Argument("timeout", Kind.DURATION, ("--timeout",), "TIME", "how long a job may take to its end; 60s if not given"),
        Argument("strict", Kind.FLAG, ("--strict",), help="raise an error where something is wrong, so that Run All stops"),
        _HELP,
    ), (
        ("%agent check my_job", "its listing, and whether it would run elsewhere"),
        ("%agent check my_job --task job rows=3", "all of it, with the task job"),
        ("%agent check my_job --task job --failing bad --strict", "also how it fails; an error where something is wrong"),
    )),
    Command("%agent export", "Write agents of this notebook as a service for a cluster",
        "Writes a module of their source and all that it needs, requirements with the versions in use, a Dockerfile, manifests for "
        "Kubernetes, values for Flyte's chart, FlytePropeller's configuration, and a README. What cannot be taken along is named.", (
        Argument("folder", Kind.FILE, (), "DIR", "a new folder, an empty one, or one that was exported before", required=True),
        Argument("types", Kind.TASK_TYPE, ("--types",), "TYPE,...",
            "which task types; if not given, those whose agents cells define", repeats=True),
        Argument("image", Kind.TEXT, ("--image",), "NAME:TAG", "what the image is to be called; if not given, as the folder"),
        Argument("namespace", Kind.TEXT, ("--namespace",), "NAME", "the cluster's namespace; flyte if not given"),
        _HELP,
    ), (
        ("%agent export my-agents", "all agents that cells define"),
        ("%agent export my-agents --types my_job --image my.registry/agents:2", "one of them, for that image"),
    )),
    Command("%agent remove", "Forget an agent that was registered in this notebook", "", (
        Argument("task_type", Kind.OWN_TYPE, (), "TYPE[@VERSION]",
            "its task type, as %agent types lists it", required=True),
        _HELP,
    ), (
        ("%agent remove my_job", "the agent of my_job, in every version"),
        ("%agent remove my_job@1", "version 1 only"),
    )),
    Command("%agent doctor", "Find out what is wrong, and what mends it",
        "Looks at versions and packages, forks and proxies, the agent service and its socket, the run folder, the page, "
        "the plug-ins, and what each task type wants: secrets, variables, packages, credentials. Values are never shown.", (
        Argument("task_type", Kind.TASK_TYPE, (), "TYPE",
            "a task type, also one that nobody serves: what it wants, and the known faults of its agent"),
        _HELP,
    ), (
        ("%agent doctor", "everything"),
        ("%agent doctor snowflake", "one task type"),
    )),
    Command("%agent nest", "Let blocking calls run inside async cells",
        "A notebook has an event loop of its own, and some libraries refuse to block inside it. This applies "
        "nest_asyncio to that loop, until the kernel is restarted.", (_HELP,), (
        ("%agent nest", "once, before the cell that needs it"),
    )),
    Command("%agent help", "Show how the verbs are written", "", (
        Argument("topic", Kind.VERB, (), "VERB", "the verb to tell about; if not given, all of them"),
        _HELP,
    ), (
        ("%agent help", "all verbs"),
        ("%agent help run", "one verb; the same as %agent run --help"),
    )),
)
# fmt: on

VERB_COMMANDS = {command.title.split()[1]: command for command in _VERBS}
VERBS = {verb: command.summary for verb, command in VERB_COMMANDS.items()}
"""The verbs of ``%agent``, each with what it does in one line."""

_ELSEWHERE = {
    **dict.fromkeys(("list", "ls", "ps", "status", "jobs", "history", "executions"), "runs"),
    **dict.fromkeys(("kill", "abort", "terminate"), "cancel"),
    **dict.fromkeys(("get", "describe", "inspect"), "show"),
    **dict.fromkeys(("submit", "execute", "launch", "exec", "compare"), "run"),
    **dict.fromkeys(("deploy", "package", "build"), "export"),
    **dict.fromkeys(("test", "validate"), "check"),
    **dict.fromkeys(("agents", "connectors", "tasks"), "types"),
    **dict.fromkeys(("log", "tail"), "logs"),
    **dict.fromkeys(("version", "info", "health"), "doctor"),
    **dict.fromkeys(("services", "endpoints"), "connect"),
    **dict.fromkeys(("secrets",), "secret"),
}
"""What other tools, as pyflyte, kubectl, docker, prefect and airflow, call a thing, and the verb that does it here."""


def command_of(magic: str, verb: str | None = None) -> Command:
    """The table of a magic (``agent_task`` or ``agent``, with or without its percent signs) and its verb.

    Raises:
        ArgumentError: there is no such magic or verb.
    """
    magic = magic.lstrip("%")
    if magic == "agent_task" and verb is None:
        return AGENT_TASK
    if magic != "agent":
        raise ArgumentError(f"there is no magic {magic}", hint="the magics are %%agent_task and %agent VERB")
    if verb is None:
        return OVERVIEW
    if verb not in VERB_COMMANDS:
        near = _ELSEWHERE.get(verb.lower()) or closest(verb, VERBS)
        told = f"the verbs are {', '.join(VERBS)}; %agent help tells what each does"
        raise ArgumentError(
            f"%agent has no verb {verb}",
            hint=f"did you mean %agent {near}?" if near else told,
            suggestion=near,
        )
    return VERB_COMMANDS[verb]
