"""The plan's bytes against the disk: every preset, type and compression, with small canvases and random weights."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from chaos.experiments import extract, prepare_process, tiny_spec, write_images
from chaos.forking import answer
from chaos.outcome import Case, Row, scratch, tallied
from hypercolumns.backbones.presets import PRESETS
from hypercolumns.specs import ExperimentSpec
from storage.encoding import DTYPES
from storage.features import FeatureStore
from tasks.jobs import Job
from tasks.plan import plan_extraction
from tasks.prepare import prepare_dataset

__all__ = ["campaign"]

_IMAGES = 48
_CANVASES = {"vgg11": 64, "vgg16": 64, "squeezenet1_0": 96, "squeezenet1_1": 96, "caffenet": 227}
_WITHIN = 0.01
_WITHIN_PACKED = 0.05
_TRIAL_SECONDS = 0.05


def campaign(scale: float, seed: int) -> list[Row]:
    """Compare plans with what lies on the disk afterwards. A scale below 1 leaves out the large networks."""
    del seed
    names = sorted(PRESETS) if scale >= 1 else ["squeezenet1_1"]
    with scratch("plan") as folder:
        images = _IMAGES if scale >= 1 else 12
        data = write_images(folder / "data", range(images), images // 2)
        # A child for each network, because large ones together do not fit into small machines.
        prepare_process(tiny_spec(data))
        answers = [case for name in names for case in answer(partial(_network, data, folder / name, name), 900)]
    plain = [case for case in answers if not case["figures"]["compressed"]]
    packed = [case for case in answers if case["figures"]["compressed"]]
    return [
        tallied("plan against disk", plain, _farthest(plain), within=_WITHIN),
        tallied("plan against disk, zstd", packed, _farthest(packed), within=_WITHIN_PACKED),
    ]


def _farthest(answers: list[dict[str, Any]]) -> str:
    worst = max(answers, key=lambda case: abs(case["figures"]["error"]))
    return f"{worst['figures']['error']:+.2%} of the bytes on the disk; {worst['name']}"


def _network(data: Path, folder: Path, name: str) -> list[dict[str, Any]]:
    side = _CANVASES[name]
    cases = []
    for compression in ("none", "zstd"):
        for dtype in DTYPES:
            spec = tiny_spec(
                data,
                backbone__name=name,
                backbone__layers=None,
                store__canvas={"size_hw": [side, side]},
                store__dtype=dtype,
                store__compression=compression,
                store__shard_images=None,
                train__loss_stride=1,
                head__output_stride=1,
            )
            cases.append(_compared(spec, folder / f"{dtype}-{compression}"))
    return cases


def _compared(spec: ExperimentSpec, workspace: Path) -> dict[str, Any]:
    job = Job(spec=spec, workspace=workspace)
    compressed = spec.store.compression == "zstd"
    planned = plan_extraction(job, prepare_dataset(job), measure=compressed, seconds=_TRIAL_SECONDS)
    _, extracted = extract(spec, workspace)
    usage = FeatureStore.open(extracted.path).du()
    layers = sum(usage["layers"].values())
    error = planned.bytes_needed / layers - 1
    right = abs(error) <= (_WITHIN_PACKED if compressed else _WITHIN)
    name = f"{spec.backbone.name}, {spec.store.dtype}, {spec.store.compression}"
    wrong = [] if right else [f"{planned.bytes_needed} bytes planned, {layers} written ({error:+.2%})"]
    figures = {"error": error, "compressed": float(compressed), "beside the maps": usage["overhead"] / layers}
    return asdict(Case(name, None, right, wrong, figures))
