"""The heads' linear layer against torch's: values, gradients, gradients of gradients, whichever library multiplies."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hypercolumns.heads import products


@pytest.fixture(params=["convolutions", "convolutions with gradients by matrices", "matrices"])
def gradients(request, monkeypatch):
    """Take each kind of product in turn, whatever is the fastest here."""
    monkeypatch.setattr(products, "_USES_CONVOLUTIONS", products._HAS_ONEDNN and request.param != "matrices")
    monkeypatch.setattr(products, "_MATRIX_GRADIENTS", request.param != "convolutions")


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def layer(shape, *, values=True, bias=True):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(*size, generator=generator) for size in ((*shape, 12), (5, 12), (5,))]
    made[0].requires_grad_(values)
    made[1].requires_grad_()
    return [*made[:2], made[2].requires_grad_() if bias else None]


@pytest.mark.parametrize("shape", [(7,), (32,), (2, 3, 8), (2, 0, 8)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("values", [False, True])
def test_the_linear_layer_and_its_gradients_are_torch_s(shape, bias, values, gradients, threads):
    found = []
    for linear in (products.linear, F.linear):
        arguments = layer(shape, values=values, bias=bias)
        result = linear(*arguments)
        (result**2).sum().backward()
        found.append([result.detach(), *(tensor.grad for tensor in arguments if tensor is not None)])
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_gradients_have_gradients(gradients):
    found = []
    for linear in (products.linear, F.linear):
        values, weight, bias = layer((32,))
        (slope,) = torch.autograd.grad((linear(values, weight, bias) ** 3).sum(), values, create_graph=True)
        found.append(torch.autograd.grad((slope**2).sum(), [values, weight, bias]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-1)


def test_under_autocast_the_product_is_of_its_type_and_gradients_of_the_weights(gradients):
    values, weight, bias = layer((32,))
    with torch.autocast("cpu", torch.bfloat16):
        result = products.linear(values, weight, bias)
    assert result.dtype == torch.bfloat16
    result.float().sum().backward()
    assert weight.grad.dtype == torch.float32
    torch.testing.assert_close(weight.grad, values.detach().sum(0).expand(5, -1), rtol=2e-2, atol=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_part_of_a_weight_s_gradient_is_added_to_it(dtype, gradients):
    outputs, inputs = (torch.randn(4, 8, channels).to(dtype) for channels in (5, 12))
    total = torch.ones(5, 12, dtype=dtype)
    products.add_weight_gradient(total, outputs, inputs)
    expected = 1 + torch.einsum("xyk,xyc->kc", outputs.float(), inputs.float())
    torch.testing.assert_close(total.float(), expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("images", [1, 2])
def test_a_product_is_added_to_what_is_there_and_written_over_it_where_no_gradient_goes_through(dtype, images):
    torch.manual_seed(0)
    total, values, weight = (torch.randn(*size).to(dtype) for size in ((2, 3, 4, 5), (images, 3, 4, 6), (5, 6)))
    expected = total.double() + values.double() @ weight.double().T
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.05}
    kept = total.clone()
    found = products.add_linear(total, values, weight.requires_grad_())
    torch.testing.assert_close(found.double(), expected, **tolerance)
    assert torch.equal(total, kept)
    found.sum().backward()
    torch.testing.assert_close(weight.grad.double(), values.double().sum((0, 1, 2)).expand(5, 6) * (2 // images), **tolerance)
    for lying in (total, total.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)):
        with torch.inference_mode():
            found = products.add_linear(lying.clone(), values, weight)
        torch.testing.assert_close(found.double(), expected, **tolerance)


@pytest.mark.parametrize("points", [(1,), (16, 16), (3, 5), (2, 16, 16), (47, 224)])
@pytest.mark.parametrize("sizes", [(1, 1), (16, 16), (64, 21), (5, 16)])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_product_lies_in_one_piece_however_few_its_points_are(points, sizes, threads):
    values, weight = torch.randn(*points, sizes[0]), torch.randn(sizes[1], sizes[0])
    torch.set_num_threads(threads)
    try:
        found = products.linear(values, weight)
    finally:
        torch.set_num_threads(1)
    assert found.stride() == torch.empty(*points, sizes[1]).stride()
    torch.testing.assert_close(found, F.linear(values, weight), rtol=1e-4, atol=1e-4)
