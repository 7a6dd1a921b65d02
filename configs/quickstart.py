"""Covariance pooling against mean pooling on 2,400 Swiss-Prot proteins, UniRep-64, 25 Gene Ontology terms.

    python -m eval.compare --config configs/quickstart.py

Time and result: see the README's first table, which is this command's output. `--rows ""` makes every row of the
comparison, trained pools among them.
"""

from pathlib import Path

from eval.config import CompareConfig

DATA = Path(__file__).resolve().parent / "data"
ROWS = (
    "mean",
    "mean+std",
    "max",
    "last",
    "SAE mean",
    "second moment M",
    "covariance Σ",
    "sqrt Σ",
    "log(Σ+εI)",
    "PCA-Σ rank 4",
    "PCA-Σ rank 10",
    "PCA-Σ rank 16",
    "PCA-Σ rank 32",
    "Tucker-Σ rank 16",
    "SAE co-occurrence",
    "mean + log(Σ+εI)",
    "outer product μμᵀ",
    "mean + μμᵀ",
    "shuffled Σ",
    "shuffled log(Σ+εI)",
    "composition",
)


def get_config() -> CompareConfig:
    """The README's first command."""
    return CompareConfig(
        name="GO molecular function, UniRep-64",
        data=str(DATA / "swissprot_go_mf.csv.gz"),
        label_names=str(DATA / "swissprot_go_mf_terms.csv"),
        output="runs/quickstart",
        max_length=300,
        rows=ROWS,
        bases=("pca", "tucker"),
        sae_latents=256,
        sae_k=8,
        sae_pairs=512,
        sae_steps=150,
        seeds=(0,),
        weight_decays=(1e-2,),
        penalties=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 1e-2, 1e-1, 1.0),
    )
