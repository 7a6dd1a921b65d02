"""From token activations to one feature matrix per row of the comparison, kept as Orbax checkpoints."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from covjax import checkpoint, get_pooler
from covjax.controls import shuffle_features
from covjax.data import Dataset
from covjax.errors import InputError
from covjax.moments import moments
from eval.composition import kmer_frequencies
from eval.config import CompareConfig, Row
from eval.tokens import Batch, standardiser, token_batches

Features = dict[str, Float[np.ndarray, "sequences k"]]


def slug(label: str) -> str:
    """Folder name of a row: ASCII, lower case."""
    names = {"Σ": "cov", "μμᵀ": "mu-mu", "ε": "eps"}
    for symbol, name in names.items():
        label = label.replace(symbol, name)
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def make_features(config: CompareConfig, data: Dataset, encoder, output: Path, manifest: dict[str, Any]) -> Features:
    """Pooled features of every row, (n, k) float32 each; complete checkpoints in `output/features` are reused.

    A checkpoint made under another manifest is refused with the difference. All missing rows are pooled in one pass.
    """
    done, missing = {}, []
    for row in config.rows:
        path = output / "features" / slug(row.label)
        if checkpoint.read_manifest(path) is None:
            missing.append(row)
        else:
            done[row.label] = checkpoint.load(path, {"features": 0}, _row_manifest(manifest, row))["features"]
    if not missing:
        print(f"features: all {len(done)} complete in {output / 'features'}, reused")
        return done
    print(f"features: {len(done)} complete and reused, {len(missing)} to make")
    fresh = _make(config, data, encoder, missing, done)
    for row in missing:
        _refuse_bad(row, fresh[row.label], data)
        path = output / "features" / slug(row.label)
        checkpoint.save(path, {"features": fresh[row.label]}, _row_manifest(manifest, row))
    return {row.label: (done | fresh)[row.label] for row in config.rows}


def _row_manifest(manifest: dict[str, Any], row: Row) -> dict[str, Any]:
    return manifest | {"row": repr(row)}


def _make(config: CompareConfig, data: Dataset, encoder, missing: list[Row], done: Features) -> Features:
    fresh: Features = {}
    pooled = [row for row in missing if row.pooler]
    if pooled:
        layer = config.layer % encoder.num_layers
        walk = token_batches(encoder, data, layer, config.token_budget, config.max_memory_gib)
        train = data.rows("train")
        fit = standardiser(_progress("encode", walk(), len(data)), encoder.features(layer), train)
        basis = None
        if any(row.rank for row in pooled):
            basis = _pca_basis(_progress("PCA basis", walk(), len(data)), fit, train)
        too_big = [row.rank for row in pooled if row.rank and row.rank > encoder.features(layer)]
        if too_big:
            raise InputError(f"ranks: {too_big[0]} is more than the encoder's {encoder.features(layer)} features")
        fresh |= _pool(pooled, _progress("pool", walk(), len(data)), fit, basis, len(data), config)
    fresh |= {row.label: kmer_frequencies(data.sequences, row.k) for row in missing if row.k}
    for row in missing:
        if row.parts:
            known = done | fresh
            fresh[row.label] = side_by_side([known[part] for part in row.parts], data.rows("train"))
    return fresh


def _progress(stage: str, batches: Iterator[Batch], total: int) -> Iterator[Batch]:
    with tqdm(total=total, desc=f"{stage:>12}", unit="seq") as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch[0]))


Fit = tuple[np.ndarray, np.ndarray]  # mean and deviation of every feature over the training tokens


def _standardised(x: Float[Array, "t d"], w: Float[Array, "t"], fit: Fit) -> Float[Array, "t d"]:
    return jnp.where(w[:, None] > 0, (x.astype(jnp.float32) - fit[0]) / fit[1], 0)


def _pca_basis(batches: Iterator[Batch], fit: Fit, train: np.ndarray) -> Float[np.ndarray, "d d"]:
    """Eigenvectors, largest eigenvalue first, of the mean over training sequences of each sequence's covariance."""

    @jax.jit
    def summed(x, w):
        return jax.vmap(lambda x, w: moments(_standardised(x, w, fit), w).covariance())(x, w).sum(0)

    total = np.zeros(())
    for rows, tokens, weights in batches:
        keep = np.zeros(len(tokens), np.float32)
        keep[: len(rows)] = np.isin(rows, train)
        total = total + np.asarray(summed(tokens, weights * keep[:, None]), np.float64)
    return np.linalg.eigh(total / len(train))[1][:, ::-1].astype(np.float32)


def _pool(
    rows: list[Row], batches: Iterator[Batch], fit: Fit, basis: np.ndarray | None, n: int, config: CompareConfig
) -> Features:
    # One program pools every row: XLA then shares the moments, the eigendecomposition and the shuffle among them.
    poolers = {row.label: _pooler(row, basis) for row in rows}
    shuffled = {row.label for row in rows if row.shuffled}

    @jax.jit
    @jax.vmap
    def pool_batch(x, w, key):
        x = _standardised(x, w, fit)
        mixed = shuffle_features(x, w, key) if shuffled else x
        return {name: pooler(mixed if name in shuffled else x, w) for name, pooler in poolers.items()}

    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(config.seed), i))(jnp.arange(n))
    out: Features = {}
    for index, tokens, weights in batches:
        filled = np.resize(index, len(tokens))  # the last batch of a shape has more rows than sequences
        for name, block in pool_batch(tokens, weights, keys[filled]).items():
            out.setdefault(name, np.empty((n, block.shape[1]), np.float32))[index] = block[: len(index)]
    return out


def _pooler(row: Row, basis: np.ndarray | None) -> Callable[[Array, Array], Array]:
    options: dict[str, Any] = dict(row.options)
    if row.rank:
        assert basis is not None
        options["basis"] = basis[:, : row.rank]
    return get_pooler(row.pooler, **options)


def side_by_side(blocks: list[np.ndarray], train: np.ndarray) -> Float[np.ndarray, "n k"]:
    """Concatenate blocks after centring each and dividing it by its root-mean-square norm on the training rows.

    Without that, one penalty for all columns would favour the block with the larger numbers.
    """
    scaled = []
    for block in blocks:
        centred = block - block[train].mean(0)
        norm = np.sqrt((centred[train].astype(np.float64) ** 2).sum(1).mean())
        scaled.append((centred / max(norm, np.finfo(np.float32).tiny)).astype(np.float32))
    return np.concatenate(scaled, axis=1)


def _refuse_bad(row: Row, features: np.ndarray, data: Dataset) -> None:
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise InputError(f"{data.name}: pooler {row.label!r}: NaN or inf in {len(bad)} rows, first {data.ids[bad[0]]}")
