"""Left and right in the names of keypoints and parts."""

import pytest

from hypercolumns.datasets.instances.sides import mirrored, mirrored_order

COCO = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
    *("left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)


def test_the_pairs_of_cocos_persons_are_those_everybody_uses():
    assert mirrored_order(COCO) == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left arm", "right arm"),
        ("lower left arm", "lower right arm"),
        ("base_left", "base_right"),
        ("Left-Hand", "Right-Hand"),
        ("kneeLeft", "kneeRight"),
        ("LEFT_FOOT", "RIGHT_FOOT"),
        ("leftside", "rightside"),
        ("L_Ankle", "R_Ankle"),
        ("wrist.l", "wrist.r"),
        ("leye", "reye"),
        ("lfleg", "rfleg"),
    ],
)
def test_a_name_becomes_its_partner_and_the_partner_becomes_it(left, right):
    assert mirrored_order(("head", right, "tail", left)) == mirrored(("head", right, "tail", left)) == (0, 3, 2, 1)


def test_names_without_sides_stay_and_a_side_without_its_partner_is_nobodys():
    names = ("head", "leg", "bright lamp", "left hand", "rear", "L", "cleft")
    assert mirrored_order(names) == (0, 1, 2, -1, 4, 5, 6)
    assert mirrored(names) == (0, 1, 2, 3, 4, 5, 6)
    assert mirrored_order(()) == ()


def test_a_mirror_of_the_mirror_is_where_one_began():
    names = (*COCO, "leye", "reye", "L_a", "R_a", "left b", "right b", "tail")
    order = mirrored_order(names)
    assert [order[place] for place in order] == list(range(len(names)))
