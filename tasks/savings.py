"""What each idea saved in a run: maps kept, classifying before upsampling, learning from sparse samples first.

Every figure is reckoned from times measured on this machine, and says from which; what was not measured is None.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from hypercolumns.columns import coordinate_grid, stack
from hypercolumns.heads import PixelConv, PixelMLP, convert
from hypercolumns.reporting.data import Saving
from hypercolumns.sources import Item
from hypercolumns.specs import ExperimentSpec
from tasks.classifiers import load_sparse
from tasks.jobs import Extracted, Job, Pretrained, Trained
from tasks.manifests import Manifest
from tasks.stores import StoreSource, canvas_loader, experiment_backbone, open_source
from tasks.trial import Costs, forward_seconds

__all__ = ["measured_costs", "savings"]

_SECONDS = 0.5
_IMAGES = 8
_MOST_STACKED_BYTES = 1 << 29


def measured_costs(job: Job, manifest: Manifest, extracted: Extracted) -> Costs:
    """Measure for about a second what an image costs: through the backbone, and read from the experiment's own store."""
    spec = job.spec
    entries = manifest.splits[spec.dataset.train_split]
    load = canvas_loader(manifest, entries, spec)
    forward = forward_seconds(experiment_backbone(spec), load, len(entries), spec.store.batch_images, _SECONDS)
    source = open_source(job, manifest, spec.dataset.train_split, passes=1 + spec.train.epochs)
    items: list[Item] = [(index, "identity") for index in range(min(_IMAGES, len(entries)))]

    def read() -> None:
        for item in items:
            for values in source.maps([item]):
                values.to(torch.float32, copy=True)

    read()
    seconds = _seconds(read) / len(items)
    computed = extracted.images_computed
    return Costs(extracted.seconds / computed if computed else forward + 2 * seconds, forward, seconds)


def savings(
    job: Job, manifest: Manifest, extracted: Extracted, pretrained: Pretrained, trained: Trained, costs: Costs
) -> tuple[Saving, ...]:
    """Reckon what the run saved, idea by idea."""
    epochs = trained.history["epochs"]
    images = extracted.split_images[job.spec.dataset.train_split]
    source = open_source(job, manifest, job.spec.dataset.train_split, passes=1)
    return (
        _by_storing(len(epochs), images, costs),
        _by_classifying_first(job.spec, source, pretrained, len(epochs) * images),
        _by_sampling(pretrained, [epoch["seconds"] for epoch in epochs]),
    )


def _by_storing(passes: int, images: int, costs: Costs) -> Saving:
    how = (
        f"{passes} passes over {images} training images: {costs.forward_seconds * 1000:.1f} ms through the backbone, "
        f"{costs.read_seconds * 1000:.1f} ms from the store, both measured while this report was written"
    )
    return Saving(
        "reading maps in place of recomputing them", passes * images * (costs.forward_seconds - costs.read_seconds), how
    )


def _by_classifying_first(spec: ExperimentSpec, source: StoreSource, pretrained: Pretrained, images: int) -> Saving:
    idea = "classifying before upsampling"
    mlp, _ = load_sparse(pretrained.path, spec.head.model_copy(update={"context": "none"}))
    stride = spec.head.output_stride
    height, width = (side // stride for side in source.canvas_hw)
    if 4 * height * width * mlp.first.in_features > _MOST_STACKED_BYTES:
        stride *= 2
        height, width = (side // stride for side in source.canvas_hw)
    if 4 * height * width * mlp.first.in_features > _MOST_STACKED_BYTES or any(side % stride for side in source.canvas_hw):
        return Saving(idea, None, "not measured: the explicit hypercolumns of one image would take over half a gigabyte")
    first, stacked = _head_seconds(mlp, source.select([layer.name for layer in mlp.layers]), stride)
    how = (
        f"{images} images trained on, at stride {stride}: {stacked * 1000:.1f} ms each upsampling every layer and then "
        f"classifying, {first * 1000:.1f} ms the way it was done; the forward pass alone"
    )
    return Saving(idea, images * (stacked - first), how)


def _head_seconds(mlp: PixelMLP, source: StoreSource, stride: int) -> tuple[float, float]:
    """Time a head on one image: as it is, and by its definition."""
    conv = convert(mlp)
    maps = [values.float() for values in source.maps([(0, "identity")])]

    def explicit() -> None:
        columns = stack(maps, conv.layers, conv.frame, stride)
        if conv.spec.coordinates:
            grid = coordinate_grid(conv.frame.canvas_hw, stride)[None].to(columns)
            columns = torch.cat([columns, grid], dim=-1)
        conv.forward_stacked(columns)

    with torch.inference_mode():
        return _quickest(lambda: _classify(conv, maps, stride)), _quickest(explicit)


def _classify(conv: PixelConv, maps: list[torch.Tensor], stride: int) -> None:
    conv(maps, stride)


def _by_sampling(pretrained: Pretrained, dense_seconds: list[float]) -> Saving:
    idea = "learning from sparse samples first"
    sparse = [epoch["seconds"] for epoch in pretrained.history["epochs"]]
    if not sparse or not dense_seconds:
        return Saving(idea, None, "not measured: this run has not both a sparse and a dense stage")
    each = sum(dense_seconds) / len(dense_seconds)
    how = f"{len(sparse)} epochs over samples took {sum(sparse):.1f} s; as many over every pixel, {each:.1f} s each as measured"
    return Saving(idea, len(sparse) * each - sum(sparse), how)


def _quickest(work: Callable[[], None]) -> float:
    return min(_seconds(work) for _ in range(3))


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
