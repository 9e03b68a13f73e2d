"""Any change of an annotation file is read or refused by name: nothing else is ever raised."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypercolumns.datasets.instances import InstanceDataset, check_instances, open_instances, read_detections
from hypercolumns.datasets.instances.xml_files import read_xml_file
from hypercolumns.errors import DatasetError
from tests.instances_factory import coco_data, coco_spec, write_coco

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", ".", "..", "/", "a/b.jpg", "x" * 5000, "\0", "\ud800.jpg", "7", "-1", "1e400"]),
    st.just([]),
    st.just({}),
    st.lists(st.integers(-5, 900), max_size=8),
    st.dictionaries(st.sampled_from(["size", "counts", "id"]), st.integers(), max_size=2),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """List where something stands in plain data."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in parts:
        yield (*path, key)
        yield from places(inner, (*path, key))


def replaced(data: Any, path: tuple[Any, ...], value: Any, *, remove: bool) -> Any:
    """Put something else at a place, or nothing."""
    changed = copy.deepcopy(data)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    if remove:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return changed


PLACES = sorted(places(coco_data()), key=str)
RESULTS = [
    {"image_id": 7, "category_id": 17, "bbox": [2, 3, 8, 6], "score": 0.5},
    {"image_id": 9, "category_id": 1, "bbox": [2, 3, 8, 6], "score": 0.5},
]
RESULT_PLACES = sorted(places(RESULTS), key=str)

many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path)


@many
@given(st.sampled_from(PLACES), VALUES, st.booleans(), st.sampled_from(["fail", "skip"]))
def test_a_changed_annotation_file_is_read_or_refused(root: Path, path: Any, value: Any, remove: bool, mode: Any) -> None:
    data = replaced(coco_data(), path, value, remove=remove)
    (root / "annotations" / "instances_train.json").write_text(json.dumps(data))
    try:
        dataset = open_instances(coco_spec(root, on_bad_record=mode))
    except DatasetError:
        return
    check_instances(dataset, dataset.splits)


@many
@given(st.sampled_from(RESULT_PLACES), VALUES, st.booleans(), st.booleans())
def test_a_changed_results_file_is_read_or_refused(root: Path, path: Any, value: Any, remove: bool, skip: bool) -> None:
    dataset: InstanceDataset = open_instances(coco_spec(root))
    file = root / "results.json"
    file.write_text(json.dumps(replaced(RESULTS, path, value, remove=remove)))
    try:
        found = read_detections(file, dataset, "train", skip=skip)
    except DatasetError:
        return
    assert set(found) == {"train_a", "train_b"}


@many
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_changed_bytes_of_xml_are_read_or_refused(root: Path, place: int, data: bytes) -> None:
    text = b"<annotation><object><name>dog</name><bndbox><xmin>1</xmin></bndbox></object></annotation>"
    place %= len(text)
    path = root / "a.xml"
    path.write_bytes(text[:place] + data + text[place + len(data) :])
    try:
        assert read_xml_file(path).tag
    except DatasetError as error:
        assert "a.xml" in str(error)  # noqa: PT017 - whichever of the two happens
