"""Stages of the pipeline against what they replace: recomputing, plain calls without flows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.measuring import Figure, interleaved, ratio, scratch
from hypercolumns.arithmetic import multiplies_bfloat16
from hypercolumns.backbones import build_backbone
from hypercolumns.canvas import fit_image
from hypercolumns.columns import Frame, gather
from hypercolumns.geometry import place
from hypercolumns.heads import PixelMLP, convert
from hypercolumns.prediction import segment
from hypercolumns.problems import DenseProblem
from hypercolumns.sources import BackboneSource, MapSource
from hypercolumns.specs import BackboneSpec, CanvasSpec, ExperimentSpec, HeadSpec, Precision, TrainSpec, parse_spec
from tasks.classifiers import torch_dtype
from tasks.extract import extract_features
from tasks.jobs import Job, Prepared
from tasks.manifests import load_manifest
from tasks.prepare import prepare_dataset
from tasks.stores import canvas_loader, experiment_backbone, open_source

__all__ = ["SIDE", "camvid", "dense_epoch", "experiment", "flow_overhead", "prediction", "sampling", "start_up"]

SIDE = 224
_ROOT = Path(__file__).parent.parent
_BATCH = 8


def experiment(workspace: Path, images: int, **sections: dict[str, Any]) -> tuple[Job, Prepared, int]:
    """Make an experiment on generated figures of 224 pixels; return it, its data, and how many images it has."""
    values: dict[str, Any] = {
        "dataset": {"kind": "shapes", "shapes": {"images": images, "size": SIDE, "seed": 0}},
        "store": {"canvas": {"size_hw": [SIDE, SIDE]}, "views": ["identity"], **sections.pop("store", {})},
        "evaluate": {"baselines": []},
        **sections,
    }
    job = Job(spec=parse_spec(ExperimentSpec, values), workspace=workspace)
    prepared = prepare_dataset(job)
    return job, prepared, sum(prepared.images.values())


def _epoch(source: MapSource, images: int, labels: np.ndarray) -> None:
    torch.manual_seed(0)
    spec = TrainSpec(batch=2, loss_stride=4, precision="float32")
    frame = Frame(source.canvas_hw)
    model = convert(PixelMLP(source.layers, 7, HeadSpec(hidden=64, output_stride=4, context="none"), frame))
    problem = DenseProblem(
        source, range(images), [], lambda _: labels, ("identity",), torch.ones(7), spec, [str(i) for i in range(images)]
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    for batch in problem.batches(0):
        optimiser.zero_grad()
        problem.loss(model, batch).backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def dense_epoch() -> list[Figure]:
    """Train the dense head for an epoch from the store, against recomputing the backbone in it."""
    with scratch() as folder:
        return [_dense_epoch(folder, name, target) for name, target in (("vgg11", 8.0), ("vgg16", 15.0))]


def _dense_epoch(folder: Path, name: str, target: float) -> Figure:
    stored, live, images = _sources(folder, name)
    labels = np.random.default_rng(0).integers(0, 7, (SIDE, SIDE), np.uint8)
    times = interleaved(lambda: _epoch(stored, images, labels), lambda: _epoch(live, images, labels), repeats=3)
    return ratio(f"dense epoch from the store, {name}", target, *times, images=images)


def sampling() -> list[Figure]:
    """Gather 63 hypercolumns an image from the store (rows verified, in the page cache), against recomputing the maps."""
    with scratch() as folder:
        stored, live, images = _sources(folder, "vgg11")
        points = torch.rand(63, 2, dtype=torch.float64) * SIDE
        frame = Frame((SIDE, SIDE))

        def read() -> None:
            # With one of torch's threads, as the stage's readers have: operations are too small to be shared out.
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            for index in range(images):
                stored.gather((index, "identity"), points, frame)
            torch.set_num_threads(threads)

        @torch.inference_mode()
        def recompute() -> None:
            for first in range(0, images, _BATCH):
                maps = live.maps([(index, "identity") for index in range(first, min(first + _BATCH, images))])
                for number in range(len(maps[0])):
                    gather([values[number] for values in maps], points, live.layers, frame)

        return [ratio("sampling 63 pixels from the store, vgg11", 150, *interleaved(read, recompute))]


def _sources(folder: Path, name: str) -> tuple[MapSource, MapSource, int]:
    """Return the same maps from a store and from the backbone, and how many images there are."""
    job, prepared, _ = experiment(folder, 32, backbone={"name": name, "weights": "random:0"})
    manifest = load_manifest(prepared.path)
    extract_features(job, prepared)
    images = manifest.splits["train"]
    live = BackboneSource(experiment_backbone(job.spec), canvas_loader(manifest, images, job.spec))
    return open_source(job, manifest, "train", passes=10), live, len(images)


def prediction() -> list[Figure]:
    """Label a photograph of 480x360 with the model of configs/camvid.yaml: from pixels in memory to labels, nothing stored."""
    canvas = CanvasSpec(size_hw=(360, 480))
    precision: Precision = "bfloat16" if multiplies_bfloat16() else "float32"
    backbone = build_backbone(BackboneSpec(name="squeezenet1_1", weights="random:0"), canvas.size_hw, precision=precision)
    image = np.random.default_rng(0).integers(0, 255, (*canvas.size_hw, 3), np.uint8)
    source = BackboneSource(backbone, lambda _: fit_image(image, canvas)[0])
    figures = []
    for hidden in (128, 256):
        spec = HeadSpec(hidden=hidden, output_stride=4, alignment="receptive_field", context="pool")
        mlp = PixelMLP(backbone.layers, 11, spec, Frame(canvas.size_hw, spec.alignment))
        # As a model is loaded to label photographs: nobody trains it any more.
        model = convert(mlp, torch_dtype(precision)).eval().requires_grad_(False)
        (seconds,) = interleaved(lambda m=model: segment(m, source, 0, place(canvas.size_hw, canvas)), repeats=20)
        name = f"prediction of an image of 480x360, {precision}, hidden {hidden}"
        figures.append(Figure(name, 1000 * seconds, 25, " ms", at_most=True))
    return figures


def start_up() -> list[Figure]:
    """Ask for help, against importing torch."""
    command = str(Path(sys.executable).with_name("hypercolumns"))
    times = interleaved(lambda: _call(command, "--help"), lambda: _call(sys.executable, "-c", "import torch"))
    return [ratio("start-up: --help, against import torch", 1, *times)]


_PLAIN = """
import sys
from pathlib import Path
from hypercolumns.allocator import keep_freed_memory
keep_freed_memory()
from cli.config import load_experiment
from tasks.jobs import Job
from tasks.prepare import prepare_dataset
from tasks.extract import extract_features
from tasks.sample import sample_pixels
from tasks.pretrain import pretrain_classifier
from tasks.train import train_dense
from tasks.evaluate import evaluate_model
from tasks.report import write_report
job = Job(spec=load_experiment(Path(sys.argv[1]), []), workspace=Path(sys.argv[2]))
prepared = prepare_dataset(job)
extracted = extract_features(job, prepared)
sampled = sample_pixels(job, prepared, extracted)
pretrained = pretrain_classifier(job, prepared, extracted, sampled)
trained = train_dense(job, prepared, pretrained)
evaluated = evaluate_model(job, prepared, extracted, sampled, pretrained, trained)
write_report(job, prepared, extracted, sampled, pretrained, trained, evaluated)
"""


def flow_overhead() -> list[Figure]:
    """Run an experiment through Prefect, against the same stages called one after the other, the report among them."""
    with scratch() as folder:
        config = folder / "experiment.yaml"
        values = {
            "dataset": {"kind": "shapes", "shapes": {"images": 40, "size": 128, "seed": 0}},
            "backbone": {"name": "squeezenet1_1", "weights": "shapes"},
            "store": {"canvas": {"size_hw": [128, 128]}},
            "train": {"epochs": 1},
            "evaluate": {"baselines": []},
        }
        config.write_text(yaml.safe_dump(values), encoding="utf-8")
        command = str(Path(sys.executable).with_name("hypercolumns"))
        flows, plain = folder / "flows", folder / "plain"

        def clear() -> None:
            for workspace in (flows, plain):
                for part in ("stores", "samples", "models", "runs", "evaluations", "datasets", "manifests"):
                    shutil.rmtree(workspace / part, ignore_errors=True)

        ours, bare = interleaved(
            lambda: _call(command, "run", str(config), "--workspace", str(flows)),
            lambda: _call(sys.executable, "-c", _PLAIN, str(config), str(plain)),
            repeats=3,
            before=clear,
        )
        details = {"seconds": ours, "plain_seconds": bare, "allowed_seconds": 5 + 0.02 * bare}
        return [Figure("flow overhead beyond 2 %, seconds", ours - 1.02 * bare, 5, "s", at_most=True, details=details)]


def camvid() -> list[Figure]:
    """From images to a trained model at 0.60 val mean IU, cold; without the real photographs there is no such row."""
    if "HYPERCOLUMNS_REAL_DATA" not in os.environ:
        return []
    command = str(Path(sys.executable).with_name("hypercolumns"))
    with scratch() as folder:
        config = str(_ROOT / "configs" / "camvid.yaml")
        sooner = ["pretrain.epochs=2", "train.epochs=1", "head.hidden=128"]
        quick = [*sooner, "store.views=[identity]", "evaluate.baselines=[]"]
        start = time.perf_counter()
        printed = _call(command, "run", config, *quick, "--workspace", str(folder), "--json")
        seconds = time.perf_counter() - start
        result = json.loads(printed.splitlines()[-1])
        details = {"mean_iu": result["metrics"]["mean_iu"], "timings": result["timings"]}
        return [
            Figure("CamVid, cold, all in, seconds", seconds, 120, "s", at_most=True, details=details),
            Figure("CamVid in that time: val mean IU", result["metrics"]["mean_iu"], 0.60, "", details=details),
        ]


def _call(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=_ROOT).stdout
