"""Gene Ontology molecular function, 80 terms, from UniRep-64.

    python -m eval.compare --config configs/tasks/go_unirep.py

The proteins and terms of go_esm2.py under a much smaller, recurrent encoder: what is left of the gain where features
are few. Needs COVJAX_SHARED, or --data with a table of the same columns.

3 minutes on two cores. Test macro AUPRC, ridge probe: mean 0.313; chosen on validation
log(Σ+εI) 0.368, +0.055 [+0.035, +0.073]; against the best control, mean + μμᵀ, +0.029 [+0.010, +0.048].
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["go_unirep"]
