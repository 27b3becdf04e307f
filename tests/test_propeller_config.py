"""FlytePropeller's own configuration, in every place and spelling in which people keep it."""

from __future__ import annotations

import textwrap

import pytest

from flyteagent_nb.errors import ConfigurationError
from flyteagent_nb.running.propeller_config import PropellerConfig, ServiceSettings, go_duration, read_propeller_config

SECTION = """\
agent-service:
  supportedTaskTypes: [sensor, my_type]
  pollInterval: 10s
  defaultAgent:
    endpoint: "dns:///flyteagent.flyte.svc.cluster.local:8000"
    insecure: true
    timeouts:
      CreateTask: 5s
      GetTask: 1m30s
    defaultTimeout: 10s
  agents:
    custom_agent:
      endpoint: "dns:///custom.flyte.svc.cluster.local:8000"
      defaultServiceConfig: '{"loadBalancingConfig": [{"round_robin":{}}]}'
  agentForTaskTypes:
    - custom_task: custom_agent
"""
EXPECTED = PropellerConfig(
    section="agent-service",
    default=ServiceSettings(
        "dns:///flyteagent.flyte.svc.cluster.local:8000", True, {"CreateTask": 5.0, "GetTask": 90.0}, 10.0
    ),
    services={
        "custom_agent": ServiceSettings(
            "dns:///custom.flyte.svc.cluster.local:8000",
            service_config='{"loadBalancingConfig": [{"round_robin":{}}]}',
        )
    },
    routes={"custom_task": "custom_agent"},
    supported=("sensor", "my_type"),
)


def indented(text: str, by: int) -> str:
    return textwrap.indent(text, " " * by)


PLACES = {
    "the section": SECTION,
    "what is in the section": textwrap.dedent(SECTION.partition("\n")[2]),
    "a whole configuration": f"tasks:\n  task-plugins:\n    enabled-plugins: [container]\nplugins:\n{indented(SECTION, 2)}",
    "a ConfigMap": "apiVersion: v1\nkind: ConfigMap\ndata:\n  core.yaml: |\n    propeller: {}\n  agent_service.yaml: |\n"
    + indented(f"plugins:\n{indented(SECTION, 2)}", 4),
    "the values of flyte-binary": f"configuration:\n  inline:\n    plugins:\n{indented(SECTION, 6)}",
    "the values of flyte-core": f"configmap:\n  enabled_plugins: {{}}\n  agent:\n    plugins:\n{indented(SECTION, 6)}",
    "several documents": f"a: 1\n---\nplugins:\n{indented(SECTION, 2)}",
    "routes as a mapping": SECTION.replace("    - custom_task", "    custom_task"),
    "keys in another case": SECTION.replace("defaultAgent", "defaultagent").replace(
        "agentForTaskTypes", "AgentForTaskTypes"
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_it_is_found_in(place: str) -> None:
    assert read_propeller_config(PLACES[place]) == EXPECTED


def test_the_other_spelling() -> None:
    text = (
        SECTION.replace("agent-service", "connector-service")
        .replace("defaultAgent", "defaultConnector")
        .replace("  agents:", "  connectors:")
        .replace("agentForTaskTypes", "connectorForTaskTypes")
    )
    found = read_propeller_config(text)
    assert found.section == "connector-service"
    assert (found.default, found.services, found.routes) == (EXPECTED.default, EXPECTED.services, EXPECTED.routes)
    bare = textwrap.dedent(text.partition("\n")[2])
    assert read_propeller_config(bare) == found


def test_what_is_not_known_is_kept_and_named() -> None:
    text = SECTION.replace("    insecure: true\n", "    insecure: true\n    perRetryPolicy: x\n")
    found = read_propeller_config(text + "  webApi: {}\n  readRateLimiter: {}\n")
    assert found.default == EXPECTED.default
    assert found.unknown == ("line 7: defaultAgent.perRetryPolicy", "line 19: agent-service.readRateLimiter")


def test_little_is_enough() -> None:
    assert read_propeller_config("agent-service:\n  defaultAgent: {endpoint: 'localhost:8000'}") == PropellerConfig(
        "agent-service", ServiceSettings("localhost:8000", insecure=True)
    )
    named = read_propeller_config("connector-service: {connectors: {a: {endpoint: 'localhost:8000'}}}").services["a"]
    assert named == ServiceSettings("localhost:8000")
    assert read_propeller_config('{"connector-service": {"connectors": null}}').services == {}


@pytest.mark.parametrize("value", ["", "null", "~", "''"])
def test_a_key_without_a_value_is_as_if_it_were_not_there(value: str) -> None:
    service = "".join(
        f"\n    {key}: {value}" for key in ("insecure", "timeouts", "defaultTimeout", "defaultServiceConfig")
    )
    beside = "".join(
        f"\n  {key}: {value}" for key in ("supportedTaskTypes", "pollInterval", "connectors", "connectorForTaskTypes")
    )
    found = read_propeller_config(
        f"connector-service:\n  defaultConnector:\n    endpoint: localhost:8000{service}{beside}"
    )
    assert found == PropellerConfig("connector-service", ServiceSettings("localhost:8000", insecure=True))
    assert read_propeller_config(f"agent-service:\n  agents: {{}}\n  defaultAgent: {value}").default is None


def test_of_two_spellings_the_first_is_read_and_the_other_named() -> None:
    other = "connector-service:\n  defaultConnector:\n    endpoint: a:1\n"
    found = read_propeller_config(f"{SECTION}{other}---\n{SECTION}")
    assert (found.default, found.unknown) == (EXPECTED.default, ("line 17: connector-service beside agent-service",))


def test_a_mapping_may_bring_another_along() -> None:
    found = read_propeller_config(
        "common: &common\n  insecure: true\n  defaultTimeout: 5s\n  endpoint: nowhere:1\n"
        "agent-service:\n  agents:\n    a:\n      <<: *common\n      endpoint: localhost:8000\n"
    )
    assert (found.services["a"], found.unknown) == (ServiceSettings("localhost:8000", True, {}, 5.0), ())


def test_the_newer_name_of_a_listing_has_a_timeout() -> None:
    found = read_propeller_config(
        "connector-service: {defaultConnector: {endpoint: 'a:1', timeouts: {ListConnectors: 3s}}}"
    )
    assert found.default is not None and found.default.timeouts == {"ListConnectors": 3.0}


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("defaultAgent", "defaultAgnt", "f.yaml, line 4: agent-service.defaultAgnt is not a key", "defaultAgent?"),
        ("endpoint", "endpont", "f.yaml, line 5: defaultAgent.endpont is not a key", "endpoint?"),
        ("GetTask", "GetTsk", "f.yaml, line 9: defaultAgent.timeouts.GetTsk: there is no such operation", "GetTask?"),
        ("1m30s", "90", "f.yaml, line 9: defaultAgent.timeouts.GetTask: '90' is no duration", ""),
        ("insecure: true", "insecure: maybe", "f.yaml, line 6: defaultAgent.insecure: maybe is neither", ""),
        (": custom_agent", ": custom_agnt", "f.yaml, line 16: agentForTaskTypes.custom_task: no service is called", "custom_agent?"),
        ("  agents:\n", "  agents: [1]\n  x:\n", "f.yaml, line 11: agents is not a mapping", "key: value"),
        ("[sensor", "[[sensor", "f.yaml, line 3: it is not YAML", ""),
        ("agent-service:", "agent-service: []\nx:", "f.yaml, line 1: it has no section", "agent-service has nothing in it"),
        ("agent-service", "agents-service", "f.yaml, line 1: it has no section", "agents-service looks like agent-service"),
    ],
)  # fmt: skip
def test_a_typo_is_told_with_its_line_and_the_nearest_word(old: str, new: str, message: str, hint: str) -> None:
    assert old in SECTION
    with pytest.raises(ConfigurationError) as e:
        read_propeller_config(SECTION.replace(old, new, 1), "f.yaml")
    assert e.value.message.startswith(message), e.value
    assert hint in e.value.hint


