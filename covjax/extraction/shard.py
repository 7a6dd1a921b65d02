"""One shard of an extraction: batches through the encoder and the poolers, then written whole or not at all."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from tqdm import tqdm

from covjax.data.store import Text, encode_tokens, file_digest, record_key, shard_path, token_path
from covjax.encoders.embed import Batch, Window, embed_tokens
from covjax.encoders.vocabulary import token_spans
from covjax.errors import InputError
from covjax.extraction.plan import Work
from covjax.extras import need
from covjax.jobs import checkpoint
from covjax.jobs.disk import TEMPORARY, put, writing


def encode(work: Work, chosen: list[Window]) -> Iterator[Batch]:
    """The windows' activations batch by batch, in the shapes of the whole extraction."""
    tokens, cores = zip(*chosen)
    config, plan = work.config, work.plan
    return embed_tokens(
        work.encoder,
        tokens,
        cores,
        config.layers,
        config.token_budget,
        edges=plan.edges,
        max_segments=plan.max_segments,
        mesh=work.mesh,
    )


@jax.jit
def _finite(layers, mask):
    return {k: jnp.all(jnp.isfinite(x) | ~mask[..., None], axis=(1, 2)) for k, x in layers.items()}


def pool_function(poolers: Mapping[str, Callable[..., Any]], mesh: Mesh | None = None) -> Callable[..., Any]:
    """({layer: (b, t, d)}, mask (b, t)) → ({"layer/pooler": (b, k)}, {layer: every pooled activation finite (b,)})."""

    def pool(layers, mask):
        weights = mask.astype(jnp.float32)
        pooled = {
            f"{layer}/{name}": jax.vmap(pooler)(x.astype(jnp.float32), weights)
            for layer, x in layers.items()
            for name, pooler in poolers.items()
        }
        return pooled, _finite(layers, mask)

    if mesh is None:
        return jax.jit(pool)
    rows = PartitionSpec(mesh.axis_names[0])  # by hand: XLA would gather a batch of eigendecompositions on one device
    return jax.jit(jax.shard_map(pool, mesh=mesh, in_specs=rows, out_specs=rows))


def write_shard(work: Work, shard: int, bar: tqdm) -> None:
    """Make a shard; InputError names a sequence whose activations are not finite, and files that cannot be written."""
    config, run, rows = work.config, work.run, work.plan.shards[shard]
    features = {name: np.empty((len(rows), width), np.float32) for name, width in run["features"].items()}
    records: dict[int, bytes] = {}
    lengths, key = np.zeros(len(rows), np.int64), record_key(run["identity"])
    counts = work.cuts.counts[rows]  # windows of every sequence
    owner = np.repeat(np.arange(len(rows)), counts)  # of every window in the shard
    first = np.cumsum(counts) - counts
    passing, left = work.passing_of(shard), counts.copy()
    waiting: dict[int, dict[int, dict[int, np.ndarray]]] = {}  # sequence → window → layer → its core's activations
    chosen = [window for i in rows for window in work.cuts[i]]
    for index, layers, mask in encode(work, chosen):
        # Rows that only fill the batch have no token to pool; the first sequence's mask keeps the poolers defined.
        filled = np.where(np.arange(len(mask))[:, None] < len(index), mask, mask[:1])
        whole = counts[owner[index]] == 1
        pooled, finite = work.pool(layers, filled) if passing is None else ({}, _finite(layers, filled))
        for layer, good in finite.items():
            if not (good := np.asarray(good)[: len(index)]).all():
                name = work.ids[rows[owner[index[int(np.argmin(good))]]]]
                raise InputError(f"{name}: NaN or infinite activations at layer {layer}")
        for name, block in pooled.items():
            features[name][owner[index[whole]]] = np.asarray(block)[: len(index)][whole]
        bar.update(sum(len(chosen[i].tokens) for i in index))
        if passing is not None:
            for own in np.unique(owner[index]).tolist():
                mine = np.flatnonzero(owner[index] == own)
                of_own = np.zeros_like(mask)
                of_own[mine] = mask[mine]
                passing.add(own, layers, of_own)
                left[own] -= len(mine)
                if left[own] == 0:
                    for name, value in passing.finish(own).items():
                        features[name][own] = value
            continue
        if not config.keep_tokens and whole.all():
            continue
        host = {layer: np.asarray(layers[layer]) for layer in config.layers}
        for place, i in enumerate(index):
            part = {layer: x[place][mask[place]] for layer, x in host.items()}
            parts = waiting.setdefault(owner[i], {})
            parts[int(i - first[owner[i]])] = part
            if len(parts) < counts[owner[i]]:
                continue
            del waiting[owner[i]]
            joined = {layer: np.concatenate([parts[j][layer] for j in sorted(parts)]) for layer in config.layers}
            if len(parts) > 1:
                for name, value in _pool_joined(work, joined).items():
                    features[name][owner[i]] = value
            if config.keep_tokens:
                own = int(owner[i])
                lengths[own] = count = len(joined[config.layers[0]])
                letters = work.sequences[rows[own]]
                text = Text(letters, token_spans(work.encoder, letters, count))
                records[own] = encode_tokens([*joined.values()], key, rows[own], text)
    manifest: dict[str, Any] = {"run": run["identity"], "shard": shard, "rows": rows.tolist(), "tokens": None}
    if config.keep_tokens:
        path = token_path(config.output, shard)
        _write_records(path, [records[i] for i in range(len(rows))])
        manifest["tokens"] = {"digest": file_digest(path), "lengths": lengths.tolist()}
    checkpoint.save(shard_path(config.output, shard), {"rows": rows, "features": features}, manifest)


def _pool_joined(work: Work, joined: dict[int, np.ndarray]) -> dict[str, np.ndarray]:
    """Pool the windows of one sequence together; lengths are padded up to powers of two, which keeps the shapes few."""
    count = len(next(iter(joined.values())))
    length = 1 << (count - 1).bit_length()
    layers = {layer: np.pad(x, ((0, length - count), (0, 0)))[None] for layer, x in joined.items()}
    pooled, _ = work.pool_one(layers, (np.arange(length) < count)[None])
    return {name: np.asarray(block)[0] for name, block in pooled.items()}


def _write_records(path: Path, records: list[bytes]) -> None:
    module = need("array_record.python.array_record_module", "store", "keep_tokens: true")
    temporary = path.with_name(f"{path.name}.{TEMPORARY}")
    try:
        with writing(path, sum(map(len, records))):
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = module.ArrayRecordWriter(str(temporary), "group_size:1")
            for record in records:
                writer.write(record)
            writer.close()
            put(temporary, path)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be written: {error}") from None
    finally:
        with contextlib.suppress(OSError):  # nothing half written stays behind
            temporary.unlink(missing_ok=True)
