"""Weights: where they come from, and whether they are the ones meant. What a file holds is read by `state_dicts`."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hypercolumns.backbones.presets import nearest
from hypercolumns.errors import WeightsError
from hypercolumns.specs import BackboneSpec

__all__ = ["SHAPES_WEIGHTS", "WeightSource", "draw_random", "file_sha256", "find_weights", "state_sha256"]

SHAPES_WEIGHTS = Path(__file__).parent / "weights" / "squeezenet1_1_shapes.safetensors"
_SHAPES_NAME = "squeezenet1_1"
_DOWNLOAD_TIMEOUT_S = 10.0
_SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class WeightSource:
    """Where weights come from: a file with its digest, or a seed.

    Attributes:
        path: The file; None for random weights.
        sha256: Digest of the file's bytes; None for random weights, which have none yet.
        seed: Seed of random weights; None for a file.
    """

    path: Path | None
    sha256: str | None
    seed: int | None


def find_weights(spec: BackboneSpec) -> WeightSource:
    """Find the weights a spec asks for, and check them against its digest before anything is read from them.

    Raises:
        WeightsError: there are no such weights, they are not there, or their digest is another.
    """
    match = re.fullmatch(r"random:(\d{1,18})", spec.weights)
    if match:
        return WeightSource(None, None, int(match.group(1)))
    if spec.weights.startswith("random"):
        raise WeightsError(f"weights: expected random:SEED with a whole number from 0, got {spec.weights!r}")
    path = _find_file(spec)
    found = _kind_of(path)
    if found != "a file":
        raise WeightsError(f"weights: expected a file, got {path}, which is {found}; correct backbone.weights")
    digest = file_sha256(path)
    if spec.weights_sha256 not in (None, digest):
        raise WeightsError(
            f"{path}: expected sha256 {spec.weights_sha256}, got {digest}; fetch the right file, or correct weights_sha256"
        )
    return WeightSource(path, digest, None)


def _find_file(spec: BackboneSpec) -> Path:
    if spec.weights == "shapes":
        return _find_shapes(spec.name)
    # Not pathlib's: these pass over a home that does not exist, and over names that no file system could hold.
    path = Path(os.path.expanduser(os.path.expandvars(spec.weights)))  # noqa: PTH111
    if path.suffix.lower() in _SUFFIXES or _kind_of(path) != "not there":
        return path
    return _find_published(spec.name, spec.weights)


def _kind_of(path: Path) -> str:
    """Tell what a path leads to; nothing, where no file system could hold such a name."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "not there"
    if stat.S_ISREG(mode):
        return "a file"
    return "a folder" if stat.S_ISDIR(mode) else "no regular file"


def _find_shapes(name: str) -> Path:
    if name != _SHAPES_NAME:
        raise WeightsError(
            f"weights: `shapes` exists for {_SHAPES_NAME} only, got {name!r}; give a file, IMAGENET1K_V1 or random:SEED"
        )
    if not SHAPES_WEIGHTS.is_file():
        raise WeightsError(
            f"weights: `shapes` is not in this installation: {SHAPES_WEIGHTS} is missing; make it with "
            "`hypercolumns pretrain-backbone`, or use a file, IMAGENET1K_V1 or random:SEED"
        )
    return SHAPES_WEIGHTS


def _find_published(name: str, weights: str) -> Path:
    from torchvision import models

    published: dict[str, Any] = {}
    if name in models.list_models(module=models):
        enum = models.get_model_weights(name)
        published = {member.name: member for member in enum}
    if weights not in published:
        choices = ", ".join(["random:SEED", f"a path ending in {'/'.join(_SUFFIXES)}", *published])
        raise WeightsError(f"weights: expected one of {choices} for {name}, got {weights!r}{nearest(weights, published)}")
    url = str(published[weights].url)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.exists():
        _download(url, path)
    # torchvision checks a file only while downloading it; a damaged cache would pass unnoticed.
    stem = re.search(r"-([0-9a-f]{8,64})\.[^.]+$", path.name)
    if stem and not file_sha256(path).startswith(stem.group(1)):
        raise WeightsError(
            f"{path}: expected a sha256 that starts with {stem.group(1)}, got {file_sha256(path)[:8]}; delete the file"
        )
    return path


def _download(url: str, path: Path) -> None:
    stem = re.search(r"-([0-9a-f]{8,64})\.[^.]+$", path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _socket_timeout(_DOWNLOAD_TIMEOUT_S):
            torch.hub.download_url_to_file(url, str(path), stem.group(1) if stem else None, progress=False)
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        raise WeightsError(
            f"weights: expected {path.name} in {path.parent}, where it is not, and it could not be downloaded ({error}); "
            "remedy: fetch that file on a connected machine and put it into that folder, or name a local file as `weights`"
        ) from error


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def file_sha256(path: Path) -> str:
    """Digest a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def draw_random(module: nn.Module) -> nn.Module:
    """Draw a network's convolutions and linear layers so that the scale of activations neither grows nor fades with depth.

    Source:
        He et al., "Delving deep into rectifiers", ICCV 2015, sec. 2.2 (forward case).
    """
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed of our own, and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def state_sha256(entries: Iterable[tuple[str, Tensor]]) -> str:
    """Digest named tensors: names, types, shapes and bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(entries, key=lambda entry: entry[0]):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
