"""Named numpy arrays to safetensors bytes and back: no pickle, no silent reordering, nothing the reader would not know.

safetensors copies memory as it lies, so a transposed view handed over as it is would be stored scrambled: arrays are made
contiguous first. May not touch files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from storage.canonical import canonical_bytes
from storage.errors import FormatError

__all__ = [
    "TENSOR_TYPES",
    "check_tensors",
    "decode_tensors",
    "encode_tensors",
    "header_metadata",
    "tensor_listing",
    "tensors_sha256",
]

TENSOR_TYPES = frozenset({"float16", "float32", "float64", "int32", "int64", "uint8", "bool"})


def check_tensors(tensors: Mapping[str, np.ndarray]) -> None:
    """Refuse what `encode_tensors` would not keep exactly.

    Raises:
        FormatError: an array of a type that is not kept (bfloat16, objects, complex ...), or a reserved name.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, np.ndarray) or tensor.dtype.name not in TENSOR_TYPES:
            kind = tensor.dtype if isinstance(tensor, np.ndarray) else type(tensor).__name__
            raise FormatError(f"{name}: expected an array of {', '.join(sorted(TENSOR_TYPES))}, got {kind}; convert it first")
        if name == "__metadata__":
            raise FormatError("a tensor cannot be called __metadata__: safetensors keeps that name; rename it")


def encode_tensors(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """Encode arrays as safetensors, the same bytes for the same arrays when `metadata` has at most one key.

    Raises:
        FormatError: as `check_tensors`.
    """
    check_tensors(tensors)
    little = {name: _plain(tensors[name]) for name in sorted(tensors)}
    return safetensors.numpy.save(little, metadata=dict(metadata) if metadata else None)


def decode_tensors(data: bytes, origin: str) -> dict[str, np.ndarray]:
    """Decode safetensors bytes; executes nothing, whatever they hold.

    Raises:
        FormatError: not safetensors (a pickle, a torn file), or of a type that is not kept; names `origin`.
    """
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, OverflowError) as error:
        raise FormatError(
            f"{origin}: expected safetensors, got bytes that are not ({error}). Nothing in it was executed. "
            "Remedy: convert the weights to safetensors, or delete the file and make it again"
        ) from error
    unknown = sorted({array.dtype.name for array in arrays.values()} - TENSOR_TYPES)
    if unknown:
        raise FormatError(f"{origin}: expected tensors of {', '.join(sorted(TENSOR_TYPES))}, got {', '.join(unknown)}")
    return {name: arrays[name] for name in sorted(arrays)}


def header_metadata(data: bytes, origin: str) -> dict[str, Any]:
    """Return the text metadata of safetensors bytes that `decode_tensors` has accepted."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{origin}: its header is not JSON ({error})") from error
    metadata = header.get("__metadata__", {})
    return metadata if isinstance(metadata, dict) else {}


def tensor_listing(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """List names, types and shapes as JSON."""
    return {name: {"dtype": array.dtype.name, "shape": list(array.shape)} for name, array in tensors.items()}


def tensors_sha256(tensors: Mapping[str, np.ndarray]) -> str:
    """Return the sha256 of names, types, shapes and values."""
    checksum = hashlib.sha256(canonical_bytes(tensor_listing(tensors)))
    for name in sorted(tensors):
        checksum.update(_plain(tensors[name]).tobytes())
    return checksum.hexdigest()


def _plain(tensor: np.ndarray) -> np.ndarray:
    """Return the array contiguous and little-endian, 0-d arrays staying so."""
    return np.asarray(tensor, dtype=tensor.dtype.newbyteorder("<"), order="C")
