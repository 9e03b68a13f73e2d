"""Linear resampling along one axis, for positions a whole number of grid points or cells apart, at memory speed.

`F.interpolate` cannot place cells where their receptive fields lie: its phase is fixed. But when the map's stride is a multiple
of the grid's (or the other way round), the weights repeat: every phase of the output is one weighted sum of two slices of the
input. That needs no index arrays in either direction and runs several times faster than gathering rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from hypercolumns.geometry import AxisMap

__all__ = ["PhasePlan", "plan_phases", "resample_phases"]

_ROUNDING = 1e-9
_MOST_PHASES = 32


@dataclass(frozen=True)
class PhasePlan:
    """How an axis is resampled: input, padded by repeating its ends, sliced once or twice for every phase of the output.

    Attributes:
        count: Output points.
        phases: Output points between two repetitions of the weights.
        step: Input cells between two repetitions.
        pad: Cells repeated before and after.
        taps: For each phase, the first padded cell and the weight of the cell after it.
    """

    count: int
    phases: int
    step: int
    pad: tuple[int, int]
    taps: tuple[tuple[int, float], ...]


def plan_phases(axis: AxisMap, count: int, stride_px: int) -> PhasePlan | None:
    """Plan the reading of an axis at the grid positions s·(j+½), or return None where weights do not repeat soon enough."""
    ratio = axis.scale * stride_px
    fraction = Fraction(ratio).limit_denominator(_MOST_PHASES)
    phases, step = fraction.denominator, fraction.numerator
    if step < 1 or abs(ratio * phases - step) > _ROUNDING * step or count < phases:
        return None
    coordinates = [axis.scale * stride_px * (phase + 0.5) + axis.shift for phase in range(phases)]
    lower = [math.floor(coordinate) for coordinate in coordinates]
    rounds = -(-count // phases)
    first, last = min(lower), max(lower) + 1 + (rounds - 1) * step
    before, after = max(0, -first), max(0, last - (axis.cells - 1))
    taps = tuple((low + before, coordinate - low) for low, coordinate in zip(lower, coordinates, strict=True))
    return PhasePlan(count, phases, step, (before, after), taps)


def resample_phases(values: Tensor, dim: int, plan: PhasePlan) -> Tensor:
    """Resample a tensor along a dimension; differentiable once."""
    result: Tensor = _Resample.apply(values, dim, plan)
    return result


class _Resample(torch.autograd.Function):
    """The resampling, and its transpose for the gradient."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: Tensor, dim: int, plan: PhasePlan) -> Tensor:
        ctx.dim, ctx.plan, ctx.cells = dim, plan, values.shape[dim]  # type: ignore[attr-defined]
        cells = values.shape[dim]
        shape = list(values.shape)
        shape[dim] = plan.count
        out = values.new_empty(shape)
        for phase, (first, weight) in enumerate(plan.taps):
            target = _strided(out, dim, phase, plan.count, plan.phases)
            points = target.shape[dim]
            # Beyond the ends lie repetitions of the end cells: what is between two of them is the same again.
            lowest = first - plan.pad[0]
            inner = min(points, max(0, -(lowest // plan.step)))
            outer = max(inner, min(points, (cells - 2 - lowest) // plan.step + 1))
            target.narrow(dim, 0, inner).copy_(values.narrow(dim, 0, 1))
            target.narrow(dim, outer, points - outer).copy_(values.narrow(dim, cells - 1, 1))
            start, stop = lowest + inner * plan.step, lowest + (outer - 1) * plan.step + 1
            if outer > inner:
                low, high = (_strided(values, dim, start + after, stop + after, plan.step) for after in (0, 1))
                torch.lerp(low, high, weight, out=target.narrow(dim, inner, outer - inner))
        return out

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient = _spread(gradients[0], ctx.dim, ctx.plan, ctx.cells)  # type: ignore[attr-defined]
        return gradient, None, None


def _spread(gradient: Tensor, dim: int, plan: PhasePlan, cells: int) -> Tensor:
    before, after = plan.pad
    shape = list(gradient.shape)
    shape[dim] = cells + before + after
    padded = gradient.new_zeros(shape)
    for phase, (first, weight) in enumerate(plan.taps):
        part = _strided(gradient, dim, phase, plan.count, plan.phases)
        points = part.shape[dim]
        _strided(padded, dim, first, first + (points - 1) * plan.step + 1, plan.step).add_(part, alpha=1 - weight)
        _strided(padded, dim, first + 1, first + (points - 1) * plan.step + 2, plan.step).add_(part, alpha=weight)
    result = padded.narrow(dim, before, cells)
    # What was repeated beyond the ends belongs to the end cells.
    if before:
        result.narrow(dim, 0, 1).add_(padded.narrow(dim, 0, before).sum(dim, keepdim=True))
    if after:
        result.narrow(dim, cells - 1, 1).add_(padded.narrow(dim, cells + before, after).sum(dim, keepdim=True))
    return result


def _strided(values: Tensor, dim: int, start: int, stop: int, step: int) -> Tensor:
    index = [slice(None)] * values.dim()
    index[dim] = slice(start, stop, step)
    return values[tuple(index)]
