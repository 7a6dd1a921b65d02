"""Covariance pooling against mean pooling on 2,400 Swiss-Prot proteins, UniRep-64, 25 Gene Ontology terms.

    python -m eval.compare --config configs/quickstart.py

Time and result: see the README's first table, which is this command's output. `--rows ""` makes every row of the
comparison, trained pools among them.
"""

from covjax.tasks.configs import quickstart

get_config = quickstart
