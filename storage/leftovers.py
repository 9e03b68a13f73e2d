"""What lies in a store and serves nobody: files of writers that died, and what was put into quarantine.

Found by the leases and by the small folder of quarantined files, never by listing all files: the cost does not grow with the
store. Changes nothing but what `remove_leftovers` removes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.allotment import bury, remove_uncounted, set_aside
from storage.core import StoreCore
from storage.leases import Lease
from storage.publish import partial_path
from storage.verification import Finding
from storage.zarr_metadata import roles

__all__ = ["Leftover", "find_leftovers", "remove_leftovers", "remove_strays"]


@dataclass(frozen=True)
class Leftover:
    """One file of a store that can go.

    Args:
        kind: `unfinished`, `uncounted` or `quarantined`.
        path: the file.
        bytes: its size.
        why: why nobody needs it.
    """

    kind: str
    path: Path
    bytes: int
    why: str


def find_leftovers(core: StoreCore, older_than_seconds: float) -> list[Leftover]:
    """List the files of a store that can go.

    Args:
        core: the store, refreshed.
        older_than_seconds: quarantined files are kept for so long.
    """
    with core.locked():
        core.refresh()
        return [*_of_dead_writers(core, core.leases.live_and_dead()[1]), *_quarantined(core, older_than_seconds)]


def remove_leftovers(core: StoreCore, older_than_seconds: float) -> list[Leftover]:
    """Remove them, the dead leases too, and return what was removed."""
    with core.locked():
        core.refresh()
        _, dead = core.leases.live_and_dead()
        found = [*_of_dead_writers(core, dead), *_quarantined(core, older_than_seconds)]
        for leftover in found:
            leftover.path.unlink(missing_ok=True)
        # The leases last: they are how the files are found.
        bury(core, dead)
    return found


def remove_strays(core: StoreCore, findings: Iterable[Finding]) -> list[str]:
    """Remove the unfinished files that `verify` found without a writer, and move those no record counts to quarantine.

    In an object store the latter are removed: what their writer died over is made again anyway.

    Returns:
        the paths of those that were still there, unleased and uncounted.
    """
    if core.backend.remote:
        strays = [(finding.layer, finding.shard, finding.path) for finding in findings if finding.kind == "orphan"]
        return [path for layer, shard, path in strays if layer and shard is not None and remove_uncounted(core, layer, shard)]
    done = []
    with core.locked():
        core.refresh()
        live, _ = core.leases.live_and_dead()
        leased = {(lease.shard, layer) for lease in live for layer in lease.layers}
        for finding in findings:
            path, place = Path(finding.path), (finding.shard, finding.layer)
            if finding.shard is None or place in leased or not path.exists():
                continue
            if finding.kind == "partial":
                path.unlink()
            elif finding.kind == "orphan" and place not in core.index.masks([finding.shard]):
                set_aside(core, path, f"{path.parent.name}.{path.name}")
            else:
                continue
            done.append(finding.path)
    return done


def _of_dead_writers(core: StoreCore, dead: Sequence[Lease]) -> Iterator[Leftover]:
    for lease in dead:
        counted = core.index.masks([lease.shard])
        for layer in lease.layers:
            for role in roles(core.dtype):
                path = core.layout.shard(layer, lease.shard, role)
                yield from _if_there("unfinished", partial_path(path, lease.name), "its writer died")
                if (lease.shard, layer) not in counted:
                    yield from _if_there("uncounted", path, "its writer died before the record that would count it")


def _quarantined(core: StoreCore, older_than_seconds: float) -> Iterator[Leftover]:
    if not core.layout.quarantine.is_dir():
        return
    for path in sorted(core.layout.quarantine.iterdir()):
        if path.stat().st_mtime <= core.clock() - older_than_seconds:
            yield from _if_there("quarantined", path, "damaged; what it held was taken out of use")


def _if_there(kind: str, path: Path, why: str) -> Iterator[Leftover]:
    if path.is_file():
        yield Leftover(kind, path, path.stat().st_size, why)
