"""The text that explains a generated set to whoever finds its folder."""

from __future__ import annotations

from typing import Any

_TEXT = """\
# Shapes

A generated data set: {classes}, on cluttered ground under a sky.

- generator version: {version}
- images: {images}
- size (height × width): {height} × {width}
- seed: {seed}
- share of images for validation: {val_fraction}

The same arguments make the same files: `hypercolumns shapes make DIR --images {images} --size {height} --seed {seed}{option}`.

| files | what they hold |
| --- | --- |
| `JPEGImages/ID.jpg` | the picture |
| `SegmentationClass/ID.png` | class labels (`classes.txt`, from 0), 255 in a thin band on object borders |
| `SegmentationObject/ID.png` | instance numbers, the same band; number k is annotation 10 × image id + k |
| `SegmentationPart/ID.png` | part labels (`parts.json`, from 0), no band |
| `Layout/ID.png` | 0 sky, 1 upright, 2 ground; what stands is upright, nameless clutter too |
| `Depth/ID.png` | 16 bits, metres × 256; 0 in the sky |
| `annotations/instances_SPLIT.json` | COCO: boxes, masks (run lengths, no band) and keypoints with visibility |
| `ImageSets/Segmentation/SPLIT.txt` | image ids of train, val and both |
| `manifest.json` | arguments, and the SHA-256 of every file |

Masks are palette PNGs in PASCAL VOC's colours: the values are the labels. Keypoint coordinates are pixels from the top left
corner, the centre of the first pixel being (0.5, 0.5).
"""


def describe(version: str, arguments: dict[str, Any], classes: tuple[str, ...]) -> str:
    """Write the text for a set made with these arguments."""
    height, width = arguments["size_hw"]
    rest = {key: value for key, value in arguments.items() if key not in {"size_hw", "scenery"}}
    option = f" --scenery {arguments['scenery']}" if "scenery" in arguments else ""
    return _TEXT.format(version=version, height=height, width=width, classes=", ".join(classes), option=option, **rest)
