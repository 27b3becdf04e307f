"""The task classes of flytekit and its plug-ins that are loaded: which of them make a task type, and what they take.

A class tells its task type by a constant (``_TASK_TYPE``, ``TASK_TYPE``, ``_SPARK_TASK_TYPE``), or in its constructor, whose
source is then read: ``super().__init__(task_type="webhook", ...)``. Nothing is constructed to find out.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import logging
import re
import sys
import textwrap
import typing
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyteagent_nb.notebook.configuration import alternatives, annotations_of, fields_of, is_mapping, names_of
from flyteagent_nb.notebook.field_types import NOTHING, Member
from flyteagent_nb.notebook.function_classes import by_config

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger(__name__)

_TYPE_CONSTANT = re.compile(r"(^|_)TASK_TYPE(_NAME)?$")
_CORE = "flytekit.core."
_SQL = ("query_template", "sql", "sql_query", "query", "statement")
_SHELL = ("script", "shell_script", "bash_script", "batch_script")
_PROMPT = ("prompt", "message", "question", "instruction", "instructions")
_PROMPT_INPUT = re.compile(r"(^|_)(prompt|message|question|instructions?|text|query|content)$|^input$")
_INPUTS = ("inputs", "dynamic_inputs", "input_types")
_OUTPUTS = ("outputs", "output_types")
_OUTPUT_TYPE = re.compile(r"(^|_)(output|result)s?_(.*_)?type$")
_OURS = frozenset({"self", "name", "interface", "metadata", "task_type", "task_function", "task_type_version"})
"""Parameters that are no settings of a person's."""

_FROM_BASES = frozenset({"name", "query_template", "task_config", "inputs", "outputs"})
"""What a constructor with ``**kwargs`` passes on to flytekit's own base classes that a cell can tell."""


@dataclass(frozen=True)
class TaskClass:
    """A task class, and what its constructor takes from a cell.

    Attributes:
        cls: the class.
        language: what the body of a cell is for it: ``sql``, ``shell``, ``prompt``, ``python`` (it takes a function), or empty.
        body: the setting that takes the body, or empty.
        config: the parameter that takes an object of its config class, or empty.
        config_class: that class, or None.
        members: the parameters of its constructor, by name.
        own: those that are settings, without ``config``.
        inputs: the parameter that takes the types of the inputs, or empty: then the class knows its inputs.
        outputs: the parameter that takes the types of the outputs by name, or empty.
        output_type: the parameter that takes the type of the one output, or empty.
        names_task: whether its constructor takes a name.
    """

    cls: Any
    language: str
    body: str
    config: str
    config_class: Any
    members: dict[str, Member] = field(repr=False)
    own: dict[str, Member] = field(repr=False)
    inputs: str
    outputs: str
    output_type: str
    names_task: bool

    @property
    def settings(self) -> dict[str, Member]:
        """What ``-c`` sets beside a body: the fields of the config class, then ``own``."""
        return {name: member for name, member in self.all_settings.items() if name != self.body}

    @property
    def needs_body(self) -> bool:
        """Whether there is no task without a body."""
        return self.language == "python" or (bool(self.body) and self.all_settings[self.body].default is NOTHING)

    @property
    def fixes_outputs(self) -> bool:
        """Whether the class knows its outputs, and takes no word on them."""
        return not (self.outputs or self.output_type)

    @property
    def all_settings(self) -> dict[str, Member]:
        """The settings with the one that the body of a cell would be."""
        fields = fields_of(self.config_class) if self.config_class is not None else None
        return {**{n: m for n, m in (fields or {}).items() if n not in self.own}, **self.own}

    @property
    def open_mapping(self) -> str:
        """The setting that takes keys of its own from ``-c``, as ``chatgpt_config`` does; empty where none or several would."""
        mappings = [key for key, member in self.own.items() if is_mapping(member.python_type)]
        needed = [key for key in mappings if self.own[key].default is NOTHING]
        found = needed if len(mappings) > 1 else mappings
        return found[0] if len(found) == 1 and self.config_class is None else ""


def task_classes(task_type: str) -> list[TaskClass]:
    """The classes that make tasks of a type, the newest first; those that only inherit the type come where no other does."""
    own, inherited = [], []
    for cls in _classes():
        if task_type in _types_in(cls):
            own.append(cls)
        elif task_type in _types_of(cls):
            inherited.append(cls)
    # A class of the notebook that is defined again has the same name, and comes later.
    newest = {(cls.__module__, cls.__qualname__): cls for cls in own or inherited}
    return [kind for cls in reversed(newest.values()) for kind in by_config(describe(cls), task_type)]


def task_types(language: str) -> list[str]:
    """The task types for which a cell is written in a language: ``sql``, ``shell``."""
    found = {t for cls in _classes() if describe(cls).language == language for t in _types_of(cls)}
    return sorted(found)


