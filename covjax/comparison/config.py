"""Settings of a comparison, and the rows that they choose."""

import dataclasses
import re
from collections.abc import Sequence

from covjax.data.pairs import KINDS
from covjax.errors import InputError
from covjax.jobs.memory import limit_gib
from covjax.options import FEATURES, NOTHING, at_least, check_options, one_of, option
from covjax.recipes import Recipe, RecipeSettings, all_recipes, parts_of
from covjax.recipes.base import (
    COMPOSITION,
    MIXTURE,
    ROLES,
    SECOND_ORDER,
    TRAINABLE,
    Composition,
    Covariates,
    Probed,
    SideBySide,
    SpecialToken,
    Trained,
    row_name,
    unknown_recipe,
)
from covjax.recipes.pairs import pair_recipes

DEFAULT_NAME = "my-comparison"
PROBES, RETRIEVAL = PROTOCOLS = ("probes", "retrieval")
SOLVERS = ("auto", "kernel", "landmarks", "sketch", "cg")
ALL = ("all",)  # as `rows`: every recipe that is not optional
TABLE_OPTIONS = (
    *("sequence_column", "sequence_b_column", "label_column", "id_column", "split_column", "group_column"),
    *("label_regex", "missing"),
)


def comparison_title(name: str, file: str) -> str:
    """What a comparison is called: the name that the user gave it, or else the name of its table's file, if any."""
    return file if file and name == DEFAULT_NAME else name


