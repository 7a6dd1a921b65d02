"""A masked language model as the training loop sees it, its counting rivals, and the way back to a published folder."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Int8

from covjax.encoders.weights import AskedTensors

FILES = ("config.json", "vocab.txt", "model.safetensors")  # of an encoder's folder; some kinds have no vocab.txt


class MaskedModel(nnx.Module):
    """An encoder with a head that names hidden tokens; a pure loss of a `covjax.training.kinds.Batch`.

    `dtype` is that of the computation; parameters keep their own.
    """

    examples = "sequences"

    def __init__(self, encoder: Any, dtype: Any):
        self.encoder, self.dtype = encoder, jnp.dtype(dtype)

    def loss(
        self, x: Int[Array, "b 4 t"], weights: Float[Array, "b t"]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Weighted mean of −log p of the hidden tokens, in nats, and the share of them that are named right."""
        nats, right = self._tokens(x)
        total = jnp.maximum(weights.sum(), jnp.finfo(jnp.float32).tiny)
        loss = (nats * weights).sum() / total
        return loss, {"nats": loss, "accuracy": (right * weights).sum() / total}

    def evaluate(self, x: Int[Array, "b 4 t"], weights: Float[Array, "b t"]) -> Float[Array, "2 3"]:
        """Sums of nats, of tokens named right and of weights, outside regions and in them."""
        nats, right = self._tokens(x)
        inside = x[:, 2]
        parts = jnp.stack([nats, right, jnp.ones_like(nats)]) * weights
        return jnp.stack([(parts * (inside == side)).sum((1, 2)) for side in (0, 1)])

    def summarise(self, sums: Float[Any, "2 3"]) -> Mapping[str, float]:
        """Nats and accuracy over all held-out tokens."""
        nats, right, count = np.asarray(sums, np.float64).sum(0)
        return {"nats": float(nats / count), "accuracy": float(right / count)}

    def project_gradients(self, gradients: Any) -> Any:
        """The gradients as they are."""
        return gradients

    def after_step(self, x: Array, weights: Array | None = None) -> None:
        """Nothing is kept beside the parameters."""

    def _tokens(self, x: Int[Array, "b 4 t"]) -> tuple[Float[Array, "b t"], Float[Array, "b t"]]:
        graph, state = nnx.split(self.encoder)
        encoder = nnx.merge(graph, jax.tree.map(lambda leaf: leaf.astype(self.dtype), state))
        sequences = x[:, 3] if getattr(encoder, "packs", False) else x[:, 3] > 0
        logits = encoder.token_logits(x[:, 0], sequences)
        chances = jax.nn.log_softmax(logits)
        nats = -jnp.take_along_axis(chances, x[:, 1, :, None], -1)[..., 0]
        return nats, (logits.argmax(-1) == x[:, 1]).astype(jnp.float32)


def initial_weights(seed: int) -> Callable[[str, tuple[int, ...]], np.ndarray]:
    """What a training starts from: `draw` of `AskedTensors`.

    Biases are 0, scales of norms 1, matrices normal with variance 1 / inputs, embeddings normal with deviation 0.02.
    """
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) == 1:
            return np.full(shape, float(name.endswith("weight")))
        scale = 0.02 if "embed" in name else np.prod(shape[1:]) ** -0.5
        return rng.normal(size=shape) * scale

    return draw


