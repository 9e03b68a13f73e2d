"""Score on a fleet: every part classifies a range of images and leaves its confusion matrices beside the checkpoints.

Matrices are whole numbers, one an image: put together in order they are what one process counts, bit for bit. Parts that were
scored before a run was lost are found by the next one; all of them are removed once the evaluation is kept.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hypercolumns.allocator import keep_freed_memory
from storage.canonical import digest
from storage.errors import AlreadyPublishedError
from storage.models import load_model, model_exists, save_model
from tasks.cluster import Fleet, Terms
from tasks.jobs import Job, Message, Prepared, Pretrained, Sampled, Trained
from tasks.manifests import load_manifest
from tasks.scoring import Scored, score_classifiers, train_baselines

__all__ = ["PartScored", "ScorePart", "score_part", "score_together"]

_MOST_IMAGES = 1000
"""A part's matrices are held in memory, and lost with the worker."""


class ScorePart(Message):
    """Some images of the val split that are to be scored."""

    job: Job
    prepared: Prepared
    sampled: Sampled
    pretrained: Pretrained
    trained: Trained
    terms: Terms
    folder: Path
    """Where the parts of this evaluation lie."""
    key: str
    """The part's own name there."""
    first: int
    stop: int
    """Numbers of the images in the split, half-open."""


class PartScored(Message):
    """Where a part's confusion matrices are."""

    key: str
    found: bool
    seconds: float


def score_together(
    job: Job, prepared: Prepared, sampled: Sampled, pretrained: Pretrained, trained: Trained, key: str, fleet: Fleet
) -> Scored:
    """Score the model, its sparse stage and the trained baselines on a fleet.

    Args:
        job: The experiment.
        prepared: Its images.
        sampled: Its sample set.
        pretrained: The sparse stage.
        trained: The model.
        key: The evaluation's, under which parts are kept till it is.
        fleet: Who scores.

    Returns:
        The matrices, and no predictions.

    Raises:
        ClusterError: the fleet was lost; the parts that were scored are kept.
    """
    manifest = load_manifest(prepared.path)
    # Here and once: workers that trained them at the same time would only throw the same work away.
    train_baselines(job, manifest, sampled)
    total = len(manifest.splits[job.spec.dataset.val_split])
    each = min(_MOST_IMAGES, max(1, total // max(1, fleet.parts)))
    folder = job.places.checkpoints / key
    parts = [
        ScorePart(
            job=job,
            prepared=prepared,
            sampled=sampled,
            pretrained=pretrained,
            trained=trained,
            terms=fleet.terms,
            folder=folder,
            key=digest([key, first, min(first + each, total)]),
            first=first,
            stop=min(first + each, total),
        )
        for first in range(0, total, each)
    ]
    fleet.run(score_part, parts)
    read = [_matrices(part) for part in parts]
    return Scored({name: np.concatenate([matrices[name] for matrices in read]) for name in read[0]}, {})


def score_part(part: ScorePart) -> PartScored:
    """Score a part's images and keep the matrices, or find them.

    Raises:
        ClusterError: this worker differs from the flow.
    """
    start = time.perf_counter()
    part.terms.refuse_unfit()
    found = model_exists(part.folder, part.key)
    if not found:
        keep_freed_memory()
        manifest = load_manifest(part.prepared.path)
        indices = range(part.first, part.stop)
        scored = score_classifiers(part.job, manifest, part.sampled, part.pretrained, part.trained, indices, keep=False)
        # Another worker may have had the same part, and been thought dead.
        with contextlib.suppress(AlreadyPublishedError):
            save_model(part.folder, part.key, scored.matrices, {"first": part.first, "stop": part.stop})
    return PartScored(key=part.key, found=found, seconds=time.perf_counter() - start)


def _matrices(part: ScorePart) -> dict[str, NDArray[np.int64]]:
    matrices, _ = load_model(part.folder / part.key)
    return matrices
