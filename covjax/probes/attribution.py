"""What each token adds to the score of a linear probe on second moments: exact, because these are means over tokens.

⟨W, M⟩ = Σ_i w_i x_iᵀ W x_i / n, and the same with centred tokens for Σ, with projected ones for C = (XA)ᵀ(XB)/n, and
with a diagonal W for CP latents z_h = Σ_i w_i (a_h·x_i)(b_h·x_i) / n. A square root or logarithm of Σ is not such a
sum, so its probes have no exact contributions.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from covjax.errors import InputError
from covjax.inputs import VectorLike, exact_mean, host_array
from covjax.notes import figure_text
from covjax.probes.coordinates import LinearProbe
from covjax.projected import check_center, check_projection
from covjax.tokens import MatrixLike, TokensLike, WeightsLike, check_sequence
from covjax.vectorize import unvech

_POSITIVE, _NEGATIVE = "#0072B2", "#D55E00"  # Okabe-Ito
_LINE = 60  # letters in a line of the plot


def token_contributions(
    probe: LinearProbe,
    x: TokensLike,
    weights: WeightsLike = None,
    *,
    output: int = 0,
    left: MatrixLike | None = None,
    right: MatrixLike | None = None,
    center: VectorLike | str | None = None,
) -> Float[np.ndarray, "tokens"]:
    """w_i (Aᵀ(x_i − c))ᵀ W (Bᵀ(x_i − c)) / n for every token, float64: they sum to the probe's score minus its bias.

    Args:
        probe: on `vech` of M or Σ (no `left`), on `vech` of the tied AᵀSA (`left` alone), on AᵀSB row by row (both,
            rank_a times rank_b weights), or on CP latents (both, one weight for each pair of columns).
        x: the tokens that were pooled, standardised if those were; masked ones may hold anything.
        weights: >= 0, 0 on masked tokens; a masked token contributes 0.
        output: column of the probe.
        left: A; None for the whole matrix.
        right: B; None ties it to A.
        center: c: None for the raw moment, "sequence" for the sequence's mean (Σ), or a (features,) vector.

    Raises:
        TypeError: `x` is not floating point.
        InputError: shapes that do not fit the probe's number of weights, an unknown `output` or `center`.
    """
    x, weights = check_sequence(x, weights)
    left, right = (  # type: ignore[assignment]
        side if side is None else check_projection(side, x.shape[1], name)
        for name, side in (("left", left), ("right", right))
    )
    form = quadratic_form(probe, output, *(side if side is None else side.shape[1] for side in (left, right)))
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    tokens = np.where(w[:, None] > 0, np.asarray(x, np.float64), 0)
    if center is not None:
        tokens = tokens - _center(center, tokens, w)
    a = tokens if left is None else tokens @ np.asarray(left, np.float64)
    b = a if right is None else tokens @ np.asarray(right, np.float64)
    if a.shape[1] != form.shape[0]:
        raise InputError(f"probe: {len(probe.weights)} weights are for {form.shape[0]} features, x has {a.shape[1]}")
    return w * ((a @ form) * b).sum(1) / w.sum()


def quadratic_form(
    probe: LinearProbe, output: int = 0, rank_a: int | None = None, rank_b: int | None = None
) -> Float[np.ndarray, "rank_a rank_b"]:
    """W of one output in float64: symmetric from `vech` weights (⟨W, S⟩_F is the score), else rank_a × rank_b.

    Raises InputError if the number of weights fits no such matrix, or the output does not exist.
    """
    if not 0 <= output < probe.weights.shape[1]:
        raise InputError(f"output: {output} must lie in 0 to {probe.weights.shape[1] - 1}")
    w = np.asarray(probe.weights[:, output], np.float64)
    if rank_b is None:
        if rank_a is not None and len(w) != rank_a * (rank_a + 1) // 2:
            raise InputError(f"probe: {len(w)} weights, but the tied rank {rank_a} has {rank_a * (rank_a + 1) // 2}")
        with jax.enable_x64(True):
            return np.asarray(unvech(jnp.asarray(w)))
    if rank_a is None:
        raise InputError("left is needed where right is given")
    if len(w) == rank_a * rank_b:
        return w.reshape(rank_a, rank_b)
    if len(w) == rank_a == rank_b:
        return np.diag(w)
    raise InputError(f"probe: {len(w)} weights are neither {rank_a} × {rank_b} nor one for each pair of columns")


def top_feature_pairs(form: Float[np.ndarray, "d d"], k: int = 10) -> list[tuple[int, int, float]]:
    """The k entries (i <= j) of a symmetric W that weigh most: feature, feature, weight of S_ij in the score.

    Off the diagonal that weight is 2 W_ij, since S_ij and S_ji are one number. Sorted by absolute weight.
    Raises InputError for a matrix that is not square and symmetric, or k < 1.
    """
    w = host_array(form, "form").astype(np.float64)
    if w.ndim != 2 or w.shape[0] != w.shape[1] or not np.allclose(w, w.T, rtol=1e-5, atol=1e-6 * np.abs(w).max()):
        raise InputError(f"form: must be a symmetric matrix, got shape {w.shape}")
    if k < 1:
        raise InputError(f"k: {k} must be >= 1")
    rows, columns = np.triu_indices(len(w))
    values = w[rows, columns] * np.where(rows == columns, 1, 2)
    order = np.argsort(-np.abs(values), kind="stable")[:k]
    return [(int(rows[i]), int(columns[i]), float(values[i])) for i in order]


def plot_contributions(
    sequence: str | Sequence[str], contributions: Float[np.ndarray, "tokens"], path: str | Path, title: str = ""
) -> None:
    """Draw one bar per token along the sequence, 60 tokens per line, to `path` (PNG, SVG or PDF by its suffix).

    `sequence` is a string (one letter per token) or the tokens' texts.
    Raises InputError if the two have different lengths or are empty.
    """
    values = host_array(contributions, "contributions").astype(np.float64)
    if values.ndim != 1 or not len(values) or len(values) != len(sequence):
        raise InputError(f"contributions: shape {values.shape} must be ({len(sequence)},), one for each token")
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines, words = -(-len(values) // _LINE), any(len(token) > 1 for token in sequence)
    columns = min(_LINE, len(values))
    size = (max(4.0, 0.16 * columns + 1), lines * (1.9 if words else 1.3) + 0.6)
    figure, axes = plt.subplots(lines, figsize=size, squeeze=False, sharey=True, layout="constrained")
    for line, axis in enumerate(axes[:, 0]):
        first = line * _LINE
        part = values[first : first + _LINE]
        axis.bar(range(len(part)), part, width=0.9, color=np.where(part >= 0, _POSITIVE, _NEGATIVE))
        axis.axhline(0, color="black", linewidth=0.5)
        axis.set_xlim(-0.7, columns - 0.3)
        labels = [figure_text(each, 12) for each in sequence[first : first + _LINE]]
        axis.set_xticks(range(len(part)), labels, fontsize=7, rotation=90 if words else 0)
        axis.tick_params(axis="x", length=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.annotate(str(first + 1), (0, 1), xycoords="axes fraction", fontsize=7, color="0.4")
    figure.supylabel("contribution to the score", fontsize=8)
    if title:
        figure.suptitle(figure_text(title), fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _center(center, tokens: np.ndarray, w: np.ndarray) -> np.ndarray:
    check_center(center, tokens.shape[1])
    return exact_mean(tokens, w) if isinstance(center, str) else np.asarray(center, np.float64)
