"""A function that stands in a notebook: whether something would have to run it, and how it is sent along."""

from __future__ import annotations

import dis
import os
import sys
from typing import TYPE_CHECKING, Any

from flytekit.core.python_auto_container import PICKLE_FILE_PATH

if TYPE_CHECKING:
    from pathlib import Path

    from flytekit.core.python_function_task import PythonFunctionTask

_CONSTANT = frozenset({"LOAD_CONST", "RETURN_CONST"})
_COROUTINE = frozenset({"RETURN_GENERATOR", "GEN_START", "POP_TOP", "CALL_INTRINSIC_1", "RERAISE"})
_EMPTY_BODY = _CONSTANT | _COROUTINE | {"RESUME", "NOP", "RETURN_VALUE", "CACHE"}


def needs_code(task: PythonFunctionTask[Any]) -> bool:
    """Whether the function stands in the notebook and has a body that something would have to run."""
    function = task.task_function
    if getattr(function, "__module__", None) != "__main__":
        return False
    # `...`, `pass`, a docstring and a bare `return` leave a code object that does nothing but return None.
    return any(
        i.opname not in _EMPTY_BODY or (i.opname in _CONSTANT and i.argval not in (None, ...))
        for i in dis.get_instructions(function)
    )


def pickled(task: PythonFunctionTask[Any], folder: Path) -> Path:
    """The file of the pickled task, in a folder of its own under ``folder``, as flytekit reads it."""
    import gzip
    import hashlib
    import tempfile

    import cloudpickle
    from flytekit.core.python_auto_container import PickledEntity, PickledEntityMetadata

    version = ".".join(map(str, sys.version_info[:3]))
    entity = PickledEntity(metadata=PickledEntityMetadata(python_version=version), entities={task.name: task})
    data = cloudpickle.dumps(entity)
    place = folder / f"code-{hashlib.sha256(data).hexdigest()[:16]}"
    place.mkdir(mode=0o700, exist_ok=True)
    location: Path = place / str(PICKLE_FILE_PATH)
    if not location.exists():
        # A job may read the file while another run of the task begins.
        descriptor, written = tempfile.mkstemp(dir=place)
        with open(descriptor, "wb") as raw, gzip.open(raw, "wb") as file:
            file.write(data)
        os.replace(written, location)
    return location
