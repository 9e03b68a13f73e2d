"""Products of matrices in registers, a few rows and up to 64 columns at a time, for kernels that go on with what they made.

A library's product is faster by a tenth, but it writes all that it made to memory before the next step can read it, and each
one is begun and ended by all threads together. The second factor is cut into panels of 16, 32 or 64 columns, each in one piece
of memory (`packed`), so that a panel stays in the cache while rows pass by.

Source: Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS 34(3), 2008, sec. 4.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import numba
import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from hypercolumns.kernels.compiling import callee
from hypercolumns.kernels.lanes import FLOAT_LANES, LANES, declared, splat
from hypercolumns.kernels.numbers import NUMBERS, array_at

__all__ = ["BLOCK", "PANEL", "TILE", "add_outer", "add_rows", "group_of", "packed", "panel_width", "sum_rows", "write_rows"]

PANEL = 4 * LANES
"""Most columns of a panel."""

TILE = 48
"""Points at a time: 12 KB of a panel, and a multiple of every number of rows below."""

BLOCK = 4
"""Rows of a sum of outer products are a multiple of this."""

_INTEGER, _POINTER = ir.IntType(64), ir.FloatType().as_pointer()


def panel_width(columns: int) -> int:
    """Return the columns of a panel: the least of 16, 32 and 64 that holds all of them, if one does."""
    return next((width for width in (LANES, 2 * LANES) if columns <= width), PANEL)


def packed(weight: Float[Tensor, "k c"], depth: int | None = None) -> Float[Tensor, "panels depth width"]:
    """Cut the weights of a linear layer into panels of its outputs; what is missing of them is zero.

    Args:
        weight: Of a linear layer of c inputs and k outputs.
        depth: Inputs that a panel has; by default c.
    """
    outputs, inputs = weight.shape
    width = panel_width(outputs)
    panels = -(-outputs // width)
    whole = F.pad(weight.t(), (0, panels * width - outputs, 0, (depth or inputs) - inputs))
    return whole.reshape(len(whole), panels, width).transpose(0, 1).contiguous()


class _Sums:
    """Code that is being made: sums in registers, of so many rows of so many sixteens each."""

    def __init__(self, builder: Any, rows: int, vectors: int, values: list[Any]) -> None:
        self._builder, self._vectors = builder, vectors
        self._rows = [_INTEGER(row) for row in range(rows)]
        self._values = values

    def add_product(self, a: Any, a_row: Any, a_step: Any, depth: Any, column: Callable[[Any], Any]) -> None:
        """Add products, one for each of `depth` steps.

        Args:
            a: Address of the first factor.
            a_row: Numbers from one of its rows to the next.
            a_step: From one step to the next.
            depth: How many steps.
            column: Given the number of a step, makes the code of where the row of the second factor begins.
        """
        builder = self._builder
        left, offsets = builder.inttoptr(a, _POINTER), [builder.mul(a_row, row) for row in self._rows]
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.cbranch(builder.icmp_signed(">", depth, _INTEGER(0)), loop, after)
        builder.position_at_end(loop)
        step, place = builder.phi(_INTEGER), builder.phi(_POINTER)
        totals = [builder.phi(FLOAT_LANES) for _ in self._values]
        columns = [builder.load(vector, align=4) for vector in _vectors(builder, column(step), self._vectors)]
        grown = []
        for row, offset in enumerate(offsets):
            factor = splat(builder, builder.load(builder.gep(place, [offset])), FLOAT_LANES)
            for value, total in zip(columns, totals[row * self._vectors :], strict=False):
                grown.append(_fused(builder, factor, value, total))
        done = builder.add(step, _INTEGER(1))
        firsts, nexts = [_INTEGER(0), left, *self._values], [done, builder.gep(place, [a_step]), *grown]
        for phi, first, following in zip([step, place, *totals], firsts, nexts, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", done, depth), loop, after)
        builder.position_at_end(after)
        results = [builder.phi(FLOAT_LANES) for _ in self._values]
        for phi, first, following in zip(results, self._values, grown, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(following, loop)
        self._values = results

    def add(self, places: list[Any]) -> None:
        """Add what lies in memory."""
        there = [self._builder.load(place, align=4) for place in places]
        self._values = [self._builder.fadd(value, other) for value, other in zip(self._values, there, strict=True)]

    def store(self, places: list[Any], floor: Any) -> None:
        """Write the sums, raised to a floor."""
        least = splat(self._builder, floor, FLOAT_LANES)
        for value, place in zip(self._values, places, strict=True):
            below = self._builder.fcmp_ordered("<", value, least)
            self._builder.store(self._builder.select(below, least, value), place, align=4)


def _multiplying(rows: int, vectors: int, *, anew: bool = False) -> Any:
    """Return what multiplies so many rows by so many sixteens of columns, with all sums in registers.

    Its arguments are addresses of float32 numbers, each with how many numbers lie between two rows of the result, between two
    rows of the first factor and two of its columns, and between two rows of the second; and what the sums are raised to.

    Args:
        rows: Of the result.
        vectors: Sixteens in each.
        anew: Forget what is there, instead of adding to it.
    """

    @intrinsic
    def multiply(
        context: Any, c: Any, c_row: Any, a: Any, a_row: Any, a_step: Any, b: Any, b_step: Any, depth: Any, floor: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            c, c_row, a, a_row, a_step, b, b_step, depth, floor = arguments
            places = _row_vectors(builder, c, c_row, rows, vectors)
            none = ir.Constant(FLOAT_LANES, [0.0] * LANES)
            sums = _Sums(builder, rows, vectors, [none] * len(places))
            sums.add_product(a, a_row, a_step, depth, lambda step: _at(builder, b, builder.mul(step, b_step)))
            if not anew:
                # Afterwards: a sum of few added to the sum of many loses less than adding one by one.
                sums.add(places)
            sums.store(places, floor)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8, types.float32), generate

    return multiply


def _summing(rows: int, vectors: int) -> Any:
    """Return what sums up, for so many points, a bias, cells of maps by their weights, and a product.

    Its arguments are addresses: of the sums, of the bias, of the numbers of the cells, of their weights (cells, rows); how many
    cells there are, and where they lie; the points' values, how many numbers lie between two points, the second factor, whose
    rows lie one after the other as those of the sums, and its rows; and what the sums are raised to.
    """

    @intrinsic
    def sum_up(
        context: Any,
        c: Any,
        bias: Any,
        index: Any,
        shares: Any,
        taps: Any,
        cells: Any,
        a: Any,
        a_row: Any,
        b: Any,
        depth: Any,
        floor: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            c, bias, index, shares, taps, cells, a, a_row, b, depth, floor = arguments
            width, one = _INTEGER(LANES * vectors), _INTEGER(1)
            places = _row_vectors(builder, c, width, rows, vectors)
            begin = [builder.load(place, align=4) for place in _vectors(builder, _at(builder, bias, _INTEGER(0)), vectors)]
            sums = _Sums(builder, rows, vectors, begin * rows)
            numbers = builder.inttoptr(index, _INTEGER.as_pointer())

            def cell(step: Any) -> Any:
                return _at(builder, cells, builder.mul(builder.load(builder.gep(numbers, [step])), width))

            sums.add_product(shares, one, _INTEGER(rows), taps, cell)
            sums.add_product(a, a_row, one, depth, lambda step: _at(builder, b, builder.mul(step, width)))
            sums.store(places, floor)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10, types.float32), generate

    return sum_up


def _at(builder: Any, address: Any, place: Any) -> Any:
    return builder.gep(builder.inttoptr(address, _POINTER), [place])


def _vectors(builder: Any, pointer: Any, count: int) -> list[Any]:
    """Return pointers to so many sixteens that lie one after the other."""
    places = [builder.gep(pointer, [_INTEGER(LANES * number)]) for number in range(count)]
    return [builder.bitcast(place, FLOAT_LANES.as_pointer()) for place in places]


def _row_vectors(builder: Any, address: Any, step: Any, rows: int, count: int) -> list[Any]:
    """Return pointers to the sixteens of so many rows."""
    starts = [_at(builder, address, builder.mul(step, _INTEGER(row))) for row in range(rows)]
    return list(chain(*(_vectors(builder, start, count) for start in starts)))


def _fused(builder: Any, one: Any, other: Any, total: Any) -> Any:
    function = declared(builder, f"llvm.fmuladd.v{LANES}f32", FLOAT_LANES, [FLOAT_LANES] * 3)
    return builder.call(function, [one, other, total])


# More rows where a panel is narrow. Twelve rows of two are as many sums as six of four, and yet the compiler reads factors so
# far ahead that sums go to memory: half the rate.
_six_by_four, _eight_by_two, _twelve_by_one = _multiplying(6, 4), _multiplying(8, 2), _multiplying(12, 1)
_new_six_by_four, _new_eight_by_two, _new_twelve_by_one = (
    _multiplying(6, 4, anew=True),
    _multiplying(8, 2, anew=True),
    _multiplying(12, 1, anew=True),
)
_sum_six_by_four, _sum_eight_by_two, _sum_twelve_by_one = _summing(6, 4), _summing(8, 2), _summing(12, 1)
_four_by_four, _four_by_two, _four_by_one = _multiplying(4, 4), _multiplying(4, 2), _multiplying(4, 1)


@numba.njit(inline="always")
def group_of(width: int) -> int:
    """Return how many points go through a panel of so many columns together."""
    if width == 4 * LANES:
        return 6
    return 8 if width == 2 * LANES else 12


_ANY = np.float32(-np.inf)
"""What no sum is raised to."""


@callee
def add_rows(c: int, c_row: int, rows: int, a: int, a_row: int, b: int, b_step: int, depth: int, width: int) -> None:
    """Add to rows of a panel their product, c += a · b.

    Args:
        c: Address of the sums. Rows up to the next multiple of `group_of` are written too, with what is worth nothing.
        c_row: Numbers from one of its rows to the next.
        rows: How many.
        a: Address of the first factor; as many rows are read.
        a_row: Numbers from one of its rows to the next.
        b: Address of the second factor.
        b_step: Numbers from one of its rows to the next.
        depth: Columns of a, rows of b.
        width: Columns of b: 16, 32 or 64.
    """
    group = group_of(width)
    for row in range(0, rows, group):
        there, left = c + 4 * row * c_row, a + 4 * row * a_row
        if width == 4 * LANES:
            _six_by_four(there, c_row, left, a_row, 1, b, b_step, depth, _ANY)
        elif width == 2 * LANES:
            _eight_by_two(there, c_row, left, a_row, 1, b, b_step, depth, _ANY)
        else:
            _twelve_by_one(there, c_row, left, a_row, 1, b, b_step, depth, _ANY)


@callee
def sum_rows(
    c: int,
    rows: int,
    bias: int,
    begins: int,
    index: int,
    shares: int,
    cells: int,
    a: int,
    a_row: int,
    b: int,
    depth: int,
    width: int,
    is_positive: int,
) -> None:
    """Write for some points the sum of a bias, of cells of maps, and of a product, or zero where that is less.

    Args:
        c: Address of the sums, `width` numbers a point. Points up to the next multiple of `group_of` are written too.
        rows: How many points.
        bias: Address of the panel's.
        begins: Address of where the cells that each group of points reads (`group_of` of them) begin in what follows, for the
            first group and all later.
        index: Address of the cells' numbers.
        shares: Address of the weights that each point of the group reads each cell with.
        cells: Address of the cells, `width` numbers each.
        a: Address of the points' values.
        a_row: Numbers from one point to the next.
        b: Address of the panel's weights, `depth` rows of them.
        depth: Values of a point.
        width: Of the panel: 16, 32 or 64.
        is_positive: 1 for a ReLU, 0 for none.
    """
    group, floor = group_of(width), np.float32(0) if is_positive else _ANY
    places = array_at(begins, ((rows + group - 1) // group + 1,), NUMBERS)
    for row in range(0, rows, group):
        first, count = places[row // group], places[row // group + 1] - places[row // group]
        there, left, which, weights = c + 4 * row * width, a + 4 * row * a_row, index + 8 * first, shares + 4 * first * group
        if width == 4 * LANES:
            _sum_six_by_four(there, bias, which, weights, count, cells, left, a_row, b, depth, floor)
        elif width == 2 * LANES:
            _sum_eight_by_two(there, bias, which, weights, count, cells, left, a_row, b, depth, floor)
        else:
            _sum_twelve_by_one(there, bias, which, weights, count, cells, left, a_row, b, depth, floor)


@callee
def write_rows(c: int, c_row: int, rows: int, a: int, a_row: int, b: int, b_step: int, depth: int, width: int) -> None:
    """Write a product, c = a · b, as `add_rows` adds it."""
    group = group_of(width)
    for row in range(0, rows, group):
        there, left = c + 4 * row * c_row, a + 4 * row * a_row
        if width == 4 * LANES:
            _new_six_by_four(there, c_row, left, a_row, 1, b, b_step, depth, _ANY)
        elif width == 2 * LANES:
            _new_eight_by_two(there, c_row, left, a_row, 1, b, b_step, depth, _ANY)
        else:
            _new_twelve_by_one(there, c_row, left, a_row, 1, b, b_step, depth, _ANY)


@callee
def add_outer(c: int, c_row: int, rows: int, a: int, a_step: int, b: int, b_step: int, depth: int, width: int) -> None:
    """Add to rows of a panel the outer products of some points: c += aᵀ · b.

    Args:
        c: Address of the sums.
        c_row: Numbers from one of its rows to the next.
        rows: How many: a multiple of `BLOCK`.
        a: Address of the points' numbers that belong to the rows.
        a_step: Numbers from one point to the next.
        b: Address of the points' numbers in the panel.
        b_step: Numbers from one point to the next.
        depth: Points.
        width: Of the panel: 16, 32 or 64.
    """
    for row in range(0, rows, BLOCK):
        there, ours = c + 4 * row * c_row, a + 4 * row
        if width == 4 * LANES:
            _four_by_four(there, c_row, ours, 1, a_step, b, b_step, depth, _ANY)
        elif width == 2 * LANES:
            _four_by_two(there, c_row, ours, 1, a_step, b, b_step, depth, _ANY)
        else:
            _four_by_one(there, c_row, ours, 1, a_step, b, b_step, depth, _ANY)
