"""Pooled features of DNA under OpenSpliceAI, 400 nt (COVJAX_SHARED, or any .pt of OpenSpliceAI or .h5 of SpliceAI).

python -m train.extract --config configs/extract_spliceai.py --data regions.bed --genome genome.fasta
"""

import os
from pathlib import Path

from covjax.extraction.config import ExtractConfig


def get_config() -> ExtractConfig:
    """Mean, covariance and its logarithm of the last layer; over 20,000 nt in windows, exact: halo = context / 2."""
    shared = Path(os.environ.get("COVJAX_SHARED", "../shared"))
    return ExtractConfig(
        output="runs/extract_spliceai",
        encoder=str(shared / "models" / "openspliceai" / "model_400nt_rs10.pt"),
        poolers=("mean", "covariance", "log_covariance:eps=0.01"),
        max_length=10_000_000,
        window=20_000,
        halo=200,
    )
