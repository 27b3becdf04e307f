"""The catalogue over flytekit's real registry."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
from flytekit.exceptions.system import FlyteConnectorNotFound
from flytekit.extend.backend import base_agent
from flytekit.extend.backend.base_connector import (
    AsyncConnectorBase,
    ConnectorBase,
    ConnectorRegistry,
    ResourceMeta,
    SyncConnectorBase,
    TaskCategory,
)
from flytekit.sensor.sensor_engine import SensorEngine

from flyteagent_nb.errors import AgentDefinitionError, AgentNotFoundError, FlyteAgentNBError, TaskTypeNotFoundError
from flyteagent_nb.serving.catalog import BrokenPlugin, Catalog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FLYTEKIT = f"flytekit {version('flytekit')}"


class Job(AsyncConnectorBase):
    name = "Job Agent"

    def __init__(
        self, task_type: str = "job", version: int = 0, name: str = "Job Agent", metadata_type: Any = ResourceMeta
    ) -> None:
        super().__init__(metadata_type=metadata_type, task_type_name=task_type, task_type_version=version)
        self.name = name

    def create(self, **kwargs: Any) -> Any: ...

    def get(self, **kwargs: Any) -> Any: ...

    def delete(self, **kwargs: Any) -> Any: ...


class Answer(SyncConnectorBase):
    def __init__(self, task_type: str = "job", version: int = 0, name: str = "Job Agent") -> None:
        super().__init__(task_type_name=task_type, task_type_version=version)
        self.name = name

    def do(self, **kwargs: Any) -> Any: ...


@pytest.fixture
def clean_registry() -> Iterator[None]:
    """flytekit's registry with the sensor in it, and as it was afterwards."""
    kept = ConnectorRegistry._REGISTRY, ConnectorRegistry._METADATA
    ConnectorRegistry._REGISTRY, ConnectorRegistry._METADATA = {}, {}
    ConnectorRegistry.register(SensorEngine())
    yield
    ConnectorRegistry._REGISTRY, ConnectorRegistry._METADATA = kept


@pytest.fixture
def catalog(clean_registry: None) -> Iterator[Catalog]:
    catalog = Catalog()
    catalog.take_over()
    yield catalog
    catalog.release()


def listed(catalog: Catalog) -> list[tuple[str, bool, list[tuple[str, int]]]]:
    """The metadata, and flytekit's own beside it, which must say the same."""

    def rows(agents: Any) -> list[tuple[str, bool, list[tuple[str, int]]]]:
        return [(a.name, a.is_sync, [(c.name, c.version) for c in a.supported_task_categories]) for a in agents]

    assert rows(catalog.metadata()) == rows(ConnectorRegistry.list_connectors())
    return rows(catalog.metadata())


SENSOR = ("Sensor", False, [("sensor", 0)])


def test_it_adopts_what_was_registered_before(catalog: Catalog) -> None:
    (entry,) = catalog.entries()
    assert (entry.task_type, entry.version, entry.name, entry.is_sync) == ("sensor", 0, "Sensor", False)
    assert (entry.package, entry.in_notebook, entry.generation) == (FLYTEKIT, False, 1)
    assert entry.source == "flytekit.sensor.sensor_engine:SensorEngine"
    assert isinstance(entry.agent, SensorEngine)
    assert listed(catalog) == [SENSOR]


def test_both_of_flytekits_names_are_one_registry(catalog: Catalog) -> None:
    assert base_agent.AgentRegistry is ConnectorRegistry
    base_agent.AgentRegistry.register(Job())
    assert ConnectorRegistry.get_agent("job") is ConnectorRegistry.get_connector("job") is catalog.current("job").agent


def test_registering_again_replaces_without_override(catalog: Catalog) -> None:
    agents = [Job() for _ in range(3)]
    for agent, override in zip(agents, (False, False, True), strict=True):
        assert ConnectorRegistry.register(agent, override=override) is None
    assert ConnectorRegistry.get_connector("job") is agents[2]
    assert catalog.current("job").generation == 3
    assert [(e.generation, e.agent) for e in catalog.generations("job")] == [
        (3, agents[2]),
        (2, agents[1]),
        (1, agents[0]),
    ]
    assert listed(catalog) == [SENSOR, ("Job Agent", False, [("job", 0)])]
    assert list(catalog.by_name("Job Agent").supported_task_types) == ["job"]


