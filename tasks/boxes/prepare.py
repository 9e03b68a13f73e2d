"""Prepare: open the instances and detections, read every file once, and write down by content what the experiment stands on.

Everything that can be wrong with images, annotations and boxes is found here, before anything is computed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from hypercolumns.box_specs import InstancesSpec
from hypercolumns.datasets.decoding import decode_image, image_sha256
from hypercolumns.datasets.instances import AnnotatedImage, Instance, InstanceClass, InstanceDataset, open_instances
from hypercolumns.datasets.instances.detections import Detections
from hypercolumns.datasets.masks import VOID
from hypercolumns.errors import DatasetError, ImageError, MaskError
from storage.canonical import digest, file_sha256
from storage.publish import replace_bytes
from tasks.boxes.crops import write_crops
from tasks.boxes.detections import detection_files, find_detections, write_instances
from tasks.boxes.jobs import BoxJob, BoxPrepared
from tasks.boxes.manifests import (
    BoxEntry,
    BoxManifest,
    ClassEntry,
    DetectionEntry,
    InstanceEntry,
    encode_mask,
    images_only,
    load_box_manifest,
)
from tasks.manifests import Entry
from tasks.record import note_use

__all__ = ["prepare_boxes"]

_THREADS = 4
_LISTED = 5
_VERSION = 1
"""Raised when the same files would give another manifest."""


def prepare_boxes(job: BoxJob) -> BoxPrepared:
    """Check instances and detections and write their manifest; the same files give the same one, found again without decoding.

    Raises:
        DatasetError: the layout does not fit, a file or record is bad, or no class has what the task predicts.
    """
    start = time.perf_counter()
    spec = job.spec
    dataset = open_instances(spec.instances, shapes_root=write_instances(job.places, spec.instances))
    _check_task(dataset, spec.task)
    splits = tuple(dict.fromkeys((spec.instances.train_split, spec.instances.val_split)))
    files = _label_files(dataset, detection_files(spec, splits), splits)
    labels = _digests(files)
    shas = {split: _image_digests(dataset.split(split)) for split in splits}
    key = _key(job, dataset, shas, labels)
    note_use(job.features, key)
    path, images_path = (job.places.datasets / f"{key}{suffix}.json" for suffix in ("", "-images"))
    cached = path.exists() and images_path.exists()
    if not cached:
        detections = {split: find_detections(spec, dataset, split) for split in splits}
        manifest = _manifest(spec.instances, dataset, detections, shas)
        if _digests(files) != labels:
            raise DatasetError(
                "label files changed while they were read. Remedy: run again, when nobody writes to the data set"
            )
        replace_bytes(images_path, images_only(manifest).model_dump_json(indent=1).encode())
        replace_bytes(path, manifest.model_dump_json(indent=1).encode())
    manifest = load_box_manifest(path)
    if spec.maps == "crop":
        images_path = write_crops(job, manifest, key)
    return BoxPrepared(
        key=key,
        path=path,
        images_path=images_path,
        cached=cached,
        seconds=time.perf_counter() - start,
        images={split: len(entries) for split, entries in manifest.splits.items()},
        instances={
            split: sum(not i.ignored for e in entries for i in e.instances) for split, entries in manifest.splits.items()
        },
        detections={split: sum(len(e.detections) for e in entries) for split, entries in manifest.splits.items()},
        rejected=len(manifest.rejected),
    )


def _check_task(dataset: InstanceDataset, task: str) -> None:
    """Refuse a data set that has nothing of what is to be predicted."""
    if task == "segment":
        return
    if not any((each.keypoints if task == "keypoints" else each.parts) is not None for each in dataset.classes):
        raise DatasetError(
            f"{dataset.name}: task {task}: expected a class with {task}, got none among {', '.join(dataset.class_names[:10])}. "
            f"Remedy: give annotations with {task} (instances.annotations), or another task"
        )


def _label_files(dataset: InstanceDataset, more: Sequence[Path], splits: Sequence[str]) -> list[Path]:
    found = [path for split in splits for path in dataset.label_files[split]]
    return list(dict.fromkeys([*found, *more]))


def _digests(files: Sequence[Path]) -> list[str]:
    with ThreadPoolExecutor(_THREADS) as executor:
        return list(executor.map(file_sha256, files))


def _image_digests(images: Sequence[AnnotatedImage]) -> list[str]:
    with ThreadPoolExecutor(_THREADS) as executor:
        return list(executor.map(lambda image: image_sha256(image.path), images))


def _key(job: BoxJob, dataset: InstanceDataset, shas: Mapping[str, list[str]], labels: list[str]) -> str:
    spec = job.spec
    found = {
        split: [[image.key, str(image.path), sha] for image, sha in zip(dataset.split(split), contents, strict=True)]
        for split, contents in shas.items()
    }
    rules = [
        spec.instances.model_dump(mode="json", exclude={"shapes", "root", "annotation_root"}),
        spec.detections.model_dump(mode="json", exclude={"results", "weights"}),
    ]
    return digest(
        {"version": _VERSION, "images": found, "labels": labels, "rules": rules, "classes": list(dataset.class_names)}
    )


def _manifest(
    spec: InstancesSpec,
    dataset: InstanceDataset,
    detections: Mapping[str, Mapping[str, Detections]],
    shas: Mapping[str, list[str]],
) -> BoxManifest:
    splits: dict[str, tuple[BoxEntry, ...]] = {}
    problems: list[str] = []
    for split, found in detections.items():
        images = dataset.split(split)
        with ThreadPoolExecutor(_THREADS) as executor:
            entries = list(executor.map(partial(_entry, spec, dataset, found), images, shas[split]))
        problems += [entry for entry in entries if isinstance(entry, str)]
        splits[split] = tuple(entry for entry in entries if isinstance(entry, BoxEntry))
    if problems:
        more = f" and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise DatasetError(
            f"{len(problems)} images cannot be used: {'; '.join(problems[:_LISTED])}{more}. Nothing was computed. Remedy: "
            "repair these files, or take the images out of the annotations"
        )
    return BoxManifest(
        dataset=dataset.name,
        classes=tuple(_class(each) for each in dataset.classes),
        max_megapixels=spec.max_megapixels,
        splits=splits,
        rejected=tuple(f"{each.path}: {each.record}: {each.reason}" for each in dataset.rejected),
    )


def _class(found: InstanceClass) -> ClassEntry:
    return ClassEntry(
        name=found.name,
        category_id=found.category_id,
        keypoints=() if found.keypoints is None else found.keypoints.names,
        skeleton=() if found.keypoints is None else found.keypoints.skeleton,
        parts=() if found.parts is None else found.parts.names,
    )


def _entry(
    spec: InstancesSpec, dataset: InstanceDataset, detections: Mapping[str, Detections], image: AnnotatedImage, sha: str
) -> BoxEntry | str:
    """Read an image and everything of its objects; what is wrong with it is returned, not raised: all are to be named."""
    try:
        pixels = decode_image(image.path, max_megapixels=spec.max_megapixels, sha256=sha)
        if pixels.shape[:2] != tuple(image.image_hw):
            return f"{image.path}: expected the annotated size {image.image_hw}, got {pixels.shape[:2]}"
        instances = tuple(_instance(each, image.image_hw, dataset) for each in image.instances)
    except (ImageError, MaskError) as error:
        return str(error)
    own = detections.get(image.key, Detections.none())
    return BoxEntry(
        image=Entry(image_id=image.key, image_path=image.path, image_sha256=sha, image_hw=image.image_hw),
        number=image.number,
        instances=instances,
        detections=tuple(
            DetectionEntry(label=int(label), box_xyxy=tuple(box), score=float(score), source=int(source))
            for box, score, label, source in zip(own.boxes_xyxy.tolist(), own.scores, own.labels, own.sources, strict=True)
        ),
    )


def _instance(found: Instance, image_hw: tuple[int, int], dataset: InstanceDataset) -> InstanceEntry:
    ignored = found.crowd or found.difficult
    mask = None if found.mask is None else found.mask(image_hw)
    empty = mask is not None and not mask.any()
    scheme = dataset.classes[found.class_index].parts
    parts = None
    if found.parts is not None and scheme is not None and not ignored:
        labels = found.parts(image_hw)
        known = (labels > 0) & (labels != VOID)
        parts = tuple(encode_mask(labels == each) for each in (*range(1, len(scheme.names) + 1), VOID)) if known.any() else None
    points = None if found.keypoints_xyv is None else tuple((x, y, v) for x, y, v in found.keypoints_xyv.tolist())
    return InstanceEntry(
        label=found.class_index,
        box_xyxy=tuple(np.asarray(found.box_xyxy, np.float64).tolist()),
        # A mask without a pixel (hidden altogether, or smaller than one) can be found by nobody.
        ignored=ignored or empty,
        mask=None if mask is None or empty else encode_mask(mask),
        keypoints_xyv=points,
        parts=parts,
    )
