"""The public names, and what importing the package costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import flyteagent_nb


def test_the_names_are_sorted() -> None:
    assert list(flyteagent_nb.__all__) == sorted(flyteagent_nb.__all__)


@pytest.mark.parametrize("name", flyteagent_nb.__all__)
def test_each_name_is_there_and_says_what_it_is(name: str) -> None:
    found = getattr(flyteagent_nb, name)
    assert found.__name__ == name
    assert found.__module__.startswith("flyteagent_nb.")
    assert name in dir(flyteagent_nb)


def test_what_ipython_looks_for_is_there() -> None:
    assert callable(flyteagent_nb.load_ipython_extension)
    assert callable(flyteagent_nb.unload_ipython_extension)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'flyteagent_nb' has no attribute 'sumbit'"):
        flyteagent_nb.sumbit  # noqa: B018 - looking it up is the test


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (
            "import flyteagent_nb",
            "flytekit flyteidl grpc google.protobuf IPython ipykernel ipywidgets traitlets asyncio",
        ),
        ("from flyteagent_nb import *", "flytekit flyteidl grpc google.protobuf IPython ipykernel ipywidgets"),
    ],
)
def test_importing_the_package_imports_nothing_heavy(statement: str, absent: str) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {absent.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.strip() == "[]"
