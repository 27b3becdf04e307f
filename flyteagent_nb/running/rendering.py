"""The template variables of a container's arguments, rendered as FlytePropeller does (rule 11).

Source: ``flyteplugins/go/tasks/pluginmachinery/core/template/template.go`` and the agent plug-in's ``Create``. Pure: the
template that comes in is never changed, so that the next attempt finds it as it was.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.core.tasks_pb2 import TaskTemplate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyteidl.core.literals_pb2 import Binary, Literal, Primitive
    from google.protobuf.struct_pb2 import ListValue, Struct

MESSAGEPACK = "msgpack"
"""The tag of a binary literal that holds MessagePack: flytekit's dataclasses and dicts."""

_VARIABLE = re.compile(
    r"\{\{\s*[.$](input|inputprefix|outputprefix|rawoutputdataprefix|perretryuniquekey|tasktemplatepath"
    r"|prevcheckpointprefix|checkpointoutputprefix)\s*\}\}",
    re.IGNORECASE | re.ASCII,
)
_NAMESPACE = re.compile(r"\{\{\s*[.$]namespace\s*\}\}", re.IGNORECASE | re.ASCII)
_INPUT = re.compile(r"\{\{\s*[.$]inputs\.([^}\s]+)\s*\}\}", re.IGNORECASE | re.ASCII)
_NOT_ALPHA_FIRST = re.compile(r"^[^a-zA-Z_]+")
_NOT_ALPHANUMERIC = re.compile(r"[^a-zA-Z0-9_]+")


class TemplateError(ValueError):
    """A template variable that has no value; propeller's create fails on it.

    Attributes:
        name: the input that is asked for.
    """

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True)
class TemplateVariables:
    """What the variables stand for in one attempt. All but ``inputs`` are paths, prefixes or keys, as text.

    Attributes:
        input_path: ``{{.input}}``, the attempt's inputs.pb.
        input_prefix: ``{{.inputPrefix}}``.
        output_prefix: ``{{.outputPrefix}}``.
        raw_output_prefix: ``{{.rawOutputDataPrefix}}``.
        per_retry_unique_key: ``{{.perRetryUniqueKey}}``; made an identifier here, as propeller does.
        task_template_path: ``{{.taskTemplatePath}}``.
        prev_checkpoint_prefix: ``{{.prevCheckpointPrefix}}``; empty in the first attempt, and then rendered as ``""``.
        checkpoint_prefix: ``{{.checkpointOutputPrefix}}``.
        namespace: ``{{.namespace}}``, also inside the values above.
        inputs: ``{{.inputs.NAME}}``.
    """

    input_path: str = ""
    input_prefix: str = ""
    output_prefix: str = ""
    raw_output_prefix: str = ""
    per_retry_unique_key: str = ""
    task_template_path: str = ""
    prev_checkpoint_prefix: str = ""
    checkpoint_prefix: str = ""
    namespace: str = ""
    inputs: LiteralMap = field(default_factory=LiteralMap)


def attempt_variables(
    prefix: str, run_id: str, number: int, *, namespace: str, inputs: LiteralMap
) -> TemplateVariables:
    """What the variables stand for in an attempt of a run, counted from 1, whose output prefix is ``prefix``."""
    previous = f"{prefix.rpartition('/')[0]}/{run_id}-{number - 1}"
    return TemplateVariables(
        input_path=f"{prefix}/inputs.pb",
        input_prefix=prefix,
        output_prefix=prefix,
        raw_output_prefix=f"{prefix}/raw",
        # It begins with a letter, as Kubernetes's names do: what comes before the first one is lost when it is rendered.
        per_retry_unique_key=f"f{run_id}-n0-{number - 1}",
        task_template_path=f"{prefix}/task.pb",
        prev_checkpoint_prefix=f"{previous}/checkpoints" if number > 1 else "",
        checkpoint_prefix=f"{prefix}/checkpoints",
        namespace=namespace,
        inputs=inputs,
    )


def render_template(template: TaskTemplate, variables: TemplateVariables) -> TaskTemplate:
    """``template`` with its variables rendered; the same object where there is nothing to render.

    Rendered are a container's ``args`` (not its ``command``), and in a pod the ``command`` and ``args`` of every container and
    init container: propeller treats the two differently. SQL and ``custom`` are left alone.

    Raises:
        TemplateError: an input that is not there, or that propeller cannot write as text.
    """
    target = template.WhichOneof("target")
    if target == "container":
        args = list(template.container.args)
        rendered = [_render(arg, variables) for arg in args]
        if rendered == args:
            return template
        copy = _copy(template)
        copy.container.args[:] = rendered
        return copy
    if target == "k8s_pod" and any("{{" in text for texts in _pod_texts(template) for text in _strings(texts)):
        copy = _copy(template)
        for texts in _pod_texts(copy):
            for value in texts.values:
                if value.WhichOneof("kind") == "string_value":
                    value.string_value = _render(value.string_value, variables)
        return copy
    return template


def _copy(template: TaskTemplate) -> TaskTemplate:
    copy = TaskTemplate()
    copy.CopyFrom(template)
    return copy


