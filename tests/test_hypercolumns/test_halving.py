"""bfloat16 and float16 made of each other, to the bit as by way of float32, whatever the number of threads."""

import pytest
import torch

from hypercolumns.heads.products import join_as
from hypercolumns.kernels import halving
from hypercolumns.kernels.halving import convert_halves

BF, HALF = torch.bfloat16, torch.float16


def bits(values):
    return values.contiguous().view(torch.int16)


def all_numbers(dtype):
    """Every number of a type, those that are none set to one that both types keep alike."""
    values = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    return torch.where(values.isnan(), torch.full_like(values, -1.5), values)


@pytest.mark.parametrize(("dtype", "other"), [(BF, HALF), (HALF, BF)])
def test_every_number_is_rounded_as_by_way_of_float32(dtype, other):
    values = all_numbers(dtype)
    found = torch.empty(len(values), dtype=other)
    convert_halves(values, found)
    assert torch.equal(bits(found), bits(values.float().to(other)))
    assert found.isinf().any() == (dtype == BF or values.isinf().any())


@pytest.mark.parametrize(("dtype", "other"), [(BF, HALF), (HALF, BF)])
def test_what_is_not_a_number_stays_none(dtype, other):
    values = torch.full((37,), float("nan"), dtype=dtype)
    found = torch.zeros(37, dtype=other)
    convert_halves(values, found)
    assert found.isnan().all()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("shape", [(1,), (15,), (16,), (0, 3), (3, 0), (2, 3, 4, 33), (1, 7, 1, 64), (5, 1, 1, 1)])
def test_rows_may_lie_apart(monkeypatch, shape, threads):
    monkeypatch.setattr(halving, "_NUMBERS_A_THREAD", 1)
    values = torch.randn(shape).to(HALF)
    wide = torch.full((*shape[:-1], shape[-1] + 5), 7.0, dtype=BF)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        convert_halves(values, wide[..., 2 : 2 + shape[-1]])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(wide[..., 2 : 2 + shape[-1]], values.to(BF))
    # What lies beside is left alone.
    assert (wide[..., :2] == 7).all()
    assert (wide[..., 2 + shape[-1] :] == 7).all()


def test_what_does_not_fit_is_refused_before_it_is_read():
    values = torch.zeros(2, 3, 4, dtype=HALF)
    wrong = [
        (values, torch.zeros(2, 3, 4, dtype=HALF)),
        (values, torch.zeros(2, 3, 4)),
        (values, torch.zeros(2, 3, 5, dtype=BF)),
        (values[..., :2], torch.zeros(2, 3, 2, dtype=BF)),
        (values, torch.zeros(2, 3, 8, dtype=BF)[..., ::2]),
        (values, torch.zeros(3, 2, 4, dtype=BF).transpose(0, 1)),
        (values, torch.zeros(1, 1, 4, dtype=BF).expand(2, 3, 4)),
        (values[0, 0, 0], torch.zeros((), dtype=BF)),
        (values, torch.zeros(2, 3, 4, dtype=BF, device="meta")),
    ]
    for source, out in wrong:
        with pytest.raises(ValueError, match="expected bfloat16 and float16 of one shape"):
            convert_halves(source, out)


def test_joined_maps_are_those_that_torch_makes():
    parts = [torch.randn(2, 3, 5, channels).to(HALF) for channels in (7, 16, 33)]
    expected = torch.cat(parts, dim=-1).float().to(BF)
    apart = [list(part) for part in parts]
    for maps in (parts, apart, [parts[0].transpose(1, 2).contiguous().transpose(1, 2), *parts[1:]]):
        assert torch.equal(bits(join_as(maps, BF)), bits(expected))
    assert torch.equal(bits(join_as(parts[:1], BF)), bits(parts[0].float().to(BF)))
    wanted = parts[0].clone().requires_grad_()
    join_as([wanted], BF).sum().backward()
    assert torch.equal(wanted.grad, torch.ones_like(parts[0]))
