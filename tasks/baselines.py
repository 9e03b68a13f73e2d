"""The baselines that are trained: the same head on less, fitted to the same sampled pixels as the sparse stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hypercolumns.backbones import LayerInfo
from hypercolumns.heads import PixelConv, convert
from hypercolumns.sources import MapSource, PixelSource
from hypercolumns.specs import HeadSpec
from tasks.classifiers import load_sparse
from tasks.extract import extract_features
from tasks.jobs import Job, Sampled
from tasks.manifests import Manifest
from tasks.prepare import prepare_dataset
from tasks.pretrain import fit_samples
from tasks.sample import write_samples
from tasks.stores import canvas_loader, experiment_backbone, open_source

__all__ = ["trained_baselines"]

_RANDOM_WEIGHTS = "random:0"


def trained_baselines(
    job: Job, manifest: Manifest, sampled: Sampled, source: MapSource
) -> Iterator[tuple[str, PixelConv, MapSource]]:
    """Train the experiment's baselines (or find them) and yield each with its name and the maps it reads on the val split.

    Args:
        job: The experiment.
        manifest: Its images.
        sampled: Its sample set, whose columns `deepest` and `position` share.
        source: The maps of the val split.
    """
    makers: dict[str, Callable[[], tuple[PixelConv, MapSource]]] = {
        "rgb": lambda: _rgb(job, manifest),
        "position": lambda: (_fitted(job, manifest, sampled, source.layers, (), _bare(job, coordinates=True)), source),
        "deepest": lambda: (_fitted(job, manifest, sampled, source.layers, source.layers[-1:], _bare(job)), source),
        "random_weights": lambda: _random_weights(job, manifest),
    }
    for name in job.spec.evaluate.baselines:
        if name in makers:
            yield name, *makers[name]()


def _bare(job: Job, *, coordinates: bool = False) -> HeadSpec:
    return job.spec.head.model_copy(update={"layers": None, "coordinates": coordinates, "context": "none"})


def _fitted(
    job: Job,
    manifest: Manifest,
    sampled: Sampled,
    sampled_layers: tuple[LayerInfo, ...],
    layers: tuple[LayerInfo, ...],
    head: HeadSpec,
) -> PixelConv:
    fitted = fit_samples(job, manifest, sampled, sampled_layers, layers, head)
    mlp, _ = load_sparse(fitted.path, head)
    return convert(mlp).eval()


def _rgb(job: Job, manifest: Manifest) -> tuple[PixelConv, MapSource]:
    spec = job.spec

    def pixels(split: str) -> PixelSource:
        return PixelSource(canvas_loader(manifest, manifest.splits[split], spec), spec.store.canvas.size_hw)

    sampled = write_samples(job, manifest, {"pixels": "rgb"}, lambda: pixels(spec.dataset.train_split))
    val = pixels(spec.dataset.val_split)
    return _fitted(job, manifest, sampled, val.layers, val.layers, _bare(job)), val


def _random_weights(job: Job, manifest: Manifest) -> tuple[PixelConv, MapSource]:
    """Run the sparse stage of the same experiment on a backbone that has learned nothing."""
    backbone = job.spec.backbone.model_copy(update={"weights": _RANDOM_WEIGHTS, "weights_sha256": None})
    other = job.model_copy(update={"spec": job.spec.model_copy(update={"backbone": backbone})})
    extracted = extract_features(other, prepare_dataset(other))
    origin = {"store": extracted.key, "layers": list(extracted.cache)}
    train, val = other.spec.dataset.train_split, other.spec.dataset.val_split
    sampled = write_samples(other, manifest, origin, lambda: open_source(other, manifest, train, passes=1))
    layers = experiment_backbone(other.spec).layers
    head = _bare(other, coordinates=other.spec.head.coordinates)
    return _fitted(other, manifest, sampled, layers, layers, head), open_source(other, manifest, val, passes=1)
