"""Kernels that classify points in registers, against torch's operations in double precision; sizes that do not fit tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hypercolumns.geometry import axis_map
from hypercolumns.kernels import classifying
from hypercolumns.kernels.classifying import Image, classify_image, hidden_like
from hypercolumns.kernels.fine import FineMaps
from hypercolumns.kernels.layers import Layers
from hypercolumns.kernels.learning import Learned
from hypercolumns.kernels.plans import Widening, plan_taps
from hypercolumns.kernels.tiles import TILE, packed, panel_width
from tests.core_factory import relative_difference, torch_threads

TOLERANCE = 1e-5
SIZES = [(1, 1), (5, 7), (9, 48), (4, 49), (13, 100)]
"""Grids: of one point, narrower than a group of points, one tile, one more, three tiles."""


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    """What is read before it was written is not a number."""
    empty = torch.empty

    def poisoned(*shape, **options):
        values = empty(*shape, **options)
        return values.fill_(torch.nan) if values.is_floating_point() else values

    monkeypatch.setattr(classifying.torch, "empty", poisoned)


def plan_of(cells, grid_hw):
    """Read maps of so many cells on each axis at a grid."""
    axes = [[axis_map(size, count) for count in counts] for counts, size in zip(cells, grid_hw, strict=True)]
    return Widening(*(plan_taps(axis, size, 1) for axis, size in zip(axes, grid_hw, strict=True)))


def matrices(plan):
    """The same as products: for each map, rows of the grid from rows of the map, and columns from columns."""
    found = []
    for number in range(len(plan.rows.cells)):
        both = []
        for taps in (plan.rows, plan.columns):
            matrix = np.zeros((taps.lower.shape[1], taps.cells[number]))
            for point, (low, high, weight) in enumerate(
                zip(taps.lower[number], taps.upper[number], taps.weights[number], strict=True)
            ):
                matrix[point, low] += 1 - float(weight)
                matrix[point, high] += float(weight)
            both.append(torch.from_numpy(matrix))
        found.append(both)
    return found


def plain(grid_hw, plan, responses, fine, layers):
    """Upsample, add, ReLU and multiply in double precision."""
    first, bias, second, second_bias = layers
    total = bias.expand(*grid_hw, -1)
    for (rows, columns), response in zip(matrices(plan), responses, strict=True):
        total = total + torch.einsum("yh,xw,hwc->yxc", rows, columns, response)
    if fine is not None:
        total = total + fine @ first.t()
    return total if second is None else F.linear(total.relu(), second, second_bias)


def make(grid_hw, hidden, classes, depth, cells=((3, 1), (4, 1))):
    torch.manual_seed(0)
    channels = hidden or classes
    sizes = [
        tuple(min(count, size) for count, size in zip(counts, grid_hw, strict=True)) for counts in zip(*cells, strict=True)
    ]
    responses = [torch.randn(*size, channels) for size in sizes]
    fine = torch.randn(*grid_hw, depth) if depth else None
    first = torch.randn(channels, depth) if depth else None
    second, second_bias = (torch.randn(classes, hidden), torch.randn(classes)) if hidden else (None, None)
    return (
        plan_of(list(zip(*sizes, strict=True)) or [(), ()], grid_hw),
        responses,
        fine,
        (first, torch.randn(channels), second, second_bias),
    )


def image_of(grid_hw, plan, responses, fine, layers, keep=False):
    packed_layers = Layers.of(*layers)
    maps = [] if fine is None else [fine]
    own = plan_of([[size] for size in grid_hw], grid_hw)
    hidden = hidden_like(packed_layers, grid_hw) if keep else None
    return Image(packed_layers, FineMaps(maps, [own] * len(maps)), responses, plan, hidden)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("grid_hw", SIZES)
@pytest.mark.parametrize(
    ("hidden", "classes", "depth"), [(0, 3, 5), (0, 70, 4), (16, 2, 0), (65, 33, 8), (130, 17, 3), (64, 65, 66)]
)
@pytest.mark.parametrize("keep", [False, True])
def test_logits_and_gradients_are_those_of_double_precision_whatever_the_sizes(grid_hw, hidden, classes, depth, threads, keep):
    plan, responses, fine, layers = make(grid_hw, hidden, classes, depth)
    with torch_threads(threads):
        image = image_of(grid_hw, plan, responses, fine, layers, keep=keep and hidden > 0)
        logits = torch.empty(*grid_hw, classes)
        classify_image(logits, image)
        exact = [None if t is None else t.double().requires_grad_() for t in (*layers, *responses)]
        expected = plain(grid_hw, plan, exact[4:], None if fine is None else fine.double(), exact[:4])
        assert relative_difference(logits, expected) <= TOLERANCE
        weight = torch.randn(*grid_hw, classes)
        expected.backward(weight.double())
        learned = Learned(image.layers)
    # Whoever asks torch for more threads meanwhile must not have these write where there is no room.
    with torch_threads(4):
        learned.add(weight, image)
    found = [learned.first if depth else None, learned.bias, *([learned.second, learned.second_bias] if hidden else [None] * 2)]
    for gradient, reference in zip([*found, *responses], exact, strict=True):
        if reference is not None:
            assert relative_difference(gradient, reference.grad) <= 1e-4


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_grid_coarser_than_a_map_leaves_no_gradient_in_rows_that_it_does_not_read(threads):
    grid_hw = 3, 4
    plan = plan_of([(11, 2), (13, 4)], grid_hw)
    layers = None, torch.randn(6), torch.randn(2, 6), torch.randn(2)
    responses = [torch.randn(11, 13, 6), torch.randn(2, 4, 6)]
    image = image_of(grid_hw, plan, responses, None, layers)
    assert plan.unread[0]
    exact = [t.double().requires_grad_() for t in responses]
    expected = plain(grid_hw, plan, exact, None, [None if t is None else t.double() for t in layers])
    weight = torch.randn(*grid_hw, 2)
    expected.backward(weight.double())
    with torch_threads(threads):
        Learned(image.layers).add(weight, image)
    for gradient, reference in zip(responses, exact, strict=True):
        assert relative_difference(gradient, reference.grad) <= 1e-4
    assert not responses[0][plan.unread[0]].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fine_maps_of_any_type_are_read_side_by_side(dtype):
    grid_hw, torch_maps = (6, 50), [torch.randn(6, 50, 5), torch.randn(13, 99, 20).to(dtype)]
    plans = [plan_of([[size] for size in values.shape[:2]], grid_hw) for values in torch_maps]
    first, bias = torch.randn(7, 25), torch.randn(7)
    layers = Layers.of(first, bias, None, None)
    logits = torch.empty(*grid_hw, 7)
    classify_image(logits, Image(layers, FineMaps(torch_maps, plans), [], plan_of([(), ()], grid_hw), None))
    read = [torch.einsum("yh,xw,hwc->yxc", *matrices(plan)[0], m.double()) for plan, m in zip(plans, torch_maps, strict=True)]
    assert relative_difference(logits, torch.cat(read, dim=2) @ first.double().t() + bias) <= TOLERANCE


def test_panels_hold_all_weights_and_zeros():
    weight = torch.randn(70, 3)
    panels = packed(weight, 5)
    assert panels.shape == (2, 5, 64)
    whole = panels.transpose(0, 1).reshape(5, 128)
    assert torch.equal(whole[:3, :70].t(), weight)
    assert not whole[3:].any()
    assert not whole[:, 70:].any()
    assert [panel_width(count) for count in (1, 16, 17, 32, 33, 64, 65)] == [16, 16, 32, 32, 64, 64, 64]


def test_what_a_kernel_would_read_wrongly_is_refused():
    grid_hw = 4, TILE
    plan, responses, fine, layers = make(grid_hw, 16, 3, 4)
    image = image_of(grid_hw, plan, responses, fine, layers)
    logits = torch.empty(*grid_hw, 3)
    for wrong in (logits[:, :-1], logits.double(), logits.transpose(0, 1), logits[:3]):
        with pytest.raises(ValueError, match="expected"):
            classify_image(wrong, image)
    with pytest.raises(ValueError, match="expected"):
        Learned(image.layers).add(logits.double(), image)
    for changed in ({"fine": None}, {"responses": [r[:-1] for r in responses]}, {"responses": responses[:1]}):
        values = {"fine": fine, "responses": responses} | changed
        with pytest.raises(ValueError, match="expected"):
            Learned(image.layers).add(logits, image_of(grid_hw, plan, values["responses"], values["fine"], layers))
    with pytest.raises(ValueError, match="expected maps of"):
        classify_image(logits, image_of(grid_hw, plan, responses, fine.double(), layers))


def test_the_type_and_device_that_tensors_have_by_default_do_not_matter():
    grid_hw = 9, 48
    plan, responses, fine, layers = make(grid_hw, 64, 100, 4)
    image, logits, again = (
        image_of(grid_hw, plan, responses, fine, layers),
        torch.empty(*grid_hw, 100),
        torch.empty(*grid_hw, 100),
    )
    classify_image(logits, image)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            classify_image(again, image)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(logits, again)


@pytest.mark.parametrize(
    "changed",
    [
        {"first": torch.zeros(7, 4)},
        {"bias": torch.zeros(16, dtype=torch.float64)},
        {"second": torch.zeros(3, 5)},
        {"second": torch.zeros(3, 500)},
        {"second_bias": torch.zeros(1)},
        {"second_bias": None},
        {"second": None},
    ],
)
def test_weights_that_do_not_fit_each_other_are_refused(changed):
    names = "first", "bias", "second", "second_bias"
    given = dict(zip(names, (torch.zeros(16, 4), torch.zeros(16), torch.zeros(3, 16), torch.zeros(3)), strict=True))
    Layers.of(**given)
    with pytest.raises(ValueError, match="expected weights"):
        Layers.of(**given | changed)


def test_gradients_are_added_up_for_the_layers_they_are_of():
    grid_hw = 4, 5
    plan, responses, fine, layers = make(grid_hw, 16, 3, 4)
    image, other = (image_of(grid_hw, plan, responses, fine, layers) for _ in range(2))
    with pytest.raises(ValueError, match="very layers"):
        Learned(other.layers).add(torch.zeros(*grid_hw, 3), image)


@pytest.mark.parametrize("lie", ["channels first", "the same everywhere", "every other"])
def test_the_gradient_of_logits_may_lie_as_it_likes(lie):
    grid_hw = 5, 50
    plan, responses, fine, layers = make(grid_hw, 16, 19, 4)
    weight = {
        "channels first": torch.randn(19, *grid_hw).permute(1, 2, 0),
        "the same everywhere": torch.ones(()).expand(*grid_hw, 19),
        "every other": torch.randn(10, 100, 38)[::2, ::2, ::2],
    }[lie]
    found = []
    for given in (weight, weight.contiguous()):
        image = image_of(grid_hw, plan, [r.clone() for r in responses], fine, layers)
        learned = Learned(image.layers)
        learned.add(given, image)
        found.append([learned.first, learned.bias, learned.second, learned.second_bias, *image.responses])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_channels_that_fill_a_panel_up_have_no_part_in_the_logits():
    grid_hw = 2, 24
    fine, first = torch.ones(*grid_hw, 4), -torch.ones(8, 4)
    fine[1, 5] = torch.inf
    plan, layers = plan_of([(), ()], grid_hw), (first, torch.zeros(8), torch.ones(3, 8), torch.arange(3.0))
    logits = torch.empty(*grid_hw, 3)
    classify_image(logits, image_of(grid_hw, plan, [], fine, layers))
    assert torch.equal(logits, torch.arange(3.0).expand(*grid_hw, 3))


def test_gradients_of_many_points_lose_no_more_than_sums_of_few_do():
    grid_hw = 300, 300
    plan, responses, fine, layers = make(grid_hw, 16, 3, 4)
    image, weight = image_of(grid_hw, plan, responses, fine, layers), torch.rand(*grid_hw, 3)
    with torch_threads(1):
        learned = Learned(image.layers)
        learned.add(weight, image)
    assert relative_difference(learned.second_bias, weight.double().sum((0, 1))) < 1e-6
