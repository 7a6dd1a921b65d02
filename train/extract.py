"""Pooled features, and token activations where asked, of many sequences; resumable at any point.

    python -m train.extract --data proteins.fasta.gz --encoder FOLDER --poolers mean,log_covariance:eps=0.01

Sequences are sorted by length and dealt into shards; every shard is written whole or not at all and never made twice.
Batches are split over all devices; with --distributed shards are dealt over processes, each with its own devices, and
`output` is a folder that all see. With --window long sequences are cut, with --halo tokens of context on each side.
Read the result with `covjax.data.store.load_features(output, "-1/mean")` and `TokenStore(output, layer)`.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from tqdm import tqdm

from covjax import checkpoint, get_pooler
from covjax.cli import exit_on_input_error, parse, parse_settings
from covjax.data.sequences import read_sequences
from covjax.data.store import FORMAT, encode_tokens, file_digest, record_key, shard_path, token_path
from covjax.data.write import new_text
from covjax.distributed import agree, is_first, job, once, share, wait
from covjax.encoders import Encoder, load
from covjax.encoders.embed import Batch, batch_size, bucket_edges, embed_tokens, replicate
from covjax.encoders.rows import plan_rows
from covjax.encoders.windows import Window, windows
from covjax.errors import InputError
from covjax.pooling import Pooler
from train.extract_config import ExtractConfig
from train.extract_windows import WindowMoments


def parse_pooler(text: str) -> Pooler:
    """The pooler of "name" or "name:option=value:option=value"; InputError for what `get_pooler` does not know."""
    name, _, settings = text.partition(":")
    try:
        options = parse_settings(settings)
    except InputError as error:
        raise InputError(f"poolers: {text!r}: {error}") from None
    return get_pooler(name, **options)


def extract(config: ExtractConfig) -> Path:
    """Run or resume an extraction; returns its folder. Raises InputError for everything a user can put right."""
    config.check()
    output = Path(config.output)
    ids, sequences = read_sequences(config.data, config.genome)
    for name, sequence in zip(ids, sequences):
        if len(sequence) > config.max_length:
            raise InputError(f"{name}: {len(sequence)} letters, more than max_length {config.max_length}")
    encoder = load(config.encoder, config.dtype)
    cuts = _cut(config, encoder, ids, sequences)
    poolers = {name: parse_pooler(name) for name in config.poolers}
    mesh = Mesh(np.array(jax.local_devices()), ("data",)) if jax.local_device_count() > 1 else None
    passing = _passing(config, encoder, cuts, poolers, mesh)
    plan = _plan(config, encoder, cuts, passing)
    run = _describe(config, ids, sequences, encoder, poolers, len(plan.shards))
    _claim(output, run)
    if mesh is not None:
        replicate(encoder, mesh)
    pool = pool_function(poolers, mesh)
    pool_one = pool_function(poolers) if mesh else pool
    work = _Work(config, ids, cuts, encoder, pool, pool_one, passing, mesh, plan, run)
    # All must deal from one list: what the others complete meanwhile would shift it.
    complete = agree(np.array([_is_complete(output, shard, run) for shard in range(len(plan.shards))]))
    missing = np.flatnonzero(~complete)
    _refuse_too_large(work, missing)
    own = [int(missing[i]) for i in share(len(missing))]
    print(f"shards: {complete.sum()} of {len(complete)} complete in {output} and reused")
    if own:
        print(f"about {_estimate_seconds(work, own) / 60:.1f} min on {jax.local_device_count()} device(s)")
    tokens = [sum(len(w.tokens) for i in plan.shards[shard] for w in cuts[i]) for shard in own]
    with tqdm(total=sum(tokens), unit="tok", unit_scale=True, disable=not is_first()) as bar:
        for shard in own:
            _write_shard(work, shard, bar)
    wait()
    if is_first():
        if jax.process_count() > 1:
            _refuse_lost(output, run)
        print(f"{len(ids):,} sequences in {output}: {', '.join(run['features'])}")
    return output


class _Plan(NamedTuple):
    """Which sequences are in which shard, the bucket edges of all, how rows are filled."""

    shards: list[np.ndarray]
    edges: list[int]
    max_segments: int


class _Work(NamedTuple):
    """What every shard needs."""

    config: ExtractConfig
    ids: Sequence[str]
    cuts: list[list[Window]]
    encoder: Encoder
    pool: Callable
    pool_one: Callable  # of one sequence, on one device
    passing: WindowMoments | None  # in its place where moments are all that the poolers need
    mesh: Mesh | None
    plan: _Plan
    run: dict[str, Any]

    def rows(self, shard: int) -> dict[int, list[list[int]]]:
        """The batches' rows of one shard by length."""
        lengths = np.array([len(w.tokens) for i in self.plan.shards[shard] for w in self.cuts[i]])
        return plan_rows(lengths, self.plan.edges, self.plan.max_segments)


