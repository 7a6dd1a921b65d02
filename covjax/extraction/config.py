"""What an extraction is asked for; read without JAX."""

import dataclasses

from covjax.errors import InputError
from covjax.options import NOTHING, at_least, check_options, option


@dataclasses.dataclass(frozen=True)
class ExtractConfig:
    """Everything that decides what an extraction writes."""

    data: str = option(
        "",
        "FASTA, CSV, TSV, text (each also .gz), Parquet, or BED together with --genome",
        NOTHING,
        allowed=bool,
        rule="a file: --data proteins.fasta",
    )
    genome: str | None = option(None, "genome in FASTA, for the windows of a BED file")
    output: str = option("runs/extraction", "folder for the shards", NOTHING)
    encoder: str = option("unirep-64", "name, folder or hub id; see covjax.encoders.load")
    dtype: str = option("float32", "float32 or bfloat16: the encoder's parameters and activations")
    layers: tuple[int, ...] = option(
        (-1,),
        "layers to pool; negative ones count from the last",
        allowed=lambda layers: bool(layers) and len(set(layers)) == len(layers),
        rule="distinct, at least one",
    )
    poolers: tuple[str, ...] = option(
        ("mean", "covariance"),
        "poolers, with options after a colon, such as log_covariance:eps=0.01",
        allowed=lambda poolers: len(set(poolers)) == len(poolers),
        rule="distinct, at least one unless keep_tokens",
    )
    keep_tokens: bool = option(False, "also write the token activations (bfloat16, ArrayRecord)")
    max_length: int = option(2000, "longest sequence allowed, in letters; longer ones are refused, never cropped")
    force_letters: bool = option(False, "accept letters other than those that the encoder reads", NOTHING)
    max_output_gib: float = option(
        10.0, "largest output allowed; an output that does not fit on the disk is always refused", NOTHING
    )
    shard_size: int = option(1024, "sequences per shard", **at_least(1))
    token_budget: int = option(8192, "tokens per encoder batch", **at_least(1))
    max_shapes: int = option(4, "most input shapes to compile in the whole run", **at_least(1))
    window: int = option(
        0,
        "tokens that the encoder sees at once; longer sequences are cut into windows and pooled as one; 0: never cut",
        **at_least(0),
    )
    halo: int = option(64, "tokens of context on each side of a window, seen but not pooled", **at_least(0))
    pack: int = option(
        2,
        "most sequences packed into a row, if the encoder supports it (Transformers); 1 turns packing off",
        **at_least(1),
    )

    def check(self) -> None:
        """Raise InputError naming the first field whose value is not allowed."""
        check_options(self)
        if not (self.poolers or self.keep_tokens):
            raise InputError("poolers: () is not allowed; at least one unless keep_tokens")
