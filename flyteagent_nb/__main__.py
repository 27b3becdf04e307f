"""The same outside a notebook: ``python -m flyteagent_nb serve MODULE...`` hosts the agents of modules and plug-ins on a port.

``python -m flyteagent_nb check MODULE:TYPE`` tells how an agent would fare under FlytePropeller; its exit code is 1 where something is
wrong.

What the kernel of a notebook serves and what this serves is the same catalogue and the same servicers, so a notebook connects to it with
``%agent connect``, and so does FlytePropeller where it is open.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from flyteagent_nb.errors import ArgumentError, FlyteAgentNBError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_QUOTES = "a shell takes quotes away, so a text has others around them: -i \"region='US'\""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code."""
    parser = argparse.ArgumentParser("python -m flyteagent_nb", description="Flyte agents outside a notebook.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve the agents of modules and of the plug-ins that are installed")
    serve.add_argument("modules", nargs="*", metavar="MODULE", help="modules to import, which register agents")
    serve.add_argument("--port", type=int, default=0, help="the port; 0, the default, takes a free one")
    serve.add_argument("--host", default="127.0.0.1", help="the address to listen on; 127.0.0.1 if not given")
    serve.add_argument("--open", action="store_true", help="ask for no token, as FlytePropeller needs it")
    serve.add_argument("--cert", default="", metavar="FILE", help="the server's certificate (PEM), for TLS")
    serve.add_argument("--key", default="", metavar="FILE", help="its private key (PEM)")
    serve.add_argument("--token-to", default="", metavar="FILE", help="a new file for the token, readable by you only")
    serve.add_argument("--until-eof", action="store_true", help=argparse.SUPPRESS)  # for a process of ours
    check = commands.add_parser("check", help="find out how an agent would fare under FlytePropeller")
    check.add_argument("agent", metavar="MODULE:TYPE[@VERSION]", help="the module that registers it, and its task type")
    check.add_argument(
        "-i", "--input", dest="inputs", action="append", default=[], metavar="NAME=VALUE",
        help="an input of the tasks: a literal (a text: \"region='US'\") or a name of the module",
    )  # fmt: skip
    check.add_argument("--task", default="", help="the module's name for a task to run, which ought to succeed")
    check.add_argument("--failing", default="", help="the module's name for a task that ought to fail")
    check.add_argument("--timeout", default="60s", metavar="TIME", help="how long a job may take to its end")
    check.add_argument("--json", action="store_true", help="write the findings as JSON")
    parsed = parser.parse_args(arguments)
    try:
        return {"serve": _serve, "check": _check}[parsed.command](parsed)
    except FlyteAgentNBError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _serve(parsed: argparse.Namespace) -> int:
    from flyteagent_nb.workspace import get_workspace

    if not parsed.open and not parsed.token_to:
        raise ArgumentError("callers need a token", hint="--token-to FILE writes it, --open asks for none")
    ended = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: ended.set())
    if parsed.until_eof:
        _end_with_stdin(ended)
    workspace = get_workspace()
    workspace.config.journal = False
    workspace.wait()
    try:
        for module in parsed.modules:
            _import(module)
        address = workspace.serve(parsed.port, parsed.host, open=parsed.open, certificate=parsed.cert, key=parsed.key)
        if address.token:
            _write_token(parsed.token_to, address.token)
        types = sorted({entry.task_type for entry in workspace.catalog.entries()})
        sys.stdout.write(f"{address.target} serves {', '.join(types)}\n")
        sys.stdout.flush()
        while not ended.wait(3600):
            pass
    finally:
        workspace.close()
    return 0


def _end_with_stdin(ended: threading.Event) -> None:
    """Set ``ended`` where the other end of stdin is closed, also by the end of whoever holds it; who reads stdin here finds nothing."""
    pipe, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def wait() -> None:
        while os.read(pipe, 1):
            pass
        ended.set()

    threading.Thread(target=wait, name="flyteagent_nb-stdin", daemon=True).start()


def _check(parsed: argparse.Namespace) -> int:
    from flyteagent_nb.workspace import get_workspace

    name, _, kind = parsed.agent.partition(":")
    if not name or not kind:
        raise ArgumentError(f"{parsed.agent} is not MODULE:TYPE", hint="my_agents:my_job, or my_agents:my_job@1")
    workspace = get_workspace()
    workspace.config.journal = False
    workspace.wait()
    try:
        namespace = vars(_import(name))
        from flyteagent_nb.notebook.arguments import parse_words
        from flyteagent_nb.notebook.check_verb import check_type
        from flyteagent_nb.notebook.named_tasks import named_task
        from flyteagent_nb.notebook.values import input_values

        # The words are those of the magic, so that they are read, and refused, in the same way.
        line = parse_words(["check", kind, *parsed.inputs, "--timeout", parsed.timeout])
        assert line.timeout is not None
        try:
            inputs = input_values(line.inputs, "", namespace)
        except ArgumentError as error:
            raise ArgumentError(error.message, hint=f"{error.hint}; {_QUOTES}") from None
        hint = f"--task and --failing take what {name} calls a task"
        report = check_type(
            workspace, line.task_type, line.version, modules=[name], timeout=line.timeout.total_seconds(), inputs=inputs,
            task=named_task(parsed.task, namespace, hint) if parsed.task else None,
            failing=named_task(parsed.failing, namespace, hint) if parsed.failing else None,
        )  # fmt: skip
    finally:
        workspace.close()
    sys.stdout.write(f"{json.dumps(report.data(), indent=2) if parsed.json else report.text()}\n")
    return 0 if report.passed else 1


def _import(name: str) -> ModuleType:
    """A module, as `python -m` finds it: beside where one stands too.

    Raises:
        ArgumentError: it cannot be imported.
    """
    if name.endswith(".py") or name.startswith(".") or os.sep in name:
        raise ArgumentError(f"{name} is a file's path, not a module's name", hint="write my_agents for ./my_agents.py")
    if sys.path[0] != "":
        sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ArgumentError(f"the module {name} cannot be imported: {error}") from error


def _write_token(path: str, token: str) -> None:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(str(token))
    except OSError as error:
        raise ArgumentError(
            f"the token cannot be written to {path}: {error.strerror}", hint="name a new file"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
