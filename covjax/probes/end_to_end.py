"""End-to-end probes: a pooler with parameters and a linear readout, trained together on token activations."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from covjax.errors import InputError, shown
from covjax.inputs import TableLike, VectorLike, check_finite, exact_mean, host_array
from covjax.jobs.checkpoint import leaf_digests
from covjax.probes.losses import ClassWeights, check_targets, check_varied, element_weights, log_odds, sample_loss
from covjax.probes.minibatch import Budget, fit_minibatch
from covjax.standardise import live_deviation
from covjax.tokens import HIGHEST

TokenBatch = tuple[np.ndarray, Float[np.ndarray, "b t d"], Float[np.ndarray, "b t"]]  # rows, tokens, weights
Walk = Callable[[np.ndarray], Iterator[TokenBatch]]  # of the row numbers that are wanted; others may come too
Metric = Callable[[np.ndarray, np.ndarray], float]  # targets (m, k), scores (m, k); higher is better


@dataclasses.dataclass(frozen=True)
class TokenProbe:
    """scores = (pool(tokens) − center)/scale @ weights + bias, at the weight decay that was best on validation.

    `validation` has the values of all validations, (validations, decays), and `best_step` the chosen step per decay.
    """

    pool: nnx.Module
    center: Float[np.ndarray, "p"]
    scale: Float[np.ndarray, "p"]
    weights: Float[np.ndarray, "p k"]
    bias: Float[np.ndarray, "k"]
    weight_decay: float
    validation: Float[np.ndarray, "looks decays"]
    best_step: np.ndarray

    def scores(self, batches: Iterable[TokenBatch]) -> Float[np.ndarray, "n k"]:
        """Scores (logits, or predictions in the targets' units) of all rows, in row order.

        Raises InputError where the rows are not 0 … n − 1, each once, and for NaN or inf in the pooled tokens.
        """
        pool = nnx.jit(lambda module, x, w: jax.vmap(module)(x, w))
        rows, features = [], []
        for index, tokens, weights in batches:
            rows.append(np.asarray(index))
            features.append(np.asarray(pool(self.pool, tokens, weights))[: len(index)])
        if not rows:
            raise InputError("batches: empty; at least one is needed")
        order = np.concatenate(rows)
        if not np.array_equal(np.sort(order), np.arange(len(order))):
            raise InputError(f"batches: {len(order)} rows must be 0 to {len(order) - 1}, each once")
        pooled = np.concatenate(features)[np.argsort(order)].astype(np.float64)
        check_finite(pooled, "batches", " of the pooled tokens")
        z = (pooled - self.center) / self.scale
        return z @ self.weights + self.bias


def fit_token_probe(pool: nnx.Module, *args: Any, **settings: Any) -> TokenProbe:
    """`fit_token_probes` of one pool."""
    return fit_token_probes([pool], *args, **settings)[0]


def fit_token_probes(
    pools: Sequence[nnx.Module],
    walk: Walk,
    targets: TableLike,
    train_rows: VectorLike,
    validation_rows: VectorLike,
    task: str,
    weight_decays: Sequence[float] = (1e-4, 1e-2, 1.0),
    budget: Budget | None = None,
    *,
    metric: Metric | None = None,
    class_weights: ClassWeights = None,
    checkpoint: str | Path | None = None,
    missing: str = "refuse",
) -> list[TokenProbe]:
    """Train every pool (its `nnx.Param`s) and a linear readout with AdamW; all get the same budget, grid and batches.

    The pools are of one kind and differ only in their parameters (seeds), so one compiled program trains them all. The
    readout sees a pool's features centred and scaled by their mean and deviation over the training rows at the start,
    so one learning rate suits poolers of any units. It starts from 0. The given pools themselves are not changed.

    Args:
        pools: `get_pooler("attention" | "light_attention" | "projected" | "attention_covariance", features=d, …)`,
            `BilinearReadout`, or any NNX module (tokens, weights) → (p,).
        walk: a function of row numbers that passes once over padded batches `(rows, tokens, weights)` with these rows
            (and others, if it is simpler: they are left out), the same each time; tokens beyond `len(rows)` are padding
            of the batch. Tokens enter as they are: standardise them in the walk.
        targets: of all rows; booleans, one-hot, or numbers (standardised for training, scores are in their units).
        train_rows: row numbers to train on.
        validation_rows: row numbers that choose the step and the weight decay.
        task: "multilabel", "multiclass" or "regression" (see `losses.sample_loss`).
        weight_decays: the grid, all trained at once from one pass over the tokens.
        budget: see `Budget`.
        metric: chooses on validation; None: minus the loss.
        class_weights: see `losses.element_weights`; not for regression.
        checkpoint: folder; a killed fit continues from there to the same bits (see `fit_minibatch`).
        missing: "refuse" NaN targets, or "ignore" them in every output's loss; `metric` then gets them as NaN.

    Raises:
        InputError: pools of different kinds, targets or rows that do not fit each other, a class absent from the
            training rows, NaN in the pooled features (rows named), a checkpoint of other settings.
    """
    budget = budget or Budget()
    every, present = check_targets(task, targets, missing)
    train, validation = _rows("train_rows", train_rows, every), _rows("validation_rows", validation_rows, every)
    if len(both := np.intersect1d(train, validation)):
        raise InputError(f"train_rows: {len(both)} rows are in validation_rows too, first {both[0]}")
    y, here = every[train], None if present is None else present[train]
    check_varied(task, y, here)
    decays = host_array(weight_decays, "weight_decays").astype(np.float64)
    if decays.ndim != 1 or not len(decays) or not (np.isfinite(decays) & (decays >= 0)).all():
        raise InputError(f"weight_decays: {shown(weight_decays)} must be a list of numbers >= 0")
    if task == "regression" and class_weights is not None:
        raise InputError("class_weights: regression has no classes")
    mean, std = np.zeros(y.shape[1]), np.ones(y.shape[1])
    if task == "regression":
        share = np.full(y.shape, 1 / len(y)) if here is None else here / here.sum(0)
        mean = (share * y).sum(0)
        std = np.sqrt((share * (y - mean) ** 2).sum(0))
    truth = ((every - mean) / std).astype(np.float32)
    weights = np.zeros((len(truth), y.shape[1] if task != "multiclass" else 1), np.float32)
    weights[train] = element_weights(y, class_weights, task == "multiclass", here)
    known = None if present is None else present[validation]
    importance = element_weights(every[validation], None, task == "multiclass", known).astype(np.float32)
    graph, _, *constant = nnx.split(pools[0], nnx.Param, ...)
    if any(nnx.split(pool, nnx.Param, ...)[0] != graph for pool in pools):
        raise InputError(f"pools: {len(pools)} pools must be of one kind with equal options")
    parameters = [nnx.split(pool, nnx.Param, ...)[1] for pool in pools]
    statistics, first_batch = _statistics(graph, parameters, constant, walk, train)
    grid = [(i, decay) for i in range(len(pools)) for decay in decays.tolist()]

    def readout(tree: Any, x: Array, w: Array) -> Float[Array, "b k"]:
        pooled = jax.vmap(nnx.merge(graph, tree["pool"], *constant))(x, w)
        # Constants that differ from pool to pool: no gradient, no decay, so AdamW leaves them as they are.
        center, scale = jax.lax.stop_gradient((tree["center"], tree["scale"]))
        z = (pooled - center[None]) / scale[None]
        return jnp.matmul(z, tree["weights"], precision=HIGHEST) + tree["bias"][None]

    def loss(tree, _, x, w, target, weight, count):
        return sample_loss(task, readout(tree, x, w), target, weight).sum() / count

    scores = jax.jit(jax.vmap(readout, in_axes=(0, None, None)))

    def validate(trees) -> np.ndarray:
        found = np.full((len(grid), len(validation), y.shape[1]), np.nan, np.float32)
        came = np.zeros(len(validation), bool)
        for index, tokens, w in walk(validation):
            keep = np.isin(index, validation)
            if keep.any():
                block = np.asarray(scores(trees, tokens, w))[:, : len(index)][:, keep]
                found[:, np.searchsorted(validation, np.asarray(index)[keep])] = block
                came[np.searchsorted(validation, np.asarray(index)[keep])] = True
        if not came.all():
            raise InputError(f"walk: validation row {validation[np.argmin(came)]} never came ({(~came).sum()} in all)")
        if metric is not None:
            wanted = every[validation] if known is None else np.where(known, every[validation], np.nan)
            return np.array([metric(wanted, each * std + mean) for each in found])
        wanted, share = jnp.asarray(truth[validation]), jnp.asarray(importance)
        return np.array([-sample_loss(task, jnp.asarray(each), wanted, share).mean() for each in found])

    bias = jnp.asarray(log_odds(task, truth[train].astype(np.float64), weights[train]), jnp.float32)
    starts = [
        {
            "pool": parameters[i],
            "center": jnp.asarray(statistics[i][0], jnp.float32),
            "scale": jnp.asarray(statistics[i][1], jnp.float32),
            "weights": jnp.zeros((len(statistics[i][0]), y.shape[1])),
            "bias": bias,
        }
        for i, _ in grid
    ]
    settings = {
        "task": task,
        "first_batch": first_batch,
        "inputs": leaf_digests({"targets": truth, "train": train, "validation": validation, "weights": weights}),
        "metric": None if metric is None else getattr(metric, "__name__", type(metric).__name__),
    }
    fit = fit_minibatch(
        loss,
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts),
        [decay for _, decay in grid],
        lambda: _selected(walk(train), train, truth, weights),
        validate,
        budget,
        decay=True,
        checkpoint=checkpoint,
        settings=settings,
    )
    # Equal on validation: the larger weight decay is the safer one.
    values = fit.validation.max(0)
    probes = []
    for i in range(len(pools)):
        own = [place for place, (pool, _) in enumerate(grid) if pool == i]
        chosen = max(own, key=lambda place: (values[place], grid[place][1]))
        best = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen].copy(), fit.best)  # not the whole grid
        probes.append(
            TokenProbe(
                nnx.merge(graph, best["pool"], *constant),
                best["center"].astype(np.float64),
                best["scale"].astype(np.float64),
                best["weights"].astype(np.float64) * std,
                best["bias"].astype(np.float64) * std + mean,
                grid[chosen][1],
                fit.validation[:, own],
                fit.best_step[own],
            )
        )
    return probes


def _rows(name: str, rows: VectorLike, targets: np.ndarray) -> np.ndarray:
    given = host_array(rows, name)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise InputError(f"{name}: {given.dtype} {given.shape} must be row numbers; of a mask: np.flatnonzero(mask)")
    found = np.unique(given)
    if not len(found) or found[0] < 0 or found[-1] >= len(targets):
        raise InputError(f"{name}: {len(found)} row numbers must lie in 0 to {len(targets) - 1}")
    if len(found) < len(given):
        raise InputError(f"{name}: {len(given) - len(found)} row numbers occur more than once; each is used once")
    return found


def _statistics(
    graph: Any, parameters: Sequence[Any], constant: Sequence[Any], walk: Walk, train: np.ndarray
) -> tuple[list[tuple[np.ndarray, np.ndarray]], Any]:
    """Mean and deviation of every pool's features over the training rows, and the digest of the walk's first batch."""
    pool = jax.jit(lambda tree, x, w: jax.vmap(nnx.merge(graph, tree, *constant))(x, w))
    seen, digest = [], None
    pooled: list[list[np.ndarray]] = [[] for _ in parameters]
    for index, tokens, weights in walk(train):
        digest = digest or leaf_digests({"rows": index, "tokens": tokens, "weights": weights})
        keep = np.isin(index, train)
        if keep.any():
            seen.append(np.asarray(index)[keep])
            for tree, own in zip(parameters, pooled):
                own.append(np.asarray(pool(tree, tokens, weights))[: len(index)][keep])
    rows = np.concatenate(seen) if seen else np.empty(0, int)
    if not np.array_equal(np.sort(rows), train):
        missing = np.setdiff1d(train, rows)
        problem = f"{len(missing)} never came, first {missing[0]}" if len(missing) else "some came more than once"
        raise InputError(f"walk: of {len(train)} training rows {problem}")
    statistics = []
    while pooled:  # the features of a pool go before those of the next are whole
        features = np.concatenate(pooled.pop(0))[np.argsort(rows)]
        if len(bad := np.flatnonzero(~np.isfinite(features).all(1))):
            raise InputError(
                f"walk: NaN or inf in the pooled tokens of {len(bad)} training rows, first row {train[bad[0]]}"
            )
        mean = exact_mean(features.astype(np.float64))
        std = np.sqrt(np.mean((features - mean) ** 2, axis=0))
        statistics.append((mean, live_deviation(std)))
    return statistics, digest


def _selected(batches: Iterable[TokenBatch], train: np.ndarray, truth: np.ndarray, weights: np.ndarray):
    """Batches with training rows: tokens, weights, targets, loss weights (0 on every other row), rows that count."""
    for index, tokens, w in batches:
        keep = np.isin(index, train)
        if keep.any():
            target = np.zeros((len(tokens), truth.shape[1]), np.float32)
            weight = np.zeros((len(tokens), weights.shape[1]), np.float32)
            target[: len(index)] = truth[index]
            weight[: len(index)] = weights[index] * keep[:, None]
            yield tokens, w, target, weight, np.float32(keep.sum())
