"""Values known as secret do not show, whatever they stand in; and other texts stay as they are."""

from __future__ import annotations

import base64
import html
import json
import re
import urllib.parse
from typing import TYPE_CHECKING

import pytest
from flyteidl.admin import agent_pb2 as pb
from flyteidl.core import execution_pb2, literals_pb2, tasks_pb2
from google.protobuf import json_format, struct_pb2

from flyteagent_nb.errors import FlyteAgentNBError, RunFailedError
from flyteagent_nb.masking import MASK, SHORTEST, Masking
from flyteagent_nb.serving.output import OutputBuffer, OutputStore

if TYPE_CHECKING:
    from collections.abc import Sequence

SECRET = 'sk-4f"9\\é x/+y'
KEY = (
    "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\nz9Q=\n-----END PRIVATE KEY-----\n"
)


def masking(*values: str) -> Masking:
    made = Masking()
    for value in values:
        assert made.add(value)
    return made


@pytest.mark.parametrize(
    "written",
    [
        SECRET,
        repr(SECRET),
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        f"https://example.com/?key={urllib.parse.quote(SECRET, safe='')}&x=1",
        f"https://example.com/{urllib.parse.quote(SECRET)}",
        urllib.parse.urlencode({"key": SECRET}),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
        str(SECRET.encode()),
        html.escape(SECRET),
        html.escape(SECRET).replace("&quot;", "&#34;"),
        re.sub("%..", lambda found: found[0].lower(), urllib.parse.quote(SECRET, safe="")),
        f"Bearer {SECRET}, twice {SECRET}",
    ],
)
def test_however_it_is_written(written: str) -> None:
    masked = masking(SECRET).text(written)
    assert MASK in masked and "4f" not in masked and "sk" not in masked


@pytest.mark.parametrize("secret", ["swordf", "hunter22", "Tr0ub4dor&3", "sk-4f9/+y~x", "abcdefghijklmnopqrstuvwxyz"])
@pytest.mark.parametrize("user", ["", "me", "ann", "user", "a-longer-name@example.com"])
@pytest.mark.parametrize("behind", ["", ":", "?>", "more"])
def test_behind_a_users_name_in_base64(secret: str, user: str, behind: str) -> None:
    known = masking(secret)
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        told = f"Authorization: Basic {encode(f'{user}:{secret}{behind}'.encode()).decode()}"
        shown = known.text(told)
        assert MASK in shown
        # What is left is the user's, what comes behind, and two characters at each end that it shares with them.
        left = shown.removeprefix("Authorization: Basic ").partition(MASK)
        assert len(left[0]) <= (len(user) + 1) * 4 // 3 + 2 and len(left[2]) <= len(behind) * 4 // 3 + 4


@pytest.mark.parametrize(
    "written", [KEY, repr(KEY), json.dumps({"private_key": KEY}), KEY.replace("\n", ""), KEY.replace("\n", "\r\n")]
)
def test_each_line_of_a_key_is_masked(written: str) -> None:
    for known in (masking(KEY), masking(json.dumps({"private_key": KEY}))):
        masked = known.text(written)
        assert MASK in masked and "MIIEv" not in masked and "AQEFAA" not in masked
    assert masking(KEY).text("-----BEGIN PRIVATE KEY-----") == "-----BEGIN PRIVATE KEY-----"


KUBECONFIG = """
apiVersion: v1
clusters:
- cluster:
    server: https://k8s.example.com:6443/some/path
  name: dev
users:
- name: dev
  user:
    token: abcdefgh
    client-key-data: LS0tLS1CRUdJTg==
"""
ACCOUNT = json.dumps(
    {"type": "service_account", "project_id": "my-project", "private_key": KEY, "password": "hunter22"}, indent=2
)


@pytest.mark.parametrize("known", [KUBECONFIG, ACCOUNT])
def test_of_a_configuration_what_is_secret_in_it_is_masked_and_no_ordinary_line(known: str) -> None:
    secret = masking(known)
    for text in ("the users: ann, bob", "apiVersion: v1", "- name: dev", "https://k8s.example.com:6443/some/path"):
        assert secret.text(text) is text
    for text in ('{"type": "service_account", "a": 1}', '  "project_id": "my-project",'):
        assert secret.text(text) is text
    assert secret.text(f"it is {known.strip()}") == f"it is {MASK}"
    for each in ("abcdefgh", "LS0tLS1CRUdJTg==") if known is KUBECONFIG else ("hunter22", KEY.splitlines()[1]):
        assert secret.text(f"with {each} in it") == f"with {MASK} in it"


