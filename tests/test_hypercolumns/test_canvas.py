"""Images into the canvas and scores out of it, against arithmetic done pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from hypercolumns.canvas import best_labels, fit_image, fit_mask, flip_view, label_pixels, normalise, restore_logits
from hypercolumns.errors import GeometryError
from hypercolumns.geometry import Placement, place
from hypercolumns.kernels.labelling import best_interpolated
from hypercolumns.specs import CanvasSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)


def letterbox(height: int, width: int) -> CanvasSpec:
    return CanvasSpec(mode="letterbox", size_hw=(height, width))


def test_an_image_of_the_canvas_size_is_left_alone() -> None:
    image = noise(16, 24)
    fitted, placement = fit_image(image, letterbox(16, 24))
    assert fitted is image
    assert placement.box_yxyx == (0, 0, 16, 24)
    mask = image[..., 0]
    assert fit_mask(mask, placement) is mask


def test_the_padding_has_the_fill_colour_and_the_content_is_antialiased() -> None:
    image = noise(40, 40)
    fitted, placement = fit_image(image, letterbox(16, 32), fill_rgb=MEAN)
    assert placement.box_yxyx == (0, 8, 16, 24)
    expected = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(fitted[:, 8:24], expected)
    padding = np.delete(fitted, np.s_[8:24], axis=1)
    assert (padding == np.rint(np.array(MEAN) * 255)).all()
    normalised = normalise(torch.from_numpy(fitted)[None], MEAN, STD)
    assert normalised[0, :, :, :8].abs().max() < 0.01


def test_halving_averages_and_does_not_skip_pixels() -> None:
    stripes = np.zeros((32, 32, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    fitted, _ = fit_image(stripes, letterbox(16, 16))
    assert np.abs(fitted[:, 2:-2].astype(int) - 127).max() <= 2


def test_stretch_fills_the_canvas() -> None:
    fitted, placement = fit_image(noise(40, 20), CanvasSpec(mode="stretch", size_hw=(16, 32)))
    assert fitted.shape == (16, 32, 3)
    assert placement.box_yxyx == (0, 0, 16, 32)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_what_is_no_rgb_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(GeometryError, match="expected a uint8 RGB image"):
        fit_image(image, letterbox(16, 16))


@pytest.mark.parametrize("image_hw", [(17, 40), (16, 24), (5, 7), (33, 9), (100, 1)])
def test_a_mask_takes_the_label_under_each_content_pixels_centre(image_hw: tuple[int, int]) -> None:
    placement = place(image_hw, letterbox(16, 24))
    mask = np.random.default_rng(0).integers(0, 20, size=image_hw, dtype=np.uint8)
    fitted = fit_mask(mask, placement)
    top, left, bottom, right = placement.box_yxyx
    for y in range(16):
        for x in range(24):
            if top <= y < bottom and left <= x < right:
                row = int((y - top + 0.5) * image_hw[0] / (bottom - top))
                column = int((x - left + 0.5) * image_hw[1] / (right - left))
                assert fitted[y, x] == mask[row, column]
            else:
                assert fitted[y, x] == 255


def test_a_mask_of_another_size_than_its_image_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"size \(20, 20\), got \(20, 21\)"):
        fit_mask(np.zeros((20, 21), np.uint8), place((20, 20), letterbox(16, 16)))


def test_normalising_is_that_of_the_formula_and_channels_last() -> None:
    batch = torch.from_numpy(np.stack([noise(5, 7, seed) for seed in range(3)]))
    expected = ((batch.double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()).permute(0, 3, 1, 2)
    normalised = normalise(batch, MEAN, STD)
    assert normalised.dtype == torch.float32
    assert normalised.is_contiguous(memory_format=torch.channels_last)
    assert (normalised - expected).abs().max() < 1e-5


def test_normalising_writes_to_the_given_batch() -> None:
    batch = torch.from_numpy(np.stack([noise(5, 7, seed) for seed in range(2)]))
    out = torch.empty(2, 3, 5, 7).to(memory_format=torch.channels_last)
    returned = normalise(batch, MEAN, STD, out=out)
    assert returned is out
    assert torch.equal(out, normalise(batch, MEAN, STD))


@pytest.mark.parametrize(
    "out", [torch.empty(2, 3, 5, 7), torch.empty(1, 3, 5, 7), torch.empty(2, 3, 5, 7, dtype=torch.float64)]
)
def test_a_batch_that_does_not_fit_is_refused(out: Tensor) -> None:
    with pytest.raises(GeometryError, match="channels_last"):
        normalise(torch.zeros(2, 5, 7, 3, dtype=torch.uint8), MEAN, STD, out=out)


def test_views_mirror_left_to_right() -> None:
    image = noise(2, 3)
    assert flip_view(image, "identity") is image
    mirrored = flip_view(image, "hflip")
    assert mirrored.flags.c_contiguous
    for x in range(3):
        np.testing.assert_array_equal(mirrored[:, x], image[:, 2 - x])
    with pytest.raises(GeometryError, match="identity or hflip"):
        flip_view(image, "vflip")


def brute_force(logits: Tensor, placement: Placement) -> Tensor:
    """Restore scores one pixel at a time: its canvas position, the content's grid points around it, linear weights."""
    top, left, bottom, right = placement.box_yxyx
    restored = torch.empty(logits.shape[0], *placement.image_hw, dtype=torch.float64)
    rows, columns = (
        _weights(logits.shape[1], placement.canvas_hw[0], (top, bottom), placement.image_hw[0]),
        _weights(logits.shape[2], placement.canvas_hw[1], (left, right), placement.image_hw[1]),
    )
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            restored[:, y, x] = sum(logits[:, i, j].double() * a * b for i, a in row.items() for j, b in column.items())
    return restored


