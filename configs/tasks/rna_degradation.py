"""Degradation of RNA (regression: k_deg, mean reactivity, mean degradation at 50 °C) from OpenSpliceAI 400 nt.

    python -m eval.compare --config configs/tasks/rna_degradation.py

1,560 RNAs of 107 nt, designs that share 30 % of their 8-mers on one side. Written in DNA letters (T for U). The
encoder was made for human genes: shows what second order holds where the encoder knows little. Composition is that of
single bases; the table has the fractions of paired bases and of loop kinds beside it. Needs COVJAX_SHARED, or --data
with a table of the same columns. Not run at this size yet; docs/domains.md has a small run.
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["rna_degradation"]
