"""Benchmarks: each a comparison in one run, reported as ratios."""
