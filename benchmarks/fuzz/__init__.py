"""Hostile and broken input: ``python -m benchmarks.fuzz``."""
