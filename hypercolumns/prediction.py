"""From a model and a map source to a label mask at the image's own size, or at the canvas' for a published protocol."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from hypercolumns.canvas import restore_logits
from hypercolumns.geometry import Placement
from hypercolumns.heads.pixel import PixelConv
from hypercolumns.sources import MapSource

__all__ = ["canvas_scores", "segment"]


@torch.inference_mode()
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
    logits: Tensor = model(source.maps([(index, "identity")]))[0].float()
    if not flip:
        return logits
    mirrored = model(source.maps([(index, "hflip")]))[0].float().flip(-1)
    # In logarithms throughout: a probability too small for float32 would become -inf, and NaN once interpolated.
    return torch.logaddexp(F.log_softmax(logits, 0), F.log_softmax(mirrored, 0)) - math.log(2)


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
    return restore_logits(scores, placement).argmax(dim=0).to(torch.uint8).cpu().numpy()
