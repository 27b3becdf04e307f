"""One thing that a task type wants of the machine, and whether it is there: a secret, a variable, a package, credentials of a cloud."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from flyteagent_nb.serving.secret_store import name_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

_CLOUDS: Final = {
    "google.cloud": "google",
    "google.auth": "google",
    "boto3": "aws",
    "aioboto3": "aws",
    "botocore": "aws",
}


@dataclass(frozen=True)
class Need:
    """One thing that a task type wants.

    Attributes:
        kind: ``secret``, ``variable``, ``package`` or ``credentials``; ``one of`` for several of these of which one does.
        name: what the agent calls it.
        met: whether it is there.
        required: whether the agent cannot do without it, as far as its source tells.
        told: where it is looked for, in words.
        mend: what provides it: a line of Python or a command; empty where it is met.
        secrets: of ``one of``, the secrets among them that are not there.
        alternative: whether a need of the kind ``one of`` tells of it too.
    """

    kind: Literal["secret", "variable", "package", "credentials", "one of"]
    name: str
    met: bool
    required: bool
    told: str
    mend: str = ""
    secrets: tuple[str, ...] = ()
    alternative: bool = False


def secret(group: str, key: str, given: Container[str] = (), *, required: bool = True) -> Need:
    """A secret of flytekit's, as an agent asks for it; ``given`` are those of a person."""
    from flytekit.core.context_manager import SecretsManager

    manager = SecretsManager()
    named = manager.get_secrets_env_var(group or None, key or None)
    file = manager.get_secrets_file(group or None, key or None)
    called = "/".join(part for part in (group, key) if part)
    name = name_of(called)
    met = name in given or named in os.environ or os.path.exists(file)
    told = "given to this kernel" if name in given else f"variable {named} or file {file}"
    return Need("secret", called, met, required, told, "" if met else f"%agent secret {name}")


def variable(name: str, *, required: bool) -> Need:
    """An environment variable that the agent reads."""
    met = name in os.environ
    mend = "" if met or not required else f"import os; os.environ['{name}'] = '...'"
    return Need("variable", name, met, required, "environment variable", mend)


def is_there(name: str) -> bool:
    """Whether a module could be imported, found out without running anything: of a dotted name what is loaded already is looked into."""
    if name in sys.modules:
        return sys.modules[name] is not None
    top, _, rest = name.partition(".")
    try:
        if not rest or top not in sys.modules:
            return importlib.util.find_spec(top) is not None
        parent = name.rpartition(".")[0]
        if parent in sys.modules:
            found: Any = importlib.util.find_spec(name)
            # The name of a class or function that is imported from its module is no module.
            return found is not None or hasattr(sys.modules[parent], name.rpartition(".")[2])
    except (ImportError, ValueError, AttributeError):
        return False
    return True


def cloud(module: str) -> Iterator[Need]:
    """The credentials of the cloud whose client a module is; nothing where it is none."""
    for name, of in _CLOUDS.items():
        if module == name or module.startswith(f"{name}."):
            yield _google() if of == "google" else _aws()
            return


def _google() -> Need:
    file = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    folder = os.environ.get("CLOUDSDK_CONFIG") or os.path.join(
        os.environ.get("APPDATA", "") if os.name == "nt" else os.path.expanduser("~/.config"), "gcloud"
    )
    default = os.path.join(folder, "application_default_credentials.json")
    met = os.path.isfile(file) if file else os.path.isfile(default)
    told = (
        "the file that GOOGLE_APPLICATION_CREDENTIALS names, or gcloud's own; a machine in Google's cloud needs neither"
    )
    if file and not met:
        told = "GOOGLE_APPLICATION_CREDENTIALS names a file that is not there"
    return Need("credentials", "Google", met, True, told, "" if met else "gcloud auth application-default login")


def _aws() -> Need:
    names = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or os.path.expanduser("~/.aws/credentials")
    config = os.environ.get("AWS_CONFIG_FILE") or os.path.expanduser("~/.aws/config")
    met = any(name in os.environ for name in names) or os.path.isfile(file) or os.path.isfile(config)
    told = "AWS_ACCESS_KEY_ID, AWS_PROFILE or ~/.aws; a machine in AWS needs none"
    return Need("credentials", "AWS", met, True, told, "" if met else "aws configure")
