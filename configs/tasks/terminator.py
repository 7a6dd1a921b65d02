"""Expression from yeast terminators (regression) from OpenSpliceAI 400 nt.

    python -m eval.compare --config configs/tasks/terminator.py

Designed terminators of 150 nt, every design with its variants on one side: shows what carries over to designs never
seen. Needs COVJAX_SHARED, or --data with a table of the same columns.

1 minute on two cores. Test R², ridge probe: mean 0.226; chosen on validation projected
(learned) 0.201, -0.025 [-0.165, +0.110]; against the best control, mean + μμᵀ, +0.085 [-0.024, +0.195].
"""

import os
from pathlib import Path

from eval.config import CompareConfig


def get_config() -> CompareConfig:
    """Whole and truncated covariance of 32 features, 4-mers as composition."""
    shared = Path(os.environ.get("COVJAX_SHARED", "../shared"))
    return CompareConfig(
        name="terminator expression, OpenSpliceAI 400 nt",
        source="terminator",
        encoder=str(shared / "models" / "openspliceai" / "model_400nt_rs10.pt"),
        composition_k=4,
        max_length=150,
        ranks=(2, 4, 8, 16),
        output="runs/terminator",
    )
