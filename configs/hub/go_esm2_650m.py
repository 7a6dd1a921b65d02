"""Gene Ontology molecular function from ESM-2 650M (2.6 GB from the hub; an accelerator is wanted).

    python -m eval.compare --config configs/hub/go_esm2_650m.py

The proteins and terms of go_esm2.py. For proteins of your own, with terms from GO's files as they are published:

    python -m covjax.data.ontology --obo go-basic.obo --gaf goa_human.gaf.gz --fasta proteins.fasta --output go.csv.gz
    python -m eval.compare --config configs/hub/go_esm2_650m.py --data go.csv.gz
"""

from covjax.comparison.config import CompareConfig


def get_config() -> CompareConfig:
    """Whole covariance of 1,280 features is 820,000 numbers a protein: 15 GB in float32 for 4,600 proteins."""
    return CompareConfig(
        name="GO molecular function, ESM-2 650M",
        source="go",
        encoder="facebook/esm2_t33_650M_UR50D",
        max_length=400,
        ranks=(16, 32, 64, 128),
        max_memory_gib=8.0,  # tokens of 4,600 proteins, which trained pools need in memory, are 5
        eps=0.1,
        output="runs/go_esm2_650m",
    )
