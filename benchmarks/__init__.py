"""Benchmarks, run from the root of a checkout: ``python -m benchmarks.compare``."""
