"""Print a kept benchmark as the table of docs/performance.md: `python -m benchmarks.tables FILE`."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

__all__ = ["as_markdown"]

_THREADS = re.compile(r", (\d+) threads?$")


def as_markdown(document: dict[str, Any]) -> str:
    """Return the figures of a results file, those with one of torch's threads beside those with all of them.

    Args:
        document: What `benchmarks.outcome.write_results` kept.
    """
    rows: dict[str, dict[str, str]] = {}
    for check in document["checks"]:
        found = _THREADS.search(check["what"])
        row = rows.setdefault(_THREADS.sub("", check["what"]), {"target": check["target"]})
        row["one" if found and found[1] == "1" else "all"] = _figure(check)
    lines = ["| what | target | one thread | all threads, or where threads are not the question |", "| --- | --- | --- | --- |"]
    lines += [f"| {what} | {row['target']} | {row.get('one', '')} | {row.get('all', '')} |" for what, row in rows.items()]
    return "\n".join(lines)


def _figure(check: dict[str, Any]) -> str:
    return f"{check['figure']:.3g}" + ("" if check["passed"] else " (missed)")


def main() -> None:
    """Print the table, and how many targets are reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="what `make bench` kept")
    document = json.loads(parser.parse_args().file.read_text(encoding="utf-8"))
    judged = [check for check in document["checks"] if check["target"] != "none"]
    print(as_markdown(document))
    reached = sum(check["passed"] for check in judged)
    print(
        f"\n{len(document['checks'])} figures in {document.get('minutes')} minutes; {reached} of {len(judged)} targets reached"
    )


if __name__ == "__main__":
    main()
