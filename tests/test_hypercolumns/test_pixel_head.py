"""The classifier's forms against one another and against the plain definition in double precision."""

from __future__ import annotations

import pytest
import torch

from hypercolumns.columns import Frame
from hypercolumns.errors import GeometryError
from hypercolumns.heads import PixelConv, PixelMLP, convert
from hypercolumns.heads.context import PooledContext
from hypercolumns.specs import HeadSpec
from tests.core_factory import MemorySource, grid_points, make_layer, relative_difference, torch_stack

CANVAS = (32, 48)
TOLERANCE = 1e-5
# Two neighbours that share a map, one larger than any grid, one of a single cell, and one of an odd size.
LAYERS = (
    make_layer("full", 3, (32, 48), (1.0, 1.0), (0.5, 0.5)),
    make_layer("quarter", 4, (8, 12), (4.0, 4.0), (2.0, 2.0)),
    make_layer("quarter, deeper", 5, (8, 12), (4.0, 4.0), (2.0, 2.0)),
    make_layer("odd", 6, (3, 5), (9.0, 9.0), (4.5, 6.0)),
    make_layer("fc", 7, (1, 1)),
)


@pytest.fixture(autouse=True, params=["at once", "products", "products, remembered", "tiles", "tiles, remembered"])
def _every_way(request, monkeypatch):
    """Whatever is true of the classifier is true however many rows it takes at a time, here seven, and whoever multiplies."""
    if request.param == "at once":
        monkeypatch.setattr(PixelConv, "_fits_strips", lambda self, maps: False)
        return
    monkeypatch.setattr("hypercolumns.heads.strip_work.STRIP_BYTES", 0)
    monkeypatch.setattr("hypercolumns.heads.strip_products.LOGITS_BYTES", 0)
    monkeypatch.setattr("hypercolumns.heads.strip_work.FEWEST_ROWS", 7)
    monkeypatch.setattr("hypercolumns.heads.strip_tiles.WIDE_REGISTERS", request.param.startswith("tiles"))
    if "remembered" not in request.param:
        monkeypatch.setattr("hypercolumns.heads.strips.REMEMBERED_BYTES", 0)


def make_mlp(alignment="resize", layers=LAYERS, **options) -> PixelMLP:
    torch.manual_seed(1)
    mlp = PixelMLP(layers, 4, HeadSpec(alignment=alignment, **options), Frame(CANVAS, alignment)).eval()
    mlp.set_statistics(torch.randn(mlp.columns), torch.rand(mlp.columns) + 0.3)
    mlp.logit_offset.copy_(torch.randn(4))
    return mlp


def plain_logits(mlp: PixelMLP, columns: torch.Tensor) -> torch.Tensor:
    """The definition, in double precision and spelled out."""
    state = {name: value.double() for name, value in mlp.state_dict().items()}
    hidden = (columns.double() - state["mean"]) / state["std"] @ state["first.weight"].T + state["first.bias"]
    if "second.weight" in state:
        hidden = hidden.clamp(min=0) @ state["second.weight"].T + state["second.bias"]
    return hidden + state["logit_offset"]


def columns_at(source: MemorySource, mlp: PixelMLP, stride: int) -> torch.Tensor:
    points = torch.from_numpy(grid_points(CANVAS, stride)).float()
    return mlp.with_coordinates(source.gather((0, "identity"), points, mlp.frame), points)


def flat(logits: torch.Tensor) -> torch.Tensor:
    return logits.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.mark.parametrize("alignment", ["resize", "receptive_field", "corners"])
