"""IPython alone, in a terminal: no kernel, no page, text only."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import pytest
from python_path import ROOT, python_path

from kernel.harness import LIMIT, LOAD, SCRIPTED

pexpect = pytest.importorskip("pexpect")

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.name != "posix", reason="no pseudo-terminal")]

PROMPT = r"\r\nIn \[\d+\]: "
_CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")


class Terminal:
    """An IPython session in a pseudo-terminal."""

    def __init__(self, folder: str) -> None:
        env = {
            **os.environ,
            "PYTHONPATH": python_path(ROOT),
            "TERM": "dumb",
            "TMPDIR": folder,
            "FLYTEAGENT_NB_DATA_FOLDER": f"{folder}/data",
            "IPYTHONDIR": f"{folder}/ipython",
        }
        env.pop("GRPC_ENABLE_FORK_SUPPORT", None)
        options = [
            "--simple-prompt",
            "--no-banner",
            "--colors=NoColor",
            "--no-confirm-exit",
            "--HistoryManager.hist_file=:memory:",
        ]
        self.child = pexpect.spawn(
            sys.executable, ["-m", "IPython", *options], env=env, timeout=LIMIT, encoding="utf8", dimensions=(40, 120)
        )
        self.child.expect(r"In \[\d+\]: ")

    def run(self, line: str, *more: str) -> str:
        """Type lines and wait for the next prompt; what was shown."""
        self.child.sendline(line)
        for following in (*more, "", "") if more else ():
            self.child.expect(r"\.\.\.: ")
            self.child.sendline(following)
        return self.shown().partition("\n")[2]  # less the echo of what was typed

    def shown(self) -> str:
        """What is shown until the next prompt."""
        self.child.expect(PROMPT)
        return _CODES.sub("", self.child.before)

    def interrupt(self, line: str) -> str:
        """Type a line that shows GO, press Ctrl-C then, and wait for the prompt; what was shown from GO on."""
        self.child.sendline(line)
        self.child.expect("GO")
        self.child.sendintr()
        return self.shown()


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    folder = tmp_path_factory.mktemp("terminal")
    (folder / "scripted_cell.py").write_text(SCRIPTED)
    terminal = Terminal(str(folder))
    assert terminal.run(LOAD).strip().startswith("flyteagent_nb ")
    assert terminal.run(f"%run -i {folder}/scripted_cell.py").strip() == ""
    yield terminal
    terminal.child.sendline("exit")
    terminal.child.expect(pexpect.EOF)
    terminal.child.close()
    assert terminal.child.exitstatus == 0
    assert [path.name for path in folder.iterdir() if path.name.startswith(("fa-", "flyteagent_nb"))] == []


def test_a_call_and_a_magic(terminal: Terminal) -> None:
    terminal.run("echo = scripted_task('echo', inputs={'a': int}, outputs={'a': int}, name='echo')")
    assert terminal.run("echo(a=3)").strip().endswith(": 3")
    shown = terminal.run("%agent run echo a=4")
    assert "✓ Succeeded  echo  (echo)" in shown and shown.strip().endswith(": 4")
    assert "<" not in shown
    shown = terminal.run("%%agent_task scripted --returns x:str", "outputs: {x: from a cell}")
    assert "✓ Succeeded" in shown and "'from a cell'" in shown


def test_what_an_agent_prints_is_kept_for_its_run(terminal: Terminal) -> None:
    terminal.run("talks = scripted_task(prints={'create': 'word'}, name='talks')")
    assert "word" not in terminal.run("talks()")
    assert terminal.run("%agent logs last").strip().endswith(": word")
    assert terminal.run("print('mine')").strip() == "mine"


def test_the_verbs_read_well_without_a_page(terminal: Terminal) -> None:
    terminal.run("scripted_task('noop', name='nothing')()")
    for line, told in (
        ("%agent", "Scripted Agent"),
        ("%agent types", "scripted"),
        ("%agent runs", "nothing"),
        ("%agent show last", "nothing (noop)"),
        ("%agent help run", "Examples:"),
    ):
        shown = terminal.run(line)
        assert told in shown, (line, shown)
        assert "<div" not in shown and "object at 0x" not in shown
        assert max(len(each) for each in shown.splitlines()) <= 140


def test_an_error_is_a_few_lines(terminal: Terminal) -> None:
    terminal.run("sad = scripted_task(name='sad', phases=['FAILED'], message='it rained')")
    for line in ("sad()", "%agent run sad", "await __import__('asyncio').sleep(0) or sad()"):
        shown = terminal.run(line).strip().splitlines()
        assert shown[0] == "RunFailedError: task 'sad' (scripted) failed: it rained", (line, shown)
        assert len(shown) == 2 and shown[1].startswith("hint: ")
    assert "did you mean scripted?" in terminal.run("%%agent_task scriptd", "{}")


def test_a_shell_command_works_meanwhile(terminal: Terminal) -> None:
    terminal.run("import flyteagent_nb; run = flyteagent_nb.submit(scripted_task(phases=['RUNNING']))")
    assert terminal.run("!echo hi").strip() == "hi"
    terminal.run("run.cancel(); error = run.exception(30)")


@pytest.mark.parametrize("line", ["long()", "%agent run long", "await go()", "await asyncio.gather(go())"])
def test_ctrl_c_stops_the_job(terminal: Terminal, line: str) -> None:
    terminal.run("import asyncio, os, threading; long = scripted_task(phases=['RUNNING'], name='long')")
    terminal.run("exec('async def go():\\n    long()')")
    terminal.run("tell = lambda: until(lambda: scripted.open_jobs) and os.write(1, b'GO')")
    terminal.run("threading.Thread(target=tell, daemon=True).start()")
    shown = terminal.interrupt(line)
    assert re.search(r"Task(Stopped|Cancelled): stopped by the user; run \w+ of long cancelled", shown) or (
        sys.version_info < (3, 11) and "CancelledError" in shown
    ), shown
    assert "Traceback" not in shown or sys.version_info < (3, 11)
    assert terminal.run("scripted.open_jobs").strip().endswith(": []")


@pytest.mark.parametrize("wait", ["__import__('time').sleep(100)", "await __import__('asyncio').sleep(100)"])
def test_ctrl_c_elsewhere_is_as_ever(terminal: Terminal, wait: str) -> None:
    assert "KeyboardInterrupt" in terminal.interrupt(f"__import__('os').write(1, b'G' + b'O') and {wait}")


def test_it_unloads(terminal: Terminal) -> None:
    assert terminal.run("%unload_ext flyteagent_nb").strip() == ""
    assert "not found" in terminal.run("%agent")
    assert terminal.run(LOAD).strip().startswith("flyteagent_nb ")
    assert terminal.run("echo(a=3)").strip().endswith(": 3")
