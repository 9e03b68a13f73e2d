"""Hypercolumns: at each pixel, the vector of activations of all CNN units above it; and pixel classifiers on them.

A plain torch library: backbones, hypercolumns, sampling, heads, training, metrics and data sets, for a notebook or a pipeline.
The feature store and the flows that use it are in the packages `storage`, `tasks`, `flows` and `cli` beside it.

Source: Hariharan, Arbeláez, Girshick and Malik, "Hypercolumns for object segmentation and fine-grained localization",
CVPR 2015.
"""
