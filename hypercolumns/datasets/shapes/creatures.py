"""Figures that move: person, dog and bird, with articulated limbs.

Each builder draws one random pose in the figure's own frame (see `primitives`); it decides neither size nor colour.
Widths are kept so that the thinnest limbs come out at 2 to 4 pixels in a 128-pixel scene.
"""

from __future__ import annotations

import numpy as np

from hypercolumns.datasets.shapes.primitives import (
    FloatArray,
    Joint,
    Pose,
    Stroke,
    arc,
    chain,
    degrees,
    ellipse,
    hang,
    limb,
    point,
    rotated,
    rotated_point,
    smooth,
    span,
)

_FAR_SHADE = 0.72


def person(rng: np.random.Generator) -> Pose:
    """Pose a person seen from the front; its left is at the picture's right."""
    lean, stance = degrees(rng, -9, 9), span(rng, 0.06, 0.085)
    pelvis = point(0.0, 0.45)
    neck = hang(pelvis, -span(rng, 0.31, 0.35), -lean)
    head = hang(neck, -0.10, -lean + degrees(rng, -12, 12))
    girth = span(rng, 0.085, 0.115)
    strokes: list[Stroke] = []
    joints = {
        "head": Joint(head, ("person_head",)),
        "neck": Joint(neck, ("person_torso", "person_head")),
    }
    for side, sign in (("right", -1.0), ("left", 1.0)):
        strokes += _person_leg(rng, pelvis + point(sign * stance, 0.0), side, sign, joints)
    across = rotated_point(girth + 0.03, 0.0, lean)
    torso = np.array(
        [pelvis - point(stance + 0.035, 0.03), pelvis + point(stance + 0.035, -0.03), neck + across, neck - across]
    )
    strokes.append(Stroke("person_torso", torso))
    strokes.append(Stroke("person_torso", limb(neck - across, neck + across, 0.07, 0.07)))
    strokes.append(Stroke("person_head", limb(neck, head, 0.06, 0.06)))
    strokes.append(Stroke("person_head", ellipse(head, (0.072, 0.092), lean)))
    for side, sign in (("right", -1.0), ("left", 1.0)):
        strokes += _person_arm(rng, neck + sign * across, side, sign, joints)
    return Pose(tuple(strokes), joints)


def _person_leg(rng: np.random.Generator, hip: FloatArray, side: str, sign: float, joints: dict[str, Joint]) -> list[Stroke]:
    upper = sign * degrees(rng, -8, 32)
    knee = hang(hip, 0.21, upper)
    ankle = hang(knee, 0.22, upper - sign * degrees(rng, 0, 30))
    toe = ankle + point(sign * 0.06, -0.012)
    joints[f"{side}_hip"] = Joint(hip, ("person_leg", "person_torso"))
    joints[f"{side}_knee"] = Joint(knee, ("person_leg",))
    joints[f"{side}_ankle"] = Joint(ankle, ("person_leg",))
    bars = [limb(hip, knee, 0.085, 0.062), limb(knee, ankle, 0.062, 0.046), limb(ankle, toe, 0.048, 0.048)]
    return [Stroke("person_leg", bar) for bar in bars]


def _person_arm(
    rng: np.random.Generator, shoulder: FloatArray, side: str, sign: float, joints: dict[str, Joint]
) -> list[Stroke]:
    upper = sign * degrees(rng, 12, 135)
    elbow = hang(shoulder, 0.16, upper)
    wrist = hang(elbow, 0.16, upper + sign * degrees(rng, -45, 85))
    joints[f"{side}_shoulder"] = Joint(shoulder, ("person_arm", "person_torso"))
    joints[f"{side}_elbow"] = Joint(elbow, ("person_arm",))
    joints[f"{side}_wrist"] = Joint(wrist, ("person_arm",))
    bars = [limb(shoulder, elbow, 0.062, 0.05), limb(elbow, wrist, 0.05, 0.044), ellipse(wrist, (0.032, 0.032))]
    return [Stroke("person_arm", bar) for bar in bars]


