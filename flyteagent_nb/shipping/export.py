"""``%agent export``: the agents of a notebook as a folder that a cluster can be given, and what it could not take along."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyteagent_nb import wire
from flyteagent_nb.agents.duckdb import TASK_TYPE
from flyteagent_nb.errors import ArgumentError, ExportError, TaskTypeNotFoundError, closest
from flyteagent_nb.findings import Finding
from flyteagent_nb.masking import VARIABLES
from flyteagent_nb.serving.catalog import NOTEBOOK
from flyteagent_nb.serving.needs import needs_of, needs_of_source
from flyteagent_nb.serving.secret_store import name_of
from flyteagent_nb.shipping.cells import Cells
from flyteagent_nb.shipping.distributions import pins_of, release_of
from flyteagent_nb.shipping.module import ELSEWHERE, make_module
from flyteagent_nb.shipping.second import whole_words
from flyteagent_nb.shipping.templates import render

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flyteagent_nb.serving.catalog import AgentEntry
    from flyteagent_nb.serving.need import Need
    from flyteagent_nb.shipping.cells import Cell
    from flyteagent_nb.shipping.distributions import Pins
    from flyteagent_nb.shipping.module import AgentModule
    from flyteagent_nb.workspace import Workspace

RECORD = ".flyteagent-export.json"
"""The file by which an export of ours is known again: what was written, and its hashes."""

IMPORT_WAIT = 90.0
"""Seconds that the module may take to be imported: flytekit is, too."""

_IMAGE = re.compile(
    r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]+)?/)?PART(/PART)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?".replace(
        "PART", r"[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*"
    )
)
"""A registry, a path and a tag, as Docker has them; no digest, as the image is still to be built."""

_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # a label of RFC 1123

_IN_FOLDER = re.compile(r"\.?\w[\w.-]*")  # the name of a file of an export, with no way out of its folder

_TRY = """
import json, sys, importlib
importlib.import_module(sys.argv[1])
from flytekit.extend.backend.base_connector import ConnectorRegistry
print("TYPES" + json.dumps([[c.name, c.version] for c in ConnectorRegistry._REGISTRY]))
"""


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        folder: where.
        module: the module's name.
        name: what the service is called in the cluster.
        image: the image's name and tag.
        types: the task types and versions that it serves.
        files: the files, relative to the folder.
        findings: what could not be taken along, what a cluster's propeller cannot be told, and what to do.
    """

    folder: Path
    module: str
    name: str
    image: str
    types: tuple[tuple[str, int], ...]
    files: tuple[str, ...]
    findings: tuple[Finding, ...]


