"""Forgetting old runs: their folders go, and with them what they name becomes garbage for the next sweep.

Decides nothing: which runs go is the caller's business. A run in progress never goes, nor one that made a champion.
"""

from __future__ import annotations

from collections.abc import Iterable

from storage.champions import list_lines, read_line
from storage.references import sweeping
from storage.removal import Removal
from storage.runs import list_runs
from storage.workspace import Workspace

__all__ = ["forget_runs"]


def forget_runs(workspace: Workspace, run_ids: Iterable[str]) -> list[str]:
    """Remove the folders of runs that are over, and return which went.

    Args:
        workspace: whose.
        run_ids: what is to go; runs in progress, broken ones, and those whose models are champions or within a rollback's
            reach are left alone.

    Raises:
        FormatError: the log of a champion cannot be read.
    """
    removal = Removal()
    with sweeping(workspace.runs):
        going = set(run_ids) & {view.run_id for view in list_runs(workspace.runs) if view.status in {"finished", "failed"}}
        going -= _champions_runs(workspace)
        for run_id in sorted(going):
            removal.take_away(workspace.runs / run_id)
    removal.finish()
    return sorted(going)


def _champions_runs(workspace: Workspace) -> set[str]:
    views = [read_line(workspace, line) for line in list_lines(workspace)]
    champions = [champion for view in views for champion in (view.champion, *view.former) if champion is not None]
    return {champion.run_id for champion in champions}
