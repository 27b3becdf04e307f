"""What the doctor tells of plug-ins and task types: broken or missing packages, what each type wants, the known faults of its agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flyteagent_nb.findings import Finding, Sign
from flyteagent_nb.notebook.environment import SIGNS
from flyteagent_nb.notebook.grammar import SANDBOXES
from flyteagent_nb.plugins import (
    PLUGINS,
    WITH_US,
    hint_of_type,
    mending_command,
    normal,
    plugin_of_type,
    version_of,
)

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from flyteagent_nb.serving.catalog import AgentEntry, BrokenPlugin
    from flyteagent_nb.serving.known_fault import KnownFault
    from flyteagent_nb.serving.need import Need
    from flyteagent_nb.workspace import Workspace


def plugin_findings(workspace: Workspace) -> list[Finding]:
    """Plug-ins that are broken, and those that are installed and serve nothing."""
    found = [broken_finding(broken) for broken in workspace.catalog.broken]
    told = {normal(broken.package.partition(" ")[0]) for broken in workspace.catalog.broken}
    served = {entry.task_type for entry in workspace.catalog.entries()}
    for plugin in PLUGINS:
        if (version := version_of(plugin.distribution)) and normal(plugin.distribution) not in told:
            if not served.intersection(plugin.task_types):
                name = f"{plugin.distribution} {version}"
                told_ = f"{name} is installed and serves nothing: it was installed after the kernel's start, or its agents were removed"
                found.append(Finding("warn", "plug-in", told_, "restart the kernel"))
    found = found or [Finding("ok", "plug-ins", "none is broken")]
    for task_type, extra in WITH_US.items():
        if task_type not in served and not any(broken.name == extra for broken in workspace.catalog.broken):
            told_ = f"not served: the extra '{extra}' is not installed"
            found.append(
                Finding("skip", task_type, told_, f"pip install 'flyteagent_nb[{extra}]', then restart the kernel")
            )
    return found


def broken_finding(broken: BrokenPlugin) -> Finding:
    """A plug-in that could not be imported."""
    mend = mending_command(broken.package, broken.reason)
    told = f"{broken.name} ({broken.package}) cannot be imported: {broken.reason}"
    return Finding("bad", "plug-in", told, f"{mend}, then restart the kernel" if mend else "")


def summary_of(entry: AgentEntry, secrets: Container[str] = ()) -> Finding:
    """A served task type in one line; ``secrets`` are those that a person gave."""
    from flyteagent_nb.serving.needs import missing

    lacking = missing(entry, secrets)
    short = short_words(entry, lacking)
    mend = "; ".join(dict.fromkeys(need.mend for need in lacking if need.mend))
    sign = _sign(lacking)
    return Finding(sign, entry.task_type, f"{entry.package}: {short}" if short else entry.package, mend)


def short_words(entry: AgentEntry, lacking: Sequence[Need]) -> str:
    """What a task type lacks, and how many faults of it are known; empty where all is well."""
    words = [_lacking_words(need) for need in lacking]
    if faults := _faults_of(entry):
        words.append(f"{len(faults)} known fault{'s' if len(faults) > 1 else ''}")
    return ", ".join(words)


def _faults_of(entry: AgentEntry) -> list[KnownFault]:
    """The known faults of an agent: those of the package that its class or a base of it comes from, not of whoever else serves the type."""
    from flyteagent_nb.serving.catalog import distribution_of
    from flyteagent_nb.serving.known_faults import faults_of

    faults = faults_of(entry.task_type)
    modules = {kind.__module__ for kind in type(entry.agent).__mro__} if faults else set()
    # flytekit.extend has the bases of every agent; the rest has none that is an agent.
    packages = {distribution_of(m) or "" for m in modules if not m.startswith("flytekit.extend.")}
    return [fault for fault in faults if any(package.startswith(f"{fault.distribution} ") for package in packages)]


def _lacking_words(need: Need) -> str:
    from flyteagent_nb.serving.ways import OR

    if need.kind == "credentials":
        return f"{need.name} credentials not found"
    if need.kind == "one of":
        first, *others = need.name.split(OR)
        return f"{first} not set" + (f", nor another of {len(others) + 1} ways" if others else "")
    return f"{need.kind} {need.name} {'missing' if need.kind == 'package' else 'not set'}"


def missing_secrets(workspace: Workspace) -> list[str]:
    """The names of secrets, as ``%agent secret`` takes them: those that were given, then those that agents miss."""
    from flyteagent_nb.serving.needs import missing
    from flyteagent_nb.serving.secret_store import name_of

    given = workspace.secrets.names
    lacking = [need for entry in workspace.catalog.entries() for need in missing(entry, given)]
    names = [name for need in lacking for name in ((need.name,) if need.kind == "secret" else need.secrets)]
    return [*given, *dict.fromkeys(map(name_of, names))]


def notes_of(entries: Iterable[AgentEntry], secrets: Container[str] = ()) -> list[tuple[str, str]]:
    """For each agent of a list its sign's colour and what it lacks, as a table shows them: (words, colour)."""
    from flyteagent_nb.serving.needs import missing

    notes = []
    for entry in entries:
        lacking = missing(entry, secrets)
        sign, colour = SIGNS[_sign(lacking)]
        notes.append((f"{sign} {short_words(entry, lacking)}".strip(), colour))
    return notes


