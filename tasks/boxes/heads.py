"""Heads inside boxes, in and out of the model folder: tensors beside all they need to be used on images nobody has seen."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from hypercolumns.backbones import LayerInfo
from hypercolumns.box_experiments import BoxExperimentSpec
from hypercolumns.columns import Frame
from hypercolumns.errors import TrainingError
from hypercolumns.heads import GridClassifier
from hypercolumns.heatmaps.rescoring import Rescorer
from storage.errors import AlreadyPublishedError
from storage.models import load_model, save_model
from tasks.boxes.manifests import BoxManifest, ClassEntry

__all__ = ["BoxCard", "build_head", "load_head", "save_head"]

_RESCORER = "rescorer."


class BoxCard(BaseModel):
    """Everything that a head's tensors need to be used again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = "head inside boxes"
    layers: tuple[LayerInfo, ...]
    spec: BoxExperimentSpec
    classes: tuple[ClassEntry, ...]
    outputs: tuple[tuple[int, int], ...]
    keys: dict[str, str]
    boxes: int
    history: dict[str, Any]

    @property
    def blocks(self) -> tuple[slice, ...]:
        """Each class's outputs."""
        return tuple(slice(start, stop) for start, stop in self.outputs)


def build_head(layers: tuple[LayerInfo, ...], blocks: tuple[slice, ...], spec: BoxExperimentSpec) -> GridClassifier:
    """Build the head of an experiment, not trained yet."""
    return GridClassifier(
        layers,
        max(block.stop for block in blocks),
        Frame(spec.store.canvas.size_hw, spec.head.alignment),
        grid=spec.head.grid,
        side=spec.pairs.side,
        # A crop's canvas is the expanded box.
        expansion=spec.pairs.expansion if spec.maps == "image" else 0.0,
        kernel=spec.head.kernel,
    )


def save_head(
    models_root: Path,
    key: str,
    model: GridClassifier,
    rescorer: Rescorer | None,
    manifest: BoxManifest,
    spec: BoxExperimentSpec,
    keys: Mapping[str, str],
    boxes: int,
    history: Mapping[str, Any],
) -> None:
    """Publish a head under its key; one that is there already, made from the same key, stands."""
    tensors = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    if rescorer is not None:
        tensors |= {f"{_RESCORER}{name}": np.asarray(value) for name, value in vars(rescorer).items()}
    card = BoxCard(
        layers=model.layers,
        spec=spec,
        classes=manifest.classes,
        outputs=tuple((block.start, block.stop) for block in manifest.outputs(spec)),
        keys=dict(keys),
        boxes=boxes,
        history=dict(history),
    )
    with contextlib.suppress(AlreadyPublishedError):
        save_model(models_root, key, tensors, card.model_dump(mode="json"))


def load_head(path: Path) -> tuple[GridClassifier, Rescorer | None, BoxCard]:
    """Load a head, ready to predict.

    Raises:
        FormatError: the folder is not a model of ours, or was tampered with.
        TrainingError: it is another kind of model, or its tensors do not fit what is described beside them.
    """
    tensors, description = load_model(path)
    if description.get("kind") != "head inside boxes":
        raise TrainingError(
            f"{path}: expected a head inside boxes, got another model; give a run of segment, keypoints or parts"
        )
    card = BoxCard.model_validate(description)
    model = build_head(card.layers, card.blocks, card.spec)
    state = {name: torch.from_numpy(value) for name, value in tensors.items() if not name.startswith(_RESCORER)}
    # Heads of earlier versions have no prior, which is a prior of zero.
    state.setdefault("prior", model.prior)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise TrainingError(f"{path}: expected the tensors of the head described beside them, got others: {error}") from error
    parts = {n.removeprefix(_RESCORER): torch.from_numpy(v) for n, v in tensors.items() if n.startswith(_RESCORER)}
    return model.eval(), Rescorer(**parts) if parts else None, card