def _weights(cells: int, canvas: int, box: tuple[int, int], pixels: int) -> list[dict[int, float]]:
    centres = [(cell + 0.5) * canvas / cells for cell in range(cells)]
    inside = [cell for cell in range(cells) if box[0] <= centres[cell] <= box[1]]
    if not inside:  # a content narrower than a cell, between two grid points
        inside = [cell for cell in range(cells) if abs(centres[cell] - (box[0] + box[1]) / 2) <= canvas / cells]
    weights = []
    for pixel in range(pixels):
        position = box[0] + (pixel + 0.5) * (box[1] - box[0]) / pixels
        position = min(max(position, centres[inside[0]]), centres[inside[-1]])
        near = {cell: max(0.0, 1 - abs(centres[cell] - position) * cells / canvas) for cell in inside}
        weights.append({cell: weight for cell, weight in near.items() if weight > 0})
    return weights


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["letterbox", "stretch"])
@pytest.mark.parametrize("image_hw", [(16, 24), (17, 40), (40, 17), (9, 9), (33, 5), (3, 60), (60, 2)])
def test_restored_scores_equal_the_arithmetic_pixel_by_pixel(stride: int, mode: str, image_hw: tuple[int, int]) -> None:
    placement = place(image_hw, CanvasSpec.model_validate({"mode": mode, "size_hw": (16, 24)}))
    logits = torch.randn(3, 16 // stride, 24 // stride, generator=torch.Generator().manual_seed(0))
    restored = restore_logits(logits, placement)
    expected = brute_force(logits, placement)
    assert restored.shape == (3, *image_hw)
    assert (restored - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_restoring_at_stride_one_is_interpolating_the_crop() -> None:
    placement = place((50, 30), letterbox(32, 48))
    top, left, bottom, right = placement.box_yxyx
    logits = torch.randn(2, 32, 48, generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(
        logits[None, :, top:bottom, left:right].double(), size=(50, 30), mode="bilinear", align_corners=False
    )[0]
    assert (restore_logits(logits, placement) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("image_hw", [(17, 40), (40, 17), (31, 33)])
def test_the_padding_never_leaks_into_restored_scores(stride: int, image_hw: tuple[int, int]) -> None:
    placement = place(image_hw, letterbox(16, 24))
    top, left, bottom, right = placement.box_yxyx
    centres_y = (np.arange(16 // stride) + 0.5) * stride
    centres_x = (np.arange(24 // stride) + 0.5) * stride
    outside = (centres_y < top)[:, None] | (centres_y > bottom)[:, None] | (centres_x < left)[None] | (centres_x > right)[None]
    logits = torch.from_numpy(np.where(outside, 1e6, 1.0).astype(np.float32))[None]
    assert outside.any()
    assert (restore_logits(logits, placement) - 1).abs().max() < 1e-5


def test_scores_of_the_images_own_size_are_only_cropped() -> None:
    placement = place((16, 8), letterbox(16, 24))
    logits = torch.randn(2, 16, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(restore_logits(logits, placement), logits[:, :, 8:16])


def test_fitting_and_restoring_labels_brings_them_back() -> None:
    mask = np.repeat(np.repeat(np.random.default_rng(0).integers(0, 5, (4, 6)), 8, 0), 8, 1).astype(np.uint8)
    placement = place(mask.shape, letterbox(64, 64))
    canvas_mask = fit_mask(mask, placement)
    scores = functional.one_hot(torch.from_numpy(canvas_mask).long().clamp(max=5), 6).permute(2, 0, 1).float()
    np.testing.assert_array_equal(restore_logits(scores, placement).argmax(0).numpy(), mask)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_best_label_is_the_first_of_the_largest_logits_however_they_lie_in_memory(channels_last):
    logits = torch.randint(0, 3, (5, 11, 7), generator=torch.Generator().manual_seed(0)).float()
    logits = logits.permute(1, 2, 0).contiguous().permute(2, 0, 1) if channels_last else logits
    expected = [[max(range(5), key=lambda k, y=y, x=x: (float(logits[k, y, x]), -k)) for x in range(7)] for y in range(11)]
    found = best_labels(logits)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("classes", [2, 40, 70])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_best_label_is_the_same_whoever_looks_for_it(classes, threads):
    logits = torch.randint(0, 4, (classes, 37, 41), generator=torch.Generator().manual_seed(0)).float()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = best_labels(logits)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found, logits.numpy().argmax(0))


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("image_hw", [(16, 24), (17, 40), (40, 17), (9, 9), (33, 5), (3, 60), (60, 2)])
@pytest.mark.parametrize("classes", [1, 3, 16, 17, 70])
@pytest.mark.parametrize("threads", [1, 3])
def test_pixels_are_labelled_as_their_restored_scores_say(stride, image_hw, classes, threads):
    placement = place(image_hw, letterbox(16, 24))
    logits = torch.randn(classes, 16 // stride, 24 // stride, generator=torch.Generator().manual_seed(classes))
    restored = restore_logits(logits.double(), placement)
    torch.set_num_threads(threads)
    try:
        found = label_pixels(logits, placement)
    finally:
        torch.set_num_threads(1)
    assert found.shape == image_hw
    assert found.dtype == np.uint8
    chosen = restored.gather(0, torch.from_numpy(found).long()[None])[0]
    assert (restored.max(0).values - chosen).max() <= 1e-5, "the best but for rounding"
    assert (found == restored.argmax(0).numpy()).mean() > 0.999
    np.testing.assert_array_equal(label_pixels(logits.double(), placement), restored.argmax(0).numpy())


def test_the_first_of_equal_scores_is_the_label_and_what_is_not_a_number_comes_before_all():
    placement = place((16, 24), letterbox(16, 24))
    logits = torch.randint(0, 3, (40, 16, 24), generator=torch.Generator().manual_seed(0)).float()
    np.testing.assert_array_equal(label_pixels(logits, placement), logits.numpy().argmax(0))
    assert (label_pixels(torch.full((40, 16, 24), -torch.inf), placement) == 0).all()
    masked = logits.clone()
    masked[30] = -torch.inf
    np.testing.assert_array_equal(label_pixels(masked, placement), masked.numpy().argmax(0))
    logits[17, 3, 4] = logits[30, 3, 4] = torch.nan
    logits[2, 3, 4] = torch.inf
    assert label_pixels(logits, placement)[3, 4] == 17 == best_labels(logits)[3, 4]


@pytest.mark.parametrize("image_hw", [(16, 24), (40, 50), (8, 9)])
def test_a_class_that_is_ruled_out_is_the_label_of_no_pixel(image_hw):
    placement = place(image_hw, letterbox(16, 24))
    logits = torch.randn(5, 16, 24, generator=torch.Generator().manual_seed(0))
    logits[3] = -torch.inf
    assert not (label_pixels(logits, placement) == 3).any()
    assert not restore_logits(logits, placement).isnan().any()


def test_what_labels_are_read_at_is_no_tensor_of_inference_mode():
    placement = place((21, 19), letterbox(16, 24))
    logits = torch.randn(5, 16, 24)
    with torch.inference_mode():
        label_pixels(logits.clone(), placement)
    wanted = logits.clone().requires_grad_()
    restore_logits(wanted, placement).sum().backward()
    assert wanted.grad is not None


def test_scores_that_a_kernel_would_read_wrongly_are_refused():
    scores = torch.zeros(4, 6, 3)
    weights = torch.tensor([0.5, 0.0], dtype=torch.float64)
    good = torch.tensor([0, 3]), torch.tensor([1, 3]), weights
    assert best_interpolated(scores, good, good).shape == (2, 2)
    for bad in (
        (torch.tensor([0, 3]), torch.tensor([1, 4]), weights),
        (torch.tensor([0, 10**9]), torch.tensor([1, 3]), weights),
        (torch.tensor([0, 3]), torch.tensor([-1, 3]), weights),
        (torch.tensor([0, 3]), torch.tensor([1, 3]), weights.float()),
        (torch.tensor([0, 3]), torch.tensor([1, 3]), weights[:1]),
        (torch.tensor([0, 3]).int(), torch.tensor([1, 3]), weights),
    ):
        for positions in ((bad, good), (good, bad)):
            with pytest.raises(ValueError, match="expected "):
                best_interpolated(scores[:, :4], *positions)
    for wrong in (scores.double(), scores[:, :, :0], torch.zeros(4, 6, 257)):
        with pytest.raises(ValueError, match="expected "):
            best_interpolated(wrong, good, good)
