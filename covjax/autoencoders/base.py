"""What the training loop asks of an autoencoder: one file with a module and its loss is a new architecture."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

Metrics = Mapping[str, Float[Array, ""]]


@runtime_checkable
class Autoencoder(Protocol):
    """A Flax NNX module that `covjax.training.autoencoder` can train.

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


@runtime_checkable
class Initialised(Protocol):
    """An autoencoder that looks at data before its first step: a scale, a geometric median, a basis."""

    def initialise(self, batches: Sequence[tuple[Array, Array | None]]) -> None:
        """Set parameters and statistics in place from some training batches (x, weights); called outside `jit`."""


@runtime_checkable
class Evaluated(Protocol):
    """An autoencoder with figures of its own for held-out data, which may not depend on how the data is batched.

    Without these methods the loop averages the metrics of `loss` over the batches.
    """

    def evaluate(self, x: Array, weights: Array | None = None) -> Any:
        """Sums over the examples of a batch, a pytree of arrays; those of several batches are added."""

    def summarise(self, sums: Any) -> Mapping[str, float]:
        """The figures of a data set from its sums."""
