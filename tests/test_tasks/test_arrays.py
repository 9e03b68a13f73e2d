"""Arrays and tensors of the same numbers, and conversions that are the store's own."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from storage.encoding import cast_numbers as plain_cast
from tasks.arrays import as_array, as_tensor, cast_numbers, dequantise

BITS = {np.float32: np.uint32, np.float16: np.uint16, np.uint16: np.uint16}


@pytest.mark.parametrize(("source", "target"), list(itertools.product(BITS, BITS)))
@settings(deadline=None)  # The first call compiles a kernel.
@given(data=st.data())
def test_the_cast_gives_the_bits_of_the_stores_own(source, target, data):
    bits = data.draw(arrays(BITS[source], st.integers(0, 40)))
    ours, plain = np.empty(len(bits), target), np.empty(len(bits), target)
    cast_numbers(bits.view(source), ours)
    plain_cast(bits.view(source), plain)
    values, expected = as_tensor(ours).float(), as_tensor(plain).float()
    assert torch.equal(values.isnan(), expected.isnan())
    np.testing.assert_array_equal(
        ours.view(BITS[target])[~values.isnan().numpy()], plain.view(BITS[target])[~values.isnan().numpy()]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_tensor_comes_back_from_its_array_and_shares_its_memory(dtype):
    values = torch.linspace(-3, 3, 12).to(dtype).view(3, 4)
    array = as_array(values)
    assert array.dtype == (np.uint16 if dtype == torch.bfloat16 else np.dtype(str(dtype).removeprefix("torch.")))
    assert torch.equal(as_tensor(array), values)
    values[0, 0] = 7
    assert as_tensor(array)[0, 0] == 7


@pytest.mark.parametrize("shape", [(1, 5, 7, 3), (2, 1, 1, 40), (3, 6, 4, 2), (1, 0, 4, 2)])
def test_bytes_stand_for_what_the_store_says_however_many_they_are(shape):
    random = np.random.default_rng(0)
    stored = random.integers(0, 256, shape, np.uint8)
    # As mapped files are.
    stored.setflags(write=False)
    scale_offset = random.normal(size=(2, shape[0], 1, 1, shape[3])).astype(np.float32)
    found = dequantise(stored, scale_offset)
    expected = stored.astype(np.float64) * scale_offset[0] + scale_offset[1]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max(initial=0)))
