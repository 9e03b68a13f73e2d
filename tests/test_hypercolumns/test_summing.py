"""Sums over the cells of a map, against double precision."""

import numpy as np
import pytest
import torch

from hypercolumns.kernels.summing import sum_cells


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("channels", [1, 15, 16, 31, 32, 33, 64, 80, 103])
@pytest.mark.parametrize("cells", [1, 31, 32, 33, 100])
def test_sums_are_those_of_double_precision(dtype, channels, cells):
    random = np.random.default_rng(channels)
    values = torch.from_numpy(random.normal(3, 2, (cells, channels)).astype(np.float32)).to(getattr(torch, dtype))
    shift = random.normal(3, 1, channels).astype(np.float32)
    kept = values.view(torch.int16).numpy().view(np.uint16) if dtype == "bfloat16" else values.numpy()
    total, squares = sum_cells(kept, shift)
    centred = values.double().numpy() - shift
    np.testing.assert_allclose(total, centred.sum(0), rtol=1e-6, atol=1e-5 * np.abs(centred).sum(0).max())
    np.testing.assert_allclose(squares, np.square(centred).sum(0), rtol=1e-5)


def test_what_does_not_fit_is_refused_before_it_is_read():
    values, shift = np.zeros((4, 3), np.float32), np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="expected one of"):
        sum_cells(values.astype(np.float64), shift)
    with pytest.raises(ValueError, match="in one piece, got"):
        sum_cells(values[:, ::2], shift[::2])
    with pytest.raises(ValueError, match="got none"):
        sum_cells(values[:, :0], shift[:0])
    with pytest.raises(ValueError, match=r"shift of float32 \(3,\)"):
        sum_cells(values, shift[:2])
