"""Folders that only this user can enter, whatever the process's umask is."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def private_folder(path: Path) -> Path:
    """Make a folder with mode 0700, and so the missing ones above it: who may write into one of those could put another in its place.

    One that is there is left as it is.

    Raises:
        OSError: it cannot be made, or is a file.
    """
    try:
        os.mkdir(path, 0o700)
    except FileNotFoundError:
        private_folder(path.parent)
        with contextlib.suppress(FileExistsError):  # another process was quicker
            os.mkdir(path, 0o700)
    except FileExistsError:
        if not path.is_dir():
            raise
    return path
