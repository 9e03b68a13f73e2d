"""Class weights, losses and held-out scores against scikit-learn, plain torch and loops."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from hypercolumns.columns import Frame
from hypercolumns.errors import GeometryError, TrainingError
from hypercolumns.heads import PixelMLP, convert
from hypercolumns.problems import DenseProblem, SparseProblem, class_weights, mean_iu
from hypercolumns.specs import HeadSpec, TrainSpec
from tests.core_factory import MemorySource, make_layer

CANVAS = (16, 24)
LAYERS = (make_layer("fine", 3, (8, 12)), make_layer("coarse", 4, (2, 3)))
WEIGHTS = torch.tensor([0.2, 1.0, 1.8])


def random_histograms(seed: int, absent: bool = False) -> np.ndarray:
    random = np.random.default_rng(seed)
    histograms = random.integers(0, 500, (7, 5)) * (random.random((7, 5)) < 0.7)
    histograms[0] = [10, 20, 30, 40, 50]
    if absent:
        histograms[:, 2] = 0
    return histograms


@pytest.mark.parametrize("absent", [False, True])
def test_inverse_frequency_weights_are_scikit_learn_s_up_to_a_factor(absent):
    histograms = random_histograms(0, absent)
    labels = np.repeat(np.arange(5), histograms.sum(0))
    present = np.unique(labels)
    expected = compute_class_weight("balanced", classes=present, y=labels)
    found = class_weights(histograms, "inverse_frequency").numpy()[present]
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_median_weights_follow_eigen_and_fergus_word_by_word(seed):
    histograms = random_histograms(seed)
    frequencies = []
    for label in range(5):
        with_label = [image for image in histograms if image[label] > 0]
        frequencies.append(sum(image[label] for image in with_label) / sum(image.sum() for image in with_label))
    expected = np.median(frequencies) / np.array(frequencies)
    np.testing.assert_allclose(class_weights(histograms, "median").numpy(), expected / expected.mean(), rtol=1e-5)
    root = np.sqrt(expected)
    np.testing.assert_allclose(class_weights(histograms, "sqrt_median").numpy(), root / root.mean(), rtol=1e-5)


@pytest.mark.parametrize("weighting", ["none", "inverse_frequency", "median", "sqrt_median"])
def test_weights_are_finite_and_positive_whatever_is_absent(weighting):
    for histograms in (random_histograms(1, absent=True), np.zeros((3, 5), int), np.zeros((0, 5), int)):
        weights = class_weights(histograms, weighting)
        assert weights.dtype == torch.float32
        assert weights.isfinite().all()
        assert (weights > 0).all()
    assert class_weights(random_histograms(1), "none").tolist() == [1.0] * 5


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 6))
def test_mean_iu_is_scikit_learn_s_jaccard_over_the_classes_in_the_truth(seed, classes):
    random = np.random.default_rng(seed)
    truth, predicted = random.integers(0, classes, 30), random.integers(0, classes, 30)
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (truth, predicted), 1)
    expected = jaccard_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
    assert mean_iu(matrix) == pytest.approx(expected)


def test_nothing_scored_is_a_mean_iu_of_zero():
    assert mean_iu(np.zeros((3, 3), np.int64)) == 0.0


def make_sparse(held_out=None, **options):
    torch.manual_seed(0)
    columns, labels = torch.randn(20, 7), torch.randint(0, 3, (20,))
    held_out = np.arange(20) < 5 if held_out is None else held_out
    return columns, labels, SparseProblem(columns, labels, held_out, WEIGHTS, TrainSpec(**{"batch": 4, **options}))


def make_conv(stride=4, **options):
    torch.manual_seed(3)
    return convert(PixelMLP(LAYERS, 3, HeadSpec(hidden=8, output_stride=stride, **options), Frame(CANVAS))).eval()


def make_dense(labels, train=(0, 1, 2), held_out=(), views=("identity",), source=None, **options):
    source = MemorySource(LAYERS, CANVAS, 4) if source is None else source
    spec = TrainSpec(**{"batch": 2, "loss_stride": 2, **options})
    names = ["anna", "bert", "carl", "dora"]
    return DenseProblem(source, train, held_out, lambda index: labels[index], views, WEIGHTS, spec, names)


def random_labels(seed=0):
    labels = np.random.default_rng(seed).integers(0, 3, (4, *CANVAS)).astype(np.uint8)
    labels[:, :5, :7] = 255
    return labels


def test_sparse_batches_hold_every_sample_once_in_an_order_of_the_epoch_s_own():
    _, _, problem = make_sparse()
    assert problem.steps == 4
    epochs = []
    for epoch in (0, 1, 0):
        batches = list(problem.batches(epoch))
        assert [len(batch) for batch in batches] == [4, 4, 4, 3]
        assert sorted(torch.cat(batches).tolist()) == list(range(5, 20))
        epochs.append([batch.tolist() for batch in batches])
    assert epochs[0] == epochs[2] != epochs[1]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_sparse_loss_is_torch_s_weighted_cross_entropy(smoothing):
    columns, labels, problem = make_sparse(label_smoothing=smoothing)
    model = nn.Linear(7, 3)
    batch = next(problem.batches(0))
    expected = nn.CrossEntropyLoss(WEIGHTS, label_smoothing=smoothing)(model(columns[batch]), labels[batch])
    torch.testing.assert_close(problem.loss(model, batch), expected)
    assert str(batch[0].item()) in problem.describe(batch)


def test_held_out_samples_are_scored_by_their_mean_iu():
    columns, labels, problem = make_sparse()
    model = nn.Linear(7, 3)
    predicted = model(columns[:5]).argmax(1).numpy()
    truth = labels[:5].numpy()
    expected = jaccard_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
    assert problem.held_out_score(model) == pytest.approx(expected)
    assert make_sparse(np.zeros(20, bool))[2].held_out_score(model) is None


def test_holding_everything_out_leaves_nothing_to_train_on():
    with pytest.raises(TrainingError, match="20 samples of which 20 are held out"):
        make_sparse(np.ones(20, bool))


def test_dense_batches_hold_every_image_once_and_views_are_drawn_anew_each_epoch():
    problem = make_dense(random_labels(), views=("identity", "hflip"))
    assert problem.steps == 2
    seen = set()
    for epoch in range(12):
        items = [item for batch in problem.batches(epoch) for item in batch.items]
        assert items == [item for batch in problem.batches(epoch) for item in batch.items]
        assert sorted(index for index, _ in items) == [0, 1, 2]
        seen |= set(items)
    assert seen == {(index, view) for index in range(3) for view in ("identity", "hflip")}


def test_labels_are_taken_at_the_loss_stride_and_mirrored_with_their_image():
    labels = random_labels()
    problem = make_dense(labels, views=("hflip",), batch=1, loss_stride=4)
    for batch in problem.batches(0):
        ((index, view),) = batch.items
        assert view == "hflip"
        for row in range(4):
            for column in range(6):
                mirrored = 23 - (4 * column + 2)
                assert batch.labels[0, row, column] == labels[index][4 * row + 2, mirrored]
        name = ["anna", "bert", "carl"][index]
        assert problem.describe(batch) == f"image '{name}' (hflip)"


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("loss_stride", [1, 2, 4, 8])
def test_the_dense_loss_is_torch_s_weighted_cross_entropy_of_the_resampled_logits(loss_stride, smoothing):
    problem = make_dense(random_labels(), loss_stride=loss_stride, label_smoothing=smoothing)
    conv = make_conv()
    criterion = nn.CrossEntropyLoss(WEIGHTS.double(), ignore_index=255, label_smoothing=smoothing)
    for batch in problem.batches(0):
        size = (CANVAS[0] // loss_stride, CANVAS[1] // loss_stride)
        logits = F.interpolate(conv(batch.maps).double(), size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(problem.loss(conv, batch).double(), criterion(logits, batch.labels), rtol=1e-4, atol=1e-5)


def test_one_scribbled_pixel_of_a_common_class_weighs_as_much_as_it_should():
    labels = np.full((4, *CANVAS), 255, np.uint8)
    labels[:, 1, 1] = 0
    problem = make_dense(labels, batch=1)
    conv = make_conv(stride=2)
    batch = next(problem.batches(0))
    expected = F.cross_entropy(conv(batch.maps)[:, :, 0, 0], torch.tensor([0]))
    torch.testing.assert_close(problem.loss(conv, batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dice", [0.0, 1.0])
def test_a_batch_of_void_alone_gives_a_loss_and_gradients_of_zero(dice):
    problem = make_dense(np.full((4, *CANVAS), 255, np.uint8), dice=dice, label_smoothing=0.1)
    conv = make_conv()
    loss = problem.loss(conv, next(problem.batches(0)))
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(parameter.grad is not None and parameter.grad.eq(0).all() for parameter in conv.parameters())


def test_the_dice_loss_is_added_with_its_weight():
    batch = next(make_dense(random_labels()).batches(0))
    conv = make_conv(stride=2)
    plain, single, both = (make_dense(random_labels(), dice=dice).loss(conv, batch) for dice in (0.0, 1.0, 3.0))
    torch.testing.assert_close(both - plain, 3 * (single - plain))


@pytest.mark.parametrize("stride", [2, 4])
def test_held_out_images_are_scored_at_the_loss_stride(stride):
    labels = random_labels()
    problem = make_dense(labels, held_out=(3, 1), patience=1)
    conv = make_conv(stride=stride)
    truth, predicted = [], []
    for index in (3, 1):
        logits = conv(problem._source.maps([(index, "identity")])).detach().double()
        best = F.interpolate(logits, size=(8, 12), mode="bilinear", align_corners=False).argmax(1)[0].numpy()
        expected = labels[index][1::2, 1::2]
        truth.append(expected[expected != 255])
        predicted.append(best[expected != 255])
    reference = jaccard_score(np.concatenate(truth), np.concatenate(predicted), average="macro", zero_division=0)
    assert problem.held_out_score(conv) == pytest.approx(reference, abs=0.01)


def test_without_patience_or_held_out_images_nothing_is_scored():
    assert make_dense(random_labels(), held_out=(3,), patience=0).held_out_score(make_conv()) is None
    assert make_dense(random_labels(), patience=3).held_out_score(make_conv()) is None


def test_bfloat16_logits_give_a_loss_close_to_float32():
    problem = make_dense(random_labels())
    conv = make_conv()
    batch = next(problem.batches(0))
    exact = problem.loss(conv, batch)
    conv.dtype = torch.bfloat16
    torch.testing.assert_close(problem.loss(conv, batch), exact, rtol=0.02, atol=0.02)


def test_no_images_and_a_stride_that_does_not_divide_are_refused_before_anything_is_read():
    with pytest.raises(TrainingError, match="got none"):
        make_dense(random_labels(), train=())
    with pytest.raises(GeometryError, match="divides the canvas"):
        make_dense(random_labels(), loss_stride=5)


class Failing(MemorySource):
    def maps(self, items):
        if (2, "identity") in items:
            raise OSError("the disk is gone")
        return super().maps(items)


def test_an_error_while_reading_ahead_surfaces_and_leaves_no_thread_behind():
    problem = make_dense(random_labels(), source=Failing(LAYERS, CANVAS, 4), batch=1)
    with pytest.raises(OSError, match="the disk is gone"):
        list(problem.batches(0))
    batches = make_dense(random_labels(), batch=1).batches(0)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]
