"""Priors: what the sample set's balance did to the classes' frequencies, and how much of it is undone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hypercolumns.specs import ExperimentSpec
from storage.samples import SampleSet
from tasks.manifests import Manifest

__all__ = ["prior_offset"]


def prior_offset(spec: ExperimentSpec, manifest: Manifest, samples: Path) -> torch.Tensor:
    """Return what is added to the logits of a classifier that was trained on a sample set.

    Args:
        spec: The experiment; `evaluate.restore_priors` says how much is added, 0 for nothing.
        manifest: Its images, whose train split has the true priors.
        samples: The sample set's file.

    Returns:
        restore_priors · (log(true prior) - log(sample prior)) per class; zero for a class that was never sampled or labelled.
    """
    pixels = manifest.histograms(spec.dataset.train_split, spec).sum(axis=0).astype(np.float64)
    drawn = np.zeros(manifest.classes)
    with SampleSet.open(samples) as opened:
        for label, count in opened.class_counts().items():
            drawn[label] = count
    known = (pixels > 0) & (drawn > 0)
    offset = np.zeros(manifest.classes)
    offset[known] = np.log(pixels[known] / pixels.sum()) - np.log(drawn[known] / drawn.sum())
    return spec.evaluate.restore_priors * torch.from_numpy(offset).float()
