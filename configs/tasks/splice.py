"""Splice acceptor, donor or neither, from OpenSpliceAI 400 nt.

    python -m eval.compare --config configs/tasks/splice.py

Windows of 400 nt of human DNA; those that share a 32-mer stand on one side. The encoder was trained on splice sites:
shows what pooling keeps of a signal at one position. Needs COVJAX_SHARED, or --data with a table of the same columns.

1 minute on two cores. Test MCC, logistic probe: mean 0.490; chosen on validation mean + sqrt
Σ 0.697, +0.207 [+0.153, +0.263]; against the best control, mean + μμᵀ, +0.135 [+0.086, +0.185].
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["splice"]
