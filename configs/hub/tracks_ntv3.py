"""Genome tracks (regression) from DNA under the Nucleotide Transformer v3, 8M, pre-trained.

    python -m covjax.data.tracks --bed regions.bed --genome genome.fa.gz --bigwig first.bw,second.bw --window 2048 \
        --stride 1024 --centre 1024 --block 100000 --output tracks.csv.gz
    python -m eval.compare --config configs/hub/tracks_ntv3.py --data tracks.csv.gz

Targets are log(1 + mean) of every track; groups are blocks of the chromosomes, and windows over a block's edge are left
out. `--bins 8` gives eight targets a track. The hub shows the model's licence before the download.
"""

from covjax.comparison.config import CompareConfig


def get_config() -> CompareConfig:
    """The last layer, one vector a nucleotide (256 features)."""
    return CompareConfig(
        name="genome tracks, NTv3 8M",
        encoder="InstaDeepAI/NTv3_8M_pre",
        composition_k=4,
        max_length=32_768,
        ranks=(16, 32, 64, 128),
        trained=(),  # they need all tokens in memory, 32 MiB a window of the greatest length
        token_budget=32_768,
        output="runs/tracks_ntv3",
    )
