"""Shape and type checks on the library's core in all tests, and one thread for torch."""

from __future__ import annotations

import torch
from jaxtyping import install_import_hook

from tests.object_store import bucket, object_server

__all__ = ["bucket", "object_server"]

# Not on what checks its input itself (canvas, metrics, datasets: their tests give them wrong types on purpose), nor on
# backbones, which torch.fx calls with proxies in place of tensors.
_CHECKED = (
    "certificate",
    "columns",
    "extraction",
    "fitting",
    "geometry",
    "heads",
    "prediction",
    "pretraining",
    "problems",
    "resampling",
    "sampling",
    "sources",
    "training",
)

# Before anything imports the library: a module imported earlier would go unchecked.
install_import_hook([f"hypercolumns.{name}" for name in _CHECKED], "beartype.beartype")
torch.set_num_threads(1)
