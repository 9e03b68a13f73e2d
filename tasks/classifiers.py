"""Classifiers in and out of the model folder: tensors beside the spec, layers and frame that they mean something with."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from hypercolumns.backbones import LayerInfo
from hypercolumns.columns import Frame
from hypercolumns.errors import TrainingError
from hypercolumns.heads import PixelConv, PixelMLP
from hypercolumns.specs import BackboneSpec, CanvasSpec, ExperimentSpec, HeadSpec, Precision
from storage.checkpoints import latest_checkpoint, save_checkpoint
from storage.errors import AlreadyPublishedError
from storage.models import load_model, save_model
from tasks.manifests import Manifest

__all__ = ["FolderCheckpoints", "ModelCard", "load_classifier", "load_sparse", "save_classifier", "start_from", "torch_dtype"]

ClassifierT = TypeVar("ClassifierT", PixelMLP, PixelConv)


class ModelCard(BaseModel):
    """Everything that a classifier's tensors need to be used again, on images nobody has seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: tuple[LayerInfo, ...]
    head: HeadSpec
    canvas: CanvasSpec
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    backbone: BackboneSpec
    precision: Precision
    head_precision: Precision
    flip: bool
    keys: dict[str, str]
    history: dict[str, Any]
    certificate: dict[str, Any] | None = None

    @property
    def frame(self) -> Frame:
        """Canvas and alignment."""
        return Frame(self.canvas.size_hw, self.head.alignment)

    @classmethod
    def describe(
        cls,
        spec: ExperimentSpec,
        manifest: Manifest,
        model: PixelMLP | PixelConv,
        keys: Mapping[str, str],
        history: Mapping[str, Any],
        certificate: Mapping[str, Any] | None = None,
    ) -> ModelCard:
        """Describe a trained classifier of an experiment."""
        return cls(
            layers=model.layers,
            head=model.spec,
            canvas=spec.store.canvas,
            class_names=manifest.class_names,
            palette=manifest.palette[: manifest.classes],
            backbone=spec.backbone,
            precision=spec.store.precision,
            head_precision=spec.train.precision,
            flip=spec.evaluate.flip,
            keys=dict(keys),
            history=dict(history),
            certificate=None if certificate is None else dict(certificate),
        )


def save_classifier(models_root: Path, key: str, model: nn.Module, card: ModelCard) -> Path:
    """Publish a classifier under its key; one that is there already, made from the same key, stands."""
    tensors = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    with contextlib.suppress(AlreadyPublishedError):
        save_model(models_root, key, tensors, card.model_dump(mode="json"))
    return models_root / key


def load_classifier(
    kind: type[ClassifierT], path: Path, *, dtype: torch.dtype = torch.float32
) -> tuple[ClassifierT, ModelCard]:
    """Load a classifier, ready to predict: its parameters want no gradients.

    Args:
        kind: `PixelMLP` or `PixelConv`.
        path: The model's folder.
        dtype: Arithmetic of a `PixelConv`.

    Raises:
        FormatError: the folder is not a model of ours, or was tampered with.
        TrainingError: the tensors do not fit the model that is described beside them.
    """
    tensors, description = load_model(path)
    card = ModelCard.model_validate(description)
    model = kind(card.layers, len(card.class_names), card.head, card.frame)
    if isinstance(model, PixelConv):
        model.dtype = dtype
    try:
        model.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    except RuntimeError as error:
        raise TrainingError(
            f"{path}: expected the tensors of the classifier described beside them, got others: {error}"
        ) from error
    return model.eval().requires_grad_(False), card


def load_sparse(path: Path, head: HeadSpec) -> tuple[PixelMLP, ModelCard]:
    """Load a sparse classifier for an experiment with this head.

    Output stride and context decide nothing about the sparse classifier and are not in its key, so that experiments that
    differ in them share it: what counts is the experiment's own, not that of the one which trained it.

    Raises:
        FormatError: the folder is not a model of ours, or was tampered with.
        TrainingError: the tensors do not fit the model that is described beside them.
    """
    mlp, card = load_classifier(PixelMLP, path)
    mlp.spec = head
    return mlp, card


def start_from(model: PixelConv, class_names: Sequence[str], path: Path) -> None:
    """Give a classifier the weights of another one, which must be of the same form.

    Args:
        model: Changed in place.
        class_names: What its logits mean.
        path: The other model's folder.

    Raises:
        FormatError: the folder is not a model of ours, or was tampered with.
        TrainingError: the other one has other classes, layers or units, or another canvas; says which.
    """
    other, card = load_classifier(PixelConv, path)
    ours: dict[str, Any] = {"classes": tuple(class_names), "layers": model.layers, "frame": model.frame}
    theirs: dict[str, Any] = {"classes": card.class_names, "layers": other.layers, "frame": other.frame}
    for field in ("hidden", "coordinates", "context"):
        ours[f"head.{field}"], theirs[f"head.{field}"] = getattr(model.spec, field), getattr(other.spec, field)
    differing = [name for name in ours if ours[name] != theirs[name]]
    if differing:
        raise TrainingError(
            f"{path}: expected a model of the same form to train on from, got other {', '.join(differing)}; "
            "train from scratch (from_scratch) once"
        )
    model.load_state_dict(other.state_dict())


def torch_dtype(precision: str) -> torch.dtype:
    """Return the torch type of a spec's precision."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


class FolderCheckpoints:
    """Keeps a run's state after every epoch in a folder (`hypercolumns.training.CheckpointKeeper`)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, epoch: int, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Keep the state after an epoch.

        If another process trains the same, whoever comes first keeps its state (the same but for the seconds an epoch took),
        and whoever ends first removes the folder: neither is a reason for this one to stop.
        """
        with contextlib.suppress(AlreadyPublishedError, FileNotFoundError):
            save_checkpoint(self._folder, epoch, {name: value.detach().cpu().numpy() for name, value in tensors.items()}, state)

    def latest(self) -> tuple[int, dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return the newest state that is whole, or None."""
        kept = latest_checkpoint(self._folder)
        if kept is None:
            return None
        return kept.epoch, {name: torch.from_numpy(value) for name, value in kept.tensors.items()}, dict(kept.state)
