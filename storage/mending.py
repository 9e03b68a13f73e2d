"""Mending a broken chain of records: each record that is lost or unreadable is declared void, openly, by one of kind `lost`.

What it committed counts no more and is extracted again. The create record is made again from the group's attributes, if these
have the store's key; layers are declared again from the arrays' own documents.
"""

from __future__ import annotations

from typing import Any

from storage.allotment import set_aside
from storage.canonical import read_json
from storage.core import StoreCore, store_key
from storage.errors import FormatError, LayerMismatchError, VersionError
from storage.records import NO_RECORD, Record
from storage.shapes import checked_shape
from storage.tidying import tidy
from storage.versions import refuse_other_versions

__all__ = ["mend"]


def mend(core: StoreCore) -> list[int]:
    """Declare lost records void and write everything derived anew.

    Returns:
        the numbers of the records that were declared void.

    Raises:
        FormatError: the first record is lost and the group's attributes do not replace it.
        VersionError: the store is of another format version, which is no damage.
    """
    refuse_other_versions(core.layout, core.files)
    with core.locked():
        shapes = _documented_shapes(core)
        lost = _fill_gaps(core)
        core.index.rebuild()
        state = core.refresh()
        undeclared = [[layer, shape] for layer, shape in shapes.items() if layer not in state.shapes]
        if lost and undeclared:
            shard_images = state.shard_images or _attributes(core).get("shard_images")
            core.append({"kind": "layers", "shapes": undeclared, "shard_images": shard_images})
        core.index.mark_all_dirty()
        core.derive()
        tidy(core)
    return lost


def _fill_gaps(core: StoreCore) -> list[int]:
    link, lost = NO_RECORD, []
    last = max([*core.log.numbers(), core.index.last_number_seen()], default=0)
    for number in range(1, last + 1):
        record = _readable(core, number)
        if record is None or record.previous != link:
            _set_aside(core, number)
            following = _readable(core, number + 1)
            stands_for = following.previous if following is not None else None
            record = core.log.append(_stand_in(core, number, stands_for), number - 1, link)
            lost.append(number)
        link = record.link
    return lost


def _stand_in(core: StoreCore, number: int, stands_for: str | None) -> dict[str, Any]:
    if number > 1:
        return {"kind": "lost", "stands_for": stands_for}
    about = _attributes(core)
    fields = {name: about.get(name) for name in ("key_fields", "dtype", "compression", "recorded", "shard_images")}
    if not isinstance(fields["key_fields"], dict) or store_key(fields["key_fields"], str(fields["dtype"])) != core.key:
        raise FormatError(
            f"{core.log.name(1)}: the record that creates the store is lost, and the group's attributes do not replace it; "
            "move the folder away and extract the store anew"
        )
    return {"kind": "create", **fields, "stands_for": stands_for}


def _readable(core: StoreCore, number: int) -> Record | None:
    try:
        return core.log.read(number)
    except VersionError:
        raise
    except FormatError:
        return None


def _set_aside(core: StoreCore, number: int) -> None:
    path = core.log.path(number)
    if core.files.exists(path):
        set_aside(core, path, path.name)
        core.files.clear(path)


def _attributes(core: StoreCore) -> dict[str, Any]:
    try:
        return dict(read_json(core.layout.root / "zarr.json", core.files.read).get("attributes", {}))
    except (FileNotFoundError, FormatError, TypeError, ValueError):
        return {}


def _documented_shapes(core: StoreCore) -> dict[str, list[int]]:
    """Read the layers' shapes from the arrays' documents."""
    shapes = {}
    for layer in _attributes(core).get("layers", {}):
        try:
            document = read_json(core.layout.array(layer) / "zarr.json", core.files.read)
            shapes[str(layer)] = list(checked_shape(layer, document["shape"][1:]))
        except (FileNotFoundError, FormatError, LayerMismatchError, KeyError, TypeError, ValueError):
            # A document that is harmed too says nothing.
            continue
    return shapes
