"""The cast to the store's type, against numpy, struct arithmetic and hypothesis' choice of numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from storage.encoding import cast_numbers, decode, encode, quantise, stored_dtype

FLOATS = st.floats(-60000, 60000, width=32)
ROWS = arrays(np.float32, st.tuples(*[st.integers(1, 4)] * 3), elements=FLOATS)


@given(ROWS)
def test_half_precision_is_numpys(row):
    out = np.empty(row.shape, stored_dtype("float16"))
    assert encode("float16", row.ravel(), out.ravel())
    np.testing.assert_array_equal(out, row.astype(np.float16))


@given(ROWS)
def test_bfloat16_is_the_nearest_of_its_two_neighbours_ties_to_even(row):
    bits = np.empty(row.shape, stored_dtype("bfloat16"))
    assert encode("bfloat16", row.ravel(), bits.ravel())
    below = row.view(np.uint32) >> 16
    for value, got, low in zip(row.flat, bits.flat, below.flat, strict=True):
        neighbours = [int(low), int(low) + 1]
        distances = [abs(float(np.uint32(each << 16).view(np.float32)) - float(value)) for each in neighbours]
        nearest = [each for each, distance in zip(neighbours, distances, strict=True) if distance == min(distances)]
        assert got in nearest
        assert len(nearest) == 1 or got % 2 == 0
    np.testing.assert_array_equal(decode("bfloat16", bits).view(np.uint32) >> 16, bits)


@given(ROWS)
def test_a_byte_is_within_half_a_step(row):
    out, scale_offset = np.empty(row.shape, np.uint8), np.empty((2, 1, row.shape[2]), np.float32)
    assert quantise(row, out, scale_offset)
    step = (row.max((0, 1)).astype(np.float64) - row.min((0, 1))) / 255
    # Half a step, and what float32 itself cannot tell at this magnitude, or at all.
    allowed = step * 0.5001 + np.abs(row).max((0, 1)) * 2.0**-22 + np.finfo(np.float32).tiny
    assert np.all(np.abs(decode("uint8", out, scale_offset) - row) <= allowed)


def test_a_constant_channel_is_exact():
    row = np.full((3, 3, 2), [5.25, -1e-3], np.float32)
    out, scale_offset = np.empty(row.shape, np.uint8), np.empty((2, 1, 2), np.float32)
    assert quantise(row, out, scale_offset)
    np.testing.assert_array_equal(decode("uint8", out, scale_offset), row)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("given_as", [np.float16, np.float32, np.uint16])
def test_what_is_not_finite_is_refused(given_as, value):
    row = np.zeros((2, 2, 3), given_as)
    row[1, 0, 2] = np.float32(value).view(np.uint32) >> 16 if given_as == np.uint16 else value
    for dtype in ("float16", "float32", "bfloat16"):
        assert not encode(dtype, row.ravel(), np.empty(12, stored_dtype(dtype)))
    assert not quantise(row, np.empty(row.shape, np.uint8), np.empty((2, 1, 3), np.float32))


@pytest.mark.parametrize(("dtype", "value"), [("float16", 65520), ("float16", -65520), ("bfloat16", 3.3961776e38)])
def test_what_becomes_infinite_by_rounding_is_refused_and_what_does_not_is_kept(dtype, value):
    out = np.empty(1, stored_dtype(dtype))
    assert not encode(dtype, np.array([value], np.float32), out)
    assert encode(dtype, np.nextafter(np.array([value], np.float32), np.float32(0)), out)


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001])
def test_no_nan_is_rounded_into_a_number(bits):
    out = np.empty(1, np.uint16)
    cast_numbers(np.array([bits], np.uint32).view(np.float32), out)
    assert np.isnan(decode("bfloat16", out)[0])


def test_bits_of_infinity_are_refused_and_the_greatest_bfloat16_is_kept():
    out = np.empty(1, np.uint16)
    assert not encode("bfloat16", np.full(1, 0x7F80, np.uint16), out)
    assert encode("bfloat16", np.full(1, 3.3895314e38, np.float32), out)
    assert out[0] == 0x7F7F


def test_bytes_without_their_scale_are_refused():
    with pytest.raises(ValueError, match="scale_offset"):
        decode("uint8", np.zeros((1, 1, 1), np.uint8))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@given(bits=arrays(np.uint16, (2, 3, 4)))
def test_bits_of_half_precision_pass_as_they_are_if_all_of_them_are_finite(dtype, bits):
    row = bits.view(np.float16) if dtype == "float16" else bits
    values = row if dtype == "float16" else (bits.astype(np.uint32) << 16).view(np.float32)
    out = np.empty(bits.shape, stored_dtype(dtype))
    finite = encode(dtype, row.ravel(), out.ravel())
    assert finite == bool(np.isfinite(values).all())
    if finite:
        np.testing.assert_array_equal(out.view(np.uint16), bits)
