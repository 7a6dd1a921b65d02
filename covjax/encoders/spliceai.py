"""SpliceAI (Jaganathan et al. 2019) and OpenSpliceAI (Chao et al. 2025): a dilated residual CNN over nucleotides.

One model is one file: a PyTorch state dict of OpenSpliceAI (.pt, read without PyTorch) or a Keras model of the package
`spliceai` (.h5, read by h5py). The number of residual blocks, 1 to 4, tells the context: 80, 400, 2,000 or 10,000 nt.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from covjax.encoders.base import layer_index, nucleotide_ids, pad_rows
from covjax.encoders.spliceai_weights import BLOCKS, UNITS, Weights, read_weights
from covjax.errors import InputError

LETTERS = {"A": 0, "C": 1, "G": 2, "T": 3, "N": 4}
CLASSES = ("neither", "acceptor", "donor")
CHANNELS = 32


class Conv(nnx.Module):
    """A dilated convolution without padding: y_t = Σ_k x_{t + k·dilation} W_k + b. Products add up in float32."""

    def __init__(self, weights: Weights, part: str, width: int, outputs: int, dtype: Any, dilation: int = 1):
        inputs = 4 if part == "initial_conv" else CHANNELS
        self.kernel = nnx.Param(jnp.asarray(weights.kernel(part, width, inputs, outputs), dtype))
        self.bias = nnx.Param(jnp.asarray(weights.take(part, "bias", outputs), dtype))
        self.dilation = dilation

    def __call__(self, x: Float[Array, "b t inputs"]) -> Float[Array, "b t2 outputs"]:
        """Shorter by (width − 1)·dilation."""
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...],
            (1,),
            "VALID",
            rhs_dilation=(self.dilation,),
            dimension_numbers=("NWC", "WIO", "NWC"),
            preferred_element_type=jnp.float32,
        )
        return (y + self.bias[...]).astype(x.dtype)


class Norm(nnx.Module):
    """Batch norm with the stored statistics, folded into one scale and one shift, then the (leaky) ReLU."""

    def __init__(self, weights: Weights, part: str, dtype: Any):
        fields = ("weight", "bias", "running_mean", "running_var")
        scale, shift, mean, variance = (weights.take(part, field, CHANNELS).astype(np.float64) for field in fields)
        if not (variance + weights.eps > 0).all():
            raise InputError(f"{weights.file}: tensor {part}.running_var holds {variance.min()}, expected variances")
        scale = scale / np.sqrt(variance + weights.eps)
        self.scale = nnx.Param(jnp.asarray(scale, dtype))
        self.shift = nnx.Param(jnp.asarray(shift - mean * scale, dtype))
        self.slope = weights.slope

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Element by element."""
        return jax.nn.leaky_relu(x * self.scale[...] + self.shift[...], self.slope)


class ResidualUnit(nnx.Module):
    """x + conv(norm(conv(norm(x)))), without padding: shorter by `margin` on each side."""

    def __init__(self, weights: Weights, part: str, width: int, dilation: int, dtype: Any):
        self.norms = nnx.List(Norm(weights, f"{part}.batchnorm{i}", dtype) for i in (1, 2))
        self.convs = nnx.List(
            Conv(weights, f"{part}.conv{i}", width, CHANNELS, dtype, dilation=dilation) for i in (1, 2)
        )
        self.margin = (width - 1) * dilation

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t2 d"]:
        """One unit."""
        y = x
        for norm, conv in zip(self.norms, self.convs):
            y = conv(norm(y))
        return _crop(x, self.margin) + y


