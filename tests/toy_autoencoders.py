"""What the tests of training run: small activations, the page's example, an autoencoder that draws random numbers.

`python -m tests.toy_autoencoders OUTPUT STEPS SAVE_EVERY` trains the latter; the kill test starts and kills it.
"""

import re
import sys

import jax
import numpy as np
from flax import nnx

from covjax.activations.windows import HeldActivations, join
from covjax.autoencoders import TuckerAutoencoder, register_autoencoder
from covjax.training.autoencoder import train_autoencoder
from covjax.training.config import AutoencoderConfig
from tests.doc_pages import ROOT

PAGE = ROOT / "docs" / "write-your-own-autoencoder.md"
EXAMPLE = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)[0]
exec(EXAMPLE, {})


@register_autoencoder("noisy-tucker")
class NoisyTucker(TuckerAutoencoder):
    """Denoising: its loss sees tokens with noise, and its state holds a counter and a random key."""

    def __init__(self, features, *, rank=4, seed=0):
        super().__init__(features, rank=rank, center="data", standardise=True, seed=seed)
        self.rngs = nnx.Rngs(noise=jax.random.key(seed, impl="unsafe_rbg"))  # compiles fast
        self.seen = nnx.Variable(jax.numpy.zeros((), int))

    def loss(self, x, weights=None):
        key = jax.random.fold_in(self.rngs.noise.key[...], self.seen[...])
        return super().loss(x + 0.1 * jax.random.uniform(key, x.shape), weights)

    def after_step(self, x, weights=None):
        self.seen[...] += x.shape[0]


class Unheld:
    """Activations as those of a store, which are read when they are needed unless they fit into memory."""

    def __init__(self, held: HeldActivations):
        self.features, self.lengths, self.identity, self.read = held.features, held.lengths, held.identity, held.read


def activations(seed: int = 0, count: int = 40, features: int = 12) -> HeldActivations:
    """Sequences of 3 … 60 tokens out of three subspaces."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(3, 6, features))
    lengths = rng.integers(3, 60, count)
    arrays = [(rng.normal(size=(n, 6)) @ mixing[i % 3]).astype(np.float32) for i, n in enumerate(lengths)]
    return join(arrays, {"toy": seed})


def config(output, **changes) -> AutoencoderConfig:
    """A run of seconds."""
    settings = {
        "output": str(output),
        "store": "toy",
        "kind": "noisy-tucker",
        "steps": 12,
        "batch": 8,
        "learning_rate": 1e-2,
        "warmup": 2,
        "init_batches": 2,
        "max_shapes": 1,
        "save_every": 4,
        "evaluate_every": 6,
        "log_every": 1,
    }
    return AutoencoderConfig(**(settings | changes))


if __name__ == "__main__":
    train_autoencoder(config(sys.argv[1], steps=int(sys.argv[2]), save_every=int(sys.argv[3])), activations())
