"""Whether a challenger is to replace a champion: one rule on two stacks of confusion matrices of the same images.

The challenger must gain at least what is worth a change, the paired interval of the gain must lie above zero altogether, and
no class with enough labelled pixels may collapse, however much the mean gains. Nothing here sees an image or a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from numpy.typing import NDArray

from hypercolumns.metrics.bootstrap import paired_bootstrap, paired_class_intervals
from hypercolumns.metrics.segmentation import score
from hypercolumns.nights import PromotionSpec

__all__ = ["ClassChange", "Decision", "decide"]


@dataclass(frozen=True)
class ClassChange:
    """What became of one class that is labelled in the images.

    Attributes:
        name: the class.
        pixels: its labelled pixels.
        champion_iu: IU of the champion, in [0, 1].
        challenger_iu: IU of the challenger.
        interval: paired interval of the difference; None where no replicate has the class.
        guarded: whether it has enough pixels to be judged.
        collapsed: whether it is guarded and lost more than is allowed.
    """

    name: str
    pixels: int
    champion_iu: float
    challenger_iu: float
    interval: tuple[float, float] | None
    guarded: bool
    collapsed: bool

    @property
    def difference(self) -> float:
        """Challenger minus champion."""
        return self.challenger_iu - self.champion_iu


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and everything that it was decided by.

    Attributes:
        promote: the decision.
        reasons: why, in words, the deciding ones first.
        images: how many images both were scored on.
        challenger_mean_iu: mean IU of the challenger, in [0, 1].
        champion_mean_iu: mean IU of the champion; None where there is none.
        difference: challenger minus champion.
        interval: paired interval of the difference.
        confidence: its level.
        probability_better: share of the replicates in which the challenger is better.
        classes: what became of each labelled class.
    """

    promote: bool
    reasons: tuple[str, ...]
    images: int
    challenger_mean_iu: float
    champion_mean_iu: float | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    probability_better: float | None = None
    classes: tuple[ClassChange, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the decision as plain JSON values."""
        plain = asdict(self) | {"reasons": list(self.reasons)}
        plain["interval"] = None if self.interval is None else list(self.interval)
        plain["classes"] = [
            asdict(change) | {"interval": None if change.interval is None else list(change.interval)} for change in self.classes
        ]
        return plain


def decide(
    challenger: NDArray[Any], champion: NDArray[Any] | None, class_names: Sequence[str], spec: PromotionSpec, *, seed: int = 0
) -> Decision:
    """Decide whether a challenger replaces the champion.

    Args:
        challenger: its confusion matrices, (images, classes, classes), rows truth.
        champion: those of the champion on the same images in the same order; None where there is no champion.
        class_names: the classes' names, in label order.
        spec: what is asked of a challenger.
        seed: seed of the draws.

    Raises:
        MetricError: the two were not scored on the same truth, or nothing is labelled.
    """
    mean_iu = score(challenger, class_names).mean_iu
    if champion is None:
        return Decision(True, (f"the first of its line: mean IU {_percent(mean_iu)}",), len(challenger), mean_iu)
    former = score(champion, class_names).mean_iu
    if len(challenger) < spec.min_images:
        reason = f"{len(challenger)} val images are too few to tell a gain from chance: at least {spec.min_images} (min_images)"
        return Decision(False, (reason,), len(challenger), mean_iu, former, mean_iu - former)
    drawing = {"resamples": spec.resamples, "confidence": spec.confidence, "seed": seed}
    paired = paired_bootstrap(challenger, champion, class_names, **drawing)  # type: ignore[arg-type]
    intervals = paired_class_intervals(challenger, champion, class_names, **drawing)  # type: ignore[arg-type]
    changes = _changes(challenger, champion, class_names, intervals, spec)
    against = _against(paired, changes, spec)
    found = (
        f"mean IU {_percent(mean_iu)} against the champion's {_percent(former)}: {_points(paired['difference'])} points, "
        f"{100 * spec.confidence:g} % interval {_points(paired['low'])} to {_points(paired['high'])}, {len(challenger)} images"
    )
    return Decision(
        not against,
        (*against, found, *_unguarded(changes, spec)),
        len(challenger),
        mean_iu,
        former,
        paired["difference"],
        (paired["low"], paired["high"]),
        spec.confidence,
        paired["probability_better"],
        changes,
    )


def _changes(
    challenger: NDArray[Any],
    champion: NDArray[Any],
    class_names: Sequence[str],
    intervals: dict[str, tuple[float, float]],
    spec: PromotionSpec,
) -> tuple[ClassChange, ...]:
    now, before = score(challenger, class_names), score(champion, class_names)
    found = []
    for name in class_names:
        ours, theirs, pixels = now.per_class_iu[name], before.per_class_iu[name], now.per_class_pixels[name]
        if ours is None or theirs is None:
            continue
        guarded = pixels >= spec.min_class_pixels
        collapsed = guarded and theirs - ours > spec.max_class_drop
        found.append(ClassChange(name, pixels, theirs, ours, intervals.get(name), guarded, collapsed))
    return tuple(found)


def _against(paired: dict[str, float], changes: Sequence[ClassChange], spec: PromotionSpec) -> tuple[str, ...]:
    """Say what speaks against a promotion; nothing if nothing does."""
    found: list[str] = []
    gain, lowest = _points(paired["difference"]), _points(paired["low"])
    if paired["difference"] < spec.min_gain:
        found.append(f"a gain of {gain} points is less than the {100 * spec.min_gain:g} asked for (min_gain)")
    if paired["low"] <= 0.0:
        found.append(f"not surely better: the interval of the gain reaches down to {lowest} points (confidence)")
    found += [
        f"class {change.name} fell from {_percent(change.champion_iu)} to {_percent(change.challenger_iu)} IU on "
        f"{change.pixels} pixels, by more than the {100 * spec.max_class_drop:g} points allowed (max_class_drop)"
        for change in changes
        if change.collapsed
    ]
    return tuple(found)


def _unguarded(changes: Sequence[ClassChange], spec: PromotionSpec) -> tuple[str, ...]:
    names = ", ".join(f"{change.name} ({change.pixels})" for change in changes if not change.guarded)
    return (f"too few labelled pixels to be guarded, fewer than {spec.min_class_pixels}: {names}",) if names else ()


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"