class SpliceAI(nnx.Module):
    """The frozen encoder (see `covjax.encoders.Encoder`).

    Layer 0 is the first convolution, layer i the output of residual unit i, the last one (−1) the sum of the skip
    connections: the 32 features per base from which the output convolution reads the classes. Outside its letters a
    sequence continues as N (all-zero one-hot), `context` / 2 on each side or more, as its authors pad: so neither the
    length of a batch nor the zeros that a convolution adds at a border reach a base.
    """

    letters = "dna"

    def __init__(self, name: str, file: Path, dtype: Any = jnp.float32):
        weights = read_weights(file)
        self.name, self.dtype = name, jnp.dtype(dtype)
        self.num_layers = UNITS * weights.blocks + 2
        self.initial = Conv(weights, "initial_conv", 1, CHANNELS, dtype)
        skips = [Conv(weights, "initial_skip.conv", 1, CHANNELS, dtype)]
        units = []
        for block, (width, dilation) in enumerate(BLOCKS[: weights.blocks]):
            first = block * (UNITS + 1)
            for i in range(first, first + UNITS):
                units.append(ResidualUnit(weights, f"residual_units.{i}", width, dilation, dtype))
            skips.append(Conv(weights, f"residual_units.{first + UNITS}.conv", 1, CHANNELS, dtype))
        self.units, self.skips = nnx.List(units), nnx.List(skips)
        self.output = Conv(weights, "final_conv", 1, len(CLASSES), dtype)
        self.context = 2 * sum(unit.margin for unit in units)
        self.weights_digest = weights.finish()

    def features(self, layer: int) -> int:
        """Width of one token: 32 channels at every layer."""
        layer_index(layer, self.num_layers)
        return CHANNELS

    def encode(self, sequence: str) -> Int[np.ndarray, "t"]:
        """One token per nucleotide, no special ones; lower case is read as upper case, N is any nucleotide.

        Raises InputError naming the first other letter, IUPAC's ambiguity codes among them, and its position, counted
        from 1, and for an empty sequence.
        """
        return nucleotide_ids(sequence, LETTERS)

    def pad(
        self, rows: Sequence[Int[np.ndarray, "t"]], length: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """N behind the sequence; an N inside it is pooled like any letter."""
        tokens, mask = pad_rows(rows, length, LETTERS["N"])
        return tokens, mask, mask

    def apply(
        self, tokens: Int[np.ndarray, "b t"], mask: Bool[np.ndarray, "b t"], layers: tuple[int, ...]
    ) -> dict[int, Float[Array, "b t d"]]:
        """Features of the asked layers, jitted; masked positions are N to their neighbours, and zero in the result."""
        numbers = {layer: layer_index(layer, self.num_layers) for layer in layers}
        found = _apply(*nnx.split(self), tokens, mask, tuple(sorted(set(numbers.values()))))
        return {layer: found[number] for layer, number in numbers.items()}

    def scores(self, tokens: Int[np.ndarray, "b t"], mask: Bool[np.ndarray, "b t"]) -> Float[Array, "b t 3"]:
        """Probabilities of `CLASSES` for every base, float32; zero where the mask is."""
        return _scores(*nnx.split(self), tokens, mask)

    def hidden_states(
        self, tokens: Int[Array, "b t"], mask: Bool[Array, "b t"], layers: Sequence[int]
    ) -> dict[int, Float[Array, "b t d"]]:
        """The asked layers, counted from 0; a pure function of the arguments and the parameters."""
        bases = jax.nn.one_hot(jnp.where(mask, tokens, LETTERS["N"]), 4, dtype=self.dtype)
        margin = self.context // 2
        x = self.initial(jnp.pad(bases, ((0, 0), (margin, margin), (0, 0))))
        found, last = {0: _crop(x, margin)}, self.num_layers - 1
        features = self.skips[0](found[0])
        for i, unit in enumerate(self.units, start=1):
            x, margin = unit(x), margin - unit.margin
            if i in layers:
                found[i] = _crop(x, margin)
            if i % UNITS == 0 and last in layers:
                features = features + self.skips[i // UNITS](_crop(x, margin))
        found[last] = features
        return {i: jnp.where(mask[..., None], found[i], 0) for i in layers}


def _crop(x: Float[Array, "b t d"], margin: int) -> Float[Array, "b t2 d"]:
    return x[:, margin : x.shape[1] - margin]


@functools.partial(jax.jit, static_argnums=(0, 4))
def _apply(graph: Any, state: Any, tokens: Array, mask: Array, layers: tuple[int, ...]) -> dict[int, Array]:
    return nnx.merge(graph, state).hidden_states(tokens, mask, layers)


@functools.partial(jax.jit, static_argnums=0)
def _scores(graph: Any, state: Any, tokens: Array, mask: Array) -> Array:
    model = nnx.merge(graph, state)
    last = model.num_layers - 1
    logits = model.output(model.hidden_states(tokens, mask, (last,))[last])
    return jnp.where(mask[..., None], jax.nn.softmax(logits.astype(jnp.float32), -1), 0)
