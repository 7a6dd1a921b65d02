"""Expression from yeast terminators (regression) from OpenSpliceAI 400 nt.

    python -m eval.compare --config configs/tasks/terminator.py

Designed terminators of 150 nt, every design with its variants on one side: shows what carries over to designs never
seen. Needs COVJAX_SHARED, or --data with a table of the same columns.

1 minute on two cores. Test R², ridge probe: mean 0.226; chosen on validation projected
(learned) 0.201, -0.025 [-0.165, +0.110]; against the best control, mean + μμᵀ, +0.085 [-0.024, +0.195].
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["terminator"]
