"""A service that cannot write into a folder of this machine: its outputs go through a bucket, of a stand-in for S3 on loopback."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import boto3
import pytest

from kernel.harness import LOAD, ROOT, SCRIPTED, TESTS, Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

pytestmark = pytest.mark.kernel

KEYS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}


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


def test_outputs_come_through_a_bucket(tmp_path: Path) -> None:
    with process([str(TESTS / "s3_process.py")], {}) as endpoint:
        store = boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id="nobody", aws_secret_access_key="nothing", region_name="us-east-1"
        )  # fmt: skip
        store.create_bucket(Bucket="runs")
        env = {
            **KEYS,
            "FLYTE_AWS_ENDPOINT": endpoint,
            "FLYTE_AWS_ACCESS_KEY_ID": "nobody",
            "FLYTE_AWS_SECRET_ACCESS_KEY": "nothing",
        }
        path = {"PYTHONPATH": os.pathsep.join((str(TESTS), str(ROOT)))}
        serve = ["-m", "flyteagent_nb", "serve", "writing_agent", "--open"]
        with process(serve, {**env, **path}) as line, Kernel(tmp_path, env) as kernel:
            address = line.partition(" ")[0]
            kernel.ok(LOAD)
            kernel.ok(SCRIPTED)
            kernel.ok(f"%agent connect there {address} --outputs s3://runs/of-a-notebook/")
            kernel.ok("write = scripted_task('writes', outputs={'prefix': str})")
            prefix = kernel.value("%agent run write -r run\nrun.result()").strip("'")
            assert prefix == kernel.value("f's3://runs/of-a-notebook/{run.id}-1'").strip("'")
            keys = [found["Key"] for found in store.list_objects_v2(Bucket="runs")["Contents"]]
            assert f"{prefix.removeprefix('s3://runs/')}/outputs.pb" in keys

            # A bucket that is not there: an error with the store's own words, and no hang.
            kernel.ok(f"%agent connect there {address} --outputs s3://nowhere")
            cell = kernel.fails("%agent run write")
            assert cell.ename == "RunFailedError" and "bucket" in cell.error.lower(), cell
        store.close()


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
