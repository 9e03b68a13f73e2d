"""Checkpoints of a training run: one safetensors file an epoch, state inside its header, the last two kept.

A torn or damaged newest one costs one epoch, not the run. The file holds a digest of its tensors and state, so that a
flipped bit is seen. May not know what the tensors are.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from storage.canonical import canonical_bytes, digest
from storage.errors import AlreadyPublishedError, DamagedError, FormatError, StorageError
from storage.publish import publish_bytes, replace_bytes
from storage.tensors import check_tensors, decode_tensors, encode_tensors, header_metadata, tensors_sha256

__all__ = ["FORMAT", "FORMAT_VERSION", "KEPT", "Checkpoint", "latest_checkpoint", "load_checkpoint", "save_checkpoint"]

FORMAT = "hypercolumns checkpoint"
FORMAT_VERSION = 1
KEPT = 2
_FILE = re.compile(r"epoch-(\d{6})\.safetensors")
_LOG = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """What training needs to go on.

    Attributes:
        epoch: number of the finished epoch.
        tensors: weights, buffers, optimiser moments ..., by name.
        state: everything else, a JSON mapping.
    """

    epoch: int
    tensors: dict[str, np.ndarray]
    state: dict[str, Any]


def save_checkpoint(folder: Path, epoch: int, tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> Path:
    """Publish the checkpoint of an epoch, and remove those older than the one before it.

    The same checkpoint may be saved twice; a damaged file of this epoch is replaced.

    Args:
        folder: the run's folder of checkpoints.
        epoch: 0 to 999,999.
        tensors: arrays of the types of `storage.tensors.TENSOR_TYPES`.
        state: JSON mapping.

    Raises:
        AlreadyPublishedError: a sound checkpoint of this epoch exists, and it is another one.
        DiskSpaceError: the disk is full.
        FormatError: a tensor or the state is of a type that is not kept.
    """
    path = folder / f"epoch-{epoch:06d}.safetensors"
    if not _FILE.fullmatch(path.name):
        raise StorageError(f"expected an epoch from 0 to 999999, got {epoch}")
    data = _encode(epoch, tensors, state)
    try:
        publish_bytes(path, data)
    except AlreadyPublishedError:
        _settle(path, data)
    older = [name for number, name in _listed(folder) if number <= epoch]
    for name in older[:-KEPT]:
        (folder / name).unlink(missing_ok=True)
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Load one checkpoint.

    Raises:
        DamagedError: torn, or not the bytes that were written.
        FormatError: sound, but of another format or version.
    """
    data = path.read_bytes()
    try:
        tensors = decode_tensors(data, str(path))
        document = json.loads(header_metadata(data, str(path)).get("checkpoint", "null"))
    except (FormatError, ValueError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path}: expected a whole checkpoint, got a torn or damaged one ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise DamagedError(f"{path}: expected a checkpoint, got safetensors of something else, or a damaged header")
    # The digest comes first, and is made alike in every version: a flipped bit in the version is damage, not a version.
    recorded = document.pop("digest", None)
    if recorded != digest([document, tensors_sha256(tensors)], 64) or _epoch_of(path.name) != document.get("epoch"):
        raise DamagedError(f"{path}: its contents are not those that its digest was made of")
    if document.get("format_version") != FORMAT_VERSION:
        raise FormatError(
            f"{path}: expected checkpoint format {FORMAT_VERSION}, got {document.get('format_version')!r}. "
            "Remedy: resume with the release that wrote it, or train in a new run"
        )
    return Checkpoint(document["epoch"], tensors, document["state"])


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """Load the newest sound checkpoint; damaged ones are skipped with a warning in the log.

    Raises:
        FormatError: the newest readable one is of another version: going on would overwrite what a newer release wrote.
    """
    for _, name in reversed(_listed(folder)):
        try:
            return load_checkpoint(folder / name)
        except DamagedError as error:
            _LOG.warning("checkpoint skipped, going on from the one before: %s", error)
    return None


def _encode(epoch: int, tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> bytes:
    document: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION, "epoch": epoch, "state": dict(state)}
    # Spelled once and read back, so that the digest is of what a reader will see (tuples become lists).
    document = json.loads(canonical_bytes(document))
    check_tensors(tensors)
    document["digest"] = digest([document, tensors_sha256(tensors)], 64)
    return encode_tensors(tensors, {"checkpoint": canonical_bytes(document).decode("utf-8")})


def _settle(path: Path, data: bytes) -> None:
    """Decide about a name that is taken: keep a sound file, replace a damaged one."""
    if path.read_bytes() == data:
        return
    try:
        load_checkpoint(path)
    except DamagedError as error:
        _LOG.warning("damaged checkpoint replaced: %s", error)
        replace_bytes(path, data)
    else:
        raise AlreadyPublishedError(
            f"{path}: a sound checkpoint of this epoch exists, and it is another one. Remedy: resume from it, or train "
            "in a new run; two processes may be training the same run"
        )


def _listed(folder: Path) -> list[tuple[int, str]]:
    if not folder.is_dir():
        return []
    return sorted((epoch, path.name) for path in folder.iterdir() if (epoch := _epoch_of(path.name)) is not None)


def _epoch_of(name: str) -> int | None:
    match = _FILE.fullmatch(name)
    return int(match[1]) if match else None
