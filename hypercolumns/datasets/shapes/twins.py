"""Figures whose parts look alike: doll, windmill, barbell and totem, each with parts that only their place tells apart.

A doll's left arm is its right arm mirrored, a windmill's blades are one blade turned, a totem's blocks are one block three
times. Each builder draws one random form in the figure's own frame (see `primitives`); none is ever mirrored.
"""

from __future__ import annotations

import numpy as np

from hypercolumns.datasets.shapes.figures import FigureClass
from hypercolumns.datasets.shapes.primitives import (
    Joint,
    Pose,
    Stroke,
    degrees,
    ellipse,
    hang,
    limb,
    point,
    rotated_point,
    span,
)

__all__ = ["TWIN_CLASSES"]


def doll(rng: np.random.Generator) -> Pose:
    """Pose a doll seen from the front; its left is at the picture's right."""
    pelvis = point(0.0, 0.42)
    neck = hang(pelvis, 0.32, np.pi + degrees(rng, -6, 6))
    head = neck + point(span(rng, -0.02, 0.02), 0.13)
    strokes: list[Stroke] = []
    joints = {"head": Joint(head, ("doll_head",)), "pelvis": Joint(pelvis, ("doll_torso",))}
    for side, sign in (("right", -1.0), ("left", 1.0)):
        leg, arm = f"doll_{side}_leg", f"doll_{side}_arm"
        foot = hang(pelvis + point(sign * 0.06, 0.0), 0.4, sign * degrees(rng, 3, 32))
        hand = hang(neck + point(sign * 0.08, -0.03), 0.34, sign * degrees(rng, 25, 150))
        strokes.append(Stroke(leg, limb(pelvis + point(sign * 0.06, 0.0), foot, 0.12, 0.1)))
        strokes.append(Stroke(arm, limb(neck + point(sign * 0.08, -0.03), hand, 0.11, 0.09)))
        joints[f"{side}_foot"] = Joint(foot, (leg,))
        joints[f"{side}_hand"] = Joint(hand, (arm,))
    strokes.append(Stroke("doll_torso", limb(pelvis, neck, 0.24, 0.2)))
    strokes.append(Stroke("doll_head", ellipse(head, (0.1, 0.115))))
    return Pose(tuple(strokes), joints)


def windmill(rng: np.random.Generator) -> Pose:
    """Turn a windmill's four equal blades about their hub, by less than an eighth."""
    hub, turn, reach = point(0.0, 0.5), degrees(rng, -28, 28), span(rng, 0.44, 0.5)
    width = span(rng, 0.17, 0.23)
    strokes: list[Stroke] = []
    joints = {"hub": Joint(hub, ("windmill_hub",))}
    for number, side in enumerate(("right", "top", "left", "bottom")):
        tip = hub + rotated_point(reach, 0.0, turn + number * np.pi / 2)
        strokes.append(Stroke(f"windmill_{side}_blade", limb(hub, tip, 0.07, width)))
        joints[f"{side}_tip"] = Joint(tip, (f"windmill_{side}_blade",))
    strokes.append(Stroke("windmill_hub", ellipse(hub, (0.1, 0.1))))
    return Pose(tuple(strokes), joints)


def barbell(rng: np.random.Generator) -> Pose:
    """Hold a barbell: a bar between two equal discs, about level."""
    slope, half, radius = degrees(rng, -16, 16), span(rng, 0.38, 0.48), span(rng, 0.19, 0.23)
    strokes: list[Stroke] = []
    joints = {"middle": Joint(point(0.0, 0.0), ("barbell_bar",))}
    for side, sign in (("left", -1.0), ("right", 1.0)):
        end = rotated_point(sign * half, 0.0, slope)
        strokes.append(Stroke(f"barbell_{side}_disc", ellipse(end, (radius, radius))))
        joints[f"{side}_end"] = Joint(end, (f"barbell_{side}_disc",))
    inner = rotated_point(half - 0.8 * radius, 0.0, slope)
    strokes.append(Stroke("barbell_bar", limb(-inner, inner, 0.13, 0.13)))
    return Pose(tuple(strokes), joints)


def totem(rng: np.random.Generator) -> Pose:
    """Stack three equal blocks, each with a knob on either side."""
    width, height = span(rng, 0.15, 0.2), span(rng, 0.15, 0.17)
    strokes: list[Stroke] = []
    joints: dict[str, Joint] = {}
    for number, level in enumerate(("bottom", "middle", "top")):
        middle = point(span(rng, -0.06, 0.06), height * (2 * number + 1))
        part = f"totem_{level}"
        strokes.append(Stroke(part, ellipse(middle, (width, height))))
        strokes.append(Stroke(part, limb(middle - point(width + 0.07, 0.0), middle + point(width + 0.07, 0.0), 0.1, 0.1)))
        joints[f"{level}_left"] = Joint(middle - point(width + 0.07, 0.0), (part,))
        joints[f"{level}_right"] = Joint(middle + point(width + 0.07, 0.0), (part,))
    return Pose(tuple(strokes), joints)


TWIN_CLASSES: tuple[FigureClass, ...] = (
    FigureClass(
        "doll",
        doll,
        ("doll_head", "doll_torso", "doll_left_arm", "doll_right_arm", "doll_left_leg", "doll_right_leg"),
        ("head", "pelvis", "left_hand", "right_hand", "left_foot", "right_foot"),
        (
            ("head", "pelvis"),
            ("pelvis", "left_foot"),
            ("pelvis", "right_foot"),
            ("left_hand", "head"),
            ("right_hand", "head"),
        ),
        size=1.1,
        mirrors=False,
    ),
    FigureClass(
        "windmill",
        windmill,
        ("windmill_hub", "windmill_top_blade", "windmill_right_blade", "windmill_bottom_blade", "windmill_left_blade"),
        ("hub", "top_tip", "right_tip", "bottom_tip", "left_tip"),
        (("hub", "top_tip"), ("hub", "right_tip"), ("hub", "bottom_tip"), ("hub", "left_tip")),
        size=0.9,
        mirrors=False,
    ),
    FigureClass(
        "barbell",
        barbell,
        ("barbell_bar", "barbell_left_disc", "barbell_right_disc"),
        ("middle", "left_end", "right_end"),
        (("left_end", "middle"), ("middle", "right_end")),
        size=1.0,
        mirrors=False,
    ),
    FigureClass(
        "totem",
        totem,
        ("totem_bottom", "totem_middle", "totem_top"),
        ("bottom_left", "bottom_right", "middle_left", "middle_right", "top_left", "top_right"),
        (
            ("bottom_left", "bottom_right"),
            ("middle_left", "middle_right"),
            ("top_left", "top_right"),
        ),
        size=1.0,
        mirrors=False,
    ),
)
"""Every class, in the order of its labels from 1."""
