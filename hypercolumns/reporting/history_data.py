"""What a history is made of: nights, scores on a frozen set, and who changed the champion. Plain, frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

__all__ = ["ChampionChange", "FrozenScore", "HistoryData", "Night"]

Interval = tuple[float, float]


@dataclass(frozen=True)
class Night:
    """One night that came to a decision.

    Attributes:
        time: when it was decided.
        outcome: what became of the challenger.
        run_id: the night's run.
        challenger_mean_iu: on the val images of that night, in [0, 1].
        champion_mean_iu: of the champion on the same images; None where there was none.
        difference: challenger minus champion.
        interval: paired interval of the difference.
        reasons: why it was decided so.
        origin: warm start, or from scratch.
        news: what had arrived.
        images: images per split.
        images_extracted: images whose maps were computed.
        bytes_extracted: bytes of maps that were to be written.
        seconds: what all stages took together.
        warnings: what the data checks found.
    """

    time: datetime
    outcome: Literal["promoted", "kept"]
    run_id: str
    challenger_mean_iu: float
    champion_mean_iu: float | None
    difference: float | None
    interval: Interval | None
    reasons: tuple[str, ...]
    origin: str
    news: str
    images: dict[str, int]
    images_extracted: int
    bytes_extracted: int
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class FrozenScore:
    """The champion of a day on the frozen set: what can be compared over the weeks.

    Attributes:
        time: when it was scored.
        model: the champion then.
        mean_iu: in [0, 1].
        interval: of mean IU.
        per_class: IU of each class; None for a class without a labelled pixel.
        images: how many images the set has.
        set_digest: digest of the frozen set.
    """

    time: datetime
    model: str
    mean_iu: float
    interval: Interval | None
    per_class: dict[str, float | None]
    images: int
    set_digest: str


@dataclass(frozen=True)
class ChampionChange:
    """One change of the champion, by a night or by somebody."""

    time: datetime
    what: str
    who: str
    model: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class HistoryData:
    """Everything a history says.

    Attributes:
        line: the task line.
        date: when it was written.
        champion: the present champion's model; None if there is none.
        champion_run: the run that made it.
        since: since when it is champion.
        pinned: whether it stays until it is released.
        confidence: level of the nights' intervals.
        nights: in order.
        scores: in order.
        changes: in order.
    """

    line: str
    date: str
    champion: str | None = None
    champion_run: str = ""
    since: datetime | None = None
    pinned: bool = False
    confidence: float = 0.95
    nights: tuple[Night, ...] = ()
    scores: tuple[FrozenScore, ...] = ()
    changes: tuple[ChampionChange, ...] = field(default_factory=tuple)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes that some score knows, in the order of the latest one."""
        return tuple(dict.fromkeys(name for score in reversed(self.scores) for name in score.per_class))
