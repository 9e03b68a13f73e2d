"""What is wrong with the misdetections: mislocalised, taken for a similar or another class, or background; and what is missed.

Which classes are similar follows from the kind of data set: COCO's supercategories, or PASCAL VOC's usual groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypercolumns.box_experiments import BoxExperimentSpec
from hypercolumns.metrics import Overlaps, diagnose
from hypercolumns.metrics.diagnosis import COCO_SIMILAR, VOC_SIMILAR

__all__ = ["KINDS", "MISTAKES_AT", "diagnose_boxes"]

MISTAKES_AT = 0.5
"""Overlap from which a detection is right."""

KINDS = ("correct", "mislocalised", "similar_class", "other_class", "background")
"""What a detection can be; `missed` counts instances."""

_KNOWN = {"coco": ("COCO's supercategories", COCO_SIMILAR)} | {
    kind: ("PASCAL VOC's vehicles, animals, furniture and flying things", VOC_SIMILAR)
    for kind in ("voc", "sbd", "pascal_part", "berkeley")
}


def diagnose_boxes(tables: Sequence[Overlaps], class_names: Sequence[str], spec: BoxExperimentSpec) -> dict[str, Any]:
    """Count the kinds of mistakes of each class, and of all of them together.

    Args:
        tables: As of `overlap_tables`; none gives an empty result.
        class_names: The classes' names, in label order.
        spec: Says the kind of data set, and the rule of matching.

    Returns:
        `threshold`, `similar` (where the groups come from), `per_class` and `all`: counts by kind.
    """
    if not tables:
        return {}
    source, groups = _KNOWN.get(spec.instances.kind, ("none are known", ()))
    own = [group for each in groups if len(group := [name for name in each if name in class_names]) > 1]
    found = diagnose(tables, class_names, threshold=MISTAKES_AT, evaluator=spec.evaluate.evaluator, similar=own)
    per_class = {name: each.to_json() for name, each in found.items()}
    return {"threshold": MISTAKES_AT, "similar": source, "per_class": per_class, "all": _summed(per_class)}


def _summed(per_class: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    kinds = ("instances", *KINDS, "missed")
    return {kind: sum(counts[kind] for counts in per_class.values()) for kind in kinds}