def export(
    workspace: Workspace,
    folder: Path,
    *,
    types: Sequence[str] = (),
    image: str = "",
    namespace: str = "flyte",
    cells: Sequence[Cell] = (),
    variables: Mapping[str, Any] | None = None,
) -> Export:
    """Write agents as a service; blocks for some seconds, as the module is tried in another process.

    Args:
        workspace: the open workspace.
        folder: a new one, an empty one, or one that was exported before.
        types: the task types; those that cells defined where it is empty.
        image: the image's name and tag.
        namespace: the namespace of the cluster.
        cells: the notebook's cells.
        variables: the notebook's variables.

    Raises:
        ArgumentError: no image or no namespace can have that name.
        ExportError: there is no agent to export, or the folder holds something else.
        TaskTypeNotFoundError: no agent here serves one of the types.
    """
    if image and not (_IMAGE.fullmatch(image) and len(image) <= 255):
        raise ArgumentError(
            f"--image: {image} is no name of an image",
            hint="write registry.example.com/team/agents:2 or agents:2: lowercase letters and digits, with . _ or - between them",
        )
    if not _NAMESPACE.fullmatch(namespace):
        raise ArgumentError(
            f"--namespace: {namespace} is no name of a namespace",
            hint="write flyte-prod or the like: up to 63 lowercase letters and digits, with - between them",
        )
    entries = _entries(workspace, types)
    folder, before = _looked_at(folder)
    name = _service_name(folder.absolute().name)
    module_name = name.replace("-", "_") + ("" if name.endswith("agents") else "_agents")
    masking = workspace.masking
    module = make_module(
        entries, Cells(cells), variables or {},
        is_secret=lambda text: masking.text(text) != text,
        replaces=lambda entry: any(
            not e.in_notebook for e in workspace.catalog.generations(entry.task_type, entry.version) if entry.in_notebook
        ),
    )  # fmt: skip
    pins = pins_of(module.imported)
    needs = [*needs_of_source(module.source), *(n for e in entries if not e.in_notebook for n in needs_of(e))]
    image = image or f"{name}:1"
    values = {
        "name": name, "module": module_name, "namespace": namespace, "image": image,
        "repository": image.rpartition(":")[0] if ":" in image.rpartition("/")[2] else image,
        "tag": image.rpartition(":")[2] if ":" in image.rpartition("/")[2] else "latest",
        "python": ".".join(map(str, sys.version_info[:2])), "pins": pins, "flytekit": release_of("flytekit"),
        "types": [(e.task_type, e.version, e.is_sync) for e in entries],
        "routes": [e.task_type for e in entries if not e.is_sync and not e.version],
        "secrets": _secrets(needs), "variables": _variables(needs), "port": 8000, "replicas": 1 if _of_duckdb(entries) else 2,
        "address": f"{name}.{namespace}.svc.cluster.local:8000",
    }  # fmt: skip
    texts = {path: render(template, **values) for path, template in FILES.items()}
    texts[f"{module_name}.py"] = module.source
    with _beside(folder) as made:
        _write(made, texts)
        tried = _tried(made, module_name, entries, module)
        _put_in_place(made, folder, before)
    findings = [
        *module.findings,
        *_of_pins(pins),
        *_of_routes(workspace, entries),
        *_of_sensors(variables or {}),
        *_of_duckdb(entries),
        *_of_needs(needs),
        *tried,
    ]
    files = tuple(sorted(texts))
    masked = tuple(f._replace(told=masking.text(f.told)) for f in findings)
    keys = tuple((e.task_type, e.version) for e in entries)
    return Export(folder, module_name, name, image, keys, files, masked)


FILES = {
    "requirements.txt": "requirements.txt.j2",
    "constraints.txt": "constraints.txt.j2",
    "pyproject.toml": "pyproject.toml.j2",
    "Dockerfile": "Dockerfile.j2",
    ".dockerignore": "dockerignore.j2",
    "kubernetes.yaml": "kubernetes.yaml.j2",
    "secret.yaml": "secret.yaml.j2",
    "helm-values.yaml": "helm-values.yaml.j2",
    "propeller-connector-service.yaml": "propeller-connector-service.yaml.j2",
    "propeller-agent-service.yaml": "propeller-agent-service.yaml.j2",
    "README.md": "README.md.j2",
}
"""What is written beside the module: a file, and its template."""


def _entries(workspace: Workspace, types: Sequence[str]) -> list[AgentEntry]:
    known = workspace.catalog.entries()
    if not types:
        found = [entry for entry in known if entry.in_notebook]
        if not found:
            raise ExportError(
                "no cell of this notebook defines an agent",
                hint="--types TYPE exports an installed one; %agent types lists them",
            )
        return found
    for name in types:
        if all(entry.task_type != name for entry in known):
            raise TaskTypeNotFoundError(
                f"no agent here serves the task type '{name}'",
                task_type=name,
                suggestion=closest(name, {entry.task_type for entry in known}),
                hint="" if closest(name, {e.task_type for e in known}) else "%agent types lists what there is",
            )
    return [entry for entry in known if entry.task_type in types]


