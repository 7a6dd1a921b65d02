"""Figures of one dictionary: reconstructed covariances, and with labels probes of its pooled latents."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from covjax.activations.windows import Activations
from covjax.autoencoders.bench import absorption_fraction, covariance_fvu
from covjax.autoencoders.sparse.module import SparseAutoencoder
from covjax.errors import InputError
from covjax.inputs import TableLike, host_array
from covjax.metrics import auroc
from covjax.probes import LinearProbe, fit_ridge_path, fit_sparse_probe, row_space

TRAIN, HELD = 2000, 1000  # at most so many sequences of each side: pooled latents are held in memory
MOST_LABELS = 20
FEWEST = 2  # sequences with a label, and without it, in every part: of fitting, choosing, testing
FEW = (1, 5)  # latents of a sparse probe
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ENTRIES = 2**24  # of dense latents at a time


class Measured(NamedTuple):
    """Figures of a dictionary, and of the tokens' mean without one, where there are labels."""

    figures: dict[str, Any]
    reference: dict[str, float]


def check_labels(labels: TableLike, sequences: int) -> Bool[np.ndarray, "n k"]:
    """Labels as a table of booleans; InputError unless (sequences, labels) of 0 and 1."""
    table = host_array(labels, "labels")
    if table.ndim != 2 or len(table) != sequences or not np.isin(table, (0, 1)).all():
        raise InputError(
            f"labels: {table.dtype}{list(table.shape)}, expected {sequences} rows of 0 and 1, a column a label"
        )
    return table.astype(bool)


def measure(
    model: Any,
    activations: Activations,
    train_rows: Int[np.ndarray, "n"],
    held_rows: Int[np.ndarray, "m"],
    labels: Bool[np.ndarray, "all k"] | None = None,
    names: Sequence[str] | None = None,
) -> Measured:
    """Figures of a sparse autoencoder of tokens; none for another kind.

    `covariance_fvu` of the held-out sequences; with labels the mean test AUROC over the labels of a ridge probe on the
    mean latents (`probe`) and of sparse probes (`sparse_probe`, by number of latents), and the mean share of a label's
    direction in other latents than those of its sparse probe (`absorption`, see `absorption_fraction`; over held-out
    sequences that have the label and that the probe of the tokens' mean says have it). Probes are fitted on the
    autoencoder's own training sequences. At most 2,000 of these, 1,000 held-out ones and the 20 most frequent labels
    are used, evenly drawn; `measured` says how many.

    Args:
        train_rows, held_rows: numbers of the sequences.
        labels: (all sequences, labels); one with too few sequences with or without it is left out.
        names: of the labels.
    """
    if not isinstance(model, SparseAutoencoder):
        return Measured({}, {})
    held_rows = _spread(held_rows, HELD)
    columns = _label_columns(labels, _spread(train_rows, TRAIN), held_rows)
    train_rows = _spread(train_rows, TRAIN) if len(columns) else train_rows[:0]
    latents, means, error = _pool(model, activations, np.concatenate([train_rows, held_rows]), len(train_rows))
    counts = {"held_out_sequences": len(held_rows), "training_sequences": len(train_rows), "labels": len(columns)}
    figures: dict[str, Any] = {"covariance_fvu": error, "measured": counts}
    if labels is None or not len(columns):
        return Measured(figures, {})
    cut = len(train_rows)
    y = labels[np.concatenate([train_rows, held_rows])][:, columns]
    scores, _ = _ridge(latents, y, cut)
    reference, probe = _ridge(means, y, cut)
    sparse = {k: _sparse(latents, y, cut, min(k, latents.shape[1])) for k in FEW}
    figures["probe"] = float(np.mean(scores))
    figures["sparse_probe"] = {str(k): float(np.mean(each[0])) for k, each in sparse.items()}
    positives = y[cut:] & (probe.scores(means[cut:]) > 0)
    scale = np.broadcast_to(np.asarray(model.scale[...]), (1, activations.features))
    decoder = np.asarray(model.decoder[...]) / model.target(scale)
    shares = [
        absorption_fraction(latents[cut:][positives[:, label]], decoder, probe.weights[:, label], main).mean()
        for label, main in enumerate(sparse[FEW[-1]][1])
        if positives[:, label].any()
    ]
    figures["absorption"] = float(np.mean(shares)) if shares else None
    best = sparse[1][1]
    figures["best_latents"] = {
        str(names[number] if names is not None else number): {"latent": int(best[place][0]), "auroc": float(value)}
        for place, (number, value) in enumerate(zip(columns, sparse[1][0], strict=True))
    }
    return Measured(figures, {"probe": float(np.mean(reference))})


