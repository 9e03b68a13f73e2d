"""Figures that stand: tree, house, car, bicycle and parasol.

Each builder draws one random form in the figure's own frame (see `primitives`); it decides neither size nor colour.
Tree and parasol, house and car resemble each other on purpose when seen coarsely.
"""

from __future__ import annotations

import numpy as np

from hypercolumns.datasets.shapes.primitives import (
    FloatArray,
    Joint,
    Pose,
    Stroke,
    degrees,
    ellipse,
    hang,
    limb,
    point,
    ring,
    rotated,
    rotated_point,
    smooth,
    span,
)


def tree(rng: np.random.Generator) -> Pose:
    """Grow a tree: a thin trunk, a bare branch or two, and a leafy or a conical crown."""
    root, fork = point(0.0, 0.0), point(span(rng, -0.06, 0.06), span(rng, 0.34, 0.46))
    strokes = [Stroke("tree_trunk", limb(root, fork, span(rng, 0.085, 0.11), 0.06))]
    joints = {
        "root": Joint(root + point(0.0, 0.02), ("tree_trunk",)),
        "fork": Joint(fork, ("tree_trunk", "tree_branch", "tree_crown")),
    }
    strokes += _bare_branch(rng, fork, joints)
    crown, top, left, right = _conifer(rng, fork) if rng.random() < 0.4 else _leafy_crown(rng, fork)
    strokes += [Stroke("tree_crown", polygon) for polygon in crown]
    for name, tip in (("crown_top", top), ("crown_left", left), ("crown_right", right)):
        joints[name] = Joint(tip, ("tree_crown",))
    return Pose(tuple(strokes), joints)


def _bare_branch(rng: np.random.Generator, fork: FloatArray, joints: dict[str, Joint]) -> list[Stroke]:
    low = fork * span(rng, 0.55, 0.75)
    sign = 1.0 if rng.random() < 0.5 else -1.0
    tip = hang(low, span(rng, 0.26, 0.36), sign * degrees(rng, 95, 130))
    twig = 0.5 * (low + tip)
    joints["branch_tip"] = Joint(tip, ("tree_branch",))
    bars = [limb(low, tip, 0.055, 0.042), limb(twig, hang(twig, 0.13, sign * degrees(rng, 150, 180)), 0.042, 0.04)]
    return [Stroke("tree_branch", bar) for bar in bars]


_Crown = tuple[list[FloatArray], FloatArray, FloatArray, FloatArray]


def _leafy_crown(rng: np.random.Generator, fork: FloatArray) -> _Crown:
    middle, width, height = fork + point(0.0, span(rng, 0.24, 0.3)), span(rng, 0.2, 0.27), span(rng, 0.18, 0.24)
    turns = np.linspace(0, 2 * np.pi, 7, endpoint=False) + span(rng, 0, 1)
    puffs = [
        ellipse(
            middle + point(width * float(np.cos(a)), height * float(np.sin(a))), (span(rng, 0.1, 0.15), span(rng, 0.09, 0.13))
        )
        for a in turns
    ]
    puffs.append(ellipse(middle, (width, height)))
    corners = np.concatenate(puffs)
    inward = 0.94
    top, left, right = (corners[i] for i in (corners[:, 1].argmax(), corners[:, 0].argmin(), corners[:, 0].argmax()))
    return puffs, *(middle + inward * (tip - middle) for tip in (top, left, right))


def _conifer(rng: np.random.Generator, fork: FloatArray) -> _Crown:
    width, top_height, base = span(rng, 0.26, 0.34), span(rng, 0.95, 1.1), 0.6 * fork[1]
    tiers = []
    for level in range(3):
        low = base + (top_height - base) * 0.27 * level
        peak = low + (top_height - base) * 0.46
        half = width * (1 - 0.24 * level)
        tiers.append(np.array([[fork[0] - half, low], [fork[0] + half, low], [fork[0], peak]]))
    top = point(fork[0], tiers[-1][2, 1] - 0.04)
    return tiers, top, tiers[0][0] + point(0.05, 0.015), tiers[0][1] + point(-0.05, 0.015)


