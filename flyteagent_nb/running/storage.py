"""A run's folder: an output prefix for each attempt, with inputs.pb, outputs.pb and error.pb.

Folders are private to the user (mode 0700), files 0600.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flyteidl.core.errors_pb2 import ErrorDocument
from flyteidl.core.literals_pb2 import LiteralMap

if TYPE_CHECKING:
    from google.protobuf.message import Message


class RunStorage:
    """The folders of all runs, under one root.

    Attributes:
        root: the folder that holds a folder for each attempt.
        is_own: whether the root is a temporary folder of ours, which goes when it is closed.
        is_quick: whether to make a folder there takes microseconds: it is on this machine.
    """

    def __init__(self, root: str = "", *, quick: bool = False) -> None:
        self.is_own = not root
        self.is_quick = self.is_own or quick
        if root:
            self.root = Path(root).expanduser().absolute()
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        else:
            self.root = Path(tempfile.mkdtemp(prefix="flyteagent_nb-"))

    def prefix(self, run_id: str, attempt: int) -> str:
        """The output prefix of an attempt, counted from 1. Its folder may not exist yet, as in a bucket."""
        return f"{self.root}/{run_id}-{attempt}"

    def make(self, prefix: str) -> None:
        """Make the folder of a prefix, for a job that writes into it as into any folder."""
        with contextlib.suppress(FileExistsError):
            try:
                os.mkdir(prefix, 0o700)
            except FileNotFoundError:  # somebody cleaned up temporary folders
                self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.mkdir(prefix, 0o700)

    def write_inputs(self, prefix: str, inputs: LiteralMap) -> None:
        """Write inputs.pb under ``prefix``."""
        self.make(prefix)
        self._write(f"{prefix}/inputs.pb", inputs)

    def _write(self, path: str, literals: LiteralMap) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(literals.SerializeToString())

    def write_outputs(self, prefix: str, outputs: LiteralMap) -> None:
        """Write outputs.pb under ``prefix``, as the job would have; for outputs that came with the reply."""
        self._write(f"{prefix}/outputs.pb", outputs)

    def read_error(self, prefix: str) -> ErrorDocument | None:
        """error.pb under ``prefix``, or None where there is none.

        Raises:
            ValueError: it is there and is not an ErrorDocument.
        """
        document = ErrorDocument()
        return document if _read(f"{prefix}/error.pb", document) else None

    def read_outputs(self, prefix: str) -> LiteralMap | None:
        """outputs.pb under ``prefix``, or None where there is none.

        Raises:
            ValueError: it is there and is not a LiteralMap.
        """
        outputs = LiteralMap()
        return outputs if _read(f"{prefix}/outputs.pb", outputs) else None

    def forget(self, run_id: str, attempts: int) -> None:
        """Remove the folders of a run."""
        for attempt in range(1, attempts + 1):
            shutil.rmtree(f"{self.root}/{run_id}-{attempt}", ignore_errors=True)

    def close(self) -> None:
        """Remove the root where it is ours."""
        if self.is_own:
            shutil.rmtree(self.root, ignore_errors=True)


def _read(path: str, message: Message) -> bool:
    from google.protobuf.message import DecodeError

    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return False
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ValueError(f"{path} is not a {type(message).__name__}: {error}") from error
    return True
