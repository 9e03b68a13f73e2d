"""What each choice buys on CamVid, one factor at a time on a short schedule: `make real-ablation`.

All rows share one feature store; a row that needs other views or none of the layers extracts only what is missing.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.outcome import Check, write_results
from cli.config import load_experiment
from tasks.evaluate import evaluate_model
from tasks.extract import extract_features
from tasks.jobs import Job
from tasks.prepare import prepare_dataset
from tasks.pretrain import pretrain_classifier
from tasks.sample import sample_pixels
from tasks.train import train_dense

CONFIG = Path(__file__).parent.parent / "configs" / "camvid.yaml"
SHORT = ("train.epochs=3", "evaluate.baselines=[]", "evaluate.bootstrap=200", "evaluate.panels=0", "store.views=[identity]")
FACTORS: dict[str, tuple[str, ...]] = {
    "the short schedule itself": (),
    "layers: deepest only": ("head.layers=[features.12.cat]",),
    "layers: without the finest": (
        "head.layers=[features.3.cat,features.4.cat,features.6.cat,features.7.cat,features.9.cat,features.10.cat,features.11.cat,features.12.cat]",
    ),
    "layers: one a resolution": ("head.layers=[features.1,features.4.cat,features.7.cat,features.12.cat]",),
    "hidden: none (linear)": ("head.hidden=0",),
    "hidden: 64": ("head.hidden=64",),
    "hidden: 512": ("head.hidden=512",),
    "output stride: twice as coarse": ("head.output_stride=8", "train.loss_stride=4"),
    "flips in training": ("store.views=[identity,hflip]",),
    "weighting: sqrt of median frequency": ("train.class_weighting=sqrt_median",),
    "weighting: median frequency": ("train.class_weighting=median",),
    "loss: cross entropy alone": ("train.dice=0",),
    "coordinates added": ("head.coordinates=true",),
    "alignment: resize": ("head.alignment=resize",),
    "context: none": ("head.context=none",),
    "context: 3x3 kernels on coarse maps": ("head.context=kernel3",),
    "sparse pretraining: none": ("pretrain.epochs=0",),
}


def main() -> int:
    """Run every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True, help="workspace; a store that is there is used")
    parser.add_argument("--only", help="rows whose name contains this")
    options = parser.parse_args()
    rows: dict[str, Any] = {}
    for name, overrides in FACTORS.items():
        if options.only and options.only not in name:
            continue
        rows[name] = _row(options.workspace / "main", [*SHORT, *overrides])
        base = next(iter(rows.values()))
        _print_row(name, rows[name], base)
    print(f"kept in {write_results('ablation', rows, list[Check]())}")
    return 0


def _row(workspace: Path, overrides: list[str]) -> dict[str, Any]:
    start = time.perf_counter()
    job = Job(spec=load_experiment(CONFIG, overrides), workspace=workspace)
    prepared = prepare_dataset(job)
    extracted = extract_features(job, prepared)
    sampled = sample_pixels(job, prepared, extracted)
    pretrained = pretrain_classifier(job, prepared, extracted, sampled)
    trained = train_dense(job, prepared, pretrained)
    evaluated = evaluate_model(job, prepared, extracted, sampled, pretrained, trained)
    return {
        "overrides": overrides,
        "mean_iu": evaluated.metrics["mean_iu"],
        "interval": evaluated.metrics["intervals"]["mean_iu"],
        "sparse_mean_iu": evaluated.baselines["sparse, priors restored"]["mean_iu"],
        "train_seconds": trained.seconds,
        "seconds": time.perf_counter() - start,
    }


def _print_row(name: str, row: dict[str, Any], base: dict[str, Any]) -> None:
    low, high = row["interval"]
    print(
        f"{name:38s} mean IU {row['mean_iu'] * 100:5.1f} [{low * 100:.1f}, {high * 100:.1f}] "
        f"({(row['mean_iu'] - base['mean_iu']) * 100:+5.1f})  sparse {row['sparse_mean_iu'] * 100:5.1f}  "
        f"training {row['train_seconds']:5.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
