"""Report of a comparison of heads: one table, one chart, the claims, and what the store cost once for all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from hypercolumns.box_experiments import CompareSpec
from hypercolumns.reporting import numbers
from hypercolumns.reporting.box_data import BoxReport, Chart, Series, Table
from hypercolumns.reporting.boxes import render_box_html, render_box_markdown
from storage.publish import replace_bytes
from tasks.boxes.claims import PUBLISHED, Claim
from tasks.boxes.compare import Compared, HeadRow, compared_scores
from tasks.boxes.record import box_provenance
from tasks.boxes.scoring import HEADLINES
from tasks.jobs import Extracted
from tasks.report import Written

__all__ = ["comparison_lines", "write_comparison"]


def write_comparison(
    folder: Path, spec: CompareSpec, compared: Sequence[Compared], claims: Sequence[Claim], extracted: Extracted, protocol: str
) -> Written:
    """Write `report.html`, `report.md` and `comparison.json` into a folder.

    Args:
        folder: The run's.
        spec: What was compared.
        compared: Task by task.
        claims: The published claims.
        extracted: The store that all heads read.
        protocol: What the numbers mean.
    """
    start = datetime.now(UTC)
    rows = [row for each in compared for row in each.rows]
    held = sum(claim.holds is True for claim in claims)
    report = BoxReport(
        title=f"{spec.base.name}: heads compared",
        run_id=folder.name,
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        headline=f"{held} of {len(claims)}",
        sentence="published claims hold here.",
        protocol=protocol,
        tables=(_table(rows, extracted), _claims(claims), _differences(compared)),
        charts=(_chart(rows),),
        specs=spec.model_dump(mode="json"),
        provenance=box_provenance(spec.base) | {"store key": extracted.key},
    )
    html, markdown = folder / "report.html", folder / "report.md"
    replace_bytes(html, render_box_html(report).encode())
    replace_bytes(markdown, render_box_markdown(report).encode())
    kept = {
        "rows": [row.model_dump(mode="json") for row in rows],
        "differences": [each.model_dump(mode="json") for one in compared for each in one.differences],
        "claims": [claim.model_dump(mode="json") for claim in claims],
        "protocol": protocol,
    }
    replace_bytes(folder / "comparison.json", json.dumps(kept, indent=1, allow_nan=False).encode())
    seconds = (datetime.now(UTC) - start).total_seconds()
    return Written(key=extracted.key, path=html, cached=False, seconds=seconds, markdown_path=markdown)


def comparison_lines(rows: Sequence[HeadRow]) -> list[str]:
    """Spell the table for a terminal: scores in percent, with their intervals."""
    lines = []
    for task in dict.fromkeys(row.task for row in rows):
        scores = compared_scores(task)
        lines.append(f"{task:38s}" + "".join(f"{score:>26s}" for score in scores) + f"{'columns':>10s}{'seconds':>10s}")
        for row in rows:
            if row.task == task:
                cells = "".join(f"{_cell(row, score):>26s}" for score in scores)
                lines.append(f"  {row.name:36s}{cells}{row.columns:10d}{row.train_seconds + row.evaluate_seconds:10.1f}")
    return lines


def _cell(row: HeadRow, score: str) -> str:
    value, bounds = row.scores.get(score), row.intervals.get(score)
    if value is None:
        return "–"
    return f"{100 * value:.1f}" + (f" [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]" if bounds else "")


def _table(rows: Sequence[HeadRow], extracted: Extracted) -> Table:
    lines = []
    for row in rows:
        scores = ", ".join(f"{score} {_cell(row, score)}" for score in compared_scores(row.task))
        cost = "found" if row.cached else numbers.duration(row.train_seconds + row.evaluate_seconds)
        size = numbers.byte_size(row.map_bytes)
        lines.append((f"{row.task}: {row.name}", scores, str(row.grid), str(row.columns), size, cost))
    misses = sum(count.misses for count in extracted.cache.values())
    note = (
        f"One feature store served every row: it was filled in {numbers.duration(extracted.seconds)} ({misses} maps computed, "
        f"{numbers.byte_size(sum(extracted.layer_bytes.values()))} in {len(extracted.layer_bytes)} layers), once. Time: "
        "training and evaluation. " + "; ".join(f"published, {task}: {text}" for task, text in PUBLISHED.items()) + "."
    )
    columns = ("head", "scores in %", "K", "channels", "maps read", "time")
    strong = frozenset(number for number, row in enumerate(rows) if row.name.startswith("all layers, K = 5"))
    return Table("Heads", columns, tuple(lines), note, strong)


def _claims(claims: Sequence[Claim]) -> Table:
    rows = tuple((claim.text, claim.line.split(":", 1)[0], claim.numbers) for claim in claims)
    source = "Hariharan et al., CVPR 2015; other images and another network: figures are for orientation."
    return Table("Published claims", ("claim", "here", "numbers"), rows, source)


def _differences(compared: Sequence[Compared]) -> Table:
    rows = tuple(
        (
            f"{each.task}: {each.first} against {each.second}",
            each.score,
            numbers.points(each.difference),
            f"{numbers.points(each.low)} to {numbers.points(each.high)}",
            numbers.percent(each.probability_better),
        )
        for one in compared
        for each in one.differences
    )
    columns = ("heads", "score", "points better", "interval", "better in resamples")
    return Table("Paired differences", columns, rows, "Both heads on the same drawn images.")


def _chart(rows: Sequence[HeadRow]) -> Chart:
    names = tuple(dict.fromkeys(row.name for row in rows))
    series = []
    for task in dict.fromkeys(row.task for row in rows):
        own = {row.name: row for row in rows if row.task == task}
        score = HEADLINES[task]
        values = tuple((own[name].scores.get(score) or 0.0) if name in own else 0.0 for name in names)
        bounds = tuple(own[name].intervals.get(score) if name in own else None for name in names)
        series.append(Series(f"{task}: {score}", values, bounds))
    return Chart("Heads", "bars", names, tuple(series), "", "score")
