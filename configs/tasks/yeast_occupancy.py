"""Binding of all proteins together along the yeast genome (regression) from OpenSpliceAI 400 nt.

    python -m eval.compare --config configs/tasks/yeast_occupancy.py

The windows, groups, test chromosomes and rivals of yeast_chipexo.py; the target is log(1 + ChIP-exo peaks of all 318
proteins). Needs COVJAX_SHARED, or --data with a table of the same columns.

Results: docs/results.md, "Occupancy and genes of yeast".
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["yeast_occupancy"]
