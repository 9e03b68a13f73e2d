"""The classes of figures: their names, named parts, keypoints, skeletons and builders, in one table.

The order of this table decides the label of every class and part; it belongs to the generator's version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hypercolumns.datasets.shapes.creatures import bird, dog, person
from hypercolumns.datasets.shapes.primitives import Pose
from hypercolumns.datasets.shapes.things import bicycle, car, house, parasol, tree

__all__ = ["CLASS_NAMES", "FIGURE_CLASSES", "PART_IDS", "PART_NAMES", "FigureClass", "class_names", "part_ids"]


@dataclass(frozen=True)
class FigureClass:
    """One class of figures.

    Args:
        name: The class's name.
        build: Draws one random pose.
        parts: Names of its parts, each prefixed by the class's name.
        keypoints: Names of its keypoints, in the order of COCO files.
        skeleton: Pairs of keypoints to be joined by a line.
        size: Factor on its height, so that every class covers about as many pixels.
        mirrors: Whether it may face left; a person's left and right would be swapped.
    """

    name: str
    build: Callable[[np.random.Generator], Pose]
    parts: tuple[str, ...]
    keypoints: tuple[str, ...]
    skeleton: tuple[tuple[str, str], ...]
    size: float
    mirrors: bool = True


def _parts(name: str, *parts: str) -> tuple[str, ...]:
    return tuple(f"{name}_{part}" for part in parts)


def _skeleton(*paths: str) -> tuple[tuple[str, str], ...]:
    """Read paths such as `"hip knee ankle"` as pairs of neighbours."""
    names = [path.split() for path in paths]
    return tuple((path[i], path[i + 1]) for path in names for i in range(len(path) - 1))


FIGURE_CLASSES: tuple[FigureClass, ...] = (
    FigureClass(
        "person",
        person,
        _parts("person", "head", "torso", "arm", "leg"),
        (
            "head",
            "neck",
            "left_shoulder",
            "right_shoulder",
            "left_elbow",
            "right_elbow",
            "left_wrist",
            "right_wrist",
            "left_hip",
            "right_hip",
            "left_knee",
            "right_knee",
            "left_ankle",
            "right_ankle",
        ),
        _skeleton(
            "head neck left_shoulder left_elbow left_wrist",
            "neck right_shoulder right_elbow right_wrist",
            "neck left_hip left_knee left_ankle",
            "neck right_hip right_knee right_ankle",
        ),
        size=1.22,
        mirrors=False,
    ),
    FigureClass(
        "dog",
        dog,
        _parts("dog", "head", "ear", "body", "leg", "tail"),
        (
            "nose",
            "ear_tip",
            "neck",
            "tail_base",
            "tail_tip",
            "near_front_paw",
            "far_front_paw",
            "near_hind_paw",
            "far_hind_paw",
        ),
        _skeleton(
            "nose neck tail_base tail_tip",
            "neck ear_tip",
            "neck near_front_paw",
            "neck far_front_paw",
            "tail_base near_hind_paw",
            "tail_base far_hind_paw",
        ),
        size=1.08,
    ),
    FigureClass(
        "bird",
        bird,
        _parts("bird", "head", "beak", "body", "wing", "tail", "leg"),
        ("beak_tip", "head", "chest", "wing_tip", "tail_tip", "near_knee", "far_knee", "near_foot", "far_foot"),
        _skeleton("beak_tip head chest tail_tip", "chest wing_tip", "chest near_knee near_foot", "chest far_knee far_foot"),
        size=1.12,
    ),
    FigureClass(
        "tree",
        tree,
        _parts("tree", "trunk", "branch", "crown"),
        ("root", "fork", "branch_tip", "crown_top", "crown_left", "crown_right"),
        _skeleton("root fork crown_top", "fork branch_tip", "crown_left fork crown_right"),
        size=1.0,
    ),
    FigureClass(
        "house",
        house,
        _parts("house", "wall", "roof", "door", "window", "chimney"),
        ("base_left", "base_right", "eaves_left", "eaves_right", "ridge", "chimney_top", "door"),
        _skeleton("base_left base_right eaves_right ridge eaves_left base_left", "ridge chimney_top"),
        size=0.8,
    ),
    FigureClass(
        "car",
        car,
        _parts("car", "body", "window", "wheel", "antenna"),
        ("front_wheel", "rear_wheel", "front_bumper", "rear_bumper", "roof_front", "roof_rear", "antenna_tip"),
        _skeleton("rear_bumper rear_wheel front_wheel front_bumper roof_front roof_rear rear_bumper", "roof_rear antenna_tip"),
        size=0.92,
    ),
    FigureClass(
        "bicycle",
        bicycle,
        _parts("bicycle", "wheel", "frame", "pedal", "saddle", "handlebar"),
        ("front_hub", "rear_hub", "crank", "pedal", "saddle", "handlebar"),
        _skeleton("rear_hub crank saddle rear_hub", "crank handlebar front_hub", "crank pedal"),
        size=1.1,
    ),
    FigureClass(
        "parasol",
        parasol,
        _parts("parasol", "base", "pole", "canopy", "tip"),
        ("base", "pole_middle", "canopy_left", "canopy_right", "canopy_top", "tip"),
        _skeleton("base pole_middle canopy_top tip", "canopy_left canopy_top canopy_right"),
        size=1.2,
    ),
)
"""Every class, in the order of its labels from 1."""


def class_names(table: tuple[FigureClass, ...]) -> tuple[str, ...]:
    """Name the class labels of a table; 0 is background."""
    return ("background", *(figure.name for figure in table))


def part_ids(table: tuple[FigureClass, ...]) -> dict[str, int]:
    """Number the parts of a table of classes from 1; 0 is background."""
    return {name: label for label, name in enumerate(("background", *(part for figure in table for part in figure.parts)))}


CLASS_NAMES: tuple[str, ...] = class_names(FIGURE_CLASSES)
"""Names of the class labels; 0 is background."""

PART_NAMES: tuple[str, ...] = ("background", *(part for figure in FIGURE_CLASSES for part in figure.parts))
"""Names of the part labels, unique over all classes; 0 is background."""

PART_IDS: dict[str, int] = part_ids(FIGURE_CLASSES)
"""The label of every part."""
