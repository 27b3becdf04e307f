"""A run's folder: an output prefix for each attempt, with inputs.pb, outputs.pb and error.pb.

Folders are private to the user (mode 0700), files 0600.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyteidl.core.errors_pb2 import ErrorDocument
from flyteidl.core.literals_pb2 import LiteralMap

from flyteagent_nb.errors import FlyteAgentNBError
from flyteagent_nb.folders import private_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

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
            private_folder(self.root)
        else:
            self.root = Path(tempfile.mkdtemp(prefix="flyteagent_nb-"))

    def prefix(self, run_id: str, attempt: int, root: str = "") -> str:
        """The output prefix of an attempt, counted from 1. Its folder may not exist yet, as in a bucket.

        Args:
            run_id: the run.
            attempt: its number.
            root: where a service has a place of its own for outputs, which may be a bucket.
        """
        return f"{root or self.root}/{run_id}-{attempt}"

    def make(self, prefix: str) -> None:
        """Make the folder of a prefix, for a job that writes into it as into any folder.

        Raises:
            FlyteAgentNBError: the disk takes none.
        """
        if is_remote_prefix(prefix):
            return
        with _disk(prefix), contextlib.suppress(FileExistsError):
            try:
                os.mkdir(prefix, 0o700)
            except FileNotFoundError:  # somebody cleaned up temporary folders
                private_folder(self.root)
                os.mkdir(prefix, 0o700)

    def write_inputs(self, prefix: str, inputs: LiteralMap) -> None:
        """Write inputs.pb under ``prefix``.

        Raises:
            FlyteAgentNBError: the disk takes no more.
        """
        self.make(prefix)
        self._write(f"{prefix}/inputs.pb", inputs)

    def _write(self, path: str, literals: LiteralMap) -> None:
        if is_remote_prefix(path):
            with _remote(path, "wb") as file:
                file.write(literals.SerializeToString())
            return
        with _disk(path), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
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
        """Remove the folders of a run, and what it printed."""
        with contextlib.suppress(OSError):
            os.unlink(f"{self.root}/{run_id}.log")
        for attempt in range(1, attempts + 1):
            shutil.rmtree(f"{self.root}/{run_id}-{attempt}", ignore_errors=True)

    def close(self) -> None:
        """Remove the root where it is ours."""
        if self.is_own:
            shutil.rmtree(self.root, ignore_errors=True)


def is_remote_prefix(prefix: str) -> bool:
    """Whether a prefix is in a store that fsspec knows, not in a folder of this machine."""
    return "://" in prefix


@contextlib.contextmanager
def _disk(path: str) -> Iterator[None]:
    """Tell what a disk refuses as what it is: no fault of the task or of its agent."""
    try:
        yield
    except OSError as error:
        raise FlyteAgentNBError(
            f"{path} of a run cannot be written: {error.strerror}",
            hint="free some space there, or set FLYTEAGENT_NB_RUN_FOLDER to another folder and restart the kernel",
        ) from error


def _remote(path: str, mode: str) -> Any:
    """A file in a store, by flytekit's own settings for it (endpoint and keys of S3, for example)."""
    from flytekit import FlyteContextManager

    access = FlyteContextManager.current_context().file_access
    return access.get_filesystem_for_path(path).open(path, mode)


def _read(path: str, message: Message) -> bool:
    from google.protobuf.message import DecodeError

    try:
        if is_remote_prefix(path):
            with _remote(path, "rb") as file:
                data = file.read()
        else:
            data = Path(path).read_bytes()
    except FileNotFoundError:
        return False
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ValueError(f"{path} is not a {type(message).__name__}: {error}") from error
    return True
