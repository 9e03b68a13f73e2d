"""State dicts from files: plain tensors by name, complete, finite and of the right shapes, or a refusal.

Nothing in a weights file is ever executed, and no more memory is taken than the file itself has bytes.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hypercolumns.errors import WeightsError

__all__ = ["fit", "read_state"]

# What torch, zipfile and safetensors raise on damaged files; RuntimeError is also a recursion that is too deep.
_DAMAGE = (
    SafetensorError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    RuntimeError,
    MemoryError,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors or PyTorch file, without executing anything in it.

    Raises:
        WeightsError: the file is damaged, claims more than it holds, or holds something else than named tensors.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            state: Any = load_file(path)
        else:
            _refuse_bomb(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"{path}: expected a state dict of tensors, got a file that cannot be read as one: {reason}"
        ) from error
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        held = f"the keys {list(state)[:4]}" if isinstance(state, Mapping) else f"a {type(state).__name__}"
        raise WeightsError(f"{path}: expected a state dict (names to tensors), got {held}; save the inner state dict instead")
    modern = {_modern_key(str(key)): value for key, value in state.items()}
    if len(modern) != len(state):
        raise WeightsError(f"{path}: expected each entry once, got two of one name; save the state dict again")
    return modern


def _refuse_bomb(path: Path) -> None:
    """Refuse an archive whose members unpack to more than the file's size: torch stores them as they are."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > path.stat().st_size:
            raise WeightsError(
                f"{path}: expected an archive as torch.save writes it, got one that unpacks to {unpacked} bytes, more than "
                "the file has; fetch it again from its source"
            )


def _modern_key(key: str) -> str:
    # Published DenseNet files still call `denselayer1.norm1` `denselayer1.norm.1`.
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)", r"\1", key)


def fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], needed: set[str], source: str) -> dict[str, Tensor]:
    """Check a state dict against a network, and return the entries it shares with it, in the network's types.

    Args:
        state: What the file holds.
        expected: The network's own state dict; only shapes and types are looked at.
        needed: Entries without which the wanted layers cannot be computed; others (a classifier's) may be missing.
        source: The file's name, for the error.

    Raises:
        WeightsError: entries are missing, unknown, of another shape or kind, or not finite; the first few are listed.
    """
    # A counter that evaluation never reads, and that old files do not have.
    counters = {key: torch.zeros_like(expected[key], device="cpu") for key in needed if key.endswith(".num_batches_tracked")}
    state = {**counters, **state}
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(expected[key].shape)}"
        for key in sorted(set(state) & set(expected))
        if state[key].shape != expected[key].shape
    ]
    kinds = [
        f"{key} {state[key].dtype} for {expected[key].dtype}"
        for key in sorted(set(state) & set(expected))
        if not _is_plain(state[key]) or state[key].is_floating_point() != expected[key].is_floating_point()
    ]
    problems = [
        _listed("missing", sorted(needed - set(state))),
        _listed("unknown", sorted(set(state) - set(expected))),
        _listed("of another shape", shapes),
        _listed("of another kind", kinds),
        _listed("not finite", [] if shapes or kinds else _not_finite(state, expected)),
    ]
    if any(problems):
        raise WeightsError(
            f"{source}: expected the weights of this network, got a state dict with entries "
            f"{'; '.join(problem for problem in problems if problem)}; check the backbone's name against the file"
        )
    return {key: state[key].to(expected[key].dtype) for key in expected if key in state}


def _is_plain(value: Tensor) -> bool:
    """Tell whether a tensor is numbers in memory: neither sparse nor quantised, nor without any values."""
    return value.layout == torch.strided and not value.is_quantized and not value.is_complex() and value.device.type == "cpu"


def _not_finite(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    return [key for key in sorted(set(state) & set(expected)) if not bool(torch.isfinite(state[key].float()).all())]


def _listed(what: str, names: list[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{what}: {', '.join(names[:shown])}{more}" if names else ""