def test_what_flytekit_alone_appends_is_cleared_up(clean_registry: None) -> None:
    for _ in range(4):
        ConnectorRegistry.register(Job(), override=True)
    assert len(ConnectorRegistry.get_connector_metadata("Job Agent").supported_task_categories) == 4
    catalog = Catalog()
    catalog.take_over()
    try:
        assert listed(catalog) == [SENSOR, ("Job Agent", False, [("job", 0)])]
    finally:
        catalog.release()


def test_a_new_name_drops_the_old_one(catalog: Catalog) -> None:
    catalog.register(Job(name="Old"))
    catalog.register(Job(name="New"))
    assert listed(catalog) == [SENSOR, ("New", False, [("job", 0)])]
    with pytest.raises(FlyteConnectorNotFound):
        ConnectorRegistry.get_connector_metadata("Old")


def test_the_kind_may_change(catalog: Catalog) -> None:
    catalog.register(Job())
    entry = catalog.register(Answer())
    assert (entry.is_sync, entry.generation) == (True, 2)
    assert listed(catalog) == [SENSOR, ("Job Agent", True, [("job", 0)])]
    assert catalog.generations("job")[1].is_sync is False


def test_two_kinds_of_one_name_are_two_messages(catalog: Catalog) -> None:
    catalog.register(Job("a", name="Both"))
    catalog.register(Answer("b", name="Both"))
    catalog.register(Job("c", name="Both"))
    assert listed(catalog) == [SENSOR, ("Both", False, [("a", 0), ("c", 0)]), ("Both", True, [("b", 0)])]
    assert catalog.by_name("Both").is_sync is False
    assert ConnectorRegistry.get_connector_metadata("Both").is_sync is False


def test_versions_are_agents_of_their_own(catalog: Catalog) -> None:
    catalog.register(Job(version=2))
    catalog.register(Job(version=1))
    assert [(e.task_type, e.version, e.generation) for e in catalog.entries()] == [
        ("job", 1, 1),
        ("job", 2, 1),
        ("sensor", 0, 1),
    ]
    assert listed(catalog) == [SENSOR, ("Job Agent", False, [("job", 2), ("job", 1)])]
    assert list(catalog.by_name("Job Agent").supported_task_types) == ["job"]
    with pytest.raises(TaskTypeNotFoundError) as caught:
        catalog.current("job")
    assert caught.value.message == "no agent here serves version 0 of the task type 'job'; versions 1, 2 are served"
    assert (caught.value.version, caught.value.suggestion) == (0, None)


def test_an_unknown_task_type_suggests_the_nearest(catalog: Catalog) -> None:
    with pytest.raises(TaskTypeNotFoundError, match="'sensr'") as caught:
        catalog.current("sensr")
    assert (caught.value.task_type, caught.value.suggestion) == ("sensr", "sensor")


def test_an_unknown_name_suggests_the_nearest(catalog: Catalog) -> None:
    with pytest.raises(AgentNotFoundError, match="'sensors'") as caught:
        catalog.by_name("sensors")
    assert (caught.value.name, caught.value.suggestion) == ("sensors", "Sensor")
    assert isinstance(caught.value, LookupError)


def test_five_generations_are_kept_and_the_count_goes_on(catalog: Catalog) -> None:
    for _ in range(7):
        catalog.register(Job())
    assert [e.generation for e in catalog.generations("job")] == [7, 6, 5, 4, 3]


def test_the_same_object_again_is_no_new_generation(catalog: Catalog) -> None:
    agent = Job()
    first = catalog.register(agent)
    assert catalog.register(agent) == first
    agent.name = "Renamed"
    assert catalog.current("job").name == "Renamed"
    assert [e.generation for e in catalog.generations("job")] == [1]
    assert listed(catalog) == [SENSOR, ("Renamed", False, [("job", 0)])]


def test_an_object_that_comes_back_stands_once(catalog: Catalog) -> None:
    first, second = Job(), Job()
    for agent in (first, second, first):
        catalog.register(agent)
    assert [(e.generation, e.agent) for e in catalog.generations("job")] == [(3, first), (2, second)]


