"""Left and right in the names of keypoints and parts: mirroring an image turns a left hand into a right one.

Which names are a pair is read off the names themselves, because no annotation format says it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["mirrored", "mirrored_order"]

_SIDE = re.compile(r"(?<![A-Za-z])([Ll]eft|[Rr]ight|LEFT|RIGHT)|(?<=[a-z])(Left|Right)")
_LETTER = re.compile(r"(?<![A-Za-z])[LlRr](?![A-Za-z])")
_FIRST = re.compile(r"^[LlRr](?=[A-Za-z])")
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


def mirrored_order(names: Sequence[str]) -> tuple[int, ...]:
    """Say for each keypoint or part under which one's name its heatmap goes once the image is mirrored.

    A name's partner is the name with its sides exchanged, if it is among the names too. Sides are, in this order: the words
    left and right, also where a word begins with them or they follow with a capital (``left_eye``, ``lower left arm``,
    ``leftside``, ``kneeLeft``); the letters L and R on their own (``L_Ankle``, ``wrist.r``); L or R as the first letter
    (``leye`` and ``reye`` of PASCAL-Part). Upper and lower case must agree.

    Returns:
        For each name the number of its partner; its own for a name without sides; -1 for a name with the word left or right
        whose partner is not among the names: in the mirror it shows what has no name, and nothing shows it.
    """
    numbers = {name: number for number, name in enumerate(names)}
    return tuple(_partner(name, number, numbers) for number, name in enumerate(names))


def mirrored(names: Sequence[str]) -> tuple[int, ...]:
    """Return for each name the place of the one it becomes in a mirror, as `mirrored_order`; a name without a partner stays."""
    return tuple(place if other < 0 else other for place, other in enumerate(mirrored_order(names)))


def _partner(name: str, number: int, numbers: dict[str, int]) -> int:
    for pattern in (_SIDE, _LETTER, _FIRST):
        exchanged = pattern.sub(lambda found: _exchanged(found.group()), name)
        if exchanged != name and exchanged in numbers:
            return numbers[exchanged]
    return -1 if _SIDE.search(name) else number


def _exchanged(side: str) -> str:
    other = _OTHER[side.lower()]
    if side.isupper():
        return other.upper()
    return other.capitalize() if side[0].isupper() else other
