"""Core promoter or not, from OpenSpliceAI 400 nt.

    python -m eval.compare --config configs/tasks/promoter.py

Windows of 70 nt of human DNA; those that share a 32-mer stand on one side. A task where the composition baseline is
strong and the encoder was made for something else. Needs COVJAX_SHARED, or --data with a table of the same columns.

1 minute on two cores. Test MCC, logistic probe: mean 0.404; chosen on validation mean +
log(Σ+εI) 0.446, +0.042 [+0.001, +0.081]; against the best control, mean + μμᵀ, +0.003 [-0.044, +0.055].
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["promoter"]
