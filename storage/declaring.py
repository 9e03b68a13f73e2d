"""Creating a store and declaring its layers: the records that come before any map.

Both are idempotent: what is there already is compared, not written again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from storage.core import StoreCore
from storage.errors import AlreadyPublishedError, LayerMismatchError
from storage.index_lines import StoreState
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
        choices = {"dtype": dtype, "compression": compression, "shard_images": shard_images}
        while not core.index.refresh().number:
            body = {"kind": "create", "key_fields": dict(key_fields), **choices, "recorded": dict(recorded)}
            _append_unless_others_did(core, body, 0)
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
        while new := _undeclared(core.refresh(), wanted):
            state = core.state
            shard_images = state.shard_images or decided_shard_images(new.values(), core.dtype, small=core.backend.remote)
            declared = [[layer, list(shape)] for layer, shape in new.items()]
            body = {"kind": "layers", "shapes": declared, "shard_images": shard_images}
            _append_unless_others_did(core, body, state.number)


def _undeclared(state: StoreState, wanted: Mapping[str, Shape]) -> dict[str, Shape]:
    for layer, shape in wanted.items():
        if state.shapes.get(layer, shape) != shape:
            raise LayerMismatchError(
                f"layer {layer}: expected {state.shapes[layer]}, as the store has it, got {shape}; another canvas or "
                "backbone belongs into the key fields"
            )
    return {layer: shape for layer, shape in wanted.items() if layer not in state.shapes}


def _append_unless_others_did(core: StoreCore, body: Mapping[str, Any], number: int) -> None:
    """Append a record right after one; nothing where somebody whom the lock does not keep out has appended meanwhile."""

    def refuse_others() -> None:
        if core.state.number != number:
            raise AlreadyPublishedError(f"{core.log.name(number + 1)}: appended by somebody else")

    with contextlib.suppress(AlreadyPublishedError):
        core.append(body, before=refuse_others)
