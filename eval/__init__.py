"""Comparisons, controls, benchmarks and reports: run as `python -m eval.NAME`."""
