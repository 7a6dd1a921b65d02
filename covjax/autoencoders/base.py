"""What the training loop asks of an autoencoder: one file with a module and its loss is a new architecture."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

Metrics = Mapping[str, Float[Array, ""]]


@runtime_checkable
class Autoencoder(Protocol):
    """A Flax NNX module that `train.autoencoder` can train.

    `examples` says what one training example is: "tokens" (x is (batch, features)) or "sequences" (x is
    (batch, tokens, features) with weights (batch, tokens), 0 on padding).
    """

    examples: str

    def loss(self, x: Array, weights: Array | None = None) -> tuple[Float[Array, ""], Metrics]:
        """Training loss, differentiable by the `nnx.Param`s, and scalars to log (fvu, l0, dead, …)."""

    def project_gradients(self, gradients: Any) -> Any:
        """Change the gradients (an `nnx.State` of the parameters) before the optimiser sees them."""

    def after_step(self, x: Array, weights: Array | None = None) -> None:
        """Update what is no parameter (thresholds, counters, norms) from the batch just trained on, in place."""
