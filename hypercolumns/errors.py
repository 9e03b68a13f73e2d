"""The library's exceptions: every error a user can cause, each with what was expected, what came, and the remedy.

HypercolumnsError
├── SpecError              a parameter is unknown, out of range, or two of them disagree
├── DatasetError           a data set's layout, lists or files do not fit its spec
│   ├── ImageError         one image cannot be used (unreadable, truncated, too large ...)
│   └── MaskError          one label mask cannot be used (other size, unknown value, missing ...)
├── BackboneError          a backbone cannot be built
│   ├── LayerNotFoundError no such layer; the nearest names are listed
│   └── WeightsError       weights missing, wrong, or not what their digest says
├── GeometryError          shapes, strides or boxes that cannot be related
├── SamplingError          nothing, or not enough, to sample from
├── TrainingError          training cannot go on
│   └── DivergedError      the loss is no longer finite; says where
└── MetricError            scores cannot be computed from what came
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "BackboneError",
    "DatasetError",
    "DivergedError",
    "GeometryError",
    "HypercolumnsError",
    "ImageError",
    "LayerNotFoundError",
    "MaskError",
    "MetricError",
    "SamplingError",
    "SpecError",
    "TrainingError",
    "WeightsError",
]


class HypercolumnsError(Exception):
    """Base of every error this library raises on purpose."""


class SpecError(HypercolumnsError, ValueError):
    """A parameter is unknown, out of range, or disagrees with another."""


class DatasetError(HypercolumnsError):
    """A data set's layout, lists or files do not fit its spec."""


class _FileError(DatasetError):
    """An error about one file, which it keeps for listings such as `rejected.json`."""

    def __init__(self, path: Path | str, reason: str, remedy: str = "") -> None:
        self.path = Path(path)
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"{self.path}: {reason}" + (f". Remedy: {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[type[_FileError], tuple[Path, str, str]]:
        """Let the error cross from one process to another: by default only its text would be handed to `__init__`."""
        return type(self), (self.path, self.reason, self.remedy)


class ImageError(_FileError):
    """One image cannot be used."""


class MaskError(_FileError):
    """One label mask cannot be used."""


class BackboneError(HypercolumnsError):
    """A backbone cannot be built from its spec."""


class LayerNotFoundError(BackboneError):
    """The backbone has no layer of that name."""


class WeightsError(BackboneError):
    """Weights are missing, unreadable, or not what their digest says."""


class GeometryError(HypercolumnsError, ValueError):
    """Shapes, strides or boxes that cannot be related."""


class SamplingError(HypercolumnsError):
    """There is nothing, or not enough, to sample from."""


class TrainingError(HypercolumnsError):
    """Training cannot go on."""


class DivergedError(TrainingError):
    """The loss is no longer finite."""


class MetricError(HypercolumnsError, ValueError):
    """Scores cannot be computed from what came."""
