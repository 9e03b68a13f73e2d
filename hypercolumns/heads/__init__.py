"""Classifiers on hypercolumns, and their convolutional forms. A head knows layers and geometry, never where maps come from."""

from hypercolumns.heads.cells import fit_cells, sample_cell_pixels
from hypercolumns.heads.grid import GridClassifier
from hypercolumns.heads.pixel import PixelConv, PixelMLP, convert

__all__ = ["GridClassifier", "PixelConv", "PixelMLP", "convert", "fit_cells", "sample_cell_pixels"]
