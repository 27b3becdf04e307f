"""``%agent secret``: ask for a secret without showing it, list names, forget one."""

from __future__ import annotations

import getpass
import os
import warnings
from typing import TYPE_CHECKING

from flyteagent_nb.errors import ArgumentError
from flyteagent_nb.masking import VARIABLES
from flyteagent_nb.notebook import render
from flyteagent_nb.notebook.views import Pairs, View
from flyteagent_nb.serving.secret_store import name_of

if TYPE_CHECKING:
    from flyteagent_nb.notebook.arguments import AgentArguments
    from flyteagent_nb.workspace import Workspace


class SecretList(list[str], View):
    """The names of secrets: a list that shows itself with where each is. There is no value in it.

    Args:
        given: those that a person gave.
        variables: those that environment variables hold.
    """

    def __init__(self, given: tuple[str, ...], variables: tuple[str, ...]) -> None:
        super().__init__(dict.fromkeys((*given, *variables)))
        self._rows = [(name, self._place(name in given, name in variables)) for name in self]

    @staticmethod
    def _place(given: bool, variable: bool) -> str:
        if given:
            return "given to this kernel" + (", and used instead of its variable" if variable else "")
        return "an environment variable, which every child process inherits"

    def text(self) -> str:
        """A line for each."""
        return render.table_text(("secret", "where it is"), self._rows, "no secrets: %agent secret NAME asks for one")

    def html(self) -> str:
        """A table."""
        return render.table_html(("secret", "where it is"), self._rows, "no secrets: %agent secret NAME asks for one")

    __repr__ = View.__repr__


def run_secret(arguments: AgentArguments, workspace: Workspace) -> View:
    """Do what the line says.

    Raises:
        ArgumentError: the name does not do, there is nothing to forget, nothing was given, or nobody can be asked.
    """
    secrets = workspace.secrets
    if not arguments.secret:
        variables = (name for name in os.environ if name.startswith(VARIABLES) and len(name) > len(VARIABLES))
        return SecretList(secrets.names, tuple(name.removeprefix(VARIABLES) for name in variables))
    name = name_of(arguments.secret)
    if arguments.forget:
        if not secrets.forget(name):
            raise ArgumentError(f"no secret {name} was given to this kernel", hint="%agent secret lists them")
        return Pairs([("forgotten", f"{name}; it is not masked any more")])
    masked = secrets.put(name, ask(name))
    rows = [("secret", f"{name}, kept in this kernel's memory until it ends"), ("who gets it", _WHO)]
    rows.append(("who does not", _WHO_NOT.format(variable=f"{VARIABLES}{name}")))
    if name in os.environ or f"{VARIABLES}{name}" in os.environ:
        rows.append(("instead of", "the environment variable that is set too"))
    rows.append(("masked", _MASKED if masked else _PLAIN))
    return Pairs([*rows, ("drop it", f"%agent secret {name} --forget")])


_WHO = "agents and tasks in this kernel, from flytekit's secrets manager"
_WHO_NOT = (
    "child processes, code that reads os.environ, agents on another service. For a child there is "
    "os.environ['{variable}'] only, which every child inherits"
)
_MASKED = "as *** in what runs print and say, and in their record"
_PLAIN = "no: it is so short or so common a word that other texts would suffer"


def ask(name: str) -> str:
    """What a person types for a secret, which nobody sees.

    Raises:
        ArgumentError: nothing was typed, or there is no front end that can ask.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)  # it would show what is typed
            value = getpass.getpass(f"{name}: ")
    except (getpass.GetPassWarning, EOFError, OSError, RuntimeError) as error:
        # ipykernel's StdinNotImplementedError is a NotImplementedError, so a RuntimeError.
        raise ArgumentError(
            f"nobody can be asked for {name}: {_why(error)}",
            hint=f"run the cell in a notebook that a person has open, or set the variable {VARIABLES}{name} before the kernel starts",
        ) from None
    if not value.strip():
        raise ArgumentError(f"nothing was typed for {name}", hint="the secret, if there was one, is as it was")
    return value


def _why(error: BaseException) -> str:
    if isinstance(error, NotImplementedError):
        return "what runs this cell takes no input (nbclient, papermill, nbconvert, or a front end without it)"
    return "there is no terminal that could hide what is typed"
