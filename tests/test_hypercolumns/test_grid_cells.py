"""What surrounds grid classifiers: where their cells lie, how each is fitted on its own, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from hypercolumns.columns import Frame
from hypercolumns.errors import DivergedError, GeometryError, SamplingError
from hypercolumns.heads import GridClassifier, fit_cells, sample_cell_pixels
from hypercolumns.heads.grid_plan import nearest_cells, plan_grid
from tests.core_factory import make_layer, make_maps

CANVAS = (32, 48)
CLASSES = 3
LAYERS = (
    make_layer("full", 3, (32, 48)),
    make_layer("quarter", 4, (8, 12)),
    make_layer("odd", 6, (3, 5)),
    make_layer("fc", 7, (1, 1)),
)
BOXES = torch.tensor([[3.0, 4.0, 30.0, 20.0], [-5.0, -7.0, 60.0, 40.0], [10.2, 3.3, 10.9, 3.7], [40.0, 0.0, 48.0, 32.0]])
IMAGES = torch.tensor([0, 1, 1, 0])


def make_model(layers=LAYERS, **options) -> GridClassifier:
    torch.manual_seed(1)
    model = GridClassifier(layers, CLASSES, Frame(CANVAS), **{"grid": 3, "side": 10, **options})
    channels = sum(layer.channels for layer in layers)
    model.set_statistics(torch.randn(channels), torch.rand(channels) + 0.3)
    return model


def test_training_through_the_interpolation_lowers_the_loss_and_K_5_beats_K_1_on_what_depends_on_place():
    torch.manual_seed(0)
    layer = make_layer("quarter", 4, (8, 12))
    maps = make_maps([layer], 4)
    boxes, images = torch.tensor([[4.0, 4.0, 44.0, 28.0]] * 4), torch.arange(4)
    target = torch.zeros(4, 1, 10, 10)
    target[:, :, :5] = 1
    losses = {}
    for grid in (1, 5):
        model = GridClassifier([layer], 1, Frame(CANVAS), grid=grid, side=10)
        optimizer = torch.optim.Adam(model.parameters(), 0.1)
        for _ in range(40):
            optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy(model(maps, boxes, images), target)
            loss.backward()
            optimizer.step()
        losses[grid] = float(loss.detach())
    assert losses[5] < 0.2 < 0.5 < losses[1]


@pytest.mark.parametrize(("grid", "side"), [(1, 5), (2, 7), (5, 50), (10, 50), (7, 3), (4, 4)])
def test_the_cell_of_a_pixel_is_the_one_that_its_centre_lies_in(grid, side):
    cells = nearest_cells(grid, side).reshape(side, side)
    for y in range(side):
        for x in range(side):
            down, right = divmod(int(cells[y, x]), grid)
            assert down * side <= (y + 0.5) * grid < (down + 1) * side
            assert right * side <= (x + 0.5) * grid < (right + 1) * side


def test_five_by_five_classifiers_make_runs_of_fifteen_ten_ten_and_fifteen_pixels():
    plan = plan_grid(5, 50)
    assert [(run.start, run.stop, run.cell) for run in plan.runs] == [(0, 15, 0), (15, 25, 1), (25, 35, 2), (35, 50, 3)]
    assert plan.heard == (0, 1, 5, 6)
    assert plan_grid(1, 50).heard == (0,)
    torch.testing.assert_close(plan.weights.sum(2), torch.ones(50, 50))
    # Pixel 5 lies at (5.5·5/50) - ½ = 0.05, a twentieth of the way from the first classifier to the second.
    torch.testing.assert_close(plan.weights[0, 5], torch.tensor([0.95, 0.05, 0.0, 0.0]))


def fit_problem(classes_known=True):
    model, maps = make_model(grid=2, side=8, layers=LAYERS[1:3]), make_maps(LAYERS[1:3], 2)
    pixels = sample_cell_pixels(2, 8, 4, 12)
    columns = model.hypercolumns(maps, BOXES, IMAGES, pixels=pixels).flatten(0, 1)
    cells = nearest_cells(2, 8)[pixels.flatten()]
    return model, columns, cells, (torch.rand(len(columns), CLASSES) < 0.4).float()


def test_pixels_of_a_cell_fit_its_classifier_as_scikit_learn_would():
    model, columns, cells, targets = fit_problem()
    targets[:60, 1] = torch.nan
    losses = fit_cells(model, columns, cells, targets, l2=0.05)
    standard = ((columns - model.mean) / model.std).double().numpy()
    weight = model.first.weight.detach().view(4, CLASSES, -1)
    bias = model.first.bias.detach().view(4, CLASSES)
    for cell in range(4):
        for label in range(CLASSES):
            known = (cells == cell).numpy() & ~targets[:, label].isnan().numpy()
            expected = LogisticRegression(C=1 / (0.05 * known.sum()), tol=1e-10, max_iter=10_000)
            expected.fit(standard[known], targets[known, label].numpy())
            np.testing.assert_allclose(weight[cell, label].numpy(), expected.coef_[0], atol=2e-3)
            assert float(bias[cell, label]) == pytest.approx(float(expected.intercept_[0]), abs=2e-3)
            right = expected.predict_proba(standard[known])[np.arange(known.sum()), targets[known, label].long().numpy()]
            assert float(losses[cell, label]) == pytest.approx(-np.log(right).mean(), abs=1e-4)


def expected_logistic(values, targets, offsets, l2, free_bias):
    """Minimise mean logistic loss with offsets by scipy, in double precision; the last number is the bias."""
    ones = np.concatenate([values, np.ones((len(values), 1))], axis=1)
    penalty = np.ones(ones.shape[1]) if not free_bias else np.append(np.ones(values.shape[1]), 0.0)

    def loss(w):
        logits = offsets + ones @ w
        gradient = ones.T @ (1 / (1 + np.exp(-logits)) - targets) / len(targets) + l2 * penalty * w
        return np.mean(np.logaddexp(0, logits) - targets * logits) + l2 / 2 * (penalty * w**2).sum(), gradient

    return minimize(loss, np.zeros(ones.shape[1]), jac=True, options={"gtol": 1e-9}).x


def test_classes_share_a_classifier_and_each_departs_from_it_at_a_price():
    model, columns, cells, targets = fit_problem()
    offsets = torch.randn(targets.shape)
    targets[torch.arange(len(targets))[:, None] % CLASSES != torch.arange(CLASSES)] = torch.nan
    fit_cells(model, columns, cells, targets, l2=0.05, offsets=offsets, own_l2=0.3)
    standard = ((columns - model.mean) / model.std).double().numpy()
    weight = model.first.weight.detach().view(4, CLASSES, -1)
    bias = model.first.bias.detach().view(4, CLASSES)
    values, fixed = targets.double().numpy(), offsets.double().numpy()
    for cell in range(4):
        rows, labels = np.nonzero((cells == cell).numpy()[:, None] & ~np.isnan(values))
        shared = expected_logistic(standard[rows], values[rows, labels], fixed[rows, labels], 0.05, free_bias=True)
        for label in range(CLASSES):
            own = rows[labels == label]
            start = fixed[own, label] + standard[own] @ shared[:-1] + shared[-1]
            expected = shared + expected_logistic(standard[own], values[own, label], start, 0.3, free_bias=False)
            np.testing.assert_allclose(weight[cell, label].numpy(), expected[:-1], atol=2e-3)
            assert float(bias[cell, label]) == pytest.approx(expected[-1], abs=2e-3)


def test_classes_that_may_have_nothing_of_their_own_are_one_and_one_without_samples_is_as_the_others():
    model, columns, cells, targets = fit_problem()
    targets[:, 2] = torch.nan
    fit_cells(model, columns, cells, targets, l2=0.05, own_l2=float("inf"))
    weight = model.first.weight.detach().view(4, CLASSES, -1)
    assert weight[:, 0].equal(weight[:, 1])
    assert weight[:, 0].equal(weight[:, 2])
    model.first.reset_parameters()
    fit_cells(model, columns, cells, torch.full_like(targets, torch.nan), l2=0.05, own_l2=1.0)
    assert not model.first.weight.detach().view(4, CLASSES, -1)[:, 0].eq(0).any()


def test_where_targets_are_all_the_same_offsets_stand():
    model, columns, cells, targets = fit_problem()
    targets[:, 1] = 1.0
    fit_cells(model, columns, cells, targets, offsets=torch.full_like(targets, 0.7))
    assert model.first.weight.detach().view(4, CLASSES, -1)[:, 1].eq(0).all()
    assert model.first.bias.detach().view(4, CLASSES)[:, 1].eq(0).all()


def test_a_classifier_without_samples_is_left_alone_and_one_of_equal_targets_is_their_constant():
    model, columns, cells, targets = fit_problem()
    targets[:, 0] = torch.nan
    targets[:, 1] = 1.0
    before = model.first.weight.detach().clone().view(4, CLASSES, -1)
    losses = fit_cells(model, columns, cells, targets)
    after, count = model.first.weight.detach().view(4, CLASSES, -1), int((cells == 0).sum())
    assert losses[:, 0].isnan().all()
    assert after[:, 0].equal(before[:, 0])
    assert after[:, 1].eq(0).all()
    constant = torch.sigmoid(model.first.bias.detach().view(4, CLASSES)[0, 1])
    assert float(constant) == pytest.approx((count + 0.5) / (count + 1), rel=1e-6)


def test_as_many_pixels_are_drawn_from_every_cell_once_each_and_differently_for_each_box():
    pixels = sample_cell_pixels(3, 10, 6, 9, seed=4)
    cells = nearest_cells(3, 10)
    for line in pixels:
        assert len(set(line.tolist())) == 81
        assert torch.bincount(cells[line]).tolist() == [9] * 9
    assert not pixels[0].equal(pixels[1])
    assert pixels.equal(sample_cell_pixels(3, 10, 6, 9, seed=4))
    assert not pixels.equal(sample_cell_pixels(3, 10, 6, 9, seed=5))


@pytest.mark.parametrize("per_cell", [0, 10])
def test_more_pixels_than_a_cell_has_are_refused(per_cell):
    with pytest.raises(SamplingError, match="1 to 9 pixels a cell"):
        sample_cell_pixels(3, 10, 6, per_cell)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": torch.full((192,), 4)}, r"cells in 0..3"),
        ({"cells": torch.zeros(3, dtype=torch.int64)}, r"columns \(m, 10\)"),
        ({"targets": torch.full((192, CLASSES), 1.5)}, r"targets in \[0, 1\]"),
        ({"l2": 0.0}, "l2 > 0"),
        ({"iterations": 0}, "at least one iteration"),
        ({"offsets": torch.zeros(3, CLASSES)}, "finite offsets"),
        ({"own_l2": 0.0}, "own_l2 > 0"),
    ],
)
def test_what_cells_cannot_be_fitted_on_is_refused(change, message):
    model, columns, cells, targets = fit_problem()
    given = {"columns": columns, "cells": cells, "targets": targets, **change}
    with pytest.raises(GeometryError, match=message):
        fit_cells(model, **given)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 1e30])
def test_columns_that_are_not_finite_or_far_too_large_are_refused(value):
    model, columns, cells, targets = fit_problem()
    columns[3, 3] = value
    with pytest.raises(DivergedError, match="set the statistics first"):
        fit_cells(model, columns, cells, targets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 0}, "K = 0"),
        ({"side": 0}, "S = 0"),
        ({"kernel": 2}, "kernel of 1 or 3"),
        ({"expansion": -0.1}, "expansion"),
        ({"expansion": float("nan")}, "expansion"),
        ({"box_layers": ("fc7",)}, "box_layers: expected some of full"),
        ({"layers": ()}, "at least one layer"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(options, message):
    given = {"layers": LAYERS, **options}
    with pytest.raises(GeometryError, match=message):
        GridClassifier(given.pop("layers"), CLASSES, Frame(CANVAS), **given)


def test_a_grid_of_no_classes_is_refused():
    with pytest.raises(GeometryError, match="at least one class"):
        GridClassifier(LAYERS, 0, Frame(CANVAS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes_xyxy": torch.tensor([[1.0, 1, 5, 5], [3, 3, 3, 9]]), "image_rows": None}, "box 1: expected finite"),
        ({"boxes_xyxy": torch.tensor([[1.0, 1, float("nan"), 5]])}, "box 0: expected finite"),
        ({"boxes_xyxy": torch.tensor([[1.0, 1, float("inf"), 5]])}, "box 0: expected finite"),
        ({"boxes_xyxy": torch.tensor([[5.0, 1, 1, 5]])}, "box 0: expected finite"),
        ({"boxes_xyxy": torch.tensor([[48.0, 1, 60, 5]])}, "box 0: expected a box that meets the canvas of 48 x 32"),
        ({"boxes_xyxy": torch.ones(4, 3)}, r"shape \(n, 4\)"),
        ({"image_rows": torch.tensor([0, 1, 2, 0])}, "each image row in 0..1, got 0 to 2"),
        ({"image_rows": torch.tensor([0, 1])}, "expected 4 whole numbers"),
        ({"image_rows": torch.rand(4)}, "expected 4 whole numbers"),
        ({"image_rows": None}, "on which of the 2 images"),
        ({"box_classes": torch.tensor([0, 1, 2, 3])}, r"each class in 0..2"),
        ({"edges_xyxy": torch.tensor([[0.0, 0, 9, 9]])}, "edges for each of 4 boxes"),
        ({"maps": make_maps(LAYERS, 2)[:3]}, "expected 4 maps"),
        ({"maps": [*make_maps(LAYERS[:3], 2), *make_maps(LAYERS[3:], 1)]}, "same images"),
        ({"maps": [*make_maps(LAYERS[1:2], 2), *make_maps(LAYERS[1:], 2)]}, "layer full: expected a map of shape"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(change, message):
    given = {"maps": make_maps(LAYERS, 2), "boxes_xyxy": BOXES, "image_rows": IMAGES, **change}
    with pytest.raises(GeometryError, match=message):
        make_model()(**given)


@pytest.mark.parametrize("pixels", [torch.zeros(3, 2, dtype=torch.int64), torch.full((4, 2), 100), torch.zeros(4)])
def test_pixels_that_no_heatmap_has_are_refused(pixels):
    with pytest.raises(GeometryError, match="pixel"):
        make_model().hypercolumns(make_maps(LAYERS, 2), BOXES, IMAGES, pixels=pixels)


@pytest.mark.parametrize(("grid", "side"), [(0, 5), (5, 0)])
def test_cells_of_nothing_are_refused(grid, side):
    for function in (nearest_cells, plan_grid):
        with pytest.raises(GeometryError, match="at least 1 x 1"):
            function(grid, side)
