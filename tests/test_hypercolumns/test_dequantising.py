"""Bytes and what they stand for, against double precision, whatever the number of threads."""

import numpy as np
import pytest
import torch

from hypercolumns.kernels import dequantising
from hypercolumns.kernels.dequantising import scale_bytes


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (3, 2, 3, 15), (1, 5, 1, 16), (2, 3, 4, 33), (5, 1, 1, 64), (0, 2, 2, 3), (2, 0, 2, 3)]
)
def test_every_image_and_channel_has_its_own_scale(monkeypatch, shape, threads):
    monkeypatch.setattr(dequantising, "_NUMBERS_A_THREAD", 1)
    random = np.random.default_rng(1)
    octets = random.integers(0, 256, shape, np.uint8)
    scale, offset = random.normal(size=(2, shape[0], shape[3])).astype(np.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = scale_bytes(octets, scale, offset)
    finally:
        torch.set_num_threads(before)
    expected = octets.astype(np.float64) * scale[:, None, None] + offset[:, None, None]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6 * max(1.0, np.abs(expected).max(initial=0)))


def test_what_does_not_fit_is_refused_before_it_is_read():
    octets, scale = np.zeros((2, 3, 4, 5), np.uint8), np.zeros((2, 5), np.float32)
    for wrong in (octets[0], octets.astype(np.int8), octets[:, ::2]):
        with pytest.raises(ValueError, match=r"expected bytes \(B, h, w, C\) in one piece"):
            scale_bytes(wrong, scale, scale)
    with pytest.raises(ValueError, match=r"scale: expected float32 \(2, 5\)"):
        scale_bytes(octets, scale.astype(np.float64), scale)
    with pytest.raises(ValueError, match=r"offset: expected float32 \(2, 5\)"):
        scale_bytes(octets, scale, scale[:1])
    with pytest.raises(ValueError, match=r"offset: expected float32 .* strides"):
        scale_bytes(octets, scale, np.zeros((2, 10), np.float32)[:, ::2])
