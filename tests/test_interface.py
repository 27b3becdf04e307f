"""Rule 19: whether literals fit a task's declared outputs. flytekit's own type engine is the measure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from flyteidl.core import literals_pb2 as pb
from flyteidl.core.interface_pb2 import Variable
from flyteidl.core.types_pb2 import BlobType, LiteralType, SimpleType, TypeStructure, UnionType
from flytekit import FlyteContextManager, FlyteDirectory, FlyteFile, StructuredDataset
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import Literal as LiteralModel
from flytekit.types.error import FlyteError
from flytekit.types.schema import FlyteSchema
from google.protobuf.struct_pb2 import Struct

from flyteagent_nb.running.interface import interface_mismatch

if TYPE_CHECKING:
    from pathlib import Path


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: float


class Opaque:
    """Nothing that flytekit has a type for: it is pickled."""


def _values(folder: Path) -> list[tuple[Any, Any]]:
    """Python types with a value each."""
    file = folder / "file.txt"
    file.write_text("x")
    return [
        (int, 3),
        (float, 2.5),
        (str, "red"),
        (bool, True),
        (datetime, datetime(2024, 1, 2, tzinfo=timezone.utc)),
        (date, date(2024, 1, 2)),
        (timedelta, timedelta(seconds=5)),
        (type(None), None),
        (Colour, Colour.BLUE),
        (Point, Point(1, 2.0)),
        (dict, {"a": [1, "b"]}),
        (dict[str, int], {"a": 1}),
        (dict[int, str], {1: "a"}),
        (list[int], [1, 2]),
        (list[str], []),
        (list[list[float]], [[1.0], []]),
        (list[Point], [Point(1, 2.0)]),
        (dict[str, list[Colour]], {"a": [Colour.RED]}),
        (int | None, 3),
        (int | None, None),
        (str | None, "x"),
        (int | str, "x"),
        (list[float | None], [1.0, None]),
        (FlyteFile, FlyteFile(str(file))),
        (FlyteDirectory, FlyteDirectory(str(folder))),
        (pd.DataFrame, pd.DataFrame({"a": [1]})),
        (StructuredDataset, StructuredDataset(pd.DataFrame({"a": [1]}))),
        (FlyteError, FlyteError(message="m", failed_node_id="n")),
        (Opaque, Opaque()),
    ]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, LiteralType, pb.Literal]]:
    """Python type, flyteidl type and flyteidl literal of each value, as flytekit makes them."""
    context = FlyteContextManager.current_context()
    made = []
    for python_type, value in _values(tmp_path_factory.mktemp("values")):
        literal_type = TypeEngine.to_literal_type(python_type)
        literal = TypeEngine.to_literal(context, value, python_type, literal_type)
        made.append((python_type, literal_type.to_flyte_idl(), literal.to_flyte_idl()))
    return made


def _wrong(expected: LiteralType, literal: pb.Literal) -> str | None:
    found = interface_mismatch({"o0": Variable(type=expected)}, pb.LiteralMap(literals={"o0": literal}))
    return found[1] if found else None


def test_rule19_what_flytekit_encodes_fits(encoded: list[tuple[Any, LiteralType, pb.Literal]]) -> None:
    assert [
        (python_type, _wrong(expected, literal))
        for python_type, expected, literal in encoded
        if _wrong(expected, literal)
    ] == []


def test_rule19_what_flytekit_can_decode_fits(encoded: list[tuple[Any, LiteralType, pb.Literal]]) -> None:
    """Every literal against every type: whatever the type engine decodes passes; of the rest only what needs reading does."""
    context = FlyteContextManager.current_context()
    too_strict, lenient = [], []
    for python_type, expected, _ in encoded:
        for other, _, literal in encoded:
            wrong = _wrong(expected, literal)
            try:
                TypeEngine.to_python_value(context, LiteralModel.from_flyte_idl(literal), python_type)
            except Exception:  # Whatever its many transformers raise: it cannot decode this.
                if wrong is None and "binary {" not in str(literal):
                    lenient.append((python_type, other))
            else:
                if wrong is not None:
                    too_strict.append((python_type, other, wrong))
    assert too_strict == []
    assert lenient == [(Opaque, FlyteFile)]  # A file that is no pickle.


def _primitive(**value: Any) -> pb.Literal:
    return pb.Literal(scalar=pb.Scalar(primitive=pb.Primitive(**value)))


def _simple(simple: int) -> LiteralType:
    return LiteralType(simple=simple)


def _blob(dimensionality: int) -> pb.Literal:
    return pb.Literal(
        scalar=pb.Scalar(blob=pb.Blob(metadata=pb.BlobMetadata(type=BlobType(dimensionality=dimensionality))))
    )


def _list(*items: pb.Literal) -> pb.Literal:
    return pb.Literal(collection=pb.LiteralCollection(literals=items))


def _map(**items: pb.Literal) -> pb.Literal:
    return pb.Literal(map=pb.LiteralMap(literals=items))


def _union(value: pb.Literal, tag: str = "") -> pb.Literal:
    stored = LiteralType(structure=TypeStructure(tag=tag)) if tag else LiteralType()
    return pb.Literal(scalar=pb.Scalar(union=pb.Union(value=value, type=stored)))


def _variants(**variants: int) -> LiteralType:
    tagged = [LiteralType(simple=simple, structure=TypeStructure(tag=tag)) for tag, simple in variants.items()]
    return LiteralType(union_type=UnionType(variants=tagged))


INT = _primitive(integer=1)
TEXT = _primitive(string_value="a")
NONE = pb.Literal(scalar=pb.Scalar(none_type=pb.Void()))
STRUCT = pb.Literal(scalar=pb.Scalar(generic=Struct()))
BINARY = pb.Literal(scalar=pb.Scalar(binary=pb.Binary(value=b"\x01", tag="msgpack")))
OFFLOADED = pb.Literal(offloaded_metadata=pb.LiteralOffloadedMetadata(uri="s3://x"))
SCHEMA = pb.Literal(scalar=pb.Scalar(schema=pb.Schema(uri="s3://x")))
DATASET = pb.Literal(scalar=pb.Scalar(structured_dataset=pb.StructuredDataset(uri="s3://x")))
INTS = LiteralType(collection_type=_simple(SimpleType.INTEGER))
INT_BY_KEY = LiteralType(map_value_type=_simple(SimpleType.INTEGER))
INT_OR_NONE = _variants(int=SimpleType.INTEGER, none=SimpleType.NONE)
INT_OR_TEXT = _variants(int=SimpleType.INTEGER, str=SimpleType.STRING)
UNTAGGED = LiteralType(union_type=UnionType(variants=[_simple(SimpleType.INTEGER), _simple(SimpleType.STRING)]))
FILE = LiteralType(blob=BlobType(dimensionality=BlobType.SINGLE))
FOLDER = LiteralType(blob=BlobType(dimensionality=BlobType.MULTIPART))
COLOUR = TypeEngine.to_literal_type(Colour).to_flyte_idl()


@pytest.mark.parametrize(
    ("expected", "literal"),
    [
        pytest.param(_simple(SimpleType.FLOAT), INT, id="rule19-integer-for-a-float"),
        pytest.param(_simple(SimpleType.INTEGER), _primitive(float_value=1.0), id="rule19-float-for-an-integer"),
        pytest.param(_simple(SimpleType.STRUCT), STRUCT, id="rule19-struct"),
        pytest.param(_simple(SimpleType.STRUCT), BINARY, id="rule19-binary-for-a-struct"),
        pytest.param(_simple(SimpleType.STRING), BINARY, id="rule19-binary-for-a-string"),
        pytest.param(_simple(SimpleType.BINARY), BINARY, id="rule19-binary"),
        pytest.param(_simple(SimpleType.NONE), NONE, id="rule19-none"),
        pytest.param(_simple(77), INT, id="rule19-a-newer-simple-type"),
        pytest.param(_simple(77), _list(), id="rule19-a-newer-simple-type-as-a-list"),
        pytest.param(_simple(77), STRUCT, id="rule19-a-newer-simple-type-as-a-struct"),
        pytest.param(LiteralType(), INT, id="rule19-a-type-that-says-nothing"),
        pytest.param(LiteralType(), _map(), id="rule19-a-type-that-says-nothing-as-a-map"),
        pytest.param(INTS, BINARY, id="rule19-binary-for-a-list"),
        pytest.param(INT_BY_KEY, BINARY, id="rule19-binary-for-a-dict"),
        pytest.param(INT_BY_KEY, STRUCT, id="rule19-struct-for-a-dict"),
        pytest.param(INT_OR_NONE, _union(INT, "int"), id="rule19-union-by-tag"),
        pytest.param(INT_OR_NONE, _union(NONE, "none"), id="rule19-union-of-none"),
        pytest.param(INT_OR_NONE, _union(INT), id="rule19-union-without-a-tag"),
        pytest.param(INT_OR_NONE, _union(INT, "elsewhere"), id="rule19-union-of-another-languages-tag"),
        pytest.param(INT_OR_NONE, INT, id="rule19-plain-value-for-a-union"),
        pytest.param(INT_OR_NONE, NONE, id="rule19-plain-none-for-a-union"),
        pytest.param(UNTAGGED, _union(TEXT, "str"), id="rule19-variants-without-tags"),
        pytest.param(
            LiteralType(union_type=UnionType(variants=[INTS])), _list(INT), id="rule19-plain-list-for-a-union"
        ),
        pytest.param(FOLDER, _blob(BlobType.MULTIPART), id="rule19-directory"),
        pytest.param(FILE, STRUCT, id="rule19-struct-for-a-file"),
        pytest.param(LiteralType(structured_dataset_type={}), SCHEMA, id="rule19-schema-for-a-dataset"),
        pytest.param(LiteralType(schema={}), DATASET, id="rule19-dataset-for-a-schema"),
        pytest.param(TypeEngine.to_literal_type(FlyteSchema).to_flyte_idl(), SCHEMA, id="rule19-schema"),
        pytest.param(COLOUR, _primitive(string_value="red"), id="rule19-enum"),
        pytest.param(LiteralType(enum_type={}), TEXT, id="rule19-enum-without-values"),
        *(
            pytest.param(expected, OFFLOADED, id="rule19-offloaded")
            for expected in (INTS, INT_OR_NONE, _simple(SimpleType.ERROR))
        ),
        pytest.param(INTS, _list(OFFLOADED, INT), id="rule19-offloaded-item"),
    ],
)
def test_fits(expected: LiteralType, literal: pb.Literal) -> None:
    assert _wrong(expected, literal) is None


@pytest.mark.parametrize(
    ("expected", "literal", "wrong"),
    [
        (_simple(SimpleType.INTEGER), TEXT, "is declared as integer and came as string"),
        (_simple(SimpleType.INTEGER), _primitive(boolean=True), "is declared as integer and came as boolean"),
        (_simple(SimpleType.BOOLEAN), INT, "is declared as boolean and came as integer"),
        (_simple(SimpleType.STRING), NONE, "is declared as string and came as none"),
        (_simple(SimpleType.STRING), _list(TEXT), "is declared as string and came as list"),
        (_simple(SimpleType.STRING), _union(TEXT, "str"), "is declared as string and came as union"),
        (_simple(SimpleType.DATETIME), TEXT, "is declared as datetime and came as string"),
        (_simple(SimpleType.STRUCT), _map(a=INT), "is declared as struct and came as dict"),
        (_simple(SimpleType.STRUCT), TEXT, "is declared as struct and came as string"),
        (_simple(SimpleType.NONE), INT, "is declared as none and came as integer"),
        (_simple(SimpleType.ERROR), BINARY, "is declared as error and came as binary"),
        (_simple(SimpleType.STRING), pb.Literal(), "has no value"),
        (
            _simple(SimpleType.STRING),
            pb.Literal(scalar=pb.Scalar()),
            "is declared as string and came as an empty scalar",
        ),
        (INTS, INT, "is declared as list[integer] and came as integer"),
        (INTS, STRUCT, "is declared as list[integer] and came as struct"),
        (INTS, _list(INT, TEXT), "item 1 is declared as integer and came as string"),
        (INTS, _map(), "is declared as list[integer] and came as dict"),
        (INT_BY_KEY, _map(a=TEXT), "key 'a' is declared as integer and came as string"),
        (
            LiteralType(collection_type=INTS),
            _list(_list(), _list(TEXT)),
            "item 1 item 0 is declared as integer and came as string",
        ),
        (INT_OR_NONE, TEXT, "is declared as integer | none and came as string"),
        (INT_OR_NONE, _list(), "is declared as integer | none and came as list"),
        (INT_OR_NONE, _union(TEXT), "is declared as integer | none and came as string"),
        (INT_OR_TEXT, _union(TEXT, "int"), "is declared as integer | string and came as string"),
        (FOLDER, _blob(BlobType.SINGLE), "is declared as a directory and came as a file"),
        (FILE, _blob(BlobType.MULTIPART), "is declared as a file and came as a directory"),
        (FILE, TEXT, "is declared as file and came as string"),
        (LiteralType(structured_dataset_type={}), TEXT, "is declared as structured dataset and came as string"),
        (COLOUR, _primitive(string_value="green"), "is 'green', which is none of the enum's values: red, blue"),
        (COLOUR, INT, "is declared as enum and came as integer"),
        (LiteralType(enum_type={}), INT, "is declared as enum and came as integer"),
    ],
    ids=lambda value: f"rule19-{value}".replace(" ", "-") if isinstance(value, str) else "",
)
def test_does_not_fit(expected: LiteralType, literal: pb.Literal, wrong: str) -> None:
    assert _wrong(expected, literal) == wrong


@pytest.mark.parametrize(
    ("declared", "returned", "found"),
    [
        pytest.param([], ["x"], None, id="rule17-none-declared"),
        pytest.param(["a", "b"], ["b", "a"], None, id="rule19-all"),
        pytest.param(["a"], [], ("a", "is declared and was not returned; nothing was"), id="rule19-nothing-returned"),
        pytest.param(["a", "b"], ["a"], ("b", "is declared and was not returned; returned: a"), id="rule19-missing"),
        pytest.param(
            ["result"],
            ["results"],
            ("result", "is declared and was not returned; results was: is that it?"),
            id="rule19-misspelt",
        ),
        pytest.param(
            ["b", "a"],
            ["a", "b", "d", "c"],
            ("c", "was returned and is not declared; declared: a, b"),
            id="rule19-extra",
        ),
    ],
)
def test_names(declared: list[str], returned: list[str], found: tuple[str, str] | None) -> None:
    variables = {name: Variable(type=_simple(SimpleType.INTEGER)) for name in declared}
    assert interface_mismatch(variables, pb.LiteralMap(literals={name: INT for name in returned})) == found