def _service_name(text: str) -> str:
    """A name that is one to Kubernetes and, with underscores, to Python."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()  # ä as a
    name = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    return f"agents-{name}"[:50].strip("-") if not name or name[0].isdigit() else name[:50].strip("-")


def _secrets(needs: Sequence[Need]) -> list[str]:
    """The variables in which flytekit looks for the secrets that agents ask for."""
    return sorted({f"{VARIABLES}{name_of(need.name)}" for need in needs if need.kind == "secret"})


def _variables(needs: Sequence[Need]) -> list[str]:
    return sorted({need.name for need in needs if need.kind == "variable" and need.required})


# --- what a person should know ---


def _of_pins(pins: Pins) -> list[Finding]:
    found = [
        Finding(
            "warn", "requirements.txt", f"{name} was installed from a folder or a repository, so an index may not have this version",
            "publish it, or copy its wheel into the image",
        )
        for name in pins.local
    ]  # fmt: skip
    found += [
        Finding(
            "bad", ELSEWHERE, f"the module {name} is in no distribution: a file beside the notebook",
            f"copy it into the folder and name it in pyproject.toml's py-modules, or define what is needed of {name} in a cell",
        )
        for name in pins.unknown
    ]  # fmt: skip
    return found


def _of_routes(workspace: Workspace, entries: Sequence[AgentEntry]) -> list[Finding]:
    """What propeller's configuration cannot say."""
    found = []
    for entry in entries:
        if entry.version:
            told = (
                f"{entry.task_type} in version {entry.version} has no explicit route: connectorForTaskTypes knows no versions, and "
                "means version 0; the service's listing routes it"
            )
            found.append(Finding("warn", "routes", told, "nothing to do where no other service lists it"))
        elif entry.is_sync:
            told = (
                f"{entry.task_type} is sync and has no explicit route: one would make propeller call CreateTask, which it does not "
                "have; the service's listing routes it"
            )
            found.append(Finding("warn", "routes", told, "do not put it into connectorForTaskTypes"))
    for (task_type, version), service in workspace.runner.router.routes().items():
        if version and service != wire.KERNEL_SERVICE:
            told = f"the route of {task_type}@{version} to '{service}' cannot be written down: connectorForTaskTypes knows no versions"
            found.append(Finding("warn", "routes", told, "let the listings of the services decide"))
    return found


def _of_sensors(variables: Mapping[str, Any]) -> list[Finding]:
    """The notebook's own sensors. Their agent is flytekit's, which imports a sensor's class by the module that the task names."""
    from flytekit.sensor.base_sensor import BaseSensor

    kinds = {each for each in variables.values() if isinstance(each, type) and issubclass(each, BaseSensor)}
    return [
        Finding(
            "warn", "sensors",
            f"{name} is a sensor of this notebook and not taken along: flytekit's agent imports it from its module, which is __main__ here",
            "put the class into a module that the service's image has, and import it from there",
        )
        for name in sorted(kind.__name__ for kind in kinds if kind.__module__ == "__main__")
    ]  # fmt: skip


def _of_duckdb(entries: Sequence[AgentEntry]) -> list[Finding]:
    """That our own agent is not as stateless as a connector ought to be."""
    if all(entry.task_type != TASK_TYPE for entry in entries):
        return []
    told = f"{TASK_TYPE} runs its queries in the process of the agent: there is one replica, and its restart ends those under way"
    return [Finding("warn", "replicas", told, "export it by itself, so that other agents keep two")]


def _of_needs(needs: Sequence[Need]) -> list[Finding]:
    """What the agents find here and would look for in the cluster in vain: variables, which are empty there, and credentials."""
    found = []
    if names := _variables(needs):
        told = f"{', '.join(names)}: read from the environment, and no value was taken along"
        mend = "write it into kubernetes.yaml, or helm-values.yaml, where it is empty"
        found.append(Finding("warn", "variables", told, mend))
    if clouds := sorted({need.name for need in needs if need.kind == "credentials" and need.required}):
        told = f"{', '.join(clouds)}: the agents sign in with what the machine has, and no credentials were taken along"
        mend = "let the ServiceAccount of kubernetes.yaml stand for an identity of the cloud's, or mount a file of credentials"
        found.append(Finding("warn", "credentials", told, mend))
    return found


