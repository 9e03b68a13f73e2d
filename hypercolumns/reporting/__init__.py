"""Reports: plain data in, one self-contained HTML file or a short markdown text out."""

from __future__ import annotations

from hypercolumns.reporting.data import (
    ClassScore,
    Comparison,
    Curve,
    Headline,
    LayerFacts,
    Panel,
    PanelGroup,
    ReportData,
    Saving,
    ScoreRow,
    StoreFacts,
    Timing,
)
from hypercolumns.reporting.html import render_html
from hypercolumns.reporting.markdown import render_markdown

__all__ = [
    "ClassScore",
    "Comparison",
    "Curve",
    "Headline",
    "LayerFacts",
    "Panel",
    "PanelGroup",
    "ReportData",
    "Saving",
    "ScoreRow",
    "StoreFacts",
    "Timing",
    "render_html",
    "render_markdown",
]
