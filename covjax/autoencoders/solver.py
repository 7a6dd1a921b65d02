"""The best orthonormal Tucker basis by alternating eigenproblems, exact up to local optima; PCA of the mean S.

For UᵀU = I the loss of U U ᵀ S_s U Uᵀ is ‖S_s‖² − ‖UᵀS_sU‖², so U has to maximise Σ_s ‖UᵀS_sU‖².
"""

import dataclasses
import numbers
from collections.abc import Iterable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covjax.autoencoders.second_moment import Center, cp_loss, moment_norm, tucker_loss
from covjax.errors import InputError, shown
from covjax.projected import check_center
from covjax.standardise import Batch
from covjax.tokens import HIGHEST, BatchLike, BatchWeightsLike, MatrixLike, check_batch, safe_ratio

PairLike = tuple[BatchLike, BatchWeightsLike]  # tokens (b, t, d), weights (b, t) or None for ones

LOSSES = {"tucker": tucker_loss, "cp": cp_loss}


@dataclasses.dataclass(frozen=True)
class Solution:
    """The best of several starts of `solve_tucker`.

    basis: U, orthonormal, columns by falling eigenvalue of Σ_s S_s U Uᵀ S_s. fvu: Σ‖S − Ŝ‖² / Σ‖S‖² on the data it was
    fitted to. objectives: per start the rising Σ_s ‖UᵀS_sU‖², one value an iteration; the first start is PCA. bases:
    where each start ended. converged: per start, whether it met the tolerance.
    """

    basis: Float[np.ndarray, "features rank"]
    fvu: float
    objectives: tuple[tuple[float, ...], ...]
    bases: tuple[Float[np.ndarray, "features rank"], ...]
    converged: tuple[bool, ...]


def solve_tucker(
    batches: Iterable[PairLike],
    rank: int,
    *,
    center: Center = None,
    starts: int = 4,
    tolerance: float = 1e-6,
    max_iterations: int = 500,
    seed: int = 0,
) -> Solution:
    """Maximise Σ_s ‖UᵀS_sU‖² over orthonormal U: U ← top eigenvectors of K(U) = Σ_s S_s U Uᵀ S_s, until U rests.

    The alternation of HOOI (De Lathauwer et al. 2000) and GLRAM (Ye 2005). The objective never falls: it is convex in
    UUᵀ because S is PSD, and every step maximises its linearisation. Untied A ≠ B gain nothing: Σ⟨AᵀS_sB, AᵀS_sB⟩ is a
    PSD form in (AAᵀ, BBᵀ), so by Cauchy-Schwarz its maximum has A = B; alternating A and B gives the same iterates.

    S_s U = Xᵀ(XU)/n. S_s itself is kept in place of passes over its tokens where it is no larger than these, up to 256
    MiB in all. Everything is float64, one pass over the batches an iteration serves all starts. The first start is PCA
    of the mean S, the others are random; local optima exist, so the best is kept.

    Args:
        batches: (x (b, t, d), weights (b, t) or None), walked over many times; equal shapes compile once.
        rank: columns of U.
        center: as in `tucker_loss`.
        starts: PCA and `starts` − 1 random ones.
        tolerance: a start rests when the sine of the largest principal angle between two iterates is below it.
        max_iterations: passes over the data at most; a start that did not rest is not `converged`.
        seed: of the random starts.

    Raises:
        InputError: no batch, a rank outside 1 … features, NaN or infinite tokens, `starts` or `max_iterations` below 1.
    """
    batches = list(map(_checked, batches))
    features = _check(batches, rank)
    if starts < 1 or max_iterations < 1:
        raise InputError(f"starts and max_iterations must be >= 1, got {starts} and {max_iterations}")
    rng = np.random.default_rng(seed)
    random = [np.linalg.qr(rng.standard_normal((features, rank)))[0] for _ in range(starts - 1)]
    u = np.stack([pca_basis(batches, rank, center=center), *random])
    history: list[list[float]] = [[] for _ in range(starts)]
    active = np.arange(starts)
    moments = _kept_moments(batches, center)
    for _ in range(max_iterations):
        k, objective = _gram(batches, moments, u[active], center)
        for place, value in zip(active, objective):
            history[place].append(float(value))
        new = np.linalg.eigh(k)[1][:, :, ::-1][:, :, :rank]
        moved = np.array([_largest_sine(a, b) for a, b in zip(u[active], new)])
        u[active] = new
        active = active[moved > tolerance]
        if not len(active):
            break
    _, objective = _gram(batches, moments, u, center)
    for values, value in zip(history, objective):
        values.append(float(value))
    best = int(np.argmax(objective))
    norm = sum(
        float(np.square(each).sum() if each is not None else _norms(*batch, center).sum())
        for batch, each in zip(batches, moments)
    )
    if not norm:
        raise InputError("batches: no sequence with a second moment above 0")
    return Solution(
        u[best],
        1 - float(objective[best]) / norm,
        tuple(map(tuple, history)),
        tuple(u),
        tuple(start not in active for start in range(starts)),
    )


