"""What a comparison is made of: the options of `covjax compare`."""

import dataclasses

from covjax.cli import option
from covjax.errors import InputError

BASELINE, SECOND_ORDER, CONTROL, COMPOSITION = "baseline", "second order", "control", "composition"


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Everything that decides the numbers of a comparison."""

    name: str = option("my-comparison", "title of the report")
    data: str = option("", "CSV or TSV with the columns sequence, label or labels, optional id, split, group")
    source: str = option("", "built-in data set, used where --data is not given")
    sizes: tuple[int, ...] = option((), "most train, validation and test rows of the source; empty: its own")
    task: str = option("auto", "auto, multilabel, multiclass or regression")
    label_names: str = option("", "optional CSV with the columns label, name: what the report calls each label")
    output: str = option("runs/my-comparison", "folder for results, report, figures and checkpoints")
    encoder: str = option("unirep-64", "name, folder or hub id of the encoder; covjax info lists the names")
    layer: int = option(-1, "layer whose tokens are pooled; -1 is the last")
    max_length: int = option(2000, "longest sequence allowed, in letters; longer ones are refused, never cropped")
    rows: tuple[str, ...] = option((), "labels of the rows to make, mean among them; empty: all")
    ranks: tuple[int, ...] = option((4, 8, 16, 32), "ranks of the truncated covariance, beside the matched one")
    bases: tuple[str, ...] = option(
        ("pca",), "bases of the truncation: pca, tucker (the autoencoder's optimum from that start) or random"
    )
    components: tuple[int, ...] = option((256, 1024), "principal components kept of whole matrices over 4,096 numbers")
    ridge: float = option(1e-6, "added to the eigenvalues before the square root")
    eps: float = option(0.01, "ε of log(Σ+εI), on standardised tokens")
    composition_k: int = option(1, "length of the counted k-mers in the composition baseline; text counts words")
    trained: tuple[str, ...] = option(
        ("attention", "light attention", "projected"), "pools trained on the task, then frozen and probed like the rest"
    )
    sae_latents: int = option(0, "latents of a TopK sparse autoencoder of the tokens, whose pools are rows; 0: none")
    sae_k: int = option(16, "latents that it keeps for each token")
    sae_steps: int = option(500, "its training steps of 2,048 tokens of training sequences")
    sae_pairs: int = option(2048, "pairs of latents, the most frequent ones, whose co-occurrence is pooled")
    steps: int = option(200, "training steps of every trained pool, each on about token_budget / 4 tokens")
    learning_rates: tuple[float, ...] = option((3e-3,), "AdamW rates tried on validation for every trained pool")
    weight_decays: tuple[float, ...] = option((1e-2, 1.0), "AdamW weight decays tried on validation for them")
    seeds: tuple[int, ...] = option((0, 1, 2), "seeds of every trained pool; the table shows their mean")
    probes: tuple[str, ...] = option((), "logistic, ridge or both; empty: all that the task has")
    penalties: tuple[float, ...] = option(
        (1e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 1e-2, 1e-1, 1.0),
        "L2 grid of the probes, relative to the features' mean squared norm",
    )
    shares: tuple[float, float, float] = option(
        (0.7, 0.15, 0.15), "train, validation, test where the data has no split column"
    )
    resamples: int = option(1000, "bootstrap resamples")
    seed: int = option(0, "seed of splits, shuffles and the bootstrap")
    token_budget: int = option(16384, "tokens per encoder batch")
    max_memory_gib: float = option(2.0, "token activations kept in memory; beyond it the encoder runs at every pass")
    max_features_gib: float = option(4.0, "pooled features made in one pass over the tokens")

    def check(self) -> None:
        """Raise InputError naming the first field whose value is not allowed."""
        checks = {
            "data": (bool(self.data or self.source), "name a file: --data my.csv"),
            "sizes": (len(self.sizes) in (0, 3) and all(n >= 1 for n in self.sizes), "three numbers >= 1, or none"),
            "ranks": (all(r >= 1 for r in self.ranks) and len(set(self.ranks)) == len(self.ranks), "distinct, >= 1"),
            "rows": (not self.rows or "mean" in self.rows, "labels with mean, the reference, among them"),
            "bases": (
                set(self.bases) <= set(BASES) and len(set(self.bases)) == len(self.bases),
                f"distinct names among {', '.join(BASES)}",
            ),
            "sae_latents": (self.sae_latents >= 0, ">= 0"),
            "sae_k": (1 <= self.sae_k <= max(self.sae_latents, 1) or not self.sae_latents, "1 to sae_latents"),
            "sae_steps": (self.sae_steps >= 1, ">= 1"),
            "sae_pairs": (self.sae_pairs >= 1, ">= 1"),
            "components": (all(k >= 1 for k in self.components), ">= 1"),
            "ridge": (self.ridge >= 0, ">= 0"),
            "eps": (self.eps > 0, "> 0"),
            "composition_k": (1 <= self.composition_k <= 6, "1 to 6"),
            "trained": (set(self.trained) <= set(TRAINED), f"names among {', '.join(TRAINED)}"),
            "steps": (self.steps >= 1, ">= 1"),
            "learning_rates": (bool(self.learning_rates) and all(r > 0 for r in self.learning_rates), "> 0"),
            "weight_decays": (bool(self.weight_decays) and all(d >= 0 for d in self.weight_decays), ">= 0"),
            "seeds": (bool(self.seeds) and len(set(self.seeds)) == len(self.seeds), "distinct, at least one"),
            "probes": (set(self.probes) <= {"logistic", "ridge"}, "logistic, ridge"),
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
    def source_sizes(self) -> tuple[int, int, int] | None:
        """`sizes` as `write_source` takes them."""
        if not self.sizes:
            return None
        train, validation, test = self.sizes
        return train, validation, test


TRAINED = ("attention", "light attention", "projected")
BASES = {"pca": "PCA", "tucker": "Tucker", "random": "random"}  # name → what labels call it
