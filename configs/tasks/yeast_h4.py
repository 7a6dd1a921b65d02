"""Histone H4 occupancy or not in yeast, from OpenSpliceAI 400 nt.

    python -m eval.compare --config configs/tasks/yeast_h4.py

Windows of 500 nt; those that share a 32-mer stand on one side. Few examples (1,461), and an encoder of human DNA.
Needs COVJAX_SHARED, or --data with a table of the same columns.

1 minute on two cores. Test MCC, logistic probe: mean 0.681; chosen on validation mean + sqrt
Σ 0.643, -0.038 [-0.102, +0.023]; against the best control, mean + μμᵀ, -0.002 [-0.090, +0.081].
"""

import os
from pathlib import Path

from eval.config import CompareConfig


def get_config() -> CompareConfig:
    """Whole and truncated covariance of 32 features, 4-mers as composition."""
    shared = Path(os.environ.get("COVJAX_SHARED", "../shared"))
    return CompareConfig(
        name="yeast histone H4, OpenSpliceAI 400 nt",
        source="yeast_h4",
        encoder=str(shared / "models" / "openspliceai" / "model_400nt_rs10.pt"),
        composition_k=4,
        max_length=500,
        ranks=(2, 4, 8, 16),
        output="runs/yeast_h4",
    )
