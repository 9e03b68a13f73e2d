"""Average precision by OKS: pycocotools' own summary, and intervals from sets in which images are repeated for it."""

from __future__ import annotations

import contextlib
import copy
import io
import sys

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hypercolumns.errors import MetricError
from hypercolumns.metrics import full_scores, intervals, score_oks


def make_data(seed: int, images: int = 6):
    """Draw people and detections near them; some are crowds, some without a keypoint, one image holds nothing."""
    generator = np.random.default_rng(seed)
    annotations, detections = [], []
    for image in range(10, 10 + images):
        for _ in range(0 if image == 11 else int(generator.integers(1, 4))):
            points = generator.random((17, 2)) * 100
            visible = (generator.random(17) < 0.8).astype(int) * 2
            if generator.random() < 0.15:
                visible[:] = 0
            annotations.append(
                {"id": len(annotations), "image_id": image, "category_id": 1, "iscrowd": int(generator.random() < 0.1),
                 "keypoints": np.column_stack([points, visible]).ravel().tolist(), "num_keypoints": int((visible > 0).sum()),
                 "bbox": [0, 0, 100, 100], "area": 5000.0}
            )  # fmt: skip
            for _ in range(2):
                near = np.column_stack([points + generator.normal(0, 6, points.shape), np.full(17, 2)])
                found = {"image_id": image, "category_id": 1, "keypoints": near.ravel().tolist()}
                detections.append({**found, "score": float(generator.random())})
    data = {
        "images": [{"id": image, "height": 100, "width": 100} for image in range(10, 10 + images)],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "nobody"}],
        "annotations": annotations,
    }
    return data, detections


def coco_summary(data, detections) -> tuple[float, float, float]:
    """Return pycocotools' average precision, and that at 0.5 and 0.75."""
    data = copy.deepcopy(data)
    for number, annotation in enumerate(data["annotations"], start=1):
        annotation["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = data
        known.createIndex()
        judge = COCOeval(known, known.loadRes(copy.deepcopy(detections)), "keypoints")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return tuple(judge.stats[:3])


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_pycocotools(seed):
    data, detections = make_data(seed)
    kept = copy.deepcopy((data, detections))
    scores = full_scores(score_oks(data, detections))
    assert (scores["oks_ap"], scores["oks_ap@0.5"], scores["oks_ap@0.75"]) == pytest.approx(coco_summary(data, detections))
    assert 0 < scores["oks_ap"] < 1
    assert (data, detections) == kept, "what is given is not written into"


def test_intervals_are_pycocotools_scores_of_data_whose_images_are_repeated():
    data, detections = make_data(0)
    result = score_oks(data, detections)
    drawn = np.random.default_rng(3).integers(0, 6, (12, 6))
    values = []
    for chosen in drawn:
        parts = {"images": [], "categories": data["categories"], "annotations": []}
        found = []
        for new, old in enumerate(sorted(chosen), start=1):
            parts["images"].append({**data["images"][old], "id": new})
            number = data["images"][old]["id"]
            parts["annotations"] += [{**a, "image_id": new} for a in data["annotations"] if a["image_id"] == number]
            found += [{**d, "image_id": new} for d in detections if d["image_id"] == number]
        values.append(coco_summary(parts, found)[0])
    assert intervals(result, resamples=12, seed=3)["oks_ap"] == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    assert "101" in result.protocol


def test_without_detections_the_score_is_zero_and_without_people_there_is_none():
    data, _ = make_data(0)
    assert full_scores(score_oks(data, []))["oks_ap"] == 0.0
    assert full_scores(score_oks({**data, "annotations": []}, []))["oks_ap"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, "detection 0: expected an image and a category of the data set, got image 99"),
        ({"category_id": 5}, "got image 10 and category 5"),
        ({"score": float("nan")}, "detection 0: expected a finite score"),
        ({"keypoints": [float("inf")] * 51}, "detection 0: expected a finite score and finite keypoints"),
        ({"keypoints": [1.0] * 50}, "keypoints of 51 numbers, got 50 numbers"),
    ],
)
def test_detections_that_do_not_fit_the_data_set_are_refused(change, message):
    data, detections = make_data(0)
    with pytest.raises(MetricError, match=message):
        score_oks(data, [{**detections[0], **change}])


def test_a_detection_or_data_set_that_lacks_something_is_refused():
    data, detections = make_data(0)
    with pytest.raises(MetricError, match="got no score"):
        score_oks(data, [{key: value for key, value in detections[0].items() if key != "score"}])
    with pytest.raises(MetricError, match="got none of categories"):
        score_oks({key: value for key, value in data.items() if key != "categories"}, [])
    with pytest.raises(MetricError, match="at least one image"):
        score_oks({**data, "images": []}, [])


def test_where_pycocotools_is_missing_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(MetricError, match="pip install pycocotools"):
        score_oks(*make_data(0))
