"""Measurements as commands: what the README quotes, each with its target, printed and kept as JSON in `benchmarks/results/`."""
