"""A run's folder."""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING

import pytest
from flyteidl.core.errors_pb2 import ErrorDocument
from flyteidl.core.literals_pb2 import LiteralMap

from flyteagent_nb.errors import FlyteAgentNBError
from flyteagent_nb.running.storage import RunStorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def storage() -> Iterator[RunStorage]:
    storage = RunStorage()
    yield storage
    storage.close()


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def inputs() -> LiteralMap:
    made = LiteralMap()
    made.literals["a"].scalar.primitive.string_value = "secret"
    return made


def test_a_prefix_for_each_attempt(storage: RunStorage) -> None:
    assert storage.prefix("ab12", 1) == f"{storage.root}/ab12-1"
    assert storage.prefix("ab12", 2) != storage.prefix("ab12", 1)
    assert not os.path.exists(storage.prefix("ab12", 1))  # as in a bucket


def test_only_the_user_may_look_in(storage: RunStorage) -> None:
    old = os.umask(0)
    try:
        prefix = storage.prefix("ab12", 1)
        storage.write_inputs(prefix, inputs())
    finally:
        os.umask(old)
    assert (mode(storage.root), mode(prefix), mode(f"{prefix}/inputs.pb")) == (0o700, 0o700, 0o600)


def test_inputs_are_written_over(storage: RunStorage) -> None:
    prefix = storage.prefix("ab12", 1)
    storage.make(prefix)
    storage.make(prefix)
    storage.write_inputs(prefix, inputs())
    storage.write_inputs(prefix, LiteralMap())
    with open(f"{prefix}/inputs.pb", "rb") as file:
        assert file.read() == b""


def test_what_a_job_wrote(storage: RunStorage) -> None:
    prefix = storage.prefix("ab12", 1)
    assert storage.read_outputs(prefix) is None and storage.read_error(prefix) is None
    storage.make(prefix)
    assert storage.read_outputs(prefix) is None and storage.read_error(prefix) is None
    with open(f"{prefix}/outputs.pb", "wb") as file:
        file.write(inputs().SerializeToString())
    document = ErrorDocument()
    document.error.code = "X"
    with open(f"{prefix}/error.pb", "wb") as file:
        file.write(document.SerializeToString())
    assert storage.read_outputs(prefix) == inputs() and storage.read_error(prefix) == document


@pytest.mark.parametrize("name", ["outputs", "error"])
def test_what_is_no_protobuf(storage: RunStorage, name: str) -> None:
    prefix = storage.prefix("ab12", 1)
    storage.make(prefix)
    with open(f"{prefix}/{name}.pb", "wb") as file:
        file.write(b"\xff\xff")
    read = storage.read_outputs if name == "outputs" else storage.read_error
    with pytest.raises(ValueError, match=rf"{name}\.pb is not a"):
        read(prefix)


def test_a_disk_that_takes_nothing_is_told(storage: RunStorage) -> None:
    prefix = storage.prefix("ab12", 1)
    storage.make(prefix)
    os.mkdir(f"{prefix}/inputs.pb")
    with open(storage.prefix("cd34", 1), "wb"):
        pass
    for refused in (f"{prefix}/inputs.pb", f"{storage.prefix('cd34', 1)}/inputs.pb"):
        with pytest.raises(FlyteAgentNBError, match=f"{refused} of a run cannot be written: .* directory") as raised:
            storage.write_inputs(os.path.dirname(refused), inputs())
        assert "FLYTEAGENT_NB_RUN_FOLDER" in raised.value.hint


def test_forgetting_a_run_leaves_the_others(storage: RunStorage) -> None:
    for run_id, attempt in (("ab12", 1), ("ab12", 2), ("cd34", 1)):
        storage.make(storage.prefix(run_id, attempt))
    storage.forget("ab12", 2)
    storage.forget("never", 3)
    assert os.listdir(storage.root) == ["cd34-1"]


def test_a_folder_of_ours_goes_and_the_users_stays(tmp_path: Path) -> None:
    own, given = RunStorage(), RunStorage(str(tmp_path / "runs" / "here"))
    assert own.is_own and not given.is_own
    assert given.root == tmp_path / "runs" / "here" and mode(given.root) == 0o700
    given.make(given.prefix("ab12", 1))
    own.close()
    given.close()
    own.close()
    assert not own.root.exists() and os.path.isdir(given.prefix("ab12", 1))


def test_a_home_folder_and_a_relative_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert RunStorage("~/runs").root == tmp_path / "runs"
    assert RunStorage("relative").root == tmp_path / "relative"


def test_a_root_that_somebody_cleaned_up_is_made_again(storage: RunStorage) -> None:
    shutil.rmtree(storage.root)
    prefix = storage.prefix("ab12", 1)
    storage.write_inputs(prefix, inputs())
    assert os.path.exists(f"{prefix}/inputs.pb") and mode(storage.root) == 0o700