@dataclasses.dataclass(frozen=True)
class CompareConfig(RecipeSettings):
    """Everything that decides the numbers of a comparison."""

    name: str = option(DEFAULT_NAME, "title of the report; by default the file's name", NOTHING)
    data: str = option(
        "",
        "CSV, TSV, .xlsx, Parquet or FASTA with the columns sequence, label (one class or number) or labels (several, "
        "separated by ;), optional id, split, group; common other names of columns are understood",
        NOTHING,
    )
    sequence_column: str = option("", "name of the column with the sequence, if it is not a usual one", NOTHING)
    sequence_b_column: str = option("", "name of the column with the second sequence of pairs", NOTHING)
    label_column: str = option("", "name of the column to predict; --task says what it holds", NOTHING)
    id_column: str = option("", "name of the column with an identifier of every row", NOTHING)
    split_column: str = option("", "name of the column with train, validation, test", NOTHING)
    group_column: str = option(
        "", "name of the column with groups (clusters, families), which a split never divides", NOTHING
    )
    label_regex: str = option(
        "", "for FASTA: regular expression whose first group is the label in a record's header", NOTHING
    )
    missing: str = option(
        "refuse", "rows without sequence or label (empty, NA, …): refuse, or drop and count them", NOTHING
    )
    source: str = option("", "built-in data set (see covjax tasks), used if --data is not given", NOTHING)
    sizes: tuple[int, ...] = option(
        (),
        "most train, validation and test rows of the source; empty: its own",
        NOTHING,
        lambda sizes: len(sizes) in (0, 3) and all(n >= 1 for n in sizes),
        "three numbers >= 1, or none",
    )
    task: str = option("auto", "auto, multilabel, multiclass or regression")
    label_names: str = option(
        "", "optional CSV with the columns label, name: what the report calls each label", NOTHING
    )
    output: str = option("runs/my-comparison", "folder for results, report, figures and checkpoints", NOTHING)
    encoder: str = option(
        "unirep-64", "name, folder or hub id of the encoder, or torch:NAME for PyTorch; see docs/encoders.md", NOTHING
    )
    trust_remote_code: bool = option(False, "run code that comes with the model of --encoder torch:NAME", NOTHING)
    layer: int = option(-1, "layer whose tokens are pooled; -1 is the last", NOTHING)
    layers: str = option(
        "",
        "several layers instead of one: all, or 2,4,-1; every row uses the one that is best on validation",
        NOTHING,
        allowed=lambda layers: bool(re.fullmatch(r"|all|-?[0-9]+(,-?[0-9]+)*", layers)),
        rule="all, or layers separated by commas, such as 2,4,-1",
    )
    pair: str = option(
        "auto",
        "for a table of pairs: difference (aligned tokens), both (each sequence's pool), or auto; see docs/pairs.md",
        allowed=lambda kind: kind in ("auto", *KINDS),
        rule=f"auto, {', '.join(KINDS)}",
    )
    window: int | None = option(
        32,
        "for --pair difference: pool tokens at most this many places from one that differs; none: all tokens",
        allowed=lambda window: window is None or window >= 0,
        rule=">= 0, or none",
    )
    covariates: tuple[str, ...] = option(
        (),
        "columns of numbers in the table that are compared as rows, alone and beside the composition: an embedding "
        "must beat them",
        NOTHING,  # the data's digest has them
        lambda names: all(names) and len(set(names)) == len(names),
        "distinct names of columns",
    )
    activations: str = option(
        "",
        "token activations instead of an encoder, found by the table's ids: a store, a folder of ID.npy, ID.pt or "
        "ID.safetensors, or .npz, .npy, .safetensors, .h5, .pt, .parquet, .arrow",
        NOTHING,
    )
    drop_first: int = option(0, "tokens left out at the start of all activations", NOTHING, **at_least(0))
    drop_last: int = option(0, "tokens left out at the end of all activations", NOTHING, **at_least(0))
    force_lengths: bool = option(
        False, "accept activations whose number of tokens differs from the sequence's number of letters", NOTHING
    )
    max_length: int = option(
        2000,
        "longest sequence allowed, in letters; longer ones are refused, never cropped",
        NOTHING,
        lambda n: n >= 1,
        ">= 1",
    )
    rows: tuple[str, ...] = option(
        (),
        "recipes to compare, including mean and a second-order one, of those that `covjax info` lists with the ranks, "
        "bases and components asked for; all: every one that is not optional; empty: the same, or ten if the test set "
        "has fewer than 200 sequences",
        allowed=lambda rows: rows in ((), ALL) or "mean" in rows,
        rule="recipes including mean, the reference, or all",
    )
    probes: tuple[str, ...] = option(
        (),
        "logistic, ridge or both; empty: all that the task has",
        allowed=lambda probes: set(probes) <= {"logistic", "ridge"},
        rule="logistic, ridge",
    )
    protocol: str = option(
        PROBES,
        "probes: linear probes fitted on labels; retrieval: the training sequences ranked by cosine for each query, "
        "without fitting on labels",
        **one_of(*PROTOCOLS),
    )
    penalties: tuple[float, ...] = option(
        (1e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 1e-2, 1e-1, 1.0),
        "L2 grid of the probes, relative to the features' mean squared norm",
        allowed=lambda penalties: len(penalties) >= 2 and all(p > 0 for p in penalties),
        rule="at least two positive numbers",
    )
    shares: tuple[float, float, float] = option(
        (0.7, 0.15, 0.15), "shares of train, validation and test if the data has no split column"
    )
    folds: int = option(
        0,
        "folds of grouped cross-validation instead of one split, with every choice made inside its fold; 0: none. See "
        "docs/folds.md",
        allowed=lambda folds: folds == 0 or folds >= 2,
        rule="0, or >= 2",
    )
    repeats: int = option(3, "how often the folds are drawn again", **at_least(1))
    distractors: tuple[float, ...] = option(
        (),
        "shares of foreign tokens, such as 0.5,0.75,0.9: the test set is scored again with tokens of other test "
        "sequences behind each of its own",
        allowed=lambda shares: all(0 < share < 1 for share in shares) and len(set(shares)) == len(shares),
        rule="distinct numbers between 0 and 1",
    )
    landmarks: int | None = option(
        None,
        "training sequences that represent all of them in rows of more than 4,096 numbers (Nyström); 0: use all; none: "
        "use as many as memory allows",
        allowed=lambda n: n is None or n == 0 or n >= 16,
        rule=">= 16, or 0, or none",
    )
    solver: str = option(
        "auto",
        "of rows of more than 4,096 numbers: kernel (exact), landmarks (Nyström), sketch (random signs and places), cg "
        "(exact ridge by conjugate gradients; ridge alone), or auto: by memory and work; see docs/benchmark-width.md",
        allowed=lambda solver: solver in SOLVERS,
        rule=", ".join(SOLVERS),
    )
    resamples: int = option(1000, "bootstrap resamples", allowed=lambda n: n >= 100, rule=">= 100, better 1,000")
    min_positives: int | None = option(
        None,
        "labels (or classes, with their rows) with fewer positives in some split are left out; none: 5 for labels, 0 "
        "for classes",
        allowed=lambda n: n is None or n >= 0,
        rule=">= 0, or none",
    )
    force_letters: bool = option(False, "accept a table whose letters are not those that the encoder reads", NOTHING)
    seed: int = option(0, "seed of splits, shuffles and the bootstrap", FEATURES, **at_least(0))
    token_budget: int = option(16384, "tokens per encoder batch", FEATURES, **at_least(1))
    max_memory_gib: float | None = option(
        None,
        "memory for the whole run, half of it for token activations (if they need more, the encoder runs at every "
        "pass); none: 60 % of the machine's",
        NOTHING,
        allowed=lambda gib: gib is None or gib >= 0,
        rule=">= 0, or none",
    )
    max_features_gib: float = option(
        4.0,
        "memory for vectors made in one pass over the tokens, full matrices aside; at most a quarter of the memory",
        NOTHING,
    )

    def check(self) -> None:
        """Raise InputError for the first field whose value is not allowed, naming it."""
        if not (self.data or self.source):
            raise InputError("data: no file is named; name a table: covjax compare my.csv")
        check_options(self)
        if self.sae_latents and self.sae_k > self.sae_latents:
            raise InputError(f"sae_k: {self.sae_k} is not allowed; 1 to sae_latents")
        if self.layers and self.layer != CompareConfig.layer:
            raise InputError(f"layer: {self.layer} beside layers {self.layers}; give one of them")
        if self.repeats != CompareConfig.repeats and not self.folds:
            raise InputError(f"repeats: {self.repeats} is of folds, and there are none; add --folds 5")
        if self.folds and self.protocol == RETRIEVAL:
            raise InputError("folds: retrieval has no folds; use --protocol probes, or leave --folds out")
        if self.distractors and (self.folds or self.protocol == RETRIEVAL):
            other = "--folds" if self.folds else "--protocol retrieval"
            raise InputError(f"distractors: they need probes fitted on one split; leave {other} out")
        if self.folds and (self.landmarks or self.solver not in ("auto", "kernel")):
            raise InputError(
                "folds: they need all inner products, not landmarks; leave --landmarks and --solver, or --folds, out"
            )
        if self.landmarks and self.solver in ("kernel", "sketch"):
            raise InputError(
                f"landmarks: {self.landmarks} beside solver {self.solver!r}, which has none; leave one out"
            )
        if self.landmarks == 0 and self.solver not in ("auto", "kernel"):
            raise InputError(f"landmarks: 0 is the exact kernel, but solver is {self.solver!r}; leave one out")

    @property
    def memory_gib(self) -> float:
        """The limit of memory in GiB: `max_memory_gib`, or a share of the machine's."""
        return limit_gib(self.max_memory_gib)

    @property
    def table_options(self) -> dict[str, str]:
        """The options that `read_table` gets besides the file and the task."""
        return {name: getattr(self, name) for name in TABLE_OPTIONS}

    @property
    def source_sizes(self) -> tuple[int, int, int] | None:
        """`sizes` as `write_source` takes them."""
        if not self.sizes:
            return None
        train, validation, test = self.sizes
        return train, validation, test


