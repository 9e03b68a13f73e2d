"""The ledger of a folder of predictions: which image contents were labelled, by which model, into which file.

One writer at a time, by a lock that dies with its process. A mask is published whole before its line is written: a writer that
is killed in between leaves a mask that the next one writes again under the same name, and never a half one or a second one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from storage.errors import AlreadyPublishedError, FormatError, StorageError
from storage.publish import PARTIAL_SUFFIX, ensure_folder, flush_folder, publish_bytes, replace_bytes
from storage.record_log import append_entry, first_line, read_entries

__all__ = ["LEDGER_NAME", "Ledger", "Line", "opened_ledger"]

LEDGER_NAME = ".hypercolumns-predictions.jsonl"
FORMAT = "hypercolumns predictions"
FORMAT_VERSION = 1
_LOCK = ".hypercolumns-predictions.lock"
_DONE = ("predicted", "rejected")


@dataclass(frozen=True)
class Line:
    """What became of an image content.

    Attributes:
        kind: `predicted` or `rejected`.
        model: key of the model that labelled it, or would have.
        mask: name of the mask in the folder; empty where the image was rejected.
        reason: why it was rejected; empty where it was labelled.
    """

    kind: str
    model: str
    mask: str = ""
    reason: str = ""


class Ledger:
    """The ledger of one folder, held by this process.

    Args:
        folder: where masks go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / LEDGER_NAME
        if not self._path.exists():
            with contextlib.suppress(AlreadyPublishedError):
                publish_bytes(self._path, first_line("begun", {"format": [FORMAT, FORMAT_VERSION]}))
        flush_folder(folder)
        self.lines = self._read()

    def predicted(self, sha256: str, image: str, model: str, mask: str, png: bytes) -> None:
        """Publish the mask of an image content, then write down that it is there."""
        replace_bytes(self._folder / mask, png)
        append_entry(self._path, "predicted", {"sha256": sha256, "image": image, "model": model, "mask": mask})
        self.lines[sha256] = Line("predicted", model, mask)

    def rejected(self, sha256: str, image: str, model: str, reason: str) -> None:
        """Write down that an image content cannot be labelled, and why."""
        append_entry(self._path, "rejected", {"sha256": sha256, "image": image, "model": model, "reason": reason})
        self.lines[sha256] = Line("rejected", model, reason=reason)

    def _read(self) -> dict[str, Line]:
        entries, _ = read_entries(self._path)
        if not entries or entries[0].data.get("format") != [FORMAT, FORMAT_VERSION]:
            raise FormatError(f"{self._path}: expected a ledger of predictions, format {FORMAT_VERSION}, got something else")
        done = [entry for entry in entries if entry.kind in _DONE]
        try:
            return {
                e.data["sha256"]: Line(e.kind, e.data["model"], e.data.get("mask", ""), e.data.get("reason", "")) for e in done
            }
        except KeyError as error:
            raise FormatError(f"{self._path}: a line lacks {error}. Remedy: restore the file from a copy") from error


@contextlib.contextmanager
def opened_ledger(folder: Path) -> Iterator[Ledger]:
    """Hold the ledger of a folder for the length of a block, and clear away what a writer that was killed left half done.

    Raises:
        StorageError: another process holds it.
        FormatError: a line of it was changed.
    """
    ensure_folder(folder)
    lock = FileLock(str(folder / _LOCK), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise StorageError(
            f"{folder}: another process writes predictions there now; wait for it, or use another folder"
        ) from error
    try:
        # Nobody else writes here: whatever is unfinished was left by the dead.
        for partial in folder.glob(f"*{PARTIAL_SUFFIX}"):
            partial.unlink(missing_ok=True)
        yield Ledger(folder)
    finally:
        lock.release()
