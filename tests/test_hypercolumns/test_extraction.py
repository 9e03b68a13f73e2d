"""The extraction pipeline: the right maps in the right order, errors that surface, and batches that do not fit."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from hypercolumns.backbones import Backbone, build_backbone
from hypercolumns.errors import ImageError
from hypercolumns.extraction import Batch, extract_maps
from hypercolumns.specs import BackboneSpec

CANVAS = (64, 48)
LAYERS = ["features.1", "features.12.cat"]
ITEMS = [(index, view) for view in ("identity", "hflip") for index in range(5)]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_backbone(BackboneSpec(weights="random:3", layers=(LAYERS[0], "features.4.cat", LAYERS[1])), CANVAS)


def load(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (*CANVAS, 3), np.uint8)


@pytest.fixture(scope="module")
def direct(backbone) -> dict[tuple[int, str], dict[str, np.ndarray]]:
    """The maps of every item, computed alone and without any of the pipeline's parts."""
    found = {}
    for index, view in ITEMS:
        canvas = load(index)[:, ::-1] if view == "hflip" else load(index)
        values = (canvas / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
        maps = backbone(torch.from_numpy(values.transpose(2, 0, 1)[None]).float())
        found[index, view] = {name: value[0].permute(1, 2, 0).numpy() for name, value in maps.items()}
    return found


def batches(items, images=8):
    return [Batch(items[first : first + images], LAYERS) for first in range(0, len(items), images)]


def check(found, direct, items, images=8, atol=1e-4):
    position = 0
    for part in found:
        assert part.batch * images + part.first == position, "in order, without gaps"
        assert list(part.maps) == LAYERS
        for name, values in part.maps.items():
            assert values.is_contiguous()
            for offset, value in enumerate(values.double().numpy()):
                np.testing.assert_allclose(value, direct[items[position + offset]][name], rtol=1e-3, atol=atol)
        position += len(part.maps[LAYERS[0]])
    assert position == len(items)


@pytest.mark.parametrize("batch", [1, 3, 4, 10, 64])
@pytest.mark.parametrize(("threads", "streams"), [(1, 1), (3, 3), (2, None)])
def test_maps_come_in_order_and_are_the_backbone_s_for_every_batch_size(backbone, direct, batch, threads, streams):
    found = list(extract_maps(backbone, load, batches(ITEMS, batch), decode_threads=threads, streams=streams))
    assert all(values.dtype == torch.float32 for part in found for values in part.maps.values())
    assert {part.batch for part in found} == set(range(-(-len(ITEMS) // batch)))
    check(found, direct, ITEMS, batch)


@pytest.mark.parametrize(
    ("streams", "sizes"), [(1, [3, 3, 3, 1]), (2, [3, 3, 2, 1, 1]), (3, [3, 3, 1, 1, 1, 1]), (4, [3, 3, 1, 1, 1, 1])]
)
def test_the_last_batches_are_divided_among_the_streams(backbone, direct, streams, sizes):
    found = list(extract_maps(backbone, load, batches(ITEMS, 3), streams=streams))
    assert [len(part.maps[LAYERS[0]]) for part in found] == sizes
    check(found, direct, ITEMS, 3)


def test_batches_may_want_different_layers(backbone, direct):
    wanted = [Batch(ITEMS[:2], LAYERS), Batch(ITEMS[2:3], LAYERS[:1]), Batch(ITEMS[3:4], LAYERS)]
    found = list(extract_maps(backbone, load, wanted))
    assert [list(part.maps) for part in found] == [LAYERS, LAYERS[:1], LAYERS]
    np.testing.assert_allclose(found[1].maps[LAYERS[0]][0].numpy(), direct[ITEMS[2]][LAYERS[0]], rtol=1e-3, atol=1e-4)


def test_torch_has_as_many_threads_afterwards_as_before_also_in_threads_that_come_later(backbone):
    before = torch.get_num_threads()
    list(extract_maps(backbone, load, batches(ITEMS), streams=2))
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [torch.get_num_threads(), *later] == [before, before]


def test_half_precision_is_the_rounded_map(backbone, direct):
    found = list(extract_maps(backbone, load, batches(ITEMS), dtype=torch.float16))
    assert all(values.dtype == torch.float16 for part in found for values in part.maps.values())
    check(found, direct, ITEMS, atol=5e-3)


def test_items_may_come_in_any_order_and_more_than_once(backbone, direct):
    items = [ITEMS[number] for number in (7, 7, 0, 3)]
    check(extract_maps(backbone, load, batches(items, 3)), direct, items, 3)


def test_nothing_to_extract_is_nothing(backbone):
    assert list(extract_maps(backbone, load, [])) == []


@pytest.mark.parametrize("bad", [0, 4])
def test_an_image_that_cannot_be_decoded_stops_with_its_error_after_the_batches_before_it(backbone, bad):
    def load_or_fail(index: int) -> np.ndarray:
        if index == bad:
            raise ImageError("cat.jpg", "truncated", "fetch it again")
        return load(index)

    found: list[int] = []

    def collect() -> None:
        for part in extract_maps(backbone, load_or_fail, batches(ITEMS[:5], 2)):
            found.extend(range(2 * part.batch, 2 * part.batch + len(part.maps[LAYERS[0]])))

    with pytest.raises(ImageError, match=r"cat\.jpg: truncated"):
        collect()
    assert found == list(range(bad - bad % 2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("decode", "backbone"))]


def test_only_a_few_batches_are_decoded_ahead_and_a_reader_who_leaves_stops_it(backbone):
    loaded = []

    def load_and_tell(index: int) -> np.ndarray:
        loaded.append(index)
        return load(0)

    drawn = []

    def draw():
        for batch in batches([(index, "identity") for index in range(40)], 2):
            drawn.append(batch)
            yield batch

    maps = extract_maps(backbone, load_and_tell, draw(), streams=2)
    next(maps)
    maps.close()
    # Two computed, one ready to be, two decoded.
    assert len(drawn) == 5
    assert max(loaded) < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("decode", "backbone"))]


class SmallAccelerator:
    """A backbone on a device whose memory holds only so many images at once."""

    def __init__(self, backbone: Backbone, capacity: int) -> None:
        self.backbone, self.capacity, self.tried = backbone, capacity, []

    @property
    def spec(self) -> BackboneSpec:
        return self.backbone.spec

    def forward(self, images: torch.Tensor, layers: Sequence[str]) -> dict[str, torch.Tensor]:
        self.tried.append(len(images))
        if len(images) > self.capacity:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return self.backbone(images, layers)


@pytest.fixture
def accelerator(backbone, monkeypatch):
    def make(capacity: int):
        small = SmallAccelerator(backbone, capacity)
        double = Backbone.__new__(Backbone)
        double.__dict__.update(backbone.__dict__)
        plain = Backbone.__call__

        def call(self, images, layers=None):
            return small.forward(images, layers) if self is double else plain(self, images, layers)

        monkeypatch.setattr(Backbone, "__call__", call)
        return small, double

    return make


@pytest.mark.parametrize(("capacity", "batch"), [(1, 8), (2, 8), (3, 7), (5, 10)])
def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(accelerator, direct, capacity, batch):
    _, double = accelerator(capacity)
    check(extract_maps(double, load, batches(ITEMS, batch), streams=1), direct, ITEMS, batch)


def test_what_was_learned_about_the_memory_is_kept_for_the_next_batch(accelerator, direct):
    small, double = accelerator(2)
    list(extract_maps(double, load, batches(ITEMS, 4), streams=1))
    assert small.tried == [4, 2, 2, 2, 2, 2]


def test_a_single_image_that_does_not_fit_is_the_end(accelerator):
    small, double = accelerator(0)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(extract_maps(double, load, batches(ITEMS, 4), streams=1))
    assert small.tried[:3] == [4, 2, 1]