def pca_basis(batches: Iterable[PairLike], rank: int, *, center: Center = None) -> Float[np.ndarray, "features rank"]:
    """Top eigenvectors of the mean of S over sequences, largest eigenvalue first: the baseline and the start.

    Raises InputError for no batch, a rank outside 1 … features, and NaN or infinite tokens.
    """
    total = None
    with jax.enable_x64(True):
        for x, weights in map(_checked, batches):
            if total is None:
                check_center(center, x.shape[2])
            part = np.asarray(_mean_moment(_scaled(*_wide(x, weights, center))))
            total = part if total is None else total + part
    if total is None:
        raise InputError("batches: empty; at least one is needed")
    _check_rank(rank, len(total))
    if not np.isfinite(total).all():
        raise InputError("batches: NaN or infinite values among the tokens")
    return np.linalg.eigh(total)[1][:, ::-1][:, :rank]


def evaluate_fvu(
    batches: Iterable[PairLike],
    left: MatrixLike,
    right: MatrixLike | None = None,
    *,
    center: Center = None,
    kind: str = "tucker",
) -> float:
    """Σ_s ‖S_s − Ŝ_s‖² / Σ_s ‖S_s‖² over all sequences: 0 perfect, 1 for Ŝ = 0, whatever the batches.

    `kind` is "tucker" or "cp". Raises InputError for another one, for no batch, and like `tucker_loss`.
    """
    if kind not in LOSSES:
        raise InputError(f"kind must be one of {', '.join(LOSSES)}, got {kind!r}")
    loss = norm = 0.0
    for x, weights in batches:
        x, weights = check_batch(x, weights, "batches")
        sums = _loss_and_norm(kind, isinstance(center, str), x, weights, left, right, _vector(center))
        loss, norm = loss + float(sums[0]), norm + float(sums[1])
    if not norm:
        raise InputError("batches: no sequence with a second moment above 0")
    return 1 + loss / norm


@partial(jax.jit, static_argnums=(0, 1))
def _loss_and_norm(kind, own, x, weights, left, right, vector):
    center = "sequence" if own else vector
    one = lambda x, w: (LOSSES[kind](x, left, right, w, center=center), moment_norm(x, w, center=center))  # noqa: E731
    return jax.tree.map(jnp.sum, jax.vmap(one, (0, None if weights is None else 0))(x, weights))


def _checked(batch: PairLike) -> Batch:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise InputError(f"batches: {type(batch).__name__} must be a pair: tokens (b, t, d), weights (b, t) or None")
    return check_batch(*batch, "batches", squares=False)  # sums are float64


def _check(batches: Sequence[Batch], rank: int) -> int:
    if not len(batches):
        raise InputError("batches: empty; at least one is needed")
    features = batches[0][0].shape[-1]
    _check_rank(rank, features)
    return features


def _check_rank(rank: int, features: int) -> None:
    if not isinstance(rank, numbers.Integral) or not 1 <= rank <= features:
        raise InputError(f"rank must be 1 … {features} (features), a whole number, got {shown(rank)}")


def _largest_sine(a: Float[np.ndarray, "d r"], b: Float[np.ndarray, "d r"]) -> float:
    return float(np.linalg.norm(b - a @ (a.T @ b), 2))


