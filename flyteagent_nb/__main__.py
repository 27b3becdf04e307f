"""The same outside a notebook: ``python -m flyteagent_nb serve MODULE...`` hosts the agents of modules and plug-ins on a port.

What the kernel of a notebook serves and what this serves is the same catalogue and the same servicers, so a notebook connects to it with
``%agent connect``, and so does FlytePropeller where it is open.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from flyteagent_nb.errors import ArgumentError, FlyteAgentNBError

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    parsed = parser.parse_args(arguments)
    try:
        return _serve(parsed)
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
    workspace = get_workspace()
    workspace.config.journal = False
    workspace.wait()
    try:
        sys.path.insert(0, "")  # as `python -m` has it: modules beside where one stands
        for module in parsed.modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ArgumentError(f"the module {module} cannot be imported: {error}") from error
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
