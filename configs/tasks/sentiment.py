"""Negative or positive sentences of film reviews, from all-MiniLM-L6-v2.

    python -m eval.compare --config configs/tasks/sentiment.py

1,500 / 500 / 1,000 sentences; those that share eight words in a row stand on one side. Needs COVJAX_SHARED, or
--data with a table of the same columns.

3 minutes on two cores. Test MCC, logistic probe: mean 0.500; chosen on validation mean +
log(Σ+εI) 0.520, +0.020 [-0.016, +0.055]; against the best control, mean + μμᵀ, +0.030 [-0.002, +0.062].
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["sentiment"]