def _vector(center: Center) -> Array | None:
    return None if center is None or isinstance(center, str) else jnp.asarray(center)


def _wide(x, weights, center) -> tuple[Array, Array, Array | None, bool]:
    w = np.ones(x.shape[:2]) if weights is None else np.asarray(weights, np.float64)
    shift = _vector(center)
    return jnp.asarray(np.asarray(x), jnp.float64), jnp.asarray(w), shift, isinstance(center, str)


@partial(jax.jit, static_argnums=3)
def _scaled(x, w, shift, own):
    """Z with S = ZᵀZ for every sequence of a batch."""
    x = jnp.where(w[..., None] > 0, x, 0)
    share = safe_ratio(w, jnp.sum(w, axis=1, keepdims=True))
    if own:
        shift = jnp.einsum("bt,btd->bd", share, x, precision=HIGHEST)[:, None]
    return (x if shift is None else x - shift) * jnp.sqrt(share)[..., None]


@jax.jit
def _mean_moment(z):
    return jnp.einsum("btd,bte->de", z, z, precision=HIGHEST)


_ROOM = 2**28  # bytes of moments that are kept


def _kept_moments(batches: Sequence[Batch], center: Center) -> list[Float[np.ndarray, "b d d"] | None]:
    """Every S of the batches where float64 S are no larger than float32 tokens, as long as there is room for them."""
    moments: list[np.ndarray | None] = []
    room = _ROOM
    for x, weights in batches:
        size, tokens, features = x.shape
        memory = 8 * size * features**2
        if tokens < 2 * features or memory > room:
            moments.append(None)
            continue
        room -= memory
        with jax.enable_x64(True):
            moments.append(np.asarray(_each_moment(_scaled(*_wide(x, weights, center)))))
    return moments


@jax.jit
def _each_moment(z):
    return jnp.einsum("btd,bte->bde", z, z, precision=HIGHEST)


@jax.jit
def _part(z: Float[Array, "b t d"], u: Float[Array, "d r"]) -> tuple[Array, Array]:
    """Σ over the batch of S U Uᵀ S and of ‖UᵀSU‖²."""
    return _squares(jnp.einsum("btd,btr->dbr", z, jnp.matmul(z, u, precision=HIGHEST), precision=HIGHEST), u)


@jax.jit
def _part_of_moments(moments: Float[Array, "b d d"], u: Float[Array, "d r"]) -> tuple[Array, Array]:
    """`_part` from every S."""
    return _squares(jnp.einsum("bde,er->dbr", moments, u, precision=HIGHEST), u)


def _squares(y: Float[Array, "d b r"], u: Float[Array, "d r"]) -> tuple[Array, Array]:
    """`_part` from every S U."""
    c = jnp.einsum("dr,dbq->brq", u, y, precision=HIGHEST)
    y = y.reshape(y.shape[0], -1)
    return jnp.matmul(y, y.T, precision=HIGHEST), jnp.sum(c * c)


def _gram(
    batches: Sequence[Batch], moments: Sequence[np.ndarray | None], bases: np.ndarray, center: Center
) -> tuple[np.ndarray, np.ndarray]:
    """K and the objective for every basis, from one pass over the batches, or their moments where they are there."""
    k, objective = np.zeros(()), np.zeros(())
    with jax.enable_x64(True):
        for (x, weights), moment in zip(batches, moments):
            products = _part if moment is None else _part_of_moments
            z = _scaled(*_wide(x, weights, center)) if moment is None else jnp.asarray(moment)
            parts = [products(z, jnp.asarray(u)) for u in bases]
            k = k + np.stack([np.asarray(part[0]) for part in parts])
            objective = objective + np.stack([np.asarray(part[1]) for part in parts])
    return k, objective


@jax.jit
def _squared_norms(z):
    gram = jnp.einsum("btd,bsd->bts" if z.shape[1] < z.shape[2] else "btd,bte->bde", z, z, precision=HIGHEST)
    return jnp.sum(jnp.square(gram), axis=(1, 2))


def _norms(x, weights, center) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(_squared_norms(_scaled(*_wide(x, weights, center))))
