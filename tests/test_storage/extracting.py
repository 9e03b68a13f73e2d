"""A pretended extraction into a feature store: maps are made from the row key, so that anybody can tell what is right.

Imported by the tests, and run as a program where they need processes of their own:

- `extracting.py share ROOT FIRST LAST LAYERS PAUSE`: extract images FIRST to LAST, waiting where others are at work; print how
  many rows were computed here.
- `extracting.py kill ROOT STRIDE OFFSET`: fork children that extract, each killed by -9 at a later line of `storage`; the
  folders of the killed lie in ROOT, the last one came to its end.
"""

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from storage.features import Busy, FeatureStore

SHAPES = {"features.3": (4, 5, 6), "features.6.expand1x1+features.6.expand3x3": (2, 3, 8), "classifier/fc 7": (1, 1, 16)}
LAYERS = tuple(SHAPES)
FIELDS = {"backbone": "vgg11", "canvas_hw": [32, 32]}


def key_of(image):
    return f"{hashlib.sha256(str(image).encode()).hexdigest()}:identity"


def keys_of(first, last):
    return [key_of(image) for image in range(first, last)]


def map_of(key, layer):
    seed = int.from_bytes(hashlib.sha256(f"{key}{layer}".encode()).digest()[:8], "little")
    return np.random.default_rng(seed).normal(0, 3, SHAPES[layer]).astype(np.float32)


def maps_of(keys, layers):
    return {layer: np.stack([map_of(key, layer) for key in keys]) for layer in layers}


def opened(root, layers=LAYERS, **options):
    store = FeatureStore.create_or_open(root, FIELDS, **{"shard_images": 4, **options})
    store.declare_layers({layer: SHAPES[layer] for layer in layers})
    return store


def fill(writer, batch=3, pause=0.0):
    """Write all that a writer asks for; return [(layer, row key)] of what was computed."""
    done = []
    with writer:
        for first in range(0, len(writer.row_keys), batch):
            keys = writer.row_keys[first : first + batch]
            writer.write(first, maps_of(keys, writer.layers))
            done += [(layer, key) for layer in writer.layers for key in keys]
            time.sleep(pause)
    return done


def extract(store, keys, layers=LAYERS, pause=0.0):
    """Do all that is missing; wait where others do it."""
    done = []
    while (claimed := store.claim(keys, layers)) is not None:
        if isinstance(claimed, Busy):
            time.sleep(0.02)
        else:
            done += fill(claimed, pause=pause)
    return done


def killed_at(root, fatal_line):
    """Extract ten images, one layer first, and die at a line of `storage`."""
    seen = 0

    def on_line(frame, event, argument):
        nonlocal seen
        if "/storage/" not in frame.f_code.co_filename or "/site-packages/" in frame.f_code.co_filename:
            return None
        if event == "line":
            if seen == fatal_line:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
        return on_line

    sys.settrace(on_line)
    extract(opened(root, LAYERS[:1]), keys_of(0, 6), LAYERS[:1])
    extract(opened(root), keys_of(0, 10))
    sys.settrace(None)
    os._exit(0)


def kill(root, stride, offset):
    for case in range(100_000):
        process = os.fork()
        if process == 0:
            killed_at(root / f"{case:05d}", offset + case * stride)
        if os.waitpid(process, 0)[1] == 0:
            sys.stdout.write(str(case))
            return


def share(root, first, last, layers, pause):
    time.sleep(max(0.0, float(root.joinpath("start").read_text()) - time.time()) if root.joinpath("start").exists() else 0.0)
    done = extract(opened(root, lease_seconds=20), keys_of(first, last), layers.split("|"), pause)
    sys.stdout.write(str(len(done)))


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        kill(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        share(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], float(sys.argv[6]))
