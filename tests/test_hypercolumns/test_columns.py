"""Hypercolumns against torch's own interpolation in double precision, and against loops where torch has none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercolumns.columns import Frame, coordinate_columns, coordinate_grid, gather, gather_kept, resample, stack
from hypercolumns.errors import GeometryError
from hypercolumns.kernels.gathering import gather_columns
from tests.core_factory import grid_points, loop_interpolate, make_layer, make_maps, relative_difference, torch_stack

TOLERANCE = 1e-5

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@st.composite
def frames(draw, multiple=8):
    """A non-square canvas and a stride that divides it."""
    stride = draw(st.sampled_from([1, 2, 3, 4, 8]))
    hw = (stride * draw(st.integers(1, multiple)), stride * draw(st.integers(1, multiple)))
    return hw, stride


@settings(max_examples=120, deadline=None)
@given(frame=frames(), shapes=st.lists(SHAPES, min_size=1, max_size=3), seed=st.integers(0, 3))
def test_gather_resample_and_stack_are_torch_s_interpolation_at_every_stride(frame, shapes, seed):
    canvas_hw, stride = frame
    layers = [make_layer(f"layer{k}", k + 1, hw) for k, hw in enumerate(shapes)]
    maps = make_maps(layers, 2, seed, scale=100.0)
    out_hw = (canvas_hw[0] // stride, canvas_hw[1] // stride)
    expected = torch_stack(maps, out_hw)
    assert relative_difference(stack(maps, layers, Frame(canvas_hw), stride), expected) <= TOLERANCE
    for values, layer in zip(maps, layers, strict=True):
        found = resample(values, layer, Frame(canvas_hw), stride)
        assert relative_difference(found, torch_stack([values], out_hw)) <= TOLERANCE
    points = torch.from_numpy(grid_points(canvas_hw, stride)).float()
    gathered = gather([values[1] for values in maps], points, layers, Frame(canvas_hw))
    assert gathered.dtype == torch.float32
    assert relative_difference(gathered, expected[1].reshape(len(points), -1)) <= TOLERANCE


def test_the_four_corner_pixels_read_the_corner_cells_alone():
    layer = make_layer("coarse", 3, (4, 5))
    (values,) = make_maps([layer], 1)
    corners = torch.tensor([[0.5, 0.5], [31.5, 0.5], [0.5, 15.5], [31.5, 15.5], [-9.0, -9.0], [99.0, 99.0]])
    found = gather([values[0]], corners, [layer], Frame((16, 32)))
    expected = torch.stack([values[0, y, x] for y, x in [(0, 0), (0, -1), (-1, 0), (-1, -1), (0, 0), (-1, -1)]])
    torch.testing.assert_close(found, expected)


@settings(max_examples=60, deadline=None)
@given(
    canvas_hw=st.tuples(st.integers(2, 33), st.integers(2, 33)),
    map_hw=st.tuples(st.integers(1, 33), st.integers(1, 33)),
    seed=st.integers(0, 3),
)
def test_corners_alignment_is_torch_s_align_corners(canvas_hw, map_hw, seed):
    layer = make_layer("any", 2, map_hw)
    (values,) = make_maps([layer], 1, seed)
    expected = torch_stack([values], canvas_hw, align_corners=True)
    frame = Frame(canvas_hw, "corners")
    assert relative_difference(resample(values, layer, frame, 1), expected) <= TOLERANCE
    points = torch.from_numpy(grid_points(canvas_hw, 1)).float()
    assert relative_difference(gather([values[0]], points, [layer], frame), expected.reshape(len(points), -1)) <= TOLERANCE


@settings(max_examples=80, deadline=None)
@given(
    frame=frames(multiple=5),
    map_hw=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    strides=st.tuples(*[st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 16.0, 2.5, 7.3])] * 2),
    offsets=st.tuples(*[st.one_of(st.sampled_from([0.5, 1.0, 4.0, 8.0]), st.floats(-9, 40))] * 2),
    seed=st.integers(0, 3),
)
def test_receptive_field_alignment_reads_each_cell_at_its_own_centre(frame, map_hw, strides, offsets, seed):
    canvas_hw, stride = frame
    layer = make_layer("shifted", 2, map_hw, strides, offsets)
    (values,) = make_maps([layer], 1, seed)
    points = grid_points(canvas_hw, stride)
    centres = [offset + step * np.arange(cells) for offset, step, cells in zip(offsets, strides, map_hw, strict=True)]
    expected = torch.from_numpy(loop_interpolate(values[0].double().numpy(), *centres, points))
    aligned = Frame(canvas_hw, "receptive_field")
    assert relative_difference(resample(values, layer, aligned, stride).reshape(len(points), -1), expected) <= TOLERANCE
    gathered = gather([values[0]], torch.from_numpy(points), [layer], aligned)
    assert relative_difference(gathered, expected) <= TOLERANCE


def test_a_pooled_map_of_an_odd_canvas_is_not_stretched_over_it_under_receptive_field_alignment():
    # 2x2 pooling of 9 pixels leaves 4 cells centred at 1, 3, 5, 7: pixel 8 lies beyond all of them.
    layer = make_layer("pool", 1, (4, 4), (2.0, 2.0), (1.0, 1.0))
    values = torch.arange(4.0).reshape(1, 1, 4, 1).expand(1, 4, 4, 1).contiguous()
    found = resample(values, layer, Frame((9, 9), "receptive_field"), 1)[0, 0, :, 0]
    torch.testing.assert_close(found, torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3, 3]))


@pytest.mark.parametrize("alignment", ["resize", "receptive_field", "corners"])
def test_the_single_cell_of_a_fully_connected_layer_is_the_same_everywhere(alignment):
    layer = make_layer("fc", 3, (1, 1))
    (values,) = make_maps([layer], 1)
    found = resample(values, layer, Frame((4, 6), alignment), 2)
    torch.testing.assert_close(found, values.expand(1, 2, 3, 3))


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize(("cell_px", "offset_px"), [(4.0, 1.5), (2.0, 9.0), (1.0, 0.5), (16.0, -3.0), (3.0, 2.0)])
def test_the_gradient_of_shifted_resampling_is_the_transpose_of_its_matrix(stride, cell_px, offset_px):
    layer = make_layer("shifted", 2, (5, 6), (cell_px, cell_px), (offset_px, offset_px))
    frame = Frame((16, 24), "receptive_field")
    values = torch.randn(1, 5, 6, 2, dtype=torch.float64, requires_grad=True)
    out = resample(values, layer, frame, stride)
    direction = torch.randn_like(out)
    (found,) = torch.autograd.grad((out * direction).sum(), values)
    matrix = np.empty((out.shape[1] * out.shape[2], 30))
    centres = [offset_px + cell_px * np.arange(cells) for cells in (5, 6)]
    for cell in range(30):
        unit = np.zeros((30, 1))
        unit[cell] = 1
        matrix[:, cell] = loop_interpolate(unit.reshape(5, 6, 1), *centres, grid_points((16, 24), stride))[:, 0]
    expected = (matrix.T @ direction.reshape(-1, 2).numpy()).reshape(5, 6, 2)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("alignment", ["resize", "receptive_field"])
def test_resampling_half_precision_keeps_its_type_and_stays_close(alignment):
    layer = make_layer("any", 3, (5, 7), (4.0, 4.0), (1.0, 1.0))
    (values,) = make_maps([layer], 2)
    frame = Frame((20, 28), alignment)
    found = resample(values.bfloat16(), layer, frame, 2)
    assert found.dtype == torch.bfloat16
    assert relative_difference(found.float(), resample(values, layer, frame, 2)) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("alignment", ["resize", "receptive_field", "corners"])
@pytest.mark.parametrize("threads", [1, 3])
def test_gather_by_a_kernel_and_by_torch_s_operations_is_the_same(dtype, alignment, threads):
    sizes = {(1, 1): 3, (1, 6): 16, (5, 1): 40, (9, 13): 129, (24, 32): 1}
    layers = [make_layer(f"map {hw}", channels, hw, (2.5, 3.0), (1.5, 2.0)) for hw, channels in sizes.items()]
    maps = [values[0].to(dtype) for values in make_maps(layers, 1)]
    points = torch.rand(1200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 40 - 4
    frame = Frame((24, 32), alignment)
    torch.set_num_threads(threads)
    try:
        found = gather(maps, points, layers, frame)
    finally:
        torch.set_num_threads(1)
    plain = gather([values.clone().requires_grad_() for values in maps], points, layers, frame)
    assert found.dtype == torch.float32
    assert relative_difference(found, plain) < 1e-6
    torch.testing.assert_close(gather(maps, points.float(), layers, frame), found, rtol=1e-4, atol=1e-4)
    apart = [values.transpose(0, 1).contiguous().transpose(0, 1) for values in maps]
    assert relative_difference(gather(apart, points, layers, frame), plain) < 1e-6, "maps that do not lie in one piece"
    mixed = [maps[0].double(), *maps[1:]]
    assert relative_difference(gather(mixed, points, layers, frame), plain) < 1e-6, "of several types"


@pytest.mark.parametrize("kept_as", ["float32", "float16", "uint16", "uint8"])
def test_maps_are_gathered_as_a_store_keeps_them(kept_as):
    layers = [make_layer("fine", 17, (9, 13)), make_layer("coarse", 5, (2, 3))]
    exact = [values[0] for values in make_maps(layers, 1, scale=30)]
    if kept_as == "uint8":
        stored = [values.abs().clamp(max=255).to(torch.uint8).numpy() for values in exact]
        exact = [torch.from_numpy(values).float() for values in stored]
    elif kept_as == "uint16":
        stored = [values.bfloat16().view(torch.uint16).numpy() for values in exact]
        exact = [values.bfloat16().float() for values in exact]
    else:
        stored = [values.numpy().astype(kept_as) for values in exact]
        exact = [torch.from_numpy(values).float() for values in stored]
    points = torch.rand(50, 2) * 40
    found = gather_kept(stored, points, layers, Frame((36, 40)))
    assert relative_difference(found, gather(exact, points, layers, Frame((36, 40)))) < 1e-6
    unwritable = [np.broadcast_to(values, values.shape) for values in stored]
    assert torch.equal(gather_kept(unwritable, points, layers, Frame((36, 40))), found)
    assert gather_kept([], points, [], Frame((36, 40))).shape == (50, 0)
    assert gather_kept(stored, points[:0], layers, Frame((36, 40))).shape == (0, 22)
    with pytest.raises(GeometryError, match=r"layer coarse: expected a map of \(2, 3\) cells, got \(9, 13\)"):
        gather_kept([stored[0], stored[0]], points, layers, Frame((36, 40)))


def test_maps_that_a_kernel_would_read_wrongly_are_refused():
    layers, frame = [make_layer("fine", 4, (9, 13)), make_layer("coarse", 5, (2, 3))], Frame((36, 40))
    good = [values[0].numpy() for values in make_maps(layers, 1)]
    points = torch.rand(7, 2)
    for wrong in (
        [good[0], good[1].astype(np.float16)],
        [values.astype(">f4") for values in good],
        [values.astype(np.float64) for values in good],
        [values.astype(np.int16) for values in good],
    ):
        with pytest.raises(GeometryError, match="expected maps of one type out of float32, float16, uint16, uint8, got "):
            gather_kept(wrong, points, layers, frame)
    addresses, axes = [values.ctypes.data for values in good], torch.zeros(5, 2, 2, dtype=torch.float64)
    for shape in ((7, 1), (7, 3), (2,)):
        with pytest.raises(GeometryError, match=r"expected positions \(n, 2\) as x, y, got "):
            gather_columns(addresses, "float32", [4, 5], torch.rand(shape).double(), axes)
    for wrong in ((points, axes), (points.double(), axes.float()), (points.double(), axes[:, :1].contiguous())):
        with pytest.raises(ValueError, match="expected "):
            gather_columns(addresses, "float32", [4, 5], *wrong)


def test_positions_that_want_a_gradient_get_one():
    layers, frame = [make_layer("map", 4, (9, 13))], Frame((36, 52))
    points = (torch.rand(7, 2) * 30).requires_grad_()
    found = gather([make_maps(layers, 1)[0][0]], points, layers, frame)
    (gradient,) = torch.autograd.grad(found.sum(), points)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
@pytest.mark.parametrize("grad", [False, True])
def test_a_position_that_is_not_finite_is_refused(wrong, grad):
    layer = make_layer("map", 3, (4, 5))
    maps = [make_maps([layer], 1)[0][0].requires_grad_(grad)]
    points = torch.tensor([[1.0, 2.0], [3.0, wrong]])
    with pytest.raises(GeometryError, match=r"point 1: expected a finite position x, y on the canvas, got \[3.0, (nan|inf)\]"):
        gather(maps, points, [layer], Frame((8, 10)))


def test_gather_reads_stored_half_precision_in_float32():
    layer = make_layer("any", 3, (5, 7))
    values = make_maps([layer], 1)[0].half()
    points = torch.from_numpy(grid_points((10, 14), 1)).float()
    found = gather([values[0]], points, [layer], Frame((10, 14)))
    assert found.dtype == torch.float32
    assert relative_difference(found, torch_stack([values], (10, 14)).reshape(140, 3)) <= TOLERANCE


def test_no_points_give_no_columns():
    layers = [make_layer("a", 2, (3, 3)), make_layer("b", 5, (1, 1))]
    maps = [values[0] for values in make_maps(layers, 1)]
    assert gather(maps, torch.empty(0, 2), layers, Frame((6, 6))).shape == (0, 7)


def test_a_map_of_another_size_than_its_layer_s_is_refused_by_name():
    layer, other = make_layer("conv5", 2, (3, 4)), make_layer("other", 2, (4, 3))
    (values,) = make_maps([other], 1)
    with pytest.raises(GeometryError, match=r"layer conv5: expected a map of \(3, 4\) cells, got \(4, 3\)"):
        resample(values, layer, Frame((12, 12)), 1)
    with pytest.raises(GeometryError, match="layer conv5"):
        gather([values[0]], torch.ones(1, 2), [layer], Frame((12, 12)))


def test_a_layer_without_a_stride_has_no_receptive_field_alignment():
    layer = make_layer("tokens", 2, (3, 4))
    (values,) = make_maps([layer], 1)
    with pytest.raises(GeometryError, match="use alignment resize"):
        resample(values, layer, Frame((12, 12), "receptive_field"), 1)


def test_coordinates_run_from_minus_one_to_one_x_before_y():
    grid = coordinate_grid((4, 8), 2)
    assert grid.dtype == torch.float32
    for row in range(2):
        for column in range(4):
            assert grid[row, column].tolist() == pytest.approx([(column + 0.5) / 4 * 2 - 1, (row + 0.5) / 2 * 2 - 1])
    corners = coordinate_columns(torch.tensor([[0.0, 0.0], [8.0, 4.0], [4.0, 2.0]]), (4, 8))
    assert corners.tolist() == [[-1, -1], [1, 1], [0, 0]]