def test_each_line_of_a_list_is_masked() -> None:
    assert masking("hunter22\nswordfish9\n").text("hunter22, swordfish9") == f"{MASK}, {MASK}"


def test_a_value_that_is_no_utf8_is_known_too() -> None:
    """As an environment variable in another encoding is read."""
    known = masking("caf\udce9-secret-value", "another-value")
    assert known.text("caf\udce9-secret-value and another-value") == f"{MASK} and {MASK}"


@pytest.mark.parametrize(
    "value", ["", " ", "a", "x" * (SHORTEST - 1), "sandbox", "Password", "LOCALHOST", "123456", "  token "]
)
def test_what_is_short_or_common_is_left_alone(value: str) -> None:
    known = Masking()
    assert not known.add(value) and not known.active
    text = f"a {value} b, the sandbox's password is a token at localhost:123456 xxxxxx"
    assert known.text(text) is text


def test_a_word_or_a_number_is_masked_where_it_stands_alone() -> None:
    known = masking("hunter", "4711000")
    assert known.text("hunter, a bounty_hunter and hunters; id 4711000, 47110001") == (
        f"{MASK}, a bounty_hunter and hunters; id {MASK}, 47110001"
    )


def test_the_longest_goes_first() -> None:
    assert masking("abc-123", "abc-123-xyz").text("abc-123-xyz abc-123") == f"{MASK} {MASK}"


def test_where_nothing_is_known_everything_is_the_same_object() -> None:
    known = Masking()
    value = {"a": ["b", ("c",)]}
    error = ValueError("x")
    assert known.text(KEY) is KEY and known.value(value) is value and not known.finds(b"x")
    known.error(error)
    assert known.data(data := b"abc") is data and error.args == ("x",)


def test_it_shows_no_value() -> None:
    known = masking(SECRET)
    assert repr(known) == str(known) == "<Masking of 1 values>"


def test_what_is_no_longer_known_shows_again() -> None:
    known = masking(SECRET, "another-secret")
    known.discard(SECRET)
    assert known.text(SECRET) == SECRET and known.text("another-secret") == MASK
    known.discard("another-secret")
    assert not known.active
    known.discard("another-secret")


def test_the_variables_for_secrets_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Masking()
    for name, value in {"_FSEC_A": "of-flytekit", "FA_API_KEY": "of-a-sandbox", "FA_ENDPOINT": "http://here"}.items():
        monkeypatch.setenv(name, value)
    known.learn()
    assert known.text("of-flytekit of-a-sandbox http://here") == f"{MASK} of-a-sandbox http://here"
    known.learn(["FA_API_KEY", "FA_ENDPOINT", "FA_TOKEN"])
    assert known.text("of-flytekit of-a-sandbox http://here") == f"{MASK} {MASK} http://here"
    monkeypatch.setenv("_FSEC_A", "another-value")
    known.learn()
    assert known.text("of-flytekit another-value") == f"{MASK} {MASK}"


def test_values_of_python() -> None:
    known = masking("se-cret")
    value = {"a": ["x se-cret", {"se-cret": ("se-cret", 1, None, b"se-cret")}], "n": 1}
    assert known.value(value) == {"a": [f"x {MASK}", {MASK: (MASK, 1, None, b"se-cret")}], "n": 1}
    assert value["a"][0] == "x se-cret"  # type: ignore[index]


def test_an_error_and_what_is_behind_it() -> None:
    known = masking("se-cret")
    cause, context = OSError("cause se-cret"), KeyError("se-cret")
    cause.__cause__ = cause  # a circle ends
    error = RunFailedError(
        "message se-cret",
        run_id="1",
        task="t",
        task_type="t",
        phase="FAILED",
        agent_message="said se-cret",
        frames=["f.py:1 in se-cret"],
        log_links=[("se-cret", "https://x/se-cret")],
        hint="hint se-cret",
    )
    error.__cause__, error.__context__ = cause, context
    known.error(error)
    shown = f"{error} {error!r} {vars(error)} {cause} {context} {error.details()} {error._render_traceback_()}"
    assert "se-cret" not in shown and shown.count(MASK) > 10
    assert (error.run_id, error.phase, error.attempts) == ("1", "FAILED", 1)
    assert type(error.frames) is tuple and type(error.log_links[0]) is tuple
    known.error(None)

    class Odd(ValueError):
        args = property(lambda self: ("se-cret",))  # type: ignore[assignment]

    odd = Odd()
    known.error(odd)
    assert odd.args == ("se-cret",)
    plain = FlyteAgentNBError("no")
    known.error(plain)
    assert str(plain) == "no"