def _pod_texts(template: TaskTemplate) -> Iterator[ListValue]:
    """The lists that propeller renders in a pod: command and args of every container."""
    spec: Struct = template.k8s_pod.pod_spec
    for kind in ("initContainers", "containers"):
        # Asking a Struct for a field that it lacks would add it.
        if kind not in spec.fields:
            continue
        for container in spec.fields[kind].list_value.values:
            fields = container.struct_value.fields
            yield from (fields[name].list_value for name in ("command", "args") if name in fields)


def _strings(texts: ListValue) -> Iterator[str]:
    return (value.string_value for value in texts.values)


def _render(text: str, variables: TemplateVariables) -> str:
    if "{{" not in text:
        return text
    values = {
        "input": variables.input_path,
        "inputprefix": variables.input_prefix,
        "outputprefix": variables.output_prefix,
        "rawoutputdataprefix": variables.raw_output_prefix,
        "perretryuniquekey": _identifier(variables.per_retry_unique_key),
        "tasktemplatepath": variables.task_template_path,
        "prevcheckpointprefix": variables.prev_checkpoint_prefix or '""',
        "checkpointoutputprefix": variables.checkpoint_prefix,
    }
    text = _VARIABLE.sub(lambda found: values[found[1].lower()], text)
    # A second pass on purpose: the values may hold the namespace as a variable.
    text = _NAMESPACE.sub(lambda _: variables.namespace, text)
    literals = variables.inputs.literals
    if not literals:  # Propeller leaves the text alone where the task has no inputs at all.
        return text
    return _INPUT.sub(lambda found: _input(found[1], variables.inputs), text)


def _identifier(key: str) -> str:
    return _NOT_ALPHANUMERIC.sub("_", _NOT_ALPHA_FIRST.sub("a", key))


def _input(name: str, inputs: LiteralMap) -> str:
    if name not in inputs.literals:
        known = ", ".join(sorted(inputs.literals))
        raise TemplateError(f"{{{{.inputs.{name}}}}}: there is no input {name}; the inputs are {known}", name=name)
    try:
        return literal_text(inputs.literals[name])
    except ValueError as error:
        raise TemplateError(
            f"{{{{.inputs.{name}}}}}: FlytePropeller cannot write {error} as text", name=name
        ) from error


def literal_text(literal: Literal) -> str:
    """``literal`` as propeller writes it into an argument.

    Raises:
        ValueError: a kind of literal that propeller refuses (a map, a union, none, a structured dataset); it names the kind.
    """
    kind = literal.WhichOneof("value")
    if kind == "collection":
        return f"[{','.join(literal_text(item) for item in literal.collection.literals)}]"
    if kind != "scalar":
        raise ValueError(f"a {kind or 'literal without a value'}")
    scalar = literal.scalar
    kind = scalar.WhichOneof("value")
    if kind == "primitive":
        return _primitive_text(scalar.primitive)
    if kind == "blob":
        return str(scalar.blob.uri)
    if kind == "schema":
        return str(scalar.schema.uri)
    if kind == "binary":
        return _binary_text(scalar.binary)
    raise ValueError(f"a {kind or 'scalar without a value'}")


def _primitive_text(primitive: Primitive) -> str:
    kind = primitive.WhichOneof("value")
    if kind == "string_value":
        return str(primitive.string_value)
    if kind == "datetime":
        # RFC 3339 with as few digits as the nanoseconds need.
        text = str(primitive.datetime.ToJsonString())
        head, dot, fraction = text.removesuffix("Z").partition(".")
        return f"{head}{dot}{fraction.rstrip('0')}Z"
    if kind == "duration":
        # Go prints the message itself, not a duration.
        parts = [(name, getattr(primitive.duration, name)) for name in ("seconds", "nanos")]
        return " ".join(f"{name}:{number}" for name, number in parts if number)
    if kind is None:
        raise ValueError("a primitive without a value")
    return _go_text(getattr(primitive, kind))


def _binary_text(binary: Binary) -> str:
    if binary.tag != MESSAGEPACK:
        raise ValueError(f"a binary of tag {binary.tag!r}")
    import msgpack  # type: ignore[import-untyped]  # it ships no types; flytekit needs it anyway

    try:
        value = msgpack.unpackb(binary.value, strict_map_key=False)
    except ValueError as error:
        raise ValueError("a binary that is no MessagePack") from error
    return _go_text(value)


def _go_text(value: Any) -> str:
    """``value`` as Go's ``%v`` prints it."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _go_float(value)
    if isinstance(value, dict):
        pairs = sorted(value.items(), key=lambda pair: (type(pair[0]).__name__, pair[0]))
        return f"map[{' '.join(f'{_go_text(key)}:{_go_text(item)}' for key, item in pairs)}]"
    if isinstance(value, list | tuple | bytes):
        return f"[{' '.join(_go_text(item) for item in value)}]"
    return str(value)


def _go_float(number: float) -> str:
    """The shortest digits that read back as ``number``; an exponent below 1e-4 and from 1e21."""
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "+Inf" if number > 0 else "-Inf"
    exact = Decimal(repr(number)).normalize()
    exponent = exact.adjusted()
    if -4 <= exponent < 21:
        return f"{exact:f}"
    return f"{exact.scaleb(-exponent):f}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
