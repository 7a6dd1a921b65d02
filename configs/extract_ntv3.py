"""Pooled features of DNA under the Nucleotide Transformer v3, 8M, pre-trained (the hub asks for its licence first).

python -m train.extract --config configs/extract_ntv3.py --data regions.bed --genome genome.fasta
"""

from covjax.extraction.config import ExtractConfig


def get_config() -> ExtractConfig:
    """Mean, covariance and its logarithm of the last layer in bfloat16; sequences over 32,768 nt in windows."""
    return ExtractConfig(
        output="runs/extract_ntv3",
        encoder="InstaDeepAI/NTv3_8M_pre",
        dtype="bfloat16",
        poolers=("mean", "covariance", "log_covariance:eps=0.01"),
        max_length=10_000_000,
        window=32_768,
        halo=1024,
        token_budget=32_768,
    )
