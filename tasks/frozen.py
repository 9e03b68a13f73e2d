"""Frozen: score the champion on a set of images that never changes, so that scores can be compared over months.

The set is pinned by the digest of its images, labels and classes when it is first used; another set is refused afterwards.
"""

from __future__ import annotations

import time

from hypercolumns.errors import DatasetError, SpecError
from hypercolumns.specs import DatasetSpec, EvalSpec, ExperimentSpec, StoreSpec
from storage.champions import note, read_line
from storage.models import read_description
from storage.workspace import Workspace
from tasks.classifiers import ModelCard
from tasks.jobs import Job, Prepared, Stage
from tasks.manifests import Manifest, load_manifest
from tasks.rescore import Scored, score_model

__all__ = [
    "ChampionScored",
    "FrozenSet",
    "champion_experiment",
    "note_score",
    "pin_frozen_set",
    "pinned_dataset",
    "score_champion",
]

_SHORT = 12


class FrozenSet(Stage):
    """A frozen set that is the one that was pinned, or is pinned now."""

    images: int
    pinned_now: bool


class ChampionScored(Scored):
    """The champion's scores, and which model it was."""

    model: str


def pinned_dataset(workspace: Workspace, line: str) -> DatasetSpec | None:
    """Return the frozen set that was pinned for a line, or none if none was.

    Raises:
        SpecError: it was pinned before such notes said where it is.
    """
    pinned = read_line(workspace, line).last("frozen")
    if pinned is None:
        return None
    if "dataset" not in pinned.data:
        raise SpecError(
            f"line {line!r}: expected to know where the frozen set of {pinned.time:%Y-%m-%d} is, it was pinned without. "
            "Remedy: name it once more in `frozen`"
        )
    return DatasetSpec.model_validate(pinned.data["dataset"])


def champion_experiment(workspace: Workspace, line: str, frozen: DatasetSpec | None) -> ExperimentSpec | None:
    """Describe the champion of a line as an experiment on the frozen set's val split.

    Args:
        workspace: Where the line is.
        line: Its name.
        frozen: The set; by default the one that was pinned.

    Returns:
        None where no set is given and none was pinned.

    Raises:
        SpecError: the line has no champion.
    """
    view = read_line(workspace, line)
    if view.model is None:
        raise SpecError(f"line {line!r}: expected a champion to score, it has none yet; run `hypercolumns nightly` first")
    frozen = frozen or pinned_dataset(workspace, line)
    if frozen is None:
        return None
    card = ModelCard.model_validate(read_description(workspace.models / view.model))
    return ExperimentSpec(
        name=line,
        dataset=frozen.model_copy(update={"train_split": frozen.val_split, "limit_train": frozen.limit_val}),
        backbone=card.backbone,
        store=StoreSpec(canvas=card.canvas, precision=card.precision),
        head=card.head,
        evaluate=EvalSpec(flip=card.flip),
    )


def pin_frozen_set(job: Job, prepared: Prepared, line: str, refreeze: bool = False) -> FrozenSet:
    """Make sure that a set is the one that was pinned for a line; the first one is pinned, and where it is now is kept.

    Args:
        job: The champion as an experiment on the set.
        prepared: The set.
        line: Name of the task line.
        refreeze: Pin the set as it is now, whatever was pinned before.

    Raises:
        DatasetError: it is another one; says what changed.
    """
    start = time.perf_counter()
    manifest = load_manifest(prepared.path)
    split = job.spec.dataset.val_split
    digest = manifest.content_key(split, labels=True)
    pinned = read_line(job.places, line).last("frozen")
    same = pinned is not None and pinned.data["digest"] == digest
    is_new = pinned is None or (refreeze and not same)
    if pinned is not None and not same and not refreeze:
        path = job.places.datasets / f"{pinned.data['keys']['manifest']}.json"
        raise DatasetError(
            f"expected the frozen set {pinned.data['digest'][:_SHORT]}… of {pinned.data['images']} images, pinned on "
            f"{pinned.time:%Y-%m-%d}, got another: {_difference(load_manifest(path), manifest, split)}. Remedy: restore its "
            "files; or, with `refreeze`, pin it as it is now: earlier scores can then not be compared with later ones"
        )
    kept = {
        "digest": digest,
        "keys": {"manifest": prepared.key},
        "images": prepared.images[split],
        "dataset": job.spec.dataset.model_dump(mode="json"),
    }
    if pinned is None or pinned.data != kept:
        note(job.places, line, "frozen", kept)
    return FrozenSet(
        key=digest,
        path=prepared.path,
        cached=not is_new,
        seconds=time.perf_counter() - start,
        images=prepared.images[split],
        pinned_now=is_new,
    )


def score_champion(job: Job, prepared: Prepared, line: str) -> ChampionScored:
    """Score the champion of a line on the frozen set; maps are computed on the fly and not kept."""
    view = read_line(job.places, line)
    if view.model is None:
        raise SpecError(f"line {line!r}: expected a champion to score, it has none")
    scored = score_model(job, prepared, view.model, stored=False)
    return ChampionScored(**dict(scored), model=view.model)


def note_score(job: Job, line: str, frozen: FrozenSet, scored: ChampionScored) -> None:
    """Append a score to the line's history."""
    run_id = job.run_dir.name if job.run_dir else "no run"
    seconds = {"score": round(scored.seconds, 3)}
    data = {"model": scored.model, "frozen": frozen.key, "scores": scored.metrics, "protocol": scored.protocol}
    note(job.places, line, "evaluated", {**data, "run_id": run_id, "seconds": seconds, "who": "evaluate-champion"})


def _difference(before: Manifest, now: Manifest, split: str) -> str:
    """Say in what two sets differ."""
    old = {entry.image_sha256: entry.mask_sha256 for entry in next(iter(before.splits.values()))}
    new = {entry.image_sha256: entry.mask_sha256 for entry in now.splits[split]}
    relabelled = sum(old[image] != new[image] for image in old.keys() & new.keys())
    counts = {"images gone": len(old.keys() - new.keys()), "new images": len(new.keys() - old.keys())}
    counts["images with changed labels"] = relabelled
    told = [f"{count} {what}" for what, count in counts.items() if count]
    return ", ".join(told) or "other class names, or another order of the images"