def test_a_message_keeps_its_outputs_and_its_bytes() -> None:
    known = masking("se-cret")
    resource = pb.Resource(
        phase=execution_pb2.TaskExecution.RUNNING,
        message="m se-cret",
        log_links=[execution_pb2.TaskLog(name="se-cret", uri="https://x/?k=se-cret")],
        custom_info=json_format.ParseDict({"a": {"b": ["se-cret", 1]}, "c": "x"}, struct_pb2.Struct()),
    )
    resource.outputs.literals["o"].scalar.primitive.string_value = "se-cret"
    reply = pb.GetTaskResponse(resource=resource)
    known.message(reply, besides=("outputs",))
    masked = reply.resource
    assert (masked.message, masked.log_links[0].name, masked.log_links[0].uri) == (
        f"m {MASK}",
        MASK,
        f"https://x/?k={MASK}",
    )
    assert json_format.MessageToDict(masked.custom_info) == {"a": {"b": [MASK, 1]}, "c": "x"}
    assert masked.outputs.literals["o"].scalar.primitive.string_value == "se-cret"
    created = pb.CreateTaskResponse(resource_meta=b'{"key": "se-cret"}')
    known.message(created)
    assert created.resource_meta == b'{"key": "se-cret"}' and known.finds(created.resource_meta)


def test_bytes_keep_their_length_so_that_msgpack_stays_whole() -> None:
    import msgpack

    known = masking("se-cret")
    literals = literals_pb2.LiteralMap()
    literals.literals["d"].scalar.binary.value = msgpack.packb({"k": "se-cret", "n": 1})
    literals.literals["s"].scalar.primitive.string_value = "se-cret"
    literals.literals["l"].collection.literals.add().scalar.primitive.string_value = "x se-cret"
    known.message(literals, data=True)
    assert msgpack.unpackb(literals.literals["d"].scalar.binary.value) == {"k": "*******", "n": 1}
    assert literals.literals["s"].scalar.primitive.string_value == MASK
    assert literals.literals["l"].collection.literals[0].scalar.primitive.string_value == f"x {MASK}"


def test_a_template_with_a_container() -> None:
    template = tasks_pb2.TaskTemplate(type="t", config={"k": "se-cret"})
    template.container.args.extend(["--key", "se-cret"])
    masking("se-cret").message(template)
    assert list(template.container.args) == ["--key", MASK] and dict(template.config) == {"k": MASK}


# --- the captured output ---


def test_each_entry_of_a_map_is_masked() -> None:
    template = tasks_pb2.TaskTemplate(config={f"name{n}": f"{n} {SECRET}" for n in range(50)})
    masking(SECRET).message(template)
    assert dict(template.config) == {f"name{n}": f"{n} {MASK}" for n in range(50)}


@pytest.mark.parametrize(
    "writes",
    [
        ["key: se-cret\n"],
        ["key: se-c", "ret\n"],
        [*"key: se-cret", "\n"],
        ["key: ", "se-cret", "\n"],
        ["key: se-cret"],
        ["x" * 3000 + "\n", "key: se-c", "y" * 3000 + "\r", "key: se-c", "ret", "\n"],
    ],
)
def test_captured_lines(writes: Sequence[str]) -> None:
    buffer = OutputBuffer(masking("se-cret"))
    for text in writes:
        buffer.write("stdout", text)
    for shown in (buffer.lines(), buffer.tail(5)):
        assert shown[-1] == f"key: {MASK}"
    buffer.flush()
    assert buffer.since(0)[0][-1] == f"key: {MASK}"


def test_a_secret_that_comes_in_two_folds_of_one_line() -> None:
    buffer = OutputBuffer(masking("se-cret"))
    buffer.write("stdout", "key: se-c")
    assert buffer.lines() == ["key: se-c"]  # it may become anything
    buffer.write("stdout", "ret")
    assert buffer.lines() == [f"key: {MASK}"]


def test_a_store_masks_what_is_learnt_later() -> None:
    known = Masking()
    store = OutputStore(known)
    store.sink("1", "stdout", "se-cret before\n")
    assert store.get("1").lines() == ["se-cret before"]  # type: ignore[union-attr]
    known.add("se-cret")
    store.sink("1", "log", "INFO x: se-cret after\n")
    assert store.get("1").lines()[-1] == f"INFO x: {MASK} after"  # type: ignore[union-attr]
