"""Core promoter or not, from OpenSpliceAI 400 nt.

    python -m eval.compare --config configs/tasks/promoter.py

Windows of 70 nt of human DNA; those that share a 32-mer stand on one side. A task where the composition baseline is
strong and the encoder was made for something else. Needs COVJAX_SHARED, or --data with a table of the same columns.
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