FEW_TEST = 200  # test sequences; with fewer, intervals are too wide to tell many rows apart
SMALL_ROWS = (
    *("mean", "mean_std", "max", "covariance", "sqrt_covariance", "log_covariance"),
    *("mean_outer", "mean+mean_outer", "shuffled_log_covariance", "composition"),
)
ROWLESS = ("eps", "ridge", "composition_k")  # settings that change numbers of rows, but not which there are


def choose_recipes(
    config: CompareConfig,
    features: int,
    has_special: bool,
    test: int | None = None,
    has_sequences: bool = True,
    pair: str = "",
) -> tuple[Recipe, ...]:
    """The recipes of `config.rows` for an encoder with `features` numbers per token, in the order of a report.

    Where `config.rows` is empty: all that are not optional, or `SMALL_ROWS` with fewer than `FEW_TEST` test sequences
    (`test`) and no setting that asks for rows. `has_special`: the model has a special token before the sequence.
    Without sequences (`has_sequences`) there are no counted letters, in retrieval no rows that are fitted on labels,
    with folds no trained pools. `pair` is what pools see of pairs. Rows of `config.covariates` are always there.

    Raises InputError for a rank that the encoder does not have, an unknown name in `config.rows`, one whose parts are
    not there, one that counts letters of sequences that are not there, one fitted on labels in retrieval, and a trained
    one with folds.
    """
    named = [name for name in config.rows if name in TRAINABLE and name not in config.trained]
    every = all_recipes(dataclasses.replace(config, trained=(*config.trained, *named)), features)
    every = tuple(recipe for recipe in every if has_special or not isinstance(recipe, SpecialToken))
    beside = _covariate_recipes(config)
    if config.protocol == RETRIEVAL:
        fitted = [recipe for recipe in every if isinstance(recipe, Trained | Probed) or recipe.role == MIXTURE]
        every = _without(fitted, every, config, "needs labels, which --protocol retrieval goes without")
    if config.folds:
        trained = [recipe for recipe in every if isinstance(recipe, Trained)]
        every = _without(
            trained, every, config, "is trained on labels, which --folds would have to repeat in every fold"
        )
    if pair == "both":
        every = pair_recipes(every)
    every = tuple(sorted((*every, *beside), key=lambda recipe: ROLES.index(recipe.role)))
    if not has_sequences:
        counts = {recipe.name for recipe in every if isinstance(recipe, Composition)}
        lettered = [recipe for recipe in every if not counts.isdisjoint((recipe.name, *parts_of(recipe)))]
        if asked := [recipe.name for recipe in lettered if recipe.name in config.rows]:
            raise InputError(f"rows: {asked[0]!r} counts letters, and the table has no column 'sequence'")
        every = tuple(recipe for recipe in every if recipe not in lettered)
    if config.rows == ALL or (not config.rows and not _is_small(config, test)):
        return tuple(recipe for recipe in every if not recipe.optional)
    if not config.rows:
        return tuple(recipe for recipe in every if recipe.name in SMALL_ROWS or recipe in beside)
    by_name = {recipe.name: recipe for recipe in every}
    for name in config.rows:
        if name not in by_name:
            raise unknown_recipe("rows", name, every)
        if absent := [part for part in parts_of(by_name[name]) if part not in config.rows]:
            raise InputError(f"rows: {name!r} needs {absent[0]!r} too")
    names = {*config.rows, *(each.name for each in beside if {*parts_of(each)} <= {"covariates", *config.rows})}
    chosen = tuple(recipe for recipe in every if row_name(recipe) in names)
    if not any(recipe.role == SECOND_ORDER for recipe in chosen):
        raise InputError(f"rows: {', '.join(config.rows)} has no second-order recipe to compare with mean")
    return chosen


