"""The maps that boxes are seen in: those of their whole image, or of crops of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hypercolumns.box_experiments import BoxExperimentSpec
from hypercolumns.sources import MapSource
from tasks.boxes.crops import crop_entry
from tasks.boxes.examples import placed_boxes
from tasks.boxes.jobs import BoxJob, BoxPrepared
from tasks.boxes.manifests import BoxEntry, DetectionEntry
from tasks.manifests import Entry, load_manifest, row_key
from tasks.stores import open_source

__all__ = ["BoxMaps", "SeenBoxes", "open_box_maps"]


@dataclass(frozen=True)
class SeenBoxes:
    """Some boxes of an image, and the maps they are seen in.

    Attributes:
        members: The boxes.
        maps: Maps by layer, of the image or of the boxes' crops.
        rows: Which of the maps is each box's (n,).
        boxes_xyxy: The boxes on the canvas (n, 4), float64.
        edges_xyxy: What of the canvas is image (n, 4), float64.
    """

    members: tuple[DetectionEntry, ...]
    maps: list[Tensor]
    rows: Tensor
    boxes_xyxy: Tensor
    edges_xyxy: Tensor


@dataclass(frozen=True)
class BoxMaps:
    """Reads the maps of boxes.

    Attributes:
        source: The maps, of images by their numbers in the split, or of crops by theirs.
        spec: The experiment.
        numbers: The crops' numbers, by the key of their row.
    """

    source: MapSource
    spec: BoxExperimentSpec
    numbers: Mapping[str, int]

    @classmethod
    def of(cls, source: MapSource, spec: BoxExperimentSpec, entries: Sequence[Entry]) -> BoxMaps:
        """Read the maps of boxes from a source of the entries' maps."""
        return cls(source, spec, {row_key(entry, "identity"): number for number, entry in enumerate(entries) if entry.crop})

    def select(self, layers: Sequence[str]) -> BoxMaps:
        """Return the same with some of the layers, which alone are read."""
        return replace(self, source=self.source.select(layers))

    def __call__(self, index: int, entry: BoxEntry, boxes: Sequence[DetectionEntry]) -> Iterator[SeenBoxes]:
        """Yield the boxes of an image with their maps: all at once, or some crops after the other.

        Args:
            index: The image's number in its split.
            entry: The image.
            boxes: Its boxes, at least one.
        """
        if self.spec.maps == "image":
            yield self._seen(entry, boxes, self.source.maps([(index, "identity")]), torch.zeros(len(boxes), dtype=torch.int64))
            return
        most = self.spec.store.batch_images
        for part in (boxes[first : first + most] for first in range(0, len(boxes), most)):
            keys = [row_key(crop_entry(entry, box.box_xyxy, self.spec), "identity") for box in part]
            maps = self.source.maps([(self.numbers[key], "identity") for key in keys])
            yield self._seen(entry, part, maps, torch.arange(len(part)))

    def _seen(self, entry: BoxEntry, boxes: Sequence[DetectionEntry], maps: list[Tensor], rows: Tensor) -> SeenBoxes:
        placed, edges = placed_boxes([(entry, box.box_xyxy) for box in boxes], self.spec)
        return SeenBoxes(tuple(boxes), maps, rows, torch.from_numpy(placed), torch.from_numpy(edges))


def open_box_maps(job: BoxJob, prepared: BoxPrepared, split: str, *, passes: int) -> BoxMaps:
    """Open the maps of a split's boxes, which must have been extracted.

    Args:
        job: The experiment.
        prepared: Its images and boxes.
        split: Name of the split.
        passes: How often each map is going to be read.
    """
    images = load_manifest(prepared.images_path)
    return BoxMaps.of(open_source(job.features, images, split, passes=passes), job.spec, images.splits[split])
