"""Type of a question, six classes (TREC), from all-MiniLM-L6-v2.

    python -m eval.compare --config configs/tasks/trec.py

1,500 / 500 questions and the official 500 test questions; training questions that stand among them are left out. Needs
COVJAX_SHARED, or --data with a table of the same columns.

4 minutes on two cores. Test MCC, logistic probe: mean 0.842; chosen on validation log(Σ+εI) 0.947, +0.105 [+0.073,
+0.139]; against the best control, mean + μμᵀ, +0.082 [+0.052, +0.115].
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["trec"]
