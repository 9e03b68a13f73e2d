"""A peer from the registry: napari-convpaint, in an environment of its own, without a viewer.

`gaussian` are its features that need no weights, at several scales, scored like the others. `cnn` is its reader of a network's
convolutions, given squeezenet1_1 in place of the VGG-16 it would download: too slow to label 101 photographs here, so that its
speed and memory are reported and no score.

Only the package's own requirements are imported, and a module of the project that needs nothing but the C library.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from napari_convpaint.convpaint_model import ConvpaintModel
from numpy.typing import NDArray

from benchmarks.peers.ledger import begin, prediction_milliseconds
from benchmarks.peers.scene import CLASSES, Scene, read_image, read_labels
from hypercolumns.allocator import keep_freed_memory

__all__ = ["main"]

_PIXELS_PER_CLASS = 18
_CNN_TRAIN_IMAGES, _CNN_TIMED_IMAGES = 6, 6
_CNN_LAYERS = (
    "features.0 Conv2d(3, 64, kernel_size=(3, 3), stride=(2, 2))",
    "features.4.expand3x3 Conv2d(16, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))",
    "features.7.expand3x3 Conv2d(32, 128, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))",
    "features.12.expand3x3 Conv2d(64, 256, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))",
)


def _annotations(labels: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return an image of scribbles: label + 1 at a few pixels of every class present, 0 elsewhere."""
    scribbles = np.zeros_like(labels)
    for label in range(CLASSES):
        candidates = np.flatnonzero(labels == label)
        chosen = generator.permutation(len(candidates))[:_PIXELS_PER_CLASS]
        scribbles.flat[candidates[chosen]] = label + 1
    return scribbles


def _planes(path: Path) -> NDArray[np.uint8]:
    return np.moveaxis(read_image(path), -1, 0)


# Scribbles are scattered over the whole photograph: a tile around each would be read hundreds of times.
_WHOLE = {"channel_mode": "rgb", "tile_annotations": False}


def _gaussian(_scene: Scene) -> ConvpaintModel:
    return ConvpaintModel(fe_name="gaussian_features", fe_scalings=[1, 2, 4, 8], normalize=3, **_WHOLE)


def _cnn(scene: Scene) -> ConvpaintModel:
    import torch
    from napari_convpaint.feature_extractors import nnlayers
    from torchvision.models import squeezenet1_1

    def create(_name: str) -> Any:
        network = squeezenet1_1(weights=None)
        network.load_state_dict(torch.load(scene.weights, weights_only=True))
        return network.eval()

    nnlayers.Hookmodel.create_model = staticmethod(create)
    return ConvpaintModel(fe_name="vgg16", fe_layers=list(_CNN_LAYERS), fe_scalings=[1], **_WHOLE)


def main() -> int:
    """Train Convpaint on scribbles of the train photographs, and label the val ones."""
    keep_freed_memory()
    ledger, scene, variant = begin(__doc__)
    model = {"gaussian": _gaussian, "cnn": _cnn}[variant](scene)
    count = len(scene.train_images) if variant == "gaussian" else _CNN_TRAIN_IMAGES
    labels = [read_labels(path) for path in scene.train_labels[:count]]
    generator = np.random.default_rng(0)
    scribbles = [_annotations(label, generator) for label in labels]
    model.train([_planes(path) for path in scene.train_images[:count]], scribbles)
    ready = ledger.seconds

    def predict(path: Path) -> NDArray[np.uint8]:
        # Balanced scribbles as they are: with priors restored it scores less.
        return (np.asarray(model.segment(_planes(path))) - 1).astype(np.uint8)

    ledger.note(samples=int(np.count_nonzero(scribbles)), fitted_seconds=ready)
    if variant == "gaussian":
        ledger.mark((predict(path) for path in scene.val_images), seconds=ready)
        ledger.note(prediction_ms=prediction_milliseconds(predict, scene.val_images))
    else:
        ledger.note(prediction_ms=prediction_milliseconds(predict, scene.val_images[:_CNN_TIMED_IMAGES]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