def _sign(lacking: Sequence[Need]) -> Sign:
    if any(need.kind == "package" for need in lacking):
        return "bad"
    return "warn" if lacking else "ok"


def type_findings(workspace: Workspace, task_type: str) -> list[Finding]:
    """All that is known of one task type: who serves it, what it wants, its known faults."""
    from flyteagent_nb.serving.known_faults import faults_of

    found: list[Finding] = []
    entries = [entry for entry in workspace.catalog.entries() if entry.task_type == task_type]
    for entry in entries:
        kind = "sync" if entry.is_sync else "async"
        told = f"version {entry.version} is served by '{entry.name}' ({kind}) of {entry.package}"
        found += [Finding("ok", "agent", told), *_need_findings(entry, workspace.secrets.names)]
    if not found:
        found = _unserved(workspace, task_type)
    here = {fault for entry in entries for fault in _faults_of(entry)}
    for fault in faults_of(task_type):
        if entries and fault not in here:
            continue
        told = f"{fault.distribution} {version_of(fault.distribution)}: {fault.what}"
        told += f" You see here: {fault.here} In production: {fault.production}"
        found.append(Finding("warn", "known fault", told, fault.remedy))
    return found


def _need_findings(entry: AgentEntry, secrets: Container[str]) -> list[Finding]:
    from flyteagent_nb.serving.needs import needs_of

    found = []
    lacks = False
    for need in needs_of(entry, secrets):
        if need.alternative:  # a line of its own tells of all of them
            continue
        lacking = need.required and not need.met
        lacks = lacks or lacking
        bare = need.kind in ("package", "one of")
        state = need.told if bare else f"set: {need.told}" if need.met else f"not set: {need.told}"
        name = need.name if need.required else f"{need.name}, which it can do without"
        found.append(
            Finding(_sign([need] if lacking else []), need.kind, f"{name}: {state}", need.mend if lacking else "")
        )
    plugin = plugin_of_type(entry.task_type)
    if lacks and plugin is not None and plugin.extra in SANDBOXES:
        told = f"%agent sandbox {plugin.extra} tries it with no account"
        found.append(Finding("ok", "sandbox", told))
    return found


def _unserved(workspace: Workspace, task_type: str) -> list[Finding]:
    plugin = plugin_of_type(task_type)
    name = "" if plugin is None else normal(plugin.distribution)
    broken = [b for b in workspace.catalog.broken if normal(b.package.partition(" ")[0]) == name]
    mend = "" if broken else hint_of_type(task_type)
    told = f"nobody here serves the task type '{task_type}'"
    if not broken and not mend:
        told += ", and no connector plug-in of flytekit's has an agent for it"
    return [*(broken_finding(b) for b in broken), Finding("bad", "agent", told, mend)]
