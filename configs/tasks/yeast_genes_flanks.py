"""Expression and half-life of yeast genes (regression, two outputs) from promoter and terminator, OpenSpliceAI 400 nt.

    python -m eval.compare --config configs/tasks/yeast_genes_flanks.py

The genes, targets, groups and test chromosomes of yeast_genes.py; the sequence is the 500 nt before the coding sequence
joined to the 250 nt behind it. Rival: 4-mers. Needs COVJAX_SHARED, or --data with a table of the same columns.

Results: docs/results.md, "Occupancy and genes of yeast".
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["yeast_genes_flanks"]
