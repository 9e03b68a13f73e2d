"""Processes that use a workspace while another one sweeps it. Run as a program by the tests:

- `sweeping.py hold STORE`: open a store, print a line, wait for the end of stdin.
- `sweeping.py run WORKSPACE SECONDS`: again and again, begin a run, have it name a sample set and a store, and use them; print
  how often.
- `sweeping.py once WORKSPACE`: use a store once.
- `sweeping.py look WORKSPACE SECONDS`: the same without a run, a store alone.
- `sweeping.py sweep WORKSPACE SECONDS`: sweep again and again, keeping nothing for its age; print how much was removed.
"""

import contextlib
import runpy
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from storage.core import store_key
from storage.errors import AlreadyPublishedError
from storage.features import FeatureStore
from storage.garbage import sweep
from storage.references import note_use
from storage.runs import create_run, new_run_id
from storage.samples import SampleSet, SampleSetWriter
from storage.workspace import Workspace

work = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("extracting.py"))))
SAMPLES = "abcdef0123456789abcd"


def use_store(workspace):
    store = work.opened(workspace.stores)
    keys = work.keys_of(0, 8)
    work.extract(store, keys)
    for layer in work.LAYERS:
        read = store.reader([layer]).read(layer, store.rows(keys, [layer]))
        expected = np.stack([work.map_of(key, layer) for key in keys]).astype(np.float16)
        np.testing.assert_array_equal(read, expected)


def use_samples(workspace):
    path = workspace.samples / f"{SAMPLES}.h5"
    if not path.exists():
        with contextlib.suppress(AlreadyPublishedError), SampleSetWriter(path, {"seed": 1}, ["a"], dims=4) as writer:
            writer.append(np.ones((5, 4)), np.zeros(5, int), np.zeros(5, int), np.zeros((5, 2)))
    with SampleSet.open(path) as samples:
        assert len(samples) == 5


def run(workspace):
    folder = create_run(workspace.runs, new_run_id("swept", datetime.now(UTC)), {})
    note_use(folder, store_key(work.FIELDS, "float16"))
    use_store(workspace)
    note_use(folder, SAMPLES)
    use_samples(workspace)
    # Its owner throws the run away, and with it what it named.
    (folder / "record.jsonl").unlink()
    folder.rmdir()


def repeat(seconds, action):
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        count += action()
    sys.stdout.write(str(count))


def hold(path):
    store = FeatureStore.open(path)
    sys.stdout.write(f"{store.key}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    if sys.argv[1] == "hold":
        hold(Path(sys.argv[2]))
    elif sys.argv[1] == "once":
        use_store(Workspace(Path(sys.argv[2])))
    else:
        place, seconds = Workspace(Path(sys.argv[2])), float(sys.argv[3])
        actions = {
            "run": lambda: run(place) is None,
            "look": lambda: use_store(place) is None,
            "sweep": lambda: len(sweep(place, 0, remove=True).garbage),
        }
        repeat(seconds, actions[sys.argv[1]])
