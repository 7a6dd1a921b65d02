"""AuxK: dead latents learn from what the live ones leave over (Gao et al. 2024, section A.2)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from covjax.autoencoders.sparse.codes import affine_at, decode_codes, top_k


def auxk(
    residual: Float[Array, "tokens features"],
    x: Float[Array, "tokens features"],
    encoder: Float[Array, "latents features"],
    bias: Float[Array, "latents"],
    pre: Float[Array, "tokens latents"],
    decoder: Float[Array, "latents features"],
    dead: Bool[Array, "latents"],
    k: int,
) -> Float[Array, "tokens"]:
    """‖e − ê‖² of every token, ê from its k largest dead latents; 0 where none is dead.

    Args:
        residual: e = x − x̂ of the live latents; a constant to the gradient.
        x: what the encoder sees, its pre-activations being `pre` = x encoderᵀ + bias.
        encoder, bias, pre, decoder: of the autoencoder; the gradient goes to all but `pre`, through k latents a token.
        dead: which latents are dead.
        k: latents used for a token, at most those that are dead and positive there.
    """

    def error():
        _, indices = top_k(jnp.where(dead, pre, -jnp.inf), k)
        values = jax.nn.relu(jnp.where(dead[indices], affine_at(x, encoder, bias, pre, indices), 0))
        return jnp.sum(jnp.square(residual - decode_codes(values, indices, decoder)), axis=1)

    residual, pre = jax.lax.stop_gradient((residual, pre))
    return jax.lax.cond(jnp.any(dead), error, lambda: jnp.zeros(x.shape[0], x.dtype))
