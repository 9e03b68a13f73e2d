"""Classifiers on hypercolumns, and their convolutional forms. A head knows layers and geometry, never where maps come from."""

from hypercolumns.heads.pixel import PixelConv, PixelMLP, convert

__all__ = ["PixelConv", "PixelMLP", "convert"]
