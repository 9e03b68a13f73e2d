"""How late a flow run is. Prefect starts what was missed as soon as a worker is back, however long ago its time was."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect.context import FlowRunContext

__all__ = ["minutes_late"]


def minutes_late() -> float:
    """Return how many minutes after its scheduled time this flow run began; 0 for one that is tried again."""
    context = FlowRunContext.get()
    run = None if context is None else context.flow_run
    if run is None or run.expected_start_time is None or run.run_count > 1:
        return 0.0
    return max(0.0, (datetime.now(UTC) - run.expected_start_time).total_seconds() / 60)
