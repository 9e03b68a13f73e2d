"""Creating a store and declaring its layers: the records that come before any map.

Both are idempotent: what is there already is compared, not written again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from storage.core import StoreCore
from storage.errors import LayerMismatchError
from storage.publish import ensure_folder, explained_disk_errors
from storage.shapes import Shape, check_choices, checked_shape, decided_shard_images
from storage.tidying import tidy
from storage.zarr_metadata import flush_derived

__all__ = ["create", "declare_layers"]


def create(
    core: StoreCore,
    key_fields: Mapping[str, Any],
    dtype: str,
    compression: str,
    shard_images: int | None,
    recorded: Mapping[str, Any],
) -> None:
    """Create a store unless it exists; put right what a power loss took of its derived files.

    Raises:
        FormatError: a choice that no store can be, or what lies there is broken.
        KeyMismatchError: what lies there was made from other fields.
    """
    check_choices(dtype, compression, shard_images)
    core.occupy(create=True)
    core.stamp_use()
    ensure_folder(core.layout.records)
    with core.locked():
        if not core.index.refresh().number:
            choices = {"dtype": dtype, "compression": compression, "shard_images": shard_images}
            core.append({"kind": "create", "key_fields": dict(key_fields), **choices, "recorded": dict(recorded)})
        core.refresh()
        core.derive()
        with explained_disk_errors(core.layout.lock):
            tidy(core)
            if not core.backend.remote:
                flush_derived(core.files, core.layout, core.index)


def declare_layers(core: StoreCore, shapes: Mapping[str, Shape]) -> None:
    """Make sure that layers exist with these shapes.

    Raises:
        LayerMismatchError: a layer exists with another shape, or a shape is not three positive numbers.
    """
    wanted = {layer: checked_shape(layer, shape) for layer, shape in shapes.items()}
    with core.locked():
        state = core.refresh()
        for layer, shape in wanted.items():
            if state.shapes.get(layer, shape) != shape:
                raise LayerMismatchError(
                    f"layer {layer}: expected {state.shapes[layer]}, as the store has it, got {shape}; another canvas or "
                    "backbone belongs into the key fields"
                )
        new = {layer: shape for layer, shape in wanted.items() if layer not in state.shapes}
        if new:
            shard_images = state.shard_images or decided_shard_images(new.values(), core.dtype, small=core.backend.remote)
            declared = [[layer, list(shape)] for layer, shape in new.items()]
            core.append({"kind": "layers", "shapes": declared, "shard_images": shard_images})
