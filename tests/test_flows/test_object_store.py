"""A whole run by the real command, as a process of its own, on a workspace whose stores lie in an object store."""

import json
import subprocess
import sys
import time

import pytest

from tests.pipeline_factory import LAYERS, tiny_values, write_config

CODE = "from cli.main import run; run()"


def arguments_of(*arguments):
    return [sys.executable, "-c", CODE, *map(str, arguments)]


@pytest.mark.slow
def test_a_killed_run_is_resumed_on_the_bucket_and_the_next_one_computes_nothing(server, bucket, data, tmp_path):
    config = write_config(tmp_path / "tiny.yaml", tiny_values(data, name="on-a-bucket", store__shard_images=1))
    environment = {**server.environment, **bucket.environment, "HYPERCOLUMNS_STORES": bucket.url}
    command = arguments_of("run", config, "--workspace", tmp_path / "w", "--json")
    with (
        bucket.faults(delay=0.1, methods=["PUT"]),
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as victim,
    ):
        deadline = time.monotonic() + 120
        while len(bucket.keys("/records/")) < 4:
            assert time.monotonic() < deadline
            assert victim.poll() is None
            time.sleep(0.05)
        victim.kill()
    begun = len(bucket.keys("/records/")) - 2
    assert 0 < begun < 9, "it was killed in the middle of its extraction"
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    first = json.loads(ended.stdout)
    hits = {first["cache"][layer]["hits"] for layer in LAYERS}
    assert hits == {begun} or hits == {begun + 1}, "what was committed was not computed again"
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    second = json.loads(again.stdout)
    assert second["cache"] == {layer: {"hits": 9, "misses": 0} for layer in LAYERS}
    assert second["metrics"] == first["metrics"]
    assert not (tmp_path / "w" / "stores").exists()
    verified = subprocess.run(
        arguments_of("store", "verify", "--workspace", tmp_path / "w"),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
