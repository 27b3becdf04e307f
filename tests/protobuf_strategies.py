"""Messages that hypothesis makes from protobuf's descriptors: of the right shape, and about nothing, or about what a service knows."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from fuzzing import characters
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

DEPTH = 5
"""How deep messages lie in messages."""

WORDS = ("noop", "echo", "scripted", "Noop Agent", "job-1", "a", "")
"""What the service that is asked may know."""

METAS = (b'{"job_id": "job-1"}', b'{"job_id": 1}', b"{}", b"null", b"[" * 2000, b"\xff")
"""What may be a job's resource meta."""

_TEXT = st.one_of(st.sampled_from(WORDS), st.text(characters, max_size=12))
_BYTES = st.one_of(st.sampled_from(METAS), st.binary(max_size=12))
_D = FieldDescriptor
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    _D.CPPTYPE_STRING: _TEXT,
    _D.CPPTYPE_BOOL: st.booleans(),
    _D.CPPTYPE_INT32: st.one_of(st.sampled_from((0, 1)), st.integers(-(2**31), 2**31 - 1)),
    _D.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    _D.CPPTYPE_INT64: st.one_of(st.sampled_from((0, 1)), st.integers(-(2**63), 2**63 - 1)),
    _D.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    _D.CPPTYPE_FLOAT: st.floats(width=32),
    _D.CPPTYPE_DOUBLE: st.floats(),
    _D.CPPTYPE_ENUM: st.one_of(st.integers(0, 8), st.integers(-(2**31), 2**31 - 1)),
}


def _values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.cpp_type == _D.CPPTYPE_MESSAGE:
        return messages(field.message_type, depth - 1)
    return _BYTES if field.type == _D.TYPE_BYTES else _SCALARS[field.cpp_type]


def _is_repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def _put(message: Any, field: FieldDescriptor, value: Any) -> None:
    held = getattr(message, field.name)
    if not _is_repeated(field):
        if field.cpp_type == _D.CPPTYPE_MESSAGE:
            held.CopyFrom(value)
        else:
            setattr(message, field.name, value)
    elif field.message_type is not None and field.message_type.GetOptions().map_entry:
        if field.message_type.fields_by_name["value"].cpp_type == _D.CPPTYPE_MESSAGE:
            held[value.key].CopyFrom(value.value)
        else:
            held[value.key] = value.value
    elif field.cpp_type == _D.CPPTYPE_MESSAGE:
        held.add().CopyFrom(value)
    else:
        held.append(value)


@functools.cache
def messages(descriptor: Descriptor, depth: int = DEPTH) -> st.SearchStrategy[Any]:
    """Messages of a type, with some of their fields set."""
    cls = message_factory.GetMessageClass(descriptor)
    fields = [field for field in descriptor.fields if depth or field.cpp_type != _D.CPPTYPE_MESSAGE]
    if not fields:
        return st.builds(cls)

    @st.composite
    def made(draw: Any) -> Any:
        message = cls()
        # Each field once, but where there may be many.
        for field in draw(st.lists(st.sampled_from(fields), max_size=min(len(fields), 4))):
            _put(message, field, draw(_values(field, depth)))
        return message

    return made()
