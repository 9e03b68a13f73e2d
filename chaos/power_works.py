"""The kinds of publishing whose power is cut, what each says to be safe, and how each recovers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chaos.pretended import LAYERS, extract, keys_of, opened, stored_map, wrong_rows
from storage.checkpoints import latest_checkpoint, save_checkpoint
from storage.core import StoreCore, store_key
from storage.errors import RowsMissingError, StorageError
from storage.features import FeatureStore
from storage.layout import StoreLayout
from storage.models import load_model, model_exists, save_model
from storage.publish import replace_bytes
from storage.runs import append, create_run, read_run
from storage.samples import SampleSet, SampleSetWriter

__all__ = ["WORKS", "PowerWork"]

Ack = Callable[[str], None]
Verdict = tuple[list[str], bool]
"""What was lost or wrong; whether the rerun brought everything."""

_KEYS = keys_of(0, 7)


def _nobody(_: Path) -> Callable[[str], None]:
    return lambda call: None


@dataclass(frozen=True)
class PowerWork:
    """One kind of publishing.

    Args:
        title: for the table.
        prepare: lays down what was there before.
        run: the work; says of what is safe that it is.
        check: recovers; gets what had been said to be safe.
        between: somebody else, who acts after every recorded call.
        worst: what the worst case means, with what was measured.
    """

    title: str
    prepare: Callable[[Path], None]
    run: Callable[[Path, Ack], None]
    check: Callable[[Path, set[str], dict[str, float]], Verdict]
    between: Callable[[Path], Callable[[str], None]] = _nobody
    worst: str = ""


# --- the feature store -----------------------------------------------------------------------------------------------


def _long_ago() -> float:
    """Tell the time of the writer that the power loss ends: its leases have expired when anybody comes back."""
    return time.time() - 3600


def _store(root: Path, ack: Ack) -> None:
    def safe(done: list[tuple[str, str]]) -> None:
        for layer, key in done:
            ack(f"{layer} {key}")

    extract(opened(root, LAYERS[:1], clock=_long_ago), _KEYS[:5], LAYERS[:1], ack=safe)
    store = opened(root, clock=_long_ago)
    extract(store, _KEYS, ack=safe)


def _somebody_reads(root: Path) -> Callable[[str], None]:
    """Have another process's index follow the records at every moment: what it counts must not vanish."""
    folder = root / store_key({"backbone": "vgg11", "canvas_hw": [32, 32]}, "float16")

    def read(call: str) -> None:
        if call == "link" and (folder / "journal" / "records" / "0000000001.json").exists():
            core = StoreCore(StoreLayout(folder), 60.0)
            core.refresh()
            core.index.close()

    return read


def _check_store(root: Path, acked: set[str], figures: dict[str, float]) -> Verdict:
    lost = _read_what_is_there(root, acked)
    try:
        store = opened(root)
        done = extract(store, _KEYS)
    except (StorageError, OSError) as error:
        return [*lost, f"a rerun was refused: {type(error).__name__}: {error}"], False
    figures["redone"] = len(done)
    lost += [f"computed again: {layer} {key[:8]}" for layer, key in done if f"{layer} {key}" in acked]
    wrong = [f"left behind: {path.name}" for path in root.rglob("*.partial")]
    wrong += [f"{f.kind}: {f.what} ({f.path})" for f in store.verify()]
    try:
        wrong += wrong_rows(store, _KEYS)
    except StorageError as error:
        wrong.append(f"{error}")
    return lost + [f"after the rerun {what}" for what in wrong], not wrong


def _read_what_is_there(root: Path, acked: set[str]) -> list[str]:
    """Read before anything is put right: what was said to be safe must be right, the rest right or refused."""
    path = root / store_key({"backbone": "vgg11", "canvas_hw": [32, 32]}, "float16")
    try:
        store = FeatureStore.open(path)
    except StorageError as error:
        return [f"a reader was refused: {error}"] if acked else []
    lost = []
    for layer in (layer for layer in LAYERS if layer in store.layers):
        for key in _KEYS:
            must = f"{layer} {key}" in acked
            try:
                found = store.reader([layer]).read(layer, store.rows([key], [layer]))
            except RowsMissingError as error:
                lost += [f"lost: {error}"] if must else []
            except StorageError as error:
                lost.append(f"committed and damaged: {error}")
            else:
                lost += [] if np.array_equal(found[0], stored_map(key, layer, "float16")) else [f"wrong columns: {layer}"]
    return lost


# --- one file, one folder --------------------------------------------------------------------------------------------

_TENSORS = {"weight": np.arange(600.0).reshape(20, 30), "bias": np.ones(7, np.float32)}


def _sample_set(root: Path, ack: Ack) -> None:
    with SampleSetWriter(root / "samples" / "set.h5", {"seed": 1}, ["a", "b"], dims=40) as writer:
        for row in range(2):
            writer.append(np.full((60, 40), row), np.full(60, row), np.full(60, row), np.zeros((60, 2)))
    ack("set")