def _cut(config: ExtractConfig, encoder: Encoder, ids: Sequence[str], sequences: Sequence[str]) -> list[list[Window]]:
    cuts = []
    for name, sequence in zip(ids, sequences):
        try:
            if config.window:
                cuts.append(windows(encoder, sequence, config.window, config.halo))
            else:
                tokens = encoder.encode(sequence)
                cuts.append([Window(tokens, np.ones(len(tokens), bool))])
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    return cuts


def _passing(
    config: ExtractConfig,
    encoder: Encoder,
    cuts: list[list[Window]],
    poolers: Mapping[str, Pooler],
    mesh: Mesh | None,
) -> WindowMoments | None:
    if config.keep_tokens or all(len(cut) == 1 for cut in cuts):
        return None
    return WindowMoments.for_poolers(poolers, {layer: encoder.features(layer) for layer in config.layers}, mesh)


def _plan(config: ExtractConfig, encoder: Encoder, cuts: list[list[Window]], passing: WindowMoments | None) -> _Plan:
    lengths = np.array([sum(len(w.tokens) for w in cut) for cut in cuts])
    order = np.argsort(lengths, kind="stable")
    # Packing wants all lengths in a shard, buckets want one.
    packs = config.pack > 1 and getattr(encoder, "packs", False)

    def deal(order: np.ndarray, size: int) -> list[np.ndarray]:
        count = -(-len(order) // size)
        return [order[i::count] if packs else order[i * size :][:size] for i in range(count)]

    if passing is None:
        shards = deal(order, config.shard_size)
    else:
        cut = np.array([len(cuts[i]) > 1 for i in order])
        shards = deal(order[~cut], config.shard_size) + deal(order[cut], min(config.shard_size, passing.most_open))
    edges = bucket_edges(np.array([len(w.tokens) for cut in cuts for w in cut]), config.max_shapes)
    return _Plan(shards, edges, config.pack if packs else 1)


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
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("output", "data", "max_output_gib")}
    identity = settings | {"input": digest.hexdigest(), "weights": encoder.weights_digest, "jax": jax.__version__}
    identity["format"] = FORMAT
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


def _claim(output: Path, run: dict[str, Any]) -> None:
    """Write what the folder holds, once, and refuse a folder that holds something else."""
    path = output / "extraction.json"
    once(lambda: _write_run(path, run))
    if not path.is_file():
        raise InputError(f"output: {output}: process 0 writes there, but process {jax.process_index()} does not see it")
    if lines := checkpoint.difference(json.loads(path.read_text())["identity"], run["identity"]):
        raise InputError(f"{output}: holds an extraction under other settings: {'; '.join(lines)}")


def _write_run(path: Path, run: dict[str, Any]) -> None:
    if not path.is_file():
        with new_text(path) as file:
            file.write(json.dumps(run, indent=1))


def _refuse_too_large(work: _Work, missing: np.ndarray) -> None:
    """Print the size; the whole output is held against the limit, what is missing of it against the disk."""
    config, run = work.config, work.run
    tokens = np.array([sum(int(w.core.sum()) for w in cut) for cut in work.cuts])
    own, features, widths = int(tokens.sum()), sum(run["features"].values()), sum(run["token_widths"])
    size = 4 * run["sequences"] * features + 2 * own * widths
    rows = [row for shard in missing for row in work.plan.shards[shard]]
    to_come = 4 * len(rows) * features + 2 * int(tokens[rows].sum()) * widths
    seen = sum(len(w.tokens) for cut in work.cuts for w in cut)
    plans = [work.rows(shard) for shard in range(len(work.plan.shards))]
    padded = sum(edge * size * n for edge, (size, n) in _batches(work, plans).items())
    print(
        f"{run['sequences']:,} sequences, {own:,} tokens ({seen - own:,} more as context of windows) in "
        f"{len(_batches(work, plans))} shapes ({1 - seen / padded:.0%} of the encoder's tokens are padding); "
        f"output about {size / 2**30:.3g} GiB, {to_come / 2**30:.3g} of it to come"
    )
    free = shutil.disk_usage(config.output).free
    if size > config.max_output_gib * 2**30:
        raise InputError(f"output: about {size / 2**30:.3g} GiB, more than max_output_gib {config.max_output_gib}")
    if to_come > 0.95 * free:
        raise InputError(
            f"output: about {to_come / 2**30:.3g} GiB to come, but only {free / 2**30:.3g} GiB are free on the disk"
        )


