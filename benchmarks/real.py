"""Real photographs, real ImageNet weights, from nothing: `HYPERCOLUMNS_REAL_DATA=folder make real`.

Runs the commands a user would run, each in a process of its own, in a workspace that is removed first.
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
TRAIN_IMAGES, VAL_IMAGES = 367, 101

SPARSE_ONLY = ("train.epochs=0", "store.views=[identity]", "evaluate.baselines=[]", "evaluate.panels=0")
"""The sparse stage alone; what is left of `train` is the certificate of the conversion."""

MACHINE_S_OWN = ("run_dir", "report", "artefacts")
"""What a run says that means nothing on another machine."""

METRICS = ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu")


def main() -> int:
    """Run everything and print the tables and what became of the targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True, help="folder that is removed and filled")
    options = parser.parse_args()
    shutil.rmtree(options.workspace, ignore_errors=True)
    values = {"camvid": _camvid(options.workspace), "coco_voc20": _coco(options.workspace)}
    checks = judge(values)
    print_checks(checks)
    print(f"{sum(check.passed for check in checks)} of {len(checks)} targets reached")
    print(f"kept in {write_results('real', values, checks)}")
    return 0


def judge(values: dict[str, Any]) -> list[Check]:
    """Compare the figures with their targets."""
    camvid, coco = values["camvid"], values["coco_voc20"]
    cold, sparse = camvid["cold"], camvid["sparse"]
    seconds = sum(sparse["timings"][stage] for stage in ("prepare", "extract", "sample", "pretrain", "evaluate"))
    rows = max(layer["hits"] + layer["misses"] for layer in cold["cache"].values())
    views = (rows - VAL_IMAGES) // TRAIN_IMAGES
    grown = {layer["misses"] for layer in camvid["grown"].values()}
    holds = cold["certificate"]["holds"]
    score, sparse_score = cold["metrics"]["mean_iu"], sparse["metrics"]["mean_iu"]
    checks = [
        Check("CamVid val mean IU", score, "> 0.64", score > 0.64),
        Check("CamVid cold, all in, seconds", cold["wall_seconds"], "<= 600", cold["wall_seconds"] <= 600),
        Check("CamVid sparse stage mean IU", sparse_score, "> 0.52", sparse_score > 0.52),
        Check("CamVid sparse stage, images to scores, seconds", seconds, "about 30", seconds <= 35),
        Check("second run: maps computed", _misses(camvid["warm"]), "0", _misses(camvid["warm"]) == 0),
        Check("347 then 367 images: images computed, a view", max(grown) / views, "20", grown == {20 * views}),
        Check("certificate holds", float(holds), "1", holds),
    ]
    for metric in ("mean_iu", "pixel_accuracy"):
        gain = coco["metrics"][metric] - coco["baselines"]["majority"][metric]
        checks.append(Check(f"COCO {metric} over all-background", gain, "> 0", gain > 0))
    return checks


def _camvid(workspace: Path) -> dict[str, Any]:
    config = CONFIGS / "camvid.yaml"
    cold = _run("run", config, workspace / "main")
    _print_table("CamVid val", cold)
    warm = _run("run", config, workspace / "main")
    _run("extract", config, workspace / "growing", f"dataset.limit_train={TRAIN_IMAGES - 20}")
    grown = _run("extract", config, workspace / "growing")
    shutil.rmtree(workspace / "growing")
    sparse = _run("run", config, workspace / "sparse", *SPARSE_ONLY)
    shutil.rmtree(workspace / "sparse")
    short = ("timings", "wall_seconds", "cache")
    return {"cold": cold, "warm": {k: warm[k] for k in short}, "grown": grown["cache"], "sparse": sparse}


def _coco(workspace: Path) -> dict[str, Any]:
    result = _run("run", CONFIGS / "coco_voc20.yaml", workspace / "main")
    _print_table("COCO, VOC classes, val", result)
    return result


def _misses(result: dict[str, Any]) -> int:
    return sum(int(layer["misses"]) for layer in result["cache"].values())


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
    rows = {"dense classifier": result["metrics"], **result["baselines"]}
    print(f"\n{title}: {result['wall_seconds']:.0f} s in all; seconds by stage: {result['timings']}")
    print(f"{'':28s}" + "".join(f"{metric:>24s}" for metric in METRICS))
    for name, scores in rows.items():
        line = "".join(f"{scores[metric] * 100:24.1f}" for metric in METRICS)
        interval = scores.get("intervals", {}).get("mean_iu")
        print(f"{name:28s}{line}" + (f"   mean IU in [{interval[0] * 100:.1f}, {interval[1] * 100:.1f}]" if interval else ""))
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
