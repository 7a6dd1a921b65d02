"""SpliceAI: its layers and its published Keras weights.

One model is one file: a PyTorch state dict of OpenSpliceAI (.pt, read without PyTorch) or a Keras model of the package
`spliceai` (.h5, read by h5py). The number of residual blocks, 1 to 4, tells the context: 80, 400, 2,000 or 10,000 nt.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from covjax.encoders.base import digest_weights, layer_index, nucleotide_ids, pad_rows
from covjax.errors import InputError, shown
from covjax.extras import need
from covjax.modelfiles import read_torch

BLOCKS = ((11, 1), (11, 4), (21, 10), (41, 25))  # kernel width and dilation, 4 residual units each
UNITS = 4
TORCH_EPS, TORCH_SLOPE = 1e-5, 0.1  # batch norm, leaky ReLU; neither is stored in a state dict
LARGEST = 1 << 26  # bytes of a tensor; the largest of the published models has 170 kB


class Weights:
    """Arrays of one file, each taken once under OpenSpliceAI's names; `stored` translates them into the file's."""

    def __init__(
        self,
        file: Path,
        arrays: Mapping[str, np.ndarray],
        blocks: int,
        stored: Callable[[str, str], str],
        axes: tuple[int, int, int],
        eps: float,
        slope: float,
    ):
        if not 1 <= blocks <= len(BLOCKS):
            raise InputError(f"{file}: {blocks} blocks of residual units, expected 1 to {len(BLOCKS)}")
        self.file, self.blocks, self.eps, self.slope = file, blocks, eps, slope
        self._arrays, self._stored, self._axes, self._left = arrays, stored, axes, set(arrays)

    def take(self, part: str, field: str, *shape: int) -> np.ndarray:
        """The array; raises InputError where it is missing or of another shape."""
        name = self._stored(part, field)
        if name not in self._left:
            raise InputError(f"{self.file}: tensor {name} is missing")
        if self._arrays[name].shape != shape:
            raise InputError(f"{self.file}: tensor {name} has shape {self._arrays[name].shape}, expected {shape}")
        if self._arrays[name].dtype.kind not in "fV":  # V: bfloat16
            raise InputError(f"{self.file}: tensor {name} is {self._arrays[name].dtype}, expected floating point")
        self._left.discard(name)
        return self._arrays[name]

    def kernel(self, part: str, *shape: int) -> np.ndarray:
        """A convolution's kernel as (width, inputs, outputs)."""
        stored = [0, 0, 0]
        for size, axis in zip(shape, self._axes):
            stored[axis] = size
        return self.take(part, "weight", *stored).transpose(self._axes)

    def finish(self) -> str:
        """The digest of all arrays; raises InputError where one was not taken."""
        if self._left:
            raise InputError(
                f"{self.file}: unexpected tensor {shown(min(self._left))[1:-1]} ({len(self._left)} in all)"
            )
        return digest_weights(self._arrays)


def read_weights(file: Path) -> Weights:
    """The weights of an .h5 file (Keras) or of any other (PyTorch); raises InputError for what is neither."""
    return _read_keras(file) if file.suffix == ".h5" else _read_torch(file)


def _read_torch(file: Path) -> Weights:
    state = {name: array for name, array in read_state_dict(file).items() if not name.endswith(".num_batches_tracked")}
    units = [int(match[1]) for name in state if (match := re.match(r"residual_units\.(\d{1,3})\.", name))]
    blocks = max(units, default=-1) // (UNITS + 1) + 1
    return Weights(file, state, blocks, "{}.{}".format, (2, 1, 0), TORCH_EPS, TORCH_SLOPE)


def read_state_dict(file: Path) -> dict[str, np.ndarray]:
    """All tensors of a PyTorch state dict; raises InputError as `covjax.modelfiles.read_torch`."""
    return {name: tensor.read() for name, tensor in read_torch(file).items()}


