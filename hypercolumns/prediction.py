"""From a model and a map source to a label mask at the image's own size, or at the canvas' for a published protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from hypercolumns.canvas import label_pixels
from hypercolumns.geometry import Placement
from hypercolumns.heads.pixel import PixelConv
from hypercolumns.sources import MapSource

__all__ = ["average_views", "canvas_scores", "read_views", "segment", "view_logits"]


def canvas_scores(model: PixelConv, source: MapSource, index: int, *, flip: bool = False) -> Float[Tensor, "k y x"]:
    """Score every grid point of an image's canvas.

    Args:
        model: The classifier.
        source: Gives the image's maps (its hflip view too, with `flip`).
        index: The image's number in the source.
        flip: Average the class probabilities of the image and of its mirror image.

    Returns:
        Logits; with `flip` the logarithm of mean probabilities.
    """
    return average_views(view_logits(model, read_views(source, index, flip=flip)))


@torch.inference_mode()
def read_views(source: MapSource, index: int, *, flip: bool = False) -> list[list[Tensor]]:
    """Read the maps of an image; with `flip` also those of its mirror image. No gradients can be taken through them."""
    return [source.maps([(index, view)]) for view in (("identity", "hflip") if flip else ("identity",))]


@torch.inference_mode()
def view_logits(model: PixelConv, views: Sequence[list[Tensor]]) -> list[Float[Tensor, "k y x"]]:
    """Return the logits of an image's canvas and, if its maps are given too, of its mirror image, mirrored back."""
    logits = [model(maps)[0].float() for maps in views]
    return [logits[0], *(mirrored.flip(-1) for mirrored in logits[1:])]


@torch.inference_mode()
def average_views(logits: Sequence[Float[Tensor, "k y x"]]) -> Float[Tensor, "k y x"]:
    """Average the class probabilities of views: one view's logits as they are, else the logarithm of the mean probabilities."""
    if len(logits) == 1:
        return logits[0]
    # In logarithms throughout: a probability too small for float32 would become -inf, and NaN once interpolated.
    return torch.logsumexp(torch.stack([F.log_softmax(view, 0) for view in logits]), 0) - math.log(len(logits))


def segment(model: PixelConv, source: MapSource, index: int, placement: Placement, *, flip: bool = False) -> NDArray[np.uint8]:
    """Label every pixel of an image at the image's own size.

    The letterbox is cropped, the logits are interpolated bilinearly to the image's size, then the best class is taken.

    Args:
        model: The classifier.
        source: Gives the image's maps.
        index: The image's number in the source.
        placement: Where the image lies on the canvas.
        flip: Average with the mirror image.

    Returns:
        Labels (H, W), 0 … classes-1.
    """
    scores = canvas_scores(model, source, index, flip=flip)
    return label_pixels(scores, placement)
