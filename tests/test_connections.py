"""Other agent services: connected, routed, configured as propeller has them, gone; the second one is flytekit's own server elsewhere."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from certificates import Authority
from elsewhere_jobs import TASK_TYPE
from flyteidl.admin import agent_pb2 as pb
from flyteidl.core.execution_pb2 import TaskExecution
from flyteidl.core.literals_pb2 import LiteralMap
from scripted import NoopAgent
from scripted_tasks import PATIENCE, scripted_task, until

from flyteagent_nb.errors import (
    ArgumentError,
    RunAbortedError,
    RunFailedError,
    ServiceError,
    ServiceNotFoundError,
    TaskTypeNotFoundError,
)
from flyteagent_nb.loop import get_loop_thread
from flyteagent_nb.notebook.arguments import parse_agent
from flyteagent_nb.notebook.doctor import service_findings
from flyteagent_nb.notebook.record_verbs import RecordVerbs
from flyteagent_nb.notebook.service_verbs import RouteList, ServiceList, ServiceVerbs
from flyteagent_nb.running.channels import TLS
from flyteagent_nb.running.connections import prefix_of, target_of, trouble_of
from flyteagent_nb.running.propeller_config import PropellerConfig, ServiceSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scripted_tasks import Agents

    from flyteagent_nb.running.routing import Connection
    from flyteagent_nb.workspace import Workspace

pytest_plugins = ("fixtures_workspace",)


def elsewhere(*targets: str) -> contextlib.AbstractContextManager[tuple[str, subprocess.Popen[str]]]:
    """A service in another process, flytekit's own, and its address."""
    return _process("service_process.py", *targets)


def quick(
    folder: Path, target: str = "127.0.0.1:0"
) -> contextlib.AbstractContextManager[tuple[str, subprocess.Popen[str]]]:
    """One of another kind, there in a moment, as it does without flytekit: its one type is TASK_TYPE, its jobs are done at once."""
    (folder / "go").touch()
    return _process("elsewhere_jobs.py", str(folder), target)


