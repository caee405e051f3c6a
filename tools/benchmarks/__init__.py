"""Benchmarks of `tools/benchmark.py`, one a file."""
