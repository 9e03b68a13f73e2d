"""The corpus of images and masks, through the real preparation of a data set: what `tests.hostile.runner` runs."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hypercolumns.errors import HypercolumnsError
from hypercolumns.specs import CanvasSpec
from tasks.jobs import Job
from tasks.manifests import load_manifest
from tasks.prepare import prepare_dataset
from tests.factories import make_image, make_mask, save_image, save_mask
from tests.hostile import bomb_cases, image_cases, name_cases, place_cases
from tests.hostile.cases import HW, Case, Shown, Whole, labels
from tests.hostile.runner import explained
from tests.pipeline_factory import tiny_spec


@cache
def corpus() -> dict[str, Case]:
    """Return all cases by name."""
    listed = [case for module in (image_cases, bomb_cases, place_cases, name_cases) for case in module.cases()]
    found = {case.name: case for case in listed}
    if len(found) != len(listed):
        raise ValueError("two cases have one name")
    return found


def names() -> list[str]:
    """List the cases."""
    return list(corpus())


def perform(name: str, folder: Path) -> dict[str, Any]:
    """Prepare a data set with the case in it, once with `fail` and once with `skip`, and tell what came of it."""
    case = corpus()[name]
    root = _written(case, folder / "data")
    return {mode: _prepared(case, root, folder / mode, mode) for mode in ("fail", "skip")}


def _written(case: Case, root: Path) -> Path:
    for split, count in (("train", 2), ("val", 1)):
        for number in range(count):
            drawn = make_mask(HW, seed=number)
            save_image(root / "images" / split / f"sound{number}.png", make_image(drawn, seed=number))
            save_mask(root / "masks" / split / f"sound{number}.png", drawn)
    (root / "classes.txt").write_text("ground\nbox\ndisc\nstripe\n", encoding="utf-8")
    case.write(root)
    if case.has_mask:
        file = Path(case.file)
        drawn = _expected(case).labels if isinstance(case.expected, Shown) else None
        save_mask(root / "masks" / "train" / f"{file.name.removesuffix(file.suffix)}.png", labels() if drawn is None else drawn)
    return root


def _expected(case: Case) -> Shown:
    return case.expected.shown if isinstance(case.expected, Whole) else case.expected  # type: ignore[return-value]


def _prepared(case: Case, root: Path, workspace: Path, mode: str) -> dict[str, Any]:
    job = Job(spec=tiny_spec(root, dataset__on_bad_image=mode), workspace=workspace)
    try:
        prepared = prepare_dataset(job)
    except HypercolumnsError as error:
        return {**explained(error), **_left(workspace)}
    manifest = load_manifest(prepared.path)
    found = {str(entry.image_path): entry for entry in manifest.splits["train"]}
    entry = found.get(str(root / case.file))
    told: dict[str, Any] = {"images": prepared.images, "rejected": prepared.rejected, **_left(workspace)}
    if entry is None or not isinstance(case.expected, Shown | Whole):
        return told | {"shown": entry is not None}
    shown = _expected(case)
    pixels, drawn = manifest.image(entry).astype(int), manifest.mask(entry)
    wanted = labels() if shown.labels is None else shown.labels
    same = pixels.shape == shown.pixels.shape
    fitted = manifest.canvas(entry, CanvasSpec(size_hw=(64, 64)), (0.5, 0.5, 0.5))
    return told | {
        "shown": True,
        "image_hw": entry.image_hw,
        "expected_hw": shown.pixels.shape[:2],
        "difference": int(np.abs(pixels - shown.pixels).max()) if same else None,
        "labels_agree": bool(np.array_equal(drawn, wanted)),
        "canvas_hw": fitted.shape[:2],
    }


def _left(workspace: Path) -> dict[str, Any]:
    """Tell what was left on disk: only whole JSON files, nothing half written."""
    files = [path for path in workspace.rglob("*") if path.is_file()] if workspace.exists() else []
    listed = workspace / "datasets" / "rejected.json"
    return {
        "left": sorted(path.name for path in files),
        "listed": json.loads(listed.read_text(encoding="utf-8")) if listed.exists() else [],
    }
