"""Stores whose last record was forged: well spelled, rightly chained and digested, and saying something else."""

from __future__ import annotations

import copy
import hashlib
import json
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from storage.errors import StorageError
from storage.features import FeatureStore

work = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "test_storage" / "extracting.py")))
KEYS = tuple(work.keys_of(0, 6))

ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 4096, 2**31, 2**62, 2**63, 2**70, 10**12, 1.0, 1.5, -0.0, 1e300),
    *("", "x", "1", "../../x", "a\0b", "\ud800", "é" * 300),
    *([], {}, [[]], [None], [0, 0], [1, 0], [-1], [2**40], {"maps": {}}, {"a": 1}, [["features.3", [1, 1]]]),
)


def record_path(root: Path, number: int) -> Path:
    """Return a record's file."""
    return next(root.iterdir()) / "journal" / "records" / f"{number:010d}.json"


def body_of(root: Path, number: int) -> dict[str, Any]:
    """Read what a record says, with nothing of this project."""
    body: dict[str, Any] = json.loads(record_path(root, number).read_bytes())
    body.pop("sha256")
    return body


def spelled(body: dict[str, Any]) -> bytes:
    """Spell a record with a digest that is right."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return digested(text[1:])


def digested(tail: bytes) -> bytes:
    """Put the digest before what a record says, whatever that is."""
    return b'{"sha256":"' + hashlib.sha256(tail).hexdigest().encode() + b'",' + tail


def last_number(root: Path) -> int:
    """Return the number of the last record."""
    return max(int(path.stem) for path in record_path(root, 1).parent.iterdir())


def forged(finished: Path, folder: Path, body: dict[str, Any]) -> Path:
    """Copy a store and put a forged record behind its last one; the index that knows better is left out."""
    shutil.rmtree(folder, ignore_errors=True)
    root = shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("index.sqlite*"))
    number = last_number(root)
    before = json.loads(record_path(root, number).read_bytes())["sha256"]
    record_path(root, number + 1).write_bytes(spelled({**body, "number": number + 1, "previous": before}))
    return root


def tells_the_truth(root: Path) -> str:
    """Read all rows; each is right, or the store says that it has none or a damaged one. Returns what came of it."""
    try:
        store = FeatureStore.open(next(root.iterdir()))
        reader = {layer: store.reader([layer]) for layer in work.LAYERS}
    except StorageError:
        return "refused"
    found = "taken"
    for layer in work.LAYERS:
        for key in KEYS:
            try:
                row = store.rows([key], [layer])
                values = reader[layer].read(layer, row)
            except StorageError:
                found = "missed"
                continue
            np.testing.assert_array_equal(values[0], work.map_of(key, layer).astype(np.float16))
    store.core.index.close()
    return found


def paths_in(value: Any) -> list[tuple[Any, ...]]:
    """List the places inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((key, *rest) for key, part in inside for rest in paths_in(part))]


@st.composite
def mutations(draw: Any, bodies: list[dict[str, Any]]) -> dict[str, Any]:
    """Change a record's body in one to three places: another value, none, one more, or one that stands elsewhere."""
    body = copy.deepcopy(draw(st.sampled_from(bodies)))
    for _ in range(draw(st.integers(1, 3))):
        places = [path for path in paths_in(body) if path]
        if places:
            *above, last = draw(st.sampled_from(places))
            parent: Any = body
            for key in above:
                parent = parent[key]
            _mutate(draw, body, parent, last)
    return body


def _mutate(draw: Any, body: dict[str, Any], parent: Any, last: Any) -> None:
    what = draw(st.sampled_from(("odd", "odd", "any", "delete", "double", "swap")))
    if what == "delete":
        del parent[last]
    elif what == "double" and isinstance(parent, list):
        parent.insert(last, copy.deepcopy(parent[last]))
    elif what == "swap":
        parent[last] = copy.deepcopy(body[draw(st.sampled_from(sorted(body)))])
    elif what == "any":
        parent[last] = draw(st.integers() | st.floats() | st.text(max_size=20))
    else:
        parent[last] = copy.deepcopy(draw(st.sampled_from(ODD)))
