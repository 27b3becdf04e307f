"""The inputs of a task -> the fields of a form, and what was typed into them -> values for the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import ArgumentError
from flyteagent_nb.notebook.field_texts import EMPTY, read, text_of
from flyteagent_nb.notebook.field_types import (
    JSON,
    NOTHING,
    Choice,
    FieldKind,
    bare,
    choices_of,
    example_of,
    is_class,
    kind_of,
    members_of,
    suits,
    type_name,
)
from flyteagent_nb.scalars import for_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from flytekit.core.interface import Interface

LONG = 200
"""Characters of JSON from which on a value is told by the name of its variable, where it has one."""

_WITHOUT_TEXT = (FieldKind.TICK, FieldKind.GROUP)


@dataclass(frozen=True, eq=False)
class Field:
    """An input of a task, or a member of one, as it stands in a form.

    Attributes:
        name: the input's name; a member's is joined to its group's by a dot.
        kind: what it takes.
        python_type: its type, without ``Optional`` and ``Annotated``.
        optional: whether it may be None: what stays empty is, and a group that is not ticked.
        default: what a field means that is emptied, or NOTHING.
        text: what it is filled with; whether it is ticked, for what has a box to tick.
        kept: the value that ``text`` stands for, where the text alone does not lead back to it, or NOTHING.
        key: a member's name in the constructor of its class.
        choices: those of a choice.
        members: those of a group.
        description: the author's words, or empty.
    """

    name: str
    kind: FieldKind
    python_type: Any
    optional: bool
    default: Any
    text: str | bool = ""
    kept: Any = NOTHING
    key: str = ""
    choices: tuple[Choice, ...] = ()
    members: tuple[Field, ...] = ()
    description: str = ""

    @property
    def label(self) -> str:
        """Its own name, without its group's."""
        return self.name.rpartition(".")[2]

    @property
    def required(self) -> bool:
        """Whether it may not stay empty."""
        return self.default is NOTHING and not self.optional and self.kind not in _WITHOUT_TEXT

    @property
    def type_name(self) -> str:
        """The type as people write it."""
        name = type_name(self.python_type)
        return f"{name} | None" if self.optional else name

    @property
    def when_empty(self) -> str:
        """What it shows while it is empty: what that means, else an example."""
        if self.optional:
            return "None"
        told = None if self.default is NOTHING else text_of(self.kind, self.python_type, self.default)
        if self.kind is FieldKind.TEXT:
            return ""  # an empty text is one, where there is a default
        return example_of(self.kind, self.python_type) if told is None else told


def fields_of(
    interface: Interface, values: Mapping[str, Any] | None = None, namespace: Mapping[str, Any] | None = None
) -> list[Field]:
    """A field for each input, filled with its value, else with its default.

    Args:
        interface: the task's ``python_interface``.
        values: Python values by input.
        namespace: the user's variables: a value that no text tells is told by the name of its variable.
    """
    described = interface.docstring.input_descriptions if interface.docstring is not None else {}
    given, known = values or {}, namespace or {}
    fields = []
    for name, (python_type, default) in interface.inputs_with_defaults.items():
        if default is None and not bare(python_type)[1]:  # flytekit's way to say that there is none
            default = NOTHING
        field = _field(name, python_type, default, for_type(given.get(name, default), python_type), known)
        fields.append(replace(field, description=" ".join((described.get(name) or "").split())))
    return fields


def all_fields(fields: Iterable[Field]) -> Iterator[Field]:
    """The fields, and after each group its members."""
    for field in fields:
        yield field
        yield from all_fields(field.members)


def fitting(field: Field, namespace: Mapping[str, Any]) -> list[str]:
    """The names of the variables that a field for data could take, the newest first."""
    if field.kind not in (FieldKind.DATA, FieldKind.VARIABLE) or not is_class(field.python_type):
        return []
    found = [
        name
        for name, value in list(namespace.items())
        if not name.startswith("_") and not isinstance(value, (str, type)) and suits(value, field.python_type)
    ]
    return found[::-1]


def _field(
    name: str, python_type: Any, default: Any, value: Any, namespace: Mapping[str, Any], around: tuple[Any, ...] = ()
) -> Field:
    inner, optional = bare(python_type)
    kind = FieldKind.MAPPING if inner in around else kind_of(inner)  # a class that holds itself would never end
    if kind is FieldKind.TICK and optional:
        kind = FieldKind.CHOICE
    field = Field(name, kind, inner, optional, default)
    if kind is not FieldKind.GROUP:
        text, kept = _filled(field, value, namespace)
        return replace(field, text=text, kept=kept, choices=choices_of(inner) if kind is FieldKind.CHOICE else ())
    members = []
    for member in members_of(inner) or ():
        given = (
            value.get(member.name, member.default)
            if isinstance(value, Mapping)
            else getattr(value, member.name, member.default)
        )
        made = _field(f"{name}.{member.name}", member.python_type, member.default, given, namespace, (*around, inner))
        members.append(replace(made, key=member.key, description=member.description))
    return replace(field, text=value is not NOTHING and value is not None, members=tuple(members))


