"""Histone H4 occupancy or not in yeast, from OpenSpliceAI 400 nt.

    python -m eval.compare --config configs/tasks/yeast_h4.py

Windows of 500 nt; those that share a 32-mer stand on one side. Few examples (1,461), and an encoder of human DNA.
Needs COVJAX_SHARED, or --data with a table of the same columns.

1 minute on two cores. Test MCC, logistic probe: mean 0.681; chosen on validation mean + sqrt
Σ 0.643, -0.038 [-0.102, +0.023]; against the best control, mean + μμᵀ, -0.002 [-0.090, +0.081].
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["yeast_h4"]
