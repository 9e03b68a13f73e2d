"""Reports in the Prefect UI: the short markdown form as an artifact of the flow run."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from tasks.report import Written

__all__ = ["publish_report"]


def publish_report(written: Written) -> None:
    """Show a report's short form in the UI; its images are data URIs, so that nothing else is fetched."""
    create_markdown_artifact(
        markdown=written.markdown_path.read_text(encoding="utf-8"),
        key="report",
        description=f"Report of run {written.path.parent.name}; the whole report: {written.path}",
    )
