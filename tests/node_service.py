"""An agent service in JavaScript, and a client in it, in a folder that has their packages."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def node_service(folder: Path, address: str = "127.0.0.1:0") -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """An agent service in Node, and its address."""
    with subprocess.Popen(
        ["node", "service.js", address], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def node_client(folder: Path, address: str, token: str = "") -> subprocess.CompletedProcess[str]:
    """What the client in Node says of an agent service."""
    return subprocess.run(
        ["node", "client.js", address],
        cwd=folder,
        env={**os.environ, "TOKEN": token},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
