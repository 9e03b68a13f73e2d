"""What a dense head is trained to lower: weighted cross entropy and soft Dice over labelled pixels, and their gradient at once.

Written in torch's operations, autograd would keep and read again a dozen arrays of the logits' size; the gradient by the logits
is short enough to be written down (below), and is computed with the loss in one go.

Source: label smoothing as in Szegedy et al., "Rethinking the Inception architecture", CVPR 2016, sec. 7, with class weights as
in `torch.nn.functional.cross_entropy`; soft Dice as in Milletari et al., "V-Net", 3DV 2016, sec. 3, with the sum of
probabilities in the denominator and one added above and below.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from hypercolumns.datasets.base import VOID

__all__ = ["dense_loss"]


def dense_loss(
    logits: Float[Tensor, "b c y x"],
    labels: Int[Tensor, "b y x"],
    weights: Float[Tensor, " c"],
    *,
    label_smoothing: float = 0.0,
    dice: float = 0.0,
) -> Float[Tensor, ""]:
    """Return the mean cross entropy over labelled pixels, each weighing as its class, plus `dice` times the soft Dice loss.

    The soft Dice loss is one minus the mean Dice score of the classes present in the batch. Void pixels count nowhere; a batch
    of them alone has a loss and a gradient of zero. Differentiable once.

    Args:
        logits: Scores, in any floating type; half precision is computed in float32.
        labels: Labels (int64), 255 for void.
        weights: Class weights.
        label_smoothing: Share of the target that all classes have alike.
        dice: Weight of the Dice loss.
    """
    result: Tensor = _DenseLoss.apply(logits, labels, weights, label_smoothing, dice)
    return result


class _DenseLoss(torch.autograd.Function):
    """The loss L of logits z with probabilities p, and dL/dz.

    Cross entropy of a pixel with label y and weight w, all weights summing to W, smoothed by e over K classes: with
    a = (1 - e) w_y and g_k = e w_k / K, dL/dz_k = (p_k (a + sum g) - a [k = y] - g_k) / W.

    Dice of class k, of P present: s_k = (2 o_k + 1) / n_k, where o_k sums p_k over its own pixels and n_k is their number, plus
    the sum of p_k over all pixels, plus one. With A_k = s_k / (P n_k) and B_k = 2 / (P n_k): dL/dp_k = A_k - B_k [k = y], and
    by the softmax dL/dz_k = p_k (A_k - r) - p_y B_y [k = y], where r = sum p A - p_y B_y.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor, smoothing: float, dice: float) -> Tensor:
        # Planes of one class each: along them the softmax is computed many pixels at a time.
        scores = (logits if logits.dtype == torch.float64 else logits.float()).contiguous()
        weights = weights.to(scores.dtype)
        known = labels != VOID
        chosen = labels.where(known, 0)[:, None]
        own = (1 - smoothing) * weights[chosen[:, 0]] * known
        total = (weights[chosen[:, 0]] * known).sum().clamp(min=torch.finfo(scores.dtype).tiny)
        logarithms = F.log_softmax(scores, dim=1)
        loss = -(own * logarithms.gather(1, chosen)[:, 0]).sum() / total
        shared = weights * (smoothing / len(weights))
        if smoothing:
            loss = loss - (torch.einsum("bkyx,k->byx", logarithms, shared) * known).sum() / total
        shares = logarithms.exp_().mul_(known[:, None])
        everywhere, at_label = (own + shared.sum() * known) / total, -own / total
        if dice:
            right = shares.gather(1, chosen)[:, 0]
            lost, by_class, by_label = _dice(shares, right, chosen, known)
            loss = loss + dice * lost
            own_share = right * by_label[chosen[:, 0]] * dice
            everywhere = everywhere - torch.einsum("bkyx,k->byx", shares, by_class * dice) + own_share
            gradient = (everywhere[:, None] + (by_class * dice)[:, None, None]).mul_(shares)
            at_label = at_label - own_share
        else:
            gradient = shares.mul_(everywhere[:, None])
        if smoothing:
            gradient.sub_(shared[:, None, None] * (known / total)[:, None])
        ctx.save_for_backward(gradient.scatter_add_(1, chosen, at_label[:, None]))
        ctx.dtype = logits.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * gradients[0]).to(ctx.dtype), None, None, None, None


def _dice(shares: Tensor, right: Tensor, chosen: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, and the A and B of its gradient, of probabilities that are zero where nothing is known."""
    classes, labels = shares.shape[1], chosen.flatten()
    counts = torch.bincount(labels, known.flatten().to(shares.dtype), minlength=classes).to(shares)
    overlap = torch.bincount(labels, right.flatten(), minlength=classes).to(shares)
    sizes = counts + shares.sum((0, 2, 3)) + 1
    score = (2 * overlap + 1) / sizes
    present = (counts > 0).to(shares)
    each = present / present.sum().clamp(min=1)
    return ((1 - score) * each).sum(), each * score / sizes, each * 2 / sizes
