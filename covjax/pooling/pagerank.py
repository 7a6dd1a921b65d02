"""Token weights from attention maps, for any pooler that takes weights: the PageRank of Pool PaRTI."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.inputs import is_concrete
from covjax.tokens import HIGHEST, MatrixLike, WeightsLike, check_matrix, check_weights, safe_ratio

STEPS = 100  # of the power iteration: 0.85¹⁰⁰ is 9e-8


def pagerank_weights(
    attention: MatrixLike, mask: WeightsLike = None, pool: WeightsLike = None, damping: float = 0.85
) -> Float[Array, "tokens"]:
    """Weights of the tokens of one sequence, adding up to 1, by PageRank over its attention (Tartici et al. 2025).

    Pool PaRTI takes the largest share over heads and layers of a query's attention to a key as the weight of the edge
    from query to key. `get_pooler("mean")(x, pagerank_weights(…))` is its pool; other poolers weigh tokens alike.

    Args:
        attention: (queries, keys), >= 0, such as `maps[layer].max(1)[i]` of `encoder.apply(…, attention=True)`, and
            `jnp.maximum` of those of several layers. Rows need not add up to 1.
        mask: the tokens that the encoder saw, special tokens among them; None: all. Others may hold anything.
        pool: the tokens that get a weight; None: those of `mask`. Others have a rank, but no part in what is returned.
        damping: the chance to follow an edge rather than to jump to any token, in [0, 1).

    Raises:
        InputError: not square, mask or pool of another length, damping out of range; outside `jit` also attention that
            is negative, NaN or inf among the tokens of `mask`, or no token.
    """
    attention = jnp.asarray(check_matrix(attention, "attention"))
    tokens = len(attention)
    if attention.shape[1] != tokens:
        raise InputError(f"attention must be square, (queries, keys), got {attention.shape}")
    if not 0 <= damping < 1:
        raise InputError(f"damping must lie in [0, 1), got {damping}")
    seen = jnp.ones(tokens, bool) if mask is None else jnp.asarray(check_weights(mask, tokens)) > 0
    pooled = seen if pool is None else seen & (jnp.asarray(check_weights(pool, tokens)) > 0)
    edges = jnp.where(seen[:, None] & seen[None], attention.astype(jnp.promote_types(attention.dtype, jnp.float32)), 0)
    if is_concrete(edges) and is_concrete(pooled):
        if not bool(jnp.all(jnp.isfinite(edges) & (edges >= 0))):
            raise InputError("attention must be finite and >= 0 among the tokens of mask")
        if not bool(pooled.any()):
            raise InputError("pool must have a token of mask: there is none to give a weight")
    jump = safe_ratio(seen.astype(edges.dtype), jnp.sum(seen))
    total = jnp.sum(edges, axis=1, keepdims=True)
    shares = jnp.where(total > 0, safe_ratio(edges, total), jump[None])  # who attends to nobody jumps

    def step(_, rank):
        return damping * jnp.matmul(rank, shares, precision=HIGHEST) + (1 - damping) * jnp.sum(rank) * jump

    rank = jnp.where(pooled, jax.lax.fori_loop(0, STEPS, step, jump), 0)
    return safe_ratio(rank, jnp.sum(rank))
