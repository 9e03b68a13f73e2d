"""Grid classifiers against the definition, spelled out in double precision pixel by pixel and classifier by classifier."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hypercolumns.columns import Frame
from hypercolumns.heads import GridClassifier
from hypercolumns.heads.box_points import whole_maps
from hypercolumns.heads.grid_responses import PlacedMap
from tests.core_factory import make_layer, make_maps, relative_difference

CANVAS = (32, 48)
TOLERANCE = 1e-5
CLASSES = 3
# One map as fine as the canvas, one coarse, one of an odd size, and one of a single cell.
LAYERS = (
    make_layer("full", 3, (32, 48), (1.0, 1.0), (0.5, 0.5)),
    make_layer("quarter", 4, (8, 12), (4.0, 4.0), (2.0, 2.0)),
    make_layer("odd", 6, (3, 5), (9.0, 9.0), (4.5, 6.0)),
    make_layer("fc", 7, (1, 1)),
)
# Inside, reaching out on all sides, smaller than a pixel, and at an edge.
BOXES = torch.tensor([[3.0, 4.0, 30.0, 20.0], [-5.0, -7.0, 60.0, 40.0], [10.2, 3.3, 10.9, 3.7], [40.0, 0.0, 48.0, 32.0]])
IMAGES = torch.tensor([0, 1, 1, 0])

COUNTED = PlacedMap.cells_if_fewer


@pytest.fixture(autouse=True, params=["as counted", "always read first", "always whole maps"])
def _either_way(request, monkeypatch):
    """Whatever is true is true whichever of the exact ways is taken, and however many rows of heatmaps at a time."""
    if request.param == "always read first":
        monkeypatch.setattr(PlacedMap, "cells_if_fewer", lambda self, most: None)
        monkeypatch.setattr("hypercolumns.heads.grid_responses._STRIP_PIXELS", 1)
    if request.param == "always whole maps":

        def whole(self, most):
            return None if self.around is not None else (self.values.flatten(0, 2), whole_maps(self.taps))

        monkeypatch.setattr(PlacedMap, "cells_if_fewer", whole)
        monkeypatch.setattr("hypercolumns.heads.grid_responses._STRIP_PIXELS", 40)


def make_model(layers=LAYERS, alignment="resize", **options) -> GridClassifier:
    torch.manual_seed(1)
    model = GridClassifier(layers, CLASSES, Frame(CANVAS, alignment), **{"grid": 3, "side": 10, **options})
    channels = sum(layer.channels for layer in layers)
    model.set_statistics(torch.randn(channels), torch.rand(channels) + 0.3)
    torch.nn.init.normal_(model.first.weight, std=0.5)
    model.set_prior(torch.randn(CLASSES, model.side, model.side))
    return model


def cell_centres(layer, axis: int, alignment: str) -> np.ndarray:
    cells = np.arange(layer.map_hw[axis])
    if alignment == "receptive_field" and len(cells) > 1:
        return layer.offset_px[axis] + layer.stride_px[axis] * cells
    return (cells + 0.5) * CANVAS[axis] / len(cells)


def read_map(values: np.ndarray, layer, alignment: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Read a map (h, w, C) at the crossings of x and y, one axis after the other: (y, x, C)."""
    for axis, positions in ((0, y), (1, x)):
        centres = cell_centres(layer, axis, alignment)
        values = np.apply_along_axis(lambda line, p=positions, c=centres: np.interp(p, c, line), axis, values)
    return values


