"""Masks, keypoints and parts in boxes, from nothing: `HYPERCOLUMNS_REAL_DATA=folder make real-boxes`.

Runs the commands a user would run, each in a process of its own, in a workspace that is removed first: COCO photographs with
ImageNet weights, then generated scenes for all three tasks and the comparison of heads.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
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
    values: dict[str, Any] = {}
    for title, (command, config, overrides) in RUNS.items():
        small = SMALL["shapes" if title.startswith("shapes") else "segment"] if options.small else ()
        values[title] = _run(command, CONFIGS / config, options.workspace, *overrides, *small)
        _print_table(title, values[title])
    small = tuple(f"base.{each}" for each in SMALL["shapes"]) if options.small else ()
    values["heads"] = _run("compare-heads", CONFIGS / "shapes_heads.yaml", options.workspace, *small)
    _print_heads(values["heads"])
    minutes = (time.perf_counter() - start) / 60
    checks = [*judge(values), Check("all in, minutes", minutes, f"<= {MOST_MINUTES}", minutes <= MOST_MINUTES)]
    print_checks(checks)
    print(f"{sum(check.passed for check in checks)} of {len(checks)} targets reached")
    if not options.small:
        print(f"kept in {write_results('real-boxes', values, checks)}")
    return 0


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
    """Run a command of ours and return its JSON, with the wall time of the whole process."""
    arguments = [command, str(config), *overrides, "--workspace", str(workspace), "--json"]
    print(f"$ hypercolumns {' '.join(arguments)}", flush=True)
    start = time.perf_counter()
    executable = Path(sys.executable).with_name("hypercolumns")
    done = subprocess.run([str(executable), *arguments], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    result: dict[str, Any] = {name: value for name, value in found.items() if name not in MACHINE_S_OWN}
    result["wall_seconds"] = round(time.perf_counter() - start, 1)
    return result


def _print_table(title: str, result: dict[str, Any]) -> None:
    print(f"\n{title}: {result['wall_seconds']:.0f} s in all; seconds by stage: {result['timings']}")
    print(f"protocol: {result['protocol']}")
    names = [name for name in SHOWN[result["task"]] if name in result["metrics"]]
    print(f"{'':16s}" + "".join(f"{name:>24s}" for name in names))
    for predictor, scores in {"model": result["metrics"], **result["baselines"]}.items():
        print(f"{predictor:16s}" + "".join(f"{_cell(scores, name):>24s}" for name in names))
    if mistakes := result["metrics"].get("mistakes"):
        print(f"detections at overlap {mistakes['threshold']:g}, similar classes: {mistakes['similar']}: {mistakes['all']}")
    for predictor, scores in result["baselines"].items():
        for name, found in scores.get("model_better_by", {}).items():
            if name in COMPARED[result["task"]]:
                spread = f"[{found['low'] * 100:+.1f}, {found['high'] * 100:+.1f}]"
                print(f"model over {predictor}: {name} {found['difference'] * 100:+.1f} points {spread}, paired")
    print(flush=True)


def _cell(scores: dict[str, Any], name: str) -> str:
    value, bounds = scores.get(name), scores["intervals"].get(name)
    if value is None:
        return "-"
    return f"{value * 100:.1f}" + (f" [{bounds[0] * 100:.1f}, {bounds[1] * 100:.1f}]" if bounds else "")


def _print_heads(result: dict[str, Any]) -> None:
    print(f"\nheads on one store: {result['wall_seconds']:.0f} s in all; seconds: {result['timings']}")
    print("\n".join(result["table"]))
    print("\n".join(result["claims"]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
