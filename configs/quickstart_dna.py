"""Covariance pooling against mean pooling on windows of a yeast chromosome, yeast-lm, peaks of 35 proteins.

    python -m eval.compare --config configs/quickstart_dna.py

Time and result: see docs/results.md.
"""

from covjax.tasks.configs import quickstart_dna

get_config = quickstart_dna
