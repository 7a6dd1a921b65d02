"""What `Referenced` recipes fit on training tokens without labels: each gives a pooler some options."""

import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covjax.activations import ArrayTokens
from covjax.activations.tokens import Fit, train_weights
from covjax.errors import InputError
from covjax.extras import need
from covjax.frechet import frechet_mean, inverse_root, symmetric_exp
from covjax.jobs.distributed import agree, gather
from covjax.moments import moments
from covjax.notes import note
from covjax.spectral import centred_tokens, psd_log
from covjax.standardise import standardise
from covjax.tokens import HIGHEST

SAMPLE = 20_000  # tokens that centres and mixtures are fitted on: seconds
PAIRED = 1_000  # tokens whose distances the median is of
AVERAGED = 1_000  # sequences that an iterated mean is of

Arrays = dict[str, np.ndarray]


class TrainingTokens:
    """Standardised tokens of the training rows: sums over sequences, and a sample of tokens.

    In a job of several processes all ask for the same, together, and get the same.
    """

    def __init__(self, tokens: ArrayTokens, fit: Fit, train: np.ndarray, seed: int):
        self.tokens, self.fit, self.train, self.seed = tokens, fit, train, seed

    def total(self, function: Callable[[Array, Array], Any], stage: str) -> Any:
        """Σ over the training sequences of a tree of arrays `function(x, w)`, in float64 between batches."""

        @jax.jit
        def summed(x, w):
            there = jnp.any(w > 0, 1)

            def add(leaf):
                return jnp.where(there.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0).sum(0)

            return jax.tree.map(add, jax.vmap(function)(standardise(x, w, *self.fit), w))

        total = jax.tree.map(lambda leaf: np.zeros(leaf.shape), _result(function, self.tokens.features))
        for batch in self.tokens.walk(stage):
            part = summed(batch.tokens, train_weights(batch, self.train))
            total = jax.tree.map(lambda a, b: a + np.asarray(b, np.float64), total, part)
        return jax.tree.map(lambda leaf: gather(leaf[None]).sum(0), total)

    @cached_property
    def mean_covariance(self) -> Float[np.ndarray, "d d"]:
        """The mean of the training sequences' covariances, of which no d² numbers a sequence are made."""
        centred = jax.jit(jax.vmap(lambda x, w: centred_tokens(standardise(x, w, *self.fit), w, "covariance")))
        product: Callable[..., Array | np.ndarray] = _half if jax.default_backend() == "cpu" else jax.jit(_whole)
        total = np.zeros((self.tokens.features, self.tokens.features))
        for batch in self.tokens.walk("mean covariance"):
            weights = train_weights(batch, self.train)
            total += np.asarray(product(centred(batch.tokens, weights), weights))
        return gather(total[None]).sum(0) / len(self.train)

    @cached_property
    def sample(self) -> Float[np.ndarray, "n d"]:
        """`SAMPLE` tokens, or all where there are fewer, each as likely as any other; the same for any batches."""
        keys, chosen = np.empty(0), np.empty((0, self.tokens.features), np.float32)
        for batch in self.tokens.walk("sample"):
            weights = train_weights(batch, self.train) > 0
            counts = weights.sum(1)
            own = [np.random.default_rng([self.seed, row]).random(counts[i]) for i, row in enumerate(batch.rows)]
            keys, chosen = np.concatenate([keys, *own]), np.concatenate([chosen, batch.tokens[weights]])
            keys, chosen = _smallest(keys, chosen)
        keys, chosen = _smallest(gather(keys), gather(chosen))
        return (chosen - self.fit[0]) / self.fit[1]

    def each(self, function: Callable[[Array, Array], Array], stage: str) -> Float[np.ndarray, "n *k"]:
        """`function(x, w)` of `AVERAGED` training sequences, spread evenly, or of all where there are fewer."""
        rows = self.train[:: -(-len(self.train) // AVERAGED)]
        apply = jax.jit(jax.vmap(lambda x, w: function(standardise(x, w, *self.fit), w)))
        numbers = [np.empty(0, np.int64)]
        values = [np.empty((0, *_result(function, self.tokens.features).shape), np.float32)]
        for batch in self.tokens.walk(stage):
            wanted = np.isin(batch.rows, rows)
            if wanted.any():
                numbers.append(batch.rows[wanted].astype(np.int64))
                values.append(np.asarray(apply(batch.tokens, batch.weights))[: len(wanted)][wanted])
        order = np.argsort(gather(np.concatenate(numbers)))
        return gather(np.concatenate(values))[order]


def _half(y: Float[Array, "b t d"], weights: Float[np.ndarray, "b t"]) -> Float[np.ndarray, "d d"]:
    """Σ yyᵀ over the tokens of weight above 0, by NumPy, which computes one half of a symmetric product."""
    rows = np.asarray(y)[weights > 0]
    return rows.T @ rows


def _whole(y: Float[Array, "b t d"], _: Float[Array, "b t"]) -> Float[Array, "d d"]:
    rows = y.reshape(-1, y.shape[-1])
    return jnp.matmul(rows.T, rows, precision=HIGHEST)


def _result(function: Callable, features: int) -> Any:
    """Shapes and types of `function(x, w)`."""
    token, weight = jax.ShapeDtypeStruct((1, features), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    return jax.eval_shape(function, token, weight)


def _smallest(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(keys)[:SAMPLE]
    return keys[order], rows[order]


Fitter = Callable[..., Arrays]
Shapes = Callable[..., dict[str, tuple[int, ...]]]
_REFERENCES: dict[str, tuple[Fitter, Shapes]] = {}


def reference(name: str, shapes: Shapes) -> Callable[[Fitter], Fitter]:
    """Register `function(training, **fitting) -> {option of the pooler: array}` under the name that recipes give.

    `shapes(features, **fitting)` are the largest that these arrays can have.

    Raises InputError for a name that is taken.
    """

    def enter(function: Fitter) -> Fitter:
        if name in _REFERENCES:
            raise InputError(f"reference {name!r} is already registered")
        _REFERENCES[name] = function, shapes
        return function

    return enter


def fit_reference(name: str, training: TrainingTokens, fitting: Mapping[str, Any]) -> Arrays:
    """What the reference of that name gives, the same in all processes; InputError for an unknown name."""
    arrays = _registered(name)[0](training, **fitting)
    return agree({key: np.asarray(array, np.float32) for key, array in arrays.items()})


def unfitted_reference(name: str, features: int, fitting: Mapping[str, Any]) -> Arrays:
    """Ones in place of what `fit_reference` gives, in the largest shapes; InputError for an unknown name."""
    return {key: np.ones(shape, np.float32) for key, shape in _registered(name)[1](features, **fitting).items()}


def _registered(name: str) -> tuple[Fitter, Shapes]:
    if name not in _REFERENCES:
        raise InputError(f"reference: {name!r} is unknown; there are {', '.join(sorted(_REFERENCES))}")
    return _REFERENCES[name]


@reference("token_covariance", lambda d, ridge: {"center": (d,), "whitening": (d, d)})
def _token_covariance(training: TrainingTokens, ridge: float) -> Arrays:
    """Centre and whitening of all training tokens."""

    def sums(x, w):
        m = moments(x, w)
        return m.count, m.count * m.mean, m.count * m.second_moment()

    count, first, second = training.total(sums, "token covariance")
    center = first / count
    covariance = second / count - np.outer(center, center)  # standardised tokens: the mean is small
    return {"center": center, "whitening": inverse_root(covariance + ridge * np.eye(len(center)))}


@reference("mean_covariance", lambda d, ridge: {"whitening": (d, d)})
def _mean_covariance(training: TrainingTokens, ridge: float) -> Arrays:
    """The whitening under which the training sequences' mean covariance is I."""
    return {"whitening": inverse_root(training.mean_covariance + ridge * np.eye(training.tokens.features))}


@reference("log_euclidean_mean", lambda d, eps: {"whitening": (d, d)})
def _log_euclidean(training: TrainingTokens, eps: float) -> Arrays:
    """G^{-½} of the log-Euclidean mean of Σ + εI."""
    total = training.total(lambda x, w: psd_log(moments(x, w).covariance(), eps), "mean matrix")
    return {"whitening": inverse_root(symmetric_exp(jnp.asarray(total / len(training.train), jnp.float32)))}


@reference("frechet_mean", lambda d, eps, rank: {"whitening": (d, min(rank, d))})
def _frechet(training: TrainingTokens, eps: float, rank: int) -> Arrays:
    """V G^{-½}: the affine-invariant mean of Σ + εI on the `rank` leading components V of the mean covariance."""
    basis = np.linalg.eigh(training.mean_covariance)[1][:, ::-1][:, : min(rank, training.tokens.features)]
    basis = agree(basis.astype(np.float32))

    def covariance(x, w):
        return moments(jnp.matmul(x, basis, precision=HIGHEST), w).covariance()

    matrices = training.each(covariance, "Fréchet mean")
    mean, residual = frechet_mean(matrices, ridge=eps)
    note(f"Fréchet mean of {len(matrices):,} covariances, {basis.shape[1]} components: residual {residual:.2g}")
    return {"whitening": basis @ inverse_root(mean)}


@reference("median_distance", lambda d: {"bandwidth": ()})
def _median_distance(training: TrainingTokens) -> Arrays:
    """The median distance between two tokens."""
    x = training.sample[:PAIRED].astype(np.float64)
    square = np.sum(x**2, axis=1)
    distances = square[:, None] + square[None] - 2 * x @ x.T
    above = distances[np.triu_indices(len(x), 1)]
    bandwidth = np.sqrt(max(np.median(above), 0.0)) if len(above) else 0.0
    return {"bandwidth": np.asarray(bandwidth or 1.0)}  # equal tokens, or one


@reference("kmeans", lambda d, count: {"centres": (count, d)})
def _kmeans(training: TrainingTokens, count: int) -> Arrays:
    """Centres of k-means."""
    cluster = need("sklearn.cluster", "clusters", "a recipe of k-means centres")
    sample = training.sample
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct tokens than centres
        fitted = cluster.KMeans(min(count, len(sample)), n_init=1, random_state=training.seed).fit(sample)
    return {"centres": fitted.cluster_centers_}


@reference("gaussian_mixture", lambda d, count: {"shares": (count,), "means": (count, d), "variances": (count, d)})
def _gaussian_mixture(training: TrainingTokens, count: int) -> Arrays:
    """A mixture of Gaussians with diagonal covariances."""
    mixture = need("sklearn.mixture", "clusters", "a recipe of a Gaussian mixture")
    sample = training.sample
    count = min(count, max(1, len(sample) // 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a mixture that has not converged still has gradients
        fitted = mixture.GaussianMixture(count, covariance_type="diag", reg_covar=1e-3, random_state=training.seed)
        fitted.fit(sample.astype(np.float64))
    if not fitted.converged_:
        note(f"Gaussian mixture: {count} components have not converged in {fitted.max_iter} steps")
    return {"shares": fitted.weights_, "means": fitted.means_, "variances": fitted.covariances_}
