"""How hypothesis is used here: the same examples each time, nothing kept between two times, and no limit of time for one of them.

CI has all of them, whoever runs the tests by hand a tenth; more, and others, with ``FUZZ_TIMES=4 FUZZ_SEED=7``.
"""

from __future__ import annotations

import math
import os
import tempfile
from typing import TYPE_CHECKING, Any, TypeVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

if TYPE_CHECKING:
    from collections.abc import Callable

_folder = tempfile.TemporaryDirectory(prefix="fa-hypothesis-")  # it would be a folder of the repository otherwise
set_hypothesis_home_dir(_folder.name)

TIMES = float(os.environ.get("FUZZ_TIMES") or ("1" if os.environ.get("CI") else "0.1"))
"""How many of the examples there are."""

F = TypeVar("F", bound="Callable[..., Any]")

characters = st.characters(exclude_categories=["Cs"])
"""What UTF-8 has. The default of ``st.text`` is the same, and takes a second to find out which."""


def fuzzed(examples: int) -> Callable[[F], F]:
    """So many examples in CI."""
    given_seed = os.environ.get("FUZZ_SEED", "")
    chosen = settings(
        max_examples=math.ceil(examples * TIMES),
        deadline=None,
        database=None,
        derandomize=not given_seed,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )

    def decorated(test: F) -> F:
        return chosen(seed(int(given_seed))(test) if given_seed else test)

    return decorated
