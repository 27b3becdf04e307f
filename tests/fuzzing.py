"""How hypothesis is used here: the same examples each time, nothing kept between two times, and no limit of time for one of them."""

from __future__ import annotations

import tempfile

from hypothesis import HealthCheck, Phase, settings
from hypothesis.configuration import set_hypothesis_home_dir

_folder = tempfile.TemporaryDirectory(prefix="fa-hypothesis-")  # it would be a folder of the repository otherwise
set_hypothesis_home_dir(_folder.name)


def fuzzed(examples: int) -> settings:
    """The settings for so many examples."""
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
