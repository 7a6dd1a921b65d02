"""Nucleosome occupancy along yeast chromosome II (regression, four tracks) from OpenSpliceAI 400 nt.

    python -m eval.compare --config configs/tasks/mnase.py

Windows of 512 nt, targets log(1 + mean) of MNase coverage and dyads in phases G2 and M over the central 256 nt, 20-kb
blocks as groups: the small offline sister of configs/hub/tracks_ntv3.py. Needs COVJAX_SHARED, or --data with a table
of the same columns.

1 minute on two cores. Test R², ridge probe: mean 0.271; chosen on validation mean + sqrt Σ
0.278, +0.007 [-0.029, +0.040]; against the best control, mean + μμᵀ, -0.012 [-0.056, +0.040].
"""

import os
from pathlib import Path

from eval.config import CompareConfig


def get_config() -> CompareConfig:
    """Whole and truncated covariance of 32 features, 4-mers as composition."""
    shared = Path(os.environ.get("COVJAX_SHARED", "../shared"))
    return CompareConfig(
        name="yeast nucleosomes, OpenSpliceAI 400 nt",
        source="mnase",
        encoder=str(shared / "models" / "openspliceai" / "model_400nt_rs10.pt"),
        composition_k=4,
        max_length=512,
        ranks=(2, 4, 8, 16),
        output="runs/mnase",
    )