def named_tensors(make: Callable[[AskedTensors], nnx.Module], model: nnx.Module) -> dict[str, np.ndarray]:
    """The parameters of a model under the names and in the shapes of its published layout.

    make: builds a model of the same kind from tensors. It is called with tensors whose numbers are their places, so
        that a parameter tells where each of its numbers belongs, however the model turns and joins what it reads.
    """
    shapes, low = _places(make, lambda place: place % _EXACT)
    _, high = _places(make, lambda place: place // _EXACT)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    flat = np.full(ends[-1], np.nan, np.float32)
    for rest, multiple, values in zip(low, high, jax.tree.leaves(nnx.state(model, nnx.Param)), strict=True):
        flat[multiple * _EXACT + rest] = np.asarray(values, np.float32)
    if np.isnan(flat).any():
        raise ValueError("a parameter of the layout is not in the model, or is NaN")
    parts = np.split(flat, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


_EXACT = 2**24  # float32 counts to it without gaps


def _places(
    make: Callable[[AskedTensors], nnx.Module], part: Callable[[np.ndarray], np.ndarray]
) -> tuple[dict[str, tuple[int, ...]], list[np.ndarray]]:
    """The shapes of all tensors, and for every parameter a part of the places of its numbers among these tensors."""
    size = 0

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        nonlocal size
        start, size = size, size + int(np.prod(shape))
        return part(np.arange(start, size)).reshape(shape)

    tensors = AskedTensors(draw, np.float32)
    leaves = jax.tree.leaves(nnx.state(make(tensors), nnx.Param))
    return tensors.shapes, [np.asarray(leaf).astype(np.int64) for leaf in leaves]


def save_folder(folder: Path, files: Mapping[str, str], tensors: Mapping[str, np.ndarray], dtype: Any) -> None:
    """Write the texts of `files` and model.safetensors, as `covjax.encoders.load` reads them."""
    from safetensors.numpy import save_file

    write_texts(folder, files)
    arrays = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    save_file(arrays, folder / FILES[-1], metadata={"format": "pt"})  # without it older transformers refuse the file


def write_texts(folder: Path, files: Mapping[str, str]) -> None:
    """The folder with these files, by their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


class TwoSided:
    """p(letter | k letters on each side), from counts, smoothed by the same model with one letter fewer.

    p_k = (count + strength · p_{k−1}) / (total + strength), p_{−1} equal for all letters; smoothing as by a Dirichlet
    prior (MacKay and Peto 1995). Contexts with an unknown letter are not counted.

    Args:
        records: codes of sequences, 0 … letters − 1; `letters` stands for an unknown one.
        letters: how many there are.
        most: k of the largest model.
    """

    def __init__(self, records: Iterable[Int8[np.ndarray, "_"]], letters: int, most: int):
        self.letters = letters
        self.counts = [np.zeros((letters ** (2 * k), letters)) for k in range(most + 1)]
        for codes in records:
            for k, table in enumerate(self.counts):
                middle = np.arange(k, max(len(codes) - k, k))
                context, known = self._context(codes, middle, k)
                flat = context * letters + np.minimum(codes[middle], letters - 1)
                flat = flat[known & (codes[middle] != letters)]
                table += np.bincount(flat, minlength=table.size).reshape(table.shape)

    def chances(
        self, codes: Int[np.ndarray, "t"], places: Int[np.ndarray, "m"], strength: float
    ) -> Float[np.ndarray, "orders m letters"]:
        """p of every letter at every place, for k = 0, 1, …; where a neighbour is unknown, that of k − 1.

        Places have `most` neighbours on each side.
        """
        p, orders = np.full((len(places), self.letters), 1 / self.letters), []
        for k, table in enumerate(self.counts):
            context, known = self._context(codes, places, k)
            counts = table[np.where(known, context, 0)] * known[:, None]
            p = (counts + strength * p) / (counts.sum(1, keepdims=True) + strength)
            orders.append(p)
        return np.stack(orders)

    def _context(
        self, codes: Int[np.ndarray, "t"], places: Int[np.ndarray, "m"], k: int
    ) -> tuple[Int[np.ndarray, "m"], Bool[np.ndarray, "m"]]:
        context, known = np.zeros(len(places), np.int64), np.ones(len(places), bool)
        for offset in (*range(-k, 0), *range(1, k + 1)):
            letter = codes[places + offset].astype(np.int64)
            known &= letter != self.letters
            context = context * self.letters + np.minimum(letter, self.letters - 1)
        return context, known
