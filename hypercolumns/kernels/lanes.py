"""Sixteen float32 numbers at a time: what a processor adds and multiplies at once, in registers.

A compiler that meets a loop over several arrays has to ask each time whether they overlap, and keeps sums in memory while it
cannot know. Kernels say themselves what is kept in registers: `Lanes` are a type of their own there. On processors with
narrower registers the compiler cuts them up.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

__all__ = [
    "FLOAT_LANES",
    "LANES",
    "add_product",
    "declared",
    "first_equal",
    "first_not_a_number",
    "keep_first",
    "keep_where_positive",
    "largest",
    "load",
    "load_some",
    "positive",
    "splat",
    "spread",
    "store",
    "store_some",
]

LANES = 16
FLOAT_LANES = ir.VectorType(ir.FloatType(), LANES)
_INTEGERS = ir.VectorType(ir.IntType(32), LANES)
_SHORTS = ir.VectorType(ir.IntType(16), LANES)
_OCTETS = ir.VectorType(ir.IntType(8), LANES)
_HALVES = ir.VectorType(ir.HalfType(), LANES)
_TRUTHS = ir.VectorType(ir.IntType(1), LANES)


class Lanes(types.Type):
    """Numba's name for the sixteen."""

    def __init__(self) -> None:
        super().__init__("Lanes")


_LANES = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOAT_LANES)


@intrinsic
def load(context: Any, array: Any, place: Any) -> Any:
    """Read sixteen numbers of an array, from a place on, as float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        value = builder.load(_place(context, builder, kind, arguments[0], arguments[1]), align=_bytes(kind))
        return _to_floats(builder, kind, value)

    return _LANES(array, types.int64), generate


@intrinsic
def load_some(context: Any, array: Any, place: Any, count: Any) -> Any:
    """Read at most sixteen; the others are zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        pointer = _place(context, builder, kind, arguments[0], arguments[1])
        vector = pointer.type.pointee
        function = declared(
            builder, f"llvm.masked.load.{_name(kind)}.p0", vector, [pointer.type, ir.IntType(32), _TRUTHS, vector]
        )
        zero = ir.Constant(vector, [0] * LANES)
        value = builder.call(function, [pointer, ir.IntType(32)(_bytes(kind)), _first(builder, arguments[2]), zero])
        return _to_floats(builder, kind, value)

    return _LANES(array, types.int64, types.int64), generate


@intrinsic
def store(context: Any, array: Any, place: Any, lanes: Any) -> Any:
    """Write sixteen numbers, as the array keeps them: rounded to the nearest, ties to even."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        pointer = _place(context, builder, kind, arguments[0], arguments[1])
        builder.store(_from_floats(builder, kind, arguments[2]), pointer, align=_bytes(kind))
        return context.get_dummy_value()

    return types.void(array, types.int64, _LANES), generate


@intrinsic
def store_some(context: Any, array: Any, place: Any, lanes: Any, count: Any) -> Any:
    """Write the first so many of the sixteen."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        pointer = _place(context, builder, kind, arguments[0], arguments[1])
        vector = pointer.type.pointee
        kinds = [vector, pointer.type, ir.IntType(32), _TRUTHS]
        function = declared(builder, f"llvm.masked.store.{_name(kind)}.p0", ir.VoidType(), kinds)
        value = _from_floats(builder, kind, arguments[2])
        builder.call(function, [value, pointer, ir.IntType(32)(_bytes(kind)), _first(builder, arguments[3])])
        return context.get_dummy_value()

    return types.void(array, types.int64, _LANES, types.int64), generate


@intrinsic
def spread(context: Any, number: Any) -> Any:
    """Return a number sixteen times."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return splat(builder, arguments[0], FLOAT_LANES)

    return _LANES(types.float32), generate


@intrinsic
def add_product(context: Any, total: Any, one: Any, other: Any) -> Any:
    """Return total + one · other, rounded once where the processor can."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total, one, other = arguments
        function = declared(builder, f"llvm.fmuladd.v{LANES}f32", FLOAT_LANES, [FLOAT_LANES, FLOAT_LANES, FLOAT_LANES])
        return builder.call(function, [one, other, total])

    return _LANES(_LANES, _LANES, _LANES), generate


@intrinsic
def positive(context: Any, lanes: Any) -> Any:
    """Replace what is below zero by zero; what is not a number stays so."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zero = ir.Constant(FLOAT_LANES, [0.0] * LANES)
        return builder.select(builder.fcmp_ordered("<", arguments[0], zero), zero, arguments[0])

    return _LANES(_LANES), generate


@intrinsic
def keep_where_positive(context: Any, lanes: Any, condition: Any) -> Any:
    """Replace by zero what has no number above zero in its place of another sixteen."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zero = ir.Constant(FLOAT_LANES, [0.0] * LANES)
        return builder.select(builder.fcmp_ordered(">", arguments[1], zero), arguments[0], zero)

    return _LANES(_LANES, _LANES), generate


