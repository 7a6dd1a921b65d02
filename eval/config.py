"""What a comparison is made of: the fields of `python -m eval.compare`."""

import dataclasses

from covjax.cli import option
from covjax.errors import InputError

BASELINE, SECOND_ORDER, CONTROL, COMPOSITION = "baseline", "second order", "control", "composition"


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the comparison: which features, and what the row is for.

    `label` is shown and names the folders. `pooler` with `options` goes to `covjax.get_pooler`. `rank` asks for the
    top-`rank` PCA basis of the mean training covariance. `shuffled` permutes every feature within the sequence first.
    `parts` names earlier rows to set side by side, each scaled to unit root-mean-square norm on the training set.
    `k` counts k-mers of the sequence itself instead of pooling tokens.
    """

    label: str
    role: str
    pooler: str = ""
    options: tuple[tuple[str, float | str], ...] = ()
    rank: int | None = None
    shuffled: bool = False
    parts: tuple[str, ...] = ()
    k: int | None = None


def standard_rows(ranks: tuple[int, ...], ridge: float, eps: float, k: int) -> tuple[Row, ...]:
    """The poolers, baselines and controls that every comparison has (DESIGN: honest comparison)."""
    log, sqrt = (("eps", eps),), (("ridge", ridge),)
    truncated = [Row(f"PCA-Σ rank {rank}", SECOND_ORDER, "projected_covariance", rank=rank) for rank in ranks]
    return (
        Row("mean", BASELINE, "mean"),
        Row("mean+std", BASELINE, "mean_std"),
        Row("max", BASELINE, "max"),
        Row("last", BASELINE, "last"),
        Row("second moment M", SECOND_ORDER, "second_moment"),
        Row("covariance Σ", SECOND_ORDER, "covariance"),
        Row("sqrt Σ", SECOND_ORDER, "sqrt_covariance", sqrt),
        Row("log(Σ+εI)", SECOND_ORDER, "log_covariance", log),
        *truncated,
        Row("mean + log(Σ+εI)", SECOND_ORDER, parts=("mean", "log(Σ+εI)")),
        Row("outer product μμᵀ", CONTROL, "mean_outer"),
        Row("shuffled Σ", CONTROL, "covariance", shuffled=True),
        Row("shuffled log(Σ+εI)", CONTROL, "log_covariance", log, shuffled=True),
        Row("composition", COMPOSITION, k=k),
    )


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Everything that decides the numbers of a comparison."""

    name: str = option("my-comparison", "title of the report")
    data: str = option("", "CSV or TSV with the columns sequence, label or labels, optional id, split, group")
    source: str = option("", "built-in data set, used where --data is not given (see eval/sources)")
    task: str = option("auto", "auto, multilabel, multiclass or regression")
    label_names: str = option("", "optional CSV with the columns label, name: what the report calls each label")
    output: str = option("runs/my-comparison", "folder for results, report, figures and checkpoints")
    encoder: str = option("unirep-64", "unirep-64, -256, -1900, a folder of the ESM family, or its hub id")
    layer: int = option(-1, "layer whose tokens are pooled; -1 is the last")
    max_length: int = option(2000, "longest sequence allowed, in residues; longer ones are refused, never cropped")
    ranks: tuple[int, ...] = option((4, 8, 16, 32), "ranks of the PCA-truncated covariance")
    ridge: float = option(1e-6, "added to the eigenvalues before the square root")
    eps: float = option(0.01, "ε of log(Σ+εI), on standardised tokens")
    composition_k: int = option(1, "length of the counted k-mers in the composition baseline")
    penalties: tuple[float, ...] = option(
        (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 1e-2, 1e-1, 1.0),
        "L2 grid of both probes, relative to the features' mean squared norm",
    )
    shares: tuple[float, float, float] = option(
        (0.7, 0.15, 0.15), "train, validation, test where the data has no split column"
    )
    resamples: int = option(1000, "bootstrap resamples")
    seed: int = option(0, "seed of splits, shuffles and the bootstrap")
    token_budget: int = option(16384, "tokens per encoder batch")
    max_memory_gib: float = option(1.0, "token activations kept in memory; beyond it the encoder runs twice")

    def check(self) -> None:
        """Raise InputError naming the first field whose value is not allowed."""
        checks = {
            "data": (bool(self.data), "name a file: --data my.csv"),
            "ranks": (all(r >= 1 for r in self.ranks) and len(set(self.ranks)) == len(self.ranks), "distinct, >= 1"),
            "ridge": (self.ridge >= 0, ">= 0"),
            "eps": (self.eps > 0, "> 0"),
            "composition_k": (1 <= self.composition_k <= 6, "1 to 6"),
            "penalties": (
                len(self.penalties) >= 2 and all(p > 0 for p in self.penalties),
                "at least two positive numbers",
            ),
            "resamples": (self.resamples >= 100, ">= 100; DESIGN asks for 1,000"),
            "token_budget": (self.token_budget >= 1, ">= 1"),
            "max_length": (self.max_length >= 1, ">= 1"),
            "seed": (self.seed >= 0, ">= 0"),
        }
        for field, (good, allowed) in checks.items():
            if not good:
                raise InputError(f"{field}: {getattr(self, field)!r} is not allowed; {allowed}")

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of the comparison, in the order of the table."""
        return standard_rows(tuple(sorted(self.ranks)), self.ridge, self.eps, self.composition_k)