@contextlib.contextmanager
def _process(script: str, *words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    path = os.path.join(os.path.dirname(__file__), script)
    with subprocess.Popen(
        [sys.executable, path, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with elsewhere() as (address, _):
        yield address


@pytest.fixture(autouse=True)
def nothing_connected(workspace: Workspace) -> Iterator[None]:
    yield
    for task_type, version in workspace.runner.router.routes():
        workspace.connections.route(task_type, version, None)
    for each in workspace.runner.router.connections()[1:]:
        workspace.connections.disconnect(each.name)


def service_of(workspace: Workspace, task_type: str, **options: str) -> str:
    """Where a run of the type went."""
    run = workspace.submit(scripted_task(task_type), {}, **options)  # type: ignore[arg-type]
    run.result(PATIENCE)
    return run.service


def test_what_only_the_other_one_lists_goes_there(workspace: Workspace, address: str) -> None:
    with pytest.raises(TaskTypeNotFoundError):
        service_of(workspace, "only_there")
    made = workspace.connections.connect("dev", address)
    assert (made.name, made.target, made.is_default, made.trouble) == ("dev", address, False, "")
    assert service_of(workspace, "only_there") == "dev"
    assert service_of(workspace, "only_there", service="dev") == "dev"
    with pytest.raises(TaskTypeNotFoundError, match="the agent service 'kernel' serves no"):
        service_of(workspace, "only_there", service="kernel")
    workspace.connections.disconnect("dev")
    with pytest.raises(TaskTypeNotFoundError):
        service_of(workspace, "only_there")


def test_the_order_of_who_gets_a_task(workspace: Workspace, address: str) -> None:
    workspace.catalog.register(NoopAgent())  # a module's agent, not the notebook's
    assert service_of(workspace, "noop") == "kernel"
    connections = workspace.connections
    connections.connect("dev", address)
    assert service_of(workspace, "noop") == "dev"  # what a connected service lists comes first
    assert service_of(workspace, "noop", service="kernel") == "kernel"
    connections.route("noop", None, "kernel")
    assert service_of(workspace, "noop") == "kernel"
    connections.route("noop", 0, "dev")  # the version's own route counts for more
    assert service_of(workspace, "noop") == "dev"
    connections.route("noop", 0, None)
    connections.route("noop", None, None)
    in_notebook = type("InNotebook", (NoopAgent,), {"__module__": "__main__"})
    workspace.catalog.register(in_notebook())
    assert service_of(workspace, "noop") == "kernel"
    table = connections.table()
    assert (table["noop", 0].service.name, table["noop", 0].reason) == ("kernel", "notebook")
    assert (table["only_there", 0].service.name, table["only_there", 0].reason) == ("dev", "listed")
    told = RouteList(table).text()
    assert "defined in this notebook" in told and "it lists it" in told
    workspace.remove("noop")


def test_the_last_one_connected_wins_and_a_name_can_be_taken_anew(workspace: Workspace, tmp_path: Path) -> None:
    with quick(tmp_path) as (address, _):
        with quick(tmp_path) as (other, _):
            workspace.connections.connect("one", address)
            workspace.connections.connect("two", other)
            assert service_of(workspace, TASK_TYPE) == "two"
            workspace.connections.connect("two", address)
            assert [each.target for each in workspace.runner.router.connections()[1:]] == [address, address]
        assert service_of(workspace, TASK_TYPE) == "two"


def test_a_run_stays_with_the_service_that_made_its_job(workspace: Workspace, agents: Agents, address: str) -> None:
    """Another one that comes to list the type knows nothing of the job, or another job by the same id."""
    task = scripted_task(phases=["RUNNING"], outputs={"x": str})
    ends, stops = (workspace.submit(task, {}) for _ in range(2))
    until(lambda: ends.phase == stops.phase == "RUNNING")
    workspace.connections.connect("dev", address)
    assert service_of(workspace, "scripted") == "dev"
    stops.cancel()
    assert isinstance(stops.exception(PATIENCE), RunAbortedError) and not stops.snapshot.notes
    job = agents.scripted.jobs[agents.scripted.open_jobs[0]]
    job.script.update(phases=["SUCCEEDED"], outputs={"x": "of the kernel"})
    assert ends.result(PATIENCE) == "of the kernel" and ends.service == "kernel"
    assert agents.scripted.open_jobs == [] and agents.scripted.count("delete") == 1


@pytest.mark.parametrize("how", ["connected again", "disconnected"])
def test_what_is_under_way_goes_on_where_its_service_is(workspace: Workspace, address: str, how: str) -> None:
    workspace.connections.connect("dev", address)
    polled = workspace.submit(scripted_task("only_there", phases=["RUNNING", "SUCCEEDED"], seconds=1.5), {})
    creating = workspace.submit(scripted_task("only_there", sleeps={"create": 1.0, "get": 0.3}), {})
    doing = workspace.submit(scripted_task("do", sleeps={"do": 1.0}), {}, service="dev")
    until(lambda: polled.phase == "RUNNING")
    if how == "disconnected":
        workspace.connections.disconnect("dev")
    else:
        workspace.connections.connect("dev", address)
    for run in (polled, creating, doing):
        run.result(PATIENCE)
        assert (run.phase, run.snapshot.notes) == ("SUCCEEDED", ())


def test_nobody_waits_for_a_service_that_hangs(workspace: Workspace, agents: Agents, tmp_path: Path) -> None:
    with quick(tmp_path) as (address, process), concurrent.futures.ThreadPoolExecutor(1) as pool:
        workspace.connections.connect("dev", address)
        process.send_signal(signal.SIGSTOP)
        listing = pool.submit(workspace.connections.table)
        for _ in range(3):
            assert service_of(workspace, "noop") == "kernel"
        assert not listing.done()
        process.kill()
        assert (TASK_TYPE, 0) in listing.result(PATIENCE)


def test_several_addresses_take_turns(workspace: Workspace, tmp_path: Path) -> None:
    with quick(tmp_path) as (address, one), quick(tmp_path) as (other, two):
        made = workspace.connections.connect("both", f"{address},{other.replace('127.0.0.1', 'localhost')}")
        assert made.target == f"ipv4:{address},{other}"

        def makers() -> set[int]:
            """Who made a job so far: one more is made."""
            assert service_of(workspace, TASK_TYPE) == "both"
            return {int(job.name.split("-")[1]) for job in tmp_path.glob("job-*")}

        until(lambda: makers() == {one.pid, two.pid})  # the second one is dialled a moment later
        two.kill()
        two.wait()
        for job in tmp_path.glob("job-*"):
            job.unlink()
        assert makers() == {one.pid}  # one of two is left


def test_a_service_that_is_gone_keeps_its_listing_and_shows_since_when(workspace: Workspace, tmp_path: Path) -> None:
    with quick(tmp_path) as (address, process):
        workspace.connections.connect("dev", address)
        process.kill()
        process.wait()
        with pytest.raises(RunFailedError, match="UNAVAILABLE"):
            service_of(workspace, TASK_TYPE)
        get_loop_thread().run(workspace.runner.router.refresh())
        (_, dev) = connections = workspace.runner.router.connections()
        assert dev.types == 1 and dev.unreachable and "UNAVAILABLE" in dev.trouble
        assert "✗ unreachable since" in ServiceList(connections).text()
        assert any(f"'dev' at {address} does not answer" in finding.told for finding in service_findings(workspace))
        assert workspace.connections.table()[TASK_TYPE, 0].service.name == "dev"


def test_a_service_that_comes_back_on_its_port_is_used_again(workspace: Workspace, tmp_path: Path) -> None:
    def dev() -> Connection:
        get_loop_thread().run(workspace.runner.router.refresh())
        return workspace.connections.find("dev")

    with quick(tmp_path) as (address, process):
        workspace.connections.connect("dev", address)
        process.kill()
        process.wait()
    gone = dev()
    assert gone.unreachable and dev().unreachable == gone.unreachable and gone.types == 1
    with quick(tmp_path, address) as (again, _):
        assert again == address
        until(lambda: not dev().trouble)
        assert dev().unreachable is None
        assert service_of(workspace, TASK_TYPE) == "dev"


def test_propeller_s_configuration(workspace: Workspace, address: str) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    config = PropellerConfig(
        "agent-service",
        default=ServiceSettings(address, insecure=True, timeouts={"GetTask": 5.0}, default_timeout=7.0),
        services={"gone": ServiceSettings(nobody, insecure=True), "named": ServiceSettings(address, insecure=True)},
        routes={"echo": "named"},
        supported=("filled",),
    )
    default, gone, named = workspace.connections.connect_all(config, None)
    assert default.is_default and not named.is_default and "Connection refused" in gone.trouble
    table = workspace.connections.table()
    assert (table["echo", 0].service.name, table["echo", 0].reason) == ("named", "explicit")
    assert table["only_there", 0].service.name == "named"  # rule 1: a named one is over the default
    assert (table["filled", 0].service.name, table["filled", 0].reason) == ("default", "supported")
    router = workspace.runner.router
    unknown = get_loop_thread().run(router.resolve("nobody_lists_this", 3))
    assert (unknown.service.name, unknown.reason, unknown.is_sync) == ("default", "default", False)
    assert unknown.service.deadlines == {"GetTask": 5.0, "": 7.0}


def test_what_goes_with_a_configuration_s_services(workspace: Workspace, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours")
    own, key = authority.issue("127.0.0.1")
    with open(own, "rb") as chain, open(key, "rb") as secret, open(authority.file, "rb") as roots:
        pair = [(secret.read(), chain.read())]
        credentials = grpc.ssl_server_credentials(pair, roots.read(), require_client_auth=True)
    verbs, source = ServiceVerbs(workspace), tmp_path / "propeller.yaml"

    def connect(options: str) -> ServiceList:
        made = verbs.connect(parse_agent(f"connect {options}"))
        assert isinstance(made, ServiceList)
        return made

    with answering(credentials=credentials) as there:
        source.write_text(f"agent-service: {{agents: {{mine: {{endpoint: '{there}'}}}}}}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", authority.file)  # so that no --ca is needed
            (mine,) = connect(f"--from {source} --cert {own} --key {key} --outputs s3://bucket/runs")
        service = workspace.runner.router.connected("mine")
        assert service is not None and service.outputs == "s3://bucket/runs"
        assert (mine.types, mine.trouble) == (1, "")
        for option in ("--token-file x", "--deadline GetTask=5s"):
            with pytest.raises(ArgumentError, match="is for one service"):
                connect(f"--from {source} {option}")
        with pytest.raises(ServiceError, match="a key is given without its certificate"):
            connect(f"one {there} --key {key}")
    source.write_text("agent-service: {agents: {kernel: {endpoint: 'a:1'}}}")
    with pytest.raises(ArgumentError, match="this notebook's own service"):
        connect(f"--from {source}")


@pytest.mark.parametrize(
    ("held", "told"),
    [("", "is empty"), ("name\nto-ken", "has several lines"), ("t\u00f6ken", "a character that no token has"), ("t\tn", "a character")],
)  # fmt: skip
def test_a_file_that_holds_no_token(workspace: Workspace, tmp_path: Path, held: str, told: str) -> None:
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(held, encoding="utf-8")
    with pytest.raises(ArgumentError, match=told) as e:
        ServiceVerbs(workspace).connect(parse_agent(f"connect dev 127.0.0.1:1 --token-file {file}"))
    assert not held or held not in str(e.value)


def test_what_does_not_do(workspace: Workspace, address: str) -> None:
    connections = workspace.connections
    with pytest.raises(ArgumentError, match="this notebook's own service"):
        connections.connect("kernel", address)
    connections.connect("dev", address)
    for wrong in (lambda: connections.disconnect("dve"), lambda: connections.route("noop", None, "dve")):
        with pytest.raises(ServiceNotFoundError) as e:
            wrong()
        assert e.value.suggestion == "dev"
    with pytest.raises(TaskTypeNotFoundError, match="no route of 'noop'"):
        connections.route("noop", None, None)
    with pytest.raises(ServiceNotFoundError):
        connections.disconnect("kernel")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def speaking(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_service_that_is_no_agent_service_is_not_connected(workspace: Workspace) -> None:
    connect = workspace.connections.connect
    with pytest.raises(ServiceError, match=r"is not there: nobody listens .*Connection refused"):
        connect("x", f"127.0.0.1:{free_port()}")
    with (
        speaking(Quiet) as web,
        pytest.raises(ServiceError, match=r"speaks something else than gRPC|closes the connection"),
    ):
        connect("x", web)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(ServiceError, match="is a gRPC service without agents"):
            connect("x", f"127.0.0.1:{port}")
    finally:
        server.stop(None).wait()
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.MonkeyPatch.context() as patch:
        patch.setattr("flyteagent_nb.running.connections.CONNECT_WAIT", 0.5)
        with pytest.raises(ServiceError, match=r"does not answer within 0.5 s") as e:
            connect("x", f"127.0.0.1:{silent.getsockname()[1]}")
        assert "it may be no gRPC service" in e.value.hint
    with pytest.raises(ServiceError, match="asks for a token"):
        connect("x", workspace.serve(0).target)
    workspace.stop_serving()
    assert len(workspace.runner.router.connections()) == 1


CREATED = pb.CreateTaskResponse(resource_meta=b"m").SerializeToString()
DONE = pb.GetTaskResponse(resource=pb.Resource(phase=TaskExecution.SUCCEEDED)).SerializeToString()


class Answering(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A service that answers each of its methods with bytes, or with what a function makes of the request; a stream with an iterator."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers

    def service(self, details: Any) -> Any:
        answer = self._answers.get(details.method.rpartition("/")[2])
        if answer is None:
            return None
        if details.method.endswith("/ExecuteTaskSync"):
            return grpc.stream_stream_rpc_method_handler(lambda requests, context: answer(requests))
        if details.method.endswith("/GetTaskLogs"):
            return grpc.unary_stream_rpc_method_handler(
                lambda request, context: answer(request) if callable(answer) else iter([answer])
            )
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: answer(request) if callable(answer) else answer
        )


@contextlib.contextmanager
def answering(*, is_sync: bool = False, credentials: Any = None, **answers: Any) -> Iterator[str]:
    category = pb.TaskCategory(name="answered")
    listing = pb.ListAgentsResponse(agents=[pb.Agent(name="a", is_sync=is_sync, supported_task_categories=[category])])
    answers.setdefault("ListAgents", listing.SerializeToString())
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), handlers=[Answering(answers)])
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_a_sync_service_may_keep_its_stream_open_or_send_more(workspace: Workspace) -> None:
    ended = threading.Event()
    resource = pb.Resource(phase=TaskExecution.SUCCEEDED)
    header = pb.ExecuteTaskSyncResponse(header=pb.ExecuteTaskSyncResponseHeader(resource=resource))
    outputs = pb.ExecuteTaskSyncResponse(outputs=LiteralMap())

    def execute(requests: Iterator[bytes]) -> Iterator[bytes]:
        list(requests)
        yield header.SerializeToString()
        yield outputs.SerializeToString()
        ended.wait(PATIENCE)

    workspace.config.deadlines = {"ExecuteTaskSync": 4 * PATIENCE}
    with answering(is_sync=True, ExecuteTaskSync=execute) as there:
        workspace.connections.connect("dev", there)
        try:
            assert workspace.submit(scripted_task("answered"), {}).result(PATIENCE) is None
            assert not ended.is_set()
        finally:
            ended.set()


def test_a_service_s_own_deadline_is_not_one_of_the_settings(workspace: Workspace) -> None:
    ended = threading.Event()
    with answering(CreateTask=lambda request: ended.wait(PATIENCE)) as there:
        workspace.connections.connect("dev", there, deadlines={"CreateTask": 0.2})
        with pytest.raises(RunFailedError, match=r"its deadline, 0.2 s \(with which 'dev' was connected") as e:
            workspace.submit(scripted_task("answered"), {}).result(PATIENCE)
        ended.set()
    assert "--deadline CreateTask=60s" in e.value.message and "%config" not in e.value.message


def test_an_answer_that_cannot_be_read(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    garbage, told = b"\xff\xff\xff", "the service's answer cannot be read"
    connect = workspace.connections.connect
    with answering(ListAgents=garbage) as there, pytest.raises(ServiceError, match=told):
        connect("dev", there)
    with answering(CreateTask=garbage) as there:
        connect("dev", there)
        run = workspace.submit(scripted_task("answered"), {})
        with pytest.raises(RunFailedError, match=told):
            run.result(PATIENCE)
        assert "it may have made a job" in run.snapshot.notes[0]
    with answering(CreateTask=CREATED, GetTask=garbage, DeleteTask=b"") as there:
        connect("dev", there)
        run = workspace.submit(scripted_task("answered"), {})
        until(lambda: told in run.snapshot.message)  # it is asked again, as after any failure of a poll
        run.cancel()
        run.exception(PATIENCE)
    with answering(CreateTask=CREATED, GetTask=DONE, GetTaskLogs=garbage) as there:
        connect("dev", there)
        run = workspace.submit(scripted_task("answered"), {})
        assert run.result(PATIENCE) is None
        with pytest.raises(ServiceError, match=told):
            run.logs()
    assert "Traceback" not in caplog.text


def test_a_service_older_than_listings_serves_what_is_routed_to_it(workspace: Workspace) -> None:
    with answering(ListAgents=None, CreateTask=CREATED, GetTask=DONE) as there:
        old = {"old": ServiceSettings(there, insecure=True)}
        made = workspace.connections.connect_all(PropellerConfig("agent-service", None, old, {"routed": "old"}), None)
        assert (made[0].trouble, made[0].unreachable) == ("", None)
        assert "✓ answers, and lists no types" in ServiceList(made).text()
        assert service_of(workspace, "routed") == service_of(workspace, "routed", service="old") == "old"
        with pytest.raises(TaskTypeNotFoundError, match="no agent serves the task type 'rooted'"):
            service_of(workspace, "rooted")


def test_of_a_log_that_breaks_off_what_came_is_shown(workspace: Workspace) -> None:

    def log(request: bytes) -> Iterator[bytes]:
        yield pb.GetTaskLogsResponse(body=pb.GetTaskLogsResponseBody(results=["one"])).SerializeToString()
        raise RuntimeError("no more")

    with answering(CreateTask=CREATED, GetTask=DONE, GetTaskLogs=log) as there:
        workspace.connections.connect("dev", there)
        run = workspace.submit(scripted_task("answered"), {})
        run.result(PATIENCE)
        line, end = run.logs()
    assert line == "one" and "what more there is did not come: UNKNOWN" in end and "no more" in end


@pytest.mark.parametrize("breaks", [False, True])
def test_what_another_service_says_of_a_secret_is_masked(workspace: Workspace, breaks: bool) -> None:
    listing = pb.ListAgentsResponse(agents=[pb.Agent(name="a", supported_task_types=["answered"])])
    answers = [listing.SerializeToString()] * 2

    def list_agents(request: bytes) -> bytes:
        if answers:
            return answers.pop()
        raise RuntimeError("no more for tok-0123456789")

    def log(request: bytes) -> Iterator[bytes]:
        body = pb.GetTaskLogsResponseBody(results=["called with tok-0123456789"])
        yield pb.GetTaskLogsResponse(body=body).SerializeToString()
        if breaks:
            raise RuntimeError("tok-0123456789 has expired")

    workspace.masking.add("tok-0123456789")
    try:
        with answering(CreateTask=CREATED, GetTask=DONE, GetTaskLogs=log, ListAgents=list_agents) as there:
            workspace.connections.connect("dev", there)
            run = workspace.submit(scripted_task("answered"), {})
            run.result(PATIENCE)
            first, *rest = run.logs()
            workspace.connections.table()
        assert first == "called with ***" and ["*** has expired" in line for line in rest] == [True] * breaks
        assert "no more for ***" in workspace.connections.find("dev").trouble
        with pytest.raises(ServiceError, match=r"no more for \*\*\*"):
            workspace.submit(scripted_task("nobody-has-it"), {}).result(PATIENCE)
    finally:
        workspace.masking.discard("tok-0123456789")


def test_a_log_that_comes_in_both_fields_is_read_once(workspace: Workspace) -> None:
    body = pb.GetTaskLogsResponseBody(results=["one", "two"])
    for line in ("one", "two"):
        body.structured_lines.add(message=line)
    log = pb.GetTaskLogsResponse(body=body).SerializeToString()
    with answering(CreateTask=CREATED, GetTask=DONE, GetTaskLogs=log) as there:
        workspace.connections.connect("dev", there)
        run = workspace.submit(scripted_task("answered"), {})
        run.result(PATIENCE)
        assert run.logs() == ["one", "two"]


def test_where_a_service_has_no_log_it_is_not_said_that_nothing_was_printed(workspace: Workspace) -> None:
    verbs = RecordVerbs(workspace, None)
    with answering(CreateTask=CREATED, GetTask=DONE, GetTaskLogs=None) as there:
        workspace.connections.connect("dev", there)
        workspace.submit(scripted_task("answered"), {}).result(PATIENCE)
        told = "the agent service 'dev' hands out no log of this job; what its agent prints stays there"
        assert str(verbs.logs(parse_agent("logs last"))) == told
    workspace.catalog.register(NoopAgent())
    workspace.submit(scripted_task("noop"), {}).result(PATIENCE)
    assert str(verbs.logs(parse_agent("logs last"))) == "nothing was printed or logged"


def test_a_certificate_that_does_not_fit(workspace: Workspace, tmp_path: Path) -> None:
    connect, authority, other = (
        workspace.connections.connect,
        Authority(tmp_path / "ours"),
        Authority(tmp_path / "other"),
    )
    for name, trusted, told in (
        ("127.0.0.1", other, "has a certificate that does not fit"),
        ("elsewhere.example", authority, "has the certificate of another name"),
    ):
        certificate, key = authority.issue(name)
        address = workspace.serve(0, open=True, certificate=certificate, key=key).target
        with pytest.raises(ServiceError, match=told) as e:
            connect("x", address, tls=TLS(trusted.file))
        assert e.value.hint
        with pytest.raises(ServiceError, match=r"closes the connection|speaks something else"):  # in plain text
            connect("x", address)
        workspace.stop_serving()


def test_several_addresses_of_one_host_show_its_certificate(workspace: Workspace, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours")
    certificate, key = authority.issue("localhost")
    with open(certificate, "rb") as chain, open(key, "rb") as secret:
        credentials = grpc.ssl_server_credentials([(secret.read(), chain.read())])
    with answering(credentials=credentials) as one, answering(credentials=credentials) as two:
        both = f"{one},{two}".replace("127.0.0.1", "localhost")
        assert workspace.connections.connect("both", both, tls=TLS(authority.file)).types == 1


@pytest.mark.parametrize(
    ("address", "target"),
    [("h:1", "h:1"), ("dns:///h:1", "dns:///h:1"), ("unix:/a", "unix:/a"), ("[::1]:1", "[::1]:1"),
     ("127.0.0.1:1,127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2"),
     ("[::1]:1, [::2]:2", "ipv6:[::1]:1,[::2]:2"), ("ipv6:[::1]:1,[::2]:2", "ipv6:[::1]:1,[::2]:2")],
)  # fmt: skip
def test_an_address(address: str, target: str) -> None:
    assert target_of(address) == target


@pytest.mark.parametrize(
    "address",
    ["h", "https://h:1", "h:x", ":1", "a:1,b", "h:99999", "h:0", "127.0.0.1:1,127.0.0.1:99999",
     "[::1]", "[::1]:99999", "::1:80", "[::1]:1,127.0.0.1:1"],
)  # fmt: skip
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ArgumentError):
        target_of(address)


def test_a_folder_for_outputs_is_made_and_a_store_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert prefix_of("~/a/b") == prefix_of("a/b/") == str(tmp_path / "a/b") and (tmp_path / "a/b").is_dir()
    for outputs in ("", "s3://bucket", "gs://bucket/runs"):
        assert prefix_of(outputs) == outputs
    (tmp_path / "file").touch()
    for outputs, told in (
        ("s3:/bucket", "no folder's path"),
        ("s3://", "names no bucket"),
        ("s4://bucket", "no store is called s4"),
        ("file/a", "cannot be made"),
    ):
        with pytest.raises(ArgumentError, match=told):
            prefix_of(outputs)


@pytest.mark.parametrize(
    ("code", "details", "told"),
    [
        ("UNAVAILABLE", "SSL_ERROR_SSL: error:1000007d:CERTIFICATE_VERIFY_FAILED: self signed", "a certificate that does not fit"),
        ("UNAVAILABLE", "SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED: certificate has expired: OK", "that has expired"),
        ("UNAVAILABLE", "Peer name h is not in peer certificate", "the certificate of another name"),
        ("UNAVAILABLE", "SSL_ERROR_SSL: WRONG_VERSION_NUMBER", "does not do with this encryption"),
        ("UNAVAILABLE", "Trying to connect an http1.x server", "speaks something else than gRPC"),
        ("DEADLINE_EXCEEDED", "", "does not answer within 15 s"),
        ("INTERNAL", "boom\nmore", "does not list its agents (INTERNAL: boom)"),
    ],
)  # fmt: skip
def test_a_trouble_in_words(code: str, details: str, told: str) -> None:
    assert told in trouble_of(code, details)[0]


def test_what_a_connection_that_is_closed_may_want() -> None:
    for tls, hint in (
        (None, "--tls where"),
        (TLS(), "--cert FILE --key FILE"),
        (TLS("", "a", "b"), "not trust the certificate"),
    ):
        assert hint in trouble_of("UNAVAILABLE", "Socket closed", tls)[1]


def test_the_kernel_s_service_is_found_again_after_a_change(workspace: Workspace, address: str) -> None:
    workspace.connections.connect("dev", address)
    workspace.catalog.register(NoopAgent("late"))
    assert service_of(workspace, "late") == "kernel"
    workspace.remove("late")
    until(lambda: not workspace.runner.active)
