"""A feature store in an object store against one on the disk: moto's server on loopback, in one process of Python.

What is measured is this client, that server and a network that costs nothing, no cloud: it says where our own code would be the
bottleneck, and what the cache saves, not how fast S3 is.
"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.measuring import Figure, forget, interleaved, scratch
from benchmarks.stores import LAYERS, filled, keys_of
from hypercolumns.read_ahead import read_ahead
from storage.features import FeatureStore
from storage.places import mirror_of
from tasks.stores import read_tensor

__all__ = ["object_store"]

_IMAGES = 48
_REPEATS = 3


def object_store() -> list[Figure]:
    """Write and read 270 MB, here and there, in turn."""
    megabytes = _IMAGES * sum(int(np.prod(shape)) * 2 for shape in LAYERS.values()) / 1e6
    with scratch() as folder, _bucket() as url:
        numbers = itertools.count()

        def mirror() -> Path:
            return mirror_of(folder / f"mirrors {next(numbers)}", url)

        local, remote = filled(folder / "disk", images=_IMAGES), filled(mirror(), images=_IMAGES)
        elsewhere = [FeatureStore.open(mirror() / remote.key) for _ in range(2 * (_REPEATS + 1))]
        seconds = {
            "write": interleaved(
                lambda: filled(folder / f"disk {next(numbers)}", images=_IMAGES),
                lambda: filled(mirror_of(folder / f"mirrors {next(numbers)}", f"{url}/{next(numbers)}"), images=_IMAGES),
                repeats=_REPEATS,
            ),
            "read once, by ranges": interleaved(
                lambda: _read(local, keep_cached=False),
                lambda: _read(elsewhere.pop(), keep_cached=False),
                repeats=_REPEATS,
                before=lambda: forget(folder),
            ),
            "first epoch, whole shards": interleaved(
                lambda: _read(local, keep_cached=True),
                lambda: _read(elsewhere.pop(), keep_cached=True),
                repeats=_REPEATS,
                before=lambda: forget(folder),
            ),
            "later epochs, from the cache": interleaved(
                lambda: _read(local, keep_cached=True), lambda: _read(remote, keep_cached=True), repeats=_REPEATS
            ),
        }
    return [
        Figure(
            f"s3 on loopback (moto), {what}, MB/s",
            megabytes / there,
            None,
            " MB/s",
            details={"local_megabytes_a_second": megabytes / here, "megabytes": megabytes},
        )
        for what, (here, there) in seconds.items()
    ]


def _read(store: FeatureStore, *, keep_cached: bool) -> None:
    rows = np.random.default_rng(1).permutation(store.rows(keys_of(_IMAGES), list(LAYERS)))
    reader = store.reader(list(LAYERS), keep_cached=keep_cached)
    for _ in read_ahead(rows, lambda row: [read_tensor(reader, name, [row]) for name in LAYERS], threads=4, ahead=8):
        pass


@contextmanager
def _bucket() -> Iterator[str]:
    """Run a server, and yield the URL of an empty bucket in it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    os.environ.update(AWS_ENDPOINT_URL=endpoint, AWS_ALLOW_HTTP="true", AWS_REGION="us-east-1")
    os.environ.update(AWS_ACCESS_KEY_ID="benchmark", AWS_SECRET_ACCESS_KEY="benchmark")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _make_bucket(f"{endpoint}/benchmark")
            yield "s3://benchmark/stores"
        finally:
            server.terminate()


def _make_bucket(url: str) -> None:
    give_up = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT")).close()
            return
        except urllib.error.URLError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.1)
