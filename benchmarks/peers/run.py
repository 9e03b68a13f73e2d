"""`make bench-peers`: every peer in turn, on two cores, each in a process of its own; one table, one chart, one JSON file.

A peer that cannot be installed, fails or takes too long is reported so, and the others go on. Some of them alone (`--only`) at
full length are kept too, as peers-partial, without a chart.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.outcome import Check, print_checks, write_results
from benchmarks.peers.ledger import MARKS
from benchmarks.peers.presenting import OURS, draw_chart, judge, markdown_table
from benchmarks.peers.processes import Peer, run_peer, use_cores
from benchmarks.peers.scoring import Outcome, Point, Truth
from hypercolumns.specs import ExperimentSpec
from tasks.record import provenance

__all__ = ["PEERS", "main"]

_ROOT = Path(__file__).parents[2]
_CHART = _ROOT / "docs" / "pictures" / "peers.svg"
_CORES = 2
_TEN_MINUTES = 600.0
_CONVPAINT = ("napari-convpaint>=1.2,<2", "pyqt6")

PEERS: dict[str, Peer] = {
    OURS: Peer("hypercolumns: this project", "ours", limit_seconds=1200),
    "fcn": Peer("squeezenet1_1 fine-tuned end to end (FCN)", "networks", "fcn"),
    "fcn-60": Peer("FCN, trained for a tenth of the time", "networks", "fcn", share=0.1),
    "fcn-120": Peer("FCN, trained for a fifth of the time", "networks", "fcn", share=0.2),
    "fcn-300": Peer("FCN, trained for half of the time", "networks", "fcn", share=0.5),
    "notebook": Peer("plain notebook: recompute, upsample, stack, MLP", "networks", "notebook", limit_seconds=600),
    "unet": Peer("U-Net, ResNet-18 encoder, from scratch", "networks", "unet"),
    "logistic": Peer("logistic regression, 63,582 hypercolumns", "sparse", "logistic"),
    "logistic-10k": Peer("logistic regression, 10,000 hypercolumns", "sparse", "logistic-10k"),
    "forest": Peer("random forest, 63,582 hypercolumns", "sparse", "forest"),
    "neighbours": Peer("cosine nearest neighbours, 63,582 hypercolumns", "sparse", "neighbours"),
    "filters": Peer("filter bank + random forest, as ilastik does", "filters"),
    "convpaint": Peer("Convpaint, Gaussian features", "convpaint", "gaussian", packages=_CONVPAINT),
    "convpaint-cnn": Peer("Convpaint, squeezenet1_1 features (speed only)", "convpaint", "cnn", packages=_CONVPAINT),
    "thingsvision": Peer(
        "THINGSvision, squeezenet1_1 (extraction only)", "things", packages=("thingsvision>=2.6,<3",), pinned=False
    ),
}


def main() -> int:
    """Run the chosen peers; print the table, and keep it where they were run at full length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=list(PEERS), help="run this peer; may be given several times")
    parser.add_argument("--budget-seconds", type=float, default=_TEN_MINUTES, help="training time; shorter for quick tries")
    parser.add_argument("--work", type=Path, default=Path("workspace/peers"), help="folder for environments, logs, outcomes")
    parser.add_argument("--resume", action="store_true", help="take outcomes that the work folder has, and run the rest")
    options = parser.parse_args()
    if "HYPERCOLUMNS_REAL_DATA" not in os.environ:
        parser.error("expected HYPERCOLUMNS_REAL_DATA=folder with data/ and weights/ in the environment, got none")
    os.environ["HYPERCOLUMNS_REAL_DATA"] = str(Path(os.environ["HYPERCOLUMNS_REAL_DATA"]).resolve())
    names = [name for name in PEERS if name in (options.only or PEERS)]
    start = time.perf_counter()
    outcomes = _outcomes(names, options.work.resolve(), options.budget_seconds, options.resume)
    full_length = options.budget_seconds == _TEN_MINUTES
    whole = full_length and len(outcomes) == len(PEERS)
    marks = [share * options.budget_seconds for share in MARKS]
    labels = {name: peer.label for name, peer in PEERS.items()}
    chart = _CHART if whole else options.work / "peers.svg"
    draw_chart(outcomes, labels, chart, options.budget_seconds)
    print(f"\n{markdown_table(outcomes, labels, marks)}\n\nchart: {chart}")
    checks = judge(outcomes, marks)
    if checks:
        print_checks(checks)
    print(f"{len(outcomes)} peers in {(time.perf_counter() - start) / 60:.0f} minutes")
    if full_length:
        print(f"kept in {_keep('peers' if whole else 'peers-partial', outcomes, marks, checks)}")
    return 0


def _outcomes(names: list[str], work: Path, budget_seconds: float, resume: bool) -> dict[str, Outcome]:
    use_cores(_CORES)
    camvid = Path(os.environ["HYPERCOLUMNS_REAL_DATA"]) / "data" / "camvid"
    truth, found = Truth(camvid), {}
    for name in names:
        kept = work / "outcomes" / f"{name}-{budget_seconds:g}.json"
        if resume and kept.exists():
            found[name] = _read(kept)
        else:
            found[name] = run_peer(PEERS[name], work, camvid, budget_seconds, truth)
            found[name].notes["commit"] = provenance(ExperimentSpec())["git commit"]
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(asdict(found[name]), indent=1) + "\n", encoding="utf-8")
        outcome = found[name]
        points = ", ".join(f"{100 * point.mean_iu:.1f} at {point.seconds:.0f} s" for point in outcome.points)
        print(f"# {name}: {outcome.status} in {outcome.wall_seconds:.0f} s; {points or 'no score'}", flush=True)
    return found


def _read(path: Path) -> Outcome:
    values = json.loads(path.read_text(encoding="utf-8"))
    return Outcome(**{**values, "points": [Point(**point) for point in values["points"]]})


def _keep(name: str, outcomes: dict[str, Outcome], marks: list[float], checks: list[Check]) -> Path:
    values = {
        peer: {
            **asdict(outcome),
            "label": PEERS[peer].label,
            "best_by": {f"{mark:g} s": outcome.best_by(mark) for mark in marks},
        }
        for peer, outcome in outcomes.items()
    }
    return write_results(name, values, checks)


if __name__ == "__main__":
    sys.exit(main())