def test_removal(catalog: Catalog) -> None:
    agents = [Job(version=v) for v in range(3)]
    for agent in agents:
        catalog.register(agent)
    assert [e.agent for e in catalog.remove("job", 1)] == [agents[1]]
    assert [e.agent for e in catalog.remove("job")] == [agents[0], agents[2]]
    assert listed(catalog) == [SENSOR]
    with pytest.raises(FlyteConnectorNotFound):
        ConnectorRegistry.get_connector("job", 1)
    with pytest.raises(TaskTypeNotFoundError):
        catalog.remove("job")
    with pytest.raises(TaskTypeNotFoundError):
        catalog.remove("sensor", 3)
    assert [e.agent for e in catalog.generations("job", 1)] == [agents[1]]  # its jobs can still be polled
    assert catalog.register(Job(version=1)).generation == 2
    assert catalog.generations("never") == ()


def test_direct_writes_into_flytekits_registry_are_seen(catalog: Catalog) -> None:
    told: list[str] = []
    catalog.subscribe(lambda: told.append("told"))
    first, second = Job("direct"), Answer("direct")
    ConnectorRegistry._REGISTRY[TaskCategory("direct")] = first
    assert catalog.current("direct").agent is first
    ConnectorRegistry._REGISTRY = {TaskCategory("direct"): second}
    assert [(e.task_type, e.is_sync, e.generation) for e in catalog.entries()] == [("direct", True, 2)]
    assert [e.agent for e in catalog.generations("direct")] == [second, first]
    assert listed(catalog) == [("Job Agent", True, [("direct", 0)])]
    del ConnectorRegistry._REGISTRY[TaskCategory("direct")]
    assert catalog.entries() == ()
    assert catalog.metadata() == []
    assert told == ["told"] * 3


class Bare(AsyncConnectorBase):
    def __init__(self) -> None: ...

    create = get = delete = lambda self: None


class Neither(ConnectorBase):
    name = "Neither"


@pytest.mark.parametrize(
    ("wrong", "message", "hint"),
    [
        (Job, "Job is a class, and an agent is an object", "register(Job())"),
        (dict, "dict is a class, and an agent is an object", "subclass AsyncAgentBase or SyncAgentBase of flytekit"),
        (object(), "an object of type object is no agent", "subclass AsyncAgentBase or SyncAgentBase of flytekit"),
        (None, "an object of type NoneType is no agent", "subclass AsyncAgentBase or SyncAgentBase of flytekit"),
        (Neither("x"), "an object of type Neither is no agent", "subclass AsyncAgentBase or SyncAgentBase of flytekit"),
        (Bare(), "the agent Bare has no task type", 'call super().__init__(task_type_name="...") in Bare.__init__'),
        (Job(""), "the agent Job has no task type", 'call super().__init__(task_type_name="...") in Job.__init__'),
        (Job("x", "1"), "the task type version of the agent Job is no whole number: '1'", ""),  # type: ignore[arg-type]
        (Job(name=""), "the agent Job has no name", 'set name = "..." in the class Job'),
    ],
)
def test_what_is_no_agent_is_refused(catalog: Catalog, wrong: Any, message: str, hint: str) -> None:
    with pytest.raises(AgentDefinitionError) as caught:
        ConnectorRegistry.register(wrong)
    assert (caught.value.message, caught.value.hint) == (message, hint)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, FlyteAgentNBError)
    assert listed(catalog) == [SENSOR]


class Annotated(ResourceMeta):
    job_id: str = ""


class Initialised(ResourceMeta):
    def __init__(self, job_id: str) -> None:
        self.job_id = job_id


class Encoded(Initialised):
    def encode(self) -> bytes:
        return self.job_id.encode()

    @classmethod
    def decode(cls, data: bytes) -> Encoded:
        return cls(data.decode())


@dataclass
class Made(ResourceMeta):
    job_id: str


class Inherited(Made):
    def describe(self) -> str:
        return self.job_id


def test_a_resource_meta_that_would_not_come_back_is_refused(catalog: Catalog) -> None:
    for wrong, told in (
        (dict, "the metadata_type of the agent Job, dict, is no class of a ResourceMeta"),
        (Made("1"), "the metadata_type of the agent Job, an object of type Made, is no class of a ResourceMeta"),
        (Annotated, "the metadata_type of the agent Job, Annotated, is no dataclass: get would not have "),
        (Initialised, "the metadata_type of the agent Job, Initialised, is no dataclass: get would not have "),
    ):
        with pytest.raises(AgentDefinitionError, match=told) as caught:
            ConnectorRegistry.register(Job(metadata_type=wrong))
        assert "@dataclass above " in caught.value.hint
    assert listed(catalog) == [SENSOR]
    for right in (ResourceMeta, Made, Inherited, Encoded):
        ConnectorRegistry.register(Job(metadata_type=right))