@pytest.mark.parametrize("hidden", [0, 8])
@pytest.mark.parametrize("coordinates", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 4, 16])
def test_all_forms_give_the_same_logits_at_every_stride(alignment, hidden, coordinates, stride):
    mlp = make_mlp(alignment, hidden=hidden, coordinates=coordinates, output_stride=stride)
    source = MemorySource(LAYERS, CANVAS)
    columns = columns_at(source, mlp, stride)
    reference = plain_logits(mlp, columns)
    conv = convert(mlp).eval()
    maps = source.maps([(0, "identity")])
    stacked = columns.reshape(1, CANVAS[0] // stride, CANVAS[1] // stride, -1)
    with torch.no_grad():
        assert relative_difference(mlp(columns), reference) <= TOLERANCE
        assert relative_difference(flat(conv(maps)), reference) <= TOLERANCE
        assert relative_difference(flat(conv.forward_stacked(stacked)), reference) <= TOLERANCE


def test_under_resize_the_logits_are_those_of_torch_s_upsampled_and_stacked_maps():
    mlp = make_mlp(hidden=8, output_stride=2)
    source = MemorySource(LAYERS, CANVAS)
    maps = source.maps([(0, "identity")])
    reference = plain_logits(mlp, torch_stack(maps, (16, 24)).reshape(-1, 25))
    assert relative_difference(flat(convert(mlp)(maps)), reference) <= TOLERANCE


def test_gradients_through_classify_then_upsample_are_those_of_the_plain_form():
    mlp = make_mlp("receptive_field", hidden=8, coordinates=True, output_stride=4)
    source = MemorySource(LAYERS, CANVAS)
    conv = convert(mlp)
    columns = columns_at(source, mlp, 4)
    weight = torch.randn(len(columns), 4)
    (flat(conv(source.maps([(0, "identity")]))) * weight).sum().backward()
    (mlp(columns) * weight).sum().backward()
    for (name, value), reference in zip(conv.named_parameters(), mlp.parameters(), strict=True):
        assert value.grad is not None, name
        assert relative_difference(value.grad, reference.grad) < 1e-4, name


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_that_lie_apart_are_classified_as_those_of_one_batch(images, stride, dtype):
    conv = convert(make_mlp(hidden=8, coordinates=True, output_stride=stride), dtype)
    maps = MemorySource(LAYERS, CANVAS, images=images).maps([(number, "identity") for number in range(images)])
    found = []
    for given in (maps, [[values.clone() for values in layer] for layer in maps]):
        conv.zero_grad()
        logits = conv(given)
        logits.float().square().sum().backward()
        found.append([logits, *(value.grad.clone() for value in conv.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_maps_that_lie_apart_are_one_an_image_and_alike():
    conv = convert(make_mlp(layers=LAYERS[:1]))
    (whole,) = MemorySource(LAYERS[:1], CANVAS, images=2).maps([(0, "identity"), (1, "identity")])
    for wrong in ([whole], [whole[:1], whole[1:]], [whole[0], whole[1, 1:]], [], whole[0]):
        with pytest.raises(GeometryError, match="for each image a map"):
            conv([wrong])


@pytest.mark.parametrize("stride", [1, 4])
def test_layers_are_of_as_many_images_or_of_one_for_all(stride):
    conv = convert(make_mlp(hidden=8, output_stride=stride))
    source = MemorySource(LAYERS, CANVAS, images=3)
    maps = source.maps([(number, "identity") for number in range(3)])
    shared = [maps[0], [maps[1][0]], *maps[2:]] if stride == 4 else [[maps[0][0]], *maps[1:]]
    alike = [values if isinstance(values, torch.Tensor) else values[0].expand(3, -1, -1, -1) for values in shared]
    torch.testing.assert_close(conv(shared), conv(alike))
    with pytest.raises(GeometryError, match="of the layers"):
        conv([maps[0][:2], *maps[1:]])


TALL = (make_layer("tall", 4, (30, 2), (1.0, 24.0), (0.5, 12.0)), make_layer("fc", 7, (1, 1)))


@pytest.mark.parametrize("layers", [LAYERS, TALL])
@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("hidden", [0, 8])
def test_gradients_of_several_images_are_the_same_when_asked_for_again(layers, stride, hidden):
    mlp = make_mlp(layers=layers, hidden=hidden, output_stride=stride)
    source = MemorySource(layers, CANVAS, images=2)
    conv, images = convert(mlp), [(0, "identity"), (1, "identity"), (0, "hflip")]
    points = torch.from_numpy(grid_points(CANVAS, stride)).float()
    columns = torch.cat([source.gather(image, points, mlp.frame) for image in images])
    weight = torch.randn(len(columns), 4)
    loss = (flat(conv(source.maps(images))) * weight).sum()
    (mlp(columns) * weight).sum().backward()
    for times in (1, 2):
        loss.backward(retain_graph=times == 1)
        for (name, value), reference in zip(conv.named_parameters(), mlp.parameters(), strict=True):
            assert relative_difference(value.grad, times * reference.grad) < 1e-4, name


@pytest.mark.parametrize("context", ["kernel3", "pool"])
@pytest.mark.parametrize("stride", [1, 4, 16])
def test_context_starts_at_zero_so_that_conversion_stays_exact_and_then_matters(context, stride):
    layers = (*LAYERS[:3], make_layer("coarse", 6, (2, 3), (16.0, 16.0), (8.0, 8.0)), LAYERS[4])
    mlp = make_mlp(layers=layers, hidden=8, context=context, output_stride=stride)
    source = MemorySource(layers, CANVAS)
    conv = convert(mlp).eval()
    maps = source.maps([(0, "identity")])
    reference = plain_logits(mlp, columns_at(source, mlp, stride))
    assert list(conv.context) == ["group2"], "only the coarse map is worth a look around, and a single cell has no neighbours"
    assert relative_difference(flat(conv(maps)), reference) <= TOLERANCE
    conv(maps).square().sum().backward()
    for added in conv.context.parameters():
        assert added.grad is not None
        assert added.grad.abs().max() > 0
        with torch.no_grad():
            added.normal_()
    assert relative_difference(flat(conv(maps)), reference) > 0.01
    with pytest.raises(GeometryError, match="context none"):
        conv.forward_stacked(torch.zeros(1, 2, 2, 25))


@pytest.mark.parametrize("context", ["kernel3", "pool"])
def test_context_takes_part_where_the_grid_is_coarser_than_the_map(context):
    # 8 x 8 cells of 16 pixels, read at a stride of 32: the map is the larger, and resampling it first would lose the context.
    layer = make_layer("coarse", 3, (8, 8), (16.0, 16.0), (8.0, 8.0))
    torch.manual_seed(0)
    mlp = PixelMLP([layer], 2, HeadSpec(hidden=4, context=context, output_stride=32), Frame((128, 128)))
    conv = convert(mlp).eval()
    maps = [torch.randn(1, 8, 8, 3)]
    before = conv(maps)
    with torch.no_grad():
        next(conv.context.parameters()).normal_()
    assert relative_difference(conv(maps), before) > 0.01


@pytest.mark.parametrize("map_hw", [(2, 3), (7, 12), (1, 30)])
def test_pooled_context_is_the_mean_over_windows_cut_off_at_the_border(map_hw):
    torch.manual_seed(0)
    height, width = map_hw
    context = PooledContext(2, 3)
    with torch.no_grad():
        for weight in context.parameters():
            weight.normal_()
        mean, std = torch.randn(2), torch.rand(2) + 0.3
        values = torch.randn(1, height, width, 2)
        found = context(values, mean, std)
        standard = (values - mean) / std
        for y in range(height):
            for x in range(width):
                means = [
                    standard[0, max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1].double().mean((0, 1)) for r in (2, 5, 100)
                ]
                weights = [*torch.chunk(context.windows.weight.double(), 2), context.whole.weight.double()]
                expected = sum(weight @ mean for weight, mean in zip(weights, means, strict=True))
                torch.testing.assert_close(found[0, y, x].double(), expected, rtol=1e-4, atol=1e-5)


def test_a_3x3_kernel_sees_the_mean_activation_beyond_the_border():
    layer = make_layer("coarse", 1, (2, 2), (16.0, 16.0), (8.0, 8.0))
    mlp = PixelMLP([layer], 2, HeadSpec(hidden=0, context="kernel3", output_stride=16), Frame((32, 32)))
    mlp.set_statistics(torch.tensor([5.0]), torch.tensor([2.0]))
    conv = convert(mlp)
    with torch.no_grad():
        next(conv.context.parameters()).fill_(1.0)
        conv.first.weight.zero_()
        conv.first.bias.zero_()
    # Everywhere the mean, inside and out: every kernel sums nothing.
    torch.testing.assert_close(conv([torch.full((1, 2, 2, 1), 5.0)]), torch.zeros(1, 2, 2, 2))
    # One standard deviation above it inside, the mean outside: four cells of one.
    torch.testing.assert_close(conv([torch.full((1, 2, 2, 1), 7.0)]), torch.full((1, 2, 2, 2), 4.0))


@pytest.mark.parametrize("context", ["none", "kernel3", "pool"])
@pytest.mark.parametrize("alignment", ["resize", "receptive_field"])
def test_bfloat16_is_close_and_keeps_almost_every_class(alignment, context):
    layers = (*LAYERS[:3], make_layer("coarse", 6, (2, 3), (16.0, 16.0), (8.0, 8.0)), LAYERS[4])
    mlp = make_mlp(alignment, layers=layers, hidden=16, coordinates=True, context=context)
    maps = MemorySource(layers, CANVAS).maps([(0, "identity")])
    single, half = convert(mlp), convert(mlp, torch.bfloat16)
    for parameter in single.context.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    half.load_state_dict(single.state_dict())
    exact, close = single(maps), half(maps)
    assert relative_difference(close, exact) < 0.05
    assert (close.argmax(1) == exact.argmax(1)).float().mean() > 0.95


@pytest.mark.parametrize("name", ["first.weight", "first.bias", "mean", "std", "context.group2.windows.weight"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_remembered_of_weights_is_forgotten_when_they_change(name, dtype):
    layers = (*LAYERS[:3], make_layer("coarse", 6, (2, 3), (16.0, 16.0), (8.0, 8.0)), LAYERS[4])
    conv = convert(make_mlp(layers=layers, hidden=8, context="pool"), dtype).eval().requires_grad_(False)
    maps = MemorySource(layers, CANVAS).maps([(0, "identity")])
    with torch.inference_mode():
        before = conv(maps)
        assert torch.equal(conv(maps), before)
    with torch.no_grad():
        conv.state_dict()[name].add_(0.5)
    fresh = PixelConv(layers, 4, conv.spec, conv.frame, dtype).eval()
    fresh.load_state_dict(conv.state_dict())
    with torch.inference_mode():
        after = conv(maps)
        assert not torch.equal(after, before)
        assert torch.equal(after, fresh(maps))
    conv.requires_grad_()(maps).sum().backward()
    assert conv.first.weight.grad.abs().max() > 0


@pytest.mark.parametrize("coarse", [LAYERS[4:], LAYERS[3:], LAYERS[1:4]])
@pytest.mark.parametrize("alignment", ["resize", "receptive_field"])
def test_predicting_in_bfloat16_gives_what_training_computes(coarse, alignment):
    layers = (LAYERS[0], *coarse)
    conv = convert(make_mlp(alignment, layers=layers, hidden=8, coordinates=True), torch.bfloat16).eval()
    maps = [torch.cat([values, -values]) for values in MemorySource(layers, CANVAS).maps([(0, "identity")])]
    expected = conv(maps)
    with torch.inference_mode():
        found = conv(maps)
    assert relative_difference(found, expected.detach()) < 0.02


def test_nothing_is_remembered_of_weights_that_a_fused_optimiser_may_change_without_a_trace():
    conv = convert(make_mlp(hidden=8))
    optimiser = torch.optim.AdamW(conv.parameters(), lr=0.1, fused=True)
    maps = MemorySource(LAYERS, CANVAS).maps([(0, "identity")])
    conv(maps).square().sum().backward()
    with torch.inference_mode():
        before = conv(maps)
    optimiser.step()
    with torch.inference_mode():
        assert not torch.equal(conv(maps), before)


def test_stored_half_precision_maps_are_classified_as_what_they_hold():
    mlp = make_mlp(hidden=8)
    maps = [values.half() for values in MemorySource(LAYERS, CANVAS).maps([(0, "identity")])]
    torch.testing.assert_close(convert(mlp)(maps), convert(mlp)([values.float() for values in maps]))


def test_coordinates_alone_make_a_classifier_of_position():
    mlp = make_mlp(layers=(), hidden=8, coordinates=True, output_stride=4)
    points = torch.from_numpy(grid_points(CANVAS, 4)).float()
    columns = mlp.with_coordinates(torch.empty(len(points), 0), points)
    assert relative_difference(flat(convert(mlp)([])), plain_logits(mlp, columns)) <= TOLERANCE


def test_a_classifier_of_nothing_is_refused():
    with pytest.raises(GeometryError, match="at least one layer"):
        PixelMLP((), 4, HeadSpec(), Frame(CANVAS))


def test_the_wrong_number_of_maps_is_refused():
    with pytest.raises(GeometryError, match="expected 5 maps"):
        convert(make_mlp())(MemorySource(LAYERS, CANVAS).maps([(0, "identity")])[:4])


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_a_map_of_another_size_than_its_layer_s_is_refused_by_name(number):
    conv = convert(make_mlp(hidden=8))
    maps = MemorySource(LAYERS, CANVAS).maps([(0, "identity")])
    maps[number] = torch.cat([maps[number], maps[number]], dim=2)
    with pytest.raises(GeometryError, match=f"layer {LAYERS[number].name}: expected a map of"):
        conv(maps)


@pytest.mark.parametrize("stride", [0, 5, 64])
def test_a_stride_that_does_not_divide_the_canvas_is_refused(stride):
    with pytest.raises(GeometryError, match="divides the canvas"):
        convert(make_mlp())(MemorySource(LAYERS, CANVAS).maps([(0, "identity")]), stride_px=stride)


def test_a_channel_that_never_varies_is_not_divided_by_zero():
    mlp = make_mlp()
    mlp.set_statistics(torch.zeros(mlp.columns), torch.zeros(mlp.columns))
    assert mlp.std.eq(1).all()
    assert mlp(torch.ones(2, mlp.columns)).isfinite().all()


def test_dropout_acts_while_training_only():
    mlp = make_mlp(hidden=64, dropout=0.5)
    columns = torch.randn(8, mlp.columns)
    assert mlp(columns).equal(mlp(columns))
    mlp.train()
    assert not mlp(columns).equal(mlp(columns))


def test_the_state_of_a_converted_classifier_goes_into_a_new_one_and_back():
    conv = convert(make_mlp(hidden=8, context="kernel3"))
    again = PixelConv(conv.layers, conv.classes, conv.spec, conv.frame)
    again.load_state_dict(conv.state_dict())
    maps = MemorySource(LAYERS, CANVAS).maps([(0, "identity")])
    assert again.eval()(maps).equal(conv.eval()(maps))
