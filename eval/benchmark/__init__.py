"""Benchmarks: `python -m eval.benchmark NAME`; every ratio is a median over rounds that interleave both sides."""