def _check_sample_set(root: Path, acked: set[str], _: dict[str, float]) -> Verdict:
    path = root / "samples" / "set.h5"
    lost = ["the sample set is lost"] if acked and not path.exists() else []
    if not path.exists():
        _sample_set(root, lambda what: None)
    try:
        with SampleSet.open(path) as samples:
            samples.verify()
            whole = len(samples) == 120 and samples.class_counts() == {0: 60, 1: 60}
    except StorageError as error:
        return [*lost, f"a torn sample set has its name: {error}"], False
    return lost, whole


def _model(root: Path, ack: Ack) -> None:
    save_model(root / "models", "key", _TENSORS, {"classes": ["a"]})
    ack("model")


def _check_model(root: Path, acked: set[str], _: dict[str, float]) -> Verdict:
    there = model_exists(root / "models", "key")
    lost = ["the model is lost"] if acked and not there else []
    try:
        if not there:
            _model(root, lambda what: None)
        tensors, description = load_model(root / "models" / "key")
    except StorageError as error:
        return [*lost, f"a rerun was refused: {error}"], False
    same = all(np.array_equal(tensors[name], value) for name, value in _TENSORS.items())
    return lost, same and description == {"classes": ["a"]}


def _checkpoints(root: Path, ack: Ack) -> None:
    for epoch in range(1, 5):
        save_checkpoint(root / "run", epoch, {"w": np.full(500, float(epoch))}, {"epoch": epoch})
        ack(str(epoch))


def _check_checkpoints(root: Path, acked: set[str], figures: dict[str, float]) -> Verdict:
    try:
        kept = latest_checkpoint(root / "run")
    except StorageError as error:
        return [f"refused: {error}"], False
    epoch = 0 if kept is None else kept.epoch
    safe = max(map(int, acked), default=0)
    figures["redone"] = safe - epoch
    lost = [f"epoch {safe} was safe, {epoch} is the latest"] if epoch < safe else []
    if kept is not None and not (kept.tensors["w"] == epoch).all():
        lost.append(f"epoch {epoch} has other tensors")
    for later in range(epoch + 1, 6):
        save_checkpoint(root / "run", later, {"w": np.full(500, float(later))}, {"epoch": later})
    latest = latest_checkpoint(root / "run")
    return lost, latest is not None and latest.epoch == 5


def _run(root: Path, ack: Ack) -> None:
    folder = create_run(root / "runs", "run", {"spec": {"seed": 1}})
    ack("started")
    for number in range(4):
        append(folder, "note", {"number": number, "text": "x" * 300})
        ack(str(number))


def _check_run(root: Path, acked: set[str], _: dict[str, float]) -> Verdict:
    folder = root / "runs" / "run"
    try:
        if not folder.exists():
            return ["the run is lost"] if acked else [], True
        numbers = {str(entry.data["number"]) for entry in read_run(folder).entries if entry.kind == "note"}
        lost = [f"line {what} is lost" for what in acked - numbers - {"started"}]
        append(folder, "note", {"number": 9, "text": "after"})
        again = [entry.data["number"] for entry in read_run(folder).entries if entry.kind == "note"]
    except StorageError as error:
        return [f"refused: {error}"], False
    return lost, again[-1] == 9


def _torn_run(root: Path) -> None:
    """A record whose last line was torn by an earlier power loss."""
    folder = create_run(root / "runs", "run", {"spec": {"seed": 1}})
    append(folder, "note", {"number": -1, "text": "x" * 300})
    with (folder / "record.jsonl").open("ab") as file:
        file.write(b'{"data":{"number":77' + b"\0" * 700)


def _append_after_torn(root: Path, ack: Ack) -> None:
    ack("-1")
    for number in range(2):
        append(root / "runs" / "run", "note", {"number": number, "text": "x" * 300})
        ack(str(number))


def _pointer(root: Path, ack: Ack) -> None:
    replace_bytes(root / "champion", b"new" * 300)
    ack("new")


def _check_pointer(root: Path, acked: set[str], _: dict[str, float]) -> Verdict:
    found = (root / "champion").read_bytes() if (root / "champion").exists() else b""
    allowed = {b"new" * 300} if acked else {b"new" * 300, b"old" * 300}
    return ([] if found in allowed else [f"the pointer reads {found[:12]!r}"]), True


def _empty(root: Path) -> None:
    root.mkdir(parents=True)


def _with_pointer(root: Path) -> None:
    _empty(root)
    replace_bytes(root / "champion", b"old" * 300)


_REDONE = "{redone:.0f} maps computed again, none of them committed"

WORKS: dict[str, PowerWork] = {
    "store": PowerWork("feature store", _empty, _store, _check_store, worst=_REDONE),
    "read-store": PowerWork(
        "feature store, somebody reading", _empty, _store, _check_store, between=_somebody_reads, worst=_REDONE
    ),
    "samples": PowerWork("sample set", _empty, _sample_set, _check_sample_set),
    "model": PowerWork("model", _empty, _model, _check_model),
    "checkpoints": PowerWork("checkpoints", _empty, _checkpoints, _check_checkpoints),
    "run": PowerWork("run record", _empty, _run, _check_run),
    "torn-run": PowerWork("run record, torn before", _torn_run, _append_after_torn, _check_run),
    "pointer": PowerWork("replaced pointer", _with_pointer, _pointer, _check_pointer),
}