def dog(rng: np.random.Generator) -> Pose:
    """Pose a dog-like animal seen from the side, facing right."""
    length, depth, legs = span(rng, 0.33, 0.43), span(rng, 0.11, 0.15), span(rng, 0.36, 0.46)
    rump, chest = point(-length, legs + 0.1), point(length, legs + 0.12)
    joints: dict[str, Joint] = {}
    strokes: list[Stroke] = []
    for side, shade in (("far", _FAR_SHADE), ("near", 1.0)):
        for end, hip in (("hind", rump + point(0.05, -0.04)), ("front", chest + point(-0.05, -0.06))):
            strokes += _dog_leg(rng, hip, legs, (side, end), shade, joints)
    tail = arc([rump + point(-0.03, 0.05), rump + point(-0.2, span(rng, -0.05, 0.2)), rump + _tail_reach(rng)])
    strokes[6:6] = [Stroke("dog_tail", bar) for bar in chain(tail, 0.06, 0.045)]
    body = np.array([
        rump + point(-0.04, 0.0), rump + point(0.02, depth * 0.8), point(0.0, legs + 0.1 + depth * 0.7),
        chest + point(-0.02, depth * 0.85), chest + point(0.06, 0.0), chest + point(-0.05, -depth),
        point(0.0, legs + 0.1 - depth * 0.75), rump + point(0.04, -depth * 0.8),
    ])  # fmt: skip
    strokes.append(Stroke("dog_body", smooth(body)))
    strokes += _dog_head(rng, chest + point(0.0, 0.04), joints)
    joints["tail_base"] = Joint(tail[0], ("dog_body", "dog_tail"))
    joints["tail_tip"] = Joint(tail[-1], ("dog_tail",))
    return Pose(tuple(strokes), joints)


def _tail_reach(rng: np.random.Generator) -> FloatArray:
    return point(span(rng, -0.32, -0.1), span(rng, -0.05, 0.38))


def _dog_leg(
    rng: np.random.Generator,
    hip: FloatArray,
    length: float,
    name: tuple[str, str],
    shade: float,
    joints: dict[str, Joint],
) -> list[Stroke]:
    swing = degrees(rng, -28, 28)
    knee = hang(hip, 0.5 * length, swing)
    paw = hang(knee, 0.52 * length, swing - degrees(rng, 0, 35))
    joints["_".join((*name, "paw"))] = Joint(paw, ("dog_leg",))
    bars = [limb(hip, knee, 0.095, 0.06), limb(knee, paw, 0.06, 0.045), limb(paw, paw + point(0.05, 0.0), 0.05, 0.045)]
    return [Stroke("dog_leg", bar, shade) for bar in bars]


def _dog_head(rng: np.random.Generator, chest: FloatArray, joints: dict[str, Joint]) -> list[Stroke]:
    head = chest + point(span(rng, 0.1, 0.17), span(rng, 0.14, 0.26))
    pitch = degrees(rng, -35, 20)
    nose = head + rotated_point(span(rng, 0.17, 0.22), -0.02, pitch)
    ear_root = head + rotated_point(-0.05, 0.06, pitch)
    ear_tip = hang(ear_root, span(rng, 0.12, 0.16), degrees(rng, -160, -20))
    joints["nose"] = Joint(nose, ("dog_head",))
    joints["ear_tip"] = Joint(ear_tip, ("dog_ear",))
    joints["neck"] = Joint(0.5 * (chest + head), ("dog_body", "dog_head"))
    return [
        Stroke("dog_body", limb(chest, head, 0.19, 0.12)),
        Stroke("dog_head", ellipse(head, (0.105, 0.088), pitch)),
        Stroke("dog_head", limb(head, nose, 0.12, 0.065)),
        Stroke("dog_ear", limb(ear_root, ear_tip, 0.075, 0.045)),
    ]


