"""Numbers, texts and truth values become what flytekit's type engine makes of them, or are left to it."""

from __future__ import annotations

from typing import Any

import pytest
from flyteidl.core.literals_pb2 import Literal, LiteralMap
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import Literal as FlytekitLiteral

from flyteagent_nb.running.primitives import primitive_literal, primitive_values

NUMBERS_AND_TEXTS = [0, -1, 2**63 - 1, -(2**63), 0.0, -0.5, float("inf"), "", "ü <b>", True, False]


@pytest.mark.parametrize("value", NUMBERS_AND_TEXTS)
def test_as_the_type_engine_does(value: Any) -> None:
    context, python_type = FlyteContextManager.current_context(), type(value)
    literal_type = TypeEngine.to_literal_type(python_type)
    made = primitive_literal(value, python_type)
    assert made == TypeEngine.to_literal(context, value, python_type, literal_type).to_flyte_idl()
    values = primitive_values({"x": python_type}, LiteralMap(literals={"x": made}))
    assert values == {"x": value} and type(values["x"]) is python_type
    assert values["x"] == TypeEngine.to_python_value(context, FlytekitLiteral.from_flyte_idl(made), python_type)


class Word(str):
    pass


@pytest.mark.parametrize(
    ("value", "python_type"),
    [
        (1, float),
        (True, int),
        ("1", int),
        (None, int),
        (2**63, int),
        ("\ud800", str),
        (Word("a"), str),
        ([1], list[int]),
    ],
)
def test_left_to_the_type_engine(value: Any, python_type: Any) -> None:
    assert primitive_literal(value, python_type) is None


def test_values_that_are_not_just_what_their_types_say() -> None:
    one = Literal()
    one.scalar.primitive.integer = 1
    literals = LiteralMap(literals={"x": one, "y": Literal()})
    assert primitive_values({"x": int}, literals) == {"x": 1}
    assert primitive_values({}, literals) == {}
    for types in ({"x": float}, {"x": int, "y": int}, {"z": int}, {"x": int | None}, {"x": list[int]}):
        assert primitive_values(types, literals) is None
    assert set(literals.literals) == {"x", "y"}
