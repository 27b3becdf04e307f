"""A magic's line -> its arguments, by the table of :mod:`flyteagent_nb.notebook.grammar`.

A line is read without the magic's name. Nothing is looked up here: values stay as written, since they are read in the
user's namespace, by :mod:`flyteagent_nb.notebook.values`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from flyteagent_nb.errors import ArgumentError, closest
from flyteagent_nb.notebook.commands import Argument, Command, Kind
from flyteagent_nb.notebook.grammar import AGENT_TASK, OVERVIEW, SANDBOX_ACTIONS, SANDBOXES, VERB_COMMANDS, command_of
from flyteagent_nb.notebook.scanning import scan, unquoted
from flyteagent_nb.notebook.values import read

if TYPE_CHECKING:
    import datetime


@dataclass(frozen=True, kw_only=True)
class SubmitArguments:
    """How a task is to be run; the same for ``%%agent_task`` and ``%agent run``.

    Attributes:
        inputs: name and value as written; None where the variable of that name is meant.
        outputs: the variables that get the result; more than one unpacks it.
        run_name: the variable that gets the Run, or "".
        background: return the Run at once.
        service: the agent service's name, or "".
        on: the configuration file of a Flyte cluster, or "".
        retries: how often a failure is tried again, or None where the task says it.
        timeout: the limit of an attempt, or None where the task says it; zero is no limit.
        dry_run: send nothing.
        quiet: show no live view.
        help: only the help text was asked for; nothing else in here has a meaning but the verb.
    """

    inputs: tuple[tuple[str, str | None], ...] = ()
    outputs: tuple[str, ...] = ()
    run_name: str = ""
    background: bool = False
    service: str = ""
    on: str = ""
    retries: int | None = None
    timeout: datetime.timedelta | None = None
    dry_run: bool = False
    quiet: bool = False
    help: bool = False


@dataclass(frozen=True, kw_only=True)
class AgentTaskArguments(SubmitArguments):
    """The line of ``%%agent_task``.

    Attributes:
        task_type: the task type's name, or "" where the cell says it.
        inputs_mapping: the text of ``--inputs``, or "".
        config: key and value as written.
        config_variable: the variable that holds the configuration, or "".
        returns: name and type of each output as written, or None where nothing was declared.
        language: ``auto``, ``sql``, ``python``, ``yaml`` or ``json``.
        name: the task's name, or "".
        code: where the agent finds the function: ``kernel``, ``pickle``, ``image``, or "" where nothing was said.
        form: show a form for the inputs instead of running.
    """

    task_type: str = ""
    inputs_mapping: str = ""
    config: tuple[tuple[str, str], ...] = ()
    config_variable: str = ""
    returns: tuple[tuple[str, str], ...] | None = None
    language: str = "auto"
    name: str = ""
    code: str = ""
    form: bool = False


@dataclass(frozen=True, kw_only=True)
class AgentArguments(SubmitArguments):
    """The line of ``%agent``. Which attributes have a meaning depends on the verb.

    Attributes:
        verb: a key of :data:`VERBS`, or None for the overview. ``help run`` is the verb ``run`` with ``help``.
        task: run, form, attach and check: the variable that holds the task, with dots for attributes.
        compare: run: the two services, or empty.
        phase: runs: a phase's name, or "" for all.
        limit: runs: how many, or None for all.
        run_id: show, logs, attach and settle: an id, the beginning of one, or ``last``.
        run_ids: cancel: the same, one or more; empty with ``all_runs``.
        all_runs: cancel: every run that goes on; runs: those of other kernels too; attach: every open one that nobody follows.
        follow: logs: until the run ends.
        lines: logs: how many of the last lines, or None for all.
        port: serve: the port, 0 for a free one.
        host: serve: the address to listen on.
        open: serve: without a token.
        certificate: serve: the file of a certificate for TLS, or "".
        key: serve: the file of its key, or "".
        address: stop: which one, or "" for all.
        task_type: remove, doctor, check, route and unroute: the task type's name.
        version: remove, check, route and unroute: its version, or None where it was not said.
        service_name: connect, disconnect and route: the service's name.
        source: connect: the file with propeller's configuration, or "".
        tls: connect: encrypt.
        authorities: connect: a file of authorities, or "".
        token_file: connect: a file that holds a token, or "".
        deadline: connect: operation and time as written.
        output_prefix: connect: where outputs that are files go, or "".
        prune: runs: what would be forgotten.
        yes: runs: with ``prune``, forget it.
        job: settle: a resource meta as text, or "".
        gone: settle: there is no job.
        sandbox: sandbox: its name, or "" for all.
        action: sandbox: ``start``, ``stop`` or ``status``.
        tables: sandbox: name and value as written.
        secret: secret: its name as written, or "" for a list.
        forget: secret: drop it.
        failing: check: the variable that holds a task that ought to fail, or "".
        strict: check: raise where something is wrong.
        folder: export: where to.
        types: export: task types as written, some with commas between; empty for those of the notebook.
        image: export: the image's name and tag, or "".
        namespace: export: the cluster's namespace.
    """

    verb: str | None = None
    task: str = ""
    compare: tuple[str, ...] = ()
    phase: str = ""
    limit: int | None = None
    run_id: str = ""
    run_ids: tuple[str, ...] = ()
    all_runs: bool = False
    follow: bool = False
    lines: int | None = None
    port: int = 0
    host: str = "127.0.0.1"
    open: bool = False
    certificate: str = ""
    key: str = ""
    address: str = ""
    task_type: str = ""
    version: int | None = None
    service_name: str = ""
    source: str = ""
    tls: bool = False
    authorities: str = ""
    token_file: str = ""
    deadline: tuple[tuple[str, str], ...] = ()
    output_prefix: str = ""
    prune: bool = False
    yes: bool = False
    job: str = ""
    gone: bool = False
    sandbox: str = ""
    action: str = ""
    tables: tuple[tuple[str, str], ...] = ()
    secret: str = ""
    forget: bool = False
    failing: str = ""
    strict: bool = False
    folder: str = ""
    types: tuple[str, ...] = ()
    image: str = ""
    namespace: str = "flyte"


_Arguments = TypeVar("_Arguments", bound=SubmitArguments)


def parse_agent_task(line: str) -> AgentTaskArguments:
    """The arguments of ``%%agent_task``.

    Raises:
        ArgumentError: the line cannot be read; it names the option and the way out.
    """
    words = scan(_without_semicolon(line))
    if _asks_help(words):
        return AgentTaskArguments(help=True)
    return _checked(AgentTaskArguments(**_values(AGENT_TASK, words)))


def parse_agent(line: str) -> AgentArguments:
    """The verb of ``%agent`` and its arguments.

    Raises:
        ArgumentError: the line cannot be read; it names the option and the way out.
    """
    return parse_words(scan(_without_semicolon(line)))


def parse_words(words: list[str]) -> AgentArguments:
    """The same of a line that is split already, as a shell does it; the list is used up.

    Raises:
        ArgumentError: they cannot be read; it names the option and the way out.
    """
    if not words or is_option(words[0]):
        return AgentArguments(help=_asks_help(words) or "help" in _values(OVERVIEW, words))
    verb = unquoted(words.pop(0))
    command = command_of("agent", verb)
    if _asks_help(words):
        return AgentArguments(verb=verb, help=True)
    if verb == "sandbox" and len(words) > 1 and words[0] in SANDBOX_ACTIONS and words[1].lower() in SANDBOXES:
        words[:2] = words[1], words[0]  # stop openai: as people say it
    values = _values(command, words)
    if "help" in values:  # within -fh
        return AgentArguments(verb=verb, help=True)
    if verb == "help":
        topic = values.get("topic")
        command_of("agent", topic)
        return AgentArguments(verb=topic, help=True)
    if verb == "sandbox":
        _place_action(values)
    if verb == "secret" and "forget" in values and "secret" not in values:
        raise ArgumentError("--forget needs the NAME of a secret", hint="%agent secret lists them")
    if verb == "serve" and ("certificate" in values) != ("key" in values):
        given, lacking = ("--cert", "--key") if "certificate" in values else ("--key", "--cert")
        raise ArgumentError(
            f"{given} is given without {lacking}", hint="TLS takes both; one file that has both is given for each"
        )
    if isinstance(values.get("task_type"), tuple):  # TYPE@VERSION
        values["task_type"], values["version"] = values["task_type"]
    arguments = _checked(AgentArguments(verb=verb, **values))
    if arguments.compare:
        _check_compare(arguments)
    if verb == "cancel" and bool(arguments.run_ids) == arguments.all_runs:
        raise ArgumentError(
            "%agent cancel takes the ids of runs or --all" + (", not both" if arguments.run_ids else ""),
            hint="write %agent cancel last for the newest run; %agent runs lists them",
        )
    return arguments


def hides_output(line: str) -> bool:
    """Whether a semicolon ends the line, which hides what it comes to, as it does in IPython."""
    return line.rstrip().endswith(";")


def _without_semicolon(line: str) -> str:
    # A text that is closed ends with its quote, and one that is not is an error with or without.
    return line.rstrip()[:-1] if hides_output(line) else line


def _check_compare(arguments: AgentArguments) -> None:
    """Refuse what has no meaning for a run on two services."""
    first, second = arguments.compare
    if first == second:
        raise ArgumentError(f"--compare {first} {second} is one service", hint="name two; %agent connect lists them")
    for option, given in (
        ("-o", arguments.outputs), ("-r", arguments.run_name), ("-b", arguments.background),
        ("--service", arguments.service), ("--on", arguments.on), ("--dry-run", arguments.dry_run),
    ):  # fmt: skip
        if given:
            raise ArgumentError(
                f"{option} is for one run, and --compare makes two",
                hint="c = %agent run TASK --compare A B keeps both, in c.runs; what differs is in c.differences",
            )


def _place_action(values: dict[str, Any]) -> None:
    """Read ``%agent sandbox stop`` as all of them, and the name alone as its start."""
    if values.get("sandbox") in SANDBOX_ACTIONS:
        action = values.pop("sandbox")
        if "action" in values:
            raise ArgumentError(
                f"{action} and {values['action']} are both what to do", hint="write %agent sandbox NAME " + action
            )
        values["action"] = action
    values.setdefault("action", "start" if "sandbox" in values else "status")
    if "tables" in values and ("sandbox" not in values or values["action"] != "start"):
        raise ArgumentError(
            "--table needs a sandbox that starts or runs", hint="write %agent sandbox NAME --table shop.orders=df"
        )


def _asks_help(words: list[str]) -> bool:
    """Whether help is asked for; it is given whatever else is wrong with the line."""
    before = words[: words.index("--")] if "--" in words else words
    return "-h" in before or "--help" in before


def _checked(arguments: _Arguments) -> _Arguments:
    if arguments.on and (arguments.service or arguments.retries is not None or arguments.timeout is not None):
        raise ArgumentError(
            "--on sends the task as it is: it goes with neither --service, --retries nor --timeout",
            hint="the cluster chooses the service; retries and timeout are the task's own",
        )
    if arguments.run_name and arguments.run_name in arguments.outputs:
        raise ArgumentError(
            f"-r {arguments.run_name} and -o {arguments.run_name} put the run and its result into the same variable",
            hint="give each a name of its own: -r run -o df",
        )
    if arguments.outputs and arguments.background:
        raise ArgumentError(
            "-o waits for the result, and -b does not wait",
            hint="bind the run with -r run instead of -o, and take run.result() when you need it",
        )
    return arguments


def _values(command: Command, words: list[str]) -> dict[str, Any]:
    """The values of a line by field; only what was given is there."""
    rest = deque(words)
    positionals: list[str] = []
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    while rest:
        word = rest.popleft()
        if word == "--":
            positionals += rest
            break
        if not is_option(word):
            positionals.append(word)
            continue
        for option, spelled, text in split_option(command, word):
            if text is None and option.kind is not Kind.FLAG:
                if not rest or is_option(rest[0]) or rest[0] == "--":
                    found = f", and {rest[0]} is the next option" if rest else ""
                    raise ArgumentError(f"{spelled} needs its {option.metavar}{found}", hint=option.help)
                text = rest.popleft()
            more = [rest.popleft() for _ in range(option.words - 1) if rest and not is_option(rest[0])]
            if text is not None and len(more) < option.words - 1:
                raise ArgumentError(
                    f"{spelled} needs {option.metavar}, and {text} is the first of them", hint=option.help
                )
            if option.field in given and not option.repeats:
                hint = "-o a,b takes several names at once" if option.kind is Kind.NEW_NAMES else "give it once"
                raise ArgumentError(_twice(spelled, given[option.field]), hint=hint)
            given[option.field] = spelled
            _store(values, option, spelled, text)
            if more:
                values[option.field] = (values[option.field], *(read(option, each) for each in more))
    _place(command, positionals, values)
    for option in command.arguments:
        if option.required and option.field not in values and "help" not in values:
            needed = " ".join(part for part in (*option.names[-1:], option.metavar) if part)
            raise ArgumentError(
                f"{command.title} needs {needed}: {option.help}", hint=f"{command.title} --help tells more"
            )
    return {field: tuple(v) if isinstance(v, list) else v for field, v in values.items()}


def _twice(spelled: str, before: str) -> str:
    return (
        f"{spelled} is given twice" if spelled == before else f"{before} and {spelled} are the same option, given twice"
    )


def _place(command: Command, words: list[str], values: dict[str, Any]) -> None:
    """Give the words that are no options to the positional arguments, in order."""
    slots = deque(command.positionals)
    for word in words:
        if word.startswith("#") and command.title != "%agent secret":  # there it may be the secret
            raise ArgumentError(
                f"{command.title} takes no comment on its line",
                hint="write it on a line of its own; a text that begins with # stands in quotes",
            )
        if not slots or word.startswith("="):
            raise _unexpected(command, word)
        _store(values, slots[0], "", word)
        if not slots[0].repeats:
            slots.popleft()


def _unexpected(command: Command, word: str) -> ArgumentError:
    if "secret" in {a.field for a in command.positionals}:  # it may be the secret itself, which an error must not show
        return ArgumentError(
            "%agent secret takes one name, and asks for the value by itself",
            hint="take the value out of the cell; where the notebook was saved or shared with it, have it replaced",
        )
    if word.startswith("=") or word.endswith("="):
        hint = "write no white space around =: year=2024"
    elif word.startswith(","):
        hint = "write no white space around commas: a,b"
    elif word.isdigit() and "--port" in command.options:
        hint = f"write --port {word}"
    elif "=" in word and command is AGENT_TASK:
        hint = f"an input is written -i {word}, a setting -c {word}"
    else:
        hint = f"{command.title} --help tells what it takes; a text with white space stands in quotes"
    return ArgumentError(f"{command.title} has no place for the word {word}", hint=hint)


def _store(values: dict[str, Any], argument: Argument, spelled: str, text: str | None) -> None:
    try:
        value = True if text is None else read(argument, text)
    except ArgumentError as error:
        message = f"{spelled or argument.metavar}: {error.message}"
        raise ArgumentError(message, hint=error.hint, suggestion=error.suggestion) from None
    if not argument.repeats:
        values[argument.field] = value
        return
    so_far = values.setdefault(argument.field, [])
    if isinstance(value, tuple) and any(name == value[0] for name, _ in so_far):
        raise ArgumentError(f"{spelled} {value[0]}".strip() + " is given twice", hint="give each its value once")
    so_far.append(value)


def is_option(word: str) -> bool:
    """Whether a word is written as an option: ``-b``, ``--run``, but not ``-5`` or ``-``."""
    return len(word) > 1 and word != "--" and word[0] == "-" and not (word[1].isdigit() or word[1] == ".")


def split_option(command: Command, word: str) -> list[tuple[Argument, str, str | None]]:
    """The options of a word, how each is spelled, and the text attached: ``-bq``, ``-iyear=1``, ``--retries=3``.

    Raises:
        ArgumentError: the command has no such option, or it is a flag and has a text.
    """
    options = command.options
    if word.startswith("--"):
        name, equals, text = word.partition("=")
        if name not in options:
            raise _unknown(command, name)
        if equals and options[name].kind is Kind.FLAG:
            raise ArgumentError(f"{name} takes no value", hint=f"write {name} alone, or leave it out")
        if equals and not text:
            raise ArgumentError(f"{name} needs its {options[name].metavar} after =", hint=options[name].help)
        return [(options[name], name, text if equals else None)]
    if f"-{word.partition('=')[0]}" in options:
        raise ArgumentError(f"{word} begins with one dash", hint=f"write -{word}", suggestion=f"-{word}")
    found: list[tuple[Argument, str, str | None]] = []
    for i, letter in enumerate(word[1:], start=2):
        name = f"-{letter}"
        if name not in options:
            raise _unknown(command, name, word)
        if options[name].kind is not Kind.FLAG:
            return [*found, (options[name], name, word[i:] or None)]
        found.append((options[name], name, None))
    return found


def _unknown(command: Command, name: str, word: str = "") -> ArgumentError:
    within = f" (in {word})" if word not in ("", name) else ""
    message = f"{command.title} has no option {name}{within}"
    if command.title == "%agent run" and name in ("-i", "--input", "--inputs"):
        return ArgumentError(message, hint="inputs are written without it: %agent run my_task year=2024")
    # As pyflyte takes them: --year 2024.
    inputs = any(a.kind is Kind.ASSIGNMENT for a in command.positionals)
    meant = f"an input is written without dashes: {name.lstrip('-')}=VALUE" if inputs else ""
    others = [c.title for c in (AGENT_TASK, *VERB_COMMANDS.values()) if name in c.options]
    if others:
        told = f"it is an option of {' and of '.join(others)}"
        return ArgumentError(message, hint=f"{told}; {meant}" if meant and name.startswith("--") else told)
    longs = [n for n in command.options if n.startswith("--")] if name.startswith("--") else []
    begun = [n for n in longs if n.startswith(name)]  # options are not abbreviated, but what was meant is plain
    near = begun[0] if len(begun) == 1 else closest(name, longs) if len(name) > 4 else None  # --n is near to --on
    if meant and not near:
        return ArgumentError(message, hint=meant)
    hint = "" if near else f"its options are {', '.join(a.names[-1] for a in command.arguments if a.names)}"
    return ArgumentError(message, hint=hint, suggestion=near)
