"""`make chaos`: run all campaigns, print one table, keep it as JSON; exit 1 if anything is lost, unnoticed or not back."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from benchmarks.outcome import Check, write_results
from chaos import crowds, damage, kills, memory, planning, power, small_disks
from chaos.outcome import Row, print_table

__all__ = ["CAMPAIGNS", "main"]

CAMPAIGNS: dict[str, Callable[[float, int], list[Row]]] = {
    "kill": kills.campaign,
    "power": power.campaign,
    "damage": damage.campaign,
    "crowd": crowds.campaign,
    "disk": small_disks.campaign,
    "plan": planning.campaign,
    "memory": memory.campaign,
}
"""Each takes a scale (1 is the full size) and a seed."""


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen campaigns; print and keep what they tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(CAMPAIGNS), help="one campaign")
    parser.add_argument("--cases", type=float, default=1.0, help="scale of the number of cases: 1 is the full size")
    parser.add_argument("--seed", type=int, default=0, help="another seed breaks other things")
    parser.add_argument("--no-results", action="store_true", help="keep no JSON")
    options = parser.parse_args(arguments)
    if options.cases <= 0:
        parser.error(f"--cases: expected a scale above 0, got {options.cases}")
    rows: list[Row] = []
    begin = time.monotonic()
    for name, campaign in CAMPAIGNS.items():
        if options.only in (None, name):
            start = time.monotonic()
            rows += campaign(options.cases, options.seed)
            print(f"# {name}: {time.monotonic() - start:.0f} s", flush=True)
    print_table(rows)
    passed = all(row.passed for row in rows)
    minutes = (time.monotonic() - begin) / 60
    print(f"{sum(row.cases for row in rows)} cases, {sum(row.lost for row in rows)} lost, {minutes:.1f} minutes")
    if not options.no_results:
        values = {"scale": options.cases, "seed": options.seed, "minutes": minutes, "rows": [row.as_json() for row in rows]}
        checks = [Check(f"{row.fault}: lost", row.lost, "0", row.passed) for row in rows if not row.skipped]
        print(f"kept in {write_results('chaos', values, checks)}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
