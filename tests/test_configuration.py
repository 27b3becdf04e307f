"""Settings as they are written -> values of the types that a class declares."""

from __future__ import annotations

import datetime
import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Literal, Mapping, Optional, TypedDict, Union  # noqa: UP035 - as plug-ins write them

import pydantic
import pytest

from flyteagent_nb.errors import ArgumentError
from flyteagent_nb.notebook import configuration
from flyteagent_nb.notebook.configuration import fit, made, names_of, nested


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@dataclass
class Limits:
    cpu: str = "1"
    mem: Optional[str] = None  # noqa: UP045


class Model(pydantic.BaseModel):
    name: str
    heat: float = 1.0


class Shape(TypedDict):
    rows: int
    names: List[str]  # noqa: UP006


class Options:
    """A class that takes anything and sets properties, as BigQuery's QueryJobConfig does."""

    def __init__(self, **given: Any) -> None:
        for name, value in given.items():
            setattr(self, name, value)

    @property
    def budget(self) -> int:
        return self._budget

    @budget.setter
    def budget(self, value: int) -> None:
        self._budget = value

    @property
    def told(self) -> str:
        return "read only"


@dataclass
class Config:
    database: str
    size: Size = Size.SMALL
    mode: Literal["fast", "slow"] = "fast"
    limits: Optional[Limits] = None  # noqa: UP045
    model: Optional[Model] = None  # noqa: UP045
    shape: Optional[Shape] = None  # noqa: UP045
    options: Optional[Options] = None  # noqa: UP045
    ssh: Dict[str, Any] = field(default_factory=dict)  # noqa: UP006
    spark: Optional[Dict[str, str]] = None  # noqa: UP006, UP045
    tags: Optional[List[str]] = None  # noqa: UP006, UP045
    wait: Union[int, datetime.timedelta] = 10  # noqa: UP007
    every: Optional[datetime.timedelta] = None  # noqa: UP045
    deep: Optional[bool] = None  # noqa: UP045
    path: Path = Path()
    anything: Any = None
    own: Optional[threading_lock] = None  # type: ignore[name-defined]  # noqa: F821, UP045 - nobody can resolve it


CONFIG = configuration.fields_of(Config)
assert CONFIG is not None


