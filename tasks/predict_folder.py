"""Predict a watched folder: masks of all images that have none yet, with the champion, exactly once for each content.

An image is what its bytes are: renamed, copied or moved it is labelled already. Files that are still being written are left
for the next time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from hypercolumns.datasets.decoding import decode_image, image_sha256
from hypercolumns.errors import DatasetError, ImageError, SpecError
from storage.champions import read_line
from storage.ledger import Ledger, opened_ledger
from storage.workspace import Workspace
from tasks.jobs import Message
from tasks.predict import IMAGE_SUFFIXES, Predictor

__all__ = ["FolderPredicted", "predict_watched_folder"]

_LONGEST_STEM_BYTES = 180
_DIGITS = 12


class FolderPredicted(Message):
    """What was labelled this time, and what was not."""

    line: str
    model: str
    out: Path
    masks: tuple[Path, ...]
    known: int
    """Images whose contents were labelled (or rejected) before."""
    waiting: int
    """Files that were written to a moment ago."""
    rejected: dict[str, str]
    seconds: float


def predict_watched_folder(
    workspace: Workspace, line: str, images: Path, out: Path, *, again: bool = False, settle_seconds: float = 5.0
) -> FolderPredicted:
    """Label the images of a folder and its subfolders that were not labelled yet, with the champion of a line.

    Args:
        workspace: Where the champion is.
        line: Name of the task line.
        images: The watched folder.
        out: Folder for masks, NAME.SHA256.png, and their ledger.
        again: Label images anew that another model labelled before; their masks are replaced.
        settle_seconds: A file that was written to more recently is left for the next time.

    Raises:
        SpecError: the line has no champion.
        DatasetError: there is no such folder, or masks would go among the images.
        StorageError: another process writes predictions there.
        FormatError: the ledger was changed.
    """
    start = time.perf_counter()
    model = read_line(workspace, line).model
    if model is None:
        raise SpecError(f"line {line!r}: expected a champion to label images with, it has none yet; run `hypercolumns nightly`")
    if not images.is_dir():
        raise DatasetError(f"{images}: expected a folder of images, found none")
    if images.resolve().is_relative_to(out.resolve()):
        raise DatasetError(f"{out}: expected a folder for the masks that the images are not in, got {images} inside it")
    with opened_ledger(out) as ledger:
        found = _Labelling(ledger, workspace.models / model, out, again=again)
        paths = list(_settled(images, out, settle_seconds))
        for path in tqdm([path for path in paths if path is not None], unit="img", desc="predict", disable=None):
            found.take(path)
    return FolderPredicted(
        line=line,
        model=model,
        out=out,
        masks=tuple(found.masks),
        known=found.known,
        waiting=paths.count(None) + found.changing,
        rejected=found.rejected,
        seconds=time.perf_counter() - start,
    )


def _settled(images: Path, out: Path, settle_seconds: float) -> Iterator[Path | None]:
    """Yield the images of a folder in order; None for each that may still be being written."""
    masks = out.resolve()
    for path in sorted(images.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(images).parts)
        if hidden or path.suffix.lower() not in IMAGE_SUFFIXES or path.resolve().is_relative_to(masks):
            continue
        try:
            if path.is_file():
                yield path if time.time() - path.stat().st_mtime >= settle_seconds else None
        except FileNotFoundError:
            continue


class _Labelling:
    """One pass over the folder; the model is loaded when the first image needs it."""

    def __init__(self, ledger: Ledger, model_path: Path, out: Path, *, again: bool) -> None:
        self._ledger, self._model_path, self._out, self._again = ledger, model_path, out, again
        self._predictor: Predictor | None = None
        self.masks: list[Path] = []
        self.rejected: dict[str, str] = {}
        self.known = self.changing = 0

    def take(self, path: Path) -> None:
        """Label an image, unless its content is labelled already."""
        model, name = self._model_path.name, _printable(path.name)
        try:
            sha256 = image_sha256(path)
        except ImageError as error:
            # Gone, or not to be read: it has no content to remember.
            self.rejected[str(path)] = error.reason
            return
        done = self._ledger.lines.get(sha256)
        if done is not None and not (self._again and done.model != model):
            self.known += 1
            return
        try:
            png = self._mask(path, sha256)
        except ImageError as error:
            self._reject(path, sha256, name, error)
            return
        mask = f"{_short(_printable(path.stem))}.{sha256[:_DIGITS]}.png" if done is None or not done.mask else done.mask
        self._ledger.predicted(sha256, name, model, mask, png)
        self.masks.append(self._out / mask)

    def _mask(self, path: Path, sha256: str) -> bytes:
        image = decode_image(path, sha256=sha256)
        if self._predictor is None:
            self._predictor = Predictor(self._model_path)
        return self._predictor.mask_png(self._predictor.labels(image))

    def _reject(self, path: Path, sha256: str, name: str, error: ImageError) -> None:
        try:
            settled = image_sha256(path) == sha256
        except ImageError:
            settled = False
        if not settled:
            self.changing += 1
            return
        self._ledger.rejected(sha256, name, self._model_path.name, error.reason)
        self.rejected[str(path)] = error.reason


def _printable(name: str) -> str:
    """Spell a file's name in letters that any encoding of text has: names of other times may be no UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _short(stem: str) -> str:
    return stem.encode("utf-8")[:_LONGEST_STEM_BYTES].decode("utf-8", "ignore")
