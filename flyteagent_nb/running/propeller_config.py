"""FlytePropeller's own configuration of agent services, read from wherever people keep it.

A bare section, a whole propeller configuration, a Kubernetes ConfigMap with it inside, or the values file of a Helm chart, in both
spellings (``agent-service`` and ``connector-service``). A wrong key is told with its line; a key that is not known here is kept, and named.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import ConfigurationError, closest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import yaml

SECTIONS = {
    "agent-service": ("defaultAgent", "agents", "agentForTaskTypes"),
    "connector-service": ("defaultConnector", "connectors", "connectorForTaskTypes"),
}
"""The section's two spellings, and their words for the default service, the named ones, and the routes."""

OPERATIONS = (
    "CreateTask",
    "GetTask",
    "DeleteTask",
    "ExecuteTaskSync",
    "ListAgents",
    "ListConnectors",
    "GetAgent",
    "GetTaskMetrics",
    "GetTaskLogs",
)

_SERVICE_KEYS = ("endpoint", "insecure", "defaultServiceConfig", "timeouts", "defaultTimeout")
_KNOWN_BESIDE = ("webApi", "resourceConstraints", "pollInterval", "supportedTaskTypes")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


@dataclass(frozen=True)
class ServiceSettings:
    """One agent service, as propeller has it.

    Attributes:
        endpoint: its gRPC address.
        insecure: plain text instead of TLS.
        timeouts: seconds by operation.
        default_timeout: seconds of an operation that has none of its own, or None.
        service_config: gRPC's service configuration (JSON), or an empty string.
    """

    endpoint: str
    insecure: bool = False
    timeouts: Mapping[str, float] = field(default_factory=dict)
    default_timeout: float | None = None
    service_config: str = ""


@dataclass(frozen=True)
class PropellerConfig:
    """What propeller knows of agent services.

    Attributes:
        section: the spelling that was found: a key of :data:`SECTIONS`.
        default: the default service, or None.
        services: the named ones.
        routes: the name of the service by task type.
        supported: the task types that fill gaps.
        unknown: keys that are not known here, as ``line 7: agents.a.tls``.
    """

    section: str
    default: ServiceSettings | None = None
    services: Mapping[str, ServiceSettings] = field(default_factory=dict)
    routes: Mapping[str, str] = field(default_factory=dict)
    supported: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def go_duration(text: str) -> float:
    """Seconds of a duration as Go writes it: ``1h2m3.5s``, ``300ms``, ``0``.

    Raises:
        ValueError: it is none.
    """
    bare = text.strip()
    if bare in ("0", "+0", "-0"):
        return 0.0
    sign = -1.0 if bare.startswith("-") else 1.0
    parts = list(_DURATION.finditer(bare.lstrip("+-")))
    if not parts or "".join(part[0] for part in parts) != bare.lstrip("+-"):
        raise ValueError(f"{text!r} is no duration: 10s, 1m30s, 500ms")
    return sign * sum(float(part[1]) * _UNITS[part[3]] for part in parts)


def read_propeller_config(text: str, source: str = "") -> PropellerConfig:
    """The agent services in a configuration.

    Args:
        text: YAML (JSON is YAML too), of one document or several.
        source: the file's name, for errors.

    Raises:
        ConfigurationError: it is not YAML, has no such section, or something in it is wrong; it names line and key.
    """
    reader = _Reader(source)
    try:
        return _read(reader, text)
    except RecursionError:
        raise reader.error("it is nested too deep", None) from None


def _read(reader: _Reader, text: str) -> PropellerConfig:
    import yaml

    try:
        documents = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise reader.error(
            f"it is not YAML: {getattr(error, 'problem', None) or error}", None if mark is None else mark.line + 1
        ) from None
    found = [section for document in documents for section in reader.sections(document)]
    if found:
        return reader.read(*found[0], others=found[1:])
    bare = next((reader.bare(document) for document in documents if reader.bare(document)), None)
    if bare is not None:
        return reader.read(*bare)
    keys = ((key, line) for document in documents for key, line in reader.keys(document))
    near, line = next(
        (
            (f"{key} looks like {near}" if key != near else f"{key} has nothing in it", line)
            for key, line in keys
            if (near := closest(key, SECTIONS))
        ),
        ("", None),
    )
    raise reader.error(
        "it has no section agent-service or connector-service",
        line,
        hint=near or "take propeller's own configuration, the ConfigMap that holds it, or the values of its Helm chart",
    )