def _refuse_lost(output: Path, run: dict[str, Any]) -> None:
    lost = [shard for shard in range(run["shards"]) if not _is_complete(output, shard, run)]
    if lost:
        raise InputError(f"output: {output}: process 0 does not see shard {lost[0]}; all processes need one folder")


def _is_complete(output: Path, shard: int, run: dict[str, Any]) -> bool:
    manifest = checkpoint.read_manifest(shard_path(output, shard))
    if manifest is None:
        return False
    if lines := checkpoint.difference(manifest["run"], run["identity"]):
        raise InputError(f"{shard_path(output, shard)}: made under other settings: {'; '.join(lines)}")
    return True


def _batches(work: _Work, plans: list[dict[int, list[list[int]]]]) -> dict[int, tuple[int, int]]:
    """{row length: (rows of a batch, batches)}."""
    sizes = {edge: batch_size(work.config.token_budget, edge, work.mesh) for plan in plans for edge in plan}
    return {edge: (n, sum(-(-len(plan.get(edge, [])) // n) for plan in plans)) for edge, n in sizes.items()}


def _estimate_seconds(work: _Work, missing: list[int]) -> float:
    """One batch of every shape, timed after its compilation (which the run needs anyway), times their numbers."""
    seconds = 0.0
    plans = [work.rows(shard) for shard in missing]
    for edge, (size, count) in _batches(work, plans).items():
        shard, row = next((shard, plan[edge][0]) for shard, plan in zip(missing, plans) if edge in plan)
        flat = [w for i in work.plan.shards[shard] for w in work.cuts[i]]
        chosen = [flat[i] for i in row] * size
        for timed in (False, True):
            start = time.perf_counter()
            for _, layers, mask in _activations(work, chosen):
                if work.passing is None or len(work.cuts[work.plan.shards[shard][0]]) == 1:
                    jax.block_until_ready(work.pool(layers, mask))
                else:
                    work.passing.add(-1, layers, mask)
                    work.passing.finish(-1)
            seconds += count * (time.perf_counter() - start) * timed
    return seconds


def _activations(work: _Work, chosen: list[Window]) -> Iterator[Batch]:
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


def pool_function(poolers: Mapping[str, Callable], mesh: Mesh | None = None) -> Callable:
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


def _write_shard(work: _Work, shard: int, bar: tqdm) -> None:
    config, run, rows = work.config, work.run, work.plan.shards[shard]
    features = {name: np.empty((len(rows), width), np.float32) for name, width in run["features"].items()}
    records: dict[int, bytes] = {}
    lengths, key = np.zeros(len(rows), np.int64), record_key(run["identity"])
    owner = np.array([place for place, i in enumerate(rows) for _ in work.cuts[i]])  # of every window in the shard
    first = np.searchsorted(owner, np.arange(len(rows)))
    counts = np.bincount(owner)  # windows of every sequence
    passing, left = work.passing if counts[0] > 1 else None, counts.copy()  # a shard's sequences are all cut, or none
    waiting: dict[int, dict[int, dict[int, np.ndarray]]] = {}  # sequence → window → layer → its core's activations
    chosen = [w for i in rows for w in work.cuts[i]]
    for index, layers, mask in _activations(work, chosen):
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
                records[own] = encode_tokens([*joined.values()], key, rows[own])
                lengths[own] = len(joined[config.layers[0]])
    manifest: dict[str, Any] = {"run": run["identity"], "shard": shard, "rows": rows.tolist(), "tokens": None}
    if config.keep_tokens:
        path = token_path(config.output, shard)
        _write_records(path, [records[i] for i in range(len(rows))])
        manifest["tokens"] = {"digest": file_digest(path), "lengths": lengths.tolist()}
    checkpoint.save(shard_path(config.output, shard), {"rows": rows, "features": features}, manifest)


def _pool_joined(work: _Work, joined: dict[int, np.ndarray]) -> dict[str, np.ndarray]:
    """Pool the windows of one sequence together; lengths are padded up to powers of two, which keeps the shapes few."""
    count = len(next(iter(joined.values())))
    length = 1 << (count - 1).bit_length()
    layers = {layer: np.pad(x, ((0, length - count), (0, 0)))[None] for layer, x in joined.items()}
    pooled, _ = work.pool_one(layers, (np.arange(length) < count)[None])
    return {name: np.asarray(block)[0] for name, block in pooled.items()}


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
        config, flags = parse(command, __doc__ or "", ExtractConfig, argv, distributed=True)
        with job(command, flags.distributed):
            if flags.force:
                once(lambda: shutil.rmtree(config.output, ignore_errors=True))
            extract(config)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
