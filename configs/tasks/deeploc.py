"""Subcellular localisation, ten classes, from ESM-2 8M (a fine-tuned copy).

    python -m eval.compare --config configs/tasks/deeploc.py

1,300 proteins of at most 1,000 residues, relatives on one side. The signal often lies in a short segment (signal or
transit peptide), which an average over the whole protein dilutes. Needs COVJAX_SHARED, or --data with a table of the
same columns.

6 minutes on two cores. Test MCC, logistic probe: mean 0.526; chosen on validation log(Σ+εI),
256 components 0.598, +0.071 [-0.001, +0.144]; against the best control, mean + μμᵀ, +0.092 [+0.021, +0.169].
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["deeploc"]
