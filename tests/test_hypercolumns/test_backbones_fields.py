"""Receptive fields, strides and offsets: against published numbers, and against the gradient of single cells."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hypercolumns.backbones.graphs import GraphNetwork, build_module
from hypercolumns.backbones.receptive_fields import IMAGE, WHOLE, Field, Window, grow, merge, module_window


@pytest.fixture(scope="module")
def caffenet():
    with torch.device("meta"):
        return GraphNetwork(build_module("caffenet"))


@pytest.mark.parametrize(
    ("node", "size_px", "stride_px"),
    [("conv1", 11, 4), ("conv2", 51, 8), ("conv3", 99, 16), ("conv4", 131, 16), ("conv5", 163, 16), ("pool5", 195, 32)],
)
def test_the_alexnet_family_has_its_published_fields_and_strides(caffenet, node, size_px, stride_px):
    field = caffenet.measure([node], (227, 227))[node].field

    assert field.size_px == (size_px, size_px)
    assert field.stride_px == (stride_px, stride_px)


@pytest.mark.parametrize(("node", "cells"), [("conv1", 55), ("pool1", 27), ("pool2", 13), ("conv4", 13), ("pool5", 6)])
def test_the_alexnet_family_has_its_published_map_sizes(caffenet, node, cells):
    assert caffenet.measure([node], (227, 227))[node].shape[2:] == (cells, cells)


def _made_probeable(module: nn.Module) -> nn.Module:
    # Positive weights let no path cancel, and a mean instead of a maximum passes the gradient to its whole window.
    for name, child in list(module.named_children()):
        if isinstance(child, nn.MaxPool2d):
            mean = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
            setattr(module, name, mean)
        _made_probeable(child)
    for parameter in module.parameters(recurse=False):
        nn.init.uniform_(parameter, 0.2, 0.8).div_(parameter[0].numel() if parameter.ndim > 1 else 1)
    if isinstance(module, nn.BatchNorm2d):
        module.reset_running_stats()
    return module


def _seen_by(value: torch.Tensor, images: torch.Tensor, row: int, column: int) -> tuple[list[int], list[int]]:
    (gradient,) = torch.autograd.grad(value[0, :, row, column].sum(), images, retain_graph=True)
    rows, columns = gradient[0].abs().sum(0).nonzero(as_tuple=True)
    return [int(rows.min()), int(rows.max()) + 1], [int(columns.min()), int(columns.max()) + 1]


@pytest.mark.parametrize(
    ("name", "nodes", "canvas_hw"),
    [
        ("vgg11", ("features.0", "features.4", "features.13"), (80, 96)),
        ("squeezenet1_1", ("features.1", "features.4.cat", "features.7.cat"), (91, 99)),
        ("squeezenet1_0", ("features.0", "features.4.expand3x3", "features.7.expand1x1"), (125, 99)),
        ("caffenet", ("conv1", "norm1", "pool2", "conv4"), (163, 147)),
        ("resnet18", ("relu", "layer1.0.relu_1", "layer2.0.downsample.0"), (61, 66)),
        ("shufflenet_v2_x0_5", ("maxpool", "stage2.1.view_1"), (61, 66)),
        ("googlenet", ("inception3a.cat",), (61, 66)),
        ("convnext_tiny", ("features.0", "features.1.0.add"), (41, 46)),
        ("mobilenet_v2", ("features.3.add", "features.4.conv.1"), (61, 59)),
    ],
)
def test_a_field_is_what_a_cell_s_gradient_reaches(name, nodes, canvas_hw):
    torch.manual_seed(0)
    with torch.device("meta"):
        module = build_module(name)
    network = GraphNetwork(module)
    measured = network.measure(nodes, canvas_hw)
    tap = _made_probeable(network.tap(nodes).to_empty(device="cpu"))
    images = torch.rand(1, 3, *canvas_hw).requires_grad_()
    maps = tap(images)

    for node in nodes:
        field, value = measured[node].field, maps[node]
        assert tuple(value.shape) == measured[node].shape
        for cell in _inner_cells(field, canvas_hw, tuple(value.shape[2:])):
            for axis, (low, high) in enumerate(_seen_by(value, images, *cell)):
                assert high - low == field.size_px[axis], (node, cell)
                assert (high + low) / 2 == field.offset_px[axis] + cell[axis] * field.stride_px[axis], (node, cell)


def _inner_cells(field: Field, canvas_hw: tuple[int, int], map_hw: tuple[int, ...]) -> list[tuple[int, int]]:
    """First and last cells along each axis whose fields lie inside the canvas."""
    ends = []
    for axis in (0, 1):
        inside = [
            cell
            for cell in range(map_hw[axis])
            if field.offset_px[axis] + cell * field.stride_px[axis] >= field.size_px[axis] / 2
            and field.offset_px[axis] + cell * field.stride_px[axis] <= canvas_hw[axis] - field.size_px[axis] / 2
        ]
        assert inside, "the canvas is too small to see a whole field"
        ends.append((inside[0], inside[-1]))
    return list(zip(*ends, strict=True))


def test_a_gate_over_the_whole_image_widens_the_field_and_keeps_the_place():
    network = GraphNetwork(build_module("mobilenet_v3_small"))
    node = "features.1.block.1"

    field = network.measure([node], (64, 64))[node].field

    assert field.size_px is None
    assert (field.stride_px, field.offset_px) == ((4.0, 4.0), (0.5, 0.5))


def test_what_is_flattened_sees_the_whole_image_and_has_no_place(caffenet):
    measured = caffenet.measure(["flatten", "relu7"], (227, 227))

    assert measured["flatten"].field == WHOLE
    assert measured["relu7"].field == WHOLE


def test_a_union_of_shifted_fields_spans_them_all():
    left = Field((2.0, 2.0), (4.0, 4.0), (1.0, 1.0))
    right = Field((4.0, 2.0), (4.0, 4.0), (3.0, 1.0))

    assert merge([left, right]) == Field((5.0, 2.0), (4.0, 4.0), (2.5, 1.0))


def test_maps_of_different_strides_have_no_common_field():
    assert merge([IMAGE, grow(IMAGE, Window((2, 2), (2, 2), (0, 0)))]) == WHOLE


def test_a_window_over_a_map_without_a_place_has_none():
    assert grow(WHOLE, Window((3, 3), (1, 1), (1, 1))) == WHOLE


def test_a_window_keeps_an_unbounded_field_unbounded():
    gated = Field(None, (2.0, 2.0), (1.0, 1.0))

    assert grow(gated, Window((2, 2), (2, 2), (0, 0))) == Field(None, (4.0, 4.0), (2.0, 2.0))


@pytest.mark.parametrize(
    ("module", "window"),
    [
        (nn.Conv2d(1, 1, (3, 5), stride=(1, 2), padding=(1, 0)), Window((3, 5), (1, 2), (1, 0))),
        (nn.Conv2d(1, 1, 3, dilation=4, padding="same"), Window((9, 9), (1, 1), (4, 4))),
        (nn.Conv2d(1, 1, 4, padding="same"), Window((4, 4), (1, 1), (1, 1))),
        (nn.Conv2d(1, 1, 3, padding="valid"), Window((3, 3), (1, 1), (0, 0))),
        (nn.MaxPool2d(3, 2, dilation=2), Window((5, 5), (2, 2), (0, 0))),
        (nn.AvgPool2d(2), Window((2, 2), (2, 2), (0, 0))),
        (nn.ReLU(), None),
    ],
)
def test_a_module_s_window_is_read_from_its_settings(module, window):
    assert module_window(module) == window


def test_a_convolution_that_pads_in_its_own_way_is_not_guessed_at():
    class OwnPadding(nn.Conv2d):
        pass

    assert module_window(OwnPadding(1, 1, 3)) is None


class _Odd(nn.Module):
    """Operations between images and maps that must not pass for cellwise ones."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        rolled = torch.roll(images, 1, 2)
        halves = images.chunk(2, dim=3)[0]
        normed = nn.functional.layer_norm(images.permute(0, 2, 3, 1), (3,)).permute(0, 3, 1, 2)
        return {"rolled": rolled, "halves": halves, "normed": normed}


def test_operations_that_move_cells_are_not_taken_for_cellwise_ones():
    network = GraphNetwork(_Odd())

    measured = network.measure(["roll", "getitem", "layer_norm", "permute_1"], (8, 8))

    assert measured["roll"].field == WHOLE
    assert measured["getitem"].field == WHOLE
    assert measured["permute_1"].field == IMAGE
    assert (measured["layer_norm"].channels_axis, measured["permute_1"].channels_axis) == (3, 1)
