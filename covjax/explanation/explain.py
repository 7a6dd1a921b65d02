"""`covjax.explain`: contributions of tokens and of directions to the score of a comparison's model, as arrays."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from covjax.activations import ArrayTokens
from covjax.comparison.model import Model
from covjax.embedding.fitted import FittedRecipe
from covjax.errors import InputError, shown
from covjax.explanation.blocks import Block, make_blocks
from covjax.explanation.contributions import PARTS, contributions, pooled, score, statistic
from covjax.probes import LinearProbe


@dataclasses.dataclass(frozen=True)
class Direction:
    """An eigen-direction v of a label's W, or the only direction of a block without a matrix.

    `share` is the covariance of its part of the score, λ vᵀ f(S) v, with the score over the variance of the score:
    those of all directions of all blocks sum to 1. `average` is that part's mean over the sequences.
    """

    block: int
    place: int  # among the block's, counted from 0
    eigenvalue: float
    vector: Float[np.ndarray, "d"]
    share: float
    average: float


@dataclasses.dataclass(frozen=True)
class LatentTerm:
    """What one latent of a sparse autoencoder, or two together, add to a label's score.

    `latents` are their numbers: one where the latent's mean is pooled, two where their mean product is. `values` is
    that mean times `weight`, for every sequence. `share` is its covariance with the score over the score's variance.
    """

    block: int
    latents: tuple[int, ...]
    weight: float
    share: float
    values: Float[np.ndarray, "n"]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Scores of n sequences for k labels, and the contributions that add up to them, in float64.

    `scores` (n, k) are those of the probe: log odds or logits of a logistic one. For every sequence and label the score
    is the sum of `bias`, `constant`, `tokens` over tokens and parts, and `residual`. `tokens` has one array
    (tokens, k, 3) a sequence, its parts those of `PARTS`: mean, variance, co-occurrence. `constant` is what belongs to
    no token, `residual` what an integrated path misses; both are 0 for pools that are linear in M, Σ or the mean.
    `axes` holds for every block the eigenvalues (k, r) and the eigenvectors, in columns, (k, d, r) of each label's W
    (r = d; of a block without a matrix the one direction of its weights, r = 1), and `along` what every sequence's
    score has of each, (n, k, r): λ vᵀ f(S) v. `moments` holds for every block of a sparse autoencoder's latents their
    means, or the mean products of the recipe's pairs, (n, terms), None for other blocks; `latent_terms` reads them.
    """

    labels: tuple[str, ...]
    blocks: tuple[Block, ...]
    bias: Float[np.ndarray, "k"]
    scores: Float[np.ndarray, "n k"]
    constant: Float[np.ndarray, "n k"]
    residual: Float[np.ndarray, "n k"]
    tokens: tuple[Float[np.ndarray, "_ k 3"], ...]
    axes: tuple[tuple[np.ndarray, np.ndarray], ...]
    along: tuple[Float[np.ndarray, "n k _"], ...]
    moments: tuple[Float[np.ndarray, "n _"] | None, ...]

    @property
    def contributions(self) -> list[Float[np.ndarray, "_ k"]]:
        """What every token adds to the score of every label: one array (tokens, k) per sequence."""
        return [tokens.sum(2) for tokens in self.tokens]

    @property
    def parts(self) -> Float[np.ndarray, "n k 3"]:
        """The parts of every score that come from mean, variance and co-occurrence."""
        return np.stack([tokens.sum(0) for tokens in self.tokens])

    def shares(self, label: int) -> dict[str, float]:
        """The share of every part: its covariance with the score over the score's variance; the shares sum to 1.

        A part with a negative share works against the others. The last two parts are the constant and the residual.
        """
        columns = [*self.parts[:, label].T, self.constant[:, label], self.residual[:, label]]
        values = [covariance_share(column, self.scores[:, label]) for column in columns]
        return dict(zip((*PARTS, "constant", "residual"), values, strict=True))

    def directions(self, label: int, count: int | None = None) -> list[Direction]:
        """The `count` directions of a label's weights with the largest absolute shares, largest first."""
        out: list[Direction] = []
        for number, ((values, vectors), along) in enumerate(zip(self.axes, self.along, strict=True)):
            for place, term in enumerate(along[:, label].T):
                share = covariance_share(term, self.scores[:, label])
                vector, value = vectors[label, :, place], float(values[label, place])
                out.append(Direction(number, place, value, vector, share, float(term.mean())))
        out.sort(key=lambda each: -abs(each.share))
        return out[:count]

    def latent_terms(self, label: int, count: int | None = None) -> list[LatentTerm]:
        """Latents, or pairs of them, with the largest shares (in size) of a label's score first; `count` of them.

        Empty for a recipe without a sparse autoencoder. The terms of a block sum to its part of the score.
        """
        out: list[LatentTerm] = []
        for number, (block, moments) in enumerate(zip(self.blocks, self.moments, strict=True)):
            if block.latents is None or moments is None:
                continue
            weights = block.latents.weights(block.weights)[label]
            values = moments * weights
            shares = [covariance_share(column, self.scores[:, label]) for column in values.T]
            for place in np.argsort(-np.abs(shares), kind="stable")[:count]:
                name, weight, share = block.latents.names[place], float(weights[place]), shares[place]
                out.append(LatentTerm(number, name, weight, share, values[:, place]))
        out.sort(key=lambda each: -abs(each.share))
        return out[:count]


def covariance_share(part: Float[np.ndarray, "n"], whole: Float[np.ndarray, "n"]) -> float:
    """Covariance of a part with the whole over the variance of the whole; NaN where that does not vary."""
    deviation = whole - whole.mean()
    square = float(deviation @ deviation)
    return float((part - part.mean()) @ deviation) / square if square > 0 else float("nan")