def _without(
    absent: Sequence[Recipe], every: Sequence[Recipe], config: CompareConfig, reason: str
) -> tuple[Recipe, ...]:
    """The recipes that are not `absent`; InputError with the reason where `config.rows` names one that is."""
    names = {recipe.name for recipe in absent}
    if asked := [recipe.name for recipe in absent if recipe.name in config.rows]:
        raise InputError(f"rows: {asked[0]!r} {reason}; leave it out")
    return tuple(recipe for recipe in every if recipe.name not in names)


def _covariate_recipes(config: CompareConfig) -> tuple[Recipe, ...]:
    """Rows of `config.covariates`, which are compared whatever `rows` names; that beside the composition needs it."""
    if not config.covariates:
        return ()
    some = len(config.covariates) <= 4
    names = f"covariates ({', '.join(config.covariates)})" if some else f"{len(config.covariates)} covariates"
    parts = (COMPOSITION, "covariates")
    return (
        Covariates(name="covariates", title=names, role=COMPOSITION, columns=config.covariates),
        SideBySide(name="composition+covariates", title=f"composition + {names}", role=COMPOSITION, parts=parts),
    )


def small_note(config: CompareConfig, rows: int, test: int, unit: str = "sequences") -> str:
    """A note for a comparison that has few rows because it has few test sequences; empty otherwise."""
    if config.rows or not _is_small(config, test):
        return ""
    return f"{test} test {unit}, fewer than {FEW_TEST}: {rows} rows are compared; --rows all compares every one"


def _is_small(config: CompareConfig, test: int | None) -> bool:
    settings = [field for field in dataclasses.fields(RecipeSettings) if field.name not in ROWLESS]
    asked = any(getattr(config, field.name) != field.default for field in settings)
    return test is not None and test < FEW_TEST and not asked
