"""OpenAI's two connectors against their stand-in, through the kernel's own gRPC service."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from scripted_tasks import PATIENCE, until

from flyteagent_nb.errors import ArgumentError, RunFailedError
from flyteagent_nb.sandbox.openai import OpenAIStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyteagent_nb.workspace import Workspace

plugin = pytest.importorskip("flytekitplugins.openai", reason="the extra openai, which Python 3.13 has not")

pytest_plugins = ("fixtures_workspace",)
# Both connectors make a client for each call, and close none.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

MODEL = {"model": "gpt-4o-mini"}
VARIABLES = {"OPENAI_BASE_URL", "OPENAI_API_KEY", "_FSEC_FLYTE_OPENAI_API_KEY"}
TOLD = "llmock 0.2.2, a stand-in for OpenAI"


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Made first, so ended last: the connectors' clients go while their warnings are let pass."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def sandbox(opened: Workspace) -> Iterator[Workspace]:
    before = {name: os.environ.get(name) for name in VARIABLES}
    said: list[str] = []
    status = opened.sandboxes.start("openai", said.append)
    assert status.state == "running" and not status.is_own and set(status.variables) >= VARIABLES
    assert said == ["starting llmock 0.2.2"]
    yield opened
    assert opened.sandboxes.stop("openai")
    assert {name: os.environ.get(name) for name in VARIABLES} == before


def upload(*prompts: str) -> str:
    """A batch file with a line for each prompt; its id. With the client of a user, who has set nothing."""
    import openai

    lines = [
        {
            "custom_id": f"r{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {**MODEL, "messages": [{"role": "user", "content": prompt}]},
        }
        for i, prompt in enumerate(prompts)
    ]
    with openai.OpenAI() as client:
        content = "\n".join(map(json.dumps, lines)).encode()
        return client.files.create(file=("prompts.jsonl", content), purpose="batch").id


def answers(file: str) -> dict[str, str]:
    """The answers of a batch by ``custom_id``."""
    import openai

    with openai.OpenAI() as client:
        lines = [json.loads(line) for line in client.files.content(file).text.splitlines()]
    return {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in lines}


def batch_task(name: str = "batch", **config: Any) -> plugin.BatchEndpointTask:
    return plugin.BatchEndpointTask(name=name, config=config)


def test_chatgpt_answers_with_the_prompt(sandbox: Workspace) -> None:
    run = sandbox.submit(plugin.ChatGPTTask("ask", chatgpt_config=MODEL), {"message": "How high is the moon?"})
    assert "How high is the moon?" in run.result(PATIENCE)
    assert (run.snapshot.agent, run.snapshot.is_sync) == ("ChatGPT Connector", True)
    assert run.snapshot.stand_in == TOLD


def test_a_batch_runs_to_its_end(sandbox: Workspace) -> None:
    run = sandbox.submit(batch_task(), {"input_file_id": upload("one fish", "two fish")})
    result = run.result(PATIENCE)
    assert result["status"] == "completed"
    assert result["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    found = answers(result["output_file_id"])
    assert "one fish" in found["r0"] and "two fish" in found["r1"]
    assert (run.snapshot.agent, run.snapshot.is_sync) == ("OpenAI Batch Endpoint Connector", False)
    assert run.snapshot.stand_in == TOLD


def test_a_batch_that_is_cancelled_is_cancelled_there(sandbox: Workspace) -> None:
    import openai

    run = sandbox.submit(batch_task("stopped"), {"input_file_id": upload("never mind")})
    until(lambda: run.phase == "RUNNING")
    run.cancel()
    assert run.exception(PATIENCE) is not None and run.cancelled
    with openai.OpenAI() as client:
        newest = client.batches.list().data[0]
    assert newest.status == "cancelled"


def test_the_services_own_words_come_through_and_the_stand_in_is_named(sandbox: Workspace) -> None:
    run = sandbox.submit(batch_task("lost"), {"input_file_id": "file-of-nobody"})
    error = run.exception(PATIENCE)
    assert isinstance(error, RunFailedError)
    assert "Input file 'file-of-nobody' not found." in error.message
    assert error.stand_in == TOLD and str(error).count(TOLD) == 1


def test_there_are_no_tables(sandbox: Workspace) -> None:
    with pytest.raises(ArgumentError, match="has no tables"):
        sandbox.sandboxes.load("openai", "prompts", [1])


def test_every_pin_is_what_the_tests_ran_with() -> None:
    """The pins of an environment of its own are those of ``constraints.txt``."""
    from packaging.requirements import Requirement

    root = Path(__file__).resolve().parent.parent
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {(r.name, str(r.specifier)) for r in map(Requirement, lines)}
    assert [
        r for r in OpenAIStandIn.requirements if (Requirement(r).name, str(Requirement(r).specifier)) not in pins
    ] == []
