"""``%agent serve`` in a notebook: who is let in is said, and no token is shown or saved."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING

import pytest
from certificates import Authority

from kernel.harness import LOAD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kernel.harness import Kernel

pytestmark = pytest.mark.kernel


@pytest.fixture
def closed(kernel: Kernel) -> Iterator[Kernel]:
    yield kernel
    kernel.ok("%agent stop")


def test_an_open_address_warns_also_where_nothing_is_shown(closed: Kernel) -> None:
    cell = closed.ok("served = %agent serve --port 0 --open")
    assert cell.stdout == "" and cell.result == {}
    address = closed.value("served.address").strip("'")
    assert address.startswith("127.0.0.1:") and closed.value("served.token is None") == "True"
    assert cell.stderr.startswith(
        f"warning: open: whoever reaches {address} can run code in this kernel, with its credentials"
    )
    assert f"%agent stop {address} closes it" in cell.stderr
    cell = closed.ok("served = %agent serve --port 0")
    assert cell.stderr == "" and closed.value("served.address").startswith("'127.0.0.1:")
    found = closed.ok("%agent doctor").text
    assert "asks nobody for a token: whoever reaches it can run code in this kernel" in found


def test_all_interfaces_only_where_they_are_asked_for(closed: Kernel) -> None:
    cell = closed.ok("served = %agent serve --port 0 --host 0.0.0.0 --open\nserved")
    assert "warning: open: whoever reaches 0.0.0.0:" in cell.stderr and "0.0.0.0:" in cell.text
    closed.ok("%agent stop")
    closed.ok("served = %agent serve --port 0 --host 0.0.0.0")
    assert "travels in plain text" in closed.ok("%agent doctor").text


def test_no_output_shows_the_token(closed: Kernel) -> None:
    cells = [
        closed.ok(code)
        for code in (
            "served = %agent serve --port 0",
            "served",
            "served.token",
            "[served.token]",
            "{'token': served.token}",
            "vars(served)",
            "%agent",
            "%agent doctor",
            "import flyteagent_nb; w = flyteagent_nb.get_workspace(); w.addresses()",
            "w.host.addresses, w.host, w.runner.router, vars(w.host)",
            "%whos",
        )
    ]
    closed.ok("%xmode Verbose")
    cells.append(
        closed.run("def f(token, s):\n    kept = {'t': token}\n    raise ValueError(kept)\nf(served.token, served)")
    )
    closed.ok("%xmode Context")
    assert cells[-1].status == "error"
    tokens = json.loads(
        closed.ok("import json; print(json.dumps([str(a.token) for a in w.addresses() if a.token]))").stdout
    )
    assert tokens and not any(token in str(cell) + json.dumps(cell.outputs) for token in tokens for cell in cells)


def test_a_token_that_an_agent_prints_is_masked(closed: Kernel) -> None:
    closed.ok("served = %agent serve --port 0")
    closed.ok(
        "from scripted_tasks import scripted_task\ntask = scripted_task(prints={'get': f'it is {str(served.token)}'})"
    )
    closed.ok("%agent run task")
    assert closed.ok("%agent logs last").text == "it is ***"


def test_tls(closed: Kernel, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.issue("127.0.0.1")
    cell = closed.ok(f"served = %agent serve --port 0 --cert {certificate} --key {key}\nserved")
    assert f"TLS, with the certificate in {certificate}" in cell.text
    host, port = closed.value("served.address").strip("'").split(":")
    assert authority.name.rfc4514_string()  # whose certificate it is, as a client sees it
    shown = ssl.get_server_certificate((host, int(port)), ca_certs=authority.file)
    assert shown.split() == (tmp_path / "authority" / "127.0.0.1.crt").read_text().split()
    doctor = closed.ok("%agent doctor").text
    assert f"{host}:{port} answers in" in doctor and "over TLS" in doctor


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--cert {certificate}", "--cert is given without --key"),
        ("--key {key}", "--key is given without --cert"),
        ("--cert {certificate} --key {other}", "is not that of the certificate"),
        ("--cert {folder}/none.pem --key {key}", "none.pem cannot be read: No such file"),
    ],
)
def test_a_pair_that_does_not_do(closed: Kernel, tmp_path: Path, line: str, words: str) -> None:
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.issue("127.0.0.1")
    _, other = authority.issue("127.0.0.1")
    line = line.format(certificate=certificate, key=key, other=other, folder=tmp_path)
    cell = closed.fails(f"%agent serve --port 0 {line}")
    assert words in cell.error and cell.kinds == ["error"]
    assert (
        closed.value(
            "[a for a in flyteagent_nb.get_workspace().addresses() if a.kind != 'private']".replace(
                "flyteagent_nb.get", "__import__('flyteagent_nb').get"
            )
        )
        == "[]"
    )


def test_the_private_address_of_a_kernel_without_sockets(new_kernel: Callable[..., Kernel]) -> None:
    kernel = new_kernel(FLYTEAGENT_NB_TCP="1")
    kernel.ok(LOAD)
    told = kernel.ok("%agent doctor").text
    assert "asks for its token" in told and "plain text" not in told
    token = kernel.value("str(__import__('flyteagent_nb').get_workspace().addresses()[0].token)").strip("'")
    assert len(token) >= 32 and token not in told
