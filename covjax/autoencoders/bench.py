"""Measures of a dictionary that need no language model: reconstructed covariances, absorbed features."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from covjax.errors import InputError
from covjax.inputs import TableLike, VectorLike, host_array


def covariance_fvu(pairs: Iterable[tuple[TableLike, TableLike]]) -> float:
    """Σ‖Σ̂ − Σ‖²_F / Σ‖Σ‖²_F over sequences, each a pair of tokens and reconstructions (tokens, features); in float64.

    Σ is the covariance of a sequence's tokens about their mean, and Σ̂ that of their reconstructions about theirs. The
    value says how much co-variation of features is lost: 0 is perfect, 1 is reached by constant reconstructions.

    Raises InputError for shapes that differ, NaN or inf, no sequence, and sequences whose tokens never vary.
    """
    error = size = 0.0
    for number, (tokens, reconstruction) in enumerate(pairs):
        x, y = (host_array(each, f"pair {number}").astype(np.float64) for each in (tokens, reconstruction))
        if x.ndim != 2 or x.shape != y.shape or not len(x):
            raise InputError(f"pairs: pair {number} has the shapes {x.shape} and {y.shape}, expected one matrix each")
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise InputError(f"pairs: NaN or inf in pair {number}")
        first, second = (np.cov(each, rowvar=False, bias=True) for each in (x, y))
        error += float(np.sum((second - first) ** 2))
        size += float(np.sum(first**2))
    if not size > 0:
        raise InputError("pairs: no sequence whose tokens vary")
    return error / size


def absorption_fraction(
    latents: TableLike,
    decoder: TableLike,
    direction: VectorLike,
    main: VectorLike,
    least_cosine: float = 0.1,
) -> Float[np.ndarray, "n"]:
    """Share of a feature that is written by latents other than those that represent it.

    The feature is a direction p of the tokens, such as a probe's weights. Latent i puts z_i (W_i · p) along it. Of the
    positive parts, A is the sum over the latents `main` that represent the feature, B the sum over the other latents
    whose decoder row has a cosine of at least `least_cosine` with p; the share is B / (A + B), or 0 if both are 0. It
    is the absorption fraction of SAEBench (Karvonen et al. 2025), of pooled latents or of single tokens.

    Args:
        latents: (n, latents) >= 0, of examples that have the feature.
        decoder: (latents, features).
        direction: p, (features,).
        main: numbers of the latents that represent the feature, such as a sparse probe's.

    Raises InputError for shapes that do not fit, NaN, inf, a zero direction and numbers that are not latents.
    """
    z, rows = (host_array(each, name).astype(np.float64) for each, name in ((latents, "latents"), (decoder, "decoder")))
    p, main = host_array(direction, "direction").astype(np.float64), np.asarray(main)
    if z.ndim != 2 or rows.ndim != 2 or z.shape[1:] != rows.shape[:1] or p.shape != rows.shape[1:]:
        raise InputError(f"latents, decoder and direction do not fit: {z.shape}, {rows.shape}, {p.shape}")
    if not all(np.isfinite(each).all() for each in (z, rows, p)):
        raise InputError("latents, decoder and direction must be finite, got NaN or inf")
    if not np.any(p):
        raise InputError("direction: all zeros; it points nowhere")
    if main.ndim != 1 or main.dtype.kind not in "iu" or not len(main) or not 0 <= main.min() <= main.max() < len(rows):
        raise InputError(f"main: {main.tolist()} are not numbers of {len(rows)} latents, from 0")
    along = rows @ (p / np.linalg.norm(p))
    norms = np.linalg.norm(rows, axis=1)
    stands = np.zeros(len(rows), bool)
    stands[main] = True
    absorbs = ~stands & (along >= least_cosine * np.where(norms > 0, norms, np.inf))
    parts = np.maximum(z * along, 0)
    others = parts[:, absorbs].sum(1)
    total = parts[:, stands].sum(1) + others
    return np.where(total > 0, others / np.where(total > 0, total, 1), 0)
