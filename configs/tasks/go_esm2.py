"""Gene Ontology molecular function, 80 terms, from ESM-2 8M (a fine-tuned copy).

    python -m eval.compare --config configs/tasks/go_esm2.py

3,000 / 800 / 800 proteins of at most 400 residues, clusters at 30 % identity apart. Shows whether the covariance of
residue embeddings holds more of the function than their mean does. Needs COVJAX_SHARED, or --data with a table of the
same columns. 11 minutes on two cores.

Test macro AUPRC, ridge: mean 0.561; covariance 0.642, +0.081 [+0.059, +0.102]; log(Σ+εI) 0.672, +0.111 [+0.086,
+0.133]; its first 2,048 principal components +0.105; the best control, mean + μμᵀ, +0.034.
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["go_esm2"]
