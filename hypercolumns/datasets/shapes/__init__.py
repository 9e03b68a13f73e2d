"""Shapes: the embedded data set, generated from a seed, on which every head can be tried without a download.

Figures of eight classes, built from named parts in random poses, stand and hide each other on cluttered ground under a sky.
Colours and patterns are shared by all classes and by the clutter, so that a patch alone does not tell the class, and outlines
have thin places, so that a coarse map alone does not tell the shape. Crowded scenes have four further classes whose parts look
alike, and several figures of one class side by side. Depends on numpy and Pillow only.
"""

from __future__ import annotations

from hypercolumns.datasets.palettes import voc_palette
from hypercolumns.datasets.shapes.crops import figure_crops
from hypercolumns.datasets.shapes.crowds import render_crowd
from hypercolumns.datasets.shapes.figures import CLASS_NAMES, FIGURE_CLASSES, PART_NAMES, FigureClass
from hypercolumns.datasets.shapes.manifest import GENERATOR_VERSION
from hypercolumns.datasets.shapes.scene import DEPTH_PER_METRE, LAYOUT_NAMES, FigureLabel, Scene, render_scene
from hypercolumns.datasets.shapes.twins import TWIN_CLASSES
from hypercolumns.datasets.shapes.writer import ShapesSummary, write_shapes

__all__ = [
    "CLASS_NAMES",
    "DEPTH_PER_METRE",
    "FIGURE_CLASSES",
    "GENERATOR_VERSION",
    "LAYOUT_NAMES",
    "PART_NAMES",
    "TWIN_CLASSES",
    "FigureClass",
    "FigureLabel",
    "Scene",
    "ShapesSummary",
    "figure_crops",
    "render_crowd",
    "render_scene",
    "voc_palette",
    "write_shapes",
]
