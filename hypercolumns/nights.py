"""What a night of retraining may do: when a challenger is promoted, what is checked before, what is kept afterwards.

Plain specs, like those of `hypercolumns.specs`, and forms in the UI as well. Nothing is decided here.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from hypercolumns.specs import Spec

__all__ = ["ChecksSpec", "NightSpec", "PromotionSpec", "Reaction", "RetentionSpec"]

Reaction = Literal["warn", "stop", "off"]


class PromotionSpec(Spec):
    """When a challenger replaces the champion: both are scored on the same images by the same protocol."""

    min_gain: float = Field(
        0.002, ge=0.0, le=1.0, description="smallest gain in mean IU that is worth a change: 0.002 is 0.2 points"
    )
    confidence: float = Field(
        0.95, gt=0.5, lt=1.0, description="level of the paired interval of the gain, which must lie above zero altogether"
    )
    resamples: int = Field(2000, ge=100, le=100_000, description="resamples of the images for the interval")
    min_images: int = Field(5, ge=2, le=1_000_000, description="with fewer val images than this nothing is promoted")
    max_class_drop: float = Field(
        0.1, ge=0.0, le=1.0, description="largest loss of IU that any guarded class may suffer: 0.1 is 10 points"
    )
    min_class_pixels: int = Field(
        500, ge=1, description="a class with fewer labelled val pixels than this is not guarded: its IU is chance"
    )


class ChecksSpec(Spec):
    """What is looked for in the data before anything is trained, compared with what the champion was trained on."""

    class_vanished: Reaction = Field(
        "stop", description="a class that the champion learned has no labelled train pixel any more"
    )
    new_class: Reaction = Field("warn", description="a class has labelled train pixels that had none before")
    label_drift: Reaction = Field("warn", description="the classes' shares of the labelled train pixels moved")
    max_label_drift: float = Field(
        0.1, gt=0.0, le=1.0, description="share of the labelled train pixels that may have moved from one class to another"
    )
    duplicates: Reaction = Field(
        "stop", description="an image is in train and in val, or in val and in what the champion learned from, byte by byte"
    )
    near_duplicates: Reaction = Field("warn", description="a train image and a val image look alike, by a perceptual hash")
    max_hash_distance: int = Field(
        4, ge=0, le=16, description="bits out of 64 in which the hashes of images that look alike may differ"
    )


class RetentionSpec(Spec):
    """What is kept of former nights; the history itself is kept for ever."""

    champions: int = Field(5, ge=1, le=1000, description="former champions that stay ready for a rollback")
    nights: int = Field(60, ge=1, le=100_000, description="runs of the latest nights whose folders stay, besides champions'")
    collect: bool = Field(True, description="afterwards remove what no run and no champion uses (`hypercolumns store gc`)")


class NightSpec(Spec):
    """Everything a night may be told, besides its experiment."""

    promotion: PromotionSpec = Field(default_factory=PromotionSpec)
    checks: ChecksSpec = Field(default_factory=ChecksSpec)
    retention: RetentionSpec = Field(default_factory=RetentionSpec)
    warm_start: bool = Field(True, description="train on from the champion's weights")
    from_scratch: bool = Field(
        True, description="train from new weights; with warm_start too, the better one on held-out train images is taken"
    )

    @model_validator(mode="after")
    def _trains_something(self) -> Self:
        if not (self.warm_start or self.from_scratch):
            raise ValueError("expected warm_start or from_scratch, or both, got neither: nothing would be trained")
        return self
