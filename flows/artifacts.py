"""Reports in the Prefect UI: the short markdown form as an artifact of the flow run."""

from __future__ import annotations

import re

from prefect.artifacts import create_markdown_artifact

from tasks.report import Written

__all__ = ["publish_history", "publish_report"]


def publish_report(written: Written) -> None:
    """Show a report's short form in the UI; its images are data URIs, so that nothing else is fetched."""
    create_markdown_artifact(
        markdown=written.markdown_path.read_text(encoding="utf-8"),
        key="report",
        description=f"Report of run {written.path.parent.name}; the whole report: {written.path}",
    )


def publish_history(written: Written, line: str) -> None:
    """Show a line's history in the UI: versions of one artifact, so that its page always shows the latest."""
    slug = re.sub("[^a-z0-9]+", "-", line.lower()).strip("-")
    create_markdown_artifact(
        markdown=written.markdown_path.read_text(encoding="utf-8"),
        key=f"history-{slug}" if slug else "history",
        description=f"History of {line}; the whole history: {written.path}",
    )
