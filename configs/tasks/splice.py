"""Splice acceptor, donor or neither, from OpenSpliceAI 400 nt.

    python -m eval.compare --config configs/tasks/splice.py

Windows of 400 nt of human DNA; those that share a 32-mer stand on one side. The encoder was trained on splice sites:
shows what pooling keeps of a signal at one position. Needs COVJAX_SHARED, or --data with a table of the same columns.

1 minute on two cores. Test MCC, logistic probe: mean 0.490; chosen on validation mean + sqrt
Σ 0.697, +0.207 [+0.153, +0.263]; against the best control, mean + μμᵀ, +0.135 [+0.086, +0.185].
"""

import os
from pathlib import Path

from eval.config import CompareConfig


def get_config() -> CompareConfig:
    """Whole and truncated covariance of 32 features, 4-mers as composition."""
    shared = Path(os.environ.get("COVJAX_SHARED", "../shared"))
    return CompareConfig(
        name="splice sites, OpenSpliceAI 400 nt",
        source="splice",
        encoder=str(shared / "models" / "openspliceai" / "model_400nt_rs10.pt"),
        composition_k=4,
        max_length=400,
        ranks=(2, 4, 8, 16),
        output="runs/splice",
    )
