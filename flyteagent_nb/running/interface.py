"""Whether literals fit what a task declares, its outputs (rule 19) and its inputs, by structure alone.

FlytePropeller lets a wrong name or type pass, and the next task then fails on it. This check is lenient: whatever flytekit's type
engine can decode passes, and so does a type that is not known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flyteidl.core.types_pb2 import BlobType, SimpleType

from flyteagent_nb.errors import closest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flyteidl.core.interface_pb2 import Variable
    from flyteidl.core.literals_pb2 import Literal, LiteralMap, Scalar
    from flyteidl.core.types_pb2 import LiteralType

_PRIMITIVES: dict[int, frozenset[str]] = {
    # flytekit's transformers turn an integer into a float, and (for the console's sake) a float into an integer.
    SimpleType.INTEGER: frozenset({"integer", "float_value"}),
    SimpleType.FLOAT: frozenset({"float_value", "integer"}),
    SimpleType.STRING: frozenset({"string_value"}),
    SimpleType.BOOLEAN: frozenset({"boolean"}),
    SimpleType.DATETIME: frozenset({"datetime"}),
    SimpleType.DURATION: frozenset({"duration"}),
}
# Beside the primitives; a binary fits all of these, as flytekit reads MessagePack for any of its types.
_SCALARS: dict[int, frozenset[str]] = {
    SimpleType.NONE: frozenset({"none_type"}),
    SimpleType.BINARY: frozenset(),
    SimpleType.ERROR: frozenset({"error"}),
    SimpleType.STRUCT: frozenset({"generic"}),
}
_DATASETS = frozenset({"structured_dataset", "schema", "generic"})
_WORDS = {
    "float_value": "float",
    "string_value": "string",
    "none_type": "none",
    "generic": "struct",
    "map": "dict",
    "collection": "list",
}


def interface_mismatch(declared: Mapping[str, Variable], outputs: LiteralMap) -> tuple[str, str] | None:
    """The first output that does not fit, as its name and what is wrong, or None.

    Missing names come first, then names that nobody declared, then types, each in a stable order. A task that declares
    nothing accepts anything (rule 17). The cost grows with the elements of lists and dicts: about a microsecond each.

    Args:
        declared: name to flyteidl Variable, a template's ``interface.outputs.variables``.
        outputs: what came back.
    """
    if not declared:
        return None
    literals = outputs.literals
    for name in declared:
        if name not in literals:
            return name, f"is declared and was not returned; {_returned(name, declared, literals)}"
    if len(literals) > len(declared):
        name = min(name for name in literals if name not in declared)
        return name, f"was returned and is not declared; declared: {', '.join(sorted(declared))}"
    for name, variable in declared.items():
        wrong = _wrong(literals[name], variable.type)
        if wrong:
            return name, wrong
    return None


def misfit(declared: Mapping[str, Variable], inputs: LiteralMap) -> tuple[str, str] | None:
    """The first input whose type does not fit, as its name and what is wrong, or None. Names are somebody else's to check."""
    for name, literal in inputs.literals.items():
        wrong = _wrong(literal, declared[name].type) if name in declared else ""
        if wrong:
            return name, wrong
    return None


def _returned(name: str, declared: Mapping[str, Variable], literals: Mapping[str, Literal]) -> str:
    if not literals:
        return "nothing was"
    near = closest(name, (other for other in literals if other not in declared))
    return f"{near} was: is that it?" if near else f"returned: {', '.join(sorted(literals))}"


def _wrong(literal: Literal, expected: LiteralType) -> str:
    """What does not fit, or an empty text."""
    value = literal.WhichOneof("value")
    if value == "offloaded_metadata":  # The value lies elsewhere; it is checked when it is read.
        return ""
    if value is None:
        return "has no value"
    kind = expected.WhichOneof("type")
    if value == "scalar":
        scalar = literal.scalar
        if kind == "union_type":
            return _union_wrong(literal, expected)
        if _scalar_fits(scalar, kind, expected):
            return ""
        return _enum_or_blob_wrong(scalar, kind, expected) or _differs(expected, _scalar_name(scalar))
    if kind == "union_type":
        return _union_wrong(literal, expected)
    if value == "collection" and kind == "collection_type":
        for position, item in enumerate(literal.collection.literals):
            wrong = _wrong(item, expected.collection_type)
            if wrong:
                return f"item {position} {wrong}"
        return ""
    if value == "map" and kind == "map_value_type":
        for key, item in literal.map.literals.items():
            wrong = _wrong(item, expected.map_value_type)
            if wrong:
                return f"key {key!r} {wrong}"
        return ""
    return _differs(expected, _WORDS[value]) if _is_known(expected, kind) else ""


