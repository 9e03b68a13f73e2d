"""The perceptual hash: what it takes for the same, and what it tells apart."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from hypercolumns.datasets.lookalikes import difference_hash, lookalikes
from hypercolumns.datasets.shapes import render_scene
from hypercolumns.nights import ChecksSpec


def picture(seed, image_hw=(96, 128)):
    return render_scene(3, seed, image_hw).image


def recompressed(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=80)
    return np.array(Image.open(buffer))


def resized(image):
    return np.array(Image.fromarray(image).resize((64, 48)))


def brighter(image):
    return np.clip(image.astype(int) + 10, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", [recompressed, resized, brighter])
def test_most_changed_copies_are_found_and_no_other_scene_is_taken_for_one(change):
    scenes = [picture(seed) for seed in range(40)]
    originals = [difference_hash(scene) for scene in scenes]
    copies = [difference_hash(change(scene)) for scene in scenes]
    pairs = lookalikes(originals, copies, ChecksSpec().max_hash_distance)
    assert all(first == second for first, second in pairs)
    assert len(pairs) >= 34
    assert len(pairs) == sum(bin(a ^ b).count("1") <= 4 for a, b in zip(originals, copies, strict=True))


def test_the_hash_is_the_sign_of_the_horizontal_gradient():
    ramp = np.tile(np.linspace(0, 255, 90, dtype=np.uint8)[None, :, None], (80, 1, 3))
    assert difference_hash(ramp) == 2**64 - 1
    assert difference_hash(ramp[:, ::-1]) == 0


def test_images_without_contrast_have_no_hash_and_match_nothing():
    flat = np.full((40, 40, 3), 120, np.uint8)
    assert difference_hash(flat) is None
    assert lookalikes([None, 3], [None], 64) == []
    assert lookalikes([None, 3], [3, None, 7], 0) == [(1, 0)]
    assert lookalikes([None, 3], [3, None, 7], 1) == [(1, 0), (1, 2)]


def test_many_images_are_compared_in_blocks_with_the_same_result(monkeypatch):
    generator = np.random.default_rng(0)
    left, right = ([int(value) for value in generator.integers(0, 2**10, 40)] for _ in range(2))
    expected = [(a, b) for a in range(40) for b in range(40) if bin(left[a] ^ right[b]).count("1") <= 2]
    monkeypatch.setattr("hypercolumns.datasets.lookalikes._BLOCK", 100)
    assert lookalikes(left, right, 2) == expected
    assert expected
