"""Fitness of TEM-1 beta-lactamase mutants (regression) from ESM-2 8M (a fine-tuned copy).

    python -m eval.compare --config configs/tasks/lactamase.py

Single mutants, no position on two sides. All sequences differ in one residue: shows what pooling keeps of a small
change. Needs COVJAX_SHARED, or --data with a table of the same columns.

3 minutes on two cores. Test R², ridge probe: mean 0.020; chosen on validation mean + log(Σ+εI)
0.517, +0.497 [+0.022, +3.257]; against the best control, outer product μμᵀ, +0.302 [+0.170, +1.068].
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["lactamase"]
