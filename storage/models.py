"""Models: `MODELS/KEY/model.safetensors` and `model.json`, published together, read back only when they fit each other.

`model.json` keeps the sha256 of the weights file and what the caller tells of the model (spec, class names, keys,
metrics), a plain mapping that is not interpreted here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from storage.canonical import canonical_bytes, digest, read_json
from storage.errors import FormatError, StorageError
from storage.folders import checked_name, publishing_folder
from storage.tensors import decode_tensors, encode_tensors, tensor_listing
from storage.unfinished import was_published

__all__ = ["FORMAT", "FORMAT_VERSION", "load_model", "model_exists", "read_description", "save_model"]

FORMAT = "hypercolumns model"
FORMAT_VERSION = 1
_WEIGHTS = "model.safetensors"
_DESCRIPTION = "model.json"


def save_model(models_root: Path, key: str, tensors: Mapping[str, np.ndarray], description: Mapping[str, Any]) -> Path:
    """Publish a model under its key, and return its folder.

    Args:
        models_root: folder of all models.
        key: digest of everything that decided the model.
        tensors: weights and buffers by name.
        description: JSON mapping: spec, class names, store and sample keys, metrics ...

    Raises:
        AlreadyPublishedError: a model of this key exists; it is kept.
        DiskSpaceError: the disk is full.
        FormatError: a tensor or the description is of a type that is not kept.
    """
    folder = models_root / checked_name(key, "a model key")
    weights = encode_tensors(tensors)
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "key": key,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "tensors": tensor_listing(tensors),
        "description": dict(description),
    }
    text = canonical_bytes({**document, "digest": digest(document, 64)})
    with publishing_folder(folder) as partial:
        (partial / _WEIGHTS).write_bytes(weights)
        (partial / _DESCRIPTION).write_bytes(text + b"\n")
    return folder


def load_model(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Load a model's tensors (writable arrays) and description from its folder.

    Raises:
        StorageError: there is no model.
        FormatError: not a model, of another version, or the weights are not those the description was written with.
    """
    document = _read_document(path)
    try:
        weights = (path / _WEIGHTS).read_bytes()
    except FileNotFoundError as error:
        raise FormatError(f"{path}: expected {_WEIGHTS} beside {_DESCRIPTION}, got none. Remedy: train again") from error
    received = hashlib.sha256(weights).hexdigest()
    if received != document.get("weights_sha256"):
        raise FormatError(
            f"{path / _WEIGHTS}: expected sha256 {document.get('weights_sha256')}, got {received}: the file was changed. "
            "Nothing in it was executed. Remedy: restore the file, or delete the folder and train again"
        )
    tensors = decode_tensors(weights, str(path / _WEIGHTS))
    if tensor_listing(tensors) != document.get("tensors"):
        raise FormatError(f"{path}: the tensors are not those that {_DESCRIPTION} lists. Remedy: train again")
    return tensors, document["description"]


def read_description(path: Path) -> dict[str, Any]:
    """Read a model's description alone.

    Raises:
        StorageError: there is no model.
        FormatError: not a model, or of another version.
    """
    description: dict[str, Any] = _read_document(path)["description"]
    return description


def model_exists(models_root: Path, key: str) -> bool:
    """Tell whether a model of this key is published (folders are complete or absent)."""
    folder = models_root / checked_name(key, "a model key")
    return (folder / _DESCRIPTION).is_file() and was_published(folder)


def _read_document(path: Path) -> dict[str, Any]:
    file = path / _DESCRIPTION
    if not file.is_file():
        raise StorageError(f"{path}: expected a model's folder with {_DESCRIPTION}, got none. Remedy: train first")
    document = read_json(file)
    if document.get("format") != FORMAT or document.get("format_version") != FORMAT_VERSION:
        raise FormatError(
            f"{file}: expected {FORMAT!r} version {FORMAT_VERSION}, got {document.get('format')!r} version "
            f"{document.get('format_version')!r}. Remedy: use the release that wrote it, or train again"
        )
    if document.pop("digest", None) != digest(document, 64):
        raise FormatError(f"{file}: its contents are not those that its digest was made of. Remedy: restore it, or train again")
    if not isinstance(document.get("description"), dict) or document.get("key") != path.name:
        raise FormatError(f"{file}: expected the model of key {path.name!r} with its description, got something else")
    return document
