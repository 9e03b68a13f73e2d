"""The damage campaign: every kind of file of a store is harmed in every way; nothing wrong may ever be read.

What is hurt is reckoned from the bytes themselves, row by row, and compared with what `verify` names; then it is repaired, and
what was extracted again is compared with what had to be. The derived files (documents, derived arrays, index) hold nothing that
the records do not: harm to them must be named, or have been put right by the opening (`verify` compares the index, line by
line, with one made of the records alone), and hurts no row.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chaos.forking import answer, in_parallel
from chaos.harms import HARMS, KINDS, do_harm, files_of
from chaos.outcome import Case, Row, scaled, scratch, tallied
from chaos.pretended import LAYERS, extract, keys_of, opened, stored_map, wrong_rows
from storage.core import StoreCore
from storage.errors import StorageError
from storage.features import FeatureStore
from storage.layout import StoreLayout
from storage.mending import mend
from storage.shards import CHECKSUM_BYTES
from storage.verification import Finding, verify_path

__all__ = ["campaign", "harmed_once"]

_CASES = 1500
_KEYS = keys_of(0, 10)
_STORES: Mapping[str, dict[str, Any]] = {
    "float16": {"dtype": "float16"},
    "uint8": {"dtype": "uint8"},
    "float16, zstd": {"dtype": "float16", "compression": "zstd"},
    "float32": {"dtype": "float32"},
}
Hurt = frozenset[tuple[str, str]]
"""(layer, row key)."""


@dataclass(frozen=True)
class _Whole:
    """A finished store, to be copied and harmed."""

    folder: Path
    options: dict[str, Any]

    def make(self) -> None:
        # One layer first, so that there are records of several kinds and a layer that was added.
        extract(opened(self.folder, LAYERS[:1], **self.options), _KEYS[:6], LAYERS[:1])
        store = opened(self.folder, **self.options)
        extract(store, _KEYS)
        store.core.index.close()

    def copy(self, folder: Path) -> Path:
        shutil.copytree(self.folder, folder)
        return next(path for path in folder.iterdir() if path.is_dir())


def campaign(scale: float, seed: int) -> list[Row]:
    """Harm every kind of file."""
    with scratch("damage") as folder:
        wholes = [_Whole(folder / f"whole-{number}", options) for number, options in enumerate(_STORES.values())]
        for whole in wholes:
            answer(whole.make)
        return [_row(kind, wholes, folder, scaled(_CASES // len(KINDS), scale, len(HARMS)), seed) for kind in KINDS]


def _row(kind: str, wholes: Sequence[_Whole], folder: Path, cases: int, seed: int) -> Row:
    def one(case: int) -> dict[str, Any]:
        return harmed_once(wholes[case % len(wholes)], folder / f"{kind.replace(' ', '-')}-{case}", kind, case, seed)

    answers = in_parallel(one, range(cases))
    redone = max(answers, key=lambda case: case["figures"]["redone"])
    worst = f"{redone['figures']['redone']:.0f} maps extracted again; {redone['name']}"
    unchanged = sum(answer["figures"]["unchanged"] for answer in answers)
    return tallied(f"damage: {kind}", answers, worst, **{"without effect": unchanged})


def harmed_once(whole: _Whole, folder: Path, kind: str, case: int, seed: int) -> dict[str, Any]:
    """Harm one file of a copy, look, repair, look again.

    Returns:
        `asdict(Case)`.
    """
    choose = random.Random(f"{seed} {kind} {case}")
    path = whole.copy(folder)
    harm = HARMS[case // len(_STORES) % len(HARMS)]
    victims = files_of(path, kind)
    victim = choose.choice(victims)
    others = victims if choose.random() < 0.7 else [other for k in KINDS for other in files_of(path, k)]
    original = {file: file.read_bytes() for file in {victim, *others}}
    changed = do_harm(harm, victim, others, choose)
    name = f"{harm}: {' and '.join(str(file.relative_to(path)) for file in changed) or victim.name}, case {case} of seed {seed}"
    lost, redone = _looked_at(whole, path, kind, original, changed)
    shutil.rmtree(folder)
    noticed = not any(what.startswith("not noticed") for what in lost)
    recovered = not any(what.startswith("after the repair") for what in lost)
    figures = {"redone": float(redone), "unchanged": float(not changed)}
    return asdict(Case(f"{name} ({whole.options})", noticed, recovered, lost, figures))


def _looked_at(
    whole: _Whole, path: Path, kind: str, original: Mapping[Path, bytes], changed: Sequence[Path]
) -> tuple[list[str], int]:
    hurt = _hurt(whole, path, original, changed)
    lost = _read_wrongly(path, hurt)
    findings = verify_path(path)
    if changed and not findings and not all(_harmless(original[file], file) for file in changed):
        lost.append("not noticed by verify")
    named = frozenset((f.layer, key) for f in findings if f.layer is not None for key in f.row_keys)
    # Rows whose record is lost are not committed any more: the record is named, and their files as orphans.
    hurt -= {row for file in changed if file.parent.name == "records" for row in _counted_by(int(file.stem))}
    if named != hurt:
        lost.append(f"not noticed right: {len(hurt)} rows are hurt, verify names {len(named)}: {sorted(named ^ hurt)[:2]}")
    done, wrong = _repaired(whole, path)
    must = _must_be_redone(whole, path, original, changed, findings)
    if frozenset(done) != must:
        wrong.append(f"{len(done)} maps extracted again, {len(must)} had to be")
    return lost + [f"after the repair {what}" for what in wrong], len(done)


def _harmless(before: bytes, file: Path) -> bool:
    """Tell whether harm to a file is none: the index was put right by the opening, or a document still says the same."""
    if "index.sqlite" in file.name:
        return True
    try:
        return file.name == "zarr.json" and bool(json.loads(file.read_bytes()) == json.loads(before))
    except (FileNotFoundError, ValueError):
        return False


# --- what is hurt, by the bytes themselves ---------------------------------------------------------------------------


def _place(path: Path, file: Path) -> tuple[str, str, int] | None:
    """Return layer, role and shard of a shard file."""
    layout = StoreLayout(path)
    for layer in LAYERS:
        for role in ("maps", "scale_offset"):
            if file.parent == layout.array(layer, role) and file.name.startswith("c."):
                return layer, role, int(file.name.split(".")[1])
    return None


def _keys_in(shard: int) -> tuple[str, ...]:
    # Six images were extracted first: shard 1 holds two of them, and the four that came later start shard 2.
    return {0: _KEYS[:4], 1: _KEYS[4:6], 2: _KEYS[6:10]}[shard]


def _hurt(whole: _Whole, path: Path, original: Mapping[Path, bytes], changed: Sequence[Path]) -> Hurt:
    hurt: set[tuple[str, str]] = set()
    for file in changed:
        place = _place(path, file)
        if place is not None:
            layer, role, shard = place
            after = file.read_bytes() if file.exists() else b""
            hurt |= {(layer, key) for key in _rows_hit(whole, original[file], after, layer, role, _keys_in(shard))}
    return frozenset(hurt)


def _rows_hit(whole: _Whole, before: bytes, after: bytes, layer: str, role: str, keys: Sequence[str]) -> list[str]:
    """Return the rows whose bytes (with the checksum behind each) differ; all of them where the size or the index does."""
    tail = 16 * 4 + CHECKSUM_BYTES
    if len(before) != len(after) or before[-tail:] != after[-tail:]:
        return list(keys)
    index = np.frombuffer(before[-tail:-CHECKSUM_BYTES], "<u8").reshape(-1, 2)
    extents = [(int(start), int(start + length)) for start, length in index if start != 2**64 - 1]
    assert len(extents) == len(keys), (whole, layer, role)
    return [key for key, (start, end) in zip(keys, extents, strict=True) if before[start:end] != after[start:end]]


def _read_wrongly(path: Path, hurt: Hurt) -> list[str]:
    """Read every row in several ways; say which gave other columns than were committed, and which damage went unnoticed."""
    try:
        store = FeatureStore.open(path)
        rows = dict(zip(_KEYS, store.rows(_KEYS, LAYERS).tolist(), strict=True))
    except StorageError:
        return []
    wrong = []
    for layer in LAYERS:
        for key, row in rows.items():
            expected = stored_map(key, layer, store.dtype)
            for way, found in _ways(store, layer, row):
                if found is None:
                    wrong += [] if (layer, key) in hurt or _shares_file(hurt, layer, key) else [f"{way} refused a whole row"]
                elif not np.array_equal(found, expected):
                    wrong.append(f"{way} read wrong columns of {layer}")
    return wrong


def _shares_file(hurt: Hurt, layer: str, key: str) -> bool:
    """Tell whether some row of the same file is hurt: a file whose index is hurt is refused whole."""
    return any((layer, other) in hurt for shard in range(3) for other in _keys_in(shard) if key in _keys_in(shard))


def _ways(store: FeatureStore, layer: str, row: int) -> list[tuple[str, Any]]:
    cells = np.arange(int(np.prod(store.layers[layer][:2])))
    ways: dict[str, Callable[[], Any]] = {
        "a single read": lambda: store.reader([layer]).read(layer, [row])[0],
        "a read of two": lambda: store.reader([layer]).read(layer, [row, row])[0],
        "a read past the cache": lambda: store.reader([layer], keep_cached=False).read(layer, [row])[0],
        "a read of cells": lambda: store.reader([layer]).read_cells(layer, row, cells).reshape(store.layers[layer]),
    }
    found = []
    for name, read in ways.items():
        try:
            found.append((name, read()))
        except StorageError:
            found.append((name, None))
    return found


# --- repair ----------------------------------------------------------------------------------------------------------


def _repaired(whole: _Whole, path: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """Do what `store repair` does; return what was extracted again, and what is still wrong."""
    try:
        mend(StoreCore(StoreLayout(path), 60.0))
        store = opened(path.parent, **whole.options)
        for finding in store.damaged():
            if finding.layer is not None and finding.shard is not None:
                store.retire(finding.layer, finding.shard, finding.what)
        done = extract(store, _KEYS)
        wrong = wrong_rows(store, _KEYS) + [f"{f.kind}: {f.what}" for f in store.verify()]
    except StorageError as error:
        return [], [f"{type(error).__name__}: {error}"]
    store.core.index.close()
    return done, wrong


def _must_be_redone(
    whole: _Whole, path: Path, original: Mapping[Path, bytes], changed: Sequence[Path], findings: Sequence[Finding]
) -> Hurt:
    """Return exactly what a repair has to extract again: the harmed files' rows, and what the harmed records committed."""
    must: set[tuple[str, str]] = set()
    for file in changed:
        place = _place(path, file)
        if place is not None:
            must |= {(place[0], key) for key in _keys_in(place[2])}
        elif file.parent.name == "records":
            must |= _committed_by(int(file.stem))
    return frozenset(must)


def _committed_by(record: int) -> set[tuple[str, str]]:
    # 1 creates, 2 declares a layer, 3 and 4 commit it, 5 declares the others, 6 and 7 commit them in the same rows, 8 new rows.
    commits = {3: (LAYERS[:1], 0), 4: (LAYERS[:1], 1), 6: (LAYERS[1:], 0), 7: (LAYERS[1:], 1), 8: (LAYERS, 2)}
    layers, shard = commits.get(record, ((), 0))
    return {(layer, key) for layer in layers for key in _keys_in(shard)}


def _counted_by(record: int) -> set[tuple[str, str]]:
    """Return the rows that do not count without a record: what it committed, or all of the layers it declared."""
    declared = {1: LAYERS, 2: LAYERS[:1], 5: LAYERS[1:]}.get(record, ())
    return _committed_by(record) | {(layer, key) for layer in declared for key in _KEYS}