def config_fields(task_type: str) -> list[str]:
    """What ``-c`` sets for a task type, for completion; a field of a field has a dot."""
    names = (name for kind in task_classes(task_type) for name in names_of(kind.settings))
    return list(dict.fromkeys(names))


def prompt_input(
    inputs: typing.Mapping[str, Any], given: typing.Container[str], *, any_text: bool = False
) -> str | None:
    """The input of a task that is a text to a model: a str that is called so, and that is not given otherwise.

    Args:
        inputs: the types of the task's inputs by name.
        given: the inputs that are given.
        any_text: take the only str, whatever it is called.
    """
    texts = [name for name, kind in inputs.items() if kind is str and name not in given]
    found = [name for name in texts if _PROMPT_INPUT.search(name)]
    if not found and any_text:
        found = texts
    return found[0] if len(found) == 1 else None


def import_plugin_of(task_type: str) -> bool:
    """Import an installed plug-in of flytekit that names the task type and is not loaded, as it has no entry point.

    Returns:
        Whether something was imported. One that cannot be is logged, and left.
    """
    spec = importlib.util.find_spec("flytekitplugins")
    named = re.compile(rf"""task_type\w*\s*(:[^=\n]*)?=\s*["']{re.escape(task_type)}["']""", re.IGNORECASE)
    done = False
    for folder in (
        (f for place in (spec.submodule_search_locations or ()) for f in Path(place).glob("*")) if spec else ()
    ):
        module = f"flytekitplugins.{folder.name}"
        if module in sys.modules or not (folder / "__init__.py").is_file():
            continue
        if any(named.search(path.read_text("utf-8", "replace")) for path in folder.rglob("*.py")):
            try:
                importlib.import_module(module)
                done = True
            except Exception as error:  # a plug-in whose own packages are missing may raise anything
                _log.info("%s names the task type %r and does not load: %s", module, task_type, error)
    return done


# --- which classes there are, and of which types ---


def _classes() -> list[Any]:
    from flytekit.core.base_task import PythonTask

    found: dict[Any, None] = {}
    open_classes: list[Any] = [PythonTask]
    while open_classes:
        for cls in open_classes.pop(0).__subclasses__():
            if cls not in found:
                found[cls] = None
                open_classes.append(cls)
    return [cls for cls in found if not _is_base(cls)]


def _is_base(cls: Any) -> bool:
    """Whether nobody makes tasks of the class itself: flytekit's own bases, and classes that leave a method open."""
    if cls.__module__.startswith(_CORE):
        return not any(_TYPE_CONSTANT.search(name) for name in vars(cls))
    return any(  # flytekit's own bases leave methods open that an agent's task never needs
        getattr(value, "__isabstractmethod__", False) and getattr(cls, name, None) is value
        for base in cls.__mro__
        if not base.__module__.startswith(_CORE)
        for name, value in vars(base).items()
    )


def _types_of(cls: Any) -> frozenset[str]:
    """The task types of a class: its own, else those of the nearest class that it is made from."""
    return next((types for base in cls.__mro__ if (types := _types_in(base))), frozenset())


_found: weakref.WeakKeyDictionary[Any, frozenset[str]] = weakref.WeakKeyDictionary()


def _types_in(cls: Any) -> frozenset[str]:
    """The task types that a class names in its own body."""
    if cls not in _found:
        constants = {v for name, v in vars(cls).items() if _TYPE_CONSTANT.search(name) and isinstance(v, str)}
        function = vars(cls).get("__init__")
        if inspect.isfunction(function) and not cls.__module__.startswith(_CORE):
            source = _Constructor(cls, function)
            constants |= source.texts(source.passed.get("task_type"))
        _found[cls] = frozenset(constants)
    return _found[cls]