def house(rng: np.random.Generator) -> Pose:
    """Build a house front: wall, roof with thin eaves, door, windows, and perhaps a chimney."""
    half, wall, rise = span(rng, 0.36, 0.5), span(rng, 0.36, 0.48), span(rng, 0.24, 0.38)
    eaves, ridge = span(rng, 0.07, 0.12), span(rng, 0.0, 0.45) * half
    peak = point(span(rng, -0.1, 0.1), wall + rise)
    strokes: list[Stroke] = []
    joints = {
        "base_left": Joint(point(-half + 0.02, 0.02), ("house_wall",)),
        "base_right": Joint(point(half - 0.02, 0.02), ("house_wall",)),
        "eaves_left": Joint(point(-half - eaves + 0.02, wall + 0.015), ("house_roof",)),
        "eaves_right": Joint(point(half + eaves - 0.02, wall + 0.015), ("house_roof",)),
        "ridge": Joint(peak - point(0.0, 0.03), ("house_roof",)),
    }
    if rng.random() < 0.75:
        side = half * span(rng, 0.45, 0.65) * (1 if rng.random() < 0.5 else -1)
        top = point(side, wall + rise + span(rng, 0.0, 0.12))
        strokes.append(Stroke("house_chimney", _block(side, wall, 0.045, top[1] - wall)))
        joints["chimney_top"] = Joint(top - point(0.0, 0.02), ("house_chimney",))
    strokes.append(Stroke("house_wall", _block(0.0, 0.0, half, wall)))
    roof = [[-half - eaves, wall - 0.02], [half + eaves, wall - 0.02], [half + eaves, wall + 0.025],
            [peak[0] + ridge, peak[1]], [peak[0] - ridge, peak[1]], [-half - eaves, wall + 0.025]]  # fmt: skip
    strokes.append(Stroke("house_roof", np.array(roof)))
    door = half * span(rng, -0.6, 0.6)
    strokes.append(Stroke("house_door", _block(door, 0.0, 0.065, span(rng, 0.22, 0.28))))
    joints["door"] = Joint(point(door, 0.12), ("house_door",))
    windows = [place for place in (-0.62 * half, 0.0, 0.62 * half) if abs(place - door) > 0.16]
    strokes += [Stroke("house_window", _block(place, 0.45 * wall, 0.06, 0.12)) for place in windows]
    return Pose(tuple(strokes), joints)


def _block(center_x: float, low: float, half_width: float, height: float) -> FloatArray:
    left, right = center_x - half_width, center_x + half_width
    return np.array([[left, low], [right, low], [right, low + height], [left, low + height]])


def car(rng: np.random.Generator) -> Pose:
    """Build a car seen from the side, facing right: saloon, van or anything between."""
    half, belt, roof = span(rng, 0.5, 0.62), span(rng, 0.27, 0.33), span(rng, 0.5, 0.62)
    wheel, sill = span(rng, 0.1, 0.13), 0.11
    rear = -half + span(rng, 0.04, 0.2)
    front = half - span(rng, 0.14, 0.34)
    roof_rear, roof_front = point(rear + 0.08, roof), point(front - span(rng, 0.14, 0.26), roof)
    body = [
        [-half, sill],
        [half, sill],
        [half + 0.01, belt - 0.06],
        [front + 0.06, belt + 0.02],
        [-half + 0.02, belt + 0.02],
        [-half - 0.01, belt - 0.08],
    ]
    cabin = np.array([[rear - 0.02, belt], [front + 0.02, belt], roof_front, roof_rear])
    center = cabin.mean(axis=0)
    glass = center + (cabin - center) * np.array([0.84, 0.66])
    pillar = 0.5 * (glass[0] + glass[1]) + point(span(rng, -0.06, 0.06), 0.0)
    mast = roof_rear + point(0.05, -0.01)
    tip = hang(mast, span(rng, 0.16, 0.24), degrees(rng, -168, -140))
    hubs = {"rear_wheel": point(-half + 0.22, wheel), "front_wheel": point(half - 0.22, wheel)}
    strokes = [
        Stroke("car_antenna", limb(mast, tip, 0.042, 0.04)),
        Stroke("car_body", cabin),
        Stroke("car_body", np.array(body)),
    ]
    strokes.append(Stroke("car_window", glass))
    strokes.append(Stroke("car_body", limb(pillar, point(pillar[0], roof - 0.02), 0.045, 0.045)))
    strokes += [Stroke("car_wheel", ellipse(hub, (wheel, wheel))) for hub in hubs.values()]
    strokes += [Stroke("car_wheel", ellipse(hub, (0.45 * wheel, 0.45 * wheel)), dress="hub") for hub in hubs.values()]
    joints = {name: Joint(hub, ("car_wheel",)) for name, hub in hubs.items()}
    joints["rear_bumper"] = Joint(point(-half + 0.02, sill + 0.05), ("car_body",))
    joints["front_bumper"] = Joint(point(half - 0.02, sill + 0.05), ("car_body",))
    joints["roof_rear"] = Joint(roof_rear + point(0.015, -0.02), ("car_body", "car_antenna"))
    joints["roof_front"] = Joint(roof_front + point(-0.01, -0.02), ("car_body",))
    joints["antenna_tip"] = Joint(tip, ("car_antenna",))
    return Pose(tuple(strokes), joints)


