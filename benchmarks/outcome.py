"""What every benchmark ends with: a table with targets, and a JSON file with machine, date and commit."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from hypercolumns.arithmetic import multiplies_bfloat16
from hypercolumns.specs import ExperimentSpec
from tasks.record import provenance

__all__ = ["RESULTS", "Check", "print_checks", "write_results"]

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Check:
    """One figure against its target."""

    what: str
    figure: float
    target: str
    passed: bool


def print_checks(checks: list[Check]) -> None:
    """Print every figure with its target and whether it was reached."""
    width = max(len(check.what) for check in checks)
    for check in checks:
        print(f"{check.what:{width}s}  {check.figure:10.4g}  target {check.target:12s} {'pass' if check.passed else 'MISS'}")


def write_results(name: str, values: dict[str, Any], checks: list[Check], *, minutes: float | None = None) -> Path:
    """Keep the figures as NAME-DATE-COMMIT.json, with what tells this machine from others, and how long it all took."""
    made_with = provenance(ExperimentSpec())
    made_with.pop("seeds")
    made_with["machine"] |= {
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "multiplies bfloat16": multiplies_bfloat16(),
        "memory GiB": round(psutil.virtual_memory().total / 2**30, 1),
    }
    commit = str(made_with["git commit"] or "no-commit")
    path = RESULTS / f"{name}-{datetime.now(UTC):%Y%m%d}-{commit}.json"
    path.parent.mkdir(exist_ok=True)
    document = {
        "name": name,
        "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "minutes": None if minutes is None else round(minutes, 1),
        **made_with,
        "values": values,
        "checks": [asdict(check) for check in checks],
    }
    path.write_text(json.dumps(document, indent=1, default=str) + "\n", encoding="utf-8")
    return path
