"""Numpy arrays in, bytes on disk out: the feature store, sample sets, models and run records.

Imports neither torch nor prefect, and nothing of `hypercolumns`: what it is told of backbones and specs comes as plain
JSON mappings. Everything here is published whole or not at all (`storage.publish`) and found again by digest
(`storage.canonical`).
"""
