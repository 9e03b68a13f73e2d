"""Positions, grids and boxes against arithmetic done one number at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercolumns.errors import GeometryError
from hypercolumns.geometry import (
    REFINER_EXPANSION,
    AxisMap,
    axis_map,
    box_positions,
    check_boxes,
    expand_boxes,
    grid_hw,
    grid_positions,
    linear_taps,
    place,
)
from hypercolumns.specs import CanvasSpec

SIDES = st.integers(1, 60)


def read(values: np.ndarray, positions: torch.Tensor, axis: AxisMap) -> np.ndarray:
    lower, upper, weight = (part.numpy() for part in linear_taps(positions, axis))
    assert lower.min() >= 0
    assert upper.max() < len(values)
    assert weight.min() >= 0
    assert weight.max() <= 1
    return values[lower] * (1 - weight) + values[upper] * weight


def cell_centres(alignment: str, canvas: int, cells: int, stride: float, offset: float) -> np.ndarray:
    """Where each cell lies on the canvas, from the words of the definition."""
    number = np.arange(cells)
    if cells == 1:
        return np.array([canvas / 2])
    if alignment == "resize":
        return (number + 0.5) * canvas / cells
    if alignment == "corners":
        return 0.5 + number * (canvas - 1) / (cells - 1)
    return offset + number * stride


@settings(max_examples=150, deadline=None)
@given(
    alignment=st.sampled_from(["resize", "receptive_field", "corners"]),
    canvas=st.integers(2, 60),
    cells=SIDES,
    stride=st.sampled_from([1.0, 2.0, 3.0, 8.0, 15.5]),
    offset=st.floats(-20, 20),
    seed=st.integers(0, 5),
)
def test_taps_read_between_the_centres_of_cells_and_are_clamped_beyond_them(alignment, canvas, cells, stride, offset, seed):
    values = np.random.default_rng(seed).normal(size=cells)
    positions = torch.linspace(-3, canvas + 3, 57, dtype=torch.float64)
    axis = axis_map(canvas, cells, stride_px=stride, offset_px=offset, alignment=alignment)
    expected = np.interp(positions.numpy(), cell_centres(alignment, canvas, cells, stride, offset), values)
    np.testing.assert_allclose(read(values, positions, axis), expected, atol=1e-9)


def test_only_the_plain_stretch_counts_as_a_resize():
    assert axis_map(225, 112).is_resize(225)
    assert axis_map(224, 112, stride_px=2.0, offset_px=1.0, alignment="receptive_field").is_resize(224)
    # The same phase, but the last of 225 pixels lies beyond the last cell: no stretch.
    assert not axis_map(225, 112, stride_px=2.0, offset_px=1.0, alignment="receptive_field").is_resize(225)
    assert not axis_map(224, 112, alignment="corners").is_resize(224)


@pytest.mark.parametrize(("canvas", "cells"), [(0, 4), (4, 0), (-1, 4)])
def test_an_empty_canvas_or_map_is_refused(canvas, cells):
    with pytest.raises(GeometryError, match="at least one pixel and cell"):
        axis_map(canvas, cells)


@pytest.mark.parametrize(("stride", "offset"), [(None, 1.0), (2.0, None), (0.0, 1.0), (-1.0, 1.0)])
def test_receptive_field_alignment_needs_a_stride_and_an_offset(stride, offset):
    with pytest.raises(GeometryError, match="use alignment resize"):
        axis_map(32, 4, stride_px=stride, offset_px=offset, alignment="receptive_field")


def test_an_alignment_nobody_knows_is_refused_and_not_taken_for_another():
    with pytest.raises(GeometryError, match="got 'Resize'"):
        axis_map(32, 4, stride_px=8.0, offset_px=4.0, alignment="Resize")


def test_the_grid_points_of_stride_4_lie_at_2_6_10():
    assert grid_positions(3, 4).tolist() == [2.0, 6.0, 10.0]
    assert grid_positions(3, 1).tolist() == [0.5, 1.5, 2.5]
    assert grid_hw((12, 8), 4) == (3, 2)


@pytest.mark.parametrize("stride", [0, -2, 5, 3, 16])
def test_a_stride_that_does_not_divide_the_canvas_is_refused(stride):
    with pytest.raises(GeometryError, match="divides the canvas"):
        grid_hw((12, 8), stride)


@settings(max_examples=150, deadline=None)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000), side_y=st.integers(16, 300), side_x=st.integers(16, 300))
def test_a_letterbox_touches_two_edges_keeps_the_aspect_and_is_centred(height, width, side_y, side_x):
    placement = place((height, width), CanvasSpec(mode="letterbox", size_hw=(side_y, side_x)))
    top, left, bottom, right = placement.box_yxyx
    assert 0 <= top < bottom <= side_y
    assert 0 <= left < right <= side_x
    assert placement.content_hw == (bottom - top, right - left)
    assert bottom - top == side_y or right - left == side_x
    assert 0 <= (side_y - bottom) - top <= 1
    assert 0 <= (side_x - right) - left <= 1
    if (bottom - top) == side_y:
        assert math.isclose(right - left, max(1, width * side_y / height), abs_tol=0.5 + 1e-6)
    else:
        assert math.isclose(bottom - top, max(1, height * side_x / width), abs_tol=0.5 + 1e-6)


def test_a_stretch_fills_the_canvas_whatever_the_image():
    placement = place((7, 900), CanvasSpec(mode="stretch", size_hw=(32, 48)))
    assert (placement.box_yxyx, placement.image_hw, placement.canvas_hw) == ((0, 0, 32, 48), (7, 900), (32, 48))


@pytest.mark.parametrize("image_hw", [(0, 4), (4, 0)])
def test_an_image_without_pixels_has_no_place(image_hw):
    with pytest.raises(GeometryError, match="at least 1x1"):
        place(image_hw, CanvasSpec())


def test_a_heatmap_of_a_box_lies_at_the_centres_of_its_equal_parts():
    x, y = box_positions(torch.tensor([[10.0, 20.0, 14.0, 28.0], [-1.0, 0.0, 1.0, 4.0]]), 4)
    assert x.tolist() == [[10.5, 11.5, 12.5, 13.5], [-0.75, -0.25, 0.25, 0.75]]
    assert y.tolist() == [[21.0, 23.0, 25.0, 27.0], [0.5, 1.5, 2.5, 3.5]]
    with pytest.raises(GeometryError, match="at least one pixel"):
        box_positions(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), 0)


def test_the_refiner_s_expansion_turns_195_pixels_into_227():
    box = expand_boxes(torch.tensor([[100.0, 50.0, 295.0, 245.0]]), REFINER_EXPANSION)
    torch.testing.assert_close(box, torch.tensor([[84.0, 34.0, 311.0, 261.0]], dtype=torch.float64))
    assert expand_boxes(torch.tensor([[1, 2, 3, 5]]), 0.5).tolist() == [[0.0, 0.5, 4.0, 6.5]]
    assert expand_boxes(torch.empty(0, 4), 0.5).shape == (0, 4)


@pytest.mark.parametrize("expansion", [-0.1, float("nan"), float("inf")])
def test_an_expansion_that_shrinks_or_is_no_number_is_refused(expansion):
    with pytest.raises(GeometryError, match="expansion"):
        expand_boxes(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), expansion)


@pytest.mark.parametrize("box", [[0.0, 0, 0, 5], [0, 5, 3, 5], [3, 0, 1, 5], [0, 0, float("nan"), 5], [float("-inf"), 0, 1, 1]])
def test_a_box_without_area_or_with_no_number_is_refused_by_its_place(box):
    with pytest.raises(GeometryError, match="box 1: expected finite x0 < x1 and y0 < y1"):
        check_boxes(torch.tensor([[0.0, 0, 1, 1], box]))


@pytest.mark.parametrize("shape", [(4,), (2, 3), (1, 4, 1)])
def test_what_has_not_four_sides_is_no_box(shape):
    with pytest.raises(GeometryError, match="shape"):
        check_boxes(torch.zeros(shape))


def test_boxes_go_to_the_canvas_as_the_image_does_and_come_back():
    placement = place((100, 50), CanvasSpec(mode="letterbox", size_hw=(200, 300)))
    whole = torch.tensor([[0.0, 0.0, 50.0, 100.0]])
    top, left, bottom, right = placement.box_yxyx
    assert placement.to_canvas(whole).tolist() == [[left, top, right, bottom]]
    boxes = torch.rand(5, 4) * 50
    torch.testing.assert_close(placement.to_image(placement.to_canvas(boxes)), boxes.double())
    stretched = place((100, 50), CanvasSpec(mode="stretch", size_hw=(200, 300)))
    assert stretched.to_canvas(torch.tensor([[10.0, 20.0, 30.0, 40.0]])).tolist() == [[60.0, 40.0, 180.0, 80.0]]
