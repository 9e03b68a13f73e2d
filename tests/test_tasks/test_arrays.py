"""Arrays and tensors of the same numbers, and a cast that is the store's own."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from storage.encoding import cast_numbers as plain_cast
from tasks.arrays import as_array, as_tensor, cast_numbers

BITS = {np.float32: np.uint32, np.float16: np.uint16, np.uint16: np.uint16}


@pytest.mark.parametrize(("source", "target"), list(itertools.product(BITS, BITS)))
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
