"""`make bench`: ratios measured side by side in one process, interleaved, medians over repeats, beside their targets.

Every row pits a form of ours against the plain one in its best natural form, on the same threads, data and allocator.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import (
    ceilings,
    extracting,
    grid,
    growth,
    heads,
    object_store,
    operating,
    pipelines,
    planner,
    quantised,
    scaling,
    stores,
)
from benchmarks.measuring import Figure
from benchmarks.outcome import Check, print_checks, write_results
from hypercolumns.allocator import keep_freed_memory

THREADED: dict[str, Callable[[], list[Figure]]] = {
    "extraction": extracting.extraction,
    "gather": heads.sparse_gather,
    "dense-head": heads.dense_heads,
    "step": heads.training_step,
    "grid": grid.grid_heatmaps,
    "epoch": pipelines.dense_epoch,
    "sampling": pipelines.sampling,
    "statistics": stores.statistics,
}
"""Measured with one torch thread and with all."""

WHOLE: dict[str, Callable[[], list[Figure]]] = {
    "write": stores.writing,
    "warm-read": stores.warm_reading,
    "cold-read": stores.cold_reading,
    "sparse-read": stores.sparse_reading,
    "uint8": stores.quantised,
    "uint8-accuracy": quantised.quantised_accuracy,
    "s3": object_store.object_store,
    "growth": growth.growth,
    "memory": heads.peak_memory,
    "overhead": pipelines.flow_overhead,
    "start-up": pipelines.start_up,
    "prediction": pipelines.prediction,
    "camvid": pipelines.camvid,
    "planner": planner.planner,
    "commits": scaling.commits,
}
"""Measured once: what their threads do is not torch's business, or they run in processes of their own."""

NAMED: dict[str, Callable[[], list[Figure]]] = {
    "ceilings": ceilings.ceilings,
    "extraction-parts": extracting.extraction_parts,
    "scaling": scaling.scaling,
    "up": operating.coming_up,
    "lookalikes": operating.finding_lookalikes,
}
"""Measured once, and only when asked for by name: this machine's ceilings, and what is about clusters, operators and data."""

_ALL = (*THREADED, *WHOLE, *NAMED)


def main() -> int:
    """Run the chosen rows; print and keep them, after Ctrl-C those that were measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=_ALL)
    options = parser.parse_args()
    keep_freed_memory()
    cores = torch.get_num_threads()
    figures: dict[str, Figure] = {}
    start = time.perf_counter()
    # Rows that are measured by themselves do not take each other's place.
    kept_as, code = f"bench-{options.only}" if options.only else "bench", 0
    try:
        _measure_chosen(options.only, cores, figures)
    except KeyboardInterrupt:
        kept_as, code = f"{kept_as}-interrupted", 130
    torch.set_num_threads(cores)
    if not figures:
        print("nothing was measured: the row may need HYPERCOLUMNS_REAL_DATA=folder with data/ and weights/", file=sys.stderr)
        return code or 2
    checks = [_check(what, figure) for what, figure in figures.items()]
    print_checks(checks)
    judged = [figure for figure in figures.values() if figure.target is not None]
    reached = sum(figure.passed for figure in judged)
    minutes = (time.perf_counter() - start) / 60
    print(f"{reached} of {len(judged)} targets reached in {minutes:.0f} minutes")
    values = {what: _values(figure) for what, figure in figures.items()}
    print(f"kept in {write_results(kept_as, values, checks, minutes=minutes)}")
    return code


def _measure_chosen(only: str | None, cores: int, figures: dict[str, Figure]) -> None:
    """Measure row after row into `figures`: whoever loses patience keeps what there is."""
    for name, measure in (WHOLE if only is None else WHOLE | NAMED).items():
        if only in (None, name):
            figures |= {figure.what: figure for figure in _measured(name, measure)}
    for name, measure in THREADED.items():
        for threads in sorted({1, cores}):
            if only in (None, name):
                torch.set_num_threads(threads)
                label = f"{threads} thread{'s' if threads > 1 else ''}"
                figures |= {f"{figure.what}, {label}": figure for figure in _measured(f"{name}, {label}", measure)}


def _measured(label: str, measure: Callable[[], list[Figure]]) -> list[Figure]:
    start = time.perf_counter()
    found = measure()
    print(f"# {label}: {time.perf_counter() - start:.0f} s", flush=True)
    return found


def _check(what: str, figure: Figure) -> Check:
    if figure.target is None:
        return Check(what, figure.value, "none", True)
    return Check(what, figure.value, f"{'<=' if figure.at_most else '>='} {figure.target:g}{figure.unit}", figure.passed)


def _values(figure: Figure) -> dict[str, Any]:
    return {"value": figure.value, "target": figure.target, **figure.details}


if __name__ == "__main__":
    sys.exit(main())
