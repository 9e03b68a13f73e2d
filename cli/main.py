"""The `hypercolumns` command: from labelled images to a report, and everything on the way."""

from __future__ import annotations

import typer

from cli.boxes import register_boxes
from cli.champions import register_champions
from cli.experiments import register_experiments
from cli.figures import register_figures
from cli.nights import register_nights
from cli.operations import register_operations
from cli.predictions import register_predictions
from cli.runs import register_runs
from cli.shadowing import refuse_foreign_packages
from cli.stores import register_stores

__all__ = ["app", "run"]

app = typer.Typer(
    name="hypercolumns",
    help="Compute CNN hypercolumns once; train, evaluate and retrain pixel-level models from them cheaply.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    add_completion=True,
)
register_experiments(app)
register_predictions(app)
register_boxes(app)
register_stores(app)
register_runs(app)
register_champions(app)
register_nights(app)
register_figures(app)
register_operations(app)


def run() -> None:
    """Run the command line."""
    refuse_foreign_packages()
    from hypercolumns.allocator import keep_freed_memory

    keep_freed_memory()
    app()
