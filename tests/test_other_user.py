"""Another user of the same machine gets at nothing, whatever the umask is: no socket, no service, no file."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from python_path import ROOT, python_path

from flyteagent_nb.folders import private_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE = Path(__file__).resolve().parent
LIMIT = 200.0

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no umask, and no user that a process could become")
as_root = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can become another user: CI runs it"
)


@dataclass
class Made:
    """What a process of ours has made, while it runs.

    Attributes:
        base: a folder that everybody may enter, with its home and its temporary folder.
        told: where things are.
    """

    base: Path
    told: Mapping[str, str]

    @property
    def temporary(self) -> Path:
        return self.base / "t"

    def paths(self) -> list[Path]:
        """All that it made, but what is flytekit's own."""
        given = {self.base / "home", self.temporary, self.base / "seen"}
        found = [path for path in self.base.rglob("*") if path not in given]
        return [path for path in found if not path.relative_to(self.base).as_posix().startswith("t/flyte")]


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    """With no umask at all: any other only takes more away."""
    # Not pytest's folder: another user could not enter that, and every test would pass.
    base = Path(tempfile.mkdtemp(prefix="fa-others-", dir="/tmp"))
    base.chmod(0o755)
    (base / "home").mkdir(0o755)
    (base / "t").mkdir()
    (base / "t").chmod(0o1777)
    environment = {
        **os.environ,
        "PYTHONPATH": python_path(ROOT),
        "HOME": str(base / "home"),
        "XDG_DATA_HOME": str(base / "home" / "share"),
        "TMPDIR": str(base / "t"),
    }
    with subprocess.Popen(
        [sys.executable, str(HERE / "private_files.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=base,
        umask=0,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            told = json.loads(process.stdout.readline())
            yield Made(base, told)
            process.stdin.close()
            assert process.wait(LIMIT) == 0
            assert not list((base / "t").glob("fa-*")), "a socket or a sandbox was left behind"
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(base)


@posix
def test_every_file_is_this_users_alone(made: Made) -> None:
    kinds = set()
    loose = []
    for path in made.paths():
        mode = path.lstat().st_mode
        kinds.add(path.name if path.suffix in (".db", ".pb", ".gz", ".sock") else path.suffix or path.name)
        if mode & 0o077 and path.name != "table":  # the test's own stand-in wrote that
            loose.append((path, oct(mode)))
    assert loose == []
    assert kinds >= {"journal.db", ".db-wal", ".lock", ".log", "inputs.pb", "pkl.gz", "agent.sock", "share", "runs"}
    assert [p.name[:10] for p in made.temporary.iterdir() if p.name.startswith("fa-")].count("fa-sandbox") == 1


@posix
def test_every_folder_is_closed(made: Made) -> None:
    folders = [path for path in made.paths() if path.is_dir()]
    assert {path.name for path in folders} >= {"share", "flyteagent_nb", "runs", "owners", "data"}
    assert [path for path in folders if stat.S_IMODE(path.stat().st_mode) != 0o700] == []
    # flytekit's own folders, where its type engine puts tables and files
    for path in made.temporary.glob("flyte*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


@as_root
def test_another_user_gets_at_nothing(made: Made) -> None:
    seen = made.base / "seen"
    seen.write_text("for everybody")
    seen.chmod(0o666)
    paths = [*made.paths(), seen]
    targets = [made.told[name] for name in ("socket", "token", "open")]
    found = other_user({"paths": list(map(str, paths)), "targets": targets, "token": made.told["secret"]})
    tried = found["paths"]
    assert len(tried) == len(paths) > 20
    assert {"stat", "read", "write"} <= set(tried.pop(str(seen)))  # he really tries
    # Where a folder lies may be seen, as its parent is everybody's; nothing of it, and nothing in it.
    tops = {str(path) for path in made.paths() if path.parent in (made.base / "home", made.temporary)}
    assert {path: done for path, done in tried.items() if set(done) - ({"stat"} if path in tops else set())} == {}
    answers = found["targets"]
    assert answers.pop(made.told["open"]).split()[-1] in ("OK", "NOT_FOUND", "OK NOT_FOUND")
    assert answers.pop(made.told["token"]) == "UNAUTHENTICATED"
    assert answers and set(answers.values()) == {"UNAVAILABLE"}
    assert all(target.startswith("unix:") for target in answers)


@as_root
def test_another_user_reads_no_secret_off_the_list_of_processes(made: Made) -> None:
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "private_files.py" in listed and made.told["secret"] not in listed


@pytest.mark.slow
@as_root
def test_a_run_folder_that_everybody_may_enter(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The person's choice: what runs leave there is closed all the same."""
    base = Path(tempfile.mkdtemp(prefix="fa-others-", dir="/tmp"))
    try:
        base.chmod(0o755)
        (base / "runs").mkdir()
        (base / "runs").chmod(0o777)
        environment = {
            **os.environ,
            "PYTHONPATH": python_path(ROOT),
            "FLYTEAGENT_NB_RUN_FOLDER": str(base / "runs"),
            "XDG_DATA_HOME": str(tmp_path_factory.mktemp("share")),
        }
        with subprocess.Popen(
            [sys.executable, str(HERE / "private_files.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=base,
            umask=0,
        ) as process:
            assert process.stdout is not None and process.stdin is not None
            told = json.loads(process.stdout.readline())
            paths = [str(path) for path in (base / "runs").rglob("*")]
            found = other_user({"paths": paths, "targets": [], "token": told["secret"]})["paths"]
            process.stdin.close()
            assert process.wait(LIMIT) == 0
        files = {path: set(done) for path, done in found.items() if Path(path).name != "put"}
        assert len(files) >= 6
        assert [path for path, done in files.items() if done & {"read", "write", "list", "put", "chmod", "link"}] == []
    finally:
        shutil.rmtree(base)


def other_user(what: Mapping[str, Any]) -> Any:
    """What another user could do."""
    done = subprocess.run(
        [sys.executable, str(HERE / "other_user.py")],
        input=json.dumps(what),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@posix
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_private_folder_and_those_above_it(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = private_folder(tmp_path / "a" / "b" / "c")
        private_folder(path)
        for each in (path, path.parent, path.parent.parent):
            assert stat.S_IMODE(each.stat().st_mode) == 0o700
        (tmp_path / "file").touch()
        with pytest.raises(FileExistsError):
            private_folder(tmp_path / "file")
        with pytest.raises(NotADirectoryError):
            private_folder(tmp_path / "file" / "below")
        (tmp_path / "open").mkdir()
        (tmp_path / "open").chmod(0o755)
        private_folder(tmp_path / "open")
        assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o755  # it is somebody's choice
    finally:
        os.umask(before)
