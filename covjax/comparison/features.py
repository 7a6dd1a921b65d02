"""From token activations to one table per row of the comparison, kept as Orbax checkpoints."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from covjax import checkpoint, get_pooler
from covjax.comparison.bases import make_bases
from covjax.comparison.composition import kmer_frequencies, word_frequencies
from covjax.comparison.config import CompareConfig
from covjax.comparison.learned import train_pools
from covjax.comparison.reuse import find_complete, load_rest
from covjax.comparison.rows import Row
from covjax.comparison.sparse import sparse_pools
from covjax.comparison.tables import Table, make_table, principal_components, side_by_side
from covjax.comparison.tokens import Batch, Fit, TokenSet, standardiser
from covjax.controls import shuffle_features
from covjax.data import Dataset
from covjax.distributed import gather, is_first, wait
from covjax.errors import InputError
from covjax.notes import note
from covjax.overlap import overlap
from covjax.standardise import standardise

Tables = dict[str, Table]
Pool = Callable[[Array, Array], Array]


def slug(label: str) -> str:
    """Folder name of a row: ASCII, lower case."""
    names = {"Σ": "cov", "μμᵀ": "mu-mu", "ε": "eps", "√": "sqrt-"}
    for symbol, name in names.items():
        label = label.replace(symbol, name)
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def make_features(
    config: CompareConfig, data: Dataset, tokens: TokenSet, rows: tuple[Row, ...], output: Path, manifest: dict
) -> Tables:
    """The table of every row; complete checkpoints in `output/features` are reused.

    In a job of several processes all make the features of their own sequences and call this together; process 0 makes
    the tables and writes them, and all return them.
    A checkpoint made under another manifest is refused with the difference.
    """

    folder, labelled = output / "features", {row.label: row for row in rows}

    def load(label: str) -> Table | None:
        expected = _row_manifest(manifest, labelled[label])
        found = checkpoint.load_complete(folder / slug(label), {"values": 0}, expected)
        return None if found is None else Table(found[0]["values"], found[1]["num_features"], found[1]["is_kernel"])

    done, missing = find_complete(list(labelled), load)
    if not missing:
        note(f"features: all {len(rows)} complete in {folder}, reused")
    else:
        note(f"features: {len(rows) - len(missing)} complete and reused, {len(missing)} to make")
        to_make = [labelled[label] for label in missing]
        for row, table in _make(config, data, tokens, to_make, done, output, manifest):
            shape = {"num_features": table.num_features, "is_kernel": table.is_kernel}
            checkpoint.save(folder / slug(row.label), {"values": table.values}, _row_manifest(manifest, row) | shape)
            done[row.label] = table
    wait()
    return load_rest(labelled, done, load, folder)


def _row_manifest(manifest: dict[str, Any], row: Row) -> dict[str, Any]:
    return manifest | {"row": repr(row)}


def _make(
    config: CompareConfig,
    data: Dataset,
    tokens: TokenSet,
    missing: list[Row],
    done: Tables,
    output: Path,
    manifest: dict[str, Any],
) -> Iterator[tuple[Row, Table]]:
    """Yield (row, table), process 0 alone; the caller fills `done`, so that later rows find their parts in it."""
    train = data.rows("train")
    pooled = [row for row in missing if row.pooler or row.cls]
    on_tokens = [row for row in pooled if row.training or row.sae or row.basis == "tucker"]
    for row in on_tokens:
        tokens.require_kept(f"{row.label!r} (see --trained, --sae-latents, --bases)")
    if pooled:
        fit = standardiser(tokens, train)
        if on_tokens:
            tokens.collect()
        wanted = [(row.basis, row.rank or row.width or 0) for row in pooled if row.rank or row.width]
        bases = make_bases(tokens, fit, train, wanted, config.seed, config.token_budget)
        poolers: dict[str, Pool] = {}
        kinds: dict[str, list[Row]] = {}
        sparse: dict[tuple, list[Row]] = {}
        for row in pooled:
            if row.training:
                kinds.setdefault(row.replica_of or row.label, []).append(row)
            elif row.sae:
                sparse.setdefault(row.sae, []).append(row)
            elif not row.cls:
                given = dict(row.options) | ({"basis": bases[row.basis, row.rank]} if row.rank else {})
                poolers[row.label] = get_pooler(row.pooler, **given)
        for name, seeds in kinds.items():
            basis = bases["pca", seeds[0].width] if seeds[0].width else None
            poolers |= train_pools(config, data, tokens, seeds, fit, basis, output / "pools" / slug(name))
        for settings, pools in sparse.items():
            folder = output / "pools" / slug("sae " + " ".join(f"{name} {value}" for name, value in settings))
            identity = {key: manifest[key] for key in ("data", "encoder")}
            poolers |= sparse_pools(tokens, train, pools, fit, identity, config.seed, folder)
        widths = _widths(pooled, poolers, tokens.features)
        for group in _groups(pooled, widths, len(data), config.max_features_gib):
            features = _pool(group, poolers, widths, tokens, fit, len(data), config.seed)
            for row in group:
                values = features.pop(row.label)
                _refuse_bad(row, values, data)
                if is_first():
                    yield row, make_table(values, train)
    for row in missing if is_first() else ():
        if row.k is not None:
            text = data.is_text
            counts = word_frequencies(data.sequences, train) if text else kmer_frequencies(data.sequences, row.k)
            yield row, make_table(counts, train)
        elif row.parts:
            table = side_by_side([done[part] for part in row.parts], train)
            yield row, principal_components(table, row.components, train) if row.components else table


def _widths(rows: list[Row], poolers: dict[str, Pool], features: int) -> dict[str, int]:
    """How many numbers a sequence gets in each row."""
    token, weight = jax.ShapeDtypeStruct((4, features), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.float32)
    return {row.label: features if row.cls else jax.eval_shape(poolers[row.label], token, weight).size for row in rows}


def _groups(rows: list[Row], widths: dict[str, int], n: int, max_gib: float) -> Iterator[list[Row]]:
    """Rows pooled in one pass: one program shares moments, eigenvectors and the shuffle; the limit is its output."""
    group: list[Row] = []
    gib = 0.0
    for row in rows:
        size = 4 * n * widths[row.label] / 2**30
        if group and gib + size > max_gib:
            yield group
            group, gib = [], 0.0
        group.append(row)
        gib += size
    yield group


def _pool(
    rows: list[Row],
    poolers: dict[str, Pool],
    widths: dict[str, int],
    tokens: TokenSet,
    fit: Fit,
    n: int,
    seed: int,
) -> dict[str, Float[np.ndarray, "n k"]]:
    shuffled = {row.label for row in rows if row.shuffled}
    special = [row.label for row in rows if row.cls]

    @jax.vmap
    def pool_one(x, w, key, cls):
        x = standardise(x, w, *fit)
        mixed = shuffle_features(x, w, key) if shuffled else x
        chosen = {row.label: poolers[row.label] for row in rows if not row.cls}
        pooled = {name: pooler(mixed if name in shuffled else x, w) for name, pooler in chosen.items()}
        return pooled | {name: (cls - fit[0]) / fit[1] for name in special}

    pool_batch = jax.jit(pool_one)
    if tokens.mesh is not None:  # by hand: XLA would gather a batch of eigendecompositions on one device
        sequences = PartitionSpec(tokens.mesh.axis_names[0])
        pool_batch = jax.jit(jax.shard_map(pool_one, mesh=tokens.mesh, in_specs=sequences, out_specs=sequences))
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(n))

    def run(batch: Batch) -> dict[str, Array]:
        filled = np.resize(batch.rows, len(batch.tokens))  # the last batch of a shape has more rows than sequences
        cls = batch.cls if batch.cls is not None else np.zeros((len(batch.tokens), 1), np.float32)
        return pool_batch(batch.tokens, batch.weights, keys[filled], cls)

    out = {row.label: np.empty((n, widths[row.label]), np.float32) for row in rows}
    for batch, blocks in overlap(run, tokens.walk("pool"), lambda batch: batch.tokens.shape, tokens.mesh):
        for name, block in blocks.items():
            out[name][batch.rows] = block[: len(batch.rows)]
    if jax.process_count() > 1:
        owner = gather(tokens.own)
        for table in out.values():
            table[owner] = gather(table[tokens.own])
    return out


def _refuse_bad(row: Row, features: np.ndarray, data: Dataset) -> None:
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise InputError(f"{data.name}: pooler {row.label!r}: NaN or inf in {len(bad)} rows, first {data.ids[bad[0]]}")