def test_a_line_inside_a_configmap_is_the_file_s_own() -> None:
    text = PLACES["a ConfigMap"].replace("endpoint", "endpont", 1)
    line = next(n for n, each in enumerate(text.splitlines(), 1) if "endpont" in each)
    with pytest.raises(ConfigurationError, match=f"line {line}: defaultAgent.endpont"):
        read_propeller_config(text)


@pytest.mark.parametrize(
    "place", ["the section", "a whole configuration", "a ConfigMap", "the values of flyte-core", "several documents"]
)
def test_a_section_that_is_misspelt_is_told_wherever_it_is(place: str) -> None:
    text = PLACES[place].replace("agent-service:", "agent-servce:", 1)
    line = next(n for n, each in enumerate(text.splitlines(), 1) if "agent-servce" in each)
    with pytest.raises(ConfigurationError, match=f"line {line}: it has no section") as e:
        read_propeller_config(text)
    assert e.value.hint == "agent-servce looks like agent-service"


@pytest.mark.parametrize("text", ["", "a", "[]", "agent: 1", "- agents", "plugins:\n  k8s: {}"])
def test_a_file_of_something_else(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no section agent-service"):
        read_propeller_config(text)


DOUBLED = "".join(f"x{n}: &x{n} [{{a: *x{n - 1}}}, {{a: *x{n - 1}}}]\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: &a\n  b: *a\n", "no section"),
        ("a: &a [*a]\n", "no section"),
        (f"x0: &x0 [x]\n{DOUBLED}", "no section"),  # each alias twice: 2 ** 39 ways to the first
        (f"a: {'[' * 2000}{']' * 2000}", "nested too deep"),
    ],
)
def test_aliases_and_brackets_that_lead_too_far(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        read_propeller_config(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("1m30s", 90),
        ("500ms", 0.5),
        ("1h2m3.5s", 3723.5),
        ("0", 0),
        ("-2s", -2),
        ("3us", 3e-6),
        ("3µs", 3e-6),
    ],
)
def test_a_duration_of_go_s(text: str, seconds: float) -> None:
    assert go_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "s", "1 s", "1d", "1s2", "one"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        go_duration(text)
