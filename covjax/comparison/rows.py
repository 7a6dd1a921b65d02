"""The rows of a comparison: poolers, baselines and controls, the same for every task (DESIGN: honest comparison)."""

import dataclasses
import math
from typing import Any

from covjax.comparison.config import BASELINE, BASES, COMPOSITION, CONTROL, SECOND_ORDER, CompareConfig
from covjax.comparison.tables import WIDE
from covjax.errors import InputError

TRUNCATED = {  # families of truncated rows → the whole matrix
    f"{basis}-{symbol}": whole
    for basis in BASES.values()
    for symbol, whole in (("Σ", "covariance Σ"), ("√Σ", "sqrt Σ"))
}
LIGHT_WIDTH = 64  # a convolution over more channels costs more than all other rows together


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the comparison: which features, and what the row is for.

    `label` is shown and names the folders. `pooler` with `options` goes to `covjax.get_pooler`. `rank` asks for that
    many columns of a `basis` fitted on the training sequences (`comparison.bases`); `sae` holds options and steps of a
    sparse autoencoder trained on their tokens, which the pooler takes. `shuffled` permutes every feature within the
    sequence first. `cls` takes the model's own special token. `training` (steps and grid) fits the pooler end to end
    with seed `seed`, on the first `width` principal components; `replica_of` names the row whose other seeds it belongs
    to. `parts` names earlier rows to set side by side, each scaled to unit root-mean-square norm on the training set,
    of which `components` principal components are kept. `k` counts k-mers of the sequence itself, or words of a text,
    instead of pooling tokens.
    """

    label: str
    role: str
    pooler: str = ""
    options: tuple[tuple[str, float | str], ...] = ()
    rank: int | None = None
    basis: str = "pca"
    sae: tuple[tuple[str, int], ...] = ()
    shuffled: bool = False
    cls: bool = False
    training: tuple[tuple[str, Any], ...] = ()
    seed: int = 0
    width: int | None = None
    replica_of: str = ""
    parts: tuple[str, ...] = ()
    components: int | None = None
    k: int | None = None


def matched_rank(features: int) -> int:
    """The largest r whose r(r + 1)/2 numbers are at most `features`: a covariance of the mean's size."""
    return (math.isqrt(8 * features + 1) - 1) // 2


def make_rows(config: CompareConfig, features: int, has_cls: bool) -> tuple[Row, ...]:
    """The rows for an encoder of `features` numbers a token.

    Raises InputError for a rank that it does not have, an unknown label in `config.rows`, and one whose parts are not
    there.
    """
    every = _every_row(config, features, has_cls)
    if not config.rows:
        return every
    labels = {row.label: row for row in every}
    for label in config.rows:
        if label not in labels:
            raise InputError(f"rows: {label!r} is not one of {', '.join(labels)}")
        if absent := [part for part in labels[label].parts if part not in config.rows]:
            raise InputError(f"rows: {label!r} needs {absent[0]!r} too")
    chosen = tuple(row for row in every if (row.replica_of or row.label) in config.rows)
    if not any(row.role == SECOND_ORDER for row in chosen):
        raise InputError(f"rows: {', '.join(config.rows)} has no second-order pooler to compare with mean")
    return chosen


def _every_row(config: CompareConfig, features: int, has_cls: bool) -> tuple[Row, ...]:
    if too_big := [rank for rank in config.ranks if rank > features]:
        raise InputError(f"ranks: {too_big[0]} is more than the encoder's {features} features")
    log, sqrt = (("eps", config.eps),), (("ridge", config.ridge),)
    ranks = sorted({*config.ranks, matched_rank(features)} - {features})
    log_name = "log(Σ+εI)"
    short = [k for k in config.components if features * (features + 1) // 2 > WIDE]
    return (
        Row("mean", BASELINE, "mean"),
        Row("mean+std", BASELINE, "mean_std"),
        Row("max", BASELINE, "max"),
        Row("first", BASELINE, "first"),
        *[Row("CLS", BASELINE, cls=True)] * has_cls,
        Row("last", BASELINE, "last"),
        *_trained(config, features, BASELINE),
        *_sparse(config, BASELINE),
        Row("second moment M", SECOND_ORDER, "second_moment"),
        Row("covariance Σ", SECOND_ORDER, "covariance"),
        Row("sqrt Σ", SECOND_ORDER, "sqrt_covariance", sqrt),
        Row(log_name, SECOND_ORDER, "log_covariance", log),
        *[
            Row(f"{name}-{symbol} rank {r}", SECOND_ORDER, "projected_covariance", options, rank=r, basis=basis)
            for basis, name in BASES.items()
            if basis in config.bases
            for symbol, options in (("Σ", ()), ("√Σ", (("spectral", "sqrt"), *sqrt)))
            for r in ranks
        ],
        *_trained(config, features, SECOND_ORDER),
        *_sparse(config, SECOND_ORDER),
        *[
            Row(f"{name}, {k} components", SECOND_ORDER, parts=(name,), components=k)
            for name in ("sqrt Σ", log_name)
            for k in short
        ],
        Row("mean + sqrt Σ", SECOND_ORDER, parts=("mean", "sqrt Σ")),
        Row("mean + log(Σ+εI)", SECOND_ORDER, parts=("mean", log_name)),
        Row("outer product μμᵀ", CONTROL, "mean_outer"),
        Row("mean + μμᵀ", CONTROL, parts=("mean", "outer product μμᵀ")),
        Row("shuffled Σ", CONTROL, "covariance", shuffled=True),
        Row("shuffled sqrt Σ", CONTROL, "sqrt_covariance", sqrt, shuffled=True),
        Row("shuffled log(Σ+εI)", CONTROL, "log_covariance", log, shuffled=True),
        Row("composition", COMPOSITION, k=config.composition_k),
    )


def _sparse(config: CompareConfig, wanted: str) -> list[Row]:
    sae = (("latents", config.sae_latents), ("k", config.sae_k), ("steps", config.sae_steps))
    rows = [
        Row("SAE mean", BASELINE, "sae_mean", sae=sae),
        Row("SAE max", BASELINE, "sae_max", sae=sae),
        Row("SAE co-occurrence", SECOND_ORDER, "sae_cooccurrence", (("pairs", config.sae_pairs),), sae=sae),
    ]
    return [row for row in rows if row.role == wanted and config.sae_latents]


def _trained(config: CompareConfig, features: int, wanted: str) -> list[Row]:
    training = (
        ("steps", config.steps),
        ("learning_rates", config.learning_rates),
        ("weight_decays", config.weight_decays),
    )
    light = LIGHT_WIDTH if features > LIGHT_WIDTH else None
    learned = {
        "attention": Row("attention", BASELINE, "attention", (("heads", 1),)),
        "light attention": Row("light attention", BASELINE, "light_attention", (("kernel_size", 9),), width=light),
        "projected": Row("projected (learned)", SECOND_ORDER, "projected", (("rank", min(32, features)),)),
    }
    rows = []
    for row in (learned[name] for name in config.trained):
        if row.role == wanted:
            first, *others = config.seeds
            rows.append(dataclasses.replace(row, training=training, seed=first))
            rows += [
                dataclasses.replace(rows[-1], label=f"{row.label}, seed {seed}", seed=seed, replica_of=row.label)
                for seed in others
            ]
    return rows
