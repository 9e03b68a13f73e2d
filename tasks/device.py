"""Where the backbone computes: the first accelerator there is, unless the environment names a device.

No part of any key: maps of one store may come from several devices and differ in the last bits; each shard's record says which.
"""

from __future__ import annotations

import os

import torch

from hypercolumns.errors import SpecError

__all__ = ["ENVIRONMENT_VARIABLE", "compute_device"]

ENVIRONMENT_VARIABLE = "HYPERCOLUMNS_DEVICE"


def compute_device() -> torch.device:
    """Return the device that $HYPERCOLUMNS_DEVICE names: cpu, cuda, cuda:1 ...; auto is CUDA's first one, else the processor.

    Raises:
        SpecError: it names no device, or one that is not there.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE, "auto").strip() or "auto"
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if named == "auto":
        return torch.device("cuda", 0) if there else torch.device("cpu")
    try:
        device = torch.device(named)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda"}:
        raise SpecError(f"${ENVIRONMENT_VARIABLE}: expected auto, cpu, cuda or cuda:NUMBER, got {named!r}")
    if device.type == "cuda" and (device.index or 0) >= there:
        raise SpecError(
            f"${ENVIRONMENT_VARIABLE}: expected a device that is there, got {named!r}, and torch {torch.__version__} sees "
            f"{there} of CUDA's. Remedy: use auto or cpu, or install a driver and a build of torch that fit"
        )
    return device
