"""The honest comparison of pools: rows, probes, intervals, results and their page."""