class _Reader:
    def __init__(self, source: str) -> None:
        self._source = source or "the configuration"
        self._offset = 0  # lines before a text inside another
        self._unknown: list[tuple[int, str]] = []
        self._seen: dict[tuple[str, int], yaml.Node] = {}  # with the nodes themselves, or another may get the same id

    # --- finding the section ---

    def sections(self, node: yaml.Node) -> Iterator[tuple[str, yaml.Node, int]]:
        """Every section in a tree, also in a text inside it, as a ConfigMap has it: spelling, node, the line that it is counted from."""
        import yaml

        if self._has_seen("section", node):
            return
        for key, value in _items(node):
            if key.value in SECTIONS and isinstance(value, yaml.MappingNode):
                yield key.value, value, self._offset
            elif isinstance(value, yaml.ScalarNode) and "-service" in value.value and "\n" in value.value:
                inner = self._inner(value)
                if inner is not None:
                    before, self._offset = self._offset, self._offset + value.start_mark.line + 1
                    yield from self.sections(inner)
                    self._offset = before
            else:
                yield from self.sections(value)
        if isinstance(node, yaml.SequenceNode):
            for each in node.value:
                yield from self.sections(each)

    def keys(self, node: yaml.Node) -> Iterator[tuple[str, int]]:
        """Every key in a tree and its line in the file, also in a text inside it."""
        import yaml

        if self._has_seen("key", node):
            return
        for key, value in _items(node):
            if not key.value.endswith((".yaml", ".yml")):  # a ConfigMap's files
                yield key.value, self._offset + key.start_mark.line + 1
            is_text = isinstance(value, yaml.ScalarNode) and "\n" in value.value
            inner = self._inner(value) if is_text else value
            if inner is not None:
                before = self._offset
                self._offset += value.start_mark.line + 1 if is_text else 0
                yield from self.keys(inner)
                self._offset = before
        if isinstance(node, yaml.SequenceNode):
            for each in node.value:
                yield from self.keys(each)

    def _has_seen(self, what: str, node: yaml.Node) -> bool:
        """Whether it was looked for that there before: aliases lead to a node again and again, or round in a circle."""
        before = len(self._seen)
        self._seen[what, id(node)] = node
        return len(self._seen) == before

    def _inner(self, node: yaml.ScalarNode) -> yaml.Node | None:
        import yaml

        try:
            return yaml.compose(node.value, Loader=yaml.SafeLoader)
        except yaml.YAMLError:
            return None

    def bare(self, node: yaml.Node) -> tuple[str, yaml.Node, int] | None:
        """The section itself, where the document is nothing else."""
        keys = {key.value for key, _ in _items(node)}
        for section, words in SECTIONS.items():
            if keys & set(words):
                return section, node, 0
        return None

    # --- reading it ---

    def read(
        self, section: str, node: yaml.Node, offset: int, *, others: Sequence[tuple[str, yaml.Node, int]] = ()
    ) -> PropellerConfig:
        """The section; sections in the other spelling, which a propeller reads instead or not at all, are named as unknown."""
        for spelling, other, before in others:
            if spelling != section:
                self._unknown.append((before + int(other.start_mark.line), f"{spelling} beside {section}"))
        self._offset = offset
        default_word, services_word, routes_word = SECTIONS[section]
        known = (default_word, services_word, routes_word, *_KNOWN_BESIDE)
        values = self._mapping(node, section, known)
        # Propeller's default service is in plain text where nothing is said of it, a named one is not.
        default = self._service(values[default_word], default_word, insecure=True) if default_word in values else None
        services = {}
        if services_word in values:
            for key, value in self._pairs(values[services_word], services_word):
                services[key.value] = self._service(value, f"{services_word}.{key.value}")
        routes = self._routes(values.get(routes_word), routes_word, services)
        supported: tuple[str, ...] = ()
        if "supportedTaskTypes" in values:
            supported = tuple(
                self._text(each, "supportedTaskTypes") for each in self._list(values["supportedTaskTypes"])
            )
        unknown = tuple(f"line {line}: {what}" for line, what in sorted(self._unknown))
        return PropellerConfig(section, default, services, routes, supported, unknown)

    def _service(self, node: yaml.Node, path: str, *, insecure: bool = False) -> ServiceSettings:
        values = self._mapping(node, path, _SERVICE_KEYS)
        if "endpoint" not in values:
            raise self.error(
                f"{path} has no endpoint", self._line(node), hint="endpoint: dns:///flyteagent.flyte.svc:8000"
            )
        timeouts = {}
        if "timeouts" in values:
            for key, value in self._pairs(values["timeouts"], f"{path}.timeouts"):
                name = next((each for each in OPERATIONS if each.lower() == key.value.lower()), None)
                if name is None:
                    near = closest(key.value, OPERATIONS)
                    raise self.error(
                        f"{path}.timeouts.{key.value}: there is no such operation", self._line(key),
                        hint=f"did you mean {near}?" if near else f"the operations are {', '.join(OPERATIONS[:5])}",
                    )  # fmt: skip
                timeouts[name] = self._duration(value, f"{path}.timeouts.{key.value}")
        return ServiceSettings(
            endpoint=self._text(values["endpoint"], f"{path}.endpoint"),
            insecure=self._flag(values["insecure"], f"{path}.insecure") if "insecure" in values else insecure,
            timeouts=timeouts,
            default_timeout=self._duration(values["defaultTimeout"], f"{path}.defaultTimeout")
            if "defaultTimeout" in values
            else None,
            service_config=self._text(values["defaultServiceConfig"], f"{path}.defaultServiceConfig")
            if "defaultServiceConfig" in values
            else "",
        )

    def _routes(self, node: yaml.Node | None, path: str, services: Mapping[str, Any]) -> dict[str, str]:
        """A mapping, or a list of mappings as Flyte's own documentation writes it."""
        import yaml

        if node is None:
            return {}
        routes = {}
        for part in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            for key, value in self._pairs(part, path):
                service = self._text(value, f"{path}.{key.value}")
                if service not in services:
                    near = closest(service, services)
                    raise self.error(
                        f"{path}.{key.value}: no service is called {service}", self._line(value),
                        hint=f"did you mean {near}?" if near else f"the services are: {', '.join(services) or 'none'}",
                    )  # fmt: skip
                routes[key.value] = service
        return routes

    def _mapping(self, node: yaml.Node, path: str, known: tuple[str, ...]) -> dict[str, yaml.Node]:
        values = {}
        for key, value in self._pairs(node, path):
            name = next((each for each in known if each.lower() == key.value.lower()), None)  # viper folds case
            if name is not None:
                if not _is_empty(value):  # as if it were not there
                    values[name] = value
                continue
            near = closest(key.value, known)
            if near is not None and near not in values:
                raise self.error(
                    f"{path}.{key.value} is not a key that propeller knows",
                    self._line(key),
                    hint=f"did you mean {near}?",
                )
            self._unknown.append((self._line(key), f"{path}.{key.value}"))
        return values

    def _pairs(self, node: yaml.Node, path: str) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
        import yaml

        if _is_empty(node):
            return []
        if not isinstance(node, yaml.MappingNode):
            raise self.error(f"{path} is not a mapping", self._line(node), hint="write `key: value` lines under it")
        return _items(node)

    def _list(self, node: yaml.Node) -> list[yaml.Node]:
        import yaml

        return list(node.value) if isinstance(node, yaml.SequenceNode) else [node]

    def _text(self, node: yaml.Node, path: str) -> str:
        import yaml

        if not isinstance(node, yaml.ScalarNode) or not node.value:
            raise self.error(f"{path} is not a text", self._line(node))
        return str(node.value)

    def _flag(self, node: yaml.Node, path: str) -> bool:
        text = self._text(node, path).lower()
        if text not in ("true", "false", "yes", "no", "on", "off"):
            raise self.error(f"{path}: {text} is neither true nor false", self._line(node))
        return text in ("true", "yes", "on")

    def _duration(self, node: yaml.Node, path: str) -> float:
        text = self._text(node, path)
        try:
            return go_duration(text)
        except ValueError as error:
            raise self.error(f"{path}: {error}", self._line(node)) from None

    def _line(self, node: yaml.Node) -> int:
        return self._offset + int(node.start_mark.line) + 1

    def error(self, what: str, line: int | None, *, hint: str = "") -> ConfigurationError:
        where = f"{self._source}, line {line}" if line is not None else self._source
        return ConfigurationError(f"{where}: {what}", source=self._source, line=line, hint=hint)


def _is_empty(node: yaml.Node) -> bool:
    """Whether a key has no value: nothing, null, or an empty text."""
    import yaml

    return isinstance(node, yaml.ScalarNode) and (node.tag.endswith(":null") or not node.value)


def _items(node: yaml.Node) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return []
    with contextlib.suppress(yaml.YAMLError):  # what is brought is no mapping
        # What `<<: *defaults` brings then stands before what the mapping says itself.
        yaml.SafeLoader("").flatten_mapping(node)
    return [(key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
