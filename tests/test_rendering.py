"""Rule 11: the template variables of a container's arguments."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import msgpack
import pytest
from flyteidl.core.literals_pb2 import (
    Binary,
    Blob,
    Literal,
    LiteralCollection,
    LiteralMap,
    Primitive,
    Scalar,
    Schema,
    StructuredDataset,
    Union,
    Void,
)
from flyteidl.core.tasks_pb2 import Container, K8sPod, Sql, TaskTemplate
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from flyteagent_nb.running.rendering import TemplateError, TemplateVariables, render_template


def _primitive(**value: Any) -> Literal:
    return Literal(scalar=Scalar(primitive=Primitive(**value)))


def _at(moment: datetime, nanos: int = 0) -> Literal:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    stamp.nanos = nanos
    return _primitive(datetime=stamp)


def _lasting(span: timedelta) -> Literal:
    duration = Duration()
    duration.FromTimedelta(span)
    return _primitive(duration=duration)


def _binary(value: Any, tag: str = "msgpack") -> Literal:
    return Literal(scalar=Scalar(binary=Binary(value=msgpack.packb(value), tag=tag)))


def _list(*items: Literal) -> Literal:
    return Literal(collection=LiteralCollection(literals=items))


VARIABLES = TemplateVariables(
    input_path="/run/inputs.pb",
    input_prefix="/run/in",
    output_prefix="/run/out",
    raw_output_prefix="/raw/{{ .Namespace }}/x",
    per_retry_unique_key="7f-abc.1",
    task_template_path="/run/task.pb",
    prev_checkpoint_prefix="/prev",
    checkpoint_prefix="/now",
    namespace="p-d",
    inputs=LiteralMap(
        literals={"year": _primitive(integer=2024), "Name": _primitive(string_value="{{.namespace}} \\1 $1")}
    ),
)


def _container(*args: str) -> TaskTemplate:
    return TaskTemplate(container=Container(command=["{{.input}}"], args=args))


def _arg(text: str, variables: TemplateVariables = VARIABLES) -> str:
    return str(render_template(_container(text), variables).container.args[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("{{.input}}", "/run/inputs.pb", id="rule11-input"),
        pytest.param("{{ .Input }}", "/run/inputs.pb", id="rule11-spaces-and-case"),
        pytest.param("{{$input}}", "/run/inputs.pb", id="rule11-dollar"),
        pytest.param("{{.INPUTPREFIX}}", "/run/in", id="rule11-input-prefix"),
        pytest.param("{{.outputPrefix}}", "/run/out", id="rule11-output-prefix"),
        pytest.param("{{.rawOutputDataPrefix}}", "/raw/p-d/x", id="rule11-namespace-inside-a-value"),
        pytest.param("{{.perRetryUniqueKey}}", "af_abc_1", id="rule11-key-is-an-identifier"),
        pytest.param("{{.taskTemplatePath}}", "/run/task.pb", id="rule11-task-template-path"),
        pytest.param("{{.prevCheckpointPrefix}}", "/prev", id="rule11-previous-checkpoint"),
        pytest.param("{{.checkpointOutputPrefix}}", "/now", id="rule11-checkpoint"),
        pytest.param("{{.namespace}}", "p-d", id="rule11-namespace"),
        pytest.param("a={{.inputs.year}};b={{ $Inputs.year }}", "a=2024;b=2024", id="rule11-inputs-anywhere"),
        pytest.param("{{.inputs.Name}}", "{{.namespace}} \\1 $1", id="rule11-an-inputs-value-is-not-rendered-again"),
        pytest.param(
            "{{.unknown}} {{input}} {.input}", "{{.unknown}} {{input}} {.input}", id="rule11-the-rest-is-left-alone"
        ),
    ],
)
def test_variables(text: str, expected: str) -> None:
    assert _arg(text) == expected


def test_rule11_no_previous_checkpoint_is_a_pair_of_quotes() -> None:
    assert _arg("{{.prevCheckpointPrefix}}", TemplateVariables()) == '""'


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        pytest.param(_primitive(integer=-5), "-5", id="rule11-integer"),
        pytest.param(_primitive(boolean=True), "true", id="rule11-true"),
        pytest.param(_primitive(boolean=False), "false", id="rule11-false"),
        pytest.param(_primitive(string_value=""), "", id="rule11-empty-string"),
        pytest.param(_primitive(float_value=1.0), "1", id="rule11-whole-float"),
        pytest.param(_primitive(float_value=-0.0), "-0", id="rule11-minus-zero"),
        pytest.param(_primitive(float_value=1.5), "1.5", id="rule11-float"),
        pytest.param(_primitive(float_value=0.1 + 0.2), "0.30000000000000004", id="rule11-shortest-digits"),
        pytest.param(_primitive(float_value=1e20), "100000000000000000000", id="rule11-large-float"),
        pytest.param(_primitive(float_value=1e21), "1e+21", id="rule11-larger-float"),
        pytest.param(_primitive(float_value=1.25e-5), "1.25e-05", id="rule11-small-float"),
        pytest.param(_primitive(float_value=0.0001), "0.0001", id="rule11-not-so-small-float"),
        pytest.param(_primitive(float_value=1.5e300), "1.5e+300", id="rule11-huge-float"),
        pytest.param(_primitive(float_value=float("inf")), "+Inf", id="rule11-infinity"),
        pytest.param(_primitive(float_value=float("-inf")), "-Inf", id="rule11-minus-infinity"),
        pytest.param(_primitive(float_value=float("nan")), "NaN", id="rule11-nan"),
        pytest.param(
            _at(datetime(2024, 2, 3, 4, 5, 6, tzinfo=timezone.utc)), "2024-02-03T04:05:06Z", id="rule11-datetime"
        ),
        pytest.param(_at(datetime(2024, 2, 3), 120_000_000), "2024-02-03T00:00:00.12Z", id="rule11-fraction"),
        pytest.param(_lasting(timedelta(seconds=90, milliseconds=5)), "seconds:90 nanos:5000000", id="rule11-duration"),
        pytest.param(Literal(scalar=Scalar(blob=Blob(uri="s3://b"))), "s3://b", id="rule11-blob"),
        pytest.param(Literal(scalar=Scalar(schema=Schema(uri="s3://s"))), "s3://s", id="rule11-schema"),
        pytest.param(_list(_primitive(integer=1), _list(_primitive(string_value="a"))), "[1,[a]]", id="rule11-list"),
        pytest.param(_list(), "[]", id="rule11-empty-list"),
        pytest.param(
            _binary({"b": [1, 2.0, None], "a": {"k": False}, "c": b"\x01\x02"}),
            "map[a:map[k:false] b:[1 2 <nil>] c:[1 2]]",
            id="rule11-msgpack-as-go-prints-it",
        ),
        pytest.param(_binary({10: "x", 9: "y"}), "map[9:y 10:x]", id="rule11-msgpack-keys-in-order"),
    ],
)
def test_inputs(literal: Literal, expected: str) -> None:
    assert _arg("{{.inputs.x}}", TemplateVariables(inputs=LiteralMap(literals={"x": literal}))) == expected


@pytest.mark.parametrize(
    ("literal", "named"),
    [
        pytest.param(Literal(map=LiteralMap()), "a map", id="rule11-map"),
        pytest.param(Literal(scalar=Scalar(none_type=Void())), "none_type", id="rule11-none"),
        pytest.param(Literal(scalar=Scalar(union=Union(value=_primitive(integer=1)))), "union", id="rule11-union"),
        pytest.param(Literal(scalar=Scalar(generic=Struct())), "generic", id="rule11-struct"),
        pytest.param(
            Literal(scalar=Scalar(structured_dataset=StructuredDataset(uri="s3://d"))),
            "structured_dataset",
            id="rule11-dataset",
        ),
        pytest.param(_binary({}, tag="other"), "'other'", id="rule11-other-binary"),
        pytest.param(
            Literal(scalar=Scalar(binary=Binary(value=b"\xc1", tag="msgpack"))),
            "no MessagePack",
            id="rule11-broken-binary",
        ),
        pytest.param(Literal(), "without a value", id="rule11-empty-literal"),
        pytest.param(_primitive(), "without a value", id="rule11-empty-primitive"),
    ],
)
def test_inputs_that_propeller_refuses(literal: Literal, named: str) -> None:
    with pytest.raises(TemplateError, match=named) as caught:
        _arg("{{.inputs.x}}", TemplateVariables(inputs=LiteralMap(literals={"x": literal})))
    assert caught.value.name == "x"


def test_rule11_a_missing_input_is_named_with_the_known_ones() -> None:
    with pytest.raises(TemplateError, match=r"no input yaer; the inputs are Name, year") as caught:
        _arg("{{.inputs.yaer}}")
    assert caught.value.name == "yaer"
    with pytest.raises(TemplateError):  # The name's case counts, only the variable's does not.
        _arg("{{.inputs.YEAR}}")


def test_rule11_without_any_inputs_the_text_stays() -> None:
    assert _arg("{{.inputs.year}}", TemplateVariables()) == "{{.inputs.year}}"


def test_rule11_the_template_is_restored_and_the_command_left_alone() -> None:
    template = _container("{{.input}}", "b")
    before = template.SerializeToString(deterministic=True)
    rendered = render_template(template, VARIABLES)
    assert list(rendered.container.args) == ["/run/inputs.pb", "b"]
    assert list(rendered.container.command) == ["{{.input}}"]
    assert template.SerializeToString(deterministic=True) == before


def _pod(**spec: Any) -> TaskTemplate:
    struct = Struct()
    struct.update(spec)
    return TaskTemplate(k8s_pod=K8sPod(pod_spec=struct))


@pytest.mark.parametrize(
    "template",
    [
        pytest.param(TaskTemplate(), id="rule11-no-target"),
        pytest.param(TaskTemplate(sql=Sql(statement="select {{.inputs.year}}")), id="rule11-sql"),
        pytest.param(_container(), id="rule11-no-args"),
        pytest.param(_container("a", "{{.unknown}}"), id="rule11-no-variables"),
        pytest.param(
            _pod(containers=[{"name": "a", "args": ["x", 3]}, {"name": "b"}]), id="rule11-pod-without-variables"
        ),
        pytest.param(_pod(), id="rule11-empty-pod"),
    ],
)
def test_the_same_object_where_nothing_is_rendered(template: TaskTemplate) -> None:
    before = template.SerializeToString(deterministic=True)
    assert render_template(template, VARIABLES) is template
    assert template.SerializeToString(deterministic=True) == before


def test_rule11_a_pods_containers_are_rendered_command_and_args() -> None:
    template = _pod(
        initContainers=[{"name": "i", "command": ["{{.outputPrefix}}"]}],
        containers=[
            {"name": "a", "args": ["{{.inputs.year}}", 3, "z"]},
            {"name": "b", "command": ["c"], "env": ["{{.input}}"]},
        ],
    )
    before = template.SerializeToString(deterministic=True)
    rendered = render_template(template, VARIABLES)
    assert MessageToDict(rendered.k8s_pod.pod_spec) == {
        "initContainers": [{"name": "i", "command": ["/run/out"]}],
        "containers": [
            {"name": "a", "args": ["2024", 3.0, "z"]},
            {"name": "b", "command": ["c"], "env": ["{{.input}}"]},
        ],
    }
    assert template.SerializeToString(deterministic=True) == before


def test_rule11_a_pods_missing_input_is_an_error() -> None:
    with pytest.raises(TemplateError, match="nope"):
        render_template(_pod(containers=[{"args": ["{{.inputs.nope}}"]}]), VARIABLES)
