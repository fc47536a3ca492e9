"""Measurements of latency and quality: ``python -m benchmarks latency``, ``python -m benchmarks quality``."""
