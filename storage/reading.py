"""Reading maps back: at memory speed where the kernel has the file, at the disk's elsewhere, never other bytes than committed.

Uncompressed rows are read straight into the result or mapped; a row's checksum is compared with its record's at its first
touch. Uses records and files only: neither Zarr nor its metadata.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from storage.backends import ShardSpec
from storage.core import StoreCore
from storage.encoding import decode, stored_dtype
from storage.errors import DamagedError, LayerMismatchError, RowsMissingError
from storage.index_lines import LayerEntry
from storage.shard_rows import ShardRows
from storage.zarr_metadata import row_shape

__all__ = ["MapReader", "VerifyReads"]

T = TypeVar("T")
Array = np.ndarray[Any, np.dtype[Any]]
VerifyReads = Literal["first", "always", "never"]
_OPEN_FILES = 256


class MapReader:
    """Read rows of some layers. Safe among threads and after a fork.

    Args:
        core: the store.
        layers: the layers that may be read.
        verify_reads: when a row's checksum is compared: at its first touch by this reader, at each, or never.
        keep_cached: leave what is read from the disk in the page cache. Better where rows are read again and fit into memory.
    """

    def __init__(
        self, core: StoreCore, layers: tuple[str, ...], verify_reads: VerifyReads = "first", *, keep_cached: bool = True
    ) -> None:
        if verify_reads not in ("first", "always", "never"):
            raise ValueError(f"verify_reads: expected first, always or never, got {verify_reads!r}")
        self.layers = layers
        self._core = core
        self._verify_reads = verify_reads
        self._keep_cached = keep_cached
        self._dtype = core.dtype
        self._shard_images = int(core.state.shard_images or 1)
        self._shapes = {layer: core.state.shapes[layer] for layer in layers}
        self._guard = threading.Lock()
        self._entries: dict[tuple[int, str], LayerEntry] = {}
        self._files: OrderedDict[tuple[int, str, str], ShardRows] = OrderedDict()
        self._verified: dict[tuple[int, str, str], int] = {}
        self._expected: dict[tuple[int, str, str], int] = {}

    def read(self, layer: str, rows: Sequence[int] | Array) -> Array:
        """Read whole maps.

        Args:
            layer: the layer's name.
            rows: (B,) row numbers.

        Returns:
            (B, h, w, C): float16 and float32 as stored, bfloat16 and uint8 as float32. One uncompressed row of floats comes as
            a view of the mapped file (copy on write).

        Raises:
            RowsMissingError: a row is not committed with this layer.
            DamagedError: the bytes are not those that were committed.
        """
        return decode(self._dtype, *self.read_stored(layer, rows))

    def read_stored(self, layer: str, rows: Sequence[int] | Array) -> tuple[Array, Array | None]:
        """Read whole maps as they are kept, for a caller that decodes them itself (see `storage.encoding.decode`).

        Arguments and errors are those of `read`.

        Returns:
            (B, h, w, C) of the stored type, bfloat16 as its bits; and for uint8 scale and offset, (2, B, 1, 1, C).
        """
        shape, numbers = self._shape(layer), [int(row) for row in rows]
        if len(numbers) == 1 and self.gives_views:
            return self._view(layer, numbers[0])[None], self._scale_offset(layer, numbers)
        stored = np.empty((len(numbers), *shape), stored_dtype(self._dtype))
        for row, out in zip(numbers, stored, strict=True):
            self._row_into(layer, row, "maps", out)
        return stored, self._scale_offset(layer, numbers)

    @property
    def gives_views(self) -> bool:
        """Whether single rows come as views of mapped files, which are read as they are looked at."""
        return self._keep_cached and not self._core.compressed

    @property
    def dtype(self) -> str:
        """The store's type."""
        return self._dtype

    def read_cells(self, layer: str, row: int, cells: Sequence[int] | Array) -> Array:
        """Read some cells of one row's map; once the row is verified, only their bytes are touched.

        Args:
            layer: the layer's name.
            row: the row's number.
            cells: (n,) flat cell numbers, y·w + x.

        Returns:
            (n, C), typed as by `read`.

        Raises:
            RowsMissingError: the row is not committed with this layer.
            DamagedError: the bytes are not those that were committed.
            IndexError: a cell lies outside the map.
        """
        height, width, channels = self._shape(layer)
        wanted = np.asarray(cells, np.int64)
        if wanted.size and not (int(wanted.min()) >= 0 and int(wanted.max()) < height * width):
            raise IndexError(
                f"layer {layer}: expected cells from 0 to {height * width - 1}, got {int(wanted.min())} to {int(wanted.max())}"
            )
        if not self._is_read_whole(layer, int(row)):
            self._expect(layer, int(row), wanted)
        stored, scale_offset = self.read_row(layer, row)
        picked = stored.reshape(-1, channels).take(wanted, axis=0)
        return decode(self._dtype, picked, None if scale_offset is None else scale_offset[:, 0, 0])

    def read_row(self, layer: str, row: int) -> tuple[Array, Array | None]:
        """Read one row's map as it is kept, for a caller that wants little of it: mapped where it need not be read whole.

        Arguments and errors are those of `read_cells`.

        Returns:
            (h, w, C) of the stored type, bfloat16 as its bits; and for uint8 scale and offset, (2, 1, 1, 1, C).
        """
        if self._is_read_whole(layer, int(row)):
            stored = np.empty(self._shape(layer), stored_dtype(self._dtype))
            self._row_into(layer, int(row), "maps", stored)
        else:
            stored = self._view(layer, int(row))
        return stored, self._scale_offset(layer, [int(row)])

    def _is_read_whole(self, layer: str, row: int) -> bool:
        return self._core.compressed or (not self._keep_cached and self._must_verify(layer, row, "maps"))

    def _expect(self, layer: str, row: int, cells: Array) -> None:
        """Have cells of a row fetched that is touched for the first time and not read as a whole, to be verified."""
        shard, slot = divmod(row, self._shard_images)
        name = (shard, layer, "maps")
        if self._verify_reads != "never" or self._expected.get(name, 0) >> slot & 1:
            return
        length = self._shapes[layer][-1] * stored_dtype(self._dtype).itemsize
        self._checked(layer, row, "maps", lambda file, slot, _: file.expect(slot, cells * length, length))
        with self._guard:
            self._expected[name] = self._expected.get(name, 0) | 1 << slot

    def _shape(self, layer: str) -> tuple[int, int, int]:
        if layer not in self._shapes:
            raise LayerMismatchError(f"layer {layer}: this reader was made for {list(self.layers)}")
        return self._shapes[layer]

    def _scale_offset(self, layer: str, rows: Sequence[int]) -> Array | None:
        """Return (2, B, 1, 1, C) for uint8, None for other types."""
        if self._dtype != "uint8":
            return None
        values = np.empty((len(rows), 2, 1, self._shapes[layer][2]), np.float32)
        for row, out in zip(rows, values, strict=True):
            self._row_into(layer, row, "scale_offset", out)
        return np.moveaxis(values, 1, 0)[:, :, None]

    def _row_into(self, layer: str, row: int, role: str, out: Array) -> None:
        self._checked(layer, row, role, lambda file, slot, crc32c: file.read_into(slot, out, crc32c))

    def _view(self, layer: str, row: int) -> Array:
        return self._checked(layer, row, "maps", lambda file, slot, crc32c: file.view(slot, crc32c))

    def _checked(self, layer: str, row: int, role: str, operation: Callable[[ShardRows, int, int | None], T]) -> T:
        """Run an operation on a row's file, with the checksum to be compared; try anew if the file was replaced meanwhile."""
        shard, slot = divmod(row, self._shard_images)
        while True:
            entry = self._entry(layer, shard, slot)
            name = (shard, layer, role)
            must_verify = self._must_verify(layer, row, role)
            try:
                result = operation(self._file(name, entry), slot, entry.row_crc32c(slot, role) if must_verify else None)
            except DamagedError as error:
                self._refuse_if_still(entry, layer, shard, error)
                continue
            if must_verify:
                with self._guard:
                    self._verified[name] = self._verified.get(name, 0) | 1 << slot
            return result

    def _must_verify(self, layer: str, row: int, role: str) -> bool:
        shard, slot = divmod(row, self._shard_images)
        seen = self._verified.get((shard, layer, role), 0) >> slot & 1
        return self._verify_reads == "always" or (self._verify_reads == "first" and not seen)

    def _entry(self, layer: str, shard: int, slot: int) -> LayerEntry:
        entry = self._entries.get((shard, layer))
        if entry is None or slot not in entry.slots:
            self._core.refresh()
            entry = self._core.index.entries([shard], [layer]).get((shard, layer))
            if entry is None or slot not in entry.slots:
                raise RowsMissingError(
                    f"row {shard * self._shard_images + slot} of layer {layer} is not in store {self._core.key}; extract it: "
                    "`hypercolumns extract`"
                )
            self._entries[shard, layer] = entry
        return entry

    def _file(self, name: tuple[int, str, str], entry: LayerEntry) -> ShardRows:
        with self._guard:
            file = self._files.get(name)
            if file is not None:
                self._files.move_to_end(name)
                return file
        shard, layer, role = name
        spec = ShardSpec(
            self._core.layout.shard(layer, shard, role),
            entry.files[role],
            self._shard_images,
            row_shape(self._shapes[layer], role),
            stored_dtype(self._dtype if role == "maps" else "float32"),
            compressed=self._core.compressed,
        )
        # Scales and offsets are small, and wanted row by row: the page cache reads many of them at once.
        file = self._core.backend.read_shard(spec, keep_cached=self._keep_cached or role == "scale_offset")
        with self._guard:
            self._files[name] = file
            while len(self._files) > _OPEN_FILES:
                # Closed when the last reader that holds it lets go.
                self._files.popitem(last=False)
        return file

    def _refuse_if_still(self, entry: LayerEntry, layer: str, shard: int, error: DamagedError) -> None:
        """Forget a file that was replaced since we opened it; refuse one that was not."""
        self._core.refresh()
        now = self._core.index.entries([shard], [layer]).get((shard, layer))
        with self._guard:
            self._entries.pop((shard, layer), None)
            for role in ("maps", "scale_offset"):
                self._files.pop((shard, layer, role), None)
                self._verified.pop((shard, layer, role), None)
        if now is None or now.record != entry.record:
            return
        keys = self._core.index.slot_keys(shard)
        raise DamagedError(
            f"shard {shard} of layer {layer} is damaged ({error}); its images: "
            f"{', '.join(keys[slot] for slot in entry.slots if slot in keys)}. "
            "`hypercolumns store repair` extracts exactly these again"
        ) from error
