"""From a spec to a data set of instances."""

from __future__ import annotations

from pathlib import Path

from hypercolumns.box_specs import InstancesSpec
from hypercolumns.datasets.instances.base import InstanceDataset

__all__ = ["open_instances"]


def open_instances(spec: InstancesSpec, *, shapes_root: Path | None = None) -> InstanceDataset:
    """Open the instances a spec describes: lists, boxes and keypoints are read and checked now, masks when they are asked for.

    Args:
        spec: The spec.
        shapes_root: Where the generated set was written, for kind ``shapes``.

    Raises:
        DatasetError: the layout does not fit, or (with `on_bad_record: fail`) a record is wrong; the first few are named, with
            their files.
    """
    raise NotImplementedError(spec, shapes_root)
