"""Kill -9 a piece of work at every line of `storage` that it executes, each time in a fresh folder and a forked child.

Run as `crashing.py WORK ROOT STRIDE`; prints how many children were killed. `ROOT/0000` was killed before its first line,
and so on; the last folder's child ran to its end.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from storage.champions import Champion, promote
from storage.checkpoints import save_checkpoint
from storage.ledger import opened_ledger
from storage.models import save_model
from storage.publish import publish_bytes, replace_bytes
from storage.runs import append, create_run
from storage.samples import SampleSetWriter
from storage.workspace import Workspace

TENSORS = {"weight": np.arange(6.0).reshape(2, 3)}


def samples(folder):
    with SampleSetWriter(folder / "set.h5", {"seed": 1}, ["a", "b"], dims=3000) as writer:
        for row in range(2):
            writer.append(np.full((700, 3000), row), np.full(700, row), np.full(700, row), np.zeros((700, 2)))


def predict(folder):
    with opened_ledger(folder) as ledger:
        if "a" * 64 not in ledger.lines:
            ledger.predicted("a" * 64, "image.png", "model", "image.aaaa.png", b"whole" * 1000)


WORKS = {
    "predict": predict,
    "publish": lambda folder: publish_bytes(folder / "deep" / "file", b"whole" * 1000),
    "replace": lambda folder: replace_bytes(folder / "pointer", b"new"),
    "samples": samples,
    "model": lambda folder: save_model(folder, "key", TENSORS, {"classes": ["a"]}),
    "checkpoint": lambda folder: save_checkpoint(folder, 3, TENSORS, {"epoch": 3}),
    "create": lambda folder: create_run(folder, "run", {"spec": {"seed": 1}}),
    "promote": lambda folder: promote(
        Workspace(folder), "line", Champion("run", "b"), {"reasons": ["better"]}, who="test", expected="a"
    ),
    "append": lambda folder: append(folder / "run", "metrics", {"mean_iu": 0.5}),
}


def prepare(work, folder):
    """Lay down what was there before the work, untraced."""
    folder.mkdir(parents=True)
    if work == "replace":
        replace_bytes(folder / "pointer", b"old")
    if work == "checkpoint":
        for epoch in (1, 2):
            save_checkpoint(folder, epoch, TENSORS, {"epoch": epoch})
    if work == "promote":
        for key in ("a", "b"):
            save_model(Workspace(folder).models, key, TENSORS, {})
        promote(Workspace(folder), "line", Champion("run", "a"), {}, who="test", expected=None)
    if work == "append":
        create_run(folder, "run", {"spec": {}})


def child(work, folder, fatal_line):
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
    WORKS[work](folder)
    sys.settrace(None)
    os._exit(0)


def main(work, root, stride):
    for case in range(10_000):
        folder = root / f"{case:04d}"
        prepare(work, folder)
        process = os.fork()
        if process == 0:
            child(work, folder, case * stride)
        if os.waitpid(process, 0)[1] == 0:
            sys.stdout.write(str(case))
            return


main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
