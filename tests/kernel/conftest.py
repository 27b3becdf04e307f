"""The kernel that the tests of a module share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kernel.harness import LOAD, SCRIPTED, Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel with the extension loaded and the scripted agents registered."""
    with Kernel(tmp_path_factory.mktemp("kernel")) as kernel:
        kernel.ok(LOAD)
        kernel.ok(SCRIPTED)
        yield kernel
        assert "Traceback" not in kernel.log, kernel.log


@pytest.fixture
def new_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Kernel]]:
    """Makes kernels of a test's own, in which nothing is loaded."""
    made: list[Kernel] = []

    def make(**env: str) -> Kernel:
        folder: Path = tmp_path_factory.mktemp("kernel")
        made.append(Kernel(folder, env).__enter__())
        return made[-1]

    yield make
    for kernel in made:
        kernel.__exit__()
