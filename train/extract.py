"""Pooled features, and token activations where asked, of many sequences; resumable at any point.

    python -m train.extract --data proteins.fasta.gz --encoder FOLDER --poolers mean,log_covariance:eps=0.01

Sequences are sorted by length and dealt into shards; every shard is written whole or not at all and never made twice.
Read the result with `covjax.data.store.load_features(output, "-1/mean")` and `TokenStore(output, layer)`.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from tqdm import tqdm

from covjax import checkpoint, get_pooler
from covjax.cli import exit_on_input_error, option, parse
from covjax.data.sequences import read_sequences
from covjax.data.store import encode_tokens, file_digest, shard_path, token_path
from covjax.encoders import Encoder, embed, load
from covjax.encoders.base import layer_index
from covjax.encoders.embed import bucket_edges
from covjax.encoders.rows import plan_rows
from covjax.errors import InputError


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
    max_output_gib: float = option(10.0, "largest output allowed; what does not fit the disk is refused anyway")
    shard_size: int = option(1024, "sequences a shard")
    token_budget: int = option(8192, "tokens per encoder batch")
    max_shapes: int = option(4, "compiled shapes of the whole run")
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
        }
        for name, (ok, allowed) in checks.items():
            if not ok:
                raise InputError(f"{name}: {getattr(self, name)!r} is not allowed; expected {allowed}")


def parse_pooler(text: str) -> Callable[[Array, Array], Array]:
    """The pooler of "name" or "name:option=value:option=value"; InputError for what `get_pooler` does not know."""
    name, *settings = text.split(":")
    options: dict[str, Any] = {}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator:
            raise InputError(f"poolers: {text!r}: expected option=value after the colon, got {setting!r}")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return get_pooler(name, **options)


def extract(config: ExtractConfig) -> Path:
    """Run or resume an extraction; returns its folder. Raises InputError for everything a user can put right."""
    config.check()
    output = Path(config.output)
    ids, sequences = read_sequences(config.data, config.genome)
    for name, sequence in zip(ids, sequences):
        if len(sequence) > config.max_length:
            raise InputError(f"{name}: {len(sequence)} letters, more than max_length {config.max_length}")
    encoder = load(config.encoder, jnp.dtype(config.dtype) if config.dtype in ("float32", "bfloat16") else config.dtype)
    lengths = _token_lengths(encoder, ids, sequences)
    order = np.argsort(lengths, kind="stable")
    count = -(-len(order) // config.shard_size)
    # Packing wants all lengths in a shard, buckets want one.
    packs = config.pack > 1 and getattr(encoder, "packs", False)
    shards = [order[i::count] if packs else order[i * config.shard_size :][: config.shard_size] for i in range(count)]
    poolers = {name: parse_pooler(name) for name in config.poolers}
    run = _describe(config, ids, sequences, encoder, poolers, len(shards))
    _refuse_other_settings(output, run)
    edges = bucket_edges(lengths, config.max_shapes)
    _refuse_too_large(config, run, lengths, [plan_rows(lengths[s], edges, config.pack if packs else 1) for s in shards])
    done = [shard for shard in range(len(shards)) if _is_complete(output, shard, run)]
    print(f"shards: {len(done)} of {len(shards)} complete in {output} and reused")
    pool = _pool_function(poolers)
    finished = int(sum(lengths[shards[shard]].sum() for shard in done))
    with tqdm(total=int(lengths.sum()), initial=finished, unit="tok", unit_scale=True, desc="extract") as bar:
        for shard in sorted(set(range(len(shards))) - set(done)):
            rows = shards[shard]
            _write_shard(config, output, shard, rows, ids, sequences, encoder, pool, run, edges, bar)
    print(f"{len(ids):,} sequences in {output}: {', '.join(run['features'])}")
    return output


def _token_lengths(encoder: Encoder, ids: Sequence[str], sequences: Sequence[str]) -> np.ndarray:
    lengths = []
    for name, sequence in zip(ids, sequences):
        try:
            lengths.append(len(encoder.encode(sequence)))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    return np.array(lengths)


def _describe(config, ids, sequences, encoder, poolers, shards) -> dict[str, Any]:
    digest = hashlib.sha256()
    for entry in zip(ids, sequences):
        digest.update(repr(entry).encode())
    widths = [encoder.features(layer) for layer in config.layers]
    features = {
        f"{layer}/{name}": jax.eval_shape(
            pooler, jax.ShapeDtypeStruct((4, width), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.float32)
        ).size
        for layer, width in zip(config.layers, widths)
        for name, pooler in poolers.items()
    }
    for layer in config.layers:
        layer_index(layer, encoder.num_layers)
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("output", "data", "max_output_gib")}
    identity = settings | {"input": digest.hexdigest(), "weights": encoder.weights_digest, "jax": jax.__version__}
    kept = list(config.layers) if config.keep_tokens else []
    return json.loads(
        json.dumps(
            {
                "identity": identity,
                "sequences": len(ids),
                "ids": ids,
                "shards": shards,
                "features": features,
                "token_layers": kept,
                "token_widths": widths if kept else [],
            }
        )
    )


def _refuse_other_settings(output: Path, run: dict[str, Any]) -> None:
    path = output / "extraction.json"
    if path.is_file():
        saved = json.loads(path.read_text())
        if lines := checkpoint.difference(saved["identity"], run["identity"]):
            raise InputError(f"{output}: holds an extraction under other settings: {'; '.join(lines)}")
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(run, indent=1))
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"output: {output} cannot be written: {error.strerror}") from None


def _refuse_too_large(config: ExtractConfig, run: dict[str, Any], lengths: np.ndarray, plans: list) -> None:
    size = 4 * run["sequences"] * sum(run["features"].values()) + 2 * int(lengths.sum()) * sum(run["token_widths"])
    padded = 0
    for plan in plans:
        for edge, rows in plan.items():
            batch = max(1, config.token_budget // edge)
            padded += -(-len(rows) // batch) * batch * edge
    shapes = len({edge for plan in plans for edge in plan})
    print(
        f"{run['sequences']:,} sequences, {lengths.sum():,} tokens in {shapes} shapes "
        f"({1 - lengths.sum() / padded:.0%} of the encoder's tokens are padding); output about {size / 2**30:.3g} GiB"
    )
    free = shutil.disk_usage(config.output).free
    if size > config.max_output_gib * 2**30:
        raise InputError(f"output: about {size / 2**30:.3g} GiB, more than max_output_gib {config.max_output_gib}")
    if size > 0.95 * free:
        raise InputError(f"output: about {size / 2**30:.3g} GiB, but only {free / 2**30:.3g} GiB are free on the disk")


def _is_complete(output: Path, shard: int, run: dict[str, Any]) -> bool:
    manifest = checkpoint.read_manifest(shard_path(output, shard))
    if manifest is None:
        return False
    if lines := checkpoint.difference(manifest["run"], run["identity"]):
        raise InputError(f"{shard_path(output, shard)}: made under other settings: {'; '.join(lines)}")
    return True


def _pool_function(poolers):
    @jax.jit
    def pool(layers, mask):
        weights = mask.astype(jnp.float32)
        finite = {k: jnp.all(jnp.isfinite(x) | ~mask[..., None], axis=(1, 2)) for k, x in layers.items()}
        pooled = {
            f"{layer}/{name}": jax.vmap(pooler)(x.astype(jnp.float32), weights)
            for layer, x in layers.items()
            for name, pooler in poolers.items()
        }
        return pooled, finite

    return pool


def _write_shard(config, output, shard, rows, ids, sequences, encoder, pool, run, edges, bar) -> None:
    features = {name: np.empty((len(rows), width), np.float32) for name, width in run["features"].items()}
    records: dict[int, bytes] = {}
    chosen = [sequences[i] for i in rows]
    for index, layers, mask in embed(
        encoder, chosen, config.layers, config.token_budget, edges=edges, max_segments=config.pack
    ):
        # Rows that only fill the batch have no token to pool; the first sequence's mask keeps the poolers defined.
        filled = np.where(np.arange(len(mask))[:, None] < len(index), mask, mask[:1])
        pooled, finite = pool(layers, filled)
        for layer, good in finite.items():
            if not (good := np.asarray(good)[: len(index)]).all():
                name = ids[rows[index[int(np.argmin(good))]]]
                raise InputError(f"{name}: NaN or infinite activations at layer {layer}")
        for name, block in pooled.items():
            features[name][index] = np.asarray(block)[: len(index)]
        if config.keep_tokens:
            host = [np.asarray(layers[layer]) for layer in config.layers]
            for place, i in enumerate(index):
                records[int(i)] = encode_tokens([x[place][mask[place]] for x in host])
        bar.update(sum(len(encoder.encode(chosen[i])) for i in index))
    manifest: dict[str, Any] = {"run": run["identity"], "shard": shard, "rows": rows.tolist(), "tokens": None}
    if config.keep_tokens:
        path = token_path(output, shard)
        _write_records(path, [records[i] for i in range(len(rows))])
        manifest["tokens"] = file_digest(path)
    checkpoint.save(shard_path(output, shard), {"rows": rows, "features": features}, manifest)


def _write_records(path: Path, records: list[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = ArrayRecordWriter(str(temporary), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # a full disk: nothing half written stays behind
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error}") from None


def main(argv: Sequence[str]) -> int:
    """The command; exit status 2 and one line for a user's error."""
    command = "python -m train.extract"
    with exit_on_input_error(command):
        config, flags = parse(command, __doc__ or "", ExtractConfig, argv)
        if flags.force:
            shutil.rmtree(config.output, ignore_errors=True)
        extract(config)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
