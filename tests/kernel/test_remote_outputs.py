"""A service that cannot write into a folder here: its outputs go through a bucket, of a stand-in for S3 or Google Cloud Storage."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from python_path import ROOT, TESTS, python_path

from kernel.harness import LOAD, SCRIPTED, Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

pytestmark = pytest.mark.kernel


@contextlib.contextmanager
def process(words: list[str], env: Mapping[str, str]) -> Iterator[str]:
    """A process, and the first line that it prints."""
    with subprocess.Popen(
        [sys.executable, *words],
        env={**os.environ, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a line for each request
        text=True,
    ) as started:
        assert started.stdout is not None
        try:
            yield started.stdout.readline().strip()
        finally:
            started.kill()


@contextlib.contextmanager
def s3() -> Iterator[tuple[Mapping[str, str], Callable[[], list[str]]]]:
    """A bucket ``runs`` of S3's stand-in: the variables with which flytekit finds it, and what asks for the names in it."""
    keys = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    with process([str(TESTS / "s3_process.py")], {}) as endpoint:
        store = boto3.client(
            "s3", "us-east-1", endpoint_url=endpoint, **{name.lower(): key for name, key in keys.items()}
        )
        store.create_bucket(Bucket="runs")
        env = {**keys, "AWS_DEFAULT_REGION": "us-east-1", "FLYTE_AWS_ENDPOINT": endpoint}
        flyte = {f"FLYTE_{name}": key for name, key in keys.items()}
        yield {**env, **flyte}, lambda: [found["Key"] for found in store.list_objects_v2(Bucket="runs")["Contents"]]
        store.close()


@contextlib.contextmanager
def gs() -> Iterator[tuple[Mapping[str, str], Callable[[], list[str]]]]:
    """The same of Google Cloud Storage's."""
    with process([str(TESTS / "gcs_process.py")], {}) as endpoint:

        def names() -> list[str]:
            with urllib.request.urlopen(f"{endpoint}/storage/v1/b/runs/o") as answer:
                return [found["name"] for found in json.load(answer)["items"]]

        # gcsfs asks Google itself what kind of bucket it is, unless it is told not to.
        yield {"STORAGE_EMULATOR_HOST": endpoint, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}, names


@pytest.mark.slow
@pytest.mark.parametrize("store", [s3, gs], ids=lambda store: store.__name__)
def test_outputs_come_through_a_bucket(store: Callable[[], Any], tmp_path: Path) -> None:
    path = {"PYTHONPATH": python_path(TESTS, ROOT)}
    serve = ["-m", "flyteagent_nb", "serve", "writing_agent", "--open"]
    bucket = f"{store.__name__}://runs"
    with store() as (env, names), process(serve, {**env, **path}) as line, Kernel(tmp_path, env) as kernel:
        address = line.partition(" ")[0]
        kernel.ok(LOAD)
        kernel.ok(SCRIPTED)
        kernel.ok(f"%agent connect there {address} --outputs {bucket}/of-a-notebook/")
        kernel.ok("write = scripted_task('writes', outputs={'prefix': str})")
        prefix = kernel.value("%agent run write -r run\nrun.result()").strip("'")
        assert prefix == kernel.value(f"f'{bucket}/of-a-notebook/{{run.id}}-1'").strip("'")
        assert f"{prefix.removeprefix(bucket + '/')}/outputs.pb" in names()

        # A bucket that is not there: an error with the store's own words, and no hang.
        kernel.ok(f"%agent connect there {address} --outputs {store.__name__}://nowhere")
        cell = kernel.fails("%agent run write")
        assert cell.ename == "RunFailedError" and ("nowhere" in cell.error or "bucket" in cell.error.lower()), cell


def test_connect_warns_where_nothing_of_the_kind_is_said(kernel: Kernel) -> None:
    """A configuration may name services on other machines; that they do not answer is no matter."""
    kernel.ok(
        "open('propeller.yaml', 'w').write('''agent-service:\n  agents:\n    far:\n      endpoint: dns:///far.invalid:80\n"
        "      insecure: true\n    near:\n      endpoint: localhost:9\n      insecure: true\n''')"
    )
    told = kernel.ok("%agent connect --from propeller.yaml")
    assert "'far' is on another machine" in str(told) and "--outputs s3://" in str(told) and "'near'" not in str(told)
    kernel.ok("%agent disconnect far")
    kernel.ok("%agent disconnect near")