def test_a_connector_of_flyte_2_is_refused_by_its_name(catalog: Catalog) -> None:
    """``flyte.connectors`` is another interface; the package itself need not be here."""
    async_connector = type(
        "AsyncConnector", (), {"__module__": "flyte.connectors._connector", "task_type_name": "batch"}
    )
    batch = type("BatchConnector", (async_connector,), {})
    for wrong in (batch, batch()):
        with pytest.raises(
            AgentDefinitionError, match=r"BatchConnector is a connector of Flyte 2 \(flyte.connectors\)"
        ) as caught:
            ConnectorRegistry.register(wrong)
        assert caught.value.hint.startswith(
            "subclass AsyncAgentBase or SyncAgentBase of flytekit for FlytePropeller; Flyte 2"
        )
    assert listed(catalog) == [SENSOR]


def test_packages(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distributions that share a namespace package, a module without any, and a class of the notebook."""
    for name in ("one", "two"):
        folder = tmp_path / "shared_agents" / name
        folder.mkdir(parents=True)
        (folder / "agent.py").write_text("from flytekit.extend.backend.base_agent import SyncAgentBase\n" + AGENT)
        info = tmp_path / f"shared_agents_{name}-1.{len(name)}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: shared-agents-{name}\nVersion: 1.{len(name)}\n")
        (info / "RECORD").write_text(f"shared_agents/{name}/agent.py,,\n")
    (tmp_path / "loose_agents.py").write_text("from flytekit.extend.backend.base_agent import SyncAgentBase\n" + AGENT)
    editable = tmp_path / "edited_project-2.dist-info"
    editable.mkdir()
    (editable / "METADATA").write_text("Metadata-Version: 2.1\nName: edited-project\nVersion: 2\n")
    (editable / "RECORD").write_text("__editable__.edited_project.pth,,\n")
    (editable / "top_level.txt").write_text("edited_agents\n")
    (tmp_path / "edited_agents.py").write_text("from flytekit.extend.backend.base_agent import SyncAgentBase\n" + AGENT)
    from flyteagent_nb.serving.catalog import distribution_of

    distribution_of.cache_clear()
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        import edited_agents  # type: ignore[import-not-found]
        import loose_agents  # type: ignore[import-not-found]
        import shared_agents.one.agent  # type: ignore[import-not-found]
        import shared_agents.two.agent  # type: ignore[import-not-found]

        assert catalog.register(shared_agents.one.agent.Fake()).package == "shared-agents-one 1.3"
        assert catalog.register(shared_agents.two.agent.Fake()).package == "shared-agents-two 1.3"
        assert catalog.register(edited_agents.Fake()).package == "edited-project 2"
        assert catalog.register(loose_agents.Fake()).package == "loose_agents"
        monkeypatch.setattr(edited_agents.Fake, "__module__", "edited_agents.made_up")
        distribution_of.cache_clear()
        assert catalog.register(edited_agents.Fake()).package == "edited-project 2"
        assert catalog.register(loose_agents.Fake()).package == "loose_agents"
        assert catalog.register(loose_agents.Fake(), package="mine 2").package == "mine 2"
        assert catalog.current("fake").package == "mine 2"
        monkeypatch.setattr(loose_agents.Fake, "__module__", "__main__")
        entry = catalog.register(loose_agents.Fake())
        assert (entry.package, entry.in_notebook, entry.source) == ("this notebook", True, "__main__:Fake")
    finally:
        distribution_of.cache_clear()
        for name in [n for n in sys.modules if n.partition(".")[0] in ("shared_agents", "loose_agents")]:
            del sys.modules[name]


AGENT = """
class Fake(SyncAgentBase):
    name = "Fake"
    def __init__(self): super().__init__(task_type_name="fake")
    def do(self, **kwargs): ...
"""


def test_subscribers_hear_of_each_change_once(catalog: Catalog, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[tuple[str, ...]] = []

    def fail() -> None:
        raise RuntimeError("a subscriber's own")

    catalog.subscribe(fail)
    catalog.subscribe(lambda: heard.append(tuple(e.task_type for e in catalog.entries())))
    catalog.take_over()
    catalog.entries()
    assert heard == []
    agent = Job()
    catalog.register(agent)
    catalog.register(agent)
    catalog.remove("job")
    catalog.record_broken(BrokenPlugin("x", "x.y", "x 1", "ImportError: z"))
    assert heard == [("job", "sensor"), ("sensor",), ("sensor",)]
    assert "a subscriber's own" in caplog.text


def test_broken_plugins_stand_once(catalog: Catalog) -> None:
    plugins = [BrokenPlugin("a", "m", "a 1", "ImportError: 1"), BrokenPlugin("b", "n", "b 1", "RuntimeError: 2")]
    for plugin in (*plugins, BrokenPlugin("a", "m", "a 1", "ImportError: 3")):
        catalog.record_broken(plugin)
    assert [(p.name, p.reason) for p in catalog.broken] == [("a", "ImportError: 3"), ("b", "RuntimeError: 2")]


def test_release_gives_flytekit_its_own_back(clean_registry: None) -> None:
    own = ConnectorRegistry.__dict__["register"]
    catalog = Catalog()
    catalog.take_over()
    catalog.take_over()
    kept = ConnectorRegistry.register
    ConnectorRegistry.register(Job())
    catalog.release()
    catalog.release()
    assert ConnectorRegistry.__dict__["register"] is own
    with pytest.raises(ValueError, match="Duplicate connector"):
        ConnectorRegistry.register(Job())
    with pytest.raises(ValueError, match="Duplicate connector"):
        kept(Job())
    ConnectorRegistry.register(Job(version=1))
    assert len(ConnectorRegistry.get_connector_metadata("Job Agent").supported_task_categories) == 2
    catalog.take_over()
    assert catalog.current("job", 1).generation == 1
    catalog.release()
    ConnectorRegistry.register(catalog.current("job", 1).agent, override=True)
    assert len(ConnectorRegistry.get_connector_metadata("Job Agent").supported_task_categories) == 3
    catalog.take_over()
    assert listed(catalog) == [SENSOR, ("Job Agent", False, [("job", 0), ("job", 1)])]
    catalog.release()


def test_release_leaves_what_somebody_put_over_ours(clean_registry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = Catalog()
    catalog.take_over()
    ours = ConnectorRegistry.register

    def theirs(connector: Any, override: bool = False) -> None:
        ours(connector, override)

    plain = catalog._plain_register
    ConnectorRegistry.register = staticmethod(theirs)
    try:
        catalog.release()
        ConnectorRegistry.register(Job())
        with pytest.raises(ValueError, match="Duplicate connector"):
            ConnectorRegistry.register(Job())
        catalog.take_over()
        ConnectorRegistry.register(Job())
        assert catalog.current("job").generation == 2
        catalog.release()
        assert ConnectorRegistry.register is theirs
    finally:
        ConnectorRegistry.register = plain


def test_registering_on_many_threads(catalog: Catalog) -> None:
    threads_count, each = 8, 25
    start = threading.Barrier(threads_count + 1)
    wrong: list[BaseException] = []
    done = threading.Event()

    def write(number: int) -> None:
        start.wait()
        for _ in range(each):
            ConnectorRegistry.register(Job("shared"))
            ConnectorRegistry.register(Job(f"own{number}", name=f"Agent {number}"))

    def read() -> None:
        start.wait()
        try:
            while not done.is_set():
                for agent in ConnectorRegistry.list_connectors():
                    categories = [(c.name, c.version) for c in agent.supported_task_categories]
                    assert len(set(categories)) == len(categories)
                assert catalog.current("sensor").generation == 1
        except BaseException as error:
            wrong.append(error)

    writers = [threading.Thread(target=write, args=(n,)) for n in range(threads_count)]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert wrong == []
    assert catalog.current("shared").generation == threads_count * each
    assert {catalog.current(f"own{n}").generation for n in range(threads_count)} == {each}
    assert len(listed(catalog)) == threads_count + 2


def test_before_the_take_over_there_is_nothing_and_no_flytekit() -> None:
    code = """
import sys
from flyteagent_nb.serving.catalog import Catalog, BrokenPlugin
from flyteagent_nb.errors import TaskTypeNotFoundError, AgentNotFoundError
c = Catalog()
c.record_broken(BrokenPlugin("x", "x", "x 1", "ImportError: y"))
c.release()
assert c.entries() == () and c.generations("x") == () and len(c.broken) == 1
for call in (c.current, c.remove):
    try: call("x")
    except TaskTypeNotFoundError: pass
    else: raise AssertionError(call)
assert "flytekit" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)
