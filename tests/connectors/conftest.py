"""The service and the kernel that the tests of a module share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import connector_services
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel.harness import Kernel


@pytest.fixture
def web() -> Iterator[connector_services.Answers]:
    """An HTTP service in this process, beside the kernel's."""
    with connector_services.http_service() as answers:
        yield answers


@pytest.fixture(autouse=True)
def nothing_goes_on(kernel: Kernel) -> Iterator[None]:
    """Stop what a test has left running, and put the settings back."""
    yield
    kernel.ok("for run in runs():\n    if not run.done: run.cancel()\n%config FlyteAgentNB.deadlines = {}")
    kernel.ok("%config FlyteAgentNB.poll_failure_limit = 60.0")
