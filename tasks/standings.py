"""Standings: where a task line stands when a night begins: its champion, and what is new since the last decision.

News are told by content: the bytes of images and masks, class names, and the experiment's own settings. Never by dates.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from hypercolumns.nights import NightSpec
from storage.canonical import digest
from storage.champions import LineView, read_line
from storage.runs import append
from tasks.champions import manifest_path
from tasks.jobs import Job, Message, Prepared, Stage
from tasks.manifests import Manifest, load_manifest

__all__ = ["News", "Standing", "find_news"]


class News(Message):
    """What changed since the last decision, by content."""

    images_new: int
    images_gone: int
    labels_changed: int
    first: bool
    since: str = ""

    @property
    def text(self) -> str:
        """Say it in a line."""
        if self.first:
            return f"the first night of this line: {self.images_new} images"
        counts = {
            "new images": self.images_new,
            "images gone": self.images_gone,
            "images with changed labels": self.labels_changed,
        }
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        return told or "settings, class names or the order of images changed"


class Standing(Stage):
    """Where a line stands; its key names what is to be decided, so that it is decided once."""

    line: str
    news: News | None
    last_run: str | None
    champion_model: str | None
    champion_unseen: float
    former_manifest: Path | None


def find_news(job: Job, prepared: Prepared, line: str, night: NightSpec) -> Standing:
    """Say what is new since the last decision about a line.

    Args:
        job: The experiment.
        prepared: Its checked data set, as it is now.
        line: Name of the task line.
        night: What the night is told; other thresholds are decided by anew, without training again.

    Raises:
        FormatError: the line's log was changed.
    """
    start = time.perf_counter()
    manifest, view = load_manifest(prepared.path), read_line(job.places, line)
    key = _night_key(job, manifest, view, night)
    last = _last_night(view)
    news = None if last is not None and last["key"] == key else _news(job, manifest, last)
    if job.run_dir is not None:
        append(job.run_dir, "night", {"line": line, "news": None if news is None else news.text})
    return Standing(
        key=key,
        path=prepared.path,
        cached=news is None,
        seconds=time.perf_counter() - start,
        line=line,
        news=news,
        last_run=None if last is None else f"{last['run_id']}, {last['time']}",
        champion_model=view.model,
        champion_unseen=float(view.champion.facts.get("held_out", 0.0)) if view.champion else 0.0,
        former_manifest=manifest_path(job.places, view.champion),
    )


def _night_key(job: Job, manifest: Manifest, view: LineView, night: NightSpec) -> str:
    spec = job.spec
    return digest(
        {
            "spec": spec.model_dump(mode="json", exclude={"name": True, "dataset": {"root"}}),
            "night": night.model_dump(mode="json", exclude={"checks", "retention"}),
            "pinned": view.pinned,
            "train": manifest.content_key(spec.dataset.train_split, labels=True),
            "val": manifest.content_key(spec.dataset.val_split, labels=True),
            "groups": manifest.groups(spec.dataset.train_split),
        }
    )


def _last_night(view: LineView) -> dict[str, Any] | None:
    """Return what was noted of the latest night that came to a decision."""
    for entry in reversed(view.entries):
        night = entry.data.get("decision", {}).get("night")
        if night is not None:
            return {**night, "time": f"{entry.time:%Y-%m-%d %H:%M} UTC"}
    return None


def _news(job: Job, manifest: Manifest, last: dict[str, Any] | None) -> News:
    now = _contents(manifest)
    path = None if last is None else job.places.datasets / f"{last['manifest']}.json"
    if last is None or path is None or not path.is_file():
        return News(images_new=len(now), images_gone=0, labels_changed=0, first=last is None)
    before = _contents(load_manifest(path))
    return News(
        images_new=len(now.keys() - before.keys()),
        images_gone=len(before.keys() - now.keys()),
        labels_changed=sum(now[image] != before[image] for image in now.keys() & before.keys()),
        first=False,
        since=last["time"],
    )


def _contents(manifest: Manifest) -> dict[tuple[str, str], str | None]:
    """Return the digest of each image's labels, by split and the image's digest."""
    return {(split, entry.image_sha256): entry.mask_sha256 for split, entries in manifest.splits.items() for entry in entries}
