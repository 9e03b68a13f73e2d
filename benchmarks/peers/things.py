"""A peer from the registry: THINGSvision, in an environment of its own. It extracts features and does nothing else.

So it has no score: what is reported is images a second from files to features on disk, and the same again when nothing is new.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from thingsvision import get_extractor
from thingsvision.utils.data import DataLoader, ImageDataset
from torchvision import transforms

from benchmarks.peers.ledger import begin
from benchmarks.peers.scene import Scene
from hypercolumns.allocator import keep_freed_memory

__all__ = ["main"]

_IMAGES, _BATCH, _BATCHES_A_FILE = 128, 8, 4
_MODULES = ["features.1", *(f"features.{number}" for number in (3, 4, 6, 7, 9, 10, 11, 12))]


def _extract(extractor: Any, images: Path, features: Path) -> float:
    """Extract every image of a folder to disk; return the seconds it took."""
    start = time.perf_counter()
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    dataset = ImageDataset(
        root=str(images),
        out_path=str(features),
        backend="pt",
        transforms=transforms.Compose([transforms.ToTensor(), normalise]),
    )
    batches = DataLoader(dataset=dataset, batch_size=_BATCH, backend="pt")
    extractor.extract_features(
        batches=batches, module_names=_MODULES, output_dir=str(features), step_size=_BATCHES_A_FILE, output_type="ndarray"
    )
    return time.perf_counter() - start


def _linked(scene: Scene, folder: Path) -> Path:
    folder.mkdir()
    for path in scene.train_images[:_IMAGES]:
        (folder / path.name).symlink_to(path)
    return folder


def main() -> int:
    """Extract twice."""
    keep_freed_memory()
    ledger, scene, _ = begin(__doc__)
    extractor = get_extractor(model_name="squeezenet1_1", source="torchvision", device="cpu", pretrained=False)
    extractor.model.load_state_dict(torch.load(scene.weights))
    extractor.model.eval()
    images, features = _linked(scene, ledger.folder / "images"), ledger.folder / "features"
    try:
        first = _extract(extractor, images, features)
        written = sum(path.stat().st_size for path in features.rglob("*") if path.is_file())
        again = _extract(extractor, images, features)
    finally:
        shutil.rmtree(features, ignore_errors=True)
    ledger.note(
        extracted_images=_IMAGES,
        extraction_images_a_second=_IMAGES / first,
        rerun_seconds=again,
        stored_mb_an_image=written / _IMAGES / 1e6,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
