"""Ten thousand malformed requests of every kind: each is answered with a fitting status, and the service serves on as before."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import os
import random
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from flyteidl.admin import agent_pb2 as pb
from flyteidl.core import literals_pb2
from flyteidl.service import agent_pb2
from fuzzing import TIMES, fuzzed
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given
from hypothesis import strategies as st
from protobuf_strategies import messages
from python_path import ROOT, TESTS, python_path
from scripted import template
from scripted_tasks import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH, BATCHES = 4, 420
"""Ten thousand requests, six of a kind; those of a batch are under way at once."""

FITTING = {
    code.value[0]
    for code in (
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,  # an agent's own exception: of a job that it does not know
    )
}

METHODS = [
    (f"/{service.full_name}/{method.name}", method.input_type, method.client_streaming)
    for file in (agent_pb2, health_pb2, reflection_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.name != "Watch"  # its answer has no end
]


class Service:
    """A service in a process of its own, as it stands outside a notebook; for whoever comes."""

    def __init__(self, process: subprocess.Popen[str], target: str, log: Path) -> None:
        self.pid = process.pid
        self.target = target
        self.log = log
        self.channel = grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)])

    def call(self, path: str, requests: list[bytes]) -> Any:
        """Begin a call with raw bytes; requests and answers may be any number."""
        method = self.channel.stream_stream(path, request_serializer=bytes, response_deserializer=bytes)
        return method(iter(requests), timeout=PATIENCE)

    def answers(self) -> bool:
        """Whether it does a task as ever."""
        header = pb.ExecuteTaskSyncRequest(header=pb.CreateRequestHeader(template=template("noop")))
        inputs = pb.ExecuteTaskSyncRequest(inputs=literals_pb2.LiteralMap())
        path = "/flyteidl.service.SyncAgentService/ExecuteTaskSync"
        (answer,) = self.call(path, [header.SerializeToString(), inputs.SerializeToString()])
        return pb.ExecuteTaskSyncResponse.FromString(answer).HasField("header")

    def resident(self) -> float:
        """MiB of memory that it has."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("service") / "log"
    with (
        log.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-m", "flyteagent_nb", "serve", "malformed_agents", "--open"],
            env={**os.environ, "PYTHONPATH": python_path(TESTS, ROOT)},
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        service = Service(process, process.stdout.readline().partition(" ")[0], log)
        try:
            yield service
        finally:
            service.channel.close()
            process.terminate()
            process.wait(60)
    assert "Traceback" not in log.read_text(), log.read_text()[-3000:]


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that were a message once: cut, with one of them changed, or with some in between."""
    at = st.integers(0, max(0, len(data) - 1))
    return st.one_of(
        at.map(lambda i: data[:i]),
        st.tuples(at, st.integers(0, 255)).map(lambda c: data[: c[0]] + bytes([c[1]]) + data[c[0] + 1 :]),
        st.tuples(at, st.binary(min_size=1, max_size=8)).map(lambda c: data[: c[0]] + c[1] + data[c[0] :]),
    )


@st.composite
def requests(draw: Any) -> list[tuple[str, list[bytes]]]:
    """What is sent to methods: a message of one's own, the same damaged, to another method, to none, with bytes, too many, too few.

    One message serves for all of them: to make it takes longer than to answer.
    """
    path, kind, streams = draw(st.sampled_from(METHODS))
    another = draw(st.sampled_from(METHODS))[0]
    nobody = draw(st.sampled_from((path + "x", path.lower(), "/x/y", "/flyteidl.service.SyncAgentService/")))
    own = bytes(draw(messages(kind)).SerializeToString())
    other, raw = bytes(draw(damaged(own))), bytes(draw(st.binary(max_size=60)))
    # A unary call without a message waits for its caller's end, which is gRPC's own way.
    numbers = ([own, other], [raw, own, other], []) if streams else ([own, own],)
    return [
        (path, [own]), (path, [other]), (path, [raw]), (another, [own]), (nobody, [own]), (path, draw(st.sampled_from(numbers))),
    ]  # fmt: skip


def status_of(call: Any) -> tuple[int, str]:
    """How a call ended, whatever it brought."""
    with contextlib.suppress(grpc.RpcError):
        for _ in call:
            pass
    return call.code().value[0], call.details() or ""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_ten_thousand_malformed_requests(service: Service) -> None:
    seen: collections.Counter[int] = collections.Counter()
    wrong: list[Any] = []
    sizes: list[float] = []

    @fuzzed(BATCHES)
    @given(st.lists(requests(), min_size=BATCH, max_size=BATCH))
    def send(batch: list[list[tuple[str, list[bytes]]]]) -> None:
        every = [each for kind in batch for each in kind]
        calls = [service.call(path, sent) for path, sent in every]
        for (path, sent), call in zip(every, calls, strict=True):
            code, details = status_of(call)
            seen[code] += 1
            if code not in FITTING or "Unexpected <class" in details or "Traceback" in details:
                wrong.append((path, sent, code, details))
        sizes.append(service.resident())

    assert service.answers()
    send()
    assert not wrong, f"{len(wrong)}, such as {wrong[:5]}"
    assert sum(seen.values()) >= 10_000 * 0.98 * TIMES  # hypothesis may find that it has seen all there is
    assert seen[grpc.StatusCode.INVALID_ARGUMENT.value[0]] > 500 * TIMES and seen[0] > 100 * TIMES, seen
    assert service.answers()
    # The first tenth of them makes what is made once.
    assert sizes[-1] - sizes[len(sizes) // 10] < 24, sizes[:: len(sizes) // 20]


# --- what is no gRPC at all ---

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAMES = [
    b"",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the hello of TLS
    PREFACE,
    PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + b"\xff" * 100,
    PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",  # a frame of 16 MB that never comes
    PREFACE + b"\x00\x00\x05\x01\x04\x00\x00\x00\x01\xff\xff\xff\xff\xff",  # headers that are none
]


@pytest.mark.slow
def test_bytes_that_are_no_grpc(service: Service) -> None:
    host, _, port = service.target.rpartition(":")
    made = random.Random(7)
    before = service.open_files()

    def send(data: bytes) -> None:
        with contextlib.suppress(ConnectionError), socket.create_connection((host, int(port)), PATIENCE) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(PATIENCE)
            while connection.recv(4096):
                pass

    some = [*FRAMES, *(PREFACE * made.randrange(2) + made.randbytes(made.randrange(200)) for _ in range(493))]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(send, some))) == 500
    assert service.answers()
    until(lambda: service.open_files() <= before + 2)


@pytest.mark.slow
def test_it_is_as_small_as_before(service: Service) -> None:
    """Threads do not grow with what was refused."""
    assert service.threads() < 40
    assert service.answers()