def _filled(field: Field, value: Any, namespace: Mapping[str, Any]) -> tuple[str | bool, Any]:
    """What a field shows for a value, and the value itself where that text does not lead back to it."""
    if field.kind is FieldKind.TICK:
        return value is True, NOTHING
    if value is NOTHING or value is None:
        return "", NOTHING
    text = text_of(field.kind, field.python_type, value)
    if text is None or (field.kind in JSON and len(text) > LONG):
        name = next((n for n, v in list(namespace.items()) if v is value and not n.startswith("_")), None)
        if name is not None:
            return name, NOTHING
    if text is None:
        return f"({type_name(type(value))} as given)", value
    if not text:
        return ("" if _empty_is_text(field) else EMPTY), NOTHING
    try:
        same = bool(read(field.kind, field.python_type, text, {}) == value)
    except ArgumentError:  # a value of another type, which Run will say
        same = True
    except Exception:  # whatever a class of the user's raises when it is made or compared
        same = False
    return text, NOTHING if same else value


def _empty_is_text(field: Field) -> bool:
    """Whether nothing typed is the empty text."""
    return field.kind is FieldKind.TEXT and not field.optional and field.default is not NOTHING


# --- reading ---


def values_of(
    fields: Sequence[Field], texts: Mapping[str, str | bool], namespace: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What was typed, as values for the task.

    Args:
        fields: the form's.
        texts: by field name, as the page sends them; a field that is missing is as it was filled.
        namespace: the user's variables.

    Returns:
        The values by input, without those that take their default, and by field what is wrong with it.
    """
    errors: dict[str, str] = {}
    values = {field.name: _value(field, texts, namespace, errors) for field in fields}
    return {name: value for name, value in values.items() if value is not NOTHING}, errors


def _value(field: Field, texts: Mapping[str, str | bool], namespace: Mapping[str, Any], errors: dict[str, str]) -> Any:
    """A field's value; NOTHING for its default, and where it or a member of it is wrong."""
    text = texts.get(field.name, field.text)
    if field.kind is FieldKind.GROUP:
        if not field.optional or text is True:
            return _group(field, texts, namespace, errors)
        if any(texts.get(m.name, m.text) != m.text for m in all_fields(field.members)):
            errors[field.name] = f"not ticked, but something is typed below: tick {field.label}, or it is None"
            return NOTHING
        return None
    if field.kind is FieldKind.TICK:
        return text is True
    text = str(text)
    if field.kept is not NOTHING and text == field.text:
        return field.kept
    if not (text if field.kind is FieldKind.TEXT else text.strip()):
        if field.required:
            errors[field.name] = _needed(field)
        return None if field.optional else "" if _empty_is_text(field) else NOTHING
    if field.optional and text.strip() == "None" and field.kind is not FieldKind.TEXT:
        return None
    try:
        return read(field.kind, field.python_type, text, namespace)
    except ArgumentError as error:
        errors[field.name] = f"{error.message}; {error.hint}" if error.hint else error.message
    except Exception as error:  # a property or a class of the user's may raise anything
        errors[field.name] = _raised(error)
    return NOTHING


def _group(field: Field, texts: Mapping[str, str | bool], namespace: Mapping[str, Any], errors: dict[str, str]) -> Any:
    before = len(errors)
    values = {member.key: _value(member, texts, namespace, errors) for member in field.members}
    if len(errors) > before:
        return NOTHING
    try:
        return field.python_type(**{key: value for key, value in values.items() if value is not NOTHING})
    except Exception as error:  # the class's own checks may raise anything
        for name, told in _blamed(field, error):
            errors[name] = told
        return NOTHING


def _blamed(field: Field, error: Exception) -> list[tuple[str, str]]:
    """Which fields a class's own check blames, and for what: pydantic tells the member."""
    if not callable(getattr(error, "errors", None)) or not hasattr(error, "error_count"):
        return [(field.name, _raised(error))]
    names = {member.key: member.name for member in field.members}
    return [
        (names.get(str((*problem["loc"], "")[0]), field.name), str(problem["msg"]))
        for problem in error.errors()  # type: ignore[attr-defined]
    ]


def _raised(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _needed(field: Field) -> str:
    if field.kind is FieldKind.CHOICE:
        return f"choose one: {', '.join(choice.label for choice in field.choices)}"
    if field.kind is FieldKind.TEXT:
        return f"a text is needed; {EMPTY} is an empty one"
    if field.kind is FieldKind.DATA:
        return f"needed: {field.kind.value}"
    return f"a value is needed, such as {example_of(field.kind, field.python_type)}"
