"""Expression and half-life of yeast genes (regression, two outputs) from their coding sequence, OpenSpliceAI 400 nt.

    python -m eval.compare --config configs/tasks/yeast_genes.py

Genes that have both measures and read from ATG to their only stop, at most 5,000 nt (introns are not marked in the
data, so genes with one are left out); targets log FPKM and log half-life in minutes. 50-kb blocks are groups, near
copies groups across them, chromosomes 4, 12 and 16 the test set. Rivals: 4-mers, and the shares of the 61 codons.
Needs COVJAX_SHARED, or --data with a table of the same columns.

Results: docs/results.md, "Occupancy and genes of yeast".
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["yeast_genes"]
