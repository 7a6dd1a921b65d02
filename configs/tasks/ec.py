"""Third-level enzyme classes (several for some enzymes) from ESM-2 8M (a fine-tuned copy).

    python -m eval.compare --config configs/tasks/ec.py

3,000 / 800 / 800 enzymes of 50 to 1,000 residues; none on two sides share 5 % of the shorter one's 5-mers. 37 classes
have at least 5 positives in every split. Multilabel, as 3 % of the enzymes have two or three classes. Needs
COVJAX_SHARED, or --data with a table of the same columns. 35 minutes on two cores: log Σ has a macro AUPRC of 0.642,
the mean 0.529 (docs/domains.md).
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["ec"]
