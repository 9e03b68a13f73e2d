"""What became of all peers, for people: a markdown table, a chart of score against seconds, and the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from benchmarks.outcome import Check
from benchmarks.peers.scoring import Outcome

__all__ = ["OURS", "draw_chart", "judge", "markdown_table"]

OURS = "ours"
_PREDICTION_TARGET_MS = 25.0


def markdown_table(outcomes: Mapping[str, Outcome], labels: Mapping[str, str], marks: Sequence[float]) -> str:
    """Return one row a peer: best val mean IU by each time, prediction, memory, and what else there is to say."""
    times = [f"{mark:g} s" for mark in marks]
    head = ["peer", *times, "ms an image", "peak GB", "remarks"]
    rows = [head, ["---"] * len(head)]
    for name, outcome in outcomes.items():
        scores = [_percent(outcome.best_by(mark)) for mark in marks]
        milliseconds = outcome.notes.get("prediction_ms")
        rows.append(
            [
                labels[name],
                *scores,
                "" if milliseconds is None else f"{milliseconds:.0f}",
                f"{outcome.peak_gb:.1f}" if outcome.peak_gb else "",
                _remarks(outcome),
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _percent(score: float | None) -> str:
    return "" if score is None else f"{100 * score:.1f}"


def _remarks(outcome: Outcome) -> str:
    said = [] if outcome.status == "done" else [outcome.status]
    notes = outcome.notes
    if len(outcome.points) == 1:
        said.append(f"{100 * outcome.points[0].mean_iu:.1f} after {outcome.points[0].seconds:.0f} s")
    if "epochs" in notes:
        said.append(f"{notes['epochs']:.1f} epochs")
    if "extraction_images_a_second" in notes:
        said.append(f"{notes['extraction_images_a_second']:.0f} images/s to disk, rerun {notes['rerun_seconds']:.1f} s")
    return "; ".join(said).replace("|", "/")


def draw_chart(outcomes: Mapping[str, Outcome], labels: Mapping[str, str], path: Path, end_seconds: float) -> None:
    """Draw the best score so far against seconds, as SVG; the same figures give the same bytes."""
    with mpl.rc_context({"svg.hashsalt": "peers", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8.5, 5.2), layout="constrained")
        axes = figure.subplots()
        colours = [mpl.colormaps["tab20"](number) for number in range(20)]
        scored = [name for name in outcomes if outcomes[name].points]
        for number, name in enumerate(scored):
            seconds, best = _staircase(outcomes[name], end_seconds)
            ours = name == OURS
            axes.plot(
                seconds,
                best,
                drawstyle="steps-post",
                color="black" if ours else colours[number % len(colours)],
                linewidth=2.5 if ours else 1.3,
                marker="o",
                markevery=range(len(seconds) - 1),
                markersize=5 if ours else 3.5,
                label=labels[name],
            )
        axes.set(xscale="log", xlabel="seconds from the photographs on disk", ylabel="val mean IU, %")
        axes.xaxis.set_major_locator(FixedLocator([end_seconds * share for share in (1 / 60, 1 / 20, 0.1, 0.2, 0.5, 1)]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set_xlim(end_seconds / 80, end_seconds)
        axes.grid(alpha=0.3)
        if scored:
            axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _staircase(outcome: Outcome, end_seconds: float) -> tuple[list[float], list[float]]:
    """Return times and best percentages so far, held until the end."""
    seconds: list[float] = []
    best: list[float] = []
    for point in outcome.points:
        seconds.append(point.seconds)
        best.append(max(100 * point.mean_iu, *best[-1:], 0.0))
    return [*seconds, max(end_seconds, seconds[-1])], [*best, best[-1]]


def judge(outcomes: Mapping[str, Outcome], marks: Sequence[float]) -> list[Check]:
    """Compare ours with the best of the others at every time, and its prediction with the target; nothing without ours."""
    if OURS not in outcomes:
        return []
    ours, checks = outcomes[OURS], []
    for mark in marks:
        others = [score for name in outcomes if name != OURS and (score := outcomes[name].best_by(mark)) is not None]
        rival, score = max(others, default=0.0), ours.best_by(mark) or 0.0
        checks.append(Check(f"val mean IU after {mark:g} s", score, f"> {rival:.4f}, the best other", score > rival))
    milliseconds = float(ours.notes.get("prediction_ms", float("inf")))
    passed = milliseconds <= _PREDICTION_TARGET_MS
    checks.append(Check("prediction, ms an image", milliseconds, f"<= {_PREDICTION_TARGET_MS:g}", passed))
    return checks
