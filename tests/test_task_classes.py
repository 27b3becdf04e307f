"""Which loaded class makes a task type, and what its constructor takes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple, Type  # noqa: UP035 - as plug-ins write them

import pytest
from flytekit.core.base_sql_task import SQLTask
from flytekit.core.base_task import PythonTask
from flytekit.core.interface import Interface
from flytekit.core.python_function_task import PythonFunctionTask
from flytekit.extend.backend.base_connector import AsyncConnectorExecutorMixin
from flytekit.sensor.file_sensor import FileSensor
from flytekit.types.structured import StructuredDataset  # noqa: TC002 - resolved at run time

from flyteagent_nb.notebook.task_classes import (
    config_fields,
    describe,
    import_plugin_of,
    prompt_input,
    task_classes,
    task_types,
)

if TYPE_CHECKING:
    from pathlib import Path

TASK_TYPE = "classes_module"


@dataclass
class Config:
    host: str
    port: int = 1


class ModuleConstant(PythonTask):  # type: ignore[misc]
    def __init__(self, name: str, url: str, dynamic_inputs: Optional[Dict[str, Type]] = None) -> None:  # noqa: UP006, UP045
        super().__init__(name=name, task_type=TASK_TYPE, interface=Interface(dynamic_inputs or {}))


class Literally(PythonTask):  # type: ignore[misc]
    def __init__(self, name: str, config: Dict[str, Any], region: Optional[str] = None, **kwargs: Any) -> None:  # noqa: UP006, UP045
        super().__init__("classes_literal", name, interface=Interface(), **kwargs)


class Chosen(AsyncConnectorExecutorMixin, PythonFunctionTask):  # type: ignore[misc]
    def __init__(self, task_config: Config, task_function: Callable[..., Any], **kwargs: Any) -> None:
        if task_config.port:
            kind = "classes_chosen_a"
        else:
            kind = "classes_chosen_b"
        super().__init__(task_config=task_config, task_type=kind, task_function=task_function, **kwargs)


class Default(PythonTask):  # type: ignore[misc]
    def __init__(self, name: str, task_type: str = "classes_default", **kwargs: Any) -> None:
        PythonTask.__init__(self, task_type, name, **kwargs)


class Shell(AsyncConnectorExecutorMixin, PythonTask[Config]):  # type: ignore[misc]
    _TASK_TYPE = "classes_job"

    def __init__(
        self,
        name: str,
        task_config: Config,
        script: str,
        inputs: Optional[Dict[str, Type]] = None,  # noqa: UP006, UP045
        **kwargs: Any,
    ) -> None:
        super().__init__(self._TASK_TYPE, name, task_config, Interface(inputs), **kwargs)


class ByPath(AsyncConnectorExecutorMixin, PythonTask[Config]):  # type: ignore[misc]
    _TASK_TYPE = "classes_job"

    def __init__(self, name: str, task_config: Config, path: str, **kwargs: Any) -> None:
        super().__init__(self._TASK_TYPE, name, task_config, Interface(), **kwargs)


class Query(SQLTask[Config]):  # type: ignore[misc]
    TASK_TYPE_NAME = "classes_query"

    def __init__(
        self,
        name: str,
        query_template: str,
        task_config: Optional[Config] = None,  # noqa: UP045
        inputs: Optional[Dict[str, Tuple[Type, Any]]] = None,  # noqa: UP006, UP045
        output_schema_type: Optional[Type[StructuredDataset]] = None,  # noqa: UP006, UP045
        tags: Optional[List[str]] = None,  # noqa: UP006, UP045
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, query_template=query_template, task_type=self.TASK_TYPE_NAME, **kwargs)


class Wider(Query):
    """Inherits the type and what its base takes."""

    def __init__(self, *args: Any, extra: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, tags=["wide"], **kwargs)


class Bare(SQLTask[Config]):  # type: ignore[misc]
    _TASK_TYPE = "classes_bare"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(task_type="classes_bare", **kwargs)


class Open(PythonTask):  # type: ignore[misc]
    _TASK_TYPE = "classes_open"

    def __init__(
        self, name: str, headers: dict[str, str], data: dict[str, Any] | None = None, outputs: Any = None
    ) -> None:
        super().__init__(self._TASK_TYPE, name)


@pytest.mark.parametrize(
    ("task_type", "classes"),
    [
        ("classes_module", [ModuleConstant]),
        ("classes_literal", [Literally]),
        ("classes_chosen_a", [Chosen]),
        ("classes_chosen_b", [Chosen]),
        ("classes_default", [Default]),
        ("classes_job", [ByPath, Shell]),
        ("classes_query", [Query]),
        ("classes_bare", [Bare]),
        ("sensor", [FileSensor]),
        ("nobody", []),
        ("python-task", []),
    ],
)
def test_a_class_is_found_by_what_it_says_of_its_type(task_type: str, classes: list[type]) -> None:
    found = [kind.cls for kind in task_classes(task_type)]
    elsewhere = ("scripted_tasks", "__main__")  # those of other tests are there until they are collected
    assert [cls for cls in found if cls.__module__ not in elsewhere] == classes


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (ModuleConstant, {"inputs": "dynamic_inputs", "settings": ["url"], "language": "", "config": ""}),
        (Literally, {"settings": ["config", "region"], "open_mapping": "config", "config": "", "inputs": ""}),
        (Chosen, {"language": "python", "needs_body": True}),
        (Shell, {"language": "shell", "body": "script", "settings": ["host", "port"], "inputs": "inputs", "needs_body": True}),
        (ByPath, {"language": "", "body": "", "settings": ["host", "port", "path"], "needs_body": False}),
        (Query, {"language": "sql", "body": "query_template", "output_type": "output_schema_type", "inputs": "inputs",
                 "config": "task_config", "config_class": Config, "settings": ["host", "port", "tags"]}),
        (Wider, {"language": "sql", "output_type": "output_schema_type", "settings": ["host", "port", "extra"]}),
        (Bare, {"language": "sql", "inputs": "inputs", "outputs": "outputs", "config_class": Config, "names_task": True,
                "settings": ["host", "port"]}),
        (Open, {"settings": ["headers", "data"], "open_mapping": "headers", "outputs": "outputs"}),
    ],
)  # fmt: skip
def test_what_a_constructor_takes(cls: type, expected: dict[str, Any]) -> None:
    kind = describe(cls)
    found = {name: getattr(kind, name) for name in expected}
    if "settings" in found:
        found["settings"] = list(found["settings"])
    assert found == expected


def test_a_class_that_only_inherits_the_type_comes_where_no_other_does() -> None:
    assert Wider not in [kind.cls for kind in task_classes("classes_query")]


def test_a_class_that_is_defined_again_takes_the_place_of_the_old_one() -> None:
    def define() -> type:
        class Again(SQLTask):  # type: ignore[misc]
            _TASK_TYPE = "classes_again"

        return Again

    first, second = define(), define()
    assert [kind.cls for kind in task_classes("classes_again")] == [second] and first is not second


def test_a_class_without_source_is_found_by_its_constant() -> None:
    namespace: dict[str, Any] = {"PythonTask": PythonTask}
    exec("class Made(PythonTask):\n _TASK_TYPE='classes_made'\n def __init__(self, name, **kwargs): pass", namespace)
    assert [kind.cls for kind in task_classes("classes_made")] == [namespace["Made"]]


def test_the_settings_of_all_classes_of_a_type_are_offered() -> None:
    assert config_fields("classes_job") == ["host", "port", "path"]
    assert config_fields("classes_chosen_a") == ["host", "port"]
    assert config_fields("nobody") == []


def test_the_types_of_a_language() -> None:
    assert {"classes_query", "classes_bare"} <= set(task_types("sql"))
    assert "classes_job" in task_types("shell") and "classes_query" not in task_types("shell")


@pytest.mark.parametrize(
    ("inputs", "given", "any_text", "found"),
    [
        ({"message": str}, (), False, "message"),
        ({"user_prompt": str, "system": str}, (), False, "user_prompt"),
        ({"input": str}, (), False, "input"),
        ({"input_file_id": str}, (), False, None),
        ({"input_file_id": str}, (), True, "input_file_id"),
        ({"path": str}, (), False, None),
        ({"message": int}, (), True, None),
        ({"message": str, "question": str}, (), False, None),
        ({"message": str, "question": str}, ("message",), False, "question"),
        ({"context": str}, (), False, None),
        ({}, (), True, None),
    ],
)
def test_which_input_is_a_prompt(
    inputs: dict[str, Any], given: tuple[str, ...], any_text: bool, found: str | None
) -> None:
    assert prompt_input(inputs, given, any_text=any_text) == found


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed plug-in that nobody imported, beside those that are there."""
    import flytekitplugins

    monkeypatch.setattr(flytekitplugins, "__path__", [*flytekitplugins.__path__, str(tmp_path)])
    monkeypatch.setattr(flytekitplugins.__spec__, "submodule_search_locations", flytekitplugins.__path__)
    folder = tmp_path / "cellstest"
    folder.mkdir()
    yield folder  # type: ignore[misc]
    sys.modules.pop("flytekitplugins.cellstest", None)


def test_a_plugin_without_an_entry_point_is_imported_when_its_type_is_asked_for(plugin: Path) -> None:
    (plugin / "__init__.py").write_text("from .task import Late\n")
    (plugin / "task.py").write_text(
        "from flytekit.core.base_sql_task import SQLTask\nclass Late(SQLTask):\n    _TASK_TYPE = 'classes_late'\n"
    )
    assert not import_plugin_of("classes_lat") and task_classes("classes_late") == []
    assert import_plugin_of("classes_late")
    assert [kind.language for kind in task_classes("classes_late")] == ["sql"]
    assert not import_plugin_of("classes_late")
    sys.modules.pop("flytekitplugins.cellstest.task")


def test_a_plugin_that_does_not_load_is_left(plugin: Path, caplog: pytest.LogCaptureFixture) -> None:
    (plugin / "__init__.py").write_text("task_type: str = 'classes_sad'\nimport no_such_package")
    with caplog.at_level("INFO", "flyteagent_nb.notebook.task_classes"):
        assert not import_plugin_of("classes_sad")
    assert "no_such_package" in caplog.text
