"""One entry for every statistic: check a sequence's tokens and weights, widen to float32, silence masked tokens."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from covjax.errors import DtypeError, InputError
from covjax.inputs import host_array, is_concrete

_WEIGHT = 1e30  # below it sums of weights, and of weighted tokens, stay in float32
# What users may give: whatever `check_tokens`, `check_weights` and `check_matrix` take, or refuse with a message of
# their own. So nothing else checks these types.
TokensLike = Annotated[Any, Float[Array, "tokens features"]]
WeightsLike = Annotated[Any, Float[Array, "tokens"] | None]
BatchLike = Annotated[Any, Float[Array, "b tokens features"]]
BatchWeightsLike = Annotated[Any, Float[Array, "b tokens"] | None]
MatrixLike = Annotated[Any, Float[Array, "rows columns"]]

HIGHEST = jax.lax.Precision.HIGHEST  # of a product: TPUs and recent GPUs round float32 factors otherwise


def check_tokens(x: Any, name: str = "x") -> Float[Array | np.ndarray, "tokens features"]:
    """One sequence's tokens as a NumPy or JAX array; lists and PyTorch tensors become NumPy arrays.

    Raises TypeError unless they are floating point, InputError unless they are (tokens >= 1, features >= 1).
    """
    if isinstance(x, list | tuple):
        x = _of_list(x, name)
    elif x is not None and is_concrete(x) and not isinstance(x, jax.Array):
        x = _of_host(x, name)
    try:
        dtype = getattr(x, "dtype", None)
    except TypeError:  # a tracer around a PyTorch tensor; JAX's message would print all of it
        raise DtypeError(f"{name} is a PyTorch tensor inside vmap, jit or grad; give x.numpy(force=True)") from None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise DtypeError(
            f"{name} must be a floating-point array (tokens, features), got {dtype or type(x).__name__}; "
            "numbers: x.astype(np.float32)"
        )
    if x.ndim != 2 or 0 in x.shape:
        raise InputError(
            f"{name} must have shape (tokens >= 1, features >= 1), got {tuple(x.shape)}; batches: jax.vmap"
        )
    return x


def _of_host(x: Any, name: str) -> np.ndarray:
    if isinstance(x, np.ma.MaskedArray) and np.ma.getmaskarray(x).any():
        raise InputError(f"{name} has masked entries; give the data and weights that are 0 on the tokens to leave out")
    if isinstance(x, np.ndarray) and x.dtype.kind in "SUcM":
        return x  # refused by its type
    x = host_array(x, name)
    if x.dtype == np.longdouble and x.dtype != np.float64:
        raise DtypeError(f"{name} is {x.dtype}, which JAX does not have; give x.astype(np.float32)")
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def _of_list(x: list | tuple, name: str) -> Any:
    if not all(map(is_concrete, x)):
        return jnp.stack([jnp.asarray(row) for row in x])
    try:
        even = len({np.shape(row) for row in x}) == 1
    except ValueError:  # one of them is ragged itself
        even = False
    if not even:
        raise InputError(
            f"{name} is a list of {len(x)} arrays of different shapes, but one sequence is pooled at a time: "
            "[pooler(x) for x in sequences], or covjax.pack_blocks"
        )
    return host_array(x, name)


def check_weights(weights: Any, tokens: int) -> Shaped[Array | np.ndarray, "{tokens}"] | None:
    """The weights as a NumPy or JAX array, or None.

    Raises InputError for a wrong length and, where values are concrete, negative, NaN or all zero.
    """
    if weights is None:
        return None
    if is_concrete(weights):
        weights = weights if isinstance(weights, jax.Array) else host_array(weights, "weights")
    if tuple(weights.shape) != (tokens,):
        raise InputError(f"weights must have shape ({tokens},), one per token, got {tuple(weights.shape)}")
    if is_concrete(weights):
        if jnp.iscomplexobj(weights):
            raise DtypeError(f"weights must be real numbers, got {weights.dtype}")
        values = np.asarray(weights, np.float64)
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            raise InputError(f"weights must be finite and >= 0, got {values[bad][0]} at token {int(np.argmax(bad))}")
        if not values.any():
            raise InputError("weights must not all be 0: the sequence has no token to pool")
        if not 1 / _WEIGHT < (largest := values.max()) < _WEIGHT:
            raise InputError(f"weights reach {largest:g}, beyond float32; divide them by their largest")
    return weights


def check_sequence(x: Any, weights: Any = None, name: str = "x") -> tuple[TokensLike, WeightsLike]:
    """`check_tokens` and `check_weights`; where the values are concrete, tokens that count must be finite too.

    Raises InputError, beside what those raise, for NaN, inf and numbers whose squares leave the type of the sums.
    """
    x = check_tokens(x, name)
    weights = check_weights(weights, x.shape[0])
    if is_concrete(x) and is_concrete(weights):
        _check_values(x, None if weights is None else np.asarray(weights) > 0, name)
    return x, weights


def check_batch(
    x: Any, weights: Any = None, name: str = "x", squares: bool = True
) -> tuple[BatchLike, BatchWeightsLike]:
    """`check_sequence` of equally long sequences; one of them may be masked whole.

    `squares` says that their squares must fit the type too. Raises InputError as `check_sequence`.
    """
    if is_concrete(x) and not isinstance(x, jax.Array):
        x = _of_host(x, name)
    if x.ndim != 3 or 0 in x.shape:
        raise InputError(f"{name} must have shape (sequences, tokens, features), none of them 0, got {tuple(x.shape)}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise DtypeError(f"{name} must be floating-point, got {x.dtype}; numbers: x.astype(np.float32)")
    keep = None
    if weights is not None:
        if is_concrete(weights) and not isinstance(weights, jax.Array):
            weights = host_array(weights, "weights")
        if tuple(weights.shape) != tuple(x.shape[:2]):
            raise InputError(f"weights must have shape {tuple(x.shape[:2])}, got {tuple(weights.shape)}")
        if is_concrete(weights):
            values = np.asarray(weights, np.float64)
            if (bad := ~(np.isfinite(values) & (values >= 0))).any():
                raise InputError(f"weights must be finite and >= 0, got {values[bad][0]}")
            keep = values.reshape(-1) > 0
    if is_concrete(x) and is_concrete(weights) and (keep is None or keep.any()):
        _check_values(x.reshape(-1, x.shape[2]), keep, name, squares)
    return x, weights


def _check_values(x: Any, keep: Any, name: str, squares: bool = True) -> None:
    largest = _largest(x, None if keep is None or keep.all() else keep)
    if not np.isfinite(largest):
        finite = np.isfinite(np.asarray(x)).all(1) | (False if keep is None else ~keep)
        raise InputError(f"{name} must be finite, got {int((~finite).sum())} tokens with NaN or inf")
    dtype = jnp.promote_types(jax.dtypes.canonicalize_dtype(x.dtype), jnp.float32)
    reach = float(jnp.finfo(dtype).max) ** 0.4  # squares, and sums of them, stay within the type
    if squares and largest and not 1 / reach < largest < reach:
        size = f"values up to {largest:g}, whose squares are beyond {dtype.name}"
        raise InputError(f"{name} has {size}; divide it by a power of ten")


def _largest(x: Any, keep: np.ndarray | None) -> float:
    """The largest absolute value of the tokens that count; NaN where one of them is."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable and x.devices() == {jax.devices("cpu")[0]}):
        return float(jax.device_get(_largest_there(x, jnp.ones(len(x), bool) if keep is None else jnp.asarray(keep))))
    values = np.asarray(x) if keep is None else np.asarray(x)[keep]
    values = values if values.dtype in (np.float16, np.float32, np.float64) else values.astype(np.float32)
    return float(np.maximum(np.abs(values.max()), np.abs(values.min())))


