"""Run lengths against pycocotools, in both directions, and what damaged ones are told."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from hypercolumns.datasets.instances.run_lengths import (
    PolygonMask,
    RunMask,
    decode_counts,
    encode_counts,
    mask_from_runs,
    runs_of_mask,
)
from hypercolumns.errors import DatasetError, MaskError


def masks() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    found = []
    for number in range(60):
        height, width = random.integers(1, 40, 2)
        found.append(random.random((height, width)) < (number % 10) / 9)
    return [*found, np.repeat([[True], [False]], 300, axis=0).reshape(2, 300)]


@pytest.mark.parametrize("number", range(61))
def test_run_lengths_are_written_and_read_as_pycocotools_does(number: int) -> None:
    mask = masks()[number]
    expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert encode_counts(runs_of_mask(mask)).encode() == expected
    np.testing.assert_array_equal(decode_counts(expected), runs_of_mask(mask))
    np.testing.assert_array_equal(mask_from_runs(decode_counts(expected.decode()), mask.shape), mask)


@given(st.lists(st.integers(0, 1 << 30), min_size=1, max_size=30))
def test_what_is_written_is_read_back(counts: list[int]) -> None:
    runs = np.array(counts, np.int64)
    np.testing.assert_array_equal(decode_counts(encode_counts(runs)), runs)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(DatasetError):
        assert encode_counts(decode_counts(data))


def test_counts_whose_differences_go_below_zero_are_refused() -> None:
    negative = chr(48 + 4) * 3 + chr(48 + 0x10)  # the fourth is sixteen less than the second
    with pytest.raises(DatasetError, match="counts that fill 4 x 1 pixels"):
        RunMask.read(Path("f.json"), "annotation 1", {"size": [4, 1], "counts": negative}, (4, 1))


def test_filling_polygons_without_pycocotools_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = PolygonMask.read(Path("f.json"), "annotation 1", [[0, 0, 3, 0, 3, 3]], (4, 4))
    assert mask((4, 4)).any()

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("hypercolumns.datasets.instances.run_lengths.importlib.import_module", missing)
    with pytest.raises(MaskError, match=r"pycocotools is needed to fill polygons. Remedy: pip install"):
        mask((4, 4))
