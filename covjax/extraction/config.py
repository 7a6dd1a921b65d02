"""The options of `covjax.extraction.extract`."""

import dataclasses

from covjax.errors import InputError
from covjax.options import option


@dataclasses.dataclass(frozen=True)
class ExtractConfig:
    """Everything that decides what an extraction writes."""

    data: str = option("", "FASTA, CSV, TSV, text (each also .gz), Parquet, or BED together with --genome")
    genome: str | None = option(None, "FASTA genome of a BED file's windows")
    output: str = option("runs/extraction", "folder of the shards")
    encoder: str = option("unirep-64", "name, folder or hub id; see covjax.encoders.load")
    dtype: str = option("float32", "float32 or bfloat16: the encoder's parameters and activations")
    layers: tuple[int, ...] = option((-1,), "layers to pool; negative ones count from the last")
    poolers: tuple[str, ...] = option(("mean", "covariance"), "poolers, options after a colon: log_covariance:eps=0.01")
    keep_tokens: bool = option(False, "also write the token activations (bfloat16, ArrayRecord)")
    max_length: int = option(2000, "longest sequence allowed, in letters; longer ones are refused, never cropped")
    force_letters: bool = option(False, "go on where the input's letters are not those that the encoder reads")
    max_output_gib: float = option(10.0, "largest output allowed; what does not fit the disk is refused anyway")
    shard_size: int = option(1024, "sequences a shard")
    token_budget: int = option(8192, "tokens per encoder batch")
    max_shapes: int = option(4, "compiled shapes of the whole run")
    window: int = option(0, "tokens the encoder sees at once; longer sequences are cut and pooled as one; 0: never cut")
    halo: int = option(64, "tokens of context on each side of a window, seen but not pooled")
    pack: int = option(2, "sequences a row at most, where the encoder can (Transformers); 1 turns packing off")

    def check(self) -> None:
        """Raise InputError naming the first field whose value is not allowed."""
        checks = {
            "data": (bool(self.data), "a file: --data proteins.fasta"),
            "layers": (bool(self.layers) and len(set(self.layers)) == len(self.layers), "distinct, at least one"),
            "poolers": (
                len(set(self.poolers)) == len(self.poolers) and bool(self.poolers or self.keep_tokens),
                "distinct, at least one unless keep_tokens",
            ),
            "shard_size": (self.shard_size >= 1, ">= 1"),
            "token_budget": (self.token_budget >= 1, ">= 1"),
            "max_shapes": (self.max_shapes >= 1, ">= 1"),
            "pack": (self.pack >= 1, ">= 1"),
            "window": (self.window >= 0, ">= 0"),
            "halo": (self.halo >= 0, ">= 0"),
        }
        for name, (ok, allowed) in checks.items():
            if not ok:
                raise InputError(f"{name}: {getattr(self, name)!r} is not allowed; expected {allowed}")
