"""Comparisons, controls, benchmarks and reports: run as `python -m eval.NAME`."""

import covjax  # noqa: F401  # first of all, so that a signal during the other imports ends the command with one line