def _spread(rows: Int[np.ndarray, "n"], most: int) -> Int[np.ndarray, "m"]:
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]


def _label_columns(labels: Any, train_rows: np.ndarray, held_rows: np.ndarray) -> Int[np.ndarray, "columns"]:
    if labels is None:
        return np.empty(0, int)
    choosing = _choosing(len(train_rows))
    parts = (labels[train_rows[~choosing]], labels[train_rows[choosing]], labels[held_rows])
    both = np.min([np.minimum(y.sum(0), (~y).sum(0)) for y in parts], axis=0)
    order = np.argsort(-labels[train_rows].sum(0), kind="stable")
    return order[both[order] >= FEWEST][:MOST_LABELS]


def _pool(
    model: SparseAutoencoder, activations: Activations, rows: np.ndarray, train: int
) -> tuple[Float[np.ndarray, "n latents"], Float[np.ndarray, "n features"], float]:
    """Mean latents and mean tokens of every sequence, and the covariance FVU of those from number `train` on."""
    size = max(64, ENTRIES // model.latents)
    both = nnx.jit(lambda model, x: (model.encode(x), model(x)))
    latents = np.zeros((len(rows), model.latents), np.float32)
    means = np.zeros((len(rows), activations.features), np.float64)

    def sequences():
        for place, row in enumerate(rows.tolist()):
            x = np.asarray(activations.read([row])[0], np.float32)
            means[place] = x.mean(0, dtype=np.float64)
            back = []
            for start in range(0, len(x), size):
                part = x[start : start + size]
                length = min(size, max(64, 1 << (len(part) - 1).bit_length()))
                z, y = both(model, jnp.asarray(np.pad(part, ((0, length - len(part)), (0, 0)))))
                latents[place] += np.asarray(z)[: len(part)].sum(0) / len(x)
                back.append(np.asarray(y)[: len(part)])
            if place >= train:
                yield model.target(x), np.concatenate(back)

    error = covariance_fvu(sequences())  # fills the two tables as well
    return latents, np.asarray(model.target(means)), error


def _ridge(x: np.ndarray, y: np.ndarray, cut: int) -> tuple[Float[np.ndarray, "k"], LinearProbe]:
    """Test AUROC of every label, and the probe; its penalty is the best on a fourth of the training sequences."""
    choosing = _choosing(cut)
    fit, check = np.flatnonzero(~choosing), np.flatnonzero(choosing)
    space = row_space(x[fit])
    probes = fit_ridge_path(space, space.coordinates(x[fit]), _signs(y[fit]), PENALTIES)
    worth = [np.mean(_aurocs(y[check], probe.scores(x[check]))) for probe in probes]
    penalty = PENALTIES[int(np.argmax(worth))]
    space = row_space(x[:cut])
    probe = fit_ridge_path(space, space.coordinates(x[:cut]), _signs(y[:cut]), [penalty])[0]
    return _aurocs(y[cut:], probe.scores(x[cut:])), probe


def _choosing(count: int) -> Bool[np.ndarray, "n"]:
    """Which training sequences choose the penalty of those fitted on the others."""
    return np.random.default_rng(0).permutation(count) % 4 == 3


def _signs(y: np.ndarray) -> Float[np.ndarray, "n k"]:
    return np.where(y, 1.0, -1.0)


def _aurocs(y: np.ndarray, scores: np.ndarray) -> Float[np.ndarray, "k"]:
    return auroc(y, scores)


def _sparse(x: np.ndarray, y: np.ndarray, cut: int, k: int) -> tuple[Float[np.ndarray, "k"], list[np.ndarray]]:
    """Test AUROC of every label's sparse probe, and its latents."""
    probes = [fit_sparse_probe(x[:cut], y[:cut, label], k) for label in range(y.shape[1])]
    scores = np.stack([probe.scores(x[cut:]) for probe in probes], axis=1)
    return _aurocs(y[cut:], scores), [probe.latents for probe in probes]
