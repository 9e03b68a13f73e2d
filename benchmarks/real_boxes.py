"""Masks, keypoints and parts in boxes, from nothing: `HYPERCOLUMNS_REAL_DATA=folder make real-boxes`.

Runs the commands a user would run, each in a process of its own, in workspaces that are removed first: COCO photographs with
ImageNet weights, then generated scenes for all three tasks; beside them, in a workspace of its own and on the other half of the
cores, the comparison of heads. Two processes make more of two cores than one with two threads does: batches of boxes are small.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.outcome import Check, print_checks, write_results

CONFIGS = Path(__file__).parent.parent / "configs"

RUNS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "coco masks": ("segment", "coco_boxes.yaml", ()),
    "coco masks, one classifier for all classes": ("segment", "coco_boxes.yaml", ("head.class_agnostic=true",)),
    "coco person keypoints": ("keypoints", "coco_keypoints.yaml", ()),
    "shapes masks": ("segment", "shapes_boxes.yaml", ()),
    "shapes keypoints": ("keypoints", "shapes_boxes.yaml", ("task=keypoints",)),
    "shapes parts": ("parts", "shapes_boxes.yaml", ("task=parts",)),
}
"""Title: command, experiment file and overrides."""

SHOWN = {
    "segment": ("ap_r@0.5", "ap_r@0.7", "ap_r_volume", "ap_b@0.5", "mask_iou", "mask_iou/all"),
    "keypoints": ("pck@0.1", "pck@0.2", "pck_torso@0.2", "apk@0.1"),
    "parts": ("ap_r_part@0.5", "ap_r_part@0.7", "part_iou"),
}
COMPARED = {"segment": ("ap_r@0.5", "mask_iou"), "keypoints": ("pck@0.1", "pck@0.2"), "parts": ("ap_r_part@0.5", "part_iou")}
"""What every baseline has to be beaten by."""

SMALL = {
    "segment": ("instances.limit_train=24", "instances.limit_val=12", "pairs.boxes=64", "train.epochs=1"),
    "shapes": ("instances.shapes.images=32", "pairs.boxes=64", "train.epochs=1"),
}
MACHINE_S_OWN = ("run_dir", "report", "artefacts")
MOST_MINUTES = 45


def main() -> int:
    """Run everything and print the tables and what became of the targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True, help="folder that is removed and filled")
    parser.add_argument("--small", action="store_true", help="a few images each: does everything run?")
    options = parser.parse_args()
    shutil.rmtree(options.workspace, ignore_errors=True)
    start = time.perf_counter()
    lanes = [
        partial(run, options.workspace / name, options.small) for run, name in ((_run_tasks, "tasks"), (_run_heads, "heads"))
    ]
    with ThreadPoolExecutor(min(len(lanes), _cores())) as executor:
        tasks, heads = executor.map(lambda lane: lane(), lanes)
    values = {**tasks, "heads": heads}
    minutes = (time.perf_counter() - start) / 60
    checks = [*judge(values), Check("all in, minutes", minutes, f"<= {MOST_MINUTES}", minutes <= MOST_MINUTES)]
    print_checks(checks)
    print(f"{sum(check.passed for check in checks)} of {len(checks)} targets reached")
    if not options.small:
        print(f"kept in {write_results('real-boxes', values, checks)}")
    return 0


def _run_tasks(workspace: Path, small: bool) -> dict[str, Any]:
    values = {}
    for title, (command, config, overrides) in RUNS.items():
        fewer = SMALL["shapes" if title.startswith("shapes") else "segment"] if small else ()
        values[title] = _run(command, CONFIGS / config, workspace, *overrides, *fewer)
        print(_table(title, values[title]), flush=True)
    return values


def _run_heads(workspace: Path, small: bool) -> dict[str, Any]:
    fewer = tuple(f"base.{each}" for each in SMALL["shapes"]) if small else ()
    found = _run("compare-heads", CONFIGS / "shapes_heads.yaml", workspace, *fewer)
    seconds = f"heads on one store: {found['wall_seconds']:.0f} s in all; seconds: {found['timings']}"
    print("\n".join(["", seconds, *found["table"], *found["claims"]]), flush=True)
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def judge(values: dict[str, Any]) -> list[Check]:
    """Compare each run with every baseline, and look whether the store was shared."""
    checks = []
    for title, result in values.items():
        if title == "heads":
            continue
        for name, scores in result["baselines"].items():
            for score in COMPARED[result["task"]]:
                gain = (result["metrics"][score] or 0.0) - (scores[score] or 0.0)
                checks.append(Check(f"{title}: {score} over {name}", gain, "> 0", gain > 0))
    for title in ("coco masks, one classifier for all classes", "shapes keypoints", "shapes parts"):
        misses = sum(layer["misses"] for layer in values[title]["cache"].values())
        checks.append(Check(f"{title}: maps computed", misses, "0", misses == 0))
    return checks


def _run(command: str, config: Path, workspace: Path, *overrides: str) -> dict[str, Any]:
    """Run a command of ours on half of the cores and return its JSON, with the wall time of the whole process."""
    arguments = [command, str(config), *overrides, "--workspace", str(workspace), "--json"]
    print(f"$ hypercolumns {' '.join(arguments)}", flush=True)
    start = time.perf_counter()
    executable = Path(sys.executable).with_name("hypercolumns")
    settings = {**os.environ, "OMP_NUM_THREADS": str(max(1, _cores() // 2))}
    done = subprocess.run([str(executable), *arguments], stdout=subprocess.PIPE, text=True, check=True, env=settings)
    found = json.loads(done.stdout.splitlines()[-1])
    result: dict[str, Any] = {name: value for name, value in found.items() if name not in MACHINE_S_OWN}
    result["wall_seconds"] = round(time.perf_counter() - start, 1)
    return result


def _table(title: str, result: dict[str, Any]) -> str:
    """Spell out what a run scored, as one text: runs beside each other print theirs whole."""
    lines = ["", f"{title}: {result['wall_seconds']:.0f} s in all; seconds by stage: {result['timings']}"]
    lines.append(f"protocol: {result['protocol']}")
    names = [name for name in SHOWN[result["task"]] if name in result["metrics"]]
    lines.append(f"{'':16s}" + "".join(f"{name:>24s}" for name in names))
    for predictor, scores in {"model": result["metrics"], **result["baselines"]}.items():
        lines.append(f"{predictor:16s}" + "".join(f"{_cell(scores, name):>24s}" for name in names))
    if mistakes := result["metrics"].get("mistakes"):
        lines.append(
            f"detections at overlap {mistakes['threshold']:g}, similar classes: {mistakes['similar']}: {mistakes['all']}"
        )
    for predictor, scores in result["baselines"].items():
        for name, found in scores.get("model_better_by", {}).items():
            if name in COMPARED[result["task"]]:
                spread = f"[{found['low'] * 100:+.1f}, {found['high'] * 100:+.1f}]"
                lines.append(f"model over {predictor}: {name} {found['difference'] * 100:+.1f} points {spread}, paired")
    return "\n".join(lines)


def _cell(scores: dict[str, Any], name: str) -> str:
    value, bounds = scores.get(name), scores["intervals"].get(name)
    if value is None:
        return "-"
    return f"{value * 100:.1f}" + (f" [{bounds[0] * 100:.1f}, {bounds[1] * 100:.1f}]" if bounds else "")


if __name__ == "__main__":
    sys.exit(main())