def config(*pairs: tuple[str, Any]) -> Config:
    return made(Config, nested([("database", "d"), *pairs], CONFIG))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("pairs", "name", "expected"),
    [
        ([("database", 7)], "database", "7"),
        ([("size", "l")], "size", Size.LARGE),
        ([("size", "LARGE")], "size", Size.LARGE),
        ([("size", Size.LARGE)], "size", Size.LARGE),
        ([("mode", "slow")], "mode", "slow"),
        ([("limits.cpu", 2)], "limits", Limits("2")),
        ([("limits", {"cpu": "2"}), ("limits.mem", "1Gi")], "limits", Limits("2", "1Gi")),
        ([("limits.mem", "1Gi"), ("limits", {"cpu": "2"})], "limits", Limits("2")),
        ([("limits", None)], "limits", None),
        ([("limits", "null")], "limits", None),
        ([("limits", Limits("9"))], "limits", Limits("9")),
        ([("model.name", "m"), ("model.heat", 0)], "model", Model(name="m", heat=0.0)),
        ([("shape", {"rows": 2, "names": ["a", 1]})], "shape", {"rows": 2, "names": ["a", "1"]}),
        ([("ssh.host", "h"), ("ssh.port", 22)], "ssh", {"host": "h", "port": 22}),
        ([("ssh.jump.host", "j"), ("ssh.host", "h")], "ssh", {"jump": {"host": "j"}, "host": "h"}),
        ([("spark.spark.executor.memory", "2g"), ("spark.n", 2)], "spark", {"spark.executor.memory": "2g", "n": "2"}),
        ([("tags", ["a", 1])], "tags", ["a", "1"]),
        ([("wait", 3)], "wait", 3),
        ([("wait", "1m30s")], "wait", datetime.timedelta(seconds=90)),
        ([("every", 5)], "every", datetime.timedelta(seconds=5)),
        ([("deep", "true")], "deep", True),
        ([("deep", "False")], "deep", False),
        ([("path", "/tmp/x")], "path", Path("/tmp/x")),
        ([("anything", {"a": [1]})], "anything", {"a": [1]}),
    ],
)
def test_a_value_becomes_what_the_field_declares(pairs: list[tuple[str, Any]], name: str, expected: Any) -> None:
    value = getattr(config(*pairs), name)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ([("databse", "x")], "Config has no field 'databse'\nhint: did you mean database?"),
        ([("sise.x", "x")], "did you mean size?"),
        ([("zzz", 1)], "its fields are: database, size, mode"),
        ([("size", "xl")], "-c size takes a s or l, not str 'xl'"),
        ([("mode", "medium")], "-c mode takes a fast or slow, not str 'medium'"),
        ([("limits.cpus", 2)], "Limits has no field 'cpus'\nhint: did you mean cpu?"),
        ([("limits", "2")], "write -c limits.cpu=... -c limits.mem=...; its fields are: cpu, mem"),
        ([("model.heat", 1)], "Model needs model.name\nhint: write -c model.name=..."),
        ([("model.name", "m"), ("model.heat", "warm")], "-c model.heat takes a float, not str 'warm'"),
        ([("shape", {"row": 2})], "Shape has no field 'row'\nhint: did you mean rows?"),
        ([("options.budgt", 1)], "Options has no field 'budgt'\nhint: did you mean budget?"),
        ([("ssh", "host")], "write -c ssh.KEY=VALUE"),
        ([("tags", "a")], "write -c tags=['a','b']"),
        ([("tags", [["a"]])], "-c tags takes a str, not list ['a']"),
        ([("every", "soon")], "soon is not a length of time"),
        ([("deep", "maybe")], "-c deep takes a bool, not str 'maybe'"),
        ([("deep", 1)], "-c deep takes a bool, not int 1"),
    ],
)
def test_what_does_not_fit_is_told(pairs: list[tuple[str, Any]], told: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        config(*pairs)
    assert told in str(caught.value)


def test_a_class_that_takes_anything_is_told_by_its_properties() -> None:
    assert list(configuration.loose_fields_of(Options)) == ["budget"]
    assert config(("options.budget", 3)).options.budget == 3  # type: ignore[union-attr]
    finished = Options(budget=1)
    assert config(("options", finished)).options is finished


def test_what_the_class_itself_refuses_is_told_in_its_words() -> None:
    @dataclass
    class Strict:
        host: str

        def __post_init__(self) -> None:
            raise ValueError("the host must be a mountain")

    with pytest.raises(ArgumentError, match=r"Strict does not take these settings: the host must be a mountain"):
        made(Strict, {"host": "x"})


def test_a_value_of_the_users_is_not_changed() -> None:
    given = {"host": "h"}
    assert nested([("ssh", given), ("ssh.port", 22)], CONFIG)["ssh"] == {"host": "h", "port": 22}
    assert given == {"host": "h"}


def test_the_names_with_those_one_level_down() -> None:
    names = names_of(CONFIG)
    assert names[:3] == ["database", "size", "mode"]
    assert {"limits", "limits.cpu", "limits.mem", "model.heat", "shape.rows", "options.budget"} <= set(names)
    assert not any(name.startswith(("size.", "tags.", "wait.", "path.", "ssh.")) for name in names)


@pytest.mark.parametrize(
    ("annotation", "mapping"),
    [
        (dict, True),
        (Dict[str, Any], True),  # noqa: UP006
        (Optional[Mapping[str, int]], True),  # noqa: UP045
        (str, False),
        (List[str], False),  # noqa: UP006
        (Shape, False),
        (Any, False),
        (None, False),
    ],
)
def test_a_mapping_is_known(annotation: Any, mapping: bool) -> None:
    assert configuration.is_mapping(annotation) is mapping


def test_one_annotation_that_cannot_be_resolved_costs_the_others_nothing() -> None:
    def function(a: int, b: nobody, c: dict[str, int]) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Nothing."""

    assert configuration.annotations_of(function) == {"a": int, "b": Any, "c": dict[str, int], "return": type(None)}


def test_a_type_that_nothing_is_known_of_takes_the_value_as_it_is() -> None:
    class Own:
        pass

    assert fit("x", Own, "k") == "x"
    assert fit({"a": 1}, Own, "k") == {"a": 1}
