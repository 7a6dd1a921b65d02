"""How small an unsupervised embedding of the covariance may be: GO molecular function from ESM-2 8M, ranks 8 to 128.

    python -m eval.compare --config configs/go_esm2_ranks.py

The task and the proteins of configs/tasks/go_esm2.py. Truncated covariances in three bases that see no label, PCA, the
Tucker autoencoder's optimum and random, beside a learned projection of rank 32, pools of a sparse autoencoder of 1,024
latents, and the whole matrices. Needs COVJAX_SHARED. 27 minutes on two cores shared with other work.

Test macro AUPRC, ridge, mean 0.561: √Σ in bases of rank 32 PCA 0.498, Tucker 0.511, random 0.546, learned 0.544;
of rank 128 0.642, 0.643, 0.644; whole 0.666.
"""

import dataclasses

from configs.tasks import go_esm2
from covjax.comparison.config import CompareConfig
from covjax.recipes.base import BASES
from covjax.recipes.standard import FAMILIES

RANKS = (8, 16, 32, 64, 128)


def get_config() -> CompareConfig:
    """Only the rows named above, with the mean and the controls."""
    whole = ("mean", "mean_std", "covariance", "sqrt_covariance", "log_covariance")
    controls = ("mean_outer", "mean+mean_outer", "shuffled_covariance")
    learned = ("projected", "sae_mean", "sae_max", "sae_cooccurrence")
    truncated = tuple(f"{family}_{rank}" for family in FAMILIES for rank in RANKS)
    return dataclasses.replace(
        go_esm2.get_config(),
        name="GO molecular function, ESM-2 8M: ranks of unsupervised embeddings",
        rows=(*whole, *controls, *learned, *truncated),
        ranks=RANKS,
        bases=tuple(BASES),
        trained=("projected",),
        sae_latents=1024,
        output="runs/go_esm2_ranks",
    )