@jax.jit
def _largest_there(x, keep):
    return jnp.max(jnp.where(keep[:, None], jnp.abs(x), 0)).astype(jnp.float32)


def check_matrix(matrix: Any, name: str) -> Float[Array | np.ndarray, "rows columns"]:
    """A matrix as a NumPy or JAX array of floats; lists, PyTorch tensors and whole numbers are taken.

    Raises InputError unless it has two axes and, where values are concrete, numbers.
    """
    if is_concrete(matrix) and not isinstance(matrix, jax.Array):
        matrix = host_array(matrix, name)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(f"{name} must be a matrix, got shape {tuple(matrix.shape)}")
    return matrix if jnp.issubdtype(matrix.dtype, jnp.floating) else matrix.astype(np.float32)


def token_weights(
    x: Float[Array | np.ndarray, "tokens features"], weights: Shaped[Array | np.ndarray, "tokens"] | None
) -> tuple[Float[Array, "tokens"], Bool[Array, "tokens"]]:
    """Weights in the accumulation type (float32 or wider; ones for None) and which tokens count."""
    dtype = jnp.promote_types(jax.dtypes.canonicalize_dtype(x.dtype), jnp.float32)
    w = jnp.ones(x.shape[0], dtype) if weights is None else jnp.asarray(weights).astype(dtype)
    return w, w > 0


def prepare_tokens(
    x: TokensLike, weights: WeightsLike = None, check_values: bool = True
) -> tuple[Float[Array, "tokens features"], Float[Array, "tokens"]]:
    """Tokens in float32 or wider with masked rows set to 0 by selection, so that NaN there reaches nothing.

    Raises:
        TypeError: `x` is not floating point.
        InputError: wrong shapes; outside `jit` also negative, non-finite or all-zero weights and tokens not finite.
    """
    x, weights = check_sequence(x, weights) if check_values else (check_tokens(x), weights)
    w, keep = token_weights(x, weights)
    x = jnp.asarray(x).astype(w.dtype)
    return (x if weights is None else jnp.where(keep[:, None], x, 0)), w


def safe_ratio(numerator: Array | np.ndarray | np.floating, denominator: Array | np.ndarray | np.floating) -> Array:
    """`numerator / denominator`, and 0 with a finite gradient where the denominator is not positive; NaN stays NaN."""
    nothing = denominator <= 0
    return jnp.where(nothing, 0, numerator / jnp.where(nothing, 1, denominator))


def power_of_four(values: Float[Array, "*k"]) -> Float[Array, ""]:
    """The power of 4 next to the largest size among the values, 1 where all are 0; a division by it is exact."""
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(values)))
    _, exponent = jnp.frexp(largest)
    return jnp.where(largest > 0, jnp.ldexp(jnp.ones_like(largest), jnp.minimum(2 * (exponent // 2), 126)), 1)


def scaled(values: Float[Array, "*k"]) -> tuple[Float[Array, "*k"], Float[Array, ""]]:
    """The values over their `power_of_four`, whose squares neither overflow nor vanish, and that number."""
    scale = power_of_four(values)
    return values / scale, scale


def weighted_mean(values: TokensLike, w: WeightsLike) -> Float[Array, "features"]:
    """Σ w_i x_i / n, corrected by the mean of the deviations from it; rows of weight 0 must be finite.

    A rounded mean of equal numbers is often not that number; this one is, so that a constant does not vary.
    """
    count = jnp.sum(w)
    first = jax.lax.stop_gradient(safe_ratio(jnp.matmul(w, values, precision=HIGHEST), count))
    return first + safe_ratio(jnp.matmul(w, values - first[None], precision=HIGHEST), count)
