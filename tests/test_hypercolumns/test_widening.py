"""The compiled kernels against plain resampling in double precision: sums, gradients, and what must not be read or lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercolumns.columns import Frame, layer_axes, resample
from hypercolumns.geometry import grid_hw
from hypercolumns.kernels import team
from hypercolumns.kernels.plans import Widening, plan_taps
from hypercolumns.kernels.spreading import spread_back
from hypercolumns.kernels.widening import add_widened, can_widen, read_rows
from tests.core_factory import make_layer, relative_difference, torch_threads

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4e-3}
CHANNELS = st.sampled_from([1, 7, 15, 16, 17, 33, 64, 65, 130])
CELLS = st.tuples(st.integers(1, 12), st.integers(1, 12))


def plan_of(layers, frame, stride):
    height, width = grid_hw(frame.canvas_hw, stride)
    axes = [layer_axes(layer, frame) for layer in layers]
    return Widening(plan_taps([y for y, _ in axes], height, stride), plan_taps([x for _, x in axes], width, stride))


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@st.composite
def cases(draw_):
    """A grid, some maps of any sizes, and how many threads and rows at a time it is worked off with."""
    stride = draw_(st.sampled_from([1, 2, 4]))
    canvas_hw = (stride * draw_(st.integers(1, 9)), stride * draw_(st.integers(1, 9)))
    sizes = draw_(st.lists(CELLS, max_size=3))
    layers = [make_layer(f"layer{k}", 1, size, (3.0, 2.5), (1.5, 2.0)) for k, size in enumerate(sizes)]
    frame = Frame(canvas_hw, draw_(st.sampled_from(["resize", "receptive_field", "corners"])))
    return layers, frame, stride, draw_(CHANNELS), draw_(st.integers(1, 3)), draw_(st.integers(1, 9))


@settings(max_examples=150, deadline=None)
@given(case=cases(), dtype=st.sampled_from([torch.float32, torch.bfloat16]), relu=st.booleans(), constant=st.booleans())
def test_sums_and_gradients_are_those_of_resampling_each_and_adding(case, dtype, relu, constant):
    layers, frame, stride, channels, threads, step = case
    grid = grid_hw(frame.canvas_hw, stride)
    plan = plan_of(layers, frame, stride)
    responses = [draw(*layer.map_hw, channels, dtype=dtype, seed=k) for k, layer in enumerate(layers)]
    onto = draw(*(() if constant else grid), channels, dtype=dtype, seed=9)
    exact = [values.double().requires_grad_() for values in responses]
    read = [resample(values[None], layer, frame, stride)[0] for values, layer in zip(exact, layers, strict=True)]
    expected = sum(read, onto.double().expand(*grid, channels))
    out = torch.full((*grid, channels), torch.nan, dtype=dtype)
    gradient = draw(*grid, channels, dtype=dtype, seed=5)
    given_back, bias = [torch.zeros_like(values) for values in exact], torch.zeros(channels)
    with torch_threads(threads):
        for start in range(0, grid[0], step):
            rows = slice(start, start + step)
            add_widened(out[rows], responses, plan, start, onto if constant else onto[rows], relu=relu)
        active = out.clone()
        masked = gradient.clone()
        for start in range(0, grid[0], step):
            rows = slice(start, start + step)
            pieces, share = spread_back(masked[rows], plan, start, active[rows] if relu else None)
            bias += share
            for total, parts in zip(given_back, pieces, strict=True):
                for cells, part in parts:
                    total[cells] += part
    ought = (expected.relu() if relu else expected).detach()
    assert float((out.double() - ought).abs().max()) <= TOLERANCE[dtype] * max(1.0, float(ought.abs().max()))
    # What is active is taken from the result itself: a sum next to zero may have come out on either side.
    direction = gradient.double() * (out > 0) if relu else gradient.double()
    assert torch.equal(masked.double(), direction)
    torch.testing.assert_close(bias.double(), direction.sum((0, 1)), rtol=1e-5, atol=1e-4)
    if layers:
        for found, ought in zip(given_back, torch.autograd.grad((expected * direction).sum(), exact), strict=True):
            torch.testing.assert_close(found, ought, rtol=1e-5, atol=1e-4)


@settings(max_examples=100, deadline=None)
@given(
    case=cases(),
    read=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    written=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_map_is_read_at_the_grid_s_points_into_some_channels_of_a_tensor(case, read, written):
    layers, frame, stride, channels, threads, step = case
    grid = grid_hw(frame.canvas_hw, stride)
    for layer in layers[:1]:
        values, plan = draw(*layer.map_hw, channels, dtype=read), plan_of([layer], frame, stride)
        out = torch.full((*grid, channels + 5), 7.0, dtype=written)
        with torch_threads(threads):
            for start in range(0, grid[0], step):
                read_rows(out[start : start + step, :, 2 : 2 + channels], values, plan, start)
        expected = resample(values[None].double(), layer, frame, stride)[0]
        assert float((out[:, :, 2:-3].double() - expected).abs().max()) <= TOLERANCE[written] * max(
            1, float(expected.abs().max())
        )
        assert (out[:, :, :2] == 7).all()
        assert (out[:, :, -3:] == 7).all(), "its neighbours are left alone"


def test_what_is_not_a_number_stays_so_and_cells_of_no_weight_are_not_read():
    layers, frame = [make_layer("map", 1, (4, 4))], Frame((4, 4))
    plan, response = plan_of(layers, frame, 1), draw(4, 4, 17)
    response[1, 2] = torch.nan
    out = torch.empty(4, 4, 17)
    add_widened(out, [response], plan, 0, torch.zeros(17), relu=True)
    assert torch.equal(out.isnan().any(-1), response.isnan().any(-1)), "each point reads its own cell and no neighbour"
    assert torch.equal(out.nan_to_num(), response.relu().nan_to_num())


def test_bfloat16_is_rounded_as_torch_rounds_it():
    plan = plan_of([make_layer("map", 1, (1, 2))], Frame((1, 4)), 1)
    first, second = draw(20_000, seed=1).bfloat16(), draw(20_000, seed=2).bfloat16()
    out = torch.empty(1, 4, 20_000, dtype=torch.bfloat16)
    add_widened(out, [torch.stack([first, second])[None]], plan, 0, torch.zeros(20_000, dtype=torch.bfloat16))
    exact = [0.75 * first.double() + 0.25 * second.double(), 0.25 * first.double() + 0.75 * second.double()]
    # Eight bits times three quarters are exact in float32, and so are most of the sums.
    assert all(torch.equal(total.float().double(), total) for total in (part[:100] for part in exact))
    expected = torch.stack([first.double(), *exact, second.double()]).float().bfloat16()
    assert torch.equal(out[0], expected)


def test_what_is_not_finite_does_not_become_so():
    layers, frame = [make_layer("map", 1, (4, 4))], Frame((8, 8))
    plan, response = plan_of(layers, frame, 1), torch.zeros(4, 4, 16)
    response[1, 2] = torch.inf
    out = torch.empty(8, 8, 16)
    add_widened(out, [response], plan, 0, torch.zeros(16))
    assert not out[2:4, 4:6].isfinite().any()
    assert out[:1].isfinite().all()


def test_a_sum_is_the_same_whatever_the_number_of_threads():
    layers, frame = [make_layer("fine", 1, (20, 30)), make_layer("coarse", 1, (5, 7))], Frame((40, 60))
    plan = plan_of(layers, frame, 1)
    responses = [draw(*layer.map_hw, 37, seed=k) for k, layer in enumerate(layers)]
    found = []
    for threads in (1, 2, 5, 64):
        with torch_threads(threads):
            out = torch.empty(40, 60, 37)
            add_widened(out, responses, plan, 0, torch.zeros(37))
            found.append(out)
    assert all(torch.equal(out, found[0]) for out in found)


def test_threads_of_python_s_may_use_kernels_at_once():
    layers, frame = [make_layer("map", 1, (9, 11))], Frame((36, 44))
    plan = plan_of(layers, frame, 1)
    responses = [[draw(9, 11, 40, seed=seed)] for seed in range(8)]

    def widened(values):
        with torch_threads(2):
            out = torch.empty(36, 44, 40)
            for _ in range(20):
                add_widened(out, values, plan, 0, torch.zeros(40))
        return out

    expected = [widened(values) for values in responses]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(*pair) for pair in zip(pool.map(widened, responses), expected, strict=True))


def test_without_torch_s_threads_a_kernel_does_all_its_parts_itself(monkeypatch):
    layers, frame = [make_layer("map", 1, (9, 11))], Frame((36, 44))
    plan, response = plan_of(layers, frame, 1), draw(9, 11, 40)
    expected, found = torch.empty(36, 44, 40), torch.zeros(36, 44, 40)
    with torch_threads(3):
        add_widened(expected, [response], plan, 0, torch.zeros(40))
        monkeypatch.setattr(team, "_openmp", lambda: None)
        add_widened(found, [response], plan, 0, torch.zeros(40))
    assert torch.equal(found, expected)
    assert relative_difference(found, resample(response[None], layers[0], frame, 1)[0]) < 1e-6


def test_kernels_are_for_float32_and_bfloat16_on_cpus():
    assert can_widen(torch.device("cpu"), torch.float32)
    assert can_widen(torch.device("cpu"), torch.bfloat16)
    assert not can_widen(torch.device("cpu"), torch.float64)
    assert not can_widen(torch.device("meta"), torch.float32)


def test_a_map_of_the_grid_s_own_cells_is_known_as_such():
    same = make_layer("map", 1, (8, 10), (1.0, 1.0), (0.5, 0.5))
    assert plan_of([same], Frame((8, 10)), 1).is_plain
    assert plan_of([same], Frame((8, 10), "receptive_field"), 1).is_plain
    assert not plan_of([same, same], Frame((8, 10)), 1).is_plain
    assert not plan_of([make_layer("moved", 1, (8, 10), (1.0, 1.0), (1.5, 1.5))], Frame((8, 10), "receptive_field"), 1).is_plain
    assert not plan_of([make_layer("coarse", 1, (4, 5))], Frame((8, 10)), 1).is_plain


def test_a_weight_that_float32_rounds_to_one_leaves_the_first_cell_unread():
    layer = make_layer("map", 1, (9, 9), (6.0, 6.0), (0.5, 0.5))
    axis = layer_axes(layer, Frame((54, 54), "receptive_field"))[0]
    taps = plan_taps([axis], 54, 1)
    alone = (taps.weights == 0) | (taps.weights == 1)
    assert alone.any()
    assert (taps.lower == taps.upper)[alone].all()


def test_taps_say_which_cells_some_points_need():
    axis = layer_axes(make_layer("map", 1, (4, 4)), Frame((8, 8)))[0]
    taps = plan_taps([axis], 8, 1)
    assert taps.needed(0, 1) == [slice(0, 1)], "the first point lies before the first cell's centre"
    assert taps.needed(1, 3) == [slice(0, 2)]
    assert taps.needed(0, 8) == [slice(0, 4)]
    np.testing.assert_allclose(taps.weights[0], [0, 0.25, 0.75, 0.25, 0.75, 0.25, 0.75, 1])


def test_what_a_kernel_would_read_wrongly_is_refused():
    """Kernels see addresses alone: a tensor of other strides would give other numbers, one of another size foreign memory."""
    plan = plan_of([make_layer("map", 1, (4, 5))], Frame((8, 10)), 1)
    out, response, bias = torch.zeros(8, 10, 16), draw(4, 5, 16), torch.zeros(16)
    scattered = torch.zeros(8, 16, 10).transpose(1, 2)
    for wrong in (
        (scattered, [response], plan, 0, bias),
        (out, [response], plan, 0, scattered),
        (out, [draw(5, 4, 16).transpose(0, 1)], plan, 0, bias),
        (out, [response[:3]], plan, 0, bias),
        (out, [response.bfloat16()], plan, 0, bias),
        (out, [response, response], plan, 0, bias),
        (out, [response], plan, 0, bias[:8]),
        (out, [response], plan, 1, bias),
        (out, [response], plan, -1, bias),
        (out[:, :9].contiguous(), [response], plan, 0, bias),
    ):
        with pytest.raises(ValueError, match="expected "):
            add_widened(*wrong)
    for wrong in (
        (out, response.double(), plan, 0),
        (out.half(), response, plan, 0),
        (out, response[:, :4], plan, 0),
        (out[:, ::2].repeat(1, 2, 1).transpose(0, 1).contiguous().transpose(0, 1), response, plan, 0),
        (out[:, :, :8], response, plan, 0),
        (out, response, plan, 4),
    ):
        with pytest.raises(ValueError, match="expected "):
            read_rows(*wrong)
    for wrong in ((scattered, plan, 0), (out, plan, 1), (out, plan, 0, scattered), (out, plan, 0, out.bfloat16())):
        with pytest.raises(ValueError, match="expected "):
            spread_back(*wrong)
    assert not out.any()
