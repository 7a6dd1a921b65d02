"""Binding of every protein along the yeast genome (regression, one output a protein) from OpenSpliceAI 400 nt.

    python -m eval.compare --config configs/tasks/yeast_chipexo.py

Windows of 1,000 nt side by side, targets log(1 + ChIP-exo peaks) of the 84 proteins with peaks in 300 windows or more,
50-kb blocks as groups, chromosomes 4, 12 and 16 the test set. Near copies (Ty elements, telomeres) are groups across
chromosomes, and left out of training where the test set has them. Rivals: 4-mers, and what stands around a window
(shares of open reading frames and of promoters, starts, distance to the nearest start). `--layers all` lets every row
choose its layer. `--source yeast_chipexo_250` and `yeast_chipexo_4000` (with `--max-length 4000`) have other windows.
Needs COVJAX_SHARED, or --data with a table of the same columns.

With `--encoder yeast-lm` and nine rows about 30 minutes on two busy cores: mean R² 0.140, √Σ 0.193 (docs/results.md).
With OpenSpliceAI not run at full size yet.
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["yeast_chipexo"]