def neighbours(values: np.ndarray) -> np.ndarray:
    """Put the nine cells around each cell side by side, row by row; zeros beyond the edge."""
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)))
    height, width = values.shape[:2]
    return np.concatenate([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=2)


def standard_columns(model: GridClassifier, maps, boxes, images, edges=None) -> np.ndarray:
    """Return standardised hypercolumns at every heatmap pixel: (n, y, x, D)."""
    mean, std = (np.split(part.double().numpy(), np.cumsum(model.sizes)[:-1]) for part in (model.mean, model.std))
    found = []
    for number, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        wider, higher = (x1 - x0) * model.expansion, (y1 - y0) * model.expansion
        share = (np.arange(model.side) + 0.5) / model.side
        x = x0 - wider + share * (x1 - x0 + 2 * wider)
        y = y0 - higher + share * (y1 - y0 + 2 * higher)
        if edges is not None:
            left, top, right, bottom = edges[number].tolist()
            x, y = np.clip(x, left + 0.5, right - 0.5), np.clip(y, top + 0.5, bottom - 0.5)
        parts = []
        for layer, values, m, s in zip(model.layers, maps, mean, std, strict=True):
            which = number if layer.name in model.box_layers else int(images[number])
            channels = layer.channels
            standard = (values[which].double().numpy() - m[:channels]) / s[:channels]
            if layer.name == "full" and model.kernel == 3:
                standard = neighbours(standard)
            parts.append(read_map(standard, layer, model.frame.alignment, x, y))
        found.append(np.concatenate(parts, axis=2))
    return np.stack(found)


def definition(model: GridClassifier, standard: np.ndarray, weight=None) -> torch.Tensor:
    """Apply every classifier at every pixel and interpolate their probabilities: (n, classes, y, x)."""
    side, grid = model.side, model.grid
    weight = model.first.weight.detach().double() if weight is None else weight
    logits = torch.from_numpy(standard) @ weight.T + model.first.bias.detach().double()
    prior = model.prior.double().permute(1, 2, 0)[:, :, None, None]
    probabilities = torch.sigmoid(logits.unflatten(-1, (grid, grid, model.classes)) + prior)
    place = [min(max((pixel + 0.5) * grid / side - 0.5, 0), grid - 1) for pixel in range(side)]
    share = torch.tensor([[max(0.0, 1 - abs(at - cell)) for cell in range(grid)] for at in place], dtype=torch.float64)
    return torch.einsum("nyxabc,ya,xb->ncyx", probabilities, share, share)


def reference(model: GridClassifier, maps, boxes=BOXES, images=IMAGES, edges=None) -> torch.Tensor:
    return definition(model, standard_columns(model, maps, boxes, images, edges))


@pytest.mark.parametrize("grid", [1, 2, 5, 10])
@pytest.mark.parametrize("side", [3, 12, 50])
def test_heatmaps_are_the_definition_s_for_every_grid_and_side(grid, side):
    model, maps = make_model(grid=grid, side=side), make_maps(LAYERS, 2)
    with torch.no_grad():
        found = model(maps, BOXES, IMAGES)
    assert found.shape == (4, CLASSES, side, side)
    assert relative_difference(found, reference(model, maps)) <= TOLERANCE


@pytest.mark.parametrize("alignment", ["resize", "receptive_field"])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("expansion", [0.0, 16 / 195])
def test_alignment_kernel_and_expansion_are_the_definition_s(alignment, kernel, expansion):
    model = make_model(alignment=alignment, kernel=kernel, expansion=expansion)
    maps = make_maps(LAYERS, 2)
    assert relative_difference(model(maps, BOXES, IMAGES), reference(model, maps)) <= TOLERANCE


def test_layers_of_boxes_are_read_by_box_and_the_others_by_image():
    model = make_model(box_layers=("fc", "odd"))
    maps = [*make_maps(LAYERS[:2], 2), *make_maps(LAYERS[2:], 4)]
    assert relative_difference(model(maps, BOXES, IMAGES), reference(model, maps)) <= TOLERANCE
    # Crops: every map belongs to a box, of which each fills its own canvas.
    crops = make_model(box_layers=tuple(layer.name for layer in LAYERS))
    maps, whole = make_maps(LAYERS, 3), torch.tensor([[0, 0, 48, 32]] * 3)
    expected = reference(crops, maps, whole, torch.arange(3))
    assert relative_difference(crops(maps, whole, torch.arange(3)), expected) <= TOLERANCE


def test_padding_beyond_the_image_s_edges_is_not_read():
    model, maps = make_model(), make_maps(LAYERS, 2)
    edges = torch.tensor([[0.0, 6.0, 48.0, 26.0]] * 3 + [[0.0, 0.0, 44.0, 32.0]])
    found = model(maps, BOXES, IMAGES, edges_xyxy=edges)
    assert relative_difference(found, reference(model, maps, edges=edges)) <= TOLERANCE
    assert relative_difference(found, reference(model, maps)) > 0.01


def test_half_precision_maps_are_classified_as_what_they_hold():
    model, maps = make_model(), [values.half() for values in make_maps(LAYERS, 2)]
    assert relative_difference(model(maps, BOXES, IMAGES), reference(model, maps)) <= TOLERANCE


def test_large_activations_stay_within_the_tolerance():
    model, maps = make_model(), make_maps(LAYERS, 2, scale=140.0)
    model.set_statistics(torch.zeros(20), torch.full((20,), 140.0))
    assert relative_difference(model(maps, BOXES, IMAGES), reference(model, maps)) <= TOLERANCE


def test_with_the_boxes_classes_only_their_own_heatmaps_come():
    model, maps = make_model(), make_maps(LAYERS, 2)
    classes = torch.tensor([2, 0, 2, 1])
    own = model(maps, BOXES, IMAGES, box_classes=classes)
    assert relative_difference(own, reference(model, maps)[torch.arange(4), classes]) <= TOLERANCE


def test_as_many_classifiers_as_pixels_are_not_interpolated():
    model, maps = make_model(grid=4, side=4), make_maps(LAYERS, 2)
    columns = torch.from_numpy(standard_columns(model, maps, BOXES, IMAGES))
    weight = model.first.weight.detach().double().unflatten(0, (4, 4, CLASSES))
    logits = torch.einsum("nyxd,yxcd->ncyx", columns, weight)
    bias = model.first.bias.detach().double().unflatten(0, (4, 4, CLASSES)).permute(2, 0, 1)
    expected = torch.sigmoid(logits + bias + model.prior.double())
    assert relative_difference(model(maps, BOXES, IMAGES), expected) <= TOLERANCE


@pytest.mark.parametrize("kernel", [1, 3])
def test_gradients_go_through_the_interpolation_as_through_the_definition(kernel):
    model, maps = make_model(kernel=kernel), make_maps(LAYERS, 2)
    weights = torch.randn(4, CLASSES, 10, 10)
    (model(maps, BOXES, IMAGES) * weights).sum().backward()
    plain = model.first.weight.detach().double().requires_grad_()
    (definition(model, standard_columns(model, maps, BOXES, IMAGES), plain) * weights).sum().backward()
    assert relative_difference(model.first.weight.grad, plain.grad) < 1e-4
    nudged = {}
    for sign in (1, -1):
        with torch.no_grad():
            model.first.bias[5] += sign * 1e-2
            nudged[sign] = float((reference(model, maps) * weights).sum())
            model.first.bias[5] -= sign * 1e-2
    assert float(model.first.bias.grad[5]) == pytest.approx((nudged[1] - nudged[-1]) / 2e-2, rel=1e-3, abs=1e-4)


def test_gradients_reach_the_maps():
    model, maps = make_model(), make_maps(LAYERS, 2)
    weights, step = torch.randn(4, CLASSES, 10, 10), 1e-2
    for values in maps:
        values.requires_grad_()
    (model(maps, BOXES, IMAGES) * weights).sum().backward()
    for values in maps:
        place = int(values.grad.abs().argmax())
        sums = {}
        for sign in (1, -1):
            with torch.no_grad():
                values.view(-1)[place] += sign * step
            sums[sign] = float((reference(model, [part.detach() for part in maps]) * weights).sum())
            with torch.no_grad():
                values.view(-1)[place] -= sign * step
        assert float(values.grad.flatten()[place]) == pytest.approx((sums[1] - sums[-1]) / (2 * step), rel=2e-3)


def test_an_image_without_boxes_has_no_heatmaps():
    model, maps = make_model(), make_maps(LAYERS, 1)
    nothing = torch.empty(0, 4)
    assert model(maps, nothing).shape == (0, CLASSES, 10, 10)
    assert model(maps, nothing, box_classes=torch.empty(0, dtype=torch.int64)).shape == (0, 10, 10)
    assert model.hypercolumns(maps, nothing).shape == (0, 100, 20)


def test_hypercolumns_of_chosen_pixels_are_the_definition_s():
    model, maps = make_model(kernel=3), make_maps(LAYERS, 2)
    pixels = torch.stack([torch.randperm(100)[:7] for _ in range(4)])
    standard = torch.from_numpy(standard_columns(model, maps, BOXES, IMAGES)).flatten(1, 2)
    raw = standard * model.std.double() + model.mean.double()
    assert relative_difference(model.hypercolumns(maps, BOXES, IMAGES), raw) <= TOLERANCE
    chosen = model.hypercolumns(maps, BOXES, IMAGES, pixels=pixels)
    assert relative_difference(chosen, raw.gather(1, pixels[..., None].expand(-1, -1, raw.shape[2]))) <= TOLERANCE


def test_the_state_goes_into_a_new_model_and_back():
    model, maps = make_model(), make_maps(LAYERS, 2)
    again = GridClassifier(LAYERS, CLASSES, Frame(CANVAS), grid=3, side=10)
    again.load_state_dict(model.state_dict())
    assert again(maps, BOXES, IMAGES).equal(model(maps, BOXES, IMAGES))


def test_a_channel_that_never_varies_is_not_divided_by_zero():
    model = make_model()
    model.set_statistics(torch.zeros(20), torch.zeros(20))
    assert model.std.eq(1).all()


def test_only_what_boxes_cover_is_classified_where_that_is_less(monkeypatch):
    classified = []
    monkeypatch.setattr(
        PlacedMap, "cells_if_fewer", lambda self, most: classified.append(COUNTED(self, most)) or classified[-1]
    )
    model, maps = make_model(side=50), make_maps(LAYERS, 1)
    # Sampled from 8.2 to 27.8 along x and from 8.12 to 19.88 along y: on the full map that is cells 7 to 28 and 7 to 20.
    box = torch.tensor([[8.0, 8.0, 28.0, 20.0]])
    assert relative_difference(model(maps, box), reference(model, maps, box, [0])) <= TOLERANCE
    assert [len(found[0]) for found in classified] == [22 * 14, 7 * 5, 4 * 3, 1]
    # Five boxes that cover the same cover more than the whole map.
    classified.clear()
    model(maps, box.repeat(5, 1))
    assert [len(found[0]) for found in classified] == [32 * 48, 96, 15, 1]
    # Pixels that are fewer than cells are read first.
    classified.clear()
    make_model(side=6)(maps, box)
    assert [found is None for found in classified] == [True, True, False, False]
