"""What is shipped: the wheel, the sdist, and a README whose commands can be run."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import flyteagent_nb
from flyteagent_nb.config import FlyteAgentNB
from flyteagent_nb.notebook.grammar import AGENT_TASK, VERB_COMMANDS

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PACKAGE = {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "flyteagent_nb").rglob("*")
    if path.is_file() and path.suffix != ".pyc"
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with sdist and wheel; the wheel is made from the sdist, as an installer without a wheel would."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> set[str]:
    (path,) = built.glob("*.whl")
    return set(zipfile.ZipFile(path).namelist())


@pytest.fixture(scope="module")
def metadata(built: Path) -> Message:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: set[str]) -> None:
    info = f"flyteagent_nb-{flyteagent_nb.__version__}.dist-info"
    assert {n for n in wheel if not n.startswith(info)} == PACKAGE
    assert "flyteagent_nb/py.typed" in wheel
    assert f"{info}/licenses/LICENSE" in wheel


def test_the_sdist_holds_what_it_takes_to_test_it(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert PACKAGE <= names
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "constraints.txt", "tests/conftest.py"} <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_the_metadata_says_what_it_is(metadata: Message) -> None:
    assert metadata["Name"] == "flyteagent_nb"
    assert metadata["Version"] == flyteagent_nb.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert sorted(metadata.get_all("Provides-Extra", [])) == [
        *("bigquery", "duckdb", "lab", "openai", "sandbox", "snowflake", "test")
    ]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == README


def test_the_dependencies_leave_room_for_plug_ins(metadata: Message) -> None:
    """The BigQuery plug-in wants numpy 1 and others protobuf 6: nothing of ours says otherwise, or caps what is not known to break."""
    needed = {
        name: rest
        for line in metadata.get_all("Requires-Dist", [])
        if "extra ==" not in line
        for name, rest in [re.match(r"([\w.-]+)(.*)", line).groups()]  # type: ignore[union-attr]
    }
    assert not {"numpy", "protobuf"} & set(needed)
    assert {name for name, rest in needed.items() if "<" in rest or "==" in rest} == {"flytekit", "flyteidl"}


def test_an_index_would_take_it(built: Path) -> None:
    paths = [str(path) for path in built.iterdir()]
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *paths],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_commands_of_the_readme_name_files_that_exist() -> None:
    named = {word for block in BLOCKS for word in re.findall(r"[\w./-]+\.(?:ipynb|txt|py|toml)\b", block)}
    assert {"constraints.txt", "notebooks/01_first_run.ipynb"} <= named
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def test_the_commands_of_the_readme_name_extras_that_exist(metadata: Message) -> None:
    extras = {e for block in BLOCKS for group in re.findall(r"'\.\[([\w,]+)\]'", block) for e in group.split(",")}
    assert extras == {"lab", "duckdb", "test"} & set(metadata.get_all("Provides-Extra", []))


def test_the_readme_has_every_word_of_the_grammar_and_every_setting() -> None:
    options = [
        f"| `{', '.join(a.names)}{' ' if a.names and a.metavar else ''}{a.metavar}` | {a.help} |"
        for a in AGENT_TASK.arguments
    ]
    verbs = [
        f"| `{' '.join([c.title, *(a.usage for a in c.arguments if a.field != 'help')])}` | {c.summary} |"
        for c in VERB_COMMANDS.values()
    ]
    settings = []
    for name, trait in FlyteAgentNB.class_own_traits(config=True).items():
        default = trait.default()
        settings.append(f"| `{name}` | {'empty' if default == '' else f'`{default}`'} | {trait.help} |")
    lines = set(README.splitlines())
    assert [row for row in (*options, *verbs, *settings) if row not in lines] == []


def test_the_pins_are_names_and_versions_only() -> None:
    pin = re.compile(r"[a-z0-9-]+==[\w.]+( ; .+)?")
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#") and not pin.fullmatch(line)] == []
    assert "://" not in "\n".join(lines)
