"""The dense loss against torch's cross entropy and Dice spelled out, and its written-down gradient against autograd's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hypercolumns.losses import dense_loss

WEIGHTS = torch.tensor([0.2, 1.0, 1.8, 1.0], dtype=torch.float64)
VOID = 255


def scene(seed=0, absent=True, void=0.3):
    """Return logits (2, 4, 3, 5) and labels; class 3 occurs nowhere unless `absent` is false."""
    random = np.random.default_rng(seed)
    labels = torch.from_numpy(random.integers(0, 3 if absent else 4, (2, 3, 5)))
    labels[torch.from_numpy(random.random((2, 3, 5)) < void)] = VOID
    return torch.from_numpy(2 * random.standard_normal((2, 4, 3, 5))), labels


def spelled_out(logits, labels, smoothing, dice):
    """Return the loss in torch's own words."""
    entropy = F.cross_entropy(logits, labels, WEIGHTS, ignore_index=VOID, reduction="sum", label_smoothing=smoothing)
    known = labels != VOID
    shares = logits.softmax(1).permute(0, 2, 3, 1)[known]
    truth = F.one_hot(labels[known], logits.shape[1])
    scores = (2 * (shares * truth).sum(0) + 1) / (shares.sum(0) + truth.sum(0) + 1)
    return entropy / WEIGHTS[labels[known]].sum() + dice * (1 - scores[truth.sum(0) > 0]).mean()


@pytest.mark.parametrize("absent", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("dice", [0.0, 1.0, 2.5])
def test_loss_and_gradient_are_those_of_the_loss_spelled_out(smoothing, dice, absent):
    for seed in range(3):
        logits, labels = scene(seed, absent)
        found, expected = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        loss = dense_loss(found, labels, WEIGHTS, label_smoothing=smoothing, dice=dice)
        reference = spelled_out(expected, labels, smoothing, dice)
        torch.testing.assert_close(loss, reference, rtol=1e-12, atol=1e-12)
        (2 * loss).backward()
        (2 * reference).backward()
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("smoothing", "dice"), [(0.0, 0.0), (0.1, 0.0), (0.0, 1.0), (0.1, 3.0)])
def test_the_gradient_is_what_the_loss_changes_by(smoothing, dice):
    logits, labels = scene(5)
    assert torch.autograd.gradcheck(
        lambda values: dense_loss(values, labels, WEIGHTS, label_smoothing=smoothing, dice=dice), logits.requires_grad_()
    )


def test_the_dice_loss_is_the_one_written_down():
    logits, labels = scene(1)
    scores = []
    for label in range(3):
        overlap = total = 0.0
        for image, y, x in np.ndindex(*labels.shape):
            if labels[image, y, x] == VOID:
                continue
            probability = float(logits[image, :, y, x].softmax(0)[label])
            right = float(labels[image, y, x] == label)
            overlap += probability * right
            total += probability + right
        scores.append((2 * overlap + 1) / (total + 1))
    plain, both = (dense_loss(logits, labels, WEIGHTS, dice=dice) for dice in (0.0, 1.0))
    assert float(both - plain) == pytest.approx(1 - np.mean(scores), rel=1e-9)


@pytest.mark.parametrize("dice", [0.0, 1.0])
def test_void_alone_has_a_loss_and_a_gradient_of_zero(dice):
    logits = torch.randn(1, 4, 2, 2, requires_grad=True)
    loss = dense_loss(logits, torch.full((1, 2, 2), VOID), WEIGHTS, label_smoothing=0.1, dice=dice)
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad.eq(0).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_has_the_logits_type_whatever_their_layout(dtype, layout):
    values, labels = scene(2)
    logits = values.to(dtype).contiguous(memory_format=layout).requires_grad_()
    loss = dense_loss(logits, labels, WEIGHTS.float(), dice=1.0)
    loss.backward()
    exact = logits.detach().double().requires_grad_()
    spelled_out(exact, labels, 0.0, 1.0).backward()
    assert (loss.dtype, logits.grad.dtype) == (torch.float32, dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=tolerance, atol=tolerance / 10)


def test_a_score_that_is_not_finite_is_not_hidden():
    logits, labels = scene(3)
    logits[0, 0, 0, 0] = float("inf")
    labels[0, 0, 0] = 0
    assert not torch.isfinite(dense_loss(logits, labels, WEIGHTS, dice=1.0))
