"""Subjective or objective sentences, from all-MiniLM-L6-v2.

    python -m eval.compare --config configs/tasks/subj.py

1,500 / 500 / 1,000 sentences; those that share eight words in a row stand on one side. Needs COVJAX_SHARED, or
--data with a table of the same columns.

3 minutes on two cores. Test MCC, logistic probe: mean 0.820; chosen on validation log(Σ+εI)
0.848, +0.028 [-0.000, +0.061]; against the best control, mean + μμᵀ, +0.029 [-0.001, +0.061].
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["subj"]
