"""Core promoter or not, from OpenSpliceAI 400 nt.

    python -m eval.compare --config configs/tasks/promoter.py

Windows of 70 nt of human DNA; those that share a 32-mer stand on one side. A task where the composition baseline is
strong and the encoder was made for something else. Needs COVJAX_SHARED, or --data with a table of the same columns.

1 minute on two cores. Test MCC, logistic probe: mean 0.404; chosen on validation mean +
log(Σ+εI) 0.446, +0.042 [+0.001, +0.081]; against the best control, mean + μμᵀ, +0.003 [-0.044, +0.055].
"""

import os
from pathlib import Path

from eval.config import CompareConfig


def get_config() -> CompareConfig:
    """Whole and truncated covariance of 32 features, 4-mers as composition."""
    shared = Path(os.environ.get("COVJAX_SHARED", "../shared"))
    return CompareConfig(
        name="core promoters, OpenSpliceAI 400 nt",
        source="promoter",
        encoder=str(shared / "models" / "openspliceai" / "model_400nt_rs10.pt"),
        composition_k=4,
        max_length=100,
        ranks=(2, 4, 8, 16),
        output="runs/promoter",
    )