def bird(rng: np.random.Generator) -> Pose:
    """Pose a long-legged bird seen from the side, facing right, its wing folded or raised."""
    legs, tilt = span(rng, 0.33, 0.43), degrees(rng, -5, 28)
    middle = point(0.0, legs + 0.13)
    length, depth = span(rng, 0.23, 0.29), span(rng, 0.115, 0.145)

    def on_body(x: float, y: float) -> FloatArray:
        return middle + rotated_point(x * length, y * depth, tilt)

    joints: dict[str, Joint] = {"chest": Joint(on_body(0.9, 0.1), ("bird_body",))}
    strokes: list[Stroke] = []
    for side, shade in (("far", _FAR_SHADE), ("near", 1.0)):
        strokes += _bird_leg(rng, middle + point(0.02 if side == "near" else -0.02, -0.06), side, shade, joints)
    tail_tip = on_body(-1.75, span(rng, -0.7, 0.5))
    strokes.append(
        Stroke("bird_tail", np.array([on_body(-0.6, 0.6), tail_tip + point(0, 0.04), tail_tip, on_body(-0.6, -0.5)]))
    )
    joints["tail_tip"] = Joint(tail_tip + point(0.015, 0.018), ("bird_tail",))
    strokes.append(Stroke("bird_body", ellipse(middle, (length, depth), tilt)))
    strokes += _bird_head(rng, on_body(0.8, 0.3), joints)
    raised = rng.random() < 0.45
    tip = on_body(-0.9, 3.4) + point(span(rng, -0.12, 0.2), 0.0) if raised else on_body(-1.25, span(rng, 0.3, 1.1))
    wing = np.array(
        [
            on_body(0.5, 0.35),
            on_body(-0.05, 1.5 if raised else 0.95),
            tip,
            on_body(-0.5, -0.35 + 0.4 * raised),
            on_body(0.2, -0.4),
        ]
    )
    strokes.append(Stroke("bird_wing", smooth(wing)))
    joints["wing_tip"] = Joint(0.9 * tip + 0.1 * middle, ("bird_wing",))
    return Pose(tuple(strokes), joints)


def _bird_leg(rng: np.random.Generator, hip: FloatArray, side: str, shade: float, joints: dict[str, Joint]) -> list[Stroke]:
    swing = degrees(rng, -18, 26)
    knee = hang(hip, 0.48 * hip[1], swing)
    foot = hang(knee, 0.52 * hip[1], swing - degrees(rng, 5, 40))
    joints[f"{side}_knee"] = Joint(knee, ("bird_leg",))
    joints[f"{side}_foot"] = Joint(foot, ("bird_leg",))
    bars = [limb(hip, knee, 0.055, 0.045), limb(knee, foot, 0.045, 0.042), limb(foot, foot + point(0.09, 0.0), 0.045, 0.04)]
    return [Stroke("bird_leg", bar, shade) for bar in bars]


def _bird_head(rng: np.random.Generator, chest: FloatArray, joints: dict[str, Joint]) -> list[Stroke]:
    head = chest + point(span(rng, 0.04, 0.2), span(rng, 0.22, 0.34))
    neck = arc([chest, chest + point(span(rng, 0.1, 0.2), 0.06), head])
    beak = hang(head, span(rng, 0.19, 0.26), degrees(rng, 50, 100))
    normal = rotated((beak - head)[None], np.pi / 2)[0] * 0.16
    joints["head"] = Joint(head, ("bird_head",))
    joints["beak_tip"] = Joint(0.93 * beak + 0.07 * head, ("bird_beak",))
    strokes = [Stroke("bird_body", bar) for bar in chain(neck, 0.1, 0.055)]
    strokes.append(Stroke("bird_beak", np.array([head + normal, 0.02 * normal + beak, beak - 0.02 * normal, head - normal])))
    strokes.append(Stroke("bird_head", ellipse(head, (0.062, 0.056))))
    return strokes