@intrinsic
def keep_first(context: Any, lanes: Any, count: Any, other: Any) -> Any:
    """Replace all but the first so many by another number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes, count, other = arguments
        return builder.select(_first(builder, count), lanes, splat(builder, other, FLOAT_LANES))

    return _LANES(_LANES, types.int64, types.float32), generate


@intrinsic
def largest(context: Any, lanes: Any) -> Any:
    """Return the largest of sixteen numbers, all of which are numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = declared(builder, f"llvm.vector.reduce.fmax.v{LANES}f32", ir.FloatType(), [FLOAT_LANES])
        return builder.call(function, arguments, fastmath=["nnan"])

    return types.float32(_LANES), generate


@intrinsic
def first_equal(context: Any, lanes: Any, number: Any) -> Any:
    """Return the place of the first that equals a number; sixteen where none does."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _first_true(builder, builder.fcmp_ordered("==", arguments[0], splat(builder, arguments[1], FLOAT_LANES)))

    return types.int64(_LANES, types.float32), generate


@intrinsic
def first_not_a_number(context: Any, lanes: Any) -> Any:
    """Return the place of the first that is not a number; sixteen where all are."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _first_true(builder, builder.fcmp_unordered("uno", arguments[0], arguments[0]))

    return types.int64(_LANES), generate


def _place(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    vector = {types.float32: FLOAT_LANES, types.uint8: _OCTETS}.get(kind.dtype, _SHORTS)
    return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())


def _bytes(kind: Any) -> int:
    return int(kind.dtype.bitwidth) // 8


def _name(kind: Any) -> str:
    return f"v{LANES}f32" if kind.dtype == types.float32 else f"v{LANES}i{kind.dtype.bitwidth}"


def _to_floats(builder: Any, kind: Any, value: Any) -> Any:
    if kind.dtype == types.float32:
        return value
    if kind.dtype == types.uint8:
        return builder.uitofp(value, FLOAT_LANES)
    if kind.dtype == types.int16:
        return builder.fpext(builder.bitcast(value, _HALVES), FLOAT_LANES)
    return builder.bitcast(builder.shl(builder.zext(value, _INTEGERS), _all(16)), FLOAT_LANES)


def _from_floats(builder: Any, kind: Any, value: Any) -> Any:
    if kind.dtype == types.float32:
        return value
    if kind.dtype == types.int16:
        return builder.bitcast(builder.fptrunc(value, _HALVES), _SHORTS)
    bits = builder.bitcast(value, _INTEGERS)
    odd = builder.and_(builder.lshr(bits, _all(16)), _all(1))
    rounded = builder.lshr(builder.add(builder.add(bits, _all(0x7FFF)), odd), _all(16))
    # Rounding up would make an infinity, or nothing at all, of what is not a number.
    rounded = builder.select(builder.fcmp_unordered("uno", value, value), _all(0x7FC0), rounded)
    return builder.trunc(rounded, _SHORTS)


def _all(number: int) -> Any:
    return ir.Constant(_INTEGERS, [number] * LANES)


def splat(builder: Any, value: Any, kind: Any) -> Any:
    """Return a vector of one value; in generated code, as `declared`."""
    lane = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(lane, ir.Constant(kind, ir.Undefined), ir.Constant(_INTEGERS, [0] * LANES))


def _first(builder: Any, count: Any) -> Any:
    """Return which lanes are the first so many."""
    numbers = ir.Constant(_INTEGERS, list(range(LANES)))
    return builder.icmp_signed("<", numbers, splat(builder, builder.trunc(count, ir.IntType(32)), _INTEGERS))


def _first_true(builder: Any, truths: Any) -> Any:
    """Return the place of the first that is true; sixteen where none is."""
    bits = builder.zext(builder.bitcast(truths, ir.IntType(LANES)), ir.IntType(64))
    # A bit behind the last: some processors do not count the zeros of nothing.
    return builder.cttz(builder.or_(bits, ir.IntType(64)(1 << LANES)), ir.IntType(1)(1))


def declared(builder: Any, name: str, result: Any, arguments: Any) -> Any:
    """Return one of the compiler's own functions."""
    kind = ir.FunctionType(result, arguments)
    return builder.module.declare_intrinsic(name, (), kind)
