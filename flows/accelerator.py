"""Sharing the accelerator among runs: a slot of Prefect's global concurrency limit for as long as a stage computes on it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from prefect.concurrency.sync import concurrency

from tasks.device import compute_device

__all__ = ["GPU_LIMIT", "accelerator"]

GPU_LIMIT = "gpu"
"""Name of the limit; where the server has none of this name, nothing is held."""


def accelerator() -> AbstractContextManager[None]:
    """Hold a slot where an accelerator is computed on: two runs side by side might not fit its memory."""
    return nullcontext() if compute_device().type == "cpu" else concurrency(GPU_LIMIT)
