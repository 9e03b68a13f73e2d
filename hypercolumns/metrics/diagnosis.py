"""What is wrong with detections: which kind of mistake each misdetection is, and how many instances are missed.

Source: Hoiem, Chodpathumwan and Dai, "Diagnosing error in object detectors", ECCV 2012, sec. 3: of a class with N instances the
N best detections are looked at; a misdetection is mislocalised if it overlaps an instance of its class by 0.1 or finds one a
second time, else taken for a similar class if it overlaps one of those by 0.1, else for another class, else it is background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from hypercolumns.errors import MetricError
from hypercolumns.metrics.instances import Evaluator, check_instances, match
from hypercolumns.metrics.overlaps import Overlaps

__all__ = ["COCO_SIMILAR", "VOC_SIMILAR", "Diagnosis", "diagnose"]

VOC_SIMILAR = (
    ("aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train"),
    ("bird", "cat", "cow", "dog", "horse", "person", "sheep"),
    ("chair", "diningtable", "sofa"),
    ("aeroplane", "bird"),
)
"""Similar classes of PASCAL VOC: vehicles, animals with persons, furniture, and what flies."""

COCO_SIMILAR = (
    ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    ("traffic light", "fire hydrant", "stop sign", "parking meter", "bench"),
    ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    ("backpack", "umbrella", "handbag", "tie", "suitcase"),
    (
        *("frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard"),
        *("surfboard", "tennis racket"),
    ),
    ("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
    ("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"),
    ("chair", "couch", "potted plant", "bed", "dining table", "toilet"),
    ("tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    ("microwave", "oven", "toaster", "sink", "refrigerator"),
    ("book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
"""Similar classes of COCO: those of one supercategory in its own annotation files; persons are alone in theirs."""

_TOUCHES = 0.1


@dataclass(frozen=True)
class Diagnosis:
    """The best detections of a class, as many as it has instances (or fewer), by what they are; and what none of them found.

    Attributes:
        instances: Instances of the class.
        correct: Detections that found one.
        mislocalised: They overlap an instance of the class, too little or a second time.
        similar_class: They overlap an instance of a similar class.
        other_class: They overlap an instance of any other class.
        background: They overlap nothing.
        missed: Instances that none of these detections found.
    """

    instances: int
    correct: int
    mislocalised: int
    similar_class: int
    other_class: int
    background: int
    missed: int

    def to_json(self) -> dict[str, int]:
        """Return the counts as plain JSON values."""
        return asdict(self)


def diagnose(
    images: Sequence[Overlaps],
    class_names: Sequence[str],
    *,
    threshold: float = 0.5,
    evaluator: Evaluator = "coco",
    similar: Sequence[Sequence[str]] = (),
) -> dict[str, Diagnosis]:
    """Count each class's kinds of mistakes.

    Args:
        images: All images.
        class_names: The classes' names, in label order.
        threshold: Overlap asked for, in (0, 1].
        evaluator: The rule of matching.
        similar: Groups of names of similar classes; a class may be in several.

    Returns:
        By name, for classes with an instance.

    Raises:
        MetricError: a label or a similar class has no name, or a parameter is out of range.
    """
    check_instances(images, class_names, (threshold,), evaluator)
    foreign = sorted({name for group in similar for name in group} - set(class_names))
    if foreign:
        raise MetricError(f"similar: expected names of classes, got {', '.join(foreign)}; leave those out")
    found = {}
    for label, name in enumerate(class_names):
        alike = {other for group in similar if name in group for other in group} - {name}
        labels = np.array([number for number, other in enumerate(class_names) if other in alike], np.int64)
        instances = sum(int(((image.truth_labels == label) & ~image.crowd).sum()) for image in images)
        if instances:
            found[name] = _diagnose_class(images, label, labels, instances, threshold, evaluator)
    return found


def _diagnose_class(
    images: Sequence[Overlaps], label: int, similar: NDArray[np.int64], instances: int, threshold: float, evaluator: Evaluator
) -> Diagnosis:
    scores, kinds = [], []
    for image in images:
        own, truth = image.labels == label, image.truth_labels == label
        matched = match(image.overlaps[np.ix_(own, truth)], image.scores[own], image.crowd[truth], threshold, evaluator)
        in_crowd = np.append(image.crowd[truth], False)[matched]
        kind = _kinds(image, label, similar, matched >= 0)
        scores.append(np.asarray(image.scores, np.float64)[own][~in_crowd])
        kinds.append(kind[~in_crowd])
    order = np.argsort(-np.concatenate(scores), kind="stable")[:instances]
    correct, *mistakes = np.bincount(np.concatenate(kinds)[order], minlength=5).tolist()
    mislocalised, similar_class, other_class, background = mistakes
    return Diagnosis(instances, correct, mislocalised, similar_class, other_class, background, instances - correct)


def _kinds(image: Overlaps, label: int, similar: NDArray[np.int64], hit: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the kind of each of the class's detections in an image, numbered as the counts of `Diagnosis`."""
    lines = image.overlaps[image.labels == label]
    touches = [
        (lines[:, chosen & ~image.crowd] >= _TOUCHES).any(axis=1)
        for chosen in (image.truth_labels == label, np.isin(image.truth_labels, similar), image.truth_labels != label)
    ]
    kinds: NDArray[np.int64] = np.select([hit, *touches], [0, 1, 2, 3], default=4)
    return kinds
