"""Champions of task lines: which run's model is meant, and how it is named where it is promoted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypercolumns.errors import SpecError
from storage.champions import Champion, LineView, list_lines, read_line
from storage.runs import RunView, list_runs
from storage.workspace import Workspace

__all__ = ["champion_of_run", "existing_line", "held_out_share", "manifest_path"]

_LISTED = 5


def champion_of_run(workspace: Workspace, run_id: str) -> Champion:
    """Describe the model of a run as it is promoted: with the keys of all that it stands on.

    Args:
        workspace: Where the run is.
        run_id: Its id; `latest` for the newest run that trained a model.

    Raises:
        SpecError: there is no such run, or it trained no model.
    """
    views = list_runs(workspace.runs)
    for view in views:
        if "train" in view.keys and run_id in {"latest", view.run_id}:
            names = {"prepare": "manifest", "extract": "store", "evaluate": "evaluation", "pretrain": "sparse"}
            keys = {name: str(view.keys[stage]) for stage, name in names.items() if stage in view.keys}
            return Champion(view.run_id, str(view.keys["train"]), keys, _facts(view))
    known = ", ".join(view.run_id for view in views[:_LISTED]) or "none"
    raise SpecError(f"expected a run in {workspace.runs} that trained a model, got {run_id!r}; the last runs: {known}")


def existing_line(workspace: Workspace, line: str) -> LineView:
    """Read a task line about which something was decided.

    Raises:
        SpecError: nothing was ever decided about a line of this name.
    """
    known = list_lines(workspace)
    if line not in known:
        raise SpecError(f"expected a task line, got {line!r}; there are: {', '.join(known) or 'none yet'}")
    return read_line(workspace, line)


def held_out_share(spec: dict[str, Any]) -> float:
    """Return the share of train images that no stage of an experiment (as its record spells it) learned from.

    Which ones these are follows from their bytes alone, so that a smaller share lies within every larger one.
    """
    stages = [spec.get(name, {}) for name in ("pretrain", "train")]
    learning = [stage for stage in stages if stage.get("epochs", 1)]
    return min((float(stage.get("holdout", 0)) if stage.get("patience") else 0.0 for stage in learning), default=0.0)


def manifest_path(workspace: Workspace, champion: Champion | None) -> Path | None:
    """Return the manifest that a champion was trained on, if it is known and there."""
    key = None if champion is None else champion.keys.get("manifest")
    path = None if key is None else workspace.datasets / f"{key}.json"
    return path if path is not None and path.is_file() else None


def _facts(view: RunView) -> dict[str, Any]:
    scores = view.metrics.get("metrics", {})
    found: dict[str, Any] = {"held_out": held_out_share(view.spec)}
    if "mean_iu" in scores:
        found["mean_iu"] = scores["mean_iu"]
    return found