def bicycle(rng: np.random.Generator) -> Pose:
    """Build a bicycle seen from the side, facing right, its front wheel turned a little."""
    radius, base = span(rng, 0.25, 0.29), span(rng, 0.36, 0.41)
    rear, front = point(-base, radius), point(base, radius)
    crank, seat = point(-0.05, radius - 0.02), point(span(rng, -0.2, -0.15), span(rng, 0.6, 0.68))
    head = point(base - span(rng, 0.1, 0.15), span(rng, 0.58, 0.66))
    bar_end = head + point(span(rng, -0.02, 0.1), span(rng, 0.1, 0.17))
    turned = radius * span(rng, 0.7, 1.0)
    strokes = [
        Stroke("bicycle_wheel", ring(rear, (radius, radius), 0.06)),
        Stroke("bicycle_wheel", ring(front, (turned, radius), 0.06)),
    ]
    tubes = [(rear, crank), (rear, seat), (seat, crank), (crank, head), (seat, head), (head, front)]
    strokes += [Stroke("bicycle_frame", limb(a, b, 0.05, 0.05)) for a, b in tubes]
    pedal = hang(crank, 0.14, degrees(rng, -180, 180))
    strokes.append(Stroke("bicycle_pedal", limb(crank, pedal, 0.05, 0.045)))
    strokes.append(Stroke("bicycle_pedal", limb(pedal - point(0.055, 0), pedal + point(0.055, 0), 0.05, 0.05)))
    saddle = seat + point(-0.02, 0.06)
    strokes.append(Stroke("bicycle_frame", limb(seat, saddle, 0.048, 0.048)))
    strokes.append(Stroke("bicycle_saddle", limb(saddle - point(0.1, -0.01), saddle + point(0.1, 0.0), 0.08, 0.05)))
    strokes.append(Stroke("bicycle_handlebar", limb(head, bar_end, 0.05, 0.05)))
    strokes.append(Stroke("bicycle_handlebar", limb(bar_end, bar_end + point(-0.1, 0.04), 0.05, 0.055)))
    joints = {
        "rear_hub": Joint(rear, ("bicycle_frame",)), "front_hub": Joint(front, ("bicycle_frame",)),
        "crank": Joint(crank, ("bicycle_frame", "bicycle_pedal")), "pedal": Joint(pedal, ("bicycle_pedal",)),
        "saddle": Joint(saddle, ("bicycle_saddle",)), "handlebar": Joint(bar_end, ("bicycle_handlebar",)),
    }  # fmt: skip
    return Pose(tuple(strokes), joints)


def parasol(rng: np.random.Generator) -> Pose:
    """Open a parasol: a weighted base, a thin pole, a panelled canopy with a scalloped rim, and a tip."""
    half, depth, hub = span(rng, 0.36, 0.5), span(rng, 0.18, 0.3), span(rng, 0.62, 0.72)
    tilt = degrees(rng, -24, 24)
    top = point(0.0, hub)
    panels = 4
    rim = np.linspace(-half, half, panels + 1)
    strokes = [Stroke("parasol_base", smooth(np.array([[-0.15, 0.0], [0.15, 0.0], [0.08, 0.07], [-0.08, 0.07]])))]
    strokes.append(Stroke("parasol_pole", limb(point(0.0, 0.03), top + rotated_point(0.0, depth, tilt), 0.046, 0.046)))
    for panel in range(panels):
        shape = _panel(rim[panel], rim[panel + 1], half, depth)
        strokes.append(Stroke("parasol_canopy", rotated(shape, tilt) + top, dress="panel" if panel % 2 else ""))

    def on_canopy(x: float, y: float) -> FloatArray:
        return top + rotated_point(x, y, tilt)

    tip = on_canopy(0.0, depth + 0.09)
    strokes.append(Stroke("parasol_tip", limb(on_canopy(0.0, depth - 0.01), tip, 0.055, 0.042)))
    joints = {
        "base": Joint(point(0.0, 0.03), ("parasol_base", "parasol_pole")),
        "canopy_left": Joint(on_canopy(-half + 0.03, 0.005), ("parasol_canopy",)),
        "canopy_right": Joint(on_canopy(half - 0.03, 0.005), ("parasol_canopy",)),
        "canopy_top": Joint(on_canopy(0.0, depth - 0.03), ("parasol_canopy",)),
        "tip": Joint(tip, ("parasol_tip",)),
        "pole_middle": Joint(point(0.0, 0.5 * hub), ("parasol_pole",)),
    }
    return Pose(tuple(strokes), joints)


def _panel(left: float, right: float, half: float, depth: float) -> FloatArray:
    """Cut one panel of the canopy: from its scalloped lower rim up to the dome, panels meeting at the top."""
    low = np.linspace(left, right, 6)
    scallop = -0.045 * (1 - np.abs(np.linspace(-1, 1, 6)) ** 2)
    # Panels narrow towards the top as on a dome seen from the side.
    heights = np.linspace(0.0, 1.0, 6)
    narrowing = np.sqrt(1 - heights**2)
    side_right = np.stack([right * narrowing, depth * heights], axis=1)
    side_left = np.stack([left * narrowing, depth * heights], axis=1)[::-1]
    return np.concatenate([np.stack([low, np.minimum(scallop, 0.0)], axis=1), side_right, side_left])