def _read_keras(file: Path) -> Weights:
    h5py = need("h5py", "keras", f"{file}: a Keras model")
    arrays: dict[str, np.ndarray] = {}

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            if item.nbytes > LARGEST:
                raise ValueError(f"{name} is {item.nbytes} bytes")
            arrays[name.split("/", 1)[1]] = item[()]  # the layer's name is there twice

    try:
        with h5py.File(file) as opened:
            layers = json.loads(opened.attrs["model_config"])["config"]["layers"]
            opened["model_weights"].visititems(collect)
        config = {layer["name"]: (layer["class_name"], layer["config"]) for layer in layers}
        (eps,) = {float(layer["epsilon"]) for kind, layer in config.values() if kind == "BatchNormalization"}
        blocks = -(-sum(kind == "BatchNormalization" for kind, _ in config.values()) // (2 * UNITS))
        numbers, dilations = _keras_numbers(blocks)
        _check_keras(file, config, dilations)
    except InputError:
        raise
    except Exception as error:  # a damaged or foreign file: h5py and the look-ups raise many types
        what = shown(str(error), 150)[1:-1]
        raise InputError(f"{file}: not a Keras model of SpliceAI: {type(error).__name__}: {what}") from None
    fields = {"running_mean": "moving_mean", "running_var": "moving_variance"}

    def stored(part: str, field: str) -> str:
        if "batchnorm" in part:
            field = {"weight": "gamma", "bias": "beta"}.get(field, fields.get(field, field))
            return f"batch_normalization_{numbers[part]}/{field}:0"
        return f"conv1d_{numbers[part]}/{'kernel' if field == 'weight' else field}:0"

    return Weights(file, arrays, blocks, stored, (0, 1, 2), eps, 0.0)


def _keras_numbers(blocks: int) -> tuple[dict[str, int], dict[str, int]]:
    """Keras' running numbers of OpenSpliceAI's parts, and the dilation of each Keras convolution."""
    numbers, dilations = {}, {}
    convs = [("initial_conv", 1), ("initial_skip.conv", 1)]
    for block, (_, dilation) in enumerate(BLOCKS[:blocks]):
        first = block * (UNITS + 1)
        for unit in range(first, first + UNITS):
            for i in (1, 2):
                numbers[f"residual_units.{unit}.batchnorm{i}"] = 2 * (unit - block) + i
                convs.append((f"residual_units.{unit}.conv{i}", dilation))
        convs.append((f"residual_units.{first + UNITS}.conv", 1))
    for number, (part, dilation) in enumerate([*convs, ("final_conv", 1)], start=1):
        numbers[part] = number
        dilations[f"conv1d_{number}"] = dilation
    return numbers, dilations


def _check_keras(file: Path, config: Mapping[str, tuple[str, Mapping[str, Any]]], dilations: dict[str, int]) -> None:
    """Refuse a layer whose options differ from those of the published models."""
    expected: dict[str, dict[str, Any]] = {"Activation": {"activation": "relu"}, "BatchNormalization": {"axis": -1}}
    for name, (kind, layer) in config.items():
        options = expected.get(kind, {})
        if kind == "Conv1D":
            activation = "softmax" if name == f"conv1d_{len(dilations)}" else "linear"
            options = {"dilation_rate": [dilations.get(name)], "activation": activation, "strides": [1]}
        for option, value in options.items():
            if layer.get(option) != value:
                raise InputError(f"{file}: {name}: {option} is {layer.get(option)!r}, expected {value!r}")


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
        self, rows: Sequence[Int[np.ndarray, "_"]], length: int
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

    has_head = True

    def objective(
        self,
        tokens: Int[np.ndarray, "b t"],
        mask: Bool[np.ndarray, "b t"],
        pool: Bool[np.ndarray, "b t"],
        rng: np.random.Generator,
    ) -> tuple[Int[np.ndarray, "b t"], Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """The class that the model itself gives every base: sites need annotations; see `HeadedEncoder`."""
        return tokens, np.asarray(self.scores(tokens, mask)).argmax(-1).astype(np.int32), pool

    def logits(
        self, activations: Float[Array | np.ndarray, "b t d"], mask: Bool[np.ndarray, "b t"], layer: int
    ) -> Float[Array, "b t classes"]:
        """Of `CLASSES`, from the last layer alone; see `HeadedEncoder`.

        Raises InputError for another layer: the head reads sums around it.
        """
        if layer != self.num_layers - 1:
            raise InputError(f"layer: {layer}: the head of {self.name} reads layer {self.num_layers - 1} alone")
        return self.output(jnp.asarray(activations, self.dtype)).astype(jnp.float32)

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