def explain(
    model: Model | str | os.PathLike[str],
    X: Any,
    *,
    labels: Sequence[str] = (),
    reference: Any = None,
    encoder: Any = None,
) -> Explanation:
    """Decompose the scores that a comparison's model gives to sequences or activations.

    Args:
        model: a `Model` (`Comparison.best()`), or the folder `model/` that `covjax compare` wrote.
        X: sequences or activations, as `Embedder.transform` takes them.
        labels: names of the model's labels to explain; all by default.
        reference: the training sequences or activations. For log(Σ+εI) the path starts at their mean covariance; by
            default X. Other recipes do not use it.
        encoder: where the encoder is now, if the folder's own name for it cannot be loaded.

    Raises InputError for a model of pairs, an unknown label, a recipe that cannot be explained (the message names those
    that can), and as `Embedder.transform` does.
    """
    model = model if isinstance(model, Model) else Model.load(Path(model), encoder)
    blocks, bias, names = model_blocks(model, labels)
    fitted, tokens = model.embedder.fitted_, model.embedder.tokens(X)
    starts = _starts(blocks, fitted, tokens if reference is None else model.embedder.tokens(reference))
    spread = _spread(blocks, fitted, tokens) if any(start is not None for start in starts) else None
    n, k = len(tokens), len(names)
    scores, constant, residual = np.tile(bias, (n, 1)), np.zeros((n, k)), np.zeros((n, k))
    parts: list[np.ndarray] = [np.zeros((0, k, 3))] * n
    axes = tuple(map(_axes, blocks))
    along = tuple(np.zeros((n, k, values.shape[1])) for values, _ in axes)
    moments = tuple(None if each.latents is None else np.zeros((n, len(each.latents.names))) for each in blocks)
    for row, z in each_sequence(fitted, tokens, "explain"):
        parts[row] = np.zeros((len(z), k, 3))
        for number, (block, start) in enumerate(zip(blocks, starts)):
            each = contributions(block, block.project(z), start, spread)
            parts[row] += each.tokens
            constant[row] += each.constant
            residual[row] += each.residual
            scores[row] += score(block, each.pooled)
            along[number][row] = _along(each.pooled, *axes[number])
            if block.latents is not None and (table := moments[number]) is not None:
                table[row] = block.latents.moments(each.pooled)
    return Explanation(names, blocks, bias, scores, constant, residual, tuple(parts), axes, along, moments)


def model_blocks(
    model: Model, labels: Sequence[str] = ()
) -> tuple[tuple[Block, ...], Float[np.ndarray, "k"], tuple[str, ...]]:
    """Blocks, bias and names of a model's chosen labels; InputError as `explain`."""
    if model.pair is not None:
        raise InputError("model: it is of pairs of sequences; explain takes models of single sequences")
    if isinstance(labels, str):
        raise InputError(f"labels: {shown(labels)} is one text; give a list of names")
    if odd := [name for name in labels if name not in model.labels]:
        raise InputError(f"labels: {shown(odd[0])} is none of the model's: {shown(', '.join(model.labels), 400)}")
    names = tuple(dict.fromkeys(labels)) or model.labels
    columns = [model.labels.index(name) for name in names]
    probe = LinearProbe(np.asarray(model.probe.weights)[:, columns], np.asarray(model.probe.bias)[columns])
    return (*make_blocks(model.embedder.fitted_, probe), names)


def each_sequence(
    fitted: FittedRecipe, tokens: ArrayTokens, stage: str
) -> Iterator[tuple[int, Float[np.ndarray, "t d"]]]:
    """Row numbers and standardised tokens, float64, those of weight 0 left out; in the order of a walk."""
    mean, deviation = fitted.fit
    for batch in tokens.walk(stage):
        for place, row in enumerate(batch.rows):
            x = np.asarray(batch.tokens[place], np.float64)[np.asarray(batch.weights[place]) > 0]
            yield int(row), (x - mean) / deviation


def _axes(block: Block) -> tuple[Float[np.ndarray, "k r"], Float[np.ndarray, "k d r"]]:
    """Eigenvalues and eigenvectors of every label's W; of weights on a vector their length and direction."""
    if block.is_matrix:
        values, vectors = np.linalg.eigh(block.weights)
        return values, vectors
    length = np.linalg.norm(block.weights, axis=1, keepdims=True)
    return length, (block.weights / np.where(length > 0, length, 1))[..., None]


def _along(
    features: Float[np.ndarray, "*shape"], values: Float[np.ndarray, "k r"], vectors: Float[np.ndarray, "k d r"]
) -> Float[np.ndarray, "k r"]:
    """What a block's score has of every direction; the sum over these is the score."""
    if features.ndim == 1:
        return values * (features @ vectors)
    return values * ((features @ vectors) * vectors).sum(1)


def _starts(blocks: Sequence[Block], fitted: FittedRecipe, tokens: ArrayTokens) -> list[np.ndarray | None]:
    """For every block with a logarithm the mean of the sequences' matrices."""
    places = [place for place, block in enumerate(blocks) if block.spectral == "log"]
    sums: list[Any] = [0.0 if place in places else None for place in range(len(blocks))]
    if places:
        for _, z in each_sequence(fitted, tokens, "reference"):
            for place in places:
                sums[place] = sums[place] + statistic(blocks[place], blocks[place].project(z)) / len(tokens)
    return sums


def _spread(blocks: Sequence[Block], fitted: FittedRecipe, tokens: ArrayTokens) -> Float[np.ndarray, "k"]:
    """The deviation of every label's scores over the sequences."""
    rows = [
        sum(score(each, pooled(each, each.project(z))) for each in blocks)
        for _, z in each_sequence(fitted, tokens, "score")
    ]
    return np.asarray(np.std(np.stack(rows), axis=0))