class _Constructor:
    """The source of a class's own constructor: what it passes on to its base.

    Attributes:
        passed: the expression of each keyword that it passes by itself; those without a name by the base's parameter.
        passes_on: whether it passes on its own ``**kwargs``; what it does not say it is taken to do.
    """

    def __init__(self, cls: Any, function: Any) -> None:
        self._cls = cls
        self._function = function
        self.passed: dict[str, ast.expr] = {}
        self.passes_on = True
        self._tree: ast.AST = ast.Module([], [])
        try:
            self._tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError, SyntaxError):  # no source: made by exec, or by a decorator
            return
        for call in ast.walk(self._tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "__init__":
                base = _base_of(cls)
                names = [n for n in inspect.signature(base.__init__).parameters if n != "self"] if base else []
                plain = [a for a in call.args if not isinstance(a, ast.Starred)]
                if plain and isinstance(plain[0], ast.Name) and plain[0].id == "self":  # Base.__init__(self, ...)
                    plain = plain[1:]
                self.passed.update(zip(names, plain, strict=False))
                self.passed.update({k.arg: k.value for k in call.keywords if k.arg is not None})
                self.passes_on = any(k.arg is None for k in call.keywords)
                break

    def texts(self, node: ast.expr | None) -> set[str]:
        """The texts that an expression of the constructor may be, as far as its source tells."""
        value: Any = None
        if isinstance(node, ast.Constant):
            value = node.value
        elif isinstance(node, ast.IfExp):
            return self.texts(node.body) | self.texts(node.orelse)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            scope = self._cls if node.value.id in ("self", "cls") else self._function.__globals__.get(node.value.id)
            value = getattr(scope, node.attr, None)
        elif isinstance(node, ast.Name):
            assigned = [
                a.value
                for a in ast.walk(self._tree)
                if isinstance(a, ast.Assign) and any(isinstance(t, ast.Name) and t.id == node.id for t in a.targets)
            ]
            if assigned:
                return {text for a in assigned if not isinstance(a, ast.Name) for text in self.texts(a)}
            parameter = inspect.signature(self._function).parameters.get(node.id)
            value = parameter.default if parameter is not None else self._function.__globals__.get(node.id)
        return {value} if isinstance(value, str) else set()


def _base_of(cls: Any) -> Any | None:
    """The next class behind ``cls`` that has a constructor of its own and is a task, not a mixin."""
    return next((b for b in cls.__mro__[1:] if "__init__" in vars(b) and hasattr(b, "python_interface")), None)


# --- what a class takes ---


def describe(cls: Any) -> TaskClass:
    """What the constructor of a task class takes from a cell."""
    members = dict(_members(cls))
    config, config_class = _config_of(cls, members)
    fields = (fields_of(config_class) or {}) if config_class is not None else {}
    typed = [n for n in members if _holds_types(members[n].python_type)]
    mappings = [n for n in typed if is_mapping(members[n].python_type)]
    outputs = next((n for n in (*members, *mappings) if n in _OUTPUTS or (n in mappings and "output" in n)), "")
    inputs = next((n for n in (*members, *mappings) if n in _INPUTS or (n in mappings and n != outputs)), "")
    output_type = next((n for n in members if _OUTPUT_TYPE.search(n) or (n in typed and n not in mappings)), "")
    taken = {*_OURS, config, inputs, outputs, output_type}
    own = {n: m for n, m in members.items() if n not in taken and n not in typed}
    if not is_mapping(getattr(own.get("task_config"), "python_type", None)):
        own.pop("task_config", None)  # flytekit's own, and no class to make one of
    language, body = _body_of(cls, {**own, **fields})
    if "task_function" in members:
        language, body = "python", ""
    return TaskClass(
        cls, language, body, config, config_class, members, own, inputs, outputs, output_type, "name" in members
    )


def _members(cls: Any) -> Iterator[tuple[str, Member]]:
    """The parameters of a constructor, with those of its base that ``**kwargs`` reaches."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    function = vars(owner)["__init__"]
    signature, hints = inspect.signature(function), annotations_of(function)
    for p in signature.parameters.values():
        if p.name != "self" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
            yield (
                p.name,
                Member(p.name, p.name, hints.get(p.name, Any), NOTHING if p.default is p.empty else p.default, ""),
            )
    if not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return
    source, base = _Constructor(owner, function), _base_of(owner)
    if source.passes_on and base is not None:
        core = base.__module__.startswith(_CORE)
        for name, member in _members(base):
            if name not in signature.parameters and name not in source.passed and (name in _FROM_BASES or not core):
                yield name, member


def _config_of(cls: Any, members: dict[str, Member]) -> tuple[str, Any]:
    """The parameter that takes the config object, and the object's class."""
    order = sorted(members, key=lambda n: (n != "task_config", n != "config", not n.endswith("_config")))
    for name in order:
        found = [one for one in alternatives(members[name].python_type) if isinstance(one, type) and fields_of(one)]
        if found and (name == "task_config" or name.endswith("config")):
            return name, found[0]
    if "task_config" in members:  # SQLTask[StoreConfig], with the parameter left to flytekit's own
        for base in cls.__mro__:
            for generic in vars(base).get("__orig_bases__", ()):
                for argument in typing.get_args(generic):
                    if isinstance(argument, type) and fields_of(argument):
                        return "task_config", argument
    return "", None


def _holds_types(annotation: Any) -> bool:
    """``Type[X]``, ``Dict[str, Type]``, ``Dict[str, Tuple[Type, Any]]``: what a cell tells by -i and --returns."""
    for one in alternatives(annotation):
        parts = [one, *typing.get_args(one), *(a for part in typing.get_args(one) for a in typing.get_args(part))]
        if any(part is type or typing.get_origin(part) is type for part in parts):
            return True
    return False


def _body_of(cls: Any, members: dict[str, Member]) -> tuple[str, str]:
    from flytekit.core.base_sql_task import SQLTask

    for language, names in (("sql", _SQL), ("shell", _SHELL), ("prompt", _PROMPT)):
        for name in names:
            if name in members and any(t in (str, Any) for t in alternatives(members[name].python_type)):
                return language, name
    return ("sql" if issubclass(cls, SQLTask) else ""), ""