def _is_known(expected: LiteralType, kind: str | None) -> bool:
    return expected.simple in _PRIMITIVES or expected.simple in _SCALARS if kind == "simple" else kind is not None


def _scalar_fits(scalar: Scalar, kind: str | None, expected: LiteralType) -> bool:
    value: str | None = scalar.WhichOneof("value")
    if kind == "simple":
        simple = expected.simple
        if value == "primitive":
            primitives = _PRIMITIVES.get(simple)
            if primitives is not None:
                return scalar.primitive.WhichOneof("value") in primitives
        if value == "binary":
            return bool(simple != SimpleType.ERROR)
        return value in _SCALARS.get(simple, ()) or not _is_known(expected, kind)
    if value == "binary" or kind is None:
        return True
    if kind == "blob":
        same = scalar.blob.metadata.type.dimensionality == expected.blob.dimensionality
        return value == "generic" or (value == "blob" and bool(same))
    if kind == "enum_type":
        values = expected.enum_type.values
        is_text = value == "primitive" and bool(scalar.primitive.HasField("string_value"))
        return is_text and (not values or scalar.primitive.string_value in values)
    if kind == "map_value_type":
        return value == "generic"
    if kind in ("structured_dataset_type", "schema"):
        return value in _DATASETS
    return kind != "collection_type"


def _union_wrong(literal: Literal, expected: LiteralType) -> str:
    variants = list(expected.union_type.variants)
    if literal.WhichOneof("value") == "scalar" and literal.scalar.WhichOneof("value") == "union":
        stored = literal.scalar.union
        literal = stored.value
        tag = stored.type.structure.tag
        # The tag is flytekit's name of a transformer; other languages need not give it, and then every variant may be meant.
        variants = [v for v in variants if tag and v.structure.tag == tag] or variants
    if any(not _wrong(literal, variant) for variant in variants):
        return ""
    return _differs(expected, _literal_name(literal))


def _enum_or_blob_wrong(scalar: Scalar, kind: str | None, expected: LiteralType) -> str:
    """The values that a kind alone does not explain: a word outside the enum, a file for a directory."""
    if kind == "enum_type" and scalar.primitive.HasField("string_value"):
        allowed = ", ".join(expected.enum_type.values)
        return f"is {scalar.primitive.string_value!r}, which is none of the enum's values: {allowed}"
    if kind == "blob" and scalar.HasField("blob"):
        directory = expected.blob.dimensionality == BlobType.MULTIPART
        return (
            "is declared as a directory and came as a file"
            if directory
            else "is declared as a file and came as a directory"
        )
    return ""


def _differs(expected: LiteralType, returned: str) -> str:
    return f"is declared as {_type_name(expected)} and came as {returned}"


def _type_name(expected: LiteralType) -> str:
    kind = expected.WhichOneof("type")
    if kind == "simple":
        return str(SimpleType.Name(expected.simple)).lower()
    if kind == "collection_type":
        return f"list[{_type_name(expected.collection_type)}]"
    if kind == "map_value_type":
        return f"dict[str, {_type_name(expected.map_value_type)}]"
    if kind == "union_type":
        return " | ".join(_type_name(variant) for variant in expected.union_type.variants)
    if kind == "blob":
        return "directory" if expected.blob.dimensionality == BlobType.MULTIPART else "file"
    return str(kind or "anything").removesuffix("_type").replace("_", " ")


def _literal_name(literal: Literal) -> str:
    value = literal.WhichOneof("value")
    return _scalar_name(literal.scalar) if value == "scalar" else _WORDS.get(value or "", "nothing")


def _scalar_name(scalar: Scalar) -> str:
    value = scalar.WhichOneof("value")
    if value == "primitive":
        value = scalar.primitive.WhichOneof("value")
    return _WORDS.get(value or "", (value or "an empty scalar").replace("_", " "))