def _tried(folder: Path, module: str, entries: Sequence[AgentEntry], made: AgentModule) -> list[Finding]:
    """Import the module as a service would, with nothing of this kernel."""
    with subprocess.Popen(
        [sys.executable, "-B", "-c", _TRY, module],
        cwd=folder, env=whole_words(), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            answer, complaints = process.communicate(timeout=IMPORT_WAIT)
        except subprocess.TimeoutExpired:
            told = f"its import took longer than {IMPORT_WAIT:g} s"
            return [Finding("bad", ELSEWHERE, told, "what takes long belongs into create() or do()")]
        finally:  # the stop button, too: nothing of it goes on
            process.kill()
            process.wait()
    line = next((line for line in answer.splitlines() if line.startswith("TYPES")), "")
    if not line:
        said = [text for text in complaints.splitlines() if text.strip()]
        told = f"{module}.py does not import: {said[-1].strip()[:300] if said else f'code {process.returncode}'}"
        return [Finding("bad", ELSEWHERE, told, "mend the cells, and export again")]
    served = {(name, version) for name, version in json.loads(line.removeprefix("TYPES"))}
    ours = {(e.task_type, e.version) for e in entries if e.package == NOTEBOOK}
    lacking = ours - served
    if lacking:
        told = f"{module}.py does not register {', '.join(sorted(name for name, _ in lacking))}"
        return [Finding("bad", ELSEWHERE, told, "register it in a cell: ConnectorRegistry.register(MyAgent())")]
    return [Finding("ok", ELSEWHERE, f"{module}.py imports in a process of its own, and registers its agents")]


# --- the folder ---


def _looked_at(folder: Path) -> tuple[Path, dict[str, str]]:
    """The folder with the home in the place of ``~``, and what an earlier export wrote there.

    Raises:
        ExportError: as :func:`_record_of`; there is no such user, no such name, or only a link to itself; it may not be looked into.
    """
    try:
        found = folder.expanduser()
        found.resolve()
        return found, _record_of(found)
    except ExportError:
        raise
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExportError(f"{folder} cannot be used: {reason}", hint="name another folder") from error


def _record_of(folder: Path) -> dict[str, str]:
    """The hashes of what an earlier export wrote.

    Raises:
        ExportError: the folder holds something else, or a file was changed since.
    """
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{folder} is a file", hint="name a new folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return {}
    try:
        before = dict(json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"])
        if not all(map(_IN_FOLDER.fullmatch, before)):  # a folder from elsewhere; what is named there is removed
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise ExportError(
            f"{folder} is not empty, and no earlier export", hint="name a new folder, or an empty one"
        ) from None
    changed = [
        path for path, digest in before.items() if (folder / path).is_file() and _digest(folder / path) != digest
    ]
    if changed:
        raise ExportError(
            f"{folder} was exported before, and {', '.join(sorted(changed))} changed since",
            hint="export into a new folder and compare, or remove what was changed",
        )
    return before


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A new folder beside the one that is wanted, so that nothing half written lies where the whole is looked for; what is left goes."""
    try:
        place = folder.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{place.name}-", dir=place.parent, ignore_cleanup_errors=True
        ) as scratch:
            made = Path(scratch) / place.name
            made.mkdir()  # with the mode of any new folder, unlike the one around it
            yield made
    except OSError as error:
        raise ExportError(f"{folder} cannot be written: {error.strerror}", hint="name another folder") from error


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    for path, text in texts.items():
        (folder / path).write_text(text, encoding="utf-8")
    hashes = {path: _digest(folder / path) for path in sorted(texts)}
    (folder / RECORD).write_text(json.dumps({"files": hashes}, indent=1) + "\n", encoding="utf-8")


def _put_in_place(made: Path, folder: Path, before: Mapping[str, str]) -> None:
    """Rename the folder that was written, or its files into an earlier export, whose record is away meanwhile.

    Raises:
        ExportError: somebody else has written there since.
    """
    if _record_of(folder) != before:
        raise ExportError(f"{folder} was exported by another kernel meanwhile", hint="export again")
    if not folder.exists():
        made.rename(folder)
        return
    new = sorted(path.name for path in made.iterdir() if path.name != RECORD)
    (folder / RECORD).unlink(missing_ok=True)
    for path in before.keys() - set(new):  # of agents that are not exported any more
        (folder / path).unlink(missing_ok=True)
    for path in (*new, RECORD):
        (made / path).replace(folder / path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
