"""Scoring classifiers on images of the val split, one confusion matrix an image: whole numbers, which add up in any order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from hypercolumns.canvas import label_pixels
from hypercolumns.geometry import Placement, place
from hypercolumns.heads import PixelConv, convert
from hypercolumns.metrics.segmentation import confusion_matrix
from hypercolumns.prediction import average_views, read_views, view_logits
from hypercolumns.read_ahead import read_ahead
from hypercolumns.sources import MapSource
from tasks.baselines import trained_baselines
from tasks.classifiers import load_classifier, load_sparse, torch_dtype
from tasks.jobs import Job, Pretrained, Sampled, Trained
from tasks.manifests import Manifest
from tasks.priors import prior_offset
from tasks.stores import open_source

__all__ = ["Judge", "Scored", "predict_images", "score_classifiers", "train_baselines"]


class Scored(NamedTuple):
    """What classifiers did on some images."""

    matrices: dict[str, NDArray[np.int64]]
    """By classifier, one confusion matrix an image (n, C, C)."""
    predictions: dict[int, NDArray[np.uint8]]
    """By the image's number in the split, what the model says of it (H, W)."""


class Judge:
    """Scores classifiers on images of the val split, one after the other.

    Args:
        job: The experiment.
        manifest: Its images.
        indices: Numbers of the images in the split; all of them by default.
    """

    def __init__(self, job: Job, manifest: Manifest, indices: Sequence[int] | None = None) -> None:
        self.job, self.manifest = job, manifest
        self.entries = manifest.splits[job.spec.dataset.val_split]
        self.indices = range(len(self.entries)) if indices is None else indices
        self.predictions: dict[int, NDArray[np.uint8]] = {}

    def matrices(
        self, offsets: Mapping[str, Tensor | None], model: PixelConv, source: MapSource, *, keep: bool = False
    ) -> dict[str, NDArray[np.int64]]:
        """Score one classifier, perhaps under several priors: its maps are read and classified once for all of them.

        Args:
            offsets: by name, what is added to the model's logits (C,); None adds nothing.
            model: the classifier.
            source: the maps of the val split.
            keep: keep the predictions under the first offset for the panels.

        Returns:
            By name, one confusion matrix an image (n, C, C).
        """
        found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in offsets}
        reader = source.select([layer.name for layer in model.layers])
        first = next(iter(offsets))
        flip = self.job.spec.evaluate.flip
        inputs = read_ahead(self.indices, lambda index: (index, read_views(reader, index, flip=flip), self._truth(index)))
        for index, maps, (truth, placement) in tqdm(
            inputs, total=len(self.indices), unit="img", desc=f"evaluate {first}", disable=None
        ):
            views = view_logits(model, maps)
            for name, offset in offsets.items():
                scores = average_views(views if offset is None else [view + offset[:, None, None] for view in views])
                predicted = label_pixels(scores, placement)
                found[name].append(confusion_matrix(truth, predicted, self.manifest.classes))
                if keep and name == first:
                    self.predictions[index] = predicted
        return {name: np.stack(matrices) for name, matrices in found.items()}

    def _truth(self, index: int) -> tuple[NDArray[np.uint8], Placement]:
        """Return an image's labels, and where on the canvas they lie."""
        entry, spec = self.entries[index], self.job.spec
        if spec.evaluate.protocol == "notebook":
            return self.manifest.canvas_mask(entry, spec), place(spec.store.canvas.size_hw, spec.store.canvas)
        return self.manifest.mask(entry), place(entry.image_hw, spec.store.canvas)


def score_classifiers(
    job: Job,
    manifest: Manifest,
    sampled: Sampled,
    pretrained: Pretrained,
    trained: Trained,
    indices: Sequence[int] | None = None,
    *,
    keep: bool = True,
) -> Scored:
    """Score the model, its sparse stage and the trained baselines, which are trained first where they are not yet.

    Args:
        job: The experiment.
        manifest: Its images.
        sampled: Its sample set.
        pretrained: The sparse stage.
        trained: The model.
        indices: Numbers of the images in the val split; all of them by default.
        keep: Keep what the model predicts.
    """
    judge = Judge(job, manifest, indices)
    source = open_source(job, manifest, job.spec.dataset.val_split, passes=1)
    dtype = torch_dtype(job.spec.train.precision)
    model, _ = load_classifier(PixelConv, trained.path, dtype=dtype)
    offset = prior_offset(job.spec, manifest, sampled.path)
    if job.spec.train.epochs:
        found = judge.matrices({"model": None}, model, source, keep=keep)
        mlp, _ = load_sparse(pretrained.path, job.spec.head)
        sparse = convert(mlp, dtype).eval()
        found |= judge.matrices({"sparse, sample priors": None, "sparse, priors restored": offset}, sparse, source)
    else:
        # The model is the sparse stage, with the priors restored.
        found = judge.matrices({"model": None, "sparse, sample priors": -offset}, model, source, keep=keep)
        found["sparse, priors restored"] = found["model"]
    for name, classifier, maps in trained_baselines(job, manifest, sampled, source):
        classifier.logit_offset.copy_(offset)
        found |= judge.matrices({name: None}, classifier, maps)
    return Scored(found, judge.predictions)


def train_baselines(job: Job, manifest: Manifest, sampled: Sampled) -> None:
    """Train the baselines that are not trained yet, so that whoever scores them finds them."""
    source = open_source(job, manifest, job.spec.dataset.val_split, passes=1)
    for _ in trained_baselines(job, manifest, sampled, source):
        pass


def predict_images(job: Job, manifest: Manifest, trained: Trained, indices: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    """Return what the model says of some images of the val split (H, W), by their numbers in it."""
    if not indices:
        return {}
    judge = Judge(job, manifest, indices)
    source = open_source(job, manifest, job.spec.dataset.val_split, passes=1)
    model, _ = load_classifier(PixelConv, trained.path, dtype=torch_dtype(job.spec.train.precision))
    judge.matrices({"model": None}, model, source, keep=True)
    return judge.predictions
